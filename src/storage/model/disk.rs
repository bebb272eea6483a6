//! The model's disk, and what a test can do to it behind the vault's back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{MAX_TREES_PER_SHARD, Mark, Row, TREES_PER_SHARD};
use crate::ids::{AccountHandle, ShardId};

/// A disk in memory that a test hands to a vault instead of a path. Clones are the same disk.
///
/// Every call of a vault to its storage is one *operation*. A test counts them, lets a chosen one fail, cuts the power between
/// two of them, and tampers with rows while no vault, or even while a vault, has the disk open.
#[derive(Clone, Default)]
pub struct ModelDisk(Arc<Mutex<Disk>>);

/// A copy of everything on a [`ModelDisk`], to be put back later: yesterday's backup.
#[derive(Clone)]
pub struct ModelImage(pub(super) Image);

/// Names one tree on a [`ModelDisk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModelTree {
    /// The directory of accounts, API keys and provider settings.
    Directory,
    /// The tree of one linked account.
    Account(ShardId, AccountHandle),
}

#[derive(Default)]
pub(super) struct Disk {
    pub(super) live: Image,
    pub(super) durable: Image,
    /// The engine that has the disk open. A crash takes it away, and that engine fails from then on.
    pub(super) holder: Option<u64>,
    pub(super) holders: u64,
    operations: u64,
    writes: u64,
    fail: Option<(u64, Failure)>,
    fail_write: Option<(u64, Failure)>,
    trees_per_shard: Option<usize>,
}

/// All bytes of a vault.
#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) header: Option<Vec<u8>>,
    pub(super) directory: TreeImage,
    /// An encoded [`DirectoryAnchor`](super::super::anchor::DirectoryAnchor).
    pub(super) anchor: Option<Vec<u8>>,
    pub(super) shards: BTreeMap<ShardId, ShardImage>,
}

#[derive(Clone, Default)]
pub(super) struct ShardImage {
    pub(super) trees: BTreeMap<AccountHandle, TreeImage>,
    /// An encoded [`ShardAnchor`](super::super::anchor::ShardAnchor).
    pub(super) anchor: Option<Vec<u8>>,
}

#[derive(Clone, Default)]
pub(super) struct TreeImage {
    pub(super) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) marks: BTreeMap<Mark, u64>,
}

/// Whether an operation changes the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reads,
    Writes,
}

/// What happens to the operation that a test chose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It does nothing and reports an error.
    Undone,
    /// It is done and durable, and reports an error all the same.
    InDoubt,
}

