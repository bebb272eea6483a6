//! Failing and hanging disks, too much work, too many open shards: errors, never hangs.

use std::fs;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;

use super::super::tests::{commit, handle};
use super::super::*;
use super::committer;
use super::tests::{Bench, check, create};

#[test]
fn shards_close_when_others_are_wanted_and_trees_go_on() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.max_open_shards = 2;
    let storage = bench.open();
    let trees: Vec<_> = (0..12).map(|number| create(&*storage, number).1).collect();
    for round in 1..4 {
        for tree in &trees {
            block_on(tree.commit(commit(round, &[(b"round", &[round as u8])]))).unwrap();
            assert_eq!(block_on(tree.load(b"round")).unwrap(), Some(vec![round as u8]));
            assert_eq!(tree.anchored(Mark::Account).unwrap().sequence, round + 1);
        }
        assert!(storage.status().open_shards <= 2, "{:?}", storage.status());
    }
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    for number in 0..12_u16 {
        check(&*storage, u32::from(number / 2), number).unwrap();
        let tree = block_on(storage.tree(ShardId(u32::from(number / 2)), handle(number))).unwrap();
        assert_eq!(tree.anchored(Mark::Account).unwrap().sequence, 4);
    }
    assert!(storage.status().open_shards <= 2);
}

#[test]
fn a_failed_sync_poisons_and_reopening_has_what_was_acknowledged() {
    let bench = Bench::with_small_shards(1);
    let storage = bench.open();
    let trees: Vec<_> = (0..3).map(|number| create(&*storage, number).1).collect();
    bench.options.faults.fail_nth_sync(2);
    block_on(trees[0].commit(commit(1, &[(b"k", b"acknowledged")]))).unwrap();
    match block_on(trees[1].commit(commit(1, &[(b"k", b"never acknowledged")]))) {
        Err(StorageError::Poisoned(reason)) => assert!(reason.contains("writing the commit log"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(storage.status().poisoned.is_some());
    for tree in &trees {
        assert!(matches!(block_on(tree.commit(commit(1, &[]))), Err(StorageError::Poisoned(_))));
    }
    assert!(matches!(block_on(storage.create(handle(9), commit(0, &[]))), Err(StorageError::Poisoned(_))));
    assert!(matches!(block_on(storage.sync_anchors()), Err(StorageError::Poisoned(_))));
    // What was not synced was not applied; what was before can still be read, of every shard.
    assert_eq!(block_on(trees[1].load(b"k")).unwrap(), Some(vec![0, 1]));
    assert_eq!(block_on(trees[2].load(b"k")).unwrap(), Some(vec![0, 2]));
    assert!(matches!(block_on(storage.close()), Err(StorageError::Poisoned(_))));
    let storage = bench.open();
    let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
    assert_eq!(block_on(tree.load(b"k")).unwrap(), Some(b"acknowledged".to_vec()));
    check(&*storage, 2, 2).unwrap();
}

#[test]
fn a_stalled_sync_poisons_and_frees_every_waiter() {
    let mut bench = Bench::with_small_shards(1);
    bench.options.stall_timeout = Duration::from_millis(200);
    let storage = bench.open();
    let trees: Vec<_> = (0..3).map(|number| create(&*storage, number).1).collect();
    bench.options.faults.stall_nth_sync(1, Duration::from_secs(2));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for tree in &trees {
            scope.spawn(|| {
                for sequence in 1.. {
                    match block_on(tree.commit(commit(sequence, &[]))) {
                        Ok(()) => {}
                        Err(StorageError::Poisoned(reason)) => return assert!(reason.contains("hangs"), "{reason}"),
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert!(matches!(block_on(trees[0].load(b"k")), Err(StorageError::Poisoned(_))));
    assert!(matches!(block_on(storage.close()), Err(StorageError::Poisoned(_))));
    assert!(started.elapsed() < Duration::from_millis(1500), "nobody waited for the stalled call");
    // The stuck call may yet write, so the place stays locked.
    assert!(matches!(bench.try_open(), Err(StorageError::AlreadyOpen)));
}

#[test]
fn too_many_waiting_commits_are_refused_at_once() {
    let bench = Bench::new();
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    bench.options.faults.stall_nth_sync(1, Duration::from_millis(500));
    let mut commits: Vec<_> = (0..6000).map(|_| tree.commit(commit(1, &[]))).collect();
    let mut overloaded = 0;
    for commit in &mut commits {
        if let Some(Err(StorageError::Overloaded)) = block_on(futures_lite::future::poll_once(commit)) {
            overloaded += 1;
        }
    }
    assert!((1000..2000).contains(&overloaded), "{overloaded}");
    // Dropping the futures drops nobody's turn: the vault closes.
    drop(commits);
    block_on(storage.close()).unwrap();
}

#[test]
fn never_more_than_two_committers_in_the_process() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..4 {
                    let bench = Bench::new();
                    let storage = bench.open();
                    create(&*storage, round);
                    assert!(committer::threads() <= 2);
                    #[cfg(target_os = "linux")]
                    assert!(named_threads("anchorhold-comm") <= 2);
                }
            });
        }
    });
}

#[cfg(target_os = "linux")]
fn named_threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim().starts_with(name))).count()
}

