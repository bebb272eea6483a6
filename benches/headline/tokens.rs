//! Minting and checking a session token through the whole vault, against jsonwebtoken's HS256, which does neither a key per
//! customer nor revocation nor an audit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold::{Grant, SessionOptions};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::world::{World, figure, per_second, rounds};

const TASKS: usize = 256;
const ACCOUNTS: usize = 10_000;
const ROUND: Duration = Duration::from_millis(1500);

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    jti: String,
    iat: u64,
    exp: u64,
    grants: Vec<String>,
}

pub fn roundtrip() {
    let world = World::new().expect("a vault for the benchmark");
    let accounts = std::sync::Arc::new(world.accounts(ACCOUNTS).expect("accounts for the benchmark"));
    let vault = world.vault.clone();
    // Every account is resident before the first round, as those of customers at work are; what a cold one costs is a figure of
    // its own.
    world.runtime.block_on(async {
        for account in accounts.iter() {
            account.mint_session_token(SessionOptions::new()).await.expect("a token");
        }
    });
    let ours = || {
        let (accounts, vault) = (std::sync::Arc::clone(&accounts), vault.clone());
        per_second(&world.runtime, TASKS, ROUND, move |task, turn| {
            let (account, vault) = (accounts[(task + turn * TASKS) % ACCOUNTS].clone(), vault.clone());
            async move {
                let options = SessionOptions::new().grants([Grant::ListConnections, Grant::Connect]);
                let minted = account.mint_session_token(options).await.expect("a token");
                vault.session(&minted.token).await.expect("a session");
                // Neither side waits for anything by itself: both let the other tasks come to their turns.
                tokio::task::yield_now().await;
            }
        })
    };
    let theirs = || {
        let (encoding, decoding) = (EncodingKey::from_secret(&[7; 32]), DecodingKey::from_secret(&[7; 32]));
        let validation = Validation::new(Algorithm::HS256);
        per_second(&world.runtime, TASKS, ROUND, move |task, turn| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let claims = Claims {
                sub: format!("customer-{}", (task + turn * TASKS) % ACCOUNTS),
                jti: "0123456789abcdef012345".into(),
                iat: now,
                exp: now + 900,
                grants: vec!["list".into(), "connect".into()],
            };
            let token = encode(&Header::new(Algorithm::HS256), &claims, &encoding).expect("a JWT");
            decode::<Claims>(&token, &decoding, &validation).expect("the JWT's claims");
            tokio::task::yield_now()
        })
    };
    let (ours, theirs) = rounds(ours, theirs);
    figure("token_roundtrip_us", 1e6 / ours, "us");
    figure("jwt_roundtrip_us", 1e6 / theirs, "us");
    figure("token_roundtrip_vs_jwt", ours / theirs, "times");
}
