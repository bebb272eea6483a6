//! Giving sled what a database was told since, in pieces of about one flush.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use super::super::super::{Anchored, Mark};
use super::super::memtable::Table;
use super::super::rows::{self, Entry};
use super::super::watchdog::{Caller, Watchdog};
use super::sections::{self, SECTIONS, Sections};
use super::store::{CREATION_BYTES, FLUSH_BYTES, FLUSH_ENTRIES, Failure, Store, damaged, guarded};
use super::{Database, ENTRY_BYTES, REMOVAL_BYTES};

/// What is taken from memory at a time. When there is no more room for so much, it is flushed and others have their turn.
const STEP_BYTES: usize = FLUSH_BYTES / 8;
const STEP_ENTRIES: usize = FLUSH_ENTRIES / 8;

const WRITING: &str = "writing to a database";

/// A settling that was begun.
pub(super) struct Settling {
    left: VecDeque<Unsettled>,
    /// The file of the commit log that has what was applied since.
    file: u64,
}

/// A tree that a settling has not come to the end of.
struct Unsettled {
    tree: Vec<u8>,
    /// The last row that was written.
    done: Option<Vec<u8>>,
    /// The marks as they were at the beginning.
    marks: Vec<(Mark, Anchored)>,
}

/// What a settling that ended has left to do.
pub(in super::super) struct Left {
    /// The first file of the commit log with something that was applied since it was begun; `None` when nothing was.
    pub(in super::super) since: Option<u64>,
}

/// An entry to put or to remove.
struct Change {
    /// Where; `None` for the first store.
    section: Option<u8>,
    key: Vec<u8>,
    entry: Option<Vec<u8>>,
}

impl Database {
    /// Makes everything that was applied durable in sled. A write. `before_flush` may refuse one, which is a failure.
    ///
    /// If they are to be `kept`, passing rows stay in memory, and whoever calls sees to it that they are durable elsewhere.
    pub(in super::super) fn settle(
        &self,
        kept: bool,
        watchdog: &Watchdog,
        before_flush: &dyn Fn() -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.begin_settling(0, watchdog)?;
        while self.settle_on(kept, watchdog, before_flush)?.is_none() {}
        Ok(())
    }

    /// Gives up a settling that was begun. What it wrote is written once more by the next one.
    pub(in super::super) fn end_settling(&self) {
        *self.settling() = None;
    }

    /// Whether a settling was begun and has not ended.
    pub(in super::super) fn is_settling(&self) -> bool {
        self.settling().is_some()
    }

    /// Begins to make everything durable in sled that was applied until now, anew if that was begun before. `file` is the one of the commit
    /// log that has what is applied from now on.
    pub(in super::super) fn begin_settling(&self, file: u64, watchdog: &Watchdog) -> Result<(), Failure> {
        if let Some(sections) = &self.sections {
            self.make_sections(sections, watchdog)?;
        }
        let mut newer = self.newer.write().unwrap_or_else(PoisonError::into_inner);
        newer.begin_settling();
        let marks = |table: &Table| table.marks().collect();
        let left = newer.trees().map(|(name, table)| Unsettled { tree: name.clone(), done: None, marks: marks(table) }).collect();
        *self.settling() = Some(Settling { left, file });
        Ok(())
    }

    /// Makes the sections that something is to be written to, if the first store has grown. Only between two settlings: a section counts before
    /// the first store, and what a settling writes must go to one of the two, rows and marks.
    fn make_sections(&self, sections: &Sections, watchdog: &Watchdog) -> Result<(), Failure> {
        let absent = (0..SECTIONS).filter(|section| sections.is_absent(*section));
        let touched = |section: &u8| self.newer().trees().any(|(_, table)| table.touches(*section));
        let wanted: Vec<_> = absent.filter(touched).collect();
        if !wanted.is_empty() && sections.are_begun(&self.first)? {
            wanted.into_iter().try_for_each(|section| sections.open(section, watchdog).map(drop))?;
        }
        Ok(())
    }

