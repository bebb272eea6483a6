//! Long runs under load, for the hang that the committers exist to prevent and for the figures in the documentation:
//!
//! ```text
//! ANCHORHOLD_SOAK_SECONDS=60 cargo test --release --lib soak -- --ignored --nocapture --test-threads 1
//! ```

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_lite::future::{block_on, poll_once};

use super::super::tests::{commit, handle};
use super::super::*;
use super::tests::{Bench, content};

fn duration() -> Duration {
    let seconds = std::env::var("ANCHORHOLD_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// One account that several callers write to.
struct Account {
    tree: Arc<dyn Tree>,
    sequence: Mutex<u64>,
    acknowledged: AtomicU64,
}

impl Account {
    /// One acknowledged write, with others of the same account under way.
    fn write(&self, key: u8, value: &[u8]) {
        let (sequence, mut pending, first) = {
            let mut sequence = self.sequence.lock().unwrap();
            let mut pending = self.tree.commit(commit(*sequence, &[(&[key], value)]));
            // The first poll puts it in line, so commits of one account are in the order of their sequences.
            let first = block_on(poll_once(&mut pending));
            *sequence += 1;
            (*sequence, pending, first)
        };
        if let Err(error) = first.unwrap_or_else(|| block_on(&mut pending)) {
            describe_threads();
            panic!("{error:?}");
        }
        self.acknowledged.fetch_max(sequence, Ordering::Relaxed);
    }
}

fn accounts(storage: &dyn Storage, count: u16) -> Vec<Account> {
    let make = |number| {
        let shard = block_on(storage.create(handle(number), commit(0, &[]))).inspect_err(|_| describe_threads()).unwrap();
        let tree = block_on(storage.tree(shard, handle(number))).unwrap();
        Account { tree, sequence: Mutex::new(1), acknowledged: AtomicU64::new(1) }
    };
    (0..count).map(make).collect()
}

/// Mostly 1.2 KB, some tiny, some as large as a credential may be.
fn value(turn: usize) -> Vec<u8> {
    let length = match turn % 97 {
        0 => 64 * 1024,
        1..4 => 20 * 1024,
        4..20 => 100,
        _ => 1200,
    };
    vec![turn as u8; length]
}

/// Lets `callers` threads write to the accounts of all vaults for as long as a soak lasts.
fn soak(name: &str, callers: usize, vaults: &[(&Bench, Vec<Account>)]) {
    let written = AtomicU64::new(0);
    let started = Instant::now();
    let slowest = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for caller in 0..callers {
            let (written, slowest) = (&written, &slowest);
            scope.spawn(move || {
                let (_, accounts) = &vaults[caller % vaults.len()];
                let mut worst = Duration::ZERO;
                for turn in 0.. {
                    if started.elapsed() > duration() {
                        break;
                    }
                    let begun = Instant::now();
                    // A stride, so that a caller wanders over accounts and shards.
                    let account = &accounts[(caller / vaults.len() + turn * 7) % accounts.len()];
                    account.write((turn % 40) as u8, &value(turn * 31 + caller));
                    worst = worst.max(begun.elapsed());
                    written.fetch_add(1, Ordering::Relaxed);
                }
                let mut slowest = slowest.lock().unwrap();
                *slowest = worst.max(*slowest);
            });
        }
    });
    let rate = written.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    println!("{name}: {rate:.0} acknowledged writes a second, the slowest took {:?}", slowest.lock().unwrap());
    for (bench, _) in vaults {
        let blobs = content(&bench.path()).into_keys().filter(|path| path.is_file() && path.to_string_lossy().contains("blobs"));
        assert_eq!(blobs.count(), 0);
    }
}

/// Every acknowledged write is there after reopening.
fn verify(bench: &Bench, trees_per_shard: usize, acknowledged: &[u64]) {
    let storage = bench.open();
    for (number, sequence) in acknowledged.iter().enumerate() {
        let shard = ShardId((number / trees_per_shard) as u32);
        let tree = block_on(storage.tree(shard, handle(number as u16))).unwrap();
        assert_eq!(tree.anchored(Mark::Account).unwrap().sequence, *sequence);
        assert!(!block_on(tree.scan(b"", &[0xff], usize::MAX)).unwrap().is_empty());
    }
}

