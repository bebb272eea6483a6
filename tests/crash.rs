//! Processes that die at any moment. A child works on a vault of many small shards and tells before each change what it is about to
//! do and after it that it was acknowledged; it is killed at random (while it opens, works (OAuth refreshes and tokens for single use among it), deletes an
//! account or rotates the root key), and the vault is opened again and compared: what was acknowledged is there and equal, what was under way is there as a whole
//! or not at all, what was deleted is gone.
//!
//! `ANCHORHOLD_CRASH_ROUNDS` says how many processes die, `ANCHORHOLD_CRASH_SEED` where chance begins.

#[path = "crash/child.rs"]
mod child;
mod common;
#[path = "crash/model.rs"]
mod model;
#[path = "crash/power.rs"]
mod power;
#[path = "crash/provider.rs"]
mod provider;
#[path = "crash/rounds.rs"]
mod rounds;
#[path = "syscalls/mod.rs"]
mod syscalls;