impl ModelDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations were asked of the disk so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How many of them wrote.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Lets the `nth` operation from now fail with an I/O error without doing anything (1 = the next one). If it is one that
    /// writes, the vault acknowledges nothing more until it is opened again.
    pub fn fail_nth(&self, nth: u64) {
        self.arm(nth, Failure::Undone);
    }

    /// Like [`fail_nth`](Self::fail_nth), but the failing operation takes effect and is durable: the caller can't know.
    pub fn fail_nth_in_doubt(&self, nth: u64) {
        self.arm(nth, Failure::InDoubt);
    }

    /// Like [`fail_nth`](Self::fail_nth), and counts only operations that write.
    pub fn fail_nth_write(&self, nth: u64) {
        self.arm_write(nth, Failure::Undone);
    }

    /// Like [`fail_nth_in_doubt`](Self::fail_nth_in_doubt), and counts only operations that write.
    pub fn fail_nth_write_in_doubt(&self, nth: u64) {
        self.arm_write(nth, Failure::InDoubt);
    }

    /// Takes back a failure that has not happened yet; whether there was one.
    pub fn disarm(&self) -> bool {
        let mut disk = self.lock();
        let (fail, fail_write) = (disk.fail.take(), disk.fail_write.take());
        fail.or(fail_write).is_some()
    }

    /// Cuts the power: what was not durable is gone, and an engine that has the disk open fails from now on.
    pub fn crash(&self) {
        let mut disk = self.lock();
        disk.live = disk.durable.clone();
        disk.holder = None;
    }

    /// How many account trees the disk puts in one shard (96 unless a test sets another number), to have several shards with few
    /// accounts.
    pub fn set_trees_per_shard(&self, trees: usize) {
        self.lock().trees_per_shard = Some(trees.clamp(1, MAX_TREES_PER_SHARD));
    }

    /// All trees on the disk.
    #[must_use]
    pub fn trees(&self) -> Vec<ModelTree> {
        let disk = self.lock();
        let accounts = disk.live.shards.iter().flat_map(|(shard, image)| {
            let shard = *shard;
            image.trees.keys().map(move |handle| ModelTree::Account(shard, *handle))
        });
        std::iter::once(ModelTree::Directory).chain(accounts).collect()
    }

    /// All rows of a tree, as key and sealed value, in the order of keys.
    #[must_use]
    pub fn rows(&self, tree: ModelTree) -> Vec<(Vec<u8>, Vec<u8>)> {
        let disk = self.lock();
        let rows = disk.live.tree(tree).map(|image| &image.rows);
        rows.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// One row's sealed value.
    #[must_use]
    pub fn row(&self, tree: ModelTree, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().live.tree(tree)?.rows.get(key).cloned()
    }

    /// Puts a row behind the vault's back, durably. The tree is made if there is none.
    pub fn put_row(&self, tree: ModelTree, key: &[u8], value: &[u8]) {
        self.tamper(|image| image.tree_or_new(tree).rows.insert(key.to_vec(), value.to_vec()));
    }

    /// Removes a row behind the vault's back, durably.
    pub fn remove_row(&self, tree: ModelTree, key: &[u8]) {
        self.tamper(|image| image.tree_or_new(tree).rows.remove(key));
    }

    /// Removes a whole account tree behind the vault's back, durably.
    pub fn remove_tree(&self, shard: ShardId, handle: &AccountHandle) {
        self.tamper(|image| image.shards.get_mut(&shard).and_then(|shard| shard.trees.remove(handle)));
    }

    /// The stored header.
    #[must_use]
    pub fn header(&self) -> Option<Vec<u8>> {
        self.lock().live.header.clone()
    }

    /// Replaces the stored header behind the vault's back, durably.
    pub fn set_header(&self, header: Option<Vec<u8>>) {
        self.tamper(|image| image.header = header.clone());
    }

    /// Changes one byte of the directory's anchor (`None`) or of a shard's, durably; the offset wraps around.
    pub fn flip_anchor_byte(&self, shard: Option<ShardId>, at: usize) {
        self.tamper(|image| {
            let anchor = match shard {
                None => image.anchor.as_mut(),
                Some(shard) => image.shards.get_mut(&shard).and_then(|image| image.anchor.as_mut()),
            };
            if let Some(bytes) = anchor {
                let at = at % bytes.len();
                bytes[at] ^= 1;
            }
        });
    }

    /// A copy of everything that is durable now.
    #[must_use]
    pub fn image(&self) -> ModelImage {
        ModelImage(self.lock().durable.clone())
    }

    /// Puts a whole copy back, durably. Do it while no vault has the disk open.
    pub fn restore(&self, image: &ModelImage) {
        self.tamper(|disk| *disk = image.0.clone());
    }

    /// Puts one shard of a copy back, durably, anchor and all; removes the shard if the copy has none.
    pub fn restore_shard(&self, image: &ModelImage, shard: ShardId) {
        self.tamper(|disk| match image.0.shards.get(&shard) {
            Some(old) => {
                disk.shards.insert(shard, old.clone());
            }
            None => {
                disk.shards.remove(&shard);
            }
        });
    }

    fn arm(&self, nth: u64, failure: Failure) {
        let mut disk = self.lock();
        disk.fail = Some((disk.operations.saturating_add(nth), failure));
    }

    fn arm_write(&self, nth: u64, failure: Failure) {
        let mut disk = self.lock();
        disk.fail_write = Some((disk.writes.saturating_add(nth), failure));
    }

    fn tamper<T>(&self, mut change: impl FnMut(&mut Image) -> T) {
        let mut disk = self.lock();
        change(&mut disk.live);
        change(&mut disk.durable);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        // A test that panics with the lock held has failed already; the next one shall not fail for it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelDisk").field("operations", &self.operations()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ModelImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelImage").field("shards", &self.0.shards.len()).finish_non_exhaustive()
    }
}

impl Disk {
    /// Counts an operation; what is to happen to it, if anything.
    pub(super) fn count_operation(&mut self, kind: Kind) -> Option<Failure> {
        self.operations += 1;
        let failure = self.fail.take_if(|(at, _)| *at == self.operations);
        let failure = match kind {
            Kind::Reads => failure,
            Kind::Writes => {
                self.writes += 1;
                failure.or(self.fail_write.take_if(|(at, _)| *at == self.writes))
            }
        };
        failure.map(|(_, failure)| failure)
    }

    pub(super) fn trees_per_shard(&self) -> usize {
        self.trees_per_shard.unwrap_or(TREES_PER_SHARD)
    }
}

impl Image {
    pub(super) fn tree(&self, tree: ModelTree) -> Option<&TreeImage> {
        match tree {
            ModelTree::Directory => Some(&self.directory),
            ModelTree::Account(shard, handle) => self.shards.get(&shard)?.trees.get(&handle),
        }
    }

    pub(super) fn tree_or_new(&mut self, tree: ModelTree) -> &mut TreeImage {
        match tree {
            ModelTree::Directory => &mut self.directory,
            ModelTree::Account(shard, handle) => self.shards.entry(shard).or_default().trees.entry(handle).or_default(),
        }
    }
}

impl TreeImage {
    pub(super) fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Vec<Row> {
        if start >= end {
            return Vec::new();
        }
        let rows = self.rows.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)));
        rows.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}
