//! A database is given in pieces what the commit log is ahead, with commits in between: whenever that stops, nothing is lost. The same for
//! a directory that gets sections while it does so.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Anchored, Commit, Mark, MarkStep};
use super::database::sections::SECTIONS;
use super::database::{Database, SectionOptions};
use super::frames::{Logged, Target};
use super::shards::is_behind;
use super::tests::copy;
use super::watchdog::Watchdog;

/// Three trees of a shard, or three buckets of the directory.
const SUBJECTS: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Puts rows of these sizes, and removes others.
    Commit {
        subject: u8,
        puts: Vec<(u8, usize)>,
        removes: Vec<u8>,
    },
    Piece,
    /// Opens the database anew. A directory's gets sections from then on.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![1_usize..60, 5_000_usize..14_000];
    let puts = prop::collection::vec((0_u8..6, size), 0..5);
    let removes = prop::collection::vec(6_u8..8, 0..2);
    let commit = (0..SUBJECTS, puts, removes).prop_map(|(subject, mut puts, mut removes)| {
        // A row that is there at times only.
        puts.extend((removes.is_empty()).then_some((6, 20)));
        puts.sort_unstable();
        puts.dedup_by_key(|(row, _)| *row);
        removes.dedup();
        Step::Commit { subject, puts, removes }
    });
    prop::collection::vec(prop_oneof![6 => commit, 4 => Just(Step::Piece), 1 => Just(Step::Reopen)], 1..40)
}

/// What commits are made to.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Shard,
    Directory,
}

impl Kind {
    fn open(self, dir: &Path, from_bytes: u64, watchdog: &Watchdog) -> Database {
        match self {
            Kind::Shard => Database::open(dir, 1 << 20, watchdog).unwrap().0,
            Kind::Directory => {
                let options = SectionOptions { cache_bytes: 1 << 20, from_bytes };
                let database = Database::open_in_sections(dir, 1 << 20, options, watchdog).unwrap().0;
                for section in 0..SECTIONS {
                    if database.is_section_closed(section).unwrap() {
                        database.open_section(section, watchdog).unwrap();
                    }
                }
                database
            }
        }
    }

    fn tree(self, subject: u8) -> Vec<u8> {
        match self {
            Kind::Shard => vec![subject; 16],
            Kind::Directory => b"directory".to_vec(),
        }
    }

    fn mark(self, subject: u8) -> Mark {
        match self {
            Kind::Shard => Mark::Account,
            Kind::Directory => Mark::Bucket(Self::bucket(subject)),
        }
    }

    /// Two of one section, and one of none.
    fn bucket(subject: u8) -> u16 {
        [0x0301, 0x03ff, 0x1000][usize::from(subject)]
    }

    /// The beginning of all keys of a subject.
    fn beginning(self, subject: u8) -> Vec<u8> {
        match self {
            Kind::Shard => Vec::new(),
            Kind::Directory => Self::bucket(subject).to_be_bytes().to_vec(),
        }
    }

    fn key(self, subject: u8, row: u8) -> Vec<u8> {
        [self.beginning(subject), vec![row]].concat()
    }

    fn commit(self, subject: u8, sequence: u64, puts: &[(u8, usize)], removes: &[u8]) -> Commit {
        let next = Anchored { sequence, digest: [0; 32] };
        let put = |(row, size): &(u8, usize)| (self.key(subject, *row), vec![sequence as u8 ^ *row; *size]);
        Commit {
            puts: puts.iter().map(put).collect(),
            removes: removes.iter().map(|row| self.key(subject, *row)).collect(),
            marks: vec![MarkStep { mark: self.mark(subject), expected: sequence - 1, next }],
            ..Commit::default()
        }
    }

    /// Each row of a subject, the byte that its value repeats, and how often.
    fn all(self, database: &Database, subject: u8) -> Vec<(Vec<u8>, u8, usize)> {
        let (start, end) = (self.beginning(subject), self.key(subject, 0xff));
        let rows = database.scan(&self.tree(subject), &start, &end, 100).unwrap();
        let told = |(key, value): (Vec<u8>, Vec<u8>)| {
            assert!(value.iter().all(|byte| *byte == value[0]), "a row of two commits");
            assert_eq!(database.get(&self.tree(subject), &key).unwrap().as_ref(), Some(&value));
            (key, value[0], value.len())
        };
        rows.into_iter().map(told).collect()
    }
}

/// A database, what it should be, and its log as far as that is needed.
struct World {
    kind: Kind,
    dir: tempfile::TempDir,
    watchdog: std::sync::Arc<Watchdog>,
    /// `None` only while it is opened anew.
    database: Option<Database>,
    expected: Database,
    sequences: [u64; SUBJECTS as usize],
    log: Vec<Logged>,
    begun_at: usize,
}

