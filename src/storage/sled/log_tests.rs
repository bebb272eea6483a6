//! The commit log: what a crash leaves in it, what damage does to it, when its files go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_lite::future::block_on;

use super::super::tests::{TestSeal, commit, handle};
use super::super::*;
use super::commit_log::{COMMITS, CommitLog, forget_directory};
use super::frames::{self, Frame};
use super::tests::{Bench, check, copy, create, try_open};

fn log_files(vault: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(vault.join(COMMITS)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Copies the vault as a process that is killed now would leave it: file by file, so not while a database follows the log.
fn crash(bench: &Bench, name: &str) -> PathBuf {
    let state = || log_files(&bench.path()).into_iter().map(|path| (fs::metadata(&path).map_or(0, |facts| facts.len()), path));
    let mut before: Vec<_> = state().collect();
    loop {
        std::thread::sleep(Duration::from_millis(150));
        let now: Vec<_> = state().collect();
        if std::mem::replace(&mut before, now.clone()) == now {
            break;
        }
    }
    let crashed = bench.dir.path().join(name);
    copy(&bench.path(), &crashed);
    crashed
}

/// Six accounts in three shards, each changed twice.
fn fill(storage: &dyn Storage) {
    for number in 0..6 {
        let (_, tree) = create(storage, number);
        for round in 1..=2 {
            block_on(tree.commit(commit(round, &[(b"round", &[round as u8]), (b"large", &[number as u8; 9_000])]))).unwrap();
        }
    }
}

/// The account as [`fill`] left it, or an error; never anything else.
fn filled(storage: &dyn Storage, number: u16) -> Result<(), StorageError> {
    let tree = block_on(storage.tree(ShardId(u32::from(number / 2)), handle(number)))?;
    assert_eq!(block_on(tree.load(b"k"))?, Some(number.to_be_bytes().to_vec()));
    assert_eq!(block_on(tree.load(b"round"))?, Some(vec![2]));
    assert_eq!(block_on(tree.load(b"large"))?, Some(vec![number as u8; 9_000]));
    Ok(())
}

#[test]
fn a_crash_loses_nothing_that_only_the_log_has() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    fill(&*storage);
    block_on(storage.sync_anchors()).unwrap();
    let (crashed, control) = (crash(&bench, "crashed"), crash(&bench, "control"));
    // Again and again, since a process may die while it applies what another one left.
    for _ in 0..3 {
        let again = bench.dir.path().join("again");
        copy(&crashed, &again);
        let storage = try_open(&again, &bench.options).unwrap();
        (0..6).for_each(|number| filled(&*storage, number).unwrap());
        assert!(log_files(&again).is_empty(), "all of it is in the databases");
        drop(storage);
        fs::remove_dir_all(&again).unwrap();
    }
    // The control: without the log it would be missing, and that is noticed.
    fs::remove_dir_all(control.join(COMMITS)).unwrap();
    let storage = try_open(&control, &bench.options).unwrap();
    assert!((0..6).filter(|number| filled(&*storage, *number).is_err()).count() >= 3, "what was not flushed on the way");
}

#[test]
fn a_vault_that_was_closed_has_no_log() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    assert!(log_files(&bench.path()).is_empty(), "nothing was written yet");
    fill(&*storage);
    assert_eq!(log_files(&bench.path()).len(), 1);
    block_on(storage.close()).unwrap();
    assert!(log_files(&bench.path()).is_empty());
    let storage = bench.open();
    (0..6).for_each(|number| filled(&*storage, number).unwrap());
}

#[test]
fn no_flipped_byte_in_the_log_is_silent() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    fill(&*storage);
    block_on(storage.sync_anchors()).unwrap();
    let crashed = crash(&bench, "crashed");
    let log = log_files(&crashed).remove(0);
    let whole = fs::read(&log).unwrap();
    let (mut reported, trial) = (0, bench.dir.path().join("trial"));
    for at in (0..whole.len()).step_by(1_733) {
        copy(&crashed, &trial);
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(trial.join(COMMITS).join(log.file_name().unwrap()), bytes).unwrap();
        let storage = try_open(&trial, &bench.options).unwrap();
        reported += (0..6).filter(|number| !is_filled_or_tells(&*storage, *number)).count();
        drop(storage);
        fs::remove_dir_all(&trial).unwrap();
    }
    assert!(reported > 5, "{reported}: damage costs something");
}