fn run(name: &str, callers: usize, vaults: usize, trees_per_shard: usize, count: u16) {
    let mut benches: Vec<_> = (0..vaults).map(|_| Bench::with_small_shards(trees_per_shard)).collect();
    for bench in &mut benches {
        bench.options.max_open_shards = 256;
    }
    let storages: Vec<_> = benches.iter().map(Bench::open).collect();
    let vaults: Vec<_> = benches.iter().zip(&storages).map(|(bench, storage)| (bench, accounts(&**storage, count))).collect();
    let begun = Instant::now();
    soak(name, callers, &vaults);
    assert!(begun.elapsed() < duration() + Duration::from_secs(15));
    let acknowledged: Vec<Vec<u64>> = vaults
        .iter()
        .map(|(_, accounts)| accounts.iter().map(|account| account.acknowledged.load(Ordering::Relaxed)).collect())
        .collect();
    for storage in &storages {
        assert!(storage.status().poisoned.is_none());
        block_on(storage.close()).unwrap();
    }
    for ((bench, _), acknowledged) in vaults.iter().zip(&acknowledged) {
        verify(bench, trees_per_shard, acknowledged);
    }
}

#[test]
#[ignore = "takes a minute; see the top of this file"]
fn callers_256_on_one_shard() {
    run("256 callers, one shard", 256, 1, 128, 128);
}

#[test]
#[ignore = "takes a minute; see the top of this file"]
fn callers_256_on_200_shards() {
    run("256 callers, 200 shards", 256, 1, 2, 400);
}

#[test]
#[ignore = "takes a minute; see the top of this file"]
fn callers_256_on_four_vaults() {
    run("256 callers, 4 vaults with 10 shards each", 256, 4, 8, 80);
}

#[test]
#[ignore = "takes a minute; see the top of this file"]
fn shards_opened_and_closed_all_the_time() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.max_open_shards = 8;
    let storage = bench.open();
    let vaults = [(&bench, accounts(&*storage, 80))];
    soak("64 callers, 40 shards, 8 of them open", 64, &vaults);
    assert!(storage.status().open_shards <= 10);
}

#[test]
#[ignore = "prints figures"]
fn creating_accounts_stays_flat() {
    let bench = Bench::new();
    let storage = bench.open();
    let row = vec![7; 300];
    let mut times = Vec::new();
    for number in 0..2000 {
        let begun = Instant::now();
        block_on(storage.create(handle(number), commit(0, &[(b"a", &row), (b"b", &row), (b"c", &row)]))).unwrap();
        times.push(begun.elapsed());
    }
    let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64() * 1e6 / times.len() as f64;
    let (first, last) = (mean(&times[..200]), mean(&times[1800..]));
    println!("creating an account: {first:.0} µs at first, {last:.0} µs after 1,800, ratio {:.2}", last / first);
    assert!(last <= 1.3 * first);
    let begun = Instant::now();
    block_on(storage.close()).unwrap();
    let closed = begun.elapsed();
    let begun = Instant::now();
    let storage = bench.open();
    println!("closing {closed:?}, opening with 2,000 accounts {:?}", begun.elapsed());
    let begun = Instant::now();
    block_on(storage.tree(ShardId(3), handle(3 * TREES_PER_SHARD as u16))).unwrap();
    println!("first tree of a closed shard {:?}", begun.elapsed());
}

