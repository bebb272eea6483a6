//! One database: sled and what is newer than sled (`memtable.rs`). Opening it, with the repairs that sled leaves to others, and the few calls
//! that are made to it; giving sled what is newer is in `database/settling.rs`. Nothing here waits for another thread's turn or knows of
//! vaults; who may call what is decided in `lane.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::super::{Anchored, Commit, Mark, Row};
use super::files;
use super::memtable::{Memtable, Newer, Table};
use super::rows::{self, Entry, PART_BYTES};
use super::watchdog::{Caller, Watchdog};
use settling::{Settling, Unflushed};

mod settling;

/// sled's segment. A quarter of it is the largest entry that stays in the log, and a whole one must lie between queueing a
/// truncation and waiting for it (see `committer.rs`). It can't change for a database that exists.
pub(super) const SEGMENT_BYTES: usize = 512 * 1024;

/// What an entry counts beside its own bytes.
pub(super) const ENTRY_BYTES: usize = 64;

/// What a removed entry counts: removing makes sled merge and rewrite pages.
pub(super) const REMOVAL_BYTES: usize = 1024;

/// What a new tree counts: it makes sled rewrite its list of trees.
pub(super) const CREATION_BYTES: usize = PART_BYTES;

/// How long to wait for the lock of a database that was just closed: tasks of sled's pool hold it for a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How many damaged copies of one database are kept. More would fill the disk of a vault that is opened in a loop.
const MAX_ASIDE: u32 = 3;

/// sled makes this tree itself.
const DEFAULT_TREE: &[u8] = b"__sled__default";

/// An open database.
pub(super) struct Database {
    /// By name. All that there are: asking sled for another name would make it, which is a write.
    trees: Mutex<BTreeMap<Vec<u8>, sled::Tree>>,
    db: sled::Db,
    /// Our own descriptor of the log: sled's flush is no fsync.
    log: File,
    rouser: Arc<Rouser>,
    newer: RwLock<Memtable>,
    unflushed: Mutex<Unflushed>,
    settling: Mutex<Option<Settling>>,
}

/// Wakes a flush that sleeps in sled for a write which has failed: of a write that fails at the end of a segment sled keeps the error and
/// tells nobody who waits for it (`exit_reservation` of 0.34.7), and another flush does. Beside one that waits it seals nothing,
/// and so adds no write.
pub(super) struct Rouser(Mutex<Option<sled::Db>>);

