//! The sections of the directory's database. The buckets of accounts are in one sled database with all else until that has grown; what is
//! written then goes to sixteen further ones by its bucket, each made when first written and opened when first asked. So opening a vault
//! reads a first database that no longer grows with the number of customers.
//!
//! What a section has is newer than what the first database has of the same buckets. That stays where it is, but for rows that are removed:
//! a section says of such a row that there is none, whenever the first database loses it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::super::{Commit, Mark, StorageError};
use super::super::files;
use super::super::watchdog::Watchdog;
use super::store::{Failure, Store};

/// How many there are: as many as there are first bytes of the buckets of accounts.
pub(in super::super) const SECTIONS: u8 = 16;

const DIR: &str = "sections";

/// How sections are kept.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct SectionOptions {
    /// Of each.
    pub(in super::super) cache_bytes: u64,
    /// How long the log of the first database is when sections are begun.
    pub(in super::super) from_bytes: u64,
}

pub(super) struct Sections {
    dir: PathBuf,
    /// There were some when the database was opened.
    found: bool,
    options: SectionOptions,
    states: [Mutex<State>; SECTIONS as usize],
}

enum State {
    /// Everything of its buckets is in the first database.
    Absent,
    Closed,
    Open(Arc<Store>),
    /// Not to be used before the vault is reopened. The store is there when it still has to be closed.
    Failed(StorageError, #[allow(dead_code, reason = "held to be closed with the database")] Option<Arc<Store>>),
}

impl Sections {
    /// Looks which there are in a directory's database.
    pub(super) fn find(database: &Path, options: SectionOptions) -> Self {
        let dir = database.join(DIR);
        let states = std::array::from_fn(|section| {
            let there = dir.join(format!("{section:x}")).join("db").exists();
            Mutex::new(if there { State::Closed } else { State::Absent })
        });
        Self { found: dir.exists(), dir, options, states }
    }

    /// The store of a section; `None` when it has none. An error when it was not opened.
    pub(super) fn store(&self, section: u8) -> Result<Option<Arc<Store>>, Failure> {
        match &*self.state(section) {
            State::Absent => Ok(None),
            State::Open(store) => Ok(Some(store.clone())),
            State::Closed | State::Failed(..) => Err(Failure::Io(io::Error::other("a section of the directory is not open"))),
        }
    }

    /// Those that are open.
    pub(super) fn open_ones(&self) -> Vec<Arc<Store>> {
        let open = |section| match &*self.state(section) {
            State::Open(store) => Some(store.clone()),
            State::Absent | State::Closed | State::Failed(..) => None,
        };
        (0..SECTIONS).filter_map(open).collect()
    }

    /// Whether it is there and not open; an error if it can't be opened.
    pub(super) fn is_closed(&self, section: u8) -> Result<bool, StorageError> {
        match &*self.state(section) {
            State::Absent | State::Open(_) => Ok(false),
            State::Closed => Ok(true),
            State::Failed(error, _) => Err(error.clone()),
        }
    }

    /// Whether there were any when the database was opened.
    pub(super) fn were_found(&self) -> bool {
        self.found
    }

    pub(super) fn is_absent(&self, section: u8) -> bool {
        matches!(&*self.state(section), State::Absent)
    }

    /// Whether the first database is so large that sections are to be made.
    pub(super) fn are_begun(&self, first: &Store) -> io::Result<bool> {
        Ok(first.bytes()? >= self.options.from_bytes)
    }

    /// Opens a section, or makes it; the text says what had to be repaired. A write, like opening any database.
    pub(super) fn open(&self, section: u8, watchdog: &Watchdog) -> Result<Option<String>, Failure> {
        if self.is_absent(section) {
            // Durable before anything is in it: a power cut must not take all sections with their directory's name.
            files::create_private_dir(&self.dir)?;
        }
        let dir = self.dir.join(format!("{section:x}"));
        let (store, repaired) = Store::open(&dir, self.options.cache_bytes, watchdog)?;
        *self.state(section) = State::Open(Arc::new(store));
        Ok(repaired)
    }