#[test]
fn a_stalled_anchor_neither_hangs_commits_nor_closing() {
    let mut bench = Bench::new();
    bench.options.stall_timeout = Duration::from_millis(150);
    bench.options.anchor_interval = Duration::from_millis(10);
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    block_on(storage.sync_anchors()).unwrap();
    bench.options.faults.stall_next_anchor(Duration::from_secs(4));
    let started = Instant::now();
    let error = (1..).find_map(|sequence| block_on(tree.commit(commit(sequence, &[]))).err());
    assert!(matches!(error, Some(StorageError::Poisoned(reason)) if reason.contains("writing an anchor")));
    assert!(matches!(block_on(storage.close()), Err(StorageError::Poisoned(_))));
    assert!(started.elapsed() < Duration::from_secs(3), "the thread that closes is the one that hangs");
}

#[test]
fn a_read_never_shows_what_is_not_durable() {
    let bench = Bench::new();
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    let (_, neighbour) = create(&*storage, 2);
    // The sync takes long and fails: whatever is read meanwhile must have been durable before.
    bench.options.faults.stall_nth_sync(1, Duration::from_millis(300));
    bench.options.faults.fail_nth_sync(1);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(block_on(tree.commit(commit(1, &[(b"k", b"never durable")]))).is_err()));
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(500) {
            let begun = Instant::now();
            assert_eq!(block_on(tree.load(b"k")).unwrap(), Some(vec![0, 1]));
            assert_eq!(block_on(neighbour.load(b"k")).unwrap(), Some(vec![0, 2]));
            assert!(begun.elapsed() < Duration::from_millis(100), "a read waited for a sync");
        }
    });
}

#[test]
fn a_commit_is_shown_when_it_is_durable_and_not_before() {
    const SYNC: Duration = Duration::from_millis(800);
    let bench = Bench::new();
    let storage = bench.open();
    let [(_, written), (_, other)] = [1, 2].map(|number| create(&*storage, number));
    bench.options.faults.stall_nth_sync(1, SYNC);
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let commit = scope.spawn(|| block_on(written.commit(commit(1, &[(b"k", b"new")]))).unwrap());
        // Long enough for it to be written, and far from long enough for its sync.
        std::thread::sleep(SYNC / 8);
        assert_eq!(block_on(other.load(b"k")).unwrap(), Some(vec![0, 2]));
        assert_eq!(block_on(written.load(b"k")).unwrap(), Some(vec![0, 1]), "what was not durable was shown");
        assert!(begun.elapsed() < SYNC, "a read waited for a sync");
        commit.join().unwrap();
        assert!(begun.elapsed() >= SYNC);
        assert_eq!(block_on(written.load(b"k")).unwrap(), Some(b"new".to_vec()));
    });
    block_on(storage.close()).unwrap();
}

