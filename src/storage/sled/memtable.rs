//! What a database has been told and sled has not: the commits since the last time that everything was made durable in it. The commit log
//! has them as well. A row that is written again and again reaches sled once, and one that is removed soon after never.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::super::{Anchored, Commit, Mark, Row};

#[derive(Debug, Default)]
pub(super) struct Memtable {
    /// By the names of trees.
    tables: BTreeMap<Vec<u8>, Table>,
    /// What was applied since sled began to be given the rest, while it is.
    since: Option<BTreeMap<Vec<u8>, Since>>,
}

/// What was applied to one tree.
#[derive(Debug, Default)]
struct Since {
    marks: BTreeSet<Mark>,
    rows: BTreeSet<Vec<u8>>,
}

/// What is newer than in sled, of one tree.
#[derive(Debug, Default)]
pub(super) struct Table {
    marks: BTreeMap<Mark, Anchored>,
    rows: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Debug)]
enum Entry {
    Put(Vec<u8>),
    /// Sled has none, and is not to get it. The commit log has it, in the file of this number.
    Passing(Vec<u8>, u64),
    Removed,
}

impl Entry {
    fn value(&self) -> Option<&Vec<u8>> {
        match self {
            Entry::Put(value) | Entry::Passing(value, _) => Some(value),
            Entry::Removed => None,
        }
    }
}

/// What is known of a row.
pub(super) enum Newer<'a> {
    Put(&'a [u8]),
    Removed,
    /// What sled has is the newest.
    Not,
}

impl Memtable {
    /// `file` is the one of the commit log that has the commit.
    pub(super) fn apply(&mut self, tree: &[u8], commit: Commit, file: u64) {
        if let Some(since) = &mut self.since {
            let since = since.entry(tree.to_vec()).or_default();
            let rows = commit.puts.iter().chain(&commit.passing).map(|(key, _)| key).chain(&commit.removes);
            since.rows.extend(rows.cloned());
            since.marks.extend(commit.marks.iter().map(|step| step.mark));
        }
        if !self.tables.contains_key(tree) {
            self.tables.insert(tree.to_vec(), Table::default());
        }
        let Some(table) = self.tables.get_mut(tree) else { return };
        for key in commit.removes {
            if matches!(table.rows.get(&key), Some(Entry::Passing(..))) {
                table.rows.remove(&key);
            } else {
                table.rows.insert(key, Entry::Removed);
            }
        }
        table.rows.extend(commit.puts.into_iter().map(|(key, value)| (key, Entry::Put(value))));
        table.rows.extend(commit.passing.into_iter().map(|(key, value)| (key, Entry::Passing(value, file))));
        table.marks.extend(commit.marks.into_iter().map(|step| (step.mark, step.next)));
    }

    /// What a commit does to passing rows, of which sled has none whatever its marks say.
    pub(super) fn apply_passing(&mut self, tree: &[u8], commit: &Commit, file: u64) {
        if let Some(table) = self.tables.get_mut(tree) {
            for key in &commit.removes {
                if matches!(table.rows.get(key), Some(Entry::Passing(..))) {
                    table.rows.remove(key);
                }
            }
        }
        if !commit.passing.is_empty() {
            self.apply(tree, Commit { passing: commit.passing.clone(), ..Commit::default() }, file);
        }
    }

    pub(super) fn trees(&self) -> impl Iterator<Item = (&Vec<u8>, &Table)> {
        self.tables.iter()
    }

    pub(super) fn tree(&self, name: &[u8]) -> Option<&Table> {
        self.tables.get(name)
    }

    /// The oldest file of the commit log with a row that is passing.
    pub(super) fn oldest_passing(&self) -> Option<u64> {
        let entries = self.tables.values().flat_map(|table| table.rows.values());
        let files = entries.filter_map(|entry| match entry {
            Entry::Passing(_, file) => Some(*file),
            Entry::Put(_) | Entry::Removed => None,
        });
        files.min()
    }

    /// All rows that are passing have been written to this file.
    pub(super) fn passing_moved(&mut self, to: u64) {
        for entry in self.tables.values_mut().flat_map(|table| table.rows.values_mut()) {
            if let Entry::Passing(_, file) = entry {
                *file = to;
            }
        }
    }

    /// Sled is going to be given everything that is here: what is applied from now on is told from it.
    pub(super) fn begin_settling(&mut self) {
        self.since = Some(BTreeMap::new());
    }

    /// Sled has everything that was here when it began but what is passing, and that as well if it is not to be `kept`. Answers whether
    /// nothing was applied since.
    pub(super) fn settled(&mut self, kept: bool) -> bool {
        let since = self.since.take().unwrap_or_default();
        self.tables.retain(|name, table| {
            let since = since.get(name);
            table.marks.retain(|mark, _| since.is_some_and(|since| since.marks.contains(mark)));
            table.rows.retain(|key, entry| {
                kept && matches!(entry, Entry::Passing(..)) || since.is_some_and(|since| since.rows.contains(key))
            });
            !table.rows.is_empty() || !table.marks.is_empty()
        });
        since.is_empty()
    }
}

