//! Writers by the hundred.

use std::time::{Duration, Instant};

use anchorhold::Error;

use crate::common::{Host, from_env, id};

const CALLERS: usize = 256;

/// 256 callers write at once: to one shard, to two hundred, and to four vaults. All three storms at once in one process, since what
/// they must not do is bring each other to a stop.
#[test]
fn storms_of_writers_do_not_hang() {
    let seconds = Duration::from_secs(from_env("ANCHORHOLD_STORM_SECONDS", 60));
    std::thread::scope(|scope| {
        let one_shard = scope.spawn(move || storm("one shard", seconds, 1, 64, 128));
        let many_shards = scope.spawn(move || storm("two hundred shards", seconds, 1, 200, 1));
        let four_vaults = scope.spawn(move || storm("four vaults", seconds, 4, 16, 128));
        for storm in [one_shard, many_shards, four_vaults] {
            storm.join().unwrap();
        }
    });
}

fn storm(what: &str, duration: Duration, vaults: usize, accounts: usize, trees_per_shard: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut hosts = Vec::new();
        let mut targets = Vec::new();
        for _ in 0..vaults {
            let host =
                Host::with(|builder| builder.trees_per_shard(trees_per_shard).threads(1).commit_log_bytes(1024 * 1024)).await;
            for n in 0..accounts {
                targets.push(host.backend.create_account(&id(&format!("customer {n}"))).await.unwrap());
            }
            hosts.push(host);
        }
        let started = Instant::now();
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let account = targets[caller % targets.len()].clone();
                let text = "x".repeat(1_200 + caller);
                tokio::spawn(async move {
                    let (mut written, mut slowest) = (0_u64, Duration::ZERO);
                    while started.elapsed() < duration {
                        let call = Instant::now();
                        match account.set_metadata(&text).await {
                            Ok(()) => written += 1,
                            Err(Error::Overloaded) => tokio::time::sleep(Duration::from_millis(5)).await,
                            Err(other) => panic!("{other:?}"),
                        }
                        slowest = slowest.max(call.elapsed());
                    }
                    (written, slowest)
                })
            })
            .collect();
        let (mut written, mut slowest) = (0, Duration::ZERO);
        for caller in callers {
            // A hang must be an error of this test, not of whoever waits for it.
            let (count, longest) =
                tokio::time::timeout(duration + Duration::from_secs(60), caller).await.expect("a caller hangs").unwrap();
            assert!(count > 0, "{what}: one of the callers got nothing done");
            written += count;
            slowest = slowest.max(longest);
        }
        println!("{what}: {written} acknowledged writes by {CALLERS} callers, the slowest took {slowest:?}");
        for host in hosts {
            assert!(host.vault.status().poisoned.is_none(), "{what}: no stall was seen");
            tokio::time::timeout(Duration::from_secs(60), host.vault.close()).await.expect("closing hangs").unwrap();
        }
    });
}
