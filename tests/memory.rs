//! Tier 1: no key, plaintext secret or token that the vault held stays in memory after its request, with the system's allocator.
//! Only what a host was handed and still holds may be found. `memory/suite.rs` says how it is looked for.

mod common;
#[path = "memory/elsewhere.rs"]
mod elsewhere;
#[path = "memory/finder.rs"]
mod finder;
#[path = "common/format.rs"]
mod format;
#[path = "memory/keys.rs"]
mod keys;
#[path = "memory/process.rs"]
mod process;
#[path = "memory/provider.rs"]
mod provider;
#[path = "memory/scenarios.rs"]
mod scenarios;
#[path = "memory/stage.rs"]
mod stage;
#[path = "memory/suite.rs"]
mod suite;

/// Whether what the host's own code freed counts too.
const WIPING_ALLOCATOR: bool = false;