impl Table {
    pub(super) fn mark(&self, mark: Mark) -> Option<Anchored> {
        self.marks.get(&mark).copied()
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = (Mark, Anchored)> + '_ {
        self.marks.iter().map(|(mark, anchored)| (*mark, *anchored))
    }

    pub(super) fn row(&self, key: &[u8]) -> Newer<'_> {
        match self.rows.get(key).map(Entry::value) {
            Some(Some(value)) => Newer::Put(value),
            Some(None) => Newer::Removed,
            None => Newer::Not,
        }
    }

    /// Every row behind one that was put or removed, but those that are passing if they are to be `kept`.
    pub(super) fn rows<'a>(
        &'a self,
        behind: Bound<&Vec<u8>>,
        kept: bool,
    ) -> impl Iterator<Item = (&'a Vec<u8>, Option<&'a Vec<u8>>)> + use<'a> {
        let wanted = move |entry: &Entry| !(kept && matches!(entry, Entry::Passing(..)));
        self.rows
            .range::<Vec<u8>, _>((behind, Bound::Unbounded))
            .filter(move |(_, entry)| wanted(entry))
            .map(|(key, entry)| (key, entry.value()))
    }

    /// Whether there is anything of a section of the directory.
    pub(super) fn touches(&self, section: u8) -> bool {
        let (from, to) = (u16::from(section) << 8, (u16::from(section) + 1) << 8);
        self.marks.range(Mark::Bucket(from)..Mark::Bucket(to)).next().is_some()
            || self.rows.range(vec![section]..vec![section + 1]).next().is_some()
    }

    /// The rows that are passing.
    pub(super) fn passing(&self) -> impl Iterator<Item = Row> + '_ {
        self.rows.iter().filter_map(|(key, entry)| match entry {
            Entry::Passing(value, _) => Some((key.clone(), value.clone())),
            Entry::Put(_) | Entry::Removed => None,
        })
    }

    /// Lays what is newer with `start <= key < end` over what sled has: `older` gives the next rows of it from a key on, a few at a time, and
    /// none when there are no more.
    pub(super) fn merge<E>(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        mut older: impl FnMut(&[u8], usize) -> Result<Vec<Row>, E>,
    ) -> Result<Vec<Row>, E> {
        let mut newer = self.rows.range(start.to_vec()..end.to_vec()).peekable();
        let mut merged = Vec::new();
        let mut from = start.to_vec();
        loop {
            let wanted = limit - merged.len();
            if wanted == 0 {
                return Ok(merged);
            }
            let rows = older(&from, wanted)?;
            let ended = rows.len() < wanted;
            let last = rows.last().map(|(key, _)| key.clone());
            for row in rows {
                while let Some((key, value)) = newer.next_if(|(key, _)| **key < row.0) {
                    merged.extend(value.value().map(|value| (key.clone(), value.clone())));
                }
                match newer.next_if(|(key, _)| **key == row.0) {
                    Some((key, value)) => merged.extend(value.value().map(|value| (key.clone(), value.clone()))),
                    None => merged.push(row),
                }
                if merged.len() >= limit {
                    merged.truncate(limit);
                    return Ok(merged);
                }
            }
            match last {
                // The key right behind it.
                Some(mut last) if !ended => {
                    last.push(0);
                    from = last;
                }
                _ => {
                    let rest = newer.filter_map(|(key, value)| Some((key.clone(), value.value()?.clone())));
                    let room = limit - merged.len();
                    merged.extend(rest.take(room));
                    return Ok(merged);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<u8>>> {
        prop::collection::btree_map(prop::collection::vec(0_u8..3, 0..3), prop::option::of(any::<u8>()), 0..20)
    }

    proptest! {
        #[test]
        fn laid_over_is_as_if_it_had_been_written(older in rows(), newer in rows(), ends in prop::collection::vec(0_u8..3, 0..3), limit in 0_usize..25) {
            let older: BTreeMap<Vec<u8>, Vec<u8>> = older.into_iter().filter_map(|(key, value)| Some((key, vec![value?]))).collect();
            let newer: Vec<_> = newer.into_iter().map(|(key, value)| (key, value.map(|value| vec![value, 1]))).collect();
            let mut memtable = Memtable::default();
            let mut written = older.clone();
            for (key, value) in newer {
                let commit = match value {
                    Some(value) => {
                        written.insert(key.clone(), value.clone());
                        Commit { puts: vec![(key, value)], ..Commit::default() }
                    }
                    None => {
                        written.remove(&key);
                        Commit { removes: vec![key], ..Commit::default() }
                    }
                };
                memtable.apply(b"tree", commit, 1);
            }
            let table = Table::default();
            let table = memtable.tree(b"tree").unwrap_or(&table);
            for (start, end) in [(vec![], vec![9]), (ends.clone(), vec![9]), (vec![], ends.clone())] {
                if start >= end {
                    continue;
                }
                let read = |from: &[u8], count: usize| {
                    let rows = older.range(from.to_vec()..end.clone()).take(count);
                    Ok::<_, ()>(rows.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>())
                };
                let merged = table.merge(&start, &end, limit, read).unwrap();
                let expected: Vec<_> =
                    written.range(start..end.clone()).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect();
                prop_assert_eq!(merged, expected);
            }
        }
    }
}