impl Rouser {
    /// Flushes the database if it is still open. May hang like the call that it is to wake.
    pub(super) fn rouse(&self) {
        // Closing waits for this: whoever drops the last handle makes sled write.
        if let Some(db) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Who sleeps gets the same error.
            let _ = guarded(|| db.flush());
        }
    }

    fn forget(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What went wrong in a call to sled.
#[derive(Debug)]
pub(super) enum Failure {
    /// What is on disk is not what was written. The text says what sled says.
    Damaged(String),
    Io(io::Error),
    /// Another sled of this or another process has the database open.
    Locked,
}

impl Drop for Database {
    fn drop(&mut self) {
        self.rouser.forget();
    }
}

impl Database {
    /// Opens a database, or makes one when the directory is not there. When it is damaged, keeps a copy of it aside, drops what
    /// sled can make anew and tries once more; the text then says what was wrong.
    pub(super) fn open(dir: &Path, cache_bytes: u64, watchdog: &Watchdog) -> Result<(Self, Option<String>), Failure> {
        let fresh = !dir.join("db").exists();
        if fresh {
            files::create_private_dir(dir)?;
        }
        let open = || watchdog.call(Caller::Opener, "opening a database", || open(dir, cache_bytes));
        let (database, repaired) = match open() {
            Err(Failure::Damaged(detail)) => {
                set_aside(dir)?;
                drop_what_sled_can_make_anew(dir)?;
                (open()?, Some(detail))
            }
            other => (other?, None),
        };
        // The files' names must be as durable as the first commit will be, and a process that made them may have died here.
        if fresh {
            let synced = files::sync_tree(dir);
            // Opened again it would no longer be new and not be synced.
            synced.inspect_err(|_| drop(fs::remove_dir_all(dir)))?;
        } else {
            files::sync_dir(dir)?;
        }
        Ok((database, repaired))
    }

    pub(super) fn has_tree(&self, name: &[u8]) -> bool {
        self.newer().tree(name).is_some() || self.trees().contains_key(name)
    }

    pub(super) fn tree_count(&self) -> usize {
        let newer = self.newer();
        let trees = self.trees();
        trees.len() + newer.trees().filter(|(name, _)| !trees.contains_key(*name)).count()
    }

    pub(super) fn tree_names(&self) -> Vec<Vec<u8>> {
        let newer = self.newer();
        let trees = self.trees();
        let mut names: Vec<_> = trees.keys().cloned().collect();
        names.extend(newer.trees().map(|(name, _)| name).filter(|name| !trees.contains_key(*name)).cloned());
        names
    }

    /// Makes a tree. A write.
    pub(super) fn create_tree(&self, name: &[u8]) -> Result<(), Failure> {
        let tree = guarded(|| self.db.open_tree(name))?;
        self.unflushed().bytes += CREATION_BYTES;
        self.trees().insert(name.to_vec(), tree);
        Ok(())
    }

    /// A mark; `None` when the tree has none or is not there.
    pub(super) fn mark(&self, name: &[u8], mark: Mark) -> Result<Option<Anchored>, Failure> {
        if let Some(newer) = self.newer().tree(name).and_then(|table| table.mark(mark)) {
            return Ok(Some(newer));
        }
        let Some(tree) = self.tree(name) else { return Ok(None) };
        match guarded(|| tree.get(rows::mark_key(mark)))? {
            Some(value) => rows::parse_mark(&value).map(Some).ok_or_else(|| damaged("a mark has another length")),
            None => Ok(None),
        }
    }

    /// All buckets' marks of the directory.
    pub(super) fn bucket_marks(&self, name: &[u8]) -> Result<BTreeMap<u16, u64>, Failure> {
        let newer = self.newer();
        let mut marks = BTreeMap::new();
        if let Some(tree) = self.tree(name) {
            guarded(|| {
                // Stops at the first error: after a damaged page, sled's iterators yield errors for ever.
                for entry in tree.range(rows::bucket_marks()) {
                    let (key, value) = entry?;
                    if let (Some(bucket), Some(mark)) = (rows::bucket_of(&key), rows::parse_mark(&value)) {
                        marks.insert(bucket, mark.sequence);
                    }
                }
                Ok(())
            })?;
        }
        for (mark, anchored) in newer.tree(name).into_iter().flat_map(Table::marks) {
            if let Mark::Bucket(bucket) = mark {
                marks.insert(bucket, anchored.sequence);
            }
        }
        Ok(marks)
    }

    /// One row's value.
    pub(super) fn get(&self, name: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        // Held while sled is asked, so that what is read is of one moment.
        let newer = self.newer();
        match newer.tree(name).map_or(Newer::Not, |table| table.row(key)) {
            Newer::Put(value) => return Ok(Some(value.to_vec())),
            Newer::Removed => return Ok(None),
            Newer::Not => {}
        }
        let Some(tree) = self.tree(name) else { return Ok(None) };
        match guarded(|| tree.get(rows::row_key(key)))? {
            Some(entry) => value_of(&tree, key, &entry),
            None => Ok(None),
        }
    }

    /// Rows with `start <= key < end`, at most `limit`.
    pub(super) fn scan(&self, name: &[u8], start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Row>, Failure> {
        if start >= end {
            return Ok(Vec::new());
        }
        let newer = self.newer();
        match newer.tree(name) {
            Some(table) => table.merge(start, end, limit, |from, limit| self.scan_sled(name, from, end, limit, Some(table))),
            None => self.scan_sled(name, start, end, limit, None),
        }
    }

    /// Rows as sled has them; of one that is newer in memory only the key, since its parts may be just being written.
    fn scan_sled(&self, name: &[u8], start: &[u8], end: &[u8], limit: usize, newer: Option<&Table>) -> Result<Vec<Row>, Failure> {
        let Some(tree) = self.tree(name) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        if start >= end {
            return Ok(found);
        }
        let mut entries = tree.range(rows::row_key(start)..rows::row_key(end));
        while found.len() < limit {
            // Stops at the first error: after a damaged page, sled's iterators yield errors for ever.
            let Some((entry_key, entry)) = guarded(|| entries.next().transpose())? else { break };
            let key = rows::key_of(&entry_key).ok_or_else(|| damaged("a row under a key of another kind"))?;
            if newer.is_some_and(|newer| !matches!(newer.row(key), Newer::Not)) {
                found.push((key.to_vec(), Vec::new()));
            } else if let Some(value) = value_of(&tree, key, &entry)? {
                found.push((key.to_vec(), value));
            }
        }
        Ok(found)
    }

    /// Applies a commit whose marks were checked, and makes its tree if there is none. Nothing of it is written before
    /// [`settle`](Self::settle).
    /// `file` is the one of the commit log that has it.
    pub(super) fn apply(&self, name: &[u8], commit: Commit, file: u64) {
        self.newer.write().unwrap_or_else(PoisonError::into_inner).apply(name, commit, file);
    }

    /// What a commit does to passing rows, of a commit that is in sled already.
    pub(super) fn apply_passing(&self, name: &[u8], commit: &Commit, file: u64) {
        self.newer.write().unwrap_or_else(PoisonError::into_inner).apply_passing(name, commit, file);
    }

    /// The oldest file of the commit log with a row that is passing.
    pub(super) fn oldest_passing(&self) -> Option<u64> {
        self.newer().oldest_passing()
    }

    /// All rows that are passing have been written to this file.
    pub(super) fn passing_moved(&self, to: u64) {
        self.newer.write().unwrap_or_else(PoisonError::into_inner).passing_moved(to);
    }

    /// The rows that are passing, by tree.
    pub(super) fn passing(&self) -> Vec<(Vec<u8>, Vec<Row>)> {
        let newer = self.newer();
        newer.trees().map(|(name, table)| (name.clone(), table.passing().collect())).collect()
    }

    fn newer(&self) -> RwLockReadGuard<'_, Memtable> {
        self.newer.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn unflushed(&self) -> std::sync::MutexGuard<'_, Unflushed> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands everything applied so far to the operating system. A write.
    pub(super) fn flush(&self) -> Result<(), Failure> {
        *self.unflushed() = Unflushed::default();
        guarded(|| self.db.flush()).map(drop)
    }

    /// What wakes a flush of this database that hangs.
    pub(super) fn rouser(&self) -> &Arc<Rouser> {
        &self.rouser
    }

    /// Makes everything that was flushed durable.
    fn sync(&self) -> Result<(), Failure> {
        self.log.sync_data().map_err(Failure::Io)?;
        // A file that was removed takes writes and syncs like any other, and nothing of them is there afterwards.
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&self.log.metadata()?) == 0 {
            return Err(Failure::Io(io::Error::other("the database was removed from its directory")));
        }
        Ok(())
    }

    /// Every entry of one tree as it lies in sled, for copying it and for comparing a copy.
    pub(super) fn raw_entries(&self, name: &[u8]) -> Result<impl Iterator<Item = Result<Row, Failure>>, Failure> {
        let tree = self.tree(name).ok_or_else(|| damaged("a tree is missing"))?;
        let mut entries = tree.iter();
        let mut failed = false;
        Ok(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let next = guarded(|| entries.next().transpose());
            failed = next.is_err();
            next.transpose().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
        }))
    }

    /// Puts entries as they lie in sled. A write.
    pub(super) fn put_raw(&self, name: &[u8], entries: Vec<Row>) -> Result<(), Failure> {
        let tree = self.tree(name).ok_or_else(|| damaged("a tree is missing"))?;
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            batch.insert(key, value);
        }
        guarded(|| tree.apply_batch(batch))
    }

    /// Closes the database: sled flushes when its last handle goes. A write.
    pub(super) fn close(self) -> Result<(), Failure> {
        guarded(move || {
            drop(self);
            Ok(())
        })
    }

    fn tree(&self, name: &[u8]) -> Option<sled::Tree> {
        // A clone, so that no lock is held during a call that may hang.
        self.trees().get(name).cloned()
    }

    fn trees(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, sled::Tree>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories next to this one that hold damaged copies of it.
pub(super) fn copies_aside(dir: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=MAX_ASIDE).map(move |number| files::with_suffix(dir, &format!(".aside-{number}")))
}

