//! HOSTILE 11 with real processes: one is killed between the moment when the provider gets its request for tokens and shortly after
//! the answer was sent. Then the vault is opened again and each connection used.
//!
//! `ANCHORHOLD_OAUTH_CRASH_ROUNDS` says how many processes are killed, `ANCHORHOLD_OAUTH_CRASH_SEED` where their chance begins.

mod common;
#[path = "oauth_crash/endpoint.rs"]
mod endpoint;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorhold::testing::ManualClock;
use anchorhold::{
    Account, ApiKey, Connection, Environment, Error, OAuthClient, OAuthSettings, ProviderSettings, ReauthReason, RefreshProfile,
    SendError, Timestamp, Vault,
};

use crate::common::{block_on, builder, from_env, id, provider, secret, vault_path};
use crate::endpoint::{Endpoint, KINDS};

const PATH: &str = "ANCHORHOLD_OAUTH_CRASH_PATH";
const KEY: &str = "ANCHORHOLD_OAUTH_CRASH_KEY";
const PORT: &str = "ANCHORHOLD_OAUTH_CRASH_PORT";
const PHASE: &str = "ANCHORHOLD_OAUTH_CRASH_PHASE";

/// A vault's clock stands still. From one opening to the next two hours pass, and access tokens live for one.
async fn open(path: &Path, phase: u64) -> Vault {
    let now = Timestamp::from_millis(1_790_000_000_000 + phase * 2 * 3_600_000);
    builder(path).clock(Arc::new(ManualClock::new(now))).open().await.unwrap()
}

/// Not a test by itself: the process that dies while it uses each connection.
#[test]
#[ignore = "started by the other test"]
fn child() {
    let Ok(path) = std::env::var(PATH) else { return };
    let vault = block_on(open(Path::new(&path), from_env(PHASE, 0)));
    let (account, connections) = block_on(async {
        let backend = vault.backend(&ApiKey::from(std::env::var(KEY).unwrap())).await.unwrap();
        let account = backend.account(&id("acme")).await.unwrap();
        let connections = connections(&account).await;
        (account, connections)
    });
    std::thread::scope(|scope| {
        for (kind, connection) in &connections {
            scope.spawn(move || drop(block_on(used(connection, kind, from_env(PORT, 0)))));
        }
    });
    drop(account);
    loop {
        std::thread::park();
    }
}

