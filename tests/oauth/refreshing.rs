//! Refreshing when a token is used: once for all callers, by classes of failure, and never at the cost of a credential. HOSTILE 12, 13
//! and 14.

use std::time::Duration;

use anchorhold::{
    ConnectionStatus, Error, Event, EventKind, FailureClass, HttpError, ReauthReason, RefreshFailure, RefreshProfile,
};
use futures_lite::StreamExt as _;

use crate::common::block_on;
use crate::provider::{Scripted, oauth, request};
use crate::world::{World, get, info, used};

fn rotating(grace: u64) -> RefreshProfile {
    RefreshProfile::new().with_rotation(true).with_grace(Duration::from_secs(grace)).unwrap()
}

#[test]
fn a_token_is_refreshed_when_it_is_used_within_its_margin() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let first = used(&connection).await;
        world.pass(3_299);
        assert_eq!(used(&connection).await, first);
        world.pass(1);
        let second = used(&connection).await;
        assert_ne!(second, first);
        assert_eq!(world.provider.state().refreshes, 1);
        let info = info(&connection).await;
        assert_eq!(info.last_refresh, Some(anchorhold::Clock::now(&*world.clock)));
        assert_eq!(info.scopes, ["read", "write"], "an answer without scopes leaves them");
        assert!(info.next_refresh.unwrap() > info.last_refresh.unwrap());
    });
}

#[test]
fn a_thousand_callers_at_the_moment_of_expiry_make_one_request() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        world.pass(3_600);
        world.provider.state().held = true;
        let callers: Vec<_> = (0..1_000)
            .map(|_| {
                let connection = connection.clone();
                smol::spawn(async move { used(&connection).await })
            })
            .collect();
        while world.provider.state().refreshes == 0 && world.provider.state().token_requests < 2 {
            smol::Timer::after(Duration::from_millis(2)).await;
        }
        assert_eq!(info(&connection).await.status, ConnectionStatus::Refreshing);
        world.provider.release();
        let mut tokens = Vec::new();
        for caller in callers {
            tokens.push(caller.await);
        }
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "all get the same generation");
        assert_eq!(world.provider.state().refreshes, 1);
        assert_eq!(world.provider.state().api_requests, 1_000);
    });
}

#[test]
fn rotated_refresh_tokens_are_each_sent_once() {
    block_on(async {
        let world = World::of(oauth(rotating(0))).await;
        let connection = world.connect().await;
        for _ in 0..5 {
            world.pass(3_600);
            used(&connection).await;
        }
        let sent = world.provider.state().sent.clone();
        let mut distinct = sent.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!((sent.len(), distinct.len()), (5, 5));
    });
}

#[test]
fn an_answer_without_a_refresh_token_keeps_the_old_one() {
    block_on(async {
        let world = World::of(oauth(RefreshProfile::new().with_rotation(false))).await;
        world.provider.state().rotates = false;
        let connection = world.connect().await;
        for _ in 0..3 {
            world.pass(3_600);
            used(&connection).await;
        }
        let sent = world.provider.state().sent.clone();
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|token| *token == sent[0]));
        let kept = connection.reveal(|tokens| tokens.refresh_token().map(str::to_owned)).await.unwrap();
        assert_eq!(kept.as_ref(), sent.first());
    });
}