    /// Nobody uses it any more.
    pub(super) fn fail(&self, section: u8, error: StorageError) {
        let mut state = self.state(section);
        let store = match std::mem::replace(&mut *state, State::Absent) {
            State::Open(store) => Some(store),
            State::Absent | State::Closed | State::Failed(..) => None,
        };
        *state = State::Failed(error, store);
    }

    fn state(&self, section: u8) -> MutexGuard<'_, State> {
        self.states[usize::from(section % SECTIONS)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The section that a row falls into: its key begins with its bucket.
pub(in super::super) fn of_key(key: &[u8]) -> Option<u8> {
    key.first().copied().filter(|section| *section < SECTIONS)
}

/// The section that a mark falls into.
pub(in super::super) fn of_mark(mark: Mark) -> Option<u8> {
    match mark {
        Mark::Account => None,
        Mark::Bucket(bucket) => of_key(&bucket.to_be_bytes()),
    }
}

/// The sections that a commit to the directory reads or writes.
pub(in super::super) fn of_commit(commit: &Commit) -> impl Iterator<Item = u8> + '_ {
    let rows = commit.puts.iter().chain(&commit.passing).map(|(key, _)| key).chain(&commit.removes);
    rows.filter_map(|key| of_key(key)).chain(commit.marks.iter().filter_map(|step| of_mark(step.mark)))
}

/// The sections that a range of keys is in.
pub(in super::super) fn of_range(start: &[u8], end: &[u8]) -> impl Iterator<Item = u8> + Clone + use<> {
    let first = start.first().copied().unwrap_or(0);
    let behind = match end {
        [] => 0,
        [only] => *only,
        [last, ..] => last.saturating_add(1),
    };
    first..behind.min(SECTIONS)
}

/// A range of keys cut where another section begins, in order.
pub(super) fn stretches(start: &[u8], end: &[u8]) -> Vec<(Option<u8>, Vec<u8>, Vec<u8>)> {
    let mut stretches = Vec::new();
    let mut from = start.to_vec();
    while from.as_slice() < end {
        // The keys that are in no section are the empty one, and those behind the last section.
        let section = of_key(&from);
        let next = match section {
            Some(section) => vec![section + 1],
            None if from.is_empty() => vec![0],
            None => end.to_vec(),
        };
        let to = if next.as_slice() < end { next } else { end.to_vec() };
        stretches.push((section, std::mem::replace(&mut from, to.clone()), to));
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_sections_begin() {
        let cut = |start: &[u8], end: &[u8]| {
            let stretches = stretches(start, end);
            let sections: Vec<_> = stretches.iter().filter_map(|(section, ..)| *section).collect();
            assert_eq!(of_range(start, end).collect::<Vec<_>>(), sections);
            stretches
        };
        assert_eq!(cut(&[3, 7], &[3, 8]), [(Some(3), vec![3, 7], vec![3, 8])]);
        assert_eq!(cut(&[3, 7], &[4]), [(Some(3), vec![3, 7], vec![4])]);
        assert_eq!(cut(&[3, 7], &[4, 0]), [(Some(3), vec![3, 7], vec![4]), (Some(4), vec![4], vec![4, 0])]);
        assert_eq!(cut(&[15], b"row"), [(Some(15), vec![15], vec![16]), (None, vec![16], b"row".to_vec())]);
        assert_eq!(cut(b"row", b"rox"), [(None, b"row".to_vec(), b"rox".to_vec())]);
        assert_eq!(cut(b"", &[0, 1]), [(None, vec![], vec![0]), (Some(0), vec![0], vec![0, 1])]);
        assert_eq!(cut(b"", &[0xff]).len(), usize::from(SECTIONS) + 2);
        assert_eq!(cut(&[5], &[5]), []);
        assert_eq!(cut(&[6], &[5]), []);
    }
}
