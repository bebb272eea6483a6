//! The stream of events: complete and in order for who keeps up, and no burden for anybody else.

use std::time::Duration;

use anchorhold::{ApiKeyEventKind, Credential, Environment, Event, EventKind, NewApiKey, SessionOptions};
use futures_lite::StreamExt as _;

use crate::common::{Host, api_key_connection, block_on, header_provider, id, provider, revealed, secret};
use crate::tools::within;

#[test]
fn each_change_is_told_once_in_order_and_the_stream_ends_with_the_vault() {
    block_on(async {
        let host = Host::new().await;
        let (vault, backend) = (&host.vault, &host.backend);
        let mut events = vault.events();
        backend.set_provider(header_provider("crm")).await.unwrap();
        let key = backend.create_api_key(NewApiKey::new("other")).await.unwrap().info.id;
        let newer = backend.rotate_api_key(&key, Duration::ZERO).await.unwrap().info.id;
        backend.revoke_api_key(&newer).await.unwrap();
        let account = backend.create_account(&id("acme")).await.unwrap();
        // Idempotent: the second time nothing happens.
        backend.create_account(&id("acme")).await.unwrap();
        account.set_metadata("gold").await.unwrap();
        let connection = account.add_connection(api_key_connection("crm", "secret")).await.unwrap();
        let c = connection.id();
        revealed(&connection).await.unwrap();
        connection.authorize(&mut http::Request::get("https://api.example.com/").body(()).unwrap()).await.unwrap();
        connection.set_label("new").await.unwrap();
        connection.report_failed().await.unwrap();
        connection.replace_credential(Credential::api_key(secret("newer"))).await.unwrap();
        let once = account.mint_session_token(SessionOptions::new().single_use()).await.unwrap();
        vault.session(&once.token).await.unwrap();
        let session = account.mint_session_token(SessionOptions::new()).await.unwrap();
        account.revoke_session_token(&session.id).await.unwrap();
        account.revoke_session_token(&session.id).await.unwrap();
        account.revoke_all_session_tokens().await.unwrap();
        account.disable().await.unwrap();
        account.disable().await.unwrap();
        assert!(revealed(&connection).await.is_err());
        account.enable().await.unwrap();
        connection.remove().await.unwrap();
        account.delete().await.unwrap();
        vault.close().await.unwrap();

        let of_key = |id, kind| Event::ApiKey { environment: Environment::Test, id, kind };
        let of_account = |kind| Event::Account { environment: Environment::Test, linked_account_id: id("acme"), kind };
        let mut expected = vec![
            of_key(key, ApiKeyEventKind::Created),
            of_key(newer, ApiKeyEventKind::Rotated),
            of_key(newer, ApiKeyEventKind::Revoked),
        ];
        let kinds = [
            EventKind::AccountCreated,
            EventKind::AccountUpdated,
            EventKind::ConnectionAdded { connection: c, provider: provider("crm") },
            EventKind::ConnectionRevealed { connection: c },
            EventKind::ConnectionUsed { connection: c },
            EventKind::ConnectionUpdated { connection: c },
            EventKind::ConnectionFailed { connection: c },
            EventKind::ConnectionUpdated { connection: c },
            EventKind::SessionMinted { session: once.id },
            EventKind::SessionUsedUp { session: once.id },
            EventKind::SessionMinted { session: session.id },
            EventKind::SessionRevoked { session: session.id },
            EventKind::AllSessionsRevoked,
            EventKind::AccountDisabled,
            EventKind::Denied,
            EventKind::AccountEnabled,
            EventKind::ConnectionRemoved { connection: c },
            EventKind::AccountDeleted,
        ];
        expected.extend(kinds.map(of_account));
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event);
        }
        assert_eq!(seen, expected);
        assert!(vault.events().next().await.is_none(), "a closed vault has none");
    });
}

#[test]
fn slow_reader_blocks_nobody_and_is_told_how_many_it_lost() {
    within(Duration::from_secs(60), || block_on(slow_reader()));
}

async fn slow_reader() {
    let host = Host::new().await;
    let mut slow = host.vault.events();
    let (account, connection) = host.customer("acme", "secret").await;
    for _ in 0..3_000 {
        revealed(&connection).await.unwrap();
    }
    account.set_metadata("all of it was answered while nobody read").await.unwrap();

    // One who reads sees what happens from then on, in order.
    let mut reader = host.vault.events();
    let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
    let event = reader.next().await.unwrap();
    assert!(
        matches!(event, Event::Account { kind: EventKind::SessionMinted { session }, .. } if session == minted.id),
        "{event:?}"
    );
    assert_eq!(reader.try_next(), None);

    // The slow one is told how many it lost, and gets the newest ones: none is missing without being counted.
    let Some(Event::Missed(missed)) = slow.try_next() else { panic!("it is not told what it lost") };
    let mut rest = 0;
    while let Some(event) = slow.try_next() {
        assert!(!matches!(event, Event::Missed(_)));
        rest += 1;
    }
    // Created, connected, revealed 3,000 times, changed, minted.
    assert_eq!(missed + rest, 3_004);
    assert!(rest >= 1_000, "it keeps {rest}");
}

#[test]
fn events_of_what_failed_are_not_told() {
    block_on(async {
        let host = Host::new().await;
        let (account, _) = host.customer("acme", "secret").await;
        let mut events = host.vault.events();
        assert!(account.set_metadata(&"x".repeat(5_000)).await.is_err());
        assert!(account.mint_session_token(SessionOptions::new().lifetime(Duration::ZERO)).await.is_err());
        assert!(host.backend.remove_provider(&provider("none")).await.is_err());
        assert_eq!(events.try_next(), None);
    });
}