    /// Does a piece of what was [begun](Self::begin_settling), about as much as goes into one flush. Tells at the end what is left.
    ///
    /// An error, or a crash, may leave a part of it: the commit log has it whole, and writing it again completes it. Meanwhile reads get
    /// everything that is written from memory, so they see no part. Commits may be applied between two pieces: a row may be written as it is
    /// by then, but a mark is written as it was at the beginning, and after all rows. So what the commit log has beyond the mark, a crash has
    /// applied anew.
    pub(in super::super) fn settle_on(
        &self,
        kept: bool,
        watchdog: &Watchdog,
        before_flush: &dyn Fn() -> io::Result<()>,
    ) -> Result<Option<Left>, Failure> {
        // Large rows fill one between two looks at how full it is.
        let flushed = Cell::new(false);
        let flush = |store: &Store| {
            flushed.set(true);
            before_flush()?;
            watchdog.flush(store, "flushing a database")
        };
        let create = |store: &Store, name: &[u8]| {
            if store.is_full(CREATION_BYTES) {
                flush(store)?;
            }
            watchdog.call(Caller::Committer, WRITING, || store.create_tree(name))
        };
        let Some(mut settling) = self.settling().take() else { return Ok(Some(Left { since: None })) };
        while let Some(unsettled) = settling.left.front_mut() {
            let name = &unsettled.tree;
            if self.first.tree(name).is_none() {
                create(&self.first, name)?;
            }
            let (changes, done) = watchdog.call(Caller::Committer, WRITING, || {
                // Only whoever has the lane's turn changes it, so nobody waits for this.
                let newer = self.newer();
                newer
                    .tree(name)
                    .map_or_else(|| Ok((Vec::new(), None)), |table| self.changes(name, table, unsettled.done.as_ref(), kept))
            })?;
            // The marks last.
            let marks = if done.is_none() { std::mem::take(&mut unsettled.marks) } else { Vec::new() };
            let marks = marks.into_iter().map(|(mark, anchored)| {
                let entry = Some(rows::mark_value(&anchored));
                Change { section: self.written_to(sections::of_mark(mark)), key: rows::mark_key(mark), entry }
            });
            for Change { section, key, entry } in changes.into_iter().chain(marks) {
                let section = self.section_store(section)?;
                let store = section.as_deref().unwrap_or(&self.first);
                let bytes = entry.as_ref().map_or(REMOVAL_BYTES, |entry| key.len() + entry.len() + ENTRY_BYTES);
                if store.is_full(bytes) {
                    flush(store)?;
                }
                if store.tree(name).is_none() {
                    create(store, name)?;
                }
                let tree = store.tree(name).ok_or_else(|| damaged("a tree is missing"))?;
                watchdog.call(Caller::Committer, WRITING, || store.write(&tree, key, entry, bytes))?;
            }
            match done {
                Some(_) => unsettled.done = done,
                None => drop(settling.left.pop_front()),
            }
            if !settling.left.is_empty() && (flushed.get() || self.is_nearly_full()) {
                self.flush_written(&flush)?;
                *self.settling() = Some(settling);
                return Ok(None);
            }
        }
        self.flush_written(&flush)?;
        for store in self.open_sections() {
            watchdog.call(Caller::Committer, "syncing a database", || store.sync())?;
        }
        watchdog.call(Caller::Committer, "syncing a database", || self.first.sync())?;
        let all = self.newer.write().unwrap_or_else(PoisonError::into_inner).settled(kept);
        Ok(Some(Left { since: (!all).then_some(settling.file) }))
    }

    /// Flushes the stores that were written to, and the first one.
    fn flush_written(&self, flush: &dyn Fn(&Store) -> Result<(), Failure>) -> Result<(), Failure> {
        let sections = self.open_sections();
        sections.iter().filter(|store| store.written() != (0, 0)).try_for_each(|store| flush(store))?;
        flush(&self.first)
    }