fn open(dir: &Path, cache_bytes: u64) -> Result<Database, Failure> {
    remove_unfinished_snapshots(dir)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut pause = Duration::from_millis(1);
    let db = loop {
        match guarded(|| config(dir, cache_bytes).open()) {
            Err(Failure::Locked) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            other => break other?,
        }
    };
    let mut trees = BTreeMap::new();
    for name in db.tree_names() {
        if name != DEFAULT_TREE {
            trees.insert(name.to_vec(), guarded(|| db.open_tree(&name))?);
        }
    }
    let log = fs::OpenOptions::new().read(true).write(true).open(dir.join("db"))?;
    let rouser = Arc::new(Rouser(Mutex::new(Some(db.clone()))));
    let (newer, unflushed) = (RwLock::default(), Mutex::default());
    Ok(Database { trees: Mutex::new(trees), db, log, rouser, newer, unflushed, settling: Mutex::default() })
}

fn config(dir: &Path, cache_bytes: u64) -> sled::Config {
    sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .segment_size(SEGMENT_BYTES)
        // The flusher thread would write outside a database's turn, and swallows the errors of its syncs.
        .flush_every_ms(None)
        // Sealed values don't compress.
        .use_compression(false)
        // What the documentation advises for small databases; 0.34.7 stores the mode and never asks for it.
        .mode(sled::Mode::LowSpace)
}

