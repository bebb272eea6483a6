//! Giving sled what a database was told since, in pieces of about one flush.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use super::super::super::{Anchored, Mark};
use super::super::memtable::Table;
use super::super::rows::{self, Entry, PART_BYTES};
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
    /// This settling has made it, so there is nothing older in it.
    new: bool,
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

/// What writing came to.
enum Step {
    /// This store must be flushed before more is written to it.
    Full(Option<u8>),
    /// This store does not have the tree.
    NoTree(Option<u8>),
    /// The next row is not one of those that are written in one entry, in the place of one.
    Row,
    /// So much was written that others may have their turn.
    Enough,
    End,
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
        let left = newer
            .trees()
            .map(|(name, table)| Unsettled { tree: name.clone(), new: false, done: None, marks: marks(table) })
            .collect();
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
            let name = &unsettled.tree.clone();
            if self.first.tree(name).is_none() {
                create(&self.first, name)?;
                unsettled.new = true;
            }
            let make_way = |step| match step {
                Step::Full(section) => self.in_store(section, flush),
                Step::NoTree(section) => self.in_store(section, |store| create(store, name)),
                Step::Row | Step::Enough | Step::End => Ok(()),
            };
            let ended = loop {
                match watchdog.call(Caller::Committer, WRITING, || self.write_rows(unsettled, kept))? {
                    Step::Enough => break false,
                    Step::End => break true,
                    Step::Row => {
                        let row = watchdog.call(Caller::Committer, WRITING, || self.next_row(unsettled, kept))?;
                        self.write(name, row, watchdog, &make_way)?;
                        if flushed.get() || self.is_nearly_full() {
                            break false;
                        }
                    }
                    step => make_way(step)?,
                }
            };
            if ended {
                let marks = std::mem::take(&mut unsettled.marks).into_iter().map(|(mark, anchored)| {
                    let entry = Some(rows::mark_value(&anchored));
                    Change { section: self.written_to(sections::of_mark(mark)), key: rows::mark_key(mark), entry }
                });
                self.write(name, marks, watchdog, &make_way)?;
                settling.left.pop_front();
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

    /// Writes rows behind the last one that was written, as long as each is one entry in the place of none or one.
    fn write_rows(&self, unsettled: &mut Unsettled, kept: bool) -> Result<Step, Failure> {
        let Unsettled { tree: name, new, done, .. } = unsettled;
        // Only whoever has the lane's turn changes it, so nobody waits for this.
        let newer = self.newer();
        let Some(table) = newer.tree(name) else { return Ok(Step::End) };
        let (mut written, mut bytes, mut entries) = (None, 0, 0);
        // Of the last row: those of one section follow each other.
        let mut place: Option<(Option<u8>, Option<Arc<Store>>, sled::Tree)> = None;
        let (mut entry_key, mut entry) = (Vec::new(), Vec::new());
        let mut rows = table.rows(done.as_ref().map_or(Bound::Unbounded, Bound::Excluded), kept);
        let step = loop {
            let Some((key, value)) = rows.next() else { break Step::End };
            let section = self.written_to(sections::of_key(key));
            if place.as_ref().is_none_or(|(last, ..)| *last != section) {
                let store = self.section_store(section)?;
                let Some(tree) = store.as_deref().unwrap_or(&self.first).tree(name) else { break Step::NoTree(section) };
                place = Some((section, store, tree));
            }
            let Some((_, store, tree)) = &place else { break Step::NoTree(section) };
            let Some(value) = value.filter(|value| value.len() < PART_BYTES) else { break Step::Row };
            if !*new && parts_of(Some(tree), key)?.is_some_and(|parts| parts > 0) {
                break Step::Row;
            }
            rows::put_whole(&mut entry_key, &mut entry, key, value);
            let cost = entry_key.len() + entry.len() + ENTRY_BYTES;
            let store = store.as_deref().unwrap_or(&self.first);
            if store.is_full(cost) {
                break Step::Full(section);
            }
            store.write(tree, &entry_key, Some(&entry), cost)?;
            (written, bytes, entries) = (Some(key), bytes + cost, entries + 1);
            if bytes >= STEP_BYTES || entries >= STEP_ENTRIES {
                break Step::Enough;
            }
        };
        if let Some(key) = written {
            *done = Some(key.clone());
        }
        Ok(step)
    }

    /// What to do to the entries of the next row, which counts as written from now on.
    fn next_row(&self, unsettled: &mut Unsettled, kept: bool) -> Result<Vec<Change>, Failure> {
        let Unsettled { tree: name, done, .. } = unsettled;
        let newer = self.newer();
        let behind = done.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut changes = Vec::new();
        let Some((key, value)) = newer.tree(name).and_then(|table| table.rows(behind, kept).next()) else { return Ok(changes) };
        let section = self.written_to(sections::of_key(key));
        match value {
            Some(value) => self.replace(&mut changes, section, name, key, rows::entries(key, value))?,
            // The first store's may go at any time, once the section says that there is none; and the section may say so without need.
            None if section.is_some() && parts_of(self.first.tree(name).as_ref(), key)?.is_some() => {
                self.replace(&mut changes, section, name, key, vec![(rows::row_key(key), rows::removed())])?;
                self.replace(&mut changes, None, name, key, Vec::new())?;
            }
            None => self.replace(&mut changes, section, name, key, Vec::new())?,
        }
        *done = Some(key.clone());
        Ok(changes)
    }

    /// Makes changes of one tree, and has way made where it can't.
    fn write(
        &self,
        name: &[u8],
        changes: impl IntoIterator<Item = Change>,
        watchdog: &Watchdog,
        make_way: &dyn Fn(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let step = watchdog.call(Caller::Committer, WRITING, || {
                while let Some(Change { section, key, entry }) = changes.peek() {
                    let bytes = entry.as_ref().map_or(REMOVAL_BYTES, |entry| key.len() + entry.len() + ENTRY_BYTES);
                    let store = self.section_store(*section)?;
                    let store = store.as_deref().unwrap_or(&self.first);
                    let Some(tree) = store.tree(name) else { return Ok(Step::NoTree(*section)) };
                    if store.is_full(bytes) {
                        return Ok(Step::Full(*section));
                    }
                    store.write(&tree, key, entry.as_deref(), bytes)?;
                    changes.next();
                }
                Ok::<_, Failure>(Step::End)
            })?;
            make_way(step)?;
        }
        Ok(())
    }

    /// Calls with the store of a section, or with the first one.
    fn in_store(&self, section: Option<u8>, call: impl FnOnce(&Store) -> Result<(), Failure>) -> Result<(), Failure> {
        call(self.section_store(section)?.as_deref().unwrap_or(&self.first))
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
