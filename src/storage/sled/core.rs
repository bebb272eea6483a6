//! What all parts of one open vault share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{AnchorSeal, Location, StorageError};
use super::SledOptions;
use super::anchors::Anchors;
use super::commit_log::CommitLog;
use super::committer::{Membership, Turn};
use super::database::Failure;
use super::keeper::Keeper;
use super::lane::Lane;
use super::watchdog::Watchdog;
use crate::ids::ShardId;

pub(super) struct Core {
    pub(super) root: PathBuf,
    pub(super) options: SledOptions,
    pub(super) seal: Arc<dyn AnchorSeal>,
    pub(super) watchdog: Arc<Watchdog>,
    pub(super) anchors: Anchors,
    pub(super) log: CommitLog,
    pub(super) keeper: Keeper,
    /// The open shards, by number.
    pub(super) open: Mutex<BTreeMap<u32, Arc<Lane>>>,
    pub(super) room: Mutex<super::shards::Room>,
    pub(super) rewriting: super::shred::Line,
    /// Jobs that wait in all lanes together.
    pub(super) waiting: AtomicUsize,
    /// `None` once the vault is closed.
    pool: Mutex<Option<Membership>>,
    repaired: Mutex<Vec<String>>,
    uses: AtomicU64,
}

impl Core {
    pub(super) fn new(
        root: PathBuf,
        options: SledOptions,
        seal: Arc<dyn AnchorSeal>,
        anchors: Anchors,
        room: super::shards::Room,
    ) -> Result<Self, StorageError> {
        let starting = |error| io_error("start the storage engine", error);
        let (log, notes) = CommitLog::load(&root, seal.clone())?;
        let watchdog = Watchdog::start(options.stall_timeout).map_err(starting)?;
        let pool = Mutex::new(Some(Membership::join().map_err(starting)?));
        notes.iter().for_each(|detail| tracing::warn!(detail, "the commit log was damaged"));
        Ok(Self {
            root,
            options,
            seal,
            watchdog,
            anchors,
            log,
            keeper: Keeper::default(),
            open: Mutex::default(),
            room: Mutex::new(room),
            rewriting: super::shred::Line::default(),
            waiting: AtomicUsize::new(0),
            pool,
            repaired: Mutex::new(notes),
            uses: AtomicU64::new(0),
        })
    }

    /// Puts a lane in line for a committer.
    pub(super) fn ready(&self, turn: Arc<dyn Turn>) {
        if let Some(pool) = &*locked(&self.pool) {
            pool.ready(turn);
        }
    }

    /// Puts a lane in line for when nothing else waits.
    pub(super) fn ready_patiently(&self, turn: Arc<dyn Turn>) {
        if let Some(pool) = &*locked(&self.pool) {
            pool.ready_patiently(turn);
        }
    }

    /// Takes a lane out of the line of those that are patient; whether it was in it.
    pub(super) fn claim_patient(&self, turn: &Arc<Lane>) -> bool {
        locked(&self.pool).as_ref().is_some_and(|pool| pool.claim_patient(turn))
    }

    /// Another database of the vault whose commits can be written now.
    pub(super) fn companion(&self) -> Option<Arc<Lane>> {
        locked(&self.pool).as_ref()?.companion()
    }

    pub(super) fn leave_pool(&self) {
        let membership = locked(&self.pool).take();
        drop(membership);
    }

    /// The generation of a shard's files that counts; 0 for the directory.
    pub(super) fn generation(&self, shard: Option<ShardId>) -> u32 {
        shard.map_or(0, |shard| self.anchors.shard_mark(shard).generation)
    }

    /// A number for each use, growing, to tell which shard was used least recently.
    pub(super) fn use_number(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn note_repaired(&self, place: Location, detail: &str) {
        tracing::warn!(%place, detail, "a database was damaged; a copy was set aside and it opened without its snapshot");
        locked(&self.repaired).push(format!("{place}: {detail}"));
    }

    pub(super) fn repaired(&self) -> Vec<String> {
        locked(&self.repaired).clone()
    }

    /// A write, flush or sync failed: the state on disk is unknown, so nothing more is acknowledged.
    pub(super) fn poison(&self, place: Location, doing: &str, failure: &Failure) -> StorageError {
        let reason = match failure {
            Failure::Damaged(detail) => format!("{doing} {place}: {detail}"),
            Failure::Io(error) => format!("{doing} {place}: {error}"),
            Failure::Locked => format!("{doing} {place}: another process has it open"),
        };
        self.watchdog.poison(reason.clone());
        StorageError::Poisoned(reason)
    }
}

/// Locks a mutex whose content is whole after every statement that changes it, so a panic elsewhere does not matter.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An I/O error as the layers above see it.
pub(super) fn io_error(doing: &'static str, error: std::io::Error) -> StorageError {
    StorageError::Io { doing, source: Arc::new(error) }
}

/// A failed read or opening as the layers above see it; unlike a failed write it does not poison.
pub(super) fn failed(place: Location, doing: &'static str, failure: Failure) -> StorageError {
    match failure {
        Failure::Damaged(detail) => StorageError::Corrupted { place, detail, accounts: Vec::new() },
        Failure::Io(error) => io_error(doing, error),
        Failure::Locked => io_error(doing, std::io::Error::other("another process has the database open")),
    }
}
