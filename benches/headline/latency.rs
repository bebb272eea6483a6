//! What one caller alone waits for a warm account. Its rival is the bare hop to another thread and back.

use std::time::Instant;

use anchorhold::SessionOptions;

use crate::world::{World, figure, median};

const TIMES: usize = 4_000;

pub fn alone() {
    let world = World::new().expect("a vault for the benchmark");
    let account = world.accounts(1).expect("an account for the benchmark").remove(0);
    let (mut minting, mut checking) = (Vec::with_capacity(TIMES), Vec::with_capacity(TIMES));
    world.runtime.block_on(async {
        for _ in 0..TIMES {
            let begun = Instant::now();
            let minted = account.mint_session_token(SessionOptions::new()).await.expect("a token");
            minting.push(begun.elapsed().as_secs_f64() * 1e6);
            let begun = Instant::now();
            world.vault.session(&minted.token).await.expect("a session");
            checking.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    });
    let (ask, asked) = std::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
    let echo = std::thread::spawn(move || {
        for reply in asked {
            // Whoever asked may have given up.
            let _ = reply.send(());
        }
    });
    let mut hops = Vec::with_capacity(TIMES);
    world.runtime.block_on(async {
        for _ in 0..TIMES {
            let begun = Instant::now();
            let (reply, answer) = tokio::sync::oneshot::channel();
            ask.send(reply).expect("the echo thread runs");
            answer.await.expect("an answer");
            hops.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    });
    drop(ask);
    echo.join().expect("the echo thread ends");
    figure("mint_latency_alone_us", median(&mut minting), "us");
    figure("verify_latency_alone_us", median(&mut checking), "us");
    figure("bare_hop_latency_alone_us", median(&mut hops), "us");
}
