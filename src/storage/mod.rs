//! Durable bytes. An engine keeps sealed values and knows no key, no customer and no clock; what a value means, whether it is
//! the right one and whether one is missing is decided above, with two helps from here: the commit is atomic and durable when
//! it returns, and the anchor remembers, outside the database, the last sequence of every mark.

#[cfg(test)]
mod agreement_tests;
mod anchor;
#[cfg(test)]
mod format_tests;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod model;
pub(crate) mod sled;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{AccountHandle, ShardId};
#[cfg(feature = "testing")]
pub(crate) use anchor::{file_name as anchor_name, rewritten as rewritten_anchor};
pub use sled::StorageFaults;

/// A future that a trait object can return.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A row: key and sealed value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// The largest key + value that an engine takes in one row.
pub(crate) const MAX_ROW_BYTES: usize = 96 * 1024;

/// The longest key of a row. Keys stand in every inner node of an engine's tree, so they must stay small.
pub(crate) const MAX_KEY_BYTES: usize = 256;

/// The most bytes that one commit may put. A commit is one batch of the engine and can't be flushed in parts, so this is also
/// the most that is ever written between two flushes (see `sled/committer.rs`).
pub(crate) const MAX_COMMIT_BYTES: usize = 128 * 1024;

/// The most rows that one commit may remove: removing makes sled merge and rewrite pages, which counts against the same bound.
pub(crate) const MAX_COMMIT_REMOVES: usize = 96;

/// The most account trees in one shard: where `open_tree` stays cheap and META never leaves the log.
pub(crate) const MAX_TREES_PER_SHARD: usize = 128;

/// How many account trees a shard gets. The engine writes its list of trees anew for each tree, and each shard has some files of its own:
/// of 6 KiB for an account, 96 trees save 0.3 of what 128 take, and fewer would save little more.
pub(crate) const TREES_PER_SHARD: usize = 96;

/// How long a file of the commit log gets. What a crash leaves is about five times as much at most, and is read and applied within some
/// seconds; and so much may be in memory because the databases have not got it yet.
pub(crate) const COMMIT_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// How long the log of the directory's first database is when what is written to it begins to go to sections: between ten and thirty thousand accounts.
/// Opening it takes a few milliseconds then, and all sections together have as much before anything is in them.
pub(crate) const SECTION_FROM_BYTES: u64 = 8 * 1024 * 1024;

/// How a vault's files are kept.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    /// How many shards may be open at once.
    pub(crate) max_open_shards: usize,
    /// After how long an operation counts as a hang.
    pub(crate) stall_timeout: Duration,
    /// How many accounts share a shard; [`TREES_PER_SHARD`] but in tests.
    pub(crate) trees_per_shard: usize,
    /// How long a file of the commit log gets; [`COMMIT_LOG_BYTES`] but in tests.
    pub(crate) commit_log_bytes: u64,
    /// How long the directory's first log is when it gets sections; [`SECTION_FROM_BYTES`] but in tests.
    pub(crate) section_from_bytes: u64,
    pub(crate) faults: StorageFaults,
}

/// Takes hold of a vault's directory.
///
/// # Errors
/// `AlreadyOpen`, and then nothing was touched; `NotAVault`; `Io`.
pub(crate) fn acquire(path: &Path, options: EngineOptions) -> Result<Box<dyn Place>, StorageError> {
    let EngineOptions { max_open_shards, stall_timeout, trees_per_shard, commit_log_bytes, section_from_bytes, faults } = options;
    let options = sled::SledOptions {
        max_open_shards,
        stall_timeout,
        trees_per_shard,
        commit_log_bytes,
        section_from_bytes,
        faults,
        ..sled::SledOptions::default()
    };
    Ok(Box::new(sled::SledPlace::acquire(path, options)?))
}

/// Takes hold of a disk in memory.
///
/// # Errors
/// `AlreadyOpen`.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn acquire_model(disk: &model::ModelDisk) -> Result<Box<dyn Place>, StorageError> {
    Ok(Box::new(model::ModelPlace::acquire(disk)?))
}

/// A vault's place before it is unlocked: exclusively held, its header readable, nothing else touched.
pub(crate) trait Place: Send {
    /// The header that [`write_header`](Place::write_header) stored, `None` when the place is new.
    ///
    /// # Errors
    /// `NotAVault` for a directory with other content, `Corrupted` when no copy of the header is whole.
    fn header(&self) -> Result<Option<Vec<u8>>, StorageError>;

