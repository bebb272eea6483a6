//! What a quiet account notices of a flooded one on the same thread: p99 of its requests while 256 callers ask the other without a
//! pause, against its p99 alone. One thread runs all actors here, so that both are on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anchorhold::Connection;

use crate::world::{World, connection, figure, median, quantile};

const CALLERS: usize = 256;
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;

pub fn noisy() {
    let world = World::with(|builder| builder.threads(1)).expect("a vault for the benchmark");
    let accounts = world.accounts(2).expect("accounts for the benchmark");
    let connections: Vec<_> = world.runtime.block_on(async {
        let mut connections = Vec::new();
        for account in &accounts {
            connections.push(account.add_connection(connection(64).expect("a connection")).await.expect("an added connection"));
        }
        connections
    });
    let (quiet, flooded) = (&connections[0], &connections[1]);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(p99(quiet));
        let over = Arc::new(AtomicBool::new(false));
        let flood: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (flooded, over) = (flooded.clone(), Arc::clone(&over));
                world.runtime.spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        flooded.reveal(|secret| secret.api_key().map(str::len)).await.expect("a credential");
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        beside.push(p99(quiet));
        over.store(true, Ordering::Relaxed);
        world.runtime.block_on(async {
            for caller in flood {
                caller.await.expect("a caller of the benchmark");
            }
        });
    }
    let (alone, beside) = (median(&mut alone), median(&mut beside));
    figure("quiet_account_p99_alone_us", alone, "us");
    figure("quiet_account_p99_beside_flood_us", beside, "us");
    figure("noisy_neighbour_p99_ratio", beside / alone, "times");
}

/// Of one caller that reveals, with the pauses that a caller has.
fn p99(quiet: &Connection) -> f64 {
    let end = Instant::now() + ROUND;
    let mut taken = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        futures_lite::future::block_on(quiet.reveal(|secret| secret.api_key().map(str::len))).expect("a credential");
        taken.push(begun.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_micros(200));
    }
    quantile(&mut taken, 0.99)
}