/// Whether the account is whole. What is not is told by its mark, which is behind the anchor's, or by its head, which
/// is not kept here: then a row is of another commit than the mark.
fn is_filled_or_tells(storage: &dyn Storage, number: u16) -> bool {
    let Ok(tree) = block_on(storage.tree(ShardId(u32::from(number / 2)), handle(number))) else { return false };
    let rows = block_on(tree.scan(b"", &[0xff], 100)).unwrap();
    let anchored = tree.anchored(Mark::Account).unwrap();
    assert_eq!(anchored.sequence, 3);
    // Every commit of `fill` writes all of its rows, so the last one makes the account whole but for the row of its creation.
    assert!(rows.iter().any(|(key, value)| key == b"round" && *value == [2]), "an old state is shown as the newest");
    rows.len() == 3
}

#[test]
fn an_older_log_that_is_put_back_changes_nothing() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    fill(&*storage);
    let older = crash(&bench, "older");
    let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
    block_on(tree.commit(commit(3, &[(b"round", &[3]), (b"k", b"newer")]))).unwrap();
    block_on(storage.shred(ShardId(2), vec![handle(5)])).unwrap();
    block_on(storage.close()).unwrap();
    drop((tree, storage));
    for put_back_twice in [false, true] {
        copy(&older.join(COMMITS), &bench.path().join(COMMITS));
        let storage = bench.open();
        let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
        assert_eq!(block_on(tree.load(b"round")).unwrap(), Some(vec![3]));
        assert_eq!(block_on(tree.load(b"k")).unwrap(), Some(b"newer".to_vec()));
        (1..5).for_each(|number| filled(&*storage, number).unwrap());
        assert!(matches!(block_on(storage.tree(ShardId(2), handle(5))), Err(StorageError::NoTree)), "{put_back_twice}");
        block_on(storage.close()).unwrap();
    }
}

#[test]
fn a_full_file_is_followed_by_another_and_goes() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.commit_log_bytes = 40_000;
    let storage = bench.open();
    fill(&*storage);
    let trees: Vec<_> =
        (0..6_u16).map(|number| block_on(storage.tree(ShardId(u32::from(number / 2)), handle(number))).unwrap()).collect();
    let mut most = 0;
    for round in 3..60 {
        for tree in &trees {
            block_on(tree.commit(commit(round, &[(b"round", &[round as u8]), (b"large", &[round as u8; 9_000])]))).unwrap();
        }
        most = most.max(log_files(&bench.path()).len());
    }
    assert!((2..8).contains(&most), "{most} files of 120 that were written");
    let last = log_files(&bench.path()).pop().unwrap();
    assert!(last.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap() > 50, "{last:?}");
    let crashed = crash(&bench, "crashed");
    block_on(storage.close()).unwrap();
    assert!(log_files(&bench.path()).is_empty());
    for path in [crashed, bench.path()] {
        let storage = try_open(&path, &bench.options).unwrap();
        for number in 0..6_u16 {
            let tree = block_on(storage.tree(ShardId(u32::from(number / 2)), handle(number))).unwrap();
            assert_eq!(block_on(tree.load(b"large")).unwrap(), Some(vec![59; 9_000]));
        }
    }
}

#[test]
fn a_database_that_cannot_be_opened_keeps_its_commits_in_the_log() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.commit_log_bytes = 40_000;
    let storage = bench.open();
    (0..6).for_each(|number| drop(create(&*storage, number)));
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    let trees: Vec<_> =
        (0..6_u16).map(|number| block_on(storage.tree(ShardId(u32::from(number / 2)), handle(number))).unwrap()).collect();
    block_on(trees[2].commit(commit(1, &[(b"k2", b"only in the log")]))).unwrap();
    block_on(storage.sync_anchors()).unwrap();
    let crashed = crash(&bench, "crashed");
    drop((trees, storage));

    let (away, shard) = (bench.dir.path().join("away"), crashed.join("shards/0001.0"));
    fs::rename(shard.join("db"), &away).unwrap();
    for _ in 0..2 {
        let storage = try_open(&crashed, &bench.options).unwrap();
        assert!(matches!(check(&*storage, 1, 2), Err(StorageError::Corrupted { .. })));
        // Its neighbours go on, through many files of the log.
        let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
        let begin = tree.anchored(Mark::Account).unwrap().sequence;
        for round in begin..begin + 30 {
            block_on(tree.commit(commit(round, &[(b"large", &[1; 9_000])]))).unwrap();
        }
        block_on(storage.close()).unwrap();
        assert_eq!(log_files(&crashed).len(), 1, "what the shard has not got");
    }
    fs::rename(&away, shard.join("db")).unwrap();
    let storage = try_open(&crashed, &bench.options).unwrap();
    let tree = block_on(storage.tree(ShardId(1), handle(2))).unwrap();
    assert_eq!(block_on(tree.load(b"k2")).unwrap(), Some(b"only in the log".to_vec()));
    check(&*storage, 1, 3).unwrap();
    block_on(storage.close()).unwrap();
    assert!(log_files(&crashed).is_empty());
}

