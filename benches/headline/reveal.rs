//! Revealing a credential of 1 KiB, against what its parts cost by themselves in one thread: a get from sled and the four
//! cipher and hash calls that unwrap, derive and open.

use std::time::{Duration, Instant};

use orion::hazardous::aead::xchacha20poly1305::{Nonce, SecretKey, XChaCha20Poly1305};
use orion::hazardous::mac::blake2b::{Blake2b, SecretKey as HashKey};

use crate::world::{World, connection, figure, median, per_second, rounds};

const TASKS: usize = 256;
const ACCOUNTS: usize = 1_000;
const ROUND: Duration = Duration::from_millis(1500);

pub fn against_limit() {
    let world = World::new().expect("a vault for the benchmark");
    let accounts = world.accounts(ACCOUNTS).expect("accounts for the benchmark");
    let connections: Vec<_> = world.runtime.block_on(async {
        let mut connections = Vec::new();
        for account in &accounts {
            connections.push(account.add_connection(connection(1024).expect("a connection")).await.expect("an added connection"));
        }
        connections
    });
    let connections = std::sync::Arc::new(connections);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let ours = || {
        let connections = std::sync::Arc::clone(&connections);
        let total = per_second(&world.runtime, TASKS, ROUND, move |task, turn| {
            let connection = connections[(task + turn * TASKS) % ACCOUNTS].clone();
            async move {
                let length = connection.reveal(|secret| secret.api_key().map(str::len)).await.expect("a credential");
                assert_eq!(length, Some(1024));
            }
        });
        total / cores
    };
    let (ours, limit) = rounds(ours, limit_per_second);
    figure("reveal_1k_us_per_core", 1e6 / ours, "us");
    figure("reveal_1k_limit_us", 1e6 / limit, "us");
    figure("reveal_1k_vs_limit", limit / ours, "times");
}

fn limit_per_second() -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let db = sled::Config::new().path(directory.path().join("db")).flush_every_ms(None).open().expect("a sled database");
    let key = SecretKey::from([7; 32]);
    let nonce = Nonce::from([1; 24]);
    let sealed = |bytes: usize| {
        let mut buffer = vec![7; bytes];
        let tag = XChaCha20Poly1305::seal_inplace(&key, &nonce, Some(b"aad"), &mut buffer).expect("sealing");
        (buffer, tag)
    };
    let (wrapped, wrapped_tag) = sealed(64);
    let (record, record_tag) = sealed(1056);
    for number in 0..ACCOUNTS as u32 {
        db.insert(number.to_be_bytes(), record.as_slice()).expect("an insert");
    }
    let mut costs = Vec::new();
    for round in 0..20u32 {
        let begun = Instant::now();
        for number in 0..500u32 {
            let row = db.get(((round * 500 + number) % ACCOUNTS as u32).to_be_bytes()).expect("a get").expect("a row");
            let mut unwrapped = wrapped.clone();
            XChaCha20Poly1305::open_inplace(&key, &nonce, &wrapped_tag, Some(b"aad"), &mut unwrapped).expect("unwrapping");
            let mut derive = Blake2b::new(&HashKey::try_from(&unwrapped[..32]).expect("a key"), 32).expect("a hash");
            derive.update(&unwrapped).expect("an update");
            std::hint::black_box(derive.finalize().expect("a digest"));
            let mut plain = row.to_vec();
            XChaCha20Poly1305::open_inplace(&key, &nonce, &record_tag, Some(b"aad"), &mut plain).expect("opening");
            std::hint::black_box(plain);
        }
        costs.push(500.0 / begun.elapsed().as_secs_f64());
    }
    median(&mut costs)
}
