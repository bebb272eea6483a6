//! What each attacker gains and does not gain: one test for each cell of the table in `docs/threat-model.md`, "Isolation under attack".
//! Two customers of one vault; the attacker is the first one, or has got hold of something of theirs.

#[path = "attack/account_key.rs"]
mod account_key;
#[path = "attack/api_key.rs"]
mod api_key;
mod common;
#[path = "attack/files.rs"]
mod files;
#[path = "common/format.rs"]
mod format;
#[path = "attack/session_token.rs"]
mod session_token;
#[path = "attack/world.rs"]
mod world;
