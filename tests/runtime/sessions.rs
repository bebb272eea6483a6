//! Tokens for one use, and how long a session lasts.

use std::sync::Arc;
use std::time::Duration;

use anchorhold::testing::{ManualClock, ModelDisk};
use anchorhold::{Clock as _, Environment, Error, Grant, SessionOptions, Timestamp, Vault};

use crate::common::{Host, block_on, customer, id, new_clock};
use crate::tools::{on_disk, restored};

#[test]
fn of_many_who_present_a_token_for_one_use_at_once_one_gets_in() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(async {
        let host = Host::new().await;
        let (account, _) = host.customer("acme", "secret").await;
        for round in 0..20 {
            let minted = account.mint_session_token(SessionOptions::new().single_use()).await.unwrap();
            let token = Arc::new(minted.token);
            let callers: Vec<_> = (0..16)
                .map(|_| {
                    let (vault, token) = (host.vault.clone(), Arc::clone(&token));
                    tokio::spawn(async move { vault.session(&token).await })
                })
                .collect();
            let mut sessions = Vec::new();
            for caller in callers {
                match caller.await.unwrap() {
                    Ok(session) => sessions.push(session),
                    Err(error) => assert!(matches!(error, Error::InvalidToken), "round {round}: {error:?}"),
                }
            }
            assert_eq!(sessions.len(), 1, "round {round}");
            assert_eq!(sessions[0].connections().await.unwrap().len(), 1, "the session goes on after its token is used up");
        }
    });
}

#[test]
fn token_for_one_use_is_used_up_on_disk_before_its_session_is_handed_out() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let (account, _) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
        let minted = account.mint_session_token(SessionOptions::new().single_use()).await.unwrap();
        let unused = disk.image();
        vault.session(&minted.token).await.unwrap();
        let used = disk.image();
        let after_crash = on_disk(&restored(&used)).open().await.unwrap();
        assert!(matches!(after_crash.session(&minted.token).await, Err(Error::InvalidToken)));
        // The control: a moment before it was good.
        on_disk(&restored(&unused)).open().await.unwrap().session(&minted.token).await.unwrap();
    });
}

#[test]
fn token_for_one_use_is_not_used_up_by_a_refusal() {
    block_on(async {
        let host = Host::new().await;
        let (account, _) = host.customer("acme", "secret").await;
        let options = SessionOptions::new().single_use().origins(["https://app.example.com"]);
        let minted = account.mint_session_token(options).await.unwrap();
        for origin in ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", ""] {
            let refused = host.vault.session_from(&minted.token, origin).await;
            assert!(matches!(refused, Err(Error::InvalidToken)), "{origin}: {refused:?}");
        }
        assert!(matches!(host.vault.session(&minted.token).await, Err(Error::InvalidToken)), "without an origin");
        account.disable().await.unwrap();
        assert!(matches!(host.vault.session_from(&minted.token, "https://app.example.com").await, Err(Error::InvalidToken)));
        account.enable().await.unwrap();
        host.vault.session_from(&minted.token, "https://app.example.com").await.unwrap();
        assert!(matches!(host.vault.session_from(&minted.token, "https://app.example.com").await, Err(Error::InvalidToken)));
    });
}

struct Timed {
    clock: Arc<ManualClock>,
    vault: Vault,
    account: anchorhold::Account,
}

async fn timed() -> Timed {
    let clock = new_clock();
    let vault = on_disk(&ModelDisk::new()).clock(clock.clone()).open().await.unwrap();
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    let (account, _) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
    Timed { clock, vault, account }
}

#[test]
fn session_ends_with_its_token_to_the_millisecond() {
    block_on(async {
        let Timed { clock, vault, account } = timed().await;
        let started = clock.now();
        let minted = account.mint_session_token(SessionOptions::new().lifetime(Duration::from_secs(60))).await.unwrap();
        assert_eq!(minted.expires_at, started.plus(Duration::from_secs(60)));
        let session = vault.session(&minted.token).await.unwrap();
        clock.set(started.plus(Duration::from_millis(59_999)));
        assert_eq!(session.linked_account_id().await.unwrap(), id("acme"));
        vault.session(&minted.token).await.unwrap();
        clock.set(started.plus(Duration::from_secs(60)));
        assert!(matches!(session.linked_account_id().await, Err(Error::InvalidToken)));
        assert!(matches!(vault.session(&minted.token).await, Err(Error::InvalidToken)));
        // A clock that is set back brings no token back from before it was made, but for a minute of skew.
        clock.set(Timestamp::from_millis(started.as_millis() - 60_000));
        vault.session(&minted.token).await.unwrap();
        clock.set(Timestamp::from_millis(started.as_millis() - 60_001));
        assert!(matches!(vault.session(&minted.token).await, Err(Error::InvalidToken)));
    });
}

#[test]
fn revoked_token_stays_revoked_and_handles_of_it_stop_at_once() {
    block_on(async {
        let Timed { clock: _clock, vault, account } = timed().await;
        let mint = || account.mint_session_token(SessionOptions::new().grants([Grant::ListConnections, Grant::Disconnect]));
        let (one, other) = (mint().await.unwrap(), mint().await.unwrap());
        let (session, neighbour) = (vault.session(&one.token).await.unwrap(), vault.session(&other.token).await.unwrap());
        let connection = account.connections().await.unwrap()[0].id;
        account.revoke_session_token(&one.id).await.unwrap();
        assert!(matches!(session.connections().await, Err(Error::InvalidToken)));
        assert!(matches!(session.disconnect(&connection).await, Err(Error::InvalidToken)));
        assert!(matches!(vault.session(&one.token).await, Err(Error::InvalidToken)));
        assert_eq!(neighbour.connections().await.unwrap().len(), 1, "the other one is not touched");
        account.revoke_all_session_tokens().await.unwrap();
        assert!(matches!(neighbour.connections().await, Err(Error::InvalidToken)));
        assert!(matches!(vault.session(&other.token).await, Err(Error::InvalidToken)));
        // One that is minted from then on is good, and the ones from before don't come back with it.
        let newer = mint().await.unwrap();
        vault.session(&newer.token).await.unwrap();
        assert!(matches!(vault.session(&one.token).await, Err(Error::InvalidToken)));
    });
}

#[test]
fn any_number_of_revoked_tokens_can_be_forgotten() {
    block_on(async {
        let clock = new_clock();
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).clock(clock.clone()).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let (account, _) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
        let marks = || {
            disk.trees().into_iter().flat_map(|tree| disk.rows(tree)).filter(|(key, _)| key.len() == 17 && key[0] == b'r').count()
        };
        let revoke = async |count: usize| {
            for _ in 0..count {
                let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
                account.revoke_session_token(&minted.id).await.unwrap();
            }
        };
        revoke(200).await;
        assert_eq!(marks(), 200);
        account.revoke_all_session_tokens().await.unwrap();
        assert_eq!(marks(), 0, "the new epoch refuses those tokens by itself");

        revoke(200).await;
        account.rotate_key().await.unwrap();
        assert_eq!(marks(), 0, "and so does the one of a new key");

        revoke(200).await;
        clock.advance(Duration::from_secs(25 * 60 * 60));
        // They go some at a time, with the changes that come.
        revoke(3).await;
        assert!((3..30).contains(&marks()), "{}", marks());
        revoke(1).await;
        assert_eq!(marks(), 4);
    });
}
