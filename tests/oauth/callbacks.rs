//! HOSTILE 16: what an attacker can do with a callback.

use anchorhold::{ConnectCallback, ConnectError, Error, Grant, RefreshProfile, SessionOptions};

use crate::common::{block_on, id};
use crate::provider::{oauth, request, settings};
use crate::world::World;

fn callback(query: &str) -> ConnectCallback {
    ConnectCallback::from_query(query).unwrap()
}

fn is_invalid<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Connect(ConnectError::InvalidState)))
}

#[test]
fn a_state_works_once() {
    block_on(async {
        let world = World::new().await;
        let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        world.account.complete_connect(callback(&query)).await.unwrap();
        let asked = world.provider.state().token_requests;
        assert!(is_invalid(&world.account.complete_connect(callback(&query)).await));
        // Also when all sessions were revoked since, which forgets the marks of used tokens.
        world.account.revoke_all_session_tokens().await.unwrap();
        assert!(is_invalid(&world.account.complete_connect(callback(&query)).await));
        assert_eq!(world.provider.state().token_requests, asked, "no code is sent for a used state");
        assert_eq!(world.account.connections().await.unwrap().len(), 1);
    });
}

#[test]
fn of_two_callers_with_one_state_one_succeeds() {
    block_on(async {
        let world = World::new().await;
        let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        let (one, two) = futures_lite::future::zip(
            world.account.complete_connect(callback(&query)),
            world.account.complete_connect(callback(&query)),
        )
        .await;
        assert!(one.is_ok() != two.is_ok());
        assert_eq!(world.provider.state().token_requests, 1);
    });
}

#[test]
fn a_state_of_another_account_session_or_backend_is_refused() {
    block_on(async {
        let world = World::new().await;
        let other = world.host.backend.create_account(&id("other")).await.unwrap();
        let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        assert!(is_invalid(&other.complete_connect(callback(&query)).await));

        let options = || SessionOptions::new().grants([Grant::Connect]);
        let mut sessions = Vec::new();
        for account in [&world.account, &world.account, &other] {
            let token = account.mint_session_token(options()).await.unwrap().token;
            sessions.push(world.host.vault.session(&token).await.unwrap());
        }
        // The backend's flow is none of a session.
        assert!(is_invalid(&sessions[0].complete_connect(callback(&query)).await));
        // A session's flow is none of another session of the account, of another account's, or of the backend.
        let query = world.provider.consent(&sessions[0].begin_connect(request()).await.unwrap());
        assert!(is_invalid(&sessions[1].complete_connect(callback(&query)).await));
        assert!(is_invalid(&sessions[2].complete_connect(callback(&query)).await));
        assert!(is_invalid(&world.account.complete_connect(callback(&query)).await));
        assert_eq!(world.provider.state().token_requests, 0);
        sessions[0].complete_connect(callback(&query)).await.unwrap();
        assert_eq!(other.connections().await.unwrap().len(), 0);
    });
}

#[test]
fn a_session_that_was_revoked_meanwhile_stores_nothing() {
    block_on(async {
        let world = World::new().await;
        let minted = world.account.mint_session_token(SessionOptions::new().grants([Grant::Connect])).await.unwrap();
        let session = world.host.vault.session(&minted.token).await.unwrap();
        let query = world.provider.consent(&session.begin_connect(request()).await.unwrap());
        world.provider.state().held = true;
        let completing = smol::spawn({
            let (session, query) = (session.clone(), query.clone());
            async move { session.complete_connect(callback(&query)).await }
        });
        while world.provider.state().token_requests == 0 {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }
        world.account.revoke_session_token(&minted.id).await.unwrap();
        world.provider.release();
        assert!(matches!(completing.await, Err(Error::InvalidToken)));
        assert_eq!(world.account.connections().await.unwrap().len(), 0);
    });
}

#[test]
fn an_expired_state_is_refused() {
    block_on(async {
        let world = World::new().await;
        let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        world.pass(600);
        assert!(is_invalid(&world.account.complete_connect(callback(&query)).await));
    });
}

#[test]
fn every_changed_character_of_a_state_is_noticed() {
    block_on(async {
        let world = World::new().await;
        let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        let (front, state) = query.split_once("state=").unwrap();
        for at in 0..state.len() {
            let mut changed = state.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = format!("{front}state={}", String::from_utf8(changed).unwrap());
            assert!(is_invalid(&world.account.complete_connect(callback(&changed)).await), "at {at}");
        }
        for state in ["", &state[1..], &state[..state.len() - 1], "x"] {
            let outcome = ConnectCallback::from_query(&format!("{front}state={state}"));
            if let Ok(callback) = outcome {
                assert!(is_invalid(&world.account.complete_connect(callback).await));
            }
        }
        assert_eq!(world.provider.state().token_requests, 0);
        world.account.complete_connect(callback(&query)).await.unwrap();
    });
}

#[test]
fn a_code_of_another_flow_is_refused_by_pkce() {
    block_on(async {
        let world = World::new().await;
        let mine = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        let attackers = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        let code = attackers.split_once("code=").unwrap().1.split('&').next().unwrap();
        let state = mine.split_once("state=").unwrap().1;
        let injected = world.account.complete_connect(callback(&format!("code={code}&state={state}"))).await;
        assert!(matches!(injected, Err(Error::Connect(ConnectError::NoTokens { .. }))));
        assert_eq!(world.account.connections().await.unwrap().len(), 0);
    });
}

#[test]
fn an_answer_of_another_issuer_is_refused_before_the_code_is_sent() {
    block_on(async {
        let settings_ = oauth(RefreshProfile::new()).with_issuer("https://id.example.com").unwrap().require_iss().unwrap();
        let world = World::of(settings_).await;
        for iss in [None, Some("https://evil.example.com"), Some("https://id.example.com/")] {
            world.provider.state().iss = iss.map(str::to_owned);
            let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
            let outcome = world.account.complete_connect(callback(&query)).await;
            assert!(matches!(outcome, Err(Error::Connect(ConnectError::WrongIssuer))), "{iss:?}");
        }
        assert_eq!(world.provider.state().token_requests, 0);
        world.provider.state().iss = Some("https://id.example.com".into());
        let query = world.provider.consent(&world.account.begin_connect(request()).await.unwrap());
        // Settings that were changed to another issuer meanwhile don't take the code either.
        let moved = oauth(RefreshProfile::new()).with_issuer("https://other.example.com").unwrap();
        world.host.backend.set_provider(settings(moved)).await.unwrap();
        let outcome = world.account.complete_connect(callback(&query)).await;
        assert!(matches!(outcome, Err(Error::Connect(ConnectError::WrongIssuer))));
        assert_eq!(world.provider.state().token_requests, 0);
    });
}

#[test]
fn callbacks_that_are_none_are_refused() {
    for query in
        ["", "code=a", "state=b", "code=a&state=b&error=c", "code=a&code=b&state=c", "code=a&state=b&state=c", "code=&state=b"]
    {
        assert!(matches!(ConnectCallback::from_query(query), Err(ConnectError::Callback)), "{query}");
    }
    let long = format!("code=a&state={}", "x".repeat(9_000));
    assert!(ConnectCallback::from_query(&long).is_err());
}