#[test]
fn what_was_refused_while_it_became_durable_is_not_shown_before_reopening() {
    const SYNC: Duration = Duration::from_secs(1);
    let bench = Bench::with_small_shards(1);
    let storage = bench.open();
    let (shard, tree) = create(&*storage, 1);
    // No header can be written where a directory is in its way, which poisons while the commit waits for its sync.
    let in_the_way = bench.path().join("header.a.new");
    fs::create_dir(&in_the_way).unwrap();
    let syncs = bench.options.faults.syncs();
    bench.options.faults.stall_nth_sync(1, SYNC);
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| block_on(tree.commit(commit(1, &[(b"k", b"in doubt")]))));
        while bench.options.faults.syncs() == syncs {
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        assert!(matches!(block_on(storage.write_header(b"header".to_vec())), Err(StorageError::Poisoned(_))));
        assert!(matches!(refused.join().unwrap(), Err(StorageError::Poisoned(_))));
        assert!(begun.elapsed() < SYNC, "it was told after its sync");
    });
    // Long enough for the sync, and for applying what is durable then.
    std::thread::sleep(SYNC + SYNC / 2);
    assert_eq!(block_on(tree.load(b"k")).unwrap(), Some(vec![0, 1]), "whoever was refused goes on with what was there before");
    assert_eq!(tree.anchored(Mark::Account).unwrap().sequence, 1);
    block_on(storage.tree(shard, handle(1))).unwrap();
    assert!(matches!(block_on(storage.close()), Err(StorageError::Poisoned(_))));
    fs::remove_dir(in_the_way).unwrap();
    drop((tree, storage));
    let storage = bench.open();
    let tree = block_on(storage.tree(shard, handle(1))).unwrap();
    assert_eq!(block_on(tree.load(b"k")).unwrap(), Some(b"in doubt".to_vec()), "what is durable is there");
    block_on(storage.close()).unwrap();
}

#[test]
fn commits_of_many_accounts_share_a_sync() {
    let bench = Bench::new();
    let storage = bench.open();
    let trees: Vec<_> = (0..100).map(|number| create(&*storage, number).1).collect();
    bench.options.faults.stall_nth_sync(1, Duration::from_millis(100));
    let before = bench.options.faults.syncs();
    let mut commits: Vec<_> = trees.iter().map(|tree| tree.commit(commit(1, &[(b"k", &[7; 200])]))).collect();
    for commit in &mut commits {
        assert!(block_on(futures_lite::future::poll_once(commit)).is_none());
    }
    for commit in commits {
        block_on(commit).unwrap();
    }
    assert!((1..=4).contains(&(bench.options.faults.syncs() - before)));
}

#[test]
fn a_flush_that_fails_in_the_middle_of_a_database_tells_everybody_why_and_loses_nothing() {
    let mut bench = Bench::new();
    bench.options.commit_log_bytes = 200_000;
    let storage = bench.open();
    let trees: Vec<_> = (0..90).map(|number| create(&*storage, number).1).collect();
    // What the database is told when a file of the log is full needs several flushes.
    bench.options.faults.fail_nth_flush(2);
    let mut acknowledged = vec![0_u64; trees.len()];
    let mut refused = 0;
    for round in 1..=3 {
        let mut commits: Vec<_> = trees.iter().map(|tree| tree.commit(commit(round, &[(b"k", &[round as u8; 2000])]))).collect();
        for commit in &mut commits {
            let _ = block_on(futures_lite::future::poll_once(commit));
        }
        drop(commits);
        std::thread::sleep(Duration::from_millis(200));
        for (number, tree) in trees.iter().enumerate() {
            match block_on(tree.commit(commit(1_000, &[]))) {
                Err(StorageError::Conflict { found, .. }) => acknowledged[number] = found,
                Err(StorageError::Poisoned(reason)) => {
                    refused += 1;
                    assert!(reason.contains("a failed flush"), "{reason}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(refused >= trees.len(), "{refused}");
    block_on(storage.close()).unwrap_err();
    drop((trees, storage));
    let storage = bench.open();
    for (number, acknowledged) in (0..).zip(acknowledged) {
        let tree = block_on(storage.tree(ShardId(0), handle(number))).unwrap();
        let rounds = block_on(tree.load(b"k")).unwrap().unwrap();
        assert!(acknowledged >= 1 && (rounds.len() == 2 || u64::from(rounds[0]) + 1 >= acknowledged), "{acknowledged}");
    }
}

#[test]
fn commits_of_one_account_stay_in_their_order() {
    let bench = Bench::new();
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    let mut commits: Vec<_> = (1..200).map(|sequence| tree.commit(commit(sequence, &[(b"k", &[sequence as u8])]))).collect();
    for commit in &mut commits {
        let _ = block_on(futures_lite::future::poll_once(commit));
    }
    drop(commits);
    block_on(tree.commit(commit(200, &[]))).unwrap();
    assert_eq!(block_on(tree.load(b"k")).unwrap(), Some(vec![199]));
}