    /// Whether all stores together have about as much as one flush takes.
    fn is_nearly_full(&self) -> bool {
        let sections = self.open_sections();
        let written = sections.iter().map(|store| store.written()).chain([self.first.written()]);
        let (bytes, entries) = written.fold((0, 0), |all, store| (all.0 + store.0, all.1 + store.1));
        bytes + STEP_BYTES > FLUSH_BYTES || entries + STEP_ENTRIES > FLUSH_ENTRIES
    }

    fn open_sections(&self) -> Vec<Arc<Store>> {
        self.sections.as_ref().map(Sections::open_ones).unwrap_or_default()
    }

    /// Where something of a section is written.
    fn written_to(&self, section: Option<u8>) -> Option<u8> {
        let sections = self.sections.as_ref()?;
        section.filter(|section| !sections.is_absent(*section))
    }

    /// What to do to the entries of the rows behind one, a part of what goes into one flush, and the last of these rows; `None` when there is no
    /// row behind them.
    fn changes(
        &self,
        name: &[u8],
        table: &Table,
        behind: Option<&Vec<u8>>,
        kept: bool,
    ) -> Result<(Vec<Change>, Option<Vec<u8>>), Failure> {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let first = self.first.tree(name);
        for (key, value) in table.rows(behind.map_or(Bound::Unbounded, Bound::Excluded), kept) {
            let section = self.written_to(sections::of_key(key));
            match value {
                Some(value) => self.replace(&mut changes, section, name, key, rows::entries(key, value))?,
                // The first store's may go at any time, once the section says that there is none; and the section may say so without need.
                None if section.is_some() && parts_of(first.as_ref(), key)?.is_some() => {
                    self.replace(&mut changes, section, name, key, vec![(rows::row_key(key), rows::removed())])?;
                    self.replace(&mut changes, None, name, key, Vec::new())?;
                }
                None => self.replace(&mut changes, section, name, key, Vec::new())?,
            }
            bytes += key.len() + value.map_or(REMOVAL_BYTES, |value| value.len() + ENTRY_BYTES);
            if bytes >= STEP_BYTES || changes.len() >= STEP_ENTRIES {
                return Ok((changes, Some(key.clone())));
            }
        }
        Ok((changes, None))
    }

    /// What to do to the entries of one row to have these instead.
    fn replace(
        &self,
        changes: &mut Vec<Change>,
        section: Option<u8>,
        name: &[u8],
        key: &[u8],
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Failure> {
        let tree = match self.section_store(section)? {
            Some(store) => store.tree(name),
            None => self.first.tree(name),
        };
        let old_parts = parts_of(tree.as_ref(), key)?;
        let mut change = |key, entry| changes.push(Change { section, key, entry });
        // No parts of an older value may stay.
        let new_parts = u16::try_from(entries.len().saturating_sub(1)).unwrap_or(u16::MAX);
        (new_parts..old_parts.unwrap_or(0).max(new_parts)).for_each(|part| change(rows::part_key(key, part), None));
        if entries.is_empty() && old_parts.is_some() {
            change(rows::row_key(key), None);
        }
        entries.into_iter().for_each(|(key, entry)| change(key, Some(entry)));
        Ok(())
    }

    fn settling(&self) -> std::sync::MutexGuard<'_, Option<Settling>> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many parts the value of a row has that is there; `None` when there is no row.
fn parts_of(tree: Option<&sled::Tree>, key: &[u8]) -> Result<Option<u16>, Failure> {
    let Some(tree) = tree else { return Ok(None) };
    let Some(entry) = guarded(|| tree.get(rows::row_key(key)))? else { return Ok(None) };
    match rows::parse(&entry) {
        Some(Entry::Whole(_) | Entry::Removed) => Ok(Some(0)),
        Some(Entry::InParts(parts)) => Ok(Some(parts.count)),
        None => Err(damaged("a row's first entry can't be read")),
    }
}