    /// Replaces the header, atomically and durably.
    fn write_header(&self, header: &[u8]) -> Result<(), StorageError>;

    /// Opens the directory and the anchors and starts the engine.
    fn start(self: Box<Self>, seal: Arc<dyn AnchorSeal>) -> BoxFuture<'static, Result<Arc<dyn Storage>, StorageError>>;

    /// Opens what is there to have the directory made anew.
    fn rebuild(self: Box<Self>, seal: Arc<dyn AnchorSeal>) -> BoxFuture<'static, Result<Box<dyn Rebuilding>, StorageError>>;
}

/// A vault whose directory is being made anew. What is there is only read until [`finish`](Rebuilding::finish), but for what a crash left on
/// its way into its databases.
pub(crate) trait Rebuilding: Send {
    /// The vault as it is. Its directory is not compared with the anchor, and may be damaged in any way.
    fn present(&self) -> &Arc<dyn Storage>;

    /// Whether there is a directory to read from at all.
    fn is_readable(&self) -> bool;

    /// What the directory's anchor remembers of the whole vault, or why it can't be read. Without it nothing says whether the shards
    /// are the newest ones.
    fn remembered(&self) -> Result<AnchorHead, String>;

    /// Where the new directory is made: an empty engine.
    fn fresh(&self) -> &Arc<dyn Storage>;

    /// Puts the new directory in the place of the old one, with an anchor that goes on from the old one's counter and is above this
    /// one; returns where the old one is kept. After an error, or a crash, it is the old one, or the new one, or rebuilding has to be
    /// called again.
    fn finish(self: Box<Self>, above: u64) -> BoxFuture<'static, Result<Option<String>, StorageError>>;

    /// Leaves everything as it is.
    fn abandon(self: Box<Self>) -> BoxFuture<'static, Result<(), StorageError>>;
}

/// Authenticates anchor files. Made from a root subkey by the layers above; engines know no key.
pub(crate) trait AnchorSeal: Send + Sync {
    /// The keyed digest of `content`; `file` says which anchor it is (and of which shard), so that one can't stand for another.
    fn mac(&self, file: &[u8], content: &[u8]) -> [u8; 32];
}

/// An opened vault's bytes.
pub(crate) trait Storage: Send + Sync {
    /// The directory's tree. Its marks are buckets ([`Mark::Bucket`]).
    fn directory(&self) -> Arc<dyn Tree>;

    /// Makes the tree of a new account with its first rows in a shard that has room; durable when it returns.
    fn create(&self, handle: AccountHandle, first: Commit) -> BoxFuture<'_, Result<ShardId, StorageError>>;

    /// The tree of an account. `NoTree` when its shard has none of that name.
    fn tree(&self, shard: ShardId, handle: AccountHandle) -> BoxFuture<'_, Result<Arc<dyn Tree>, StorageError>>;

    /// The accounts whose trees are in the shard; also what the anchor knows of, when the shard itself can't be read.
    fn members(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<AccountHandle>, StorageError>>;

    /// All shards that exist.
    fn shards(&self) -> Vec<ShardId>;

    /// Rewrites the shard without these trees and removes every older byte of it, copies set aside included. Idempotent.
    fn shred(&self, shard: ShardId, handles: Vec<AccountHandle>) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Writes every anchor that is behind, and returns the mark of the whole vault for the host to keep.
    fn sync_anchors(&self) -> BoxFuture<'_, Result<AnchorHead, StorageError>>;

    /// Looks at the files that a part has beside its database (header, anchors) as they lie on the disk, and says what is wrong.
    fn check_files(&self, place: Location) -> BoxFuture<'_, Result<Vec<StorageError>, StorageError>>;

    /// Replaces the vault's header, atomically and durably (root key rotation).
    fn write_header(&self, header: Vec<u8>) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Facts for the operator.
    fn status(&self) -> StorageStatus;

    /// Syncs the anchors, closes all databases and lets go of the lock. Later calls fail with `Closed`.
    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>>;
}

/// One tree: the directory, or one account's. Nothing here can address another tree.
pub(crate) trait Tree: Send + Sync {
    /// The value of one key.
    fn load<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Vec<u8>>, StorageError>>;

    /// Rows with `start <= key < end` in the order of keys, at most `limit` of them; stops at the first error.
    fn scan<'a>(&'a self, start: &'a [u8], end: &'a [u8], limit: usize) -> BoxFuture<'a, Result<Vec<Row>, StorageError>>;