#[test]
fn what_a_token_endpoint_answers_wrongly_costs_no_credential() {
    let large = "x".repeat(10 << 20);
    let cases: Vec<(&str, Scripted)> = vec![
        (
            "HTML with status 200",
            Scripted::Answer(200, vec![("content-type", "text/html".into())], "<html>sign in</html>".into()),
        ),
        ("10 MB", Scripted::Answer(200, vec![], large)),
        ("no access token", Scripted::Answer(200, vec![], r#"{"token_type":"Bearer"}"#.into())),
        ("a redirect", Scripted::Answer(302, vec![("location", "https://evil.example.com/".into())], String::new())),
        ("500", Scripted::Answer(500, vec![], "oops".into())),
        ("500 with an error of the grant", Scripted::Answer(503, vec![], r#"{"error":"invalid_grant"}"#.into())),
        ("429", Scripted::Answer(429, vec![("retry-after", "30".into())], String::new())),
        ("an error of its own", Scripted::Answer(400, vec![], r#"{"error":"temporarily_unavailable"}"#.into())),
        ("nobody there", Scripted::Fails(HttpError::Unreachable)),
        ("no answer in time", Scripted::Fails(HttpError::TimedOut)),
        ("a broken connection", Scripted::Fails(HttpError::Interrupted)),
    ];
    block_on(async {
        let world = World::of(oauth(rotating(0))).await;
        let connection = world.connect().await;
        for (what, answer) in cases {
            let first = used(&connection).await;
            let tokens = |secret: &anchorhold::Revealed| secret.refresh_token().map(str::to_owned);
            let kept = connection.reveal(tokens).await.unwrap();
            world.provider.script([answer.clone()]);
            // Within the margin the old access token goes on.
            world.pass(3_400);
            assert_eq!(used(&connection).await, first, "{what}");
            let status = info(&connection).await;
            assert!(matches!(status.status, ConnectionStatus::Retrying { .. }), "{what}: {:?}", status.status);
            assert_eq!(status.failures_in_a_row, 1, "{what}");
            // Expired, and not to be asked again yet.
            let asked = world.provider.state().token_requests;
            world.provider.script([answer]);
            world.pass(200);
            let outcome = connection.send(get()).await;
            assert!(matches!(&outcome, Err(anchorhold::SendError::Vault(Error::RefreshFailed { .. }))), "{what}: {outcome:?}");
            assert!(connection.send(get()).await.is_err(), "{what}");
            assert_eq!(world.provider.state().token_requests, asked + 1, "{what}: one attempt, then a pause");
            assert_eq!(connection.reveal(tokens).await.unwrap(), kept, "{what}");
            world.pass(1_800);
            assert_ne!(used(&connection).await, first, "{what}");
            assert_eq!(info(&connection).await.status, ConnectionStatus::Active, "{what}");
        }
    });
}

#[test]
fn strange_lifetimes_are_taken_with_care() {
    block_on(async {
        let world = World::of(oauth(RefreshProfile::new().with_rotation(false))).await;
        let connection = world.connect().await;
        let answer = |expires: &str| {
            Scripted::Answer(200, vec![], format!(r#"{{"access_token":"odd","token_type":"Bearer","expires_in":{expires}}}"#))
        };
        world.pass(3_600);
        world.provider.script([answer("-5")]);
        // Expired as it comes: it is not handed out, and asking goes on after a pause.
        for _ in 0..5 {
            let outcome = connection.send(get()).await;
            assert!(matches!(outcome, Err(anchorhold::SendError::Vault(Error::RefreshFailed { .. }))), "{outcome:?}");
        }
        assert_eq!(world.provider.state().token_requests, 2, "the code and one refresh");
        world.pass(2);
        used(&connection).await;
        world.pass(3_600);
        world.provider.script([answer("1e300")]);
        connection.refresh().await.unwrap();
        let until = info(&connection).await.expires_at.unwrap();
        let ten_years = Duration::from_secs(10 * 366 * 86_400);
        assert!(until.since(anchorhold::Clock::now(&*world.clock)) <= ten_years);
    });
}

#[test]
fn retry_after_is_honoured() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        world.pass(3_700);
        world.provider.script([Scripted::Answer(429, vec![("retry-after", "600".into())], String::new())]);
        assert!(connection.send(get()).await.is_err());
        world.pass(599);
        assert!(connection.send(get()).await.is_err());
        assert_eq!(world.provider.state().refreshes, 0);
        world.pass(1);
        used(&connection).await;
    });
}

#[test]
fn a_withdrawn_consent_is_told_once_and_the_dead_token_is_never_sent_again() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let mut events = world.host.vault.events();
        world.provider.withdraw();
        world.pass(3_600);
        for _ in 0..3 {
            let outcome = connection.send(get()).await;
            assert!(matches!(
                outcome,
                Err(anchorhold::SendError::Vault(Error::ReauthRequired { reason: ReauthReason::Revoked }))
            ));
            let forced = connection.refresh().await;
            assert!(matches!(forced, Err(Error::ReauthRequired { .. })));
            world.pass(100_000);
        }
        assert_eq!(world.provider.state().refreshes, 1);
        assert_eq!(info(&connection).await.status, ConnectionStatus::ReauthRequired { reason: ReauthReason::Revoked });
        let told = loop {
            if let Some(Event::Account { kind: EventKind::ReauthRequired { connection, reason }, .. }) = events.next().await {
                break (connection, reason);
            }
        };
        assert_eq!(told, (connection.id(), ReauthReason::Revoked));
        // The credential is still there, and a reconnect brings the connection back.
        assert!(connection.reveal(|tokens| tokens.refresh_token().is_some()).await.unwrap());
        let query = world.provider.consent(&world.account.begin_connect(request().reconnect(connection.id())).await.unwrap());
        world.account.complete_connect(anchorhold::ConnectCallback::from_query(&query).unwrap()).await.unwrap();
        used(&connection).await;
        assert_eq!(info(&connection).await.status, ConnectionStatus::Active);
    });
}

#[test]
fn a_refused_client_costs_no_credential_and_works_when_it_is_corrected() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        world.provider.state().client_refused = true;
        world.pass(3_600);
        let outcome = connection.send(get()).await;
        assert!(matches!(outcome, Err(anchorhold::SendError::Vault(Error::Misconfigured { .. }))), "{outcome:?}");
        let expected = RefreshFailure::Refused { code: "invalid_client".into() };
        assert_eq!(info(&connection).await.status, ConnectionStatus::Misconfigured { reason: expected });
        world.provider.state().client_refused = false;
        connection.refresh().await.unwrap();
        used(&connection).await;
        assert_eq!(info(&connection).await.status, ConnectionStatus::Active);
    });
}

