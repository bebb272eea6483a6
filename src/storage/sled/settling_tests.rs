//! A database is given in pieces what the commit log is ahead, with commits in between: whenever that stops, nothing is lost.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{Anchored, Commit, Mark, MarkStep};
use super::database::Database;
use super::frames::{Logged, Target};
use super::shards::is_behind;
use super::tests::copy;
use super::watchdog::Watchdog;

const ACCOUNTS: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Puts rows of these sizes, and removes others.
    Commit {
        account: u8,
        puts: Vec<(u8, usize)>,
        removes: Vec<u8>,
    },
    Piece,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![1_usize..60, 5_000_usize..14_000];
    let puts = prop::collection::vec((0_u8..6, size), 0..5);
    let removes = prop::collection::vec(6_u8..8, 0..2);
    let commit = (0..ACCOUNTS, puts, removes).prop_map(|(account, mut puts, mut removes)| {
        // A row that is there at times only.
        puts.extend((removes.is_empty()).then_some((6, 20)));
        puts.sort_unstable();
        puts.dedup_by_key(|(row, _)| *row);
        removes.dedup();
        Step::Commit { account, puts, removes }
    });
    prop::collection::vec(prop_oneof![3 => commit, 2 => Just(Step::Piece)], 1..40)
}

fn tree(account: u8) -> Vec<u8> {
    vec![account; 16]
}

fn commit(sequence: u64, puts: &[(u8, usize)], removes: &[u8]) -> Commit {
    let next = Anchored { sequence, digest: [0; 32] };
    Commit {
        puts: puts.iter().map(|(row, size)| (vec![*row], vec![sequence as u8 ^ *row; *size])).collect(),
        removes: removes.iter().map(|row| vec![*row]).collect(),
        marks: vec![MarkStep { mark: Mark::Account, expected: sequence - 1, next }],
        ..Commit::default()
    }
}

/// A database, what it should be, and its log as far as that is needed.
struct World {
    dir: tempfile::TempDir,
    watchdog: std::sync::Arc<Watchdog>,
    database: Database,
    expected: Database,
    sequences: [u64; ACCOUNTS as usize],
    log: Vec<Logged>,
    begun_at: usize,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let watchdog = Watchdog::start(Duration::from_secs(60)).unwrap();
        let [database, expected] =
            ["database", "expected"].map(|name| Database::open(&dir.path().join(name), 1 << 20, &watchdog).unwrap().0);
        Self { dir, watchdog, database, expected, sequences: [0; ACCOUNTS as usize], log: Vec::new(), begun_at: 0 }
    }

    fn commit(&mut self, account: u8, puts: &[(u8, usize)], removes: &[u8]) {
        let sequence = &mut self.sequences[usize::from(account)];
        *sequence += 1;
        let commit = commit(*sequence, puts, removes);
        self.database.apply(&tree(account), commit.clone(), 1);
        self.expected.apply(&tree(account), commit.clone(), 1);
        let target = Target { shard: None, generation: 0 };
        self.log.push(Logged { target, tree: tree(account), create: *sequence == 1, commit });
    }

    /// Whether that was the last one.
    fn piece(&mut self) -> bool {
        if !self.database.is_settling() {
            self.database.begin_settling(1);
            self.begun_at = self.log.len();
        }
        let Some(left) = self.database.settle_on(true, &self.watchdog, &|| Ok(())).unwrap() else { return false };
        assert_eq!(left.since, (self.log.len() > self.begun_at).then_some(1));
        self.log.drain(..self.begun_at);
        true
    }

    /// Whoever reads sees the newest, and whoever opens what is on disk after a crash, with the log, has it.
    fn check(&self) {
        let crashed = self.dir.path().join("crashed");
        copy(&self.dir.path().join("database"), &crashed);
        let after = Database::open(&crashed, 1 << 20, &self.watchdog).unwrap().0;
        for logged in &self.log {
            if is_behind(&after, logged).unwrap() {
                after.apply(&logged.tree, logged.commit.clone(), 1);
            }
        }
        after.settle(true, &self.watchdog, &|| Ok(())).unwrap();
        for account in 0..ACCOUNTS {
            let expected = all(&self.expected, account);
            assert_eq!(all(&self.database, account), expected);
            assert_eq!(all(&after, account), expected);
            let mark = after.mark(&tree(account), Mark::Account).unwrap().map_or(0, |mark| mark.sequence);
            assert_eq!(mark, self.sequences[usize::from(account)]);
        }
        drop(after);
        std::fs::remove_dir_all(crashed).unwrap();
    }
}

#[test]
fn a_mark_is_not_ahead_of_a_row_that_was_written_before_its_commit() {
    let mut world = World::new();
    world.commit(0, &[0, 1, 2, 3, 4, 5].map(|row| (row, 12_000)), &[]);
    assert!(!world.piece(), "the first rows are written, and not the last");
    world.commit(0, &[(0, 20)], &[]);
    world.commit(0, &[(5, 20)], &[]);
    while !world.piece() {}
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_between_two_pieces_a_crash_loses_nothing(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Commit { account, puts, removes } => world.commit(account, &puts, &removes),
                Step::Piece => {
                    world.piece();
                    world.check();
                }
            }
        }
        world.check();
    }
}

/// Each row of an account, the byte that its value repeats, and how often.
fn all(database: &Database, account: u8) -> Vec<(Vec<u8>, u8, usize)> {
    let rows = database.scan(&tree(account), b"", &[0xff], 100).unwrap();
    let told = |(key, value): (Vec<u8>, Vec<u8>)| {
        assert!(value.iter().all(|byte| *byte == value[0]), "a row of two commits");
        (key, value[0], value.len())
    };
    rows.into_iter().map(told).collect()
}
