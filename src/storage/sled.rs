//! The engine that a vault has on disk: sled 0.34.7, one database for the directory and one per shard. The only place that
//! names sled, and where its hazards are contained:
//!
//! | file | what it contains |
//! |---|---|
//! | `place.rs` | the lock, the header, the look at a foreign directory |
//! | `engine.rs` `tree.rs` | the two traits |
//! | `committer.rs` `lane.rs` | the threads that alone write to sled; one database's line and turn |
//! | `commit_log.rs` `frames.rs` | where a commit becomes durable; its files |
//! | `group.rs` | writing commits of several databases together, and applying them |
//! | `watchdog.rs` | a hang or a failed write becomes an error |
//! | `database.rs` `rows.rs` | one sled database, and giving it what is newer; how rows lie in it |
//! | `directory.rs` | opening the directory's database and its sections |
//! | `shards.rs` `shred.rs` | generations of a shard, what is checked when it opens; rewriting it |
//! | `rebuild.rs` | making the directory anew |
//! | `anchors.rs` `keeper.rs` | writing the anchors, and the thread that does; closing |
//! | `files.rs` `header.rs` | files that survive a power cut |
//! | `faults.rs` | failures that a test asks for |

mod anchors;
mod commit_log;
mod committer;
mod core;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
mod database;
mod directory;
mod engine;
#[cfg(test)]
mod fault_tests;
mod faults;
mod files;
mod frames;
mod group;
mod header;
mod keeper;
mod lane;
#[cfg(test)]
mod log_tests;
mod memtable;
mod place;
mod rebuild;
mod rows;
#[cfg(test)]
mod settling_tests;
mod shards;
mod shred;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod tests;
mod tree;
mod watchdog;

use std::time::Duration;

use super::{COMMIT_LOG_BYTES, SECTION_FROM_BYTES, TREES_PER_SHARD};
pub use faults::StorageFaults;
pub(crate) use place::SledPlace;

/// What a host can set of the engine.
#[derive(Clone, Debug)]
pub(crate) struct SledOptions {
    /// How many shards are open at once, two file descriptors each and memory for the cache.
    pub(crate) max_open_shards: usize,
    /// After how long a call to sled or to the disk counts as a hang.
    pub(crate) stall_timeout: Duration,
    /// How far the anchors may be behind the databases.
    pub(crate) anchor_interval: Duration,
    /// How much of a shard, and how much of the directory with all its sections, sled may keep in memory, counted as it lies on disk: some
    /// three times as much of memory (`docs/operations.md`).
    pub(crate) shard_cache_bytes: u64,
    pub(crate) directory_cache_bytes: u64,
    /// How many account trees go into one shard: [`TREES_PER_SHARD`], less in tests that want several shards.
    pub(crate) trees_per_shard: usize,
    /// How long a file of the commit log gets.
    pub(crate) commit_log_bytes: u64,
    /// How long the log of the directory's first database is when it gets sections.
    pub(crate) section_from_bytes: u64,
    pub(crate) faults: StorageFaults,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            max_open_shards: 64,
            stall_timeout: Duration::from_secs(10),
            anchor_interval: Duration::from_millis(100),
            shard_cache_bytes: 2 << 20,
            directory_cache_bytes: 256 << 20,
            commit_log_bytes: COMMIT_LOG_BYTES,
            section_from_bytes: SECTION_FROM_BYTES,
            trees_per_shard: TREES_PER_SHARD,
            faults: StorageFaults::default(),
        }
    }
}
