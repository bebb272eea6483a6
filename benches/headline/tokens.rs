//! Minting and checking a session token through the whole vault, against crates that make tokens and do neither a key per customer
//! nor revocation nor an audit (`rivals.rs`).

use std::sync::Arc;
use std::time::Duration;

use anchorhold::{Grant, SessionOptions};

use crate::rivals;
use crate::world::{World, figure, per_second, rounds, wait_until_idle};

const TASKS: usize = 256;
const ACCOUNTS: usize = 10_000;
const ROUND: Duration = Duration::from_millis(1500);

/// Longer than what the journal takes before it is merged, so that a round pays for merging too. What is left when it ends is merged before the
/// next one; a longer round (`ANCHORHOLD_ROUND`, seconds) pays for more of it.
const OUR_ROUND: Duration = Duration::from_secs(4);

pub fn against_jwt() {
    against("jwt", rivals::jsonwebtoken());
}

pub fn against_pasetors() {
    against("pasetors", rivals::pasetors());
}

pub fn against_branca() {
    against("branca", rivals::branca());
}

pub fn against_biscuit() {
    against("biscuit", rivals::biscuit());
}

/// Each rival meets a vault of its own, so that none pays for what the rounds before it left to the journal.
fn against(rival: &str, roundtrip: impl Fn(usize) + Send + Sync + 'static) {
    let world = World::new().expect("a vault for the benchmark");
    let accounts = world.accounts(ACCOUNTS).expect("accounts for the benchmark");
    let vault = world.vault.clone();
    // Every account is resident before the first round, as those of customers at work are; what a cold one costs is a figure of
    // its own.
    world.runtime.block_on(async {
        for account in &accounts {
            account.mint_session_token(SessionOptions::new()).await.expect("a token");
        }
    });
    // Each task has handles of its own, as a server's worker has; a clone per roundtrip would measure counters that cores share.
    let workers: Arc<Vec<_>> = Arc::new(
        (0..TASKS)
            .map(|task| Arc::new((vault.clone(), accounts.iter().skip(task).step_by(TASKS).cloned().collect::<Vec<_>>())))
            .collect(),
    );
    let round = std::env::var("ANCHORHOLD_ROUND").ok().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let ours = || {
        let workers = Arc::clone(&workers);
        per_second(&world.runtime, TASKS, round.unwrap_or(OUR_ROUND), move |task, turn| {
            let worker = Arc::clone(&workers[task]);
            async move {
                let (vault, accounts) = &*worker;
                let options = SessionOptions::new().grants([Grant::ListConnections, Grant::Connect]);
                let minted = accounts[turn % accounts.len()].mint_session_token(options).await.expect("a token");
                vault.session(&minted.token).await.expect("a session");
                // Neither side waits for anything by itself: both let the other tasks come to their turns.
                tokio::task::yield_now().await;
            }
        })
    };
    let roundtrip = Arc::new(roundtrip);
    let theirs = || {
        let roundtrip = Arc::clone(&roundtrip);
        // What the vault's own threads still merge when a round is over is not the rival's to wait for.
        wait_until_idle();
        per_second(&world.runtime, TASKS, ROUND, move |task, turn| {
            roundtrip((task + turn * TASKS) % ACCOUNTS);
            tokio::task::yield_now()
        })
    };
    let (ours, theirs) = rounds(ours, theirs);
    figure(&format!("token_roundtrip_beside_{rival}_us"), 1e6 / ours, "us");
    figure(&format!("{rival}_roundtrip_us"), 1e6 / theirs, "us");
    figure(&format!("token_roundtrip_vs_{rival}"), ours / theirs, "times");
}
