//! Damage at any place of a database's files: intact, or an error that the layers above see. Never a panic, never a hang,
//! never a row that is silently missing or old, and never anything of another shard.
//!
//! The layers above keep a sealed head over all rows of a tree. Here a plain row stands in for it: a checksum of the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures_lite::future::block_on;

use super::super::tests::{commit, handle};
use super::super::*;
use super::tests::{Bench, content, copy, try_open};

const HEAD: &[u8] = b"head";
const ACCOUNTS: u16 = 3;

/// How many places are tried; `ANCHORHOLD_DAMAGE_TRIALS` sets more.
fn trials() -> usize {
    std::env::var("ANCHORHOLD_DAMAGE_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Intact,
    /// The engine reports it.
    Reported,
    /// The engine gives rows that the head disagrees with.
    SeenByHead,
}

fn head_of(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    for (key, value) in rows.iter().filter(|(key, _)| *key != HEAD) {
        hasher.update(&(key.len() as u32).to_be_bytes());
        hasher.update(key);
        hasher.update(&(value.len() as u32).to_be_bytes());
        hasher.update(value);
    }
    hasher.finalize().to_be_bytes().to_vec()
}

/// Two shards of three accounts with some history, and what is in them.
fn fill(bench: &Bench, last_opening: bool) -> BTreeMap<AccountHandle, BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut expected = BTreeMap::new();
    let storage = bench.open();
    for number in 0..2 * ACCOUNTS {
        let shard = block_on(storage.create(handle(number), commit(0, &[]))).unwrap();
        assert_eq!(shard.0, u32::from(number / ACCOUNTS));
        let tree = block_on(storage.tree(shard, handle(number))).unwrap();
        let mut rows = BTreeMap::new();
        for sequence in 1..60_u64 {
            let key = vec![(sequence % 23) as u8];
            let value = vec![sequence as u8; 40 + 97 * (sequence as usize % 9) + 9000 * usize::from(sequence % 20 == 0)];
            rows.insert(key.clone(), value.clone());
            let head = head_of(&rows);
            rows.insert(HEAD.to_vec(), head.clone());
            block_on(tree.commit(commit(sequence, &[(&key, &value), (HEAD, &head)]))).unwrap();
        }
        expected.insert(handle(number), rows);
    }
    block_on(storage.close()).unwrap();
    if last_opening {
        // sled writes its snapshot at opening.
        let storage = bench.open();
        for shard in 0..2 {
            block_on(storage.members(ShardId(shard))).unwrap();
        }
    }
    expected
}

fn read(storage: &dyn Storage, number: u16) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StorageError> {
    let shard = ShardId(u32::from(number / ACCOUNTS));
    let tree = block_on(storage.tree(shard, handle(number)))?;
    Ok(block_on(tree.scan(b"", &[0xff], usize::MAX))?.into_iter().collect())
}

/// Opens a damaged vault and looks at every account of the damaged shard.
fn examine(path: &Path, bench: &Bench, expected: &BTreeMap<AccountHandle, BTreeMap<Vec<u8>, Vec<u8>>>, what: &str) -> Outcome {
    let storage = try_open(path, &bench.options).unwrap();
    let mut worst = Outcome::Intact;
    for number in 0..2 * ACCOUNTS {
        let outcome = match read(&*storage, number) {
            Ok(rows) if rows == expected[&handle(number)] => Outcome::Intact,
            // A tree whose rows agree with a head is whole, so it must be the last acknowledged state.
            Ok(rows) => {
                assert_ne!(rows.get(HEAD), Some(&head_of(&rows)), "{what}: account {number} is silently older");
                Outcome::SeenByHead
            }
            Err(StorageError::Corrupted { place: Location::Shard(shard), accounts, .. }) => {
                assert_eq!(u16::try_from(shard.0).unwrap(), number / ACCOUNTS, "{what}");
                assert!(accounts.iter().all(|account| expected.contains_key(account)), "{what}");
                Outcome::Reported
            }
            Err(StorageError::RolledBack { place: Location::Shard(shard), .. }) => {
                assert_eq!(u16::try_from(shard.0).unwrap(), number / ACCOUNTS, "{what}");
                Outcome::Reported
            }
            Err(other) => panic!("{what}: account {number}: {other:?}"),
        };
        if number >= ACCOUNTS {
            assert_eq!(outcome, Outcome::Intact, "{what}: the neighbour shard is hurt");
        }
        worst = worst.max(outcome);
    }
    // The vault as a whole goes on.
    block_on(storage.create(handle(500), commit(0, &[]))).unwrap();
    assert!(storage.status().poisoned.is_none(), "{what}: {:?}", storage.status());
    block_on(storage.close()).unwrap();
    worst
}

fn run(last_opening: bool) {
    let bench = Bench::with_small_shards(ACCOUNTS.into());
    let expected = fill(&bench, last_opening);
    let files: Vec<(PathBuf, Vec<u8>)> =
        content(&bench.shard(0, 0)).into_iter().filter(|(path, bytes)| path.is_file() && !bytes.is_empty()).collect();
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(files.iter().any(|(path, _)| path.to_string_lossy().contains("snap.")), last_opening);
    let damaged = bench.dir.path().join("damaged");
    let mut outcomes = BTreeMap::<_, usize>::new();
    let trials = trials();
    for trial in 0..trials {
        for (path, bytes) in &files {
            // The log gets trials by its size, the small files at least a few.
            let share = (trials * bytes.len()).div_ceil(total).max(12).min(trials);
            if trial >= share {
                continue;
            }
            let at = (trial * bytes.len() / share + trial * 7919 % 61).min(bytes.len() - 1);
            for truncate in [false, true] {
                let what = format!("{} {} at {at}", if truncate { "cut" } else { "flip" }, path.display());
                copy(&bench.path(), &damaged);
                let target = damaged.join(path.strip_prefix(bench.path()).unwrap());
                let mut bytes = bytes.clone();
                if truncate {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1 << (trial % 8);
                }
                fs::write(&target, bytes).unwrap();
                let outcome = examine(&damaged, &bench, &expected, &what);
                *outcomes.entry((truncate, outcome)).or_default() += 1;
                fs::remove_dir_all(&damaged).unwrap();
            }
        }
    }
    println!("snapshot {last_opening}: {outcomes:?}");
    assert!(outcomes.keys().any(|(_, outcome)| *outcome != Outcome::Intact), "the damage is damage");
}

#[test]
fn damage_without_a_snapshot_is_never_silent() {
    run(false);
}

#[test]
fn damage_with_a_snapshot_is_never_silent() {
    run(true);
}
