//! The first touch of a passivated account in a closed shard, against the bare opening of as large a sled database; and what a
//! resident idle account takes.

use std::time::{Duration, Instant};

use crate::world::{PER_SHARD, World, connection, figure, median, quantile};

const ACCOUNTS: usize = PER_SHARD * 100;

pub fn touch() {
    let mut world = World::new().expect("a vault for the benchmark");
    let accounts = world.accounts(ACCOUNTS).expect("accounts for the benchmark");
    let api_key = world.runtime.block_on(async {
        let backend = &world.backend;
        // One connection for the accounts that are touched, three for those whose memory is measured.
        for account in accounts.iter().step_by(PER_SHARD) {
            account.add_connection(connection(256).expect("a connection")).await.expect("an added connection");
        }
        for account in accounts.iter().skip(1).step_by(3).take(2_000) {
            for _ in 0..3 {
                account.add_connection(connection(256).expect("a connection")).await.expect("an added connection");
            }
        }
        let request = anchorhold::NewApiKey::new("bench").permissions(anchorhold::Permissions::ALL);
        backend.create_api_key(request).await.expect("an API key").key
    });
    let ids: Vec<_> = accounts.iter().map(|account| account.id().clone()).collect();
    drop(accounts);
    world.reopen(&api_key).expect("the vault again");

    let mut touches = Vec::new();
    world.runtime.block_on(async {
        for id in ids.iter().step_by(PER_SHARD) {
            let begun = Instant::now();
            let account = world.backend.account(id).await.expect("the account");
            account.connections().await.expect("its connections");
            touches.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    });
    figure("cold_account_p50_ms", median(&mut touches), "ms");
    figure("cold_account_p99_ms", quantile(&mut touches, 0.99), "ms");
    figure("bare_sled_open_p50_ms", bare_open(), "ms");

    // Every other account of those with three connections: both halves lie in the same shards. The first half opens these and warms the
    // allocator; what the second adds is the accounts alone.
    let load = |half: usize| {
        world.runtime.block_on(async {
            for id in ids.iter().skip(1).step_by(3).take(2_000).skip(half).step_by(2) {
                world.backend.account(id).await.expect("the account").info().await.expect("its facts");
            }
        });
    };
    load(0);
    let before = resident_bytes();
    load(1);
    figure("resident_account_kb", (resident_bytes() - before) / 1024.0 / 1_000.0, "KiB");
}

fn bare_open() -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let open = || sled::Config::new().path(&path).segment_size(512 * 1024).flush_every_ms(None).open();
    let db = open().expect("a database");
    for tree in 0..PER_SHARD as u32 {
        let tree = db.open_tree(tree.to_be_bytes()).expect("a tree");
        for row in 0..6u32 {
            tree.insert(row.to_be_bytes(), vec![7; 200]).expect("an insert");
        }
    }
    db.flush().expect("a flush");
    drop(db);
    let mut costs = Vec::new();
    let mut refused = 0;
    while costs.len() < 20 {
        // The file's lock is let go by sled's own threads a moment after the database is dropped.
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        match open() {
            Ok(_opened) => costs.push(begun.elapsed().as_secs_f64() * 1e3),
            Err(error) => {
                refused += 1;
                assert!(refused < 500, "the database that was dropped is still locked after ten seconds: {error}");
            }
        }
    }
    median(&mut costs)
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0
}