#[test]
fn a_vault_whose_log_cannot_be_applied_for_now_does_not_open_and_loses_nothing() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    fill(&*storage);
    let crashed = crash(&bench, "crashed");
    // Not damage: something that may be over the next time.
    let (db, away) = (crashed.join("shards/0001.0/db"), bench.dir.path().join("away"));
    fs::rename(&db, &away).unwrap();
    fs::create_dir(&db).unwrap();
    assert!(matches!(try_open(&crashed, &bench.options), Err(StorageError::Io { .. })));
    assert_eq!(log_files(&crashed).len(), 1);
    fs::remove_dir(&db).unwrap();
    fs::rename(&away, &db).unwrap();
    let storage = try_open(&crashed, &bench.options).unwrap();
    (0..6).for_each(|number| filled(&*storage, number).unwrap());
}

#[test]
fn a_database_that_cannot_follow_poisons_and_reopening_has_what_was_acknowledged() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.commit_log_bytes = 40_000;
    let storage = bench.open();
    let (_, tree) = create(&*storage, 0);
    bench.options.faults.fail_nth_settling(1);
    let mut acknowledged = 0;
    let error = (1..).find_map(|round| {
        let outcome = block_on(tree.commit(commit(round, &[(b"round", &[round as u8]), (b"large", &[0; 9_000])])));
        acknowledged = if outcome.is_ok() { round } else { acknowledged };
        outcome.err()
    });
    assert!(matches!(&error, Some(StorageError::Poisoned(reason)) if reason.contains("writing to ")), "{error:?}");
    assert!(acknowledged > 2);
    block_on(storage.close()).unwrap_err();
    drop((tree, storage));
    assert!(!log_files(&bench.path()).is_empty());
    let storage = bench.open();
    let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
    let round = block_on(tree.load(b"round")).unwrap().unwrap()[0];
    assert!(u64::from(round) >= acknowledged, "{round} {acknowledged}");
}

#[test]
fn what_was_closed_is_not_opened_again_after_a_crash() {
    let mut bench = Bench::with_small_shards(1);
    bench.options.max_open_shards = 2;
    let storage = bench.open();
    (0..20).for_each(|number| drop(create(&*storage, number)));
    let crashed = crash(&bench, "crashed");
    let (log, _) = CommitLog::load(&crashed, Arc::new(TestSeal)).unwrap();
    assert!((1..=3).contains(&log.places_left().len()), "{:?}", log.places_left());
    let storage = try_open(&crashed, &bench.options).unwrap();
    (0..20_u16).for_each(|number| check(&*storage, number.into(), number).unwrap());
}

#[test]
fn a_deletion_empties_the_log_of_every_database() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    fill(&*storage);
    block_on(storage.shred(ShardId(1), vec![handle(2)])).unwrap();
    let files = log_files(&bench.path());
    assert_eq!(files.len(), 1);
    assert!(read(&files[0]).iter().all(|frame| matches!(frame, Frame::Settled(_))), "{files:?}");
    let crashed = crash(&bench, "crashed");
    let storage = try_open(&crashed, &bench.options).unwrap();
    for number in [0, 1, 3, 4, 5] {
        filled(&*storage, number).unwrap();
    }
    assert!(filled(&*storage, 2).is_err());
}

#[test]
fn passing_rows_stay_in_the_log_until_the_vault_is_closed_or_they_are_removed() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.commit_log_bytes = 30_000;
    let storage = bench.open();
    let directory = storage.directory();
    let change = |round: u64, passing: Vec<Row>, removes: Vec<Vec<u8>>| {
        let next = Anchored { sequence: round + 1, digest: [round as u8; 32] };
        let marks = vec![MarkStep { mark: Mark::Bucket(9), expected: round, next }];
        let puts = vec![(b"head".to_vec(), vec![round as u8])];
        block_on(directory.commit(Commit { puts, passing, removes, marks })).unwrap();
    };
    let key = |number: u64| [b"row".as_slice(), &number.to_be_bytes()].concat();
    let (needle, mut most) = ([0xa7_u8, 0x13, 0x5e, 0x99].repeat(8), 0);
    for round in 0..400_u64 {
        let value = [needle.as_slice(), &vec![round as u8; 5_000]].concat();
        let gone = if round % 20 == 19 { (round - 19..round - 1).map(key).collect() } else { Vec::new() };
        change(round, vec![(key(round), value)], gone);
        most = most.max(log_files(&bench.path()).len());
    }
    let written: u64 = log_files(&bench.path()).pop().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    assert!((15..24).contains(&most) && written > 50, "{most} files of {written}");
    // The last two of each twenty are there.
    let expected: Vec<_> = (0..400).filter(|round| round % 20 >= 18).map(key).collect();
    let found = |storage: &dyn Storage| {
        let rows = block_on(storage.directory().scan(b"row", b"rox", 1_000)).unwrap();
        rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(found(&*storage), expected);
    let in_sled = |vault: &Path| {
        let log = fs::read(vault.join("directory/db")).unwrap();
        log.windows(needle.len()).any(|window| window == needle)
    };
    assert!(!in_sled(&bench.path()));
    let crashed = crash(&bench, "crashed");
    assert_eq!(found(&*try_open(&crashed, &bench.options).unwrap()), expected);
    block_on(storage.close()).unwrap();
    drop((directory, storage));
    assert!(log_files(&bench.path()).is_empty() && in_sled(&bench.path()), "the control");
    let storage = bench.open();
    assert_eq!(found(&*storage), expected);
    let removes = expected.clone();
    let next = Anchored { sequence: 401, digest: [1; 32] };
    let marks = vec![MarkStep { mark: Mark::Bucket(9), expected: 400, next }];
    block_on(storage.directory().commit(Commit { removes, marks, ..Commit::default() })).unwrap();
    block_on(storage.close()).unwrap();
    assert!(found(&*bench.open()).is_empty());
}