/// A process that is killed while sled writes a snapshot leaves it behind under this name, and sled takes it for a damaged one.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A snapshot saves sled from reading the log from its start, and the configuration is always the same one, so neither is
/// missed. (If a later version changes [`SEGMENT_BYTES`], `conf` says which databases have the old one and must stay.)
fn drop_what_sled_can_make_anew(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "conf" || name.to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled may write to a damaged database when it opens it, so what can still be rescued by hand is copied before it tries again.
fn set_aside(dir: &Path) -> io::Result<()> {
    match copies_aside(dir).find(|copy| !copy.exists()) {
        Some(copy) => files::copy_tree(dir, &copy),
        None => Ok(()),
    }
}

/// The value that a row's first entry leads to; `None` when a commit removes the row meanwhile.
fn value_of(tree: &sled::Tree, key: &[u8], entry: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut entry = std::borrow::Cow::Borrowed(entry);
    // A commit may replace the row between two of these reads; then the checksum differs and the row is read again.
    for _ in 0..16 {
        let parts = match rows::parse(&entry) {
            Some(Entry::Whole(value)) => return Ok(Some(value.to_vec())),
            Some(Entry::InParts(parts)) => parts,
            None => break,
        };
        let mut value = Vec::new();
        for part in 0..parts.count {
            match guarded(|| tree.get(rows::part_key(key, part)))? {
                Some(bytes) => value.extend_from_slice(&bytes),
                None => break,
            }
        }
        if parts.complete(&value) {
            return Ok(Some(value));
        }
        match guarded(|| tree.get(rows::row_key(key)))? {
            Some(again) => entry = again.to_vec().into(),
            None => return Ok(None),
        }
    }
    Err(damaged("a row's parts don't fit together"))
}

fn damaged(what: &str) -> Failure {
    Failure::Damaged(what.to_owned())
}

/// Calls sled, which panics on some damage, and sorts what went wrong.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    // sled's own state after a panic is not trusted: whoever sees `Damaged` from a write closes the database.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Failure::Damaged(format!("sled panicked: {}", text.unwrap_or("without a message"))))
        }
    }
}

impl From<sled::Error> for Failure {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Failure::Damaged("the log ends before data that it should hold".into())
            }
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => Failure::Locked,
            sled::Error::Io(error) => Failure::Io(error),
            // Not about this database: sled's thread pool is gone.
            sled::Error::ReportableBug(text) if text.contains("IO thread") => Failure::Io(io::Error::other(text)),
            other => Failure::Damaged(other.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}