#[test]
fn a_provider_s_own_error_codes_mean_what_its_profile_says() {
    block_on(async {
        let profile = RefreshProfile::new().with_error("BAD_REFRESH_TOKEN", FailureClass::Revoked).unwrap();
        let world = World::of(oauth(profile)).await;
        let connection = world.connect().await;
        world.pass(3_600);
        world.provider.script([Scripted::Answer(400, vec![], r#"{"error":"BAD_REFRESH_TOKEN"}"#.into())]);
        assert!(connection.send(get()).await.is_err());
        assert_eq!(info(&connection).await.status, ConnectionStatus::ReauthRequired { reason: ReauthReason::Revoked });
    });
}

#[test]
fn without_a_refresh_token_an_expired_connection_asks_for_the_customer() {
    block_on(async {
        let world = World::new().await;
        world.provider.script([Scripted::Answer(
            200,
            vec![],
            r#"{"access_token":"only","token_type":"bearer","expires_in":3600}"#.into(),
        )]);
        let connection = world.connect().await;
        world.pass(3_599);
        connection.authorize(&mut get()).await.unwrap();
        world.pass(1);
        let outcome = connection.authorize(&mut get()).await;
        assert!(matches!(outcome, Err(Error::ReauthRequired { reason: ReauthReason::Expired })));
        assert_eq!(info(&connection).await.status, ConnectionStatus::ReauthRequired { reason: ReauthReason::Expired });
    });
}

#[test]
fn clock_steps_of_a_day_use_no_dead_token_and_make_no_storm() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let first = used(&connection).await;
        let day = 86_400;
        // A day ahead: one refresh, however many callers.
        world.pass(day);
        for _ in 0..10 {
            assert_ne!(used(&connection).await, first);
        }
        assert_eq!(world.provider.state().refreshes, 1);
        // And back: the tokens seem to come from the future; their expiry says nothing, so they are replaced, once.
        world.set_back(day);
        for _ in 0..10 {
            used(&connection).await;
        }
        assert_eq!(world.provider.state().refreshes, 2);
        let until = info(&connection).await.expires_at.unwrap();
        assert!(until.since(anchorhold::Clock::now(&*world.clock)) <= Duration::from_secs(3_600));
    });
}

#[test]
fn a_disabled_connection_is_neither_used_nor_refreshed() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        connection.disable().await.unwrap();
        world.pass(3_600);
        assert!(matches!(connection.authorize(&mut get()).await, Err(Error::ConnectionDisabled)));
        assert!(matches!(connection.reveal(|_| ()).await, Err(Error::ConnectionDisabled)));
        assert!(matches!(connection.refresh().await, Err(Error::ConnectionDisabled)));
        assert_eq!(info(&connection).await.status, ConnectionStatus::Disabled);
        assert_eq!(world.provider.state().refreshes, 0);
        connection.enable().await.unwrap();
        used(&connection).await;
    });
}

#[test]
fn the_audit_tells_what_was_refreshed_and_what_failed() {
    block_on(async {
        use anchorhold::AuditAction as Action;
        let world = World::new().await;
        let connection = world.connect().await;
        world.pass(3_600);
        used(&connection).await;
        world.pass(3_600);
        for _ in 0..3 {
            world.provider.script([Scripted::Fails(HttpError::Unreachable)]);
            assert!(connection.send(get()).await.is_err());
            world.pass(2_000);
        }
        let page = world.account.audit(anchorhold::PageRequest::first(100)).await.unwrap();
        let refreshed =
            page.items.iter().filter(|entry| matches!(entry.action, Action::TokensRefreshed { generation: 2 })).count();
        let failed = page.items.iter().filter(|entry| matches!(entry.action, Action::RefreshFailed { .. })).count();
        assert_eq!((refreshed, failed), (1, 1), "a failure is noted when it begins, not each time");
        assert!(page.items.iter().any(|entry| matches!(entry.action, Action::ConnectBegun { .. })));
        assert_eq!(world.account.verify_audit().await.unwrap().broken, None);
    });
}
