//! Giving sled what a database was told since, in pieces of about one flush.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::PoisonError;

use super::super::super::{Anchored, Mark};
use super::super::memtable::Table;
use super::super::rows::{self, Entry};
use super::super::watchdog::{Caller, Watchdog};
use super::{CREATION_BYTES, Database, ENTRY_BYTES, Failure, REMOVAL_BYTES, damaged, guarded};

/// The most that is written between two flushes, but for one entry. sled writes up to about seven times as much to its log (a page is
/// written anew every ten changes, cleaning moves another one, splitting a page writes both halves), so less than half a segment of
/// log lies between two flushes, and a flush between queueing a truncation and waiting for it: the condition under which sled can't
/// deadlock (see `committer.rs`).
const FLUSH_BYTES: usize = 32 * 1024;
const FLUSH_ENTRIES: usize = 256;

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

/// What was written since the last flush.
#[derive(Default)]
pub(super) struct Unflushed {
    pub(super) bytes: usize,
    pub(super) entries: usize,
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
        self.begin_settling(0);
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
    pub(in super::super) fn begin_settling(&self, file: u64) {
        let mut newer = self.newer.write().unwrap_or_else(PoisonError::into_inner);
        newer.begin_settling();
        let marks = |table: &Table| table.marks().collect();
        let left = newer.trees().map(|(name, table)| Unsettled { tree: name.clone(), done: None, marks: marks(table) }).collect();
        *self.settling() = Some(Settling { left, file });
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
        let flush = || {
            flushed.set(true);
            before_flush()?;
            watchdog.flush(self, "flushing a database")
        };
        let Some(mut settling) = self.settling().take() else { return Ok(Some(Left { since: None })) };
        while let Some(unsettled) = settling.left.front_mut() {
            let name = &unsettled.tree;
            if self.tree(name).is_none() {
                if self.is_full(CREATION_BYTES) {
                    flush()?;
                }
                watchdog.call(Caller::Committer, WRITING, || self.create_tree(name))?;
            }
            let tree = self.tree(name).ok_or_else(|| damaged("a tree is missing"))?;
            let (changes, done) = watchdog.call(Caller::Committer, WRITING, || {
                // Only whoever has the lane's turn changes it, so nobody waits for this.
                let newer = self.newer();
                newer
                    .tree(name)
                    .map_or_else(|| Ok((Vec::new(), None)), |table| changes(&tree, table, unsettled.done.as_ref(), kept))
            })?;
            // The marks last.
            let marks = if done.is_none() { std::mem::take(&mut unsettled.marks) } else { Vec::new() };
            let marks = marks.into_iter().map(|(mark, anchored)| (rows::mark_key(mark), Some(rows::mark_value(&anchored))));
            for (key, entry) in changes.into_iter().chain(marks) {
                let bytes = entry.as_ref().map_or(REMOVAL_BYTES, |entry| key.len() + entry.len() + ENTRY_BYTES);
                if self.is_full(bytes) {
                    flush()?;
                }
                watchdog.call(Caller::Committer, WRITING, || {
                    guarded(|| match entry {
                        Some(entry) => tree.insert(key, entry).map(drop),
                        None => tree.remove(key).map(drop),
                    })
                })?;
                let mut unflushed = self.unflushed();
                unflushed.bytes += bytes;
                unflushed.entries += 1;
            }
            match done {
                Some(_) => unsettled.done = done,
                None => drop(settling.left.pop_front()),
            }
            if !settling.left.is_empty() && (flushed.get() || self.is_nearly_full()) {
                flush()?;
                *self.settling() = Some(settling);
                return Ok(None);
            }
        }
        flush()?;
        watchdog.call(Caller::Committer, "syncing a database", || self.sync())?;
        let all = self.newer.write().unwrap_or_else(PoisonError::into_inner).settled(kept);
        Ok(Some(Left { since: (!all).then_some(settling.file) }))
    }

    fn is_full(&self, bytes: usize) -> bool {
        let unflushed = self.unflushed();
        unflushed.bytes > 0 && (unflushed.bytes + bytes > FLUSH_BYTES || unflushed.entries >= FLUSH_ENTRIES)
    }

    fn is_nearly_full(&self) -> bool {
        let unflushed = self.unflushed();
        unflushed.bytes + STEP_BYTES > FLUSH_BYTES || unflushed.entries + STEP_ENTRIES > FLUSH_ENTRIES
    }

    fn settling(&self) -> std::sync::MutexGuard<'_, Option<Settling>> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries to put and to remove.
type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What to do to the entries of the rows behind one, a part of what goes into one flush, and the last of these rows; `None` when there is no
/// row behind them.
fn changes(
    tree: &sled::Tree,
    table: &Table,
    behind: Option<&Vec<u8>>,
    kept: bool,
) -> Result<(Changes, Option<Vec<u8>>), Failure> {
    let (mut changes, mut bytes) = (Vec::new(), 0);
    for (key, value) in table.rows(behind.map_or(Bound::Unbounded, Bound::Excluded), kept) {
        let old_parts = parts_of(tree, key)?;
        let entries = value.map_or_else(Vec::new, |value| rows::entries(key, value));
        // No parts of an older value may stay.
        let new_parts = u16::try_from(entries.len().saturating_sub(1)).unwrap_or(u16::MAX);
        let left_over = new_parts..old_parts.unwrap_or(0).max(new_parts);
        changes.extend(left_over.map(|part| (rows::part_key(key, part), None)));
        if entries.is_empty() && old_parts.is_some() {
            changes.push((rows::row_key(key), None));
        }
        changes.extend(entries.into_iter().map(|(key, entry)| (key, Some(entry))));
        bytes += key.len() + value.map_or(REMOVAL_BYTES, |value| value.len() + ENTRY_BYTES);
        if bytes >= STEP_BYTES || changes.len() >= STEP_ENTRIES {
            return Ok((changes, Some(key.clone())));
        }
    }
    Ok((changes, None))
}

/// How many parts the value of a row has that is there; `None` when there is no row.
fn parts_of(tree: &sled::Tree, key: &[u8]) -> Result<Option<u16>, Failure> {
    let Some(entry) = guarded(|| tree.get(rows::row_key(key)))? else { return Ok(None) };
    match rows::parse(&entry) {
        Some(Entry::Whole(_)) => Ok(Some(0)),
        Some(Entry::InParts(parts)) => Ok(Some(parts.count)),
        None => Err(damaged("a row's first entry can't be read")),
    }
}
