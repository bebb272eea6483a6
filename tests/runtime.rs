//! What stands between the handles and the disk: a panic stays with its request, a flood with its account, an idle account
//! leaves; a host may call from any executor or none, and drop what it likes; keys of every kind are rotated while the vault is
//! served.

#[path = "runtime/api_keys.rs"]
mod api_keys;
#[path = "runtime/audit.rs"]
mod audit;
mod common;
#[path = "runtime/events.rs"]
mod events;
#[path = "runtime/executors.rs"]
mod executors;
#[path = "runtime/head.rs"]
mod head;
#[path = "runtime/journal.rs"]
mod journal;
#[path = "runtime/lifecycle.rs"]
mod lifecycle;
#[path = "runtime/load.rs"]
mod load;
#[path = "runtime/opening.rs"]
mod opening;
#[path = "runtime/panics.rs"]
mod panics;
#[path = "runtime/reveals.rs"]
mod reveals;
#[path = "runtime/rotation.rs"]
mod rotation;
#[path = "runtime/sessions.rs"]
mod sessions;
#[path = "runtime/tools.rs"]
mod tools;