#[test]
#[ignore = "run it under strace: strace -f -c -e trace=fdatasync"]
fn one_caller_waits_for_every_write() {
    let bench = Bench::new();
    let storage = bench.open();
    let account = &accounts(&*storage, 1)[0];
    let syncs = bench.options.faults.syncs();
    let begun = Instant::now();
    for turn in 0..1000 {
        account.write(1, &[turn as u8; 1200]);
    }
    println!("one caller: {:?} per acknowledged write", begun.elapsed() / 1000);
    assert_eq!(bench.options.faults.syncs() - syncs, 1000);
    let disk: u64 = fs::read_dir(bench.shard(0, 0)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("the shard has {disk} bytes on disk");
}

#[test]
#[ignore = "prints figures"]
fn opening_depends_little_on_the_number_of_accounts() {
    for accounts in [200_u16, 2_000, 20_000] {
        let mut bench = Bench::new();
        bench.options.max_open_shards = 256;
        let before = resident_kib();
        let storage = bench.open();
        let directory = storage.directory();
        let row = vec![7; 300];
        std::thread::scope(|scope| {
            for first in 0..64 {
                let (storage, directory, row) = (&storage, &directory, &row);
                scope.spawn(move || {
                    for (sequence, number) in (0..).zip((first..accounts).step_by(64)) {
                        block_on(storage.create(handle(number), commit(0, &[(b"a", row)]))).unwrap();
                        let next = Anchored { sequence: sequence + 1, digest: [1; 32] };
                        let marks = vec![MarkStep { mark: Mark::Bucket(first), expected: sequence, next }];
                        let puts = vec![(number.to_be_bytes().to_vec(), row.clone())];
                        block_on(directory.commit(Commit { puts, removes: Vec::new(), marks, ..Commit::default() })).unwrap();
                    }
                });
            }
        });
        println!("{} shards open take {} KiB more", storage.status().open_shards, resident_kib() - before);
        block_on(storage.close()).unwrap();
        for _ in 0..3 {
            let begun = Instant::now();
            let storage = bench.open();
            let opened = begun.elapsed();
            println!("{accounts} accounts: opened in {opened:?}");
            block_on(storage.close()).unwrap();
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn reads_while_others_write() {
    let bench = Bench::new();
    let storage = bench.open();
    let all = accounts(&*storage, 128);
    let directory = storage.directory();
    let marks = vec![MarkStep { mark: Mark::Bucket(1), expected: 0, next: Anchored { sequence: 1, digest: [0; 32] } }];
    block_on(directory.commit(Commit {
        puts: vec![(b"k".to_vec(), vec![7; 300])],
        removes: Vec::new(),
        marks,
        ..Commit::default()
    }))
    .unwrap();
    for writers in [0, 8, 64] {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let (all, stop) = (&all, &stop);
                scope.spawn(move || {
                    for turn in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        all[(writer * 2 + turn % 2) % all.len()].write((turn % 40) as u8, &[turn as u8; 1200]);
                    }
                });
            }
            for (name, tree) in [("the directory", &directory), ("an account of the shard written to", &all[127].tree)] {
                let mut times: Vec<_> = (0..3000)
                    .map(|_| {
                        let begun = Instant::now();
                        block_on(tree.load(b"k")).unwrap();
                        begun.elapsed()
                    })
                    .collect();
                times.sort();
                println!(
                    "{writers} writers, reads of {name}: median {:?}, 99 % under {:?}, slowest {:?}",
                    times[1500], times[2970], times[2999]
                );
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// Prints once what each thread of the engine is blocked in when a soak fails. A slow disk shows threads inside `fsync` (74),
/// `fdatasync` (75), `pwrite64` (18), `sync_file_range` (277) or `ftruncate` (77); sled's deadlock shows its pool's threads
/// (`sled-io-N`) in `futex` (202) only, and none in the disk.
fn describe_threads() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default().trim().to_owned();
            let comm = read("comm");
            if comm.starts_with("sled-io") || comm.starts_with("anchorhold") {
                let state = read("stat").rsplit(") ").next().and_then(|rest| rest.chars().next());
                let call = read("syscall");
                eprintln!("{comm}: state {state:?}, in {} at {}", call.split(' ').next().unwrap_or("?"), read("wchan"));
            }
        }
    });
}

#[cfg(target_os = "linux")]
fn resident_kib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