impl World {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let watchdog = Watchdog::start(Duration::from_secs(60)).unwrap();
        let database = kind.open(&dir.path().join("database"), u64::MAX, &watchdog);
        let expected = kind.open(&dir.path().join("expected"), u64::MAX, &watchdog);
        let sequences = [0; SUBJECTS as usize];
        Self { kind, dir, watchdog, database: Some(database), expected, sequences, log: Vec::new(), begun_at: 0 }
    }

    fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    fn commit(&mut self, subject: u8, puts: &[(u8, usize)], removes: &[u8]) {
        let sequence = &mut self.sequences[usize::from(subject)];
        *sequence += 1;
        let commit = self.kind.commit(subject, *sequence, puts, removes);
        let tree = self.kind.tree(subject);
        let create = *sequence == 1;
        self.database().apply(&tree, commit.clone(), 1);
        self.expected.apply(&tree, commit.clone(), 1);
        self.log.push(Logged { target: Target { shard: None, generation: 0 }, tree, create, commit });
    }

    /// Whether that was the last one.
    fn piece(&mut self) -> bool {
        if !self.database().is_settling() {
            self.database().begin_settling(1, &self.watchdog).unwrap();
            self.begun_at = self.log.len();
        }
        let left = self.database().settle_on(true, &self.watchdog, &|| Ok(())).unwrap();
        let Some(left) = left else { return false };
        assert_eq!(left.since, (self.log.len() > self.begun_at).then_some(1));
        self.log.drain(..self.begun_at);
        true
    }

    /// Closes the database in the middle of everything, and opens it with the log.
    fn reopen(&mut self) {
        self.database.take().unwrap().close().unwrap();
        let database = self.opened("database");
        self.database = Some(database);
        self.begun_at = 0;
    }

    /// What whoever opens this database has of it and of the log.
    fn opened(&self, name: &str) -> Database {
        let database = self.kind.open(&self.dir.path().join(name), 0, &self.watchdog);
        for logged in &self.log {
            if is_behind(&database, logged).unwrap() {
                database.apply(&logged.tree, logged.commit.clone(), 1);
            }
        }
        database
    }

    /// Whoever reads sees the newest, and whoever opens what is on disk after a crash, with the log, has it.
    fn check(&self) {
        let crashed = self.dir.path().join("crashed");
        copy(&self.dir.path().join("database"), &crashed);
        let after = self.opened("crashed");
        after.settle(true, &self.watchdog, &|| Ok(())).unwrap();
        for subject in 0..SUBJECTS {
            let expected = self.kind.all(&self.expected, subject);
            assert_eq!(self.kind.all(self.database(), subject), expected);
            assert_eq!(self.kind.all(&after, subject), expected);
            let mark = after.mark(&self.kind.tree(subject), self.kind.mark(subject)).unwrap();
            assert_eq!(mark.map_or(0, |mark| mark.sequence), self.sequences[usize::from(subject)]);
        }
        drop(after);
        std::fs::remove_dir_all(crashed).unwrap();
    }

    fn play(kind: Kind, steps: Vec<Step>) {
        let mut world = World::new(kind);
        for step in steps {
            match step {
                Step::Commit { subject, puts, removes } => world.commit(subject, &puts, &removes),
                Step::Piece => {
                    world.piece();
                    world.check();
                }
                Step::Reopen => world.reopen(),
            }
        }
        world.check();
    }
}

#[test]
fn a_mark_is_not_ahead_of_a_row_that_was_written_before_its_commit() {
    let mut world = World::new(Kind::Shard);
    world.commit(0, &[0, 1, 2, 3, 4, 5].map(|row| (row, 12_000)), &[]);
    assert!(!world.piece(), "the first rows are written, and not the last");
    world.commit(0, &[(0, 20)], &[]);
    world.commit(0, &[(5, 20)], &[]);
    while !world.piece() {}
    world.check();
}

#[test]
fn a_row_that_the_first_store_has_is_replaced_and_removed_in_a_section() {
    let mut world = World::new(Kind::Directory);
    let dir = world.dir.path().to_owned();
    let sections = || std::fs::read_dir(dir.join("database/sections")).map_or(0, Iterator::count);
    world.commit(0, &[(0, 20), (1, 12_000), (2, 20)], &[]);
    world.commit(2, &[(0, 20)], &[]);
    while !world.piece() {}
    world.reopen();
    assert_eq!(sections(), 0, "none before anything is written");
    world.commit(0, &[(0, 30)], &[1]);
    while !world.piece() {}
    assert_eq!(sections(), 1);
    world.check();
    // What is newer is in the section alone: without it, it is the older rows, which their digest and the anchor find.
    copy(&dir.join("database"), &dir.join("older"));
    std::fs::remove_dir_all(dir.join("older/sections")).unwrap();
    let older = Kind::Directory.open(&dir.join("older"), 0, &world.watchdog);
    assert_eq!(Kind::Directory.all(&older, 0), [(vec![3, 1, 0], 1, 20), (vec![3, 1, 2], 3, 20)]);
    let mark = older.mark(b"directory", Mark::Bucket(0x0301)).unwrap().unwrap();
    assert_eq!(mark.sequence, 1);
    // A removed row may come back.
    world.commit(0, &[(1, 40)], &[0]);
    while !world.piece() {}
    world.reopen();
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_between_two_pieces_a_crash_loses_nothing(steps in steps()) {
        World::play(Kind::Shard, steps);
    }

    #[test]
    fn whenever_a_directory_gets_sections_a_crash_loses_nothing(steps in steps()) {
        World::play(Kind::Directory, steps);
    }
}
