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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_between_two_pieces_a_crash_loses_nothing(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let watchdog = Watchdog::start(Duration::from_secs(60)).unwrap();
        let open = |name: &str| Database::open(&dir.path().join(name), 1 << 20, &watchdog).unwrap().0;
        let database = open("database");
        // The database as it should be, and the log as far as it is needed.
        let (mut sequences, mut log, mut begun_at) = ([0_u64; ACCOUNTS as usize], Vec::new(), 0);
        let expected = Database::open(&dir.path().join("expected"), 1 << 20, &watchdog).unwrap().0;
        for step in steps {
            match step {
                Step::Commit { account, puts, removes } => {
                    let sequence = &mut sequences[usize::from(account)];
                    *sequence += 1;
                    let commit = commit(*sequence, &puts, &removes);
                    database.apply(&tree(account), commit.clone(), 1);
                    expected.apply(&tree(account), commit.clone(), 1);
                    let target = Target { shard: None, generation: 0 };
                    log.push(Logged { target, tree: tree(account), create: *sequence == 1, commit });
                }
                Step::Piece => {
                    if !database.is_settling() {
                        database.begin_settling(1);
                        begun_at = log.len();
                    }
                    if let Some(left) = database.settle_on(true, &watchdog, &|| Ok(())).unwrap() {
                        prop_assert_eq!(left.since, (log.len() > begun_at).then_some(1));
                        log.drain(..begun_at);
                    }
                }
            }
            for account in 0..ACCOUNTS {
                // Whoever reads meanwhile sees the newest.
                prop_assert_eq!(all(&database, account), all(&expected, account));
            }
        }
        copy(&dir.path().join("database"), &dir.path().join("crashed"));
        let crashed = open("crashed");
        for logged in log {
            if is_behind(&crashed, &logged).unwrap() {
                crashed.apply(&logged.tree, logged.commit, 1);
            }
        }
        crashed.settle(true, &watchdog, &|| Ok(())).unwrap();
        for account in 0..ACCOUNTS {
            prop_assert_eq!(all(&crashed, account), all(&expected, account));
            let mark = crashed.mark(&tree(account), Mark::Account).unwrap().map_or(0, |mark| mark.sequence);
            prop_assert_eq!(mark, sequences[usize::from(account)]);
        }
    }
}

fn all(database: &Database, account: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    database.scan(&tree(account), b"", &[0xff], 100).unwrap()
}
