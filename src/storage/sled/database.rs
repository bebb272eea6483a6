//! One database: a shard's, or the directory's. What it has is in sled (`database/store.rs`) and, as far as it is newer, in memory
//! (`memtable.rs`); giving sled that is in `database/settling.rs`. The directory's has several stores once it has grown
//! (`database/sections.rs`). Nothing here waits for another thread's turn or knows of vaults; who may call what is decided in `lane.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::super::{Anchored, Commit, Mark, Row, StorageError};
use super::memtable::{Memtable, Newer, Table};
use super::rows;
use super::watchdog::Watchdog;
pub(super) use sections::SectionOptions;
use sections::Sections;
use settling::Settling;
pub(super) use store::{CREATION_BYTES, Failure, Rouser, Store};
use store::{damaged, guarded, value_of};

pub(super) mod sections;
mod settling;
mod store;

/// What an entry counts beside its own bytes.
pub(super) const ENTRY_BYTES: usize = 64;

/// What a removed entry counts: removing makes sled merge and rewrite pages.
pub(super) const REMOVAL_BYTES: usize = 1024;

/// An open database.
pub(super) struct Database {
    first: Store,
    /// Only the directory's has some.
    sections: Option<Sections>,
    newer: RwLock<Memtable>,
    settling: Mutex<Option<Settling>>,
}

impl Database {
    /// Opens a database, or makes one when the directory is not there. When it is damaged, keeps a copy of it aside, drops what
    /// sled can make anew and tries once more; the text then says what was wrong.
    pub(super) fn open(dir: &Path, cache_bytes: u64, watchdog: &Watchdog) -> Result<(Self, Option<String>), Failure> {
        let (first, repaired) = Store::open(dir, cache_bytes, watchdog)?;
        Ok((Self { first, sections: None, newer: RwLock::default(), settling: Mutex::default() }, repaired))
    }

    /// The same for the directory's. Its sections are opened one by one, with [`open_section`](Self::open_section).
    pub(super) fn open_in_sections(
        dir: &Path,
        cache_bytes: u64,
        options: SectionOptions,
        watchdog: &Watchdog,
    ) -> Result<(Self, Option<String>), Failure> {
        let (database, repaired) = Self::open(dir, cache_bytes, watchdog)?;
        Ok((Self { sections: Some(Sections::find(dir, options)), ..database }, repaired))
    }

    /// The store that every database has.
    pub(super) fn first(&self) -> &Store {
        &self.first
    }

    /// Whether there were sections when it was opened.
    pub(super) fn has_sections(&self) -> bool {
        self.sections.as_ref().is_some_and(Sections::were_found)
    }

    /// Whether a section is there and not open; an error if it can't be opened.
    pub(super) fn is_section_closed(&self, section: u8) -> Result<bool, StorageError> {
        self.sections.as_ref().map_or(Ok(false), |sections| sections.is_closed(section))
    }

    /// Opens a section that is closed. A write. The text says what had to be repaired.
    pub(super) fn open_section(&self, section: u8, watchdog: &Watchdog) -> Result<Option<String>, Failure> {
        self.sections.as_ref().map_or(Ok(None), |sections| sections.open(section, watchdog))
    }

    /// Keeps everybody from a section until the vault is reopened.
    pub(super) fn fail_section(&self, section: u8, error: StorageError) {
        if let Some(sections) = &self.sections {
            sections.fail(section, error);
        }
    }

    pub(super) fn has_tree(&self, name: &[u8]) -> bool {
        self.newer().tree(name).is_some() || self.first.trees().contains_key(name)
    }

    pub(super) fn tree_count(&self) -> usize {
        let newer = self.newer();
        let trees = self.first.trees();
        trees.len() + newer.trees().filter(|(name, _)| !trees.contains_key(*name)).count()
    }

    pub(super) fn tree_names(&self) -> Vec<Vec<u8>> {
        let newer = self.newer();
        let trees = self.first.trees();
        let mut names: Vec<_> = trees.keys().cloned().collect();
        names.extend(newer.trees().map(|(name, _)| name).filter(|name| !trees.contains_key(*name)).cloned());
        names
    }

    /// Makes a tree. A write.
    pub(super) fn create_tree(&self, name: &[u8]) -> Result<(), Failure> {
        self.first.create_tree(name)
    }

    /// A mark; `None` when the tree has none or is not there.
    pub(super) fn mark(&self, name: &[u8], mark: Mark) -> Result<Option<Anchored>, Failure> {
        if let Some(newer) = self.newer().tree(name).and_then(|table| table.mark(mark)) {
            return Ok(Some(newer));
        }
        for tree in self.trees(name, sections::of_mark(mark))? {
            if let Some(value) = guarded(|| tree.get(rows::mark_key(mark)))? {
                return rows::parse_mark(&value).map(Some).ok_or_else(|| damaged("a mark has another length"));
            }
        }
        Ok(None)
    }

