//! One sled database as it is used here: opening it, with the repairs that sled leaves to others, and the few calls that are made to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::files;
use super::super::rows::{self, Entry, PART_BYTES};
use super::super::watchdog::{Caller, Watchdog};

/// sled's segment. A quarter of it is the largest entry that stays in the log, and a whole one must lie between queueing a
/// truncation and waiting for it (see `committer.rs`). It can't change for a database that exists.
const SEGMENT_BYTES: usize = 512 * 1024;

/// What a new tree counts: it makes sled rewrite its list of trees.
pub(in super::super) const CREATION_BYTES: usize = PART_BYTES;

/// The most that is written between two flushes, but for one entry. sled writes up to about seven times as much to its log (a page is
/// written anew every ten changes, cleaning moves another one, splitting a page writes both halves), so less than half a segment of
/// log lies between two flushes, and a flush between queueing a truncation and waiting for it: the condition under which sled can't
/// deadlock (see `committer.rs`).
pub(super) const FLUSH_BYTES: usize = 32 * 1024;
pub(super) const FLUSH_ENTRIES: usize = 256;

/// How long to wait for the lock of a database that was just closed: tasks of sled's pool hold it for a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How many damaged copies of one database are kept. More would fill the disk of a vault that is opened in a loop.
const MAX_ASIDE: u32 = 3;

/// sled makes this tree itself.
const DEFAULT_TREE: &[u8] = b"__sled__default";

/// An open sled database.
pub(in super::super) struct Store {
    /// By name. All that there are: asking sled for another name would make it, which is a write.
    trees: Mutex<BTreeMap<Vec<u8>, sled::Tree>>,
    db: sled::Db,
    /// Our own descriptor of the log: sled's flush is no fsync.
    log: File,
    rouser: Arc<Rouser>,
    unflushed: Mutex<Unflushed>,
    /// Something was written since the last sync.
    unsynced: AtomicBool,
}

/// What was written since the last flush.
#[derive(Default)]
struct Unflushed {
    bytes: usize,
    entries: usize,
}

/// Wakes a flush that sleeps in sled for a write which has failed: of a write that fails at the end of a segment sled keeps the error and
/// tells nobody who waits for it (`exit_reservation` of 0.34.7), and another flush does. Beside one that waits it seals nothing,
/// and so adds no write.
pub(in super::super) struct Rouser(Mutex<Option<sled::Db>>);

impl Rouser {
    /// Flushes the database if it is still open. May hang like the call that it is to wake.
    pub(in super::super) fn rouse(&self) {
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
pub(in super::super) enum Failure {
    /// What is on disk is not what was written. The text says what sled says.
    Damaged(String),
    Io(io::Error),
    /// Another sled of this or another process has the database open.
    Locked,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.rouser.forget();
    }
}

impl Store {
    /// Opens a database, or makes one when the directory is not there. When it is damaged, keeps a copy of it aside, drops what
    /// sled can make anew and tries once more; the text then says what was wrong.
    pub(super) fn open(dir: &Path, cache_bytes: u64, watchdog: &Watchdog) -> Result<(Self, Option<String>), Failure> {
        let fresh = !dir.join("db").exists();
        if fresh {
            files::create_private_dir(dir)?;
        }
        let open = || watchdog.call(Caller::Opener, "opening a database", || open(dir, cache_bytes));
        let (store, repaired) = match open() {
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
        Ok((store, repaired))
    }

    pub(super) fn tree(&self, name: &[u8]) -> Option<sled::Tree> {
        // A clone, so that no lock is held during a call that may hang.
        self.trees().get(name).cloned()
    }

    pub(super) fn trees(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, sled::Tree>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a tree. A write.
    pub(super) fn create_tree(&self, name: &[u8]) -> Result<(), Failure> {
        let tree = guarded(|| self.db.open_tree(name))?;
        self.unflushed().bytes += CREATION_BYTES;
        self.unsynced.store(true, Ordering::Relaxed);
        self.trees().insert(name.to_vec(), tree);
        Ok(())
    }

    /// Puts an entry, or removes it; `bytes` is what that counts. A write.
    pub(super) fn write(&self, tree: &sled::Tree, key: &[u8], entry: Option<&[u8]>, bytes: usize) -> Result<(), Failure> {
        self.unsynced.store(true, Ordering::Relaxed);
        guarded(|| match entry {
            Some(entry) => tree.insert(key, entry).map(drop),
            None => tree.remove(key).map(drop),
        })?;
        let mut unflushed = self.unflushed();
        unflushed.bytes += bytes;
        unflushed.entries += 1;
        Ok(())
    }

    /// Puts several entries at once. A write.
    pub(super) fn write_batch(&self, tree: &sled::Tree, batch: sled::Batch) -> Result<(), Failure> {
        self.unsynced.store(true, Ordering::Relaxed);
        guarded(|| tree.apply_batch(batch))
    }

    /// Whether so much more would be too much before a flush.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        let unflushed = self.unflushed();
        unflushed.bytes > 0 && (unflushed.bytes + bytes > FLUSH_BYTES || unflushed.entries >= FLUSH_ENTRIES)
    }

    /// What was written since the last flush: bytes, and entries.
    pub(super) fn written(&self) -> (usize, usize) {
        let unflushed = self.unflushed();
        (unflushed.bytes, unflushed.entries)
    }

    /// Hands everything written so far to the operating system. A write.
    pub(in super::super) fn flush(&self) -> Result<(), Failure> {
        *self.unflushed() = Unflushed::default();
        guarded(|| self.db.flush()).map(drop)
    }

    /// What wakes a flush of this database that hangs.
    pub(in super::super) fn rouser(&self) -> &Arc<Rouser> {
        &self.rouser
    }

    /// Makes everything that was flushed durable, if anything was written.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        if !self.unsynced.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.log.sync_data().map_err(Failure::Io)?;
        // A file that was removed takes writes and syncs like any other, and nothing of them is there afterwards.
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&self.log.metadata()?) == 0 {
            return Err(Failure::Io(io::Error::other("the database was removed from its directory")));
        }
        self.unsynced.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// How long its log is.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        self.log.metadata().map(|metadata| metadata.len())
    }

    fn unflushed(&self) -> MutexGuard<'_, Unflushed> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories next to this one that hold damaged copies of it.
fn copies_aside(dir: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=MAX_ASIDE).map(move |number| files::with_suffix(dir, &format!(".aside-{number}")))
}

fn open(dir: &Path, cache_bytes: u64) -> Result<Store, Failure> {
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
    // What a process that was killed has written here may not be durable.
    let unsynced = AtomicBool::new(true);
    Ok(Store { trees: Mutex::new(trees), db, log, rouser, unflushed: Mutex::default(), unsynced })
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

/// The value that a row's first entry leads to; `None` when there is none, or a commit removes it meanwhile.
pub(super) fn value_of(tree: &sled::Tree, key: &[u8], entry: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut entry = std::borrow::Cow::Borrowed(entry);
    // A commit may replace the row between two of these reads; then the checksum differs and the row is read again.
    for _ in 0..16 {
        let parts = match rows::parse(&entry) {
            Some(Entry::Whole(value)) => return Ok(Some(value.to_vec())),
            Some(Entry::InParts(parts)) => parts,
            Some(Entry::Removed) => return Ok(None),
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

pub(super) fn damaged(what: &str) -> Failure {
    Failure::Damaged(what.to_owned())
}

/// Calls sled, which panics on some damage, and sorts what went wrong.
pub(super) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
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