#[test]
fn processes_killed_around_the_answer_lose_no_grant_that_could_be_kept() {
    let rounds = from_env("ANCHORHOLD_OAUTH_CRASH_ROUNDS", 30);
    let seed = from_env("ANCHORHOLD_OAUTH_CRASH_SEED", u64::from(std::process::id()));
    println!("ANCHORHOLD_OAUTH_CRASH_SEED={seed}");
    let (started, mut chance) = (Instant::now(), Chance(seed | 1));
    let endpoint = Endpoint::start();
    let folder = tempfile::tempdir().unwrap();
    let path = vault_path(&folder);
    let key = block_on(set_up(&path, &endpoint));
    let (mut kept, mut lost, mut lost_unasked) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new(), 0);
    for _ in 0..rounds {
        let phase = endpoint.next_phase();
        endpoint.delay_answers(Duration::from_micros(chance.below(3_000)));
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .envs([(PATH, path.as_os_str().to_owned()), (KEY, key.expose_secret().into())])
            .envs([(PORT, endpoint.port.to_string()), (PHASE, phase.to_string())])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // One of the three requests, and a moment after it.
        let arrived = endpoint.wait_for_requests(1 + chance.below(3));
        std::thread::sleep(Duration::from_micros(chance.below(9_000)));
        process.kill().unwrap();
        process.wait().unwrap();
        // For connections that it made and nobody has accepted yet.
        std::thread::sleep(Duration::from_millis(5));
        assert!(arrived, "the process asked for no tokens");

        let asked: BTreeMap<_, _> = KINDS.iter().map(|kind| (*kind, endpoint.requests(kind, phase))).collect();
        let after = endpoint.next_phase();
        endpoint.delay_answers(Duration::ZERO);
        block_on(async {
            let vault = open(&path, after).await;
            let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
            for (kind, connection) in connections(&account).await {
                match used(&connection, &kind, endpoint.port).await {
                    Ok(status) => {
                        assert_eq!(status, 200, "{kind}: the provider knows the token and it is of now");
                        *kept.entry(kind).or_default() += 1;
                    }
                    Err(Error::ReauthRequired { reason: ReauthReason::InDoubt }) => {
                        assert_eq!(kind, "rotating", "a grant was lost that could have been kept");
                        assert_eq!(endpoint.requests(&kind, after), 0, "the old refresh token was sent again");
                        lost_unasked += u64::from(asked[kind.as_str()] == 0);
                        *lost.entry(kind.clone()).or_default() += 1;
                        connection.remove().await.unwrap();
                        import(&account, &kind, &endpoint).await;
                    }
                    Err(other) => panic!("{kind}: {other:?}"),
                }
            }
            assert_eq!(account.connections().await.unwrap().len(), KINDS.len());
            vault.close().await.unwrap();
        });
    }
    assert_eq!(endpoint.stale_uses(), 0, "an old access token was used as a fresh one");
    assert_eq!(endpoint.repeated("rotating"), 0, "a refresh token that may be replaced was sent twice");
    println!(
        "{rounds} processes killed in {:?}; connections that work afterwards: {kept:?}; grants lost: {lost:?}, of these {lost_unasked} \
         whose provider was not asked; refresh tokens sent again within the grace: {}",
        started.elapsed(),
        endpoint.repeated("grace"),
    );
    // The controls: both outcomes were met, and old tokens were needed where they may be sent.
    if rounds >= 30 {
        assert!(lost.values().sum::<u64>() > 0 && kept.get("rotating").is_some_and(|kept| *kept > 0));
        assert!(endpoint.repeated("grace") > 0, "nobody died between answer and commit");
    }
}

async fn set_up(path: &Path, endpoint: &Endpoint) -> ApiKey {
    let vault = open(path, endpoint.next_phase()).await;
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    let backend = vault.backend(&key).await.unwrap();
    let account = backend.create_account(&id("acme")).await.unwrap();
    for kind in KINDS {
        let profile = match kind {
            "fixed" => RefreshProfile::new().with_rotation(false),
            "grace" => RefreshProfile::new().with_grace(Duration::from_secs(24 * 3_600)).unwrap(),
            _ => RefreshProfile::new(),
        };
        let oauth = OAuthSettings::new(format!("http://127.0.0.1:{}/{kind}/token", endpoint.port)).unwrap();
        let settings = ProviderSettings::new(provider(kind)).allow_host(&format!("127.0.0.1:{}", endpoint.port)).unwrap();
        let settings = settings.allow_http_loopback().oauth(oauth.with_refresh_profile(profile));
        backend.set_provider(settings).await.unwrap();
        let client = OAuthClient::new("client-1").unwrap().with_secret(secret("of the client")).unwrap();
        backend.set_oauth_client(&provider(kind), client).await.unwrap();
        import(&account, kind, endpoint).await;
    }
    vault.close().await.unwrap();
    key
}

async fn import(account: &Account, kind: &str, endpoint: &Endpoint) {
    account.import_refresh_token(&provider(kind), secret(&endpoint.grant(kind)), "").await.unwrap();
}

/// The connections by the kind of their provider.
async fn connections(account: &Account) -> Vec<(String, Connection)> {
    let mut found = Vec::new();
    for info in account.connections().await.unwrap() {
        found.push((info.provider.to_string(), account.connection(&info.id).await.unwrap()));
    }
    found
}

/// Uses a credential at the provider's API; gives the status.
async fn used(connection: &Connection, kind: &str, port: impl std::fmt::Display) -> Result<u16, Error> {
    let request = http::Request::get(format!("http://127.0.0.1:{port}/{kind}/me")).body("").unwrap();
    match connection.send(request).await {
        Ok(response) => Ok(response.status().as_u16()),
        Err(SendError::Vault(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// Xorshift: what is drawn can be drawn again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