#[test]
fn whoever_reads_while_a_database_follows_sees_whole_commits() {
    let mut bench = Bench::new();
    bench.options.commit_log_bytes = 30_000;
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..400_u64 {
                // Three parts, two, and none.
                let value = vec![round as u8; [9_000, 5_000, 10][round as usize % 3]];
                block_on(tree.commit(commit(round, &[(b"a", &value), (b"b", &value), (b"c", &[round as u8])]))).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let mut last = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let rows = block_on(tree.scan(b"a", b"d", 10)).unwrap();
            let [(_, a), (_, b), (_, c)] = &rows[..] else {
                assert!(rows.is_empty(), "{rows:?}");
                continue;
            };
            assert!(a == b && a[0] == c[0] && a.iter().all(|byte| *byte == a[0]));
            last = u64::from(c[0]).max(last);
            assert!(block_on(tree.load(b"a")).unwrap().is_some());
        }
        assert!(last > 0);
    });
}

fn read(path: &Path) -> Vec<Frame> {
    let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    frames::read(&fs::read(path).unwrap(), number, &TestSeal).unwrap().frames
}

#[test]
fn a_directory_that_is_replaced_takes_its_part_of_the_log_along() {
    let mut bench = Bench::with_small_shards(2);
    // Else the directory's anchor would miss what is not applied.
    bench.options.anchor_interval = Duration::from_secs(3600);
    let storage = bench.open();
    create(&*storage, 0);
    let step = MarkStep { mark: Mark::Bucket(3), expected: 0, next: Anchored { sequence: 1, digest: [1; 32] } };
    let change = Commit { puts: vec![(b"row".to_vec(), b"value".to_vec())], marks: vec![step], ..Commit::default() };
    block_on(storage.directory().commit(change)).unwrap();
    let crashed = crash(&bench, "crashed");
    let file = log_files(&crashed).remove(0);
    let of_directory = |frames: &[Frame]| {
        frames.iter().filter(|frame| matches!(frame, Frame::Commit(logged) if logged.target.shard.is_none())).count()
    };
    let before = read(&file);
    assert_eq!(of_directory(&before), 1);
    forget_directory(&crashed, &crashed.join("directory"), &TestSeal).unwrap();
    let after = read(&file);
    assert_eq!((of_directory(&after), after.len()), (0, before.len() - 1));
    let kept = crashed.join("directory").join(format!("{COMMITS}-{}", file.file_name().unwrap().to_str().unwrap()));
    assert_eq!(fs::read(kept).unwrap(), fs::read(log_files(&bench.path()).remove(0)).unwrap());
    let storage = try_open(&crashed, &bench.options).unwrap();
    check(&*storage, 0, 0).unwrap();
    assert_eq!(block_on(storage.directory().load(b"row")).unwrap(), None);
}

#[test]
fn a_file_of_another_vault_is_set_aside() {
    let bench = Bench::new();
    drop(bench.open());
    fs::create_dir_all(bench.path().join(COMMITS)).unwrap();
    let stranger = bench.path().join(COMMITS).join(format!("{:016}", 4));
    fs::write(&stranger, [b"AHCOMMIT".as_slice(), &[7; 200]].concat()).unwrap();
    let storage = bench.open();
    assert_eq!(storage.status().repaired.len(), 1, "{:?}", storage.status());
    assert!(!stranger.exists() && stranger.with_extension("aside").exists());
    create(&*storage, 1);
    block_on(storage.close()).unwrap();
    check(&*bench.open(), 0, 1).unwrap();
}
