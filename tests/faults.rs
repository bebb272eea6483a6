//! Faults of the system, injected at the system call and not in the library: a disk that fails or is full, too few descriptors, a
//! directory that can't be written or is gone, a clock that steps. Each in a child process of its own, since they hit all of it. The
//! outcome is always the same: a clear error, nothing acknowledged is lost, and opened again the vault is consistent.
//!
//! An older copy of a shard that is put back while the vault is closed is in `tests/corruption.rs`.

mod common;
#[path = "faults/host.rs"]
mod host;
#[path = "faults/limits.rs"]
mod limits;
#[path = "syscalls/mod.rs"]
mod syscalls;
#[path = "faults/writes.rs"]
mod writes;