    /// Applies all of it or nothing, and returns when it is durable. `Conflict` when a mark is not where the commit expects it.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), StorageError>>;

    /// What the anchor file remembered of this mark when the vault was opened, moved forward by every commit since.
    fn anchored(&self, mark: Mark) -> Option<Anchored>;
}

/// A set of changes to one tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commit {
    /// New and replaced rows.
    pub(crate) puts: Vec<Row>,
    /// New rows that will be removed before long and are not put again: an engine may keep them out of its database until then.
    pub(crate) passing: Vec<Row>,
    /// Removed keys.
    pub(crate) removes: Vec<Vec<u8>>,
    /// Where each touched mark goes. An account's commit has exactly one, [`Mark::Account`].
    pub(crate) marks: Vec<MarkStep>,
}

impl Commit {
    /// Refuses what no engine takes, before anything is queued.
    fn check_limits(&self) -> Result<(), StorageError> {
        let too_large = |bytes, limit| Err(StorageError::TooLarge { bytes, limit });
        let mut total = 0;
        for (key, value) in self.puts.iter().chain(&self.passing) {
            let bytes = key.len() + value.len();
            if bytes > MAX_ROW_BYTES {
                return too_large(bytes, MAX_ROW_BYTES);
            }
            total += bytes;
        }
        if total > MAX_COMMIT_BYTES {
            return too_large(total, MAX_COMMIT_BYTES);
        }
        if self.removes.len() > MAX_COMMIT_REMOVES {
            return too_large(self.removes.len(), MAX_COMMIT_REMOVES);
        }
        let keys = self.puts.iter().chain(&self.passing).map(|(key, _)| key).chain(&self.removes);
        match keys.map(Vec::len).find(|bytes| *bytes > MAX_KEY_BYTES) {
            Some(bytes) => too_large(bytes, MAX_KEY_BYTES),
            None => Ok(()),
        }
    }
}

/// What a sequence is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mark {
    /// The account that owns the tree.
    Account,
    /// One bucket of the directory: 0..4096 for accounts, above for control rows.
    Bucket(u16),
}

/// One step of a mark's sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MarkStep {
    pub(crate) mark: Mark,
    /// The sequence that the caller read; 0 for a new mark. Anything else than the engine's own is a `Conflict`.
    pub(crate) expected: u64,
    /// What to remember from now on; its sequence is above `expected`.
    pub(crate) next: Anchored,
}

/// What the anchor keeps of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchored {
    pub(crate) sequence: u64,
    /// A digest of the content, opaque to the engine (all zero where the caller keeps none).
    pub(crate) digest: [u8; 32],
}

/// The directory anchor's own counter and digest: together they stand for the state of the whole vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnchorHead {
    pub(crate) counter: u64,
    pub(crate) digest: [u8; 32],
}

/// Facts for the operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct StorageStatus {
    pub(crate) engine: &'static str,
    pub(crate) shards: usize,
    pub(crate) open_shards: usize,
    pub(crate) accounts: u64,
    /// Databases that were found damaged at opening, set aside and repaired.
    pub(crate) repaired: Vec<String>,
    /// Why nothing is acknowledged any more, if so.
    pub(crate) poisoned: Option<String>,
}

/// Why an engine could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StorageError {
    #[error("another process has this vault open")]
    AlreadyOpen,
    #[error("the directory has files that are not a vault's")]
    NotAVault,
    #[error("no tree of that name")]
    NoTree,
    #[error("a mark moved underneath: expected {expected}, found {found}")]
    Conflict { expected: u64, found: u64 },
    #[error("{place} is damaged: {detail}")]
    Corrupted { place: Location, detail: String, accounts: Vec<AccountHandle> },
    #[error("{place} is older than what its anchor remembers")]
    RolledBack { place: Location, accounts: Vec<AccountHandle> },
    #[error("the vault stopped acknowledging after a failure: {0}")]
    Poisoned(String),
    #[error("the vault is closed")]
    Closed,
    #[error("too much is waiting to be written")]
    Overloaded,
    #[error("{bytes} bytes in one key, row or commit are over the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("{doing}: {source}")]
    Io { doing: &'static str, source: Arc<std::io::Error> },
}

/// The part of a vault that an error speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Header,
    Directory,
    Shard(ShardId),
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Location::Header => f.write_str("the vault header"),
            Location::Directory => f.write_str("the directory"),
            Location::Shard(shard) => write!(f, "shard {shard}"),
        }
    }
}
