//! Processes that die at any moment, and what a shard that was rewritten leaves on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_lite::future::block_on;

use super::super::tests::{commit, handle};
use super::super::*;
use super::SledOptions;
use super::tests::{Bench, check, content, copy, create, try_open};

#[test]
fn a_crash_before_the_anchors_were_written_loses_nothing() {
    let mut bench = Bench::with_small_shards(2);
    bench.options.anchor_interval = Duration::from_secs(3600);
    let storage = bench.open();
    for number in 0..7 {
        create(&*storage, number);
    }
    // What a killed process leaves: all acknowledged commits are synced, and no anchor was written.
    let crashed = bench.dir.path().join("crashed");
    copy(&bench.path(), &crashed);
    let storage = try_open(&crashed, &bench.options).unwrap();
    assert_eq!(storage.shards().len(), 4);
    for number in 0..7_u16 {
        check(&*storage, u32::from(number / 2), number).unwrap();
    }
    assert_eq!(create(&*storage, 100).0, ShardId(3));
    assert_eq!(create(&*storage, 101).0, ShardId(4));
}

#[test]
fn an_interrupted_rewriting_is_undone_or_completed_at_every_step() {
    for step in 0..=3 {
        for crash in [false, true] {
            let bench = Bench::new();
            let storage = bench.open();
            for number in 0..4 {
                create(&*storage, number);
            }
            bench.options.faults.stop_rewriting_after(Some(step));
            let gone = vec![handle(1), handle(2)];
            block_on(storage.shred(ShardId(0), gone.clone())).unwrap_err();
            bench.options.faults.stop_rewriting_after(None);
            let path = if crash {
                let crashed = bench.dir.path().join("crashed");
                copy(&bench.path(), &crashed);
                crashed
            } else {
                drop(storage);
                bench.path()
            };
            let storage = try_open(&path, &bench.options).unwrap();
            check(&*storage, 0, 0).unwrap();
            check(&*storage, 0, 3).unwrap();
            let members = block_on(storage.members(ShardId(0))).unwrap();
            assert_eq!(members.len(), if step < 2 { 4 } else { 2 }, "step {step}");
            let shards = || {
                let mut names: Vec<_> =
                    fs::read_dir(path.join("shards")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                names
            };
            assert_eq!(shards(), [if step < 2 { "0000.0" } else { "0000.1" }], "step {step}");
            block_on(storage.shred(ShardId(0), gone)).unwrap();
            assert_eq!(block_on(storage.members(ShardId(0))).unwrap(), [handle(0), handle(3)]);
            assert_eq!(shards(), ["0000.1"]);
            create(&*storage, 7);
            block_on(storage.close()).unwrap();
            let storage = try_open(&path, &bench.options).unwrap();
            for number in [0, 3, 7] {
                check(&*storage, 0, number).unwrap();
            }
        }
    }
}

#[test]
fn no_byte_of_a_shredded_account_is_left_in_any_file() {
    let bench = Bench::new();
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    create(&*storage, 2);
    let needle = [0x5a_u8, 0x13, 0xc7, 0x99, 0x04, 0xee, 0x21, 0x7b].repeat(4);
    for sequence in 1..40 {
        block_on(tree.commit(commit(sequence, &[(b"secret", &needle), (&[sequence as u8], &needle)]))).unwrap();
    }
    // In the shard, in a copy of it that was set aside, and in the commit log.
    block_on(storage.close()).unwrap();
    copy(&bench.shard(0, 0), &bench.path().join("shards/0000.0.aside-1"));
    let storage = bench.open();
    let tree = block_on(storage.tree(ShardId(0), handle(1))).unwrap();
    block_on(tree.commit(commit(40, &[(b"secret", &needle)]))).unwrap();
    let found = |needle: &[u8]| {
        content(&bench.path()).values().filter(|bytes| bytes.windows(needle.len()).any(|window| window == needle)).count()
    };
    assert!(found(&needle) >= 3, "the search works");
    assert!(found(handle(1).as_bytes()) >= 3, "the search works");
    block_on(storage.shred(ShardId(0), vec![handle(1)])).unwrap();
    assert_eq!(found(&needle), 0);
    assert_eq!(found(handle(1).as_bytes()), 0);
    check(&*storage, 0, 2).unwrap();
}

#[test]
fn shards_of_one_vault_are_rewritten_one_after_the_other() {
    let bench = Bench::with_small_shards(3);
    let storage = bench.open();
    for number in 0..24 {
        create(&*storage, number);
    }
    std::thread::scope(|scope| {
        for shard in 0..8_u16 {
            let storage = &storage;
            scope.spawn(move || block_on(storage.shred(ShardId(shard.into()), vec![handle(3 * shard + 1)])).unwrap());
        }
    });
    for shard in 0..8_u16 {
        assert_eq!(block_on(storage.members(ShardId(shard.into()))).unwrap(), [handle(3 * shard), handle(3 * shard + 2)]);
        assert!(bench.shard(shard.into(), 1).exists() && !bench.shard(shard.into(), 0).exists());
    }
}

/// Runs one of the scenarios below in a process of its own, which may die or be killed.
#[cfg(unix)]
fn child(scenario: &str, path: &Path, before: &str) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    let run = format!("{before} exec \"$0\" \"$@\"");
    command.args(["-c", &run]).arg(std::env::current_exe().unwrap());
    command.args([
        &format!("storage::sled::crash_tests::{scenario}"),
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    command.env("ANCHORHOLD_TEST_VAULT", path).stderr(std::process::Stdio::null());
    command
}

fn vault_of_parent() -> Option<PathBuf> {
    std::env::var_os("ANCHORHOLD_TEST_VAULT").map(PathBuf::from)
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_a_clear_error_and_reopening_has_what_was_acknowledged() {
    let bench = Bench::with_small_shards(1);
    let storage = bench.open();
    for number in 0..2 {
        create(&*storage, number);
    }
    block_on(storage.close()).unwrap();
    // Writing past a file size limit fails like writing to a full disk does.
    let output = child("scenario_write_until_it_fails", &bench.path(), "trap '' XFSZ; ulimit -f 1200;").output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let acknowledged: u64 = output.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).max().unwrap();
    assert!(acknowledged > 10 && output.contains("poisoned") && output.contains("other shard readable"), "{output}");
    let storage = bench.open();
    let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
    let sequence = tree.anchored(Mark::Account).unwrap().sequence;
    assert!(sequence <= acknowledged + 1);
    let last = u64::from_be_bytes(block_on(tree.load(b"sequence")).unwrap().unwrap().try_into().unwrap());
    assert!((acknowledged..=acknowledged + 1).contains(&last), "{last} of {acknowledged}");
    block_on(tree.commit(commit(last, &[(b"k", b"goes on")]))).unwrap();
}

#[test]
#[ignore = "run by a_full_disk_is_a_clear_error_and_reopening_has_what_was_acknowledged"]
fn scenario_write_until_it_fails() {
    let Some(path) = vault_of_parent() else { return };
    let storage = try_open(&path, &SledOptions { trees_per_shard: 1, ..SledOptions::default() }).unwrap();
    let tree = block_on(storage.tree(ShardId(0), handle(0))).unwrap();
    let other = block_on(storage.tree(ShardId(1), handle(1))).unwrap();
    for sequence in 1.. {
        let next: u64 = sequence + 1;
        let rows: [(&[u8], &[u8]); 2] = [(b"sequence", &next.to_be_bytes()), (&[sequence as u8 % 200], &[7; 6000])];
        match block_on(tree.commit(commit(sequence, &rows))) {
            Ok(()) => println!("acknowledged {next}"),
            Err(StorageError::Poisoned(reason)) => {
                println!("poisoned: {reason}");
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    if block_on(other.load(b"k")).unwrap() == Some(vec![0, 1]) {
        println!("other shard readable");
    }
}

#[cfg(unix)]
#[test]
fn a_killed_process_loses_no_acknowledged_commit() {
    kill_again_and_again(2, SledOptions::default().commit_log_bytes);
}

/// A file of the commit log is full every few dozen commits, and what a shard is given of it then takes several pieces, with commits in
/// between.
#[cfg(unix)]
#[test]
fn a_process_that_is_killed_while_databases_follow_loses_no_acknowledged_commit() {
    kill_again_and_again(12, 150_000);
}

/// Kills a process that writes to so many accounts in a shard; `ANCHORHOLD_KILLS` says how often.
#[cfg(unix)]
fn kill_again_and_again(trees_per_shard: u16, commit_log_bytes: u64) {
    use std::io::{BufRead, BufReader};
    let rounds: u16 = std::env::var("ANCHORHOLD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let bench = Bench::with_small_shards(trees_per_shard.into());
    // By account: its shard and the last sequence that was acknowledged.
    let mut acknowledged = BTreeMap::<u16, (u32, u64)>::new();
    let storage = bench.open();
    for number in 0..WRITERS {
        let shard = block_on(storage.create(handle(number), numbered(0))).unwrap();
        acknowledged.insert(number, (shard.0, 1));
    }
    block_on(storage.close()).unwrap();
    let mut total = 0_u64;
    for round in 0..rounds {
        let mut command = child("scenario_write_until_killed", &bench.path(), "");
        command.env("ANCHORHOLD_TEST_FIRST", (100 + round * 20).to_string());
        command.env("ANCHORHOLD_TEST_SHARD", trees_per_shard.to_string());
        command.env("ANCHORHOLD_TEST_LOG", commit_log_bytes.to_string());
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut heard = Vec::new();
        if round % 3 == 0 {
            // During opening, or soon after.
            std::thread::sleep(Duration::from_millis((u64::from(round) * 37) % 29 * 3));
        } else {
            let acknowledgements = lines.by_ref().filter(|line| line.starts_with("ack "));
            heard.extend(acknowledgements.take(1 + usize::from(round) * 13 % 50));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        heard.extend(lines);
        for line in heard {
            // The last line may be cut short.
            let Some(line) = line.strip_prefix("ack ").and_then(|rest| rest.strip_suffix(" ok")) else { continue };
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            let known = acknowledged.entry(numbers[0] as u16).or_default();
            *known = (numbers[1] as u32, known.1.max(numbers[2]));
            total += 1;
        }
        let storage = bench.open();
        for (number, (shard, sequence)) in &acknowledged {
            let tree = block_on(storage.tree(ShardId(*shard), handle(*number))).unwrap();
            let rows = block_on(tree.scan(b"", b"z", usize::MAX)).unwrap();
            let found = sequence_in(&rows[0].1);
            assert!(found >= *sequence, "round {round}: account {number} is at {found}, {sequence} was acknowledged");
            // Each commit writes its sequence into three rows; a torn one would differ.
            assert!(rows.len() == 3 && rows.iter().all(|(_, value)| sequence_in(value) == found), "round {round}");
        }
        assert!(storage.status().repaired.is_empty(), "round {round}: {:?}", storage.status());
        block_on(storage.close()).unwrap();
    }
    println!("{rounds} kills, {total} acknowledged commits, {} accounts", acknowledged.len());
    assert!(total > u64::from(rounds));
}

/// Accounts that are written to all the time; others are made meanwhile.
const WRITERS: u16 = 6;

/// A commit that writes the sequence it leads to into three rows.
fn numbered(expected: u64) -> Commit {
    let next = (expected + 1).to_be_bytes();
    let mut long = next.to_vec();
    long.resize(8 + (expected as usize * 53) % 6000, 3);
    commit(expected, &[(b"a", &next), (b"b", &long), (b"c", &long[..8])])
}

fn sequence_in(value: &[u8]) -> u64 {
    u64::from_be_bytes(*value.first_chunk().unwrap())
}

#[test]
#[ignore = "run by a_killed_process_loses_no_acknowledged_commit"]
fn scenario_write_until_killed() {
    let Some(path) = vault_of_parent() else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u16>();
    let first = number("ANCHORHOLD_TEST_FIRST").unwrap();
    let trees_per_shard = number("ANCHORHOLD_TEST_SHARD").unwrap();
    let commit_log_bytes = std::env::var("ANCHORHOLD_TEST_LOG").unwrap().parse().unwrap();
    let options = SledOptions { trees_per_shard: trees_per_shard.into(), commit_log_bytes, ..SledOptions::default() };
    let storage = try_open(&path, &options).unwrap();
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let storage = &storage;
            scope.spawn(move || {
                let shard = ShardId(u32::from(number / trees_per_shard));
                let tree = block_on(storage.tree(shard, handle(number))).unwrap();
                let found = sequence_in(&block_on(tree.load(b"a")).unwrap().unwrap());
                for sequence in found.. {
                    block_on(tree.commit(numbered(sequence))).unwrap();
                    println!("ack {number} {shard} {} ok", sequence + 1);
                }
            });
        }
        for number in first..first + 20 {
            let shard = block_on(storage.create(handle(number), numbered(0))).unwrap();
            println!("ack {number} {shard} 1 ok");
            std::thread::sleep(Duration::from_millis(3));
        }
    });
}