    /// The marks of all buckets of one section, or of those that are in none.
    pub(super) fn bucket_marks(&self, name: &[u8], section: Option<u8>) -> Result<BTreeMap<u16, u64>, Failure> {
        let newer = self.newer();
        let mut marks = BTreeMap::new();
        // From the oldest on.
        for tree in self.trees(name, section)?.rev() {
            guarded(|| {
                // Stops at the first error: after a damaged page, sled's iterators yield errors for ever.
                for entry in tree.range(rows::bucket_marks(section)) {
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
        for tree in self.trees(name, sections::of_key(key))? {
            if let Some(entry) = guarded(|| tree.get(rows::row_key(key)))? {
                return value_of(&tree, key, &entry);
            }
        }
        Ok(None)
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
        let mut found = Vec::new();
        let stretches = match &self.sections {
            Some(_) => sections::stretches(start, end),
            None => vec![(None, start.to_vec(), end.to_vec())],
        };
        for (section, start, end) in stretches {
            let range = rows::row_key(&start)..rows::row_key(&end);
            // The newest first.
            let mut cursors = Vec::new();
            for tree in self.trees(name, section)? {
                cursors.push(Cursor::new(tree, range.clone())?);
            }
            while found.len() < limit {
                let Some(next) = cursors.iter().filter_map(Cursor::key).min().cloned() else { break };
                let mut newest = None;
                for cursor in &mut cursors {
                    if let Some(entry) = cursor.take(&next)? {
                        newest.get_or_insert((cursor.tree.clone(), entry));
                    }
                }
                let key = rows::key_of(&next).ok_or_else(|| damaged("a row under a key of another kind"))?;
                if newer.is_some_and(|newer| !matches!(newer.row(key), Newer::Not)) {
                    found.push((key.to_vec(), Vec::new()));
                } else if let Some((tree, entry)) = newest
                    && let Some(value) = value_of(&tree, key, &entry)?
                {
                    found.push((key.to_vec(), value));
                }
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

    /// Every entry of one tree as it lies in sled, for copying it and for comparing a copy.
    pub(super) fn raw_entries(&self, name: &[u8]) -> Result<impl Iterator<Item = Result<Row, Failure>>, Failure> {
        let tree = self.first.tree(name).ok_or_else(|| damaged("a tree is missing"))?;
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
        let tree = self.first.tree(name).ok_or_else(|| damaged("a tree is missing"))?;
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            batch.insert(key, value);
        }
        self.first.write_batch(&tree, batch)
    }

    /// Closes the database: sled flushes when its last handle goes. A write.
    pub(super) fn close(self) -> Result<(), Failure> {
        guarded(move || {
            drop(self);
            Ok(())
        })
    }

    /// The trees in which something of a section may be, or of what is in none; those come first that count before others.
    fn trees(&self, name: &[u8], section: Option<u8>) -> Result<impl DoubleEndedIterator<Item = sled::Tree>, Failure> {
        let store = self.section_store(section)?;
        Ok([store.and_then(|store| store.tree(name)), self.first.tree(name)].into_iter().flatten())
    }

    /// The store of a section that has one.
    fn section_store(&self, section: Option<u8>) -> Result<Option<Arc<Store>>, Failure> {
        match (&self.sections, section) {
            (Some(sections), Some(section)) => sections.store(section),
            _ => Ok(None),
        }
    }
}

/// Where a scan of a tree has come to.
struct Cursor {
    tree: sled::Tree,
    entries: sled::Iter,
    next: Option<(sled::IVec, sled::IVec)>,
}

impl Cursor {
    fn new(tree: sled::Tree, range: std::ops::Range<Vec<u8>>) -> Result<Self, Failure> {
        let mut entries = tree.range(range);
        let next = guarded(|| entries.next().transpose())?;
        Ok(Self { tree, entries, next })
    }

    fn key(&self) -> Option<&sled::IVec> {
        self.next.as_ref().map(|(key, _)| key)
    }

    /// The entry at a key, if it is the next one. Whoever gets an error does not go on: after a damaged page, sled's iterators yield errors
    /// for ever.
    fn take(&mut self, key: &sled::IVec) -> Result<Option<sled::IVec>, Failure> {
        if self.key() != Some(key) {
            return Ok(None);
        }
        let next = guarded(|| self.entries.next().transpose())?;
        Ok(std::mem::replace(&mut self.next, next).map(|(_, entry)| entry))
    }
}
