//! What a quiet account notices of a flooded one on the same thread: p99 of its requests while 256 callers ask the other without a
//! pause, against its p99 alone. One thread runs all actors of a vault here, so that both are on it. The same flood in another vault,
//! with threads of its own, tells what of it is only that the machine is busy.

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
    let elsewhere = World::with(|builder| builder.threads(1)).expect("another vault for the benchmark");
    let [quiet, flooded] = connections(&world);
    let [other, _] = connections(&elsewhere);
    let (mut alone, mut beside, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(p99(&quiet));
        beside.push(while_flooded(&world, &flooded, || p99(&quiet)));
        apart.push(while_flooded(&elsewhere, &other, || p99(&quiet)));
    }
    let [alone, beside, apart] = [&mut alone, &mut beside, &mut apart].map(|values| median(values));
    figure("quiet_account_p99_alone_us", alone, "us");
    figure("quiet_account_p99_beside_flood_us", beside, "us");
    figure("quiet_account_p99_flood_in_other_vault_us", apart, "us");
    figure("noisy_neighbour_p99_ratio", beside / alone, "times");
    figure("noisy_neighbour_vs_same_load_elsewhere", beside / apart, "times");
}

/// One connection of each of two accounts.
fn connections(world: &World) -> [Connection; 2] {
    let accounts = world.accounts(2).expect("accounts for the benchmark");
    [0, 1].map(|at: usize| {
        let adding = accounts[at].add_connection(connection(64).expect("a connection"));
        world.runtime.block_on(adding).expect("an added connection")
    })
}

/// Measures while 256 callers ask an account without a pause.
fn while_flooded(world: &World, flooded: &Connection, measure: impl FnOnce() -> f64) -> f64 {
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
    let measured = measure();
    over.store(true, Ordering::Relaxed);
    world.runtime.block_on(async {
        for caller in flood {
            caller.await.expect("a caller of the benchmark");
        }
    });
    measured
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
