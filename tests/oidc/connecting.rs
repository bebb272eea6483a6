//! Connecting and disconnecting.

use anchorhold::{ConnectCallback, ConnectError, ConnectionStatus, Error, Grant, SessionOptions};

use crate::browser;
use crate::common::block_on;
use crate::world::{World, request, tokens};

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn customers_connect_and_their_credential_works() {
    block_on(async {
        let world = World::new(60).await;
        let query = world.agree(&world.begin().await).await;
        let iss = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "iss").unwrap().1.into_owned();
        assert_eq!(iss, world.server.issuer, "the server says who it is (RFC 9207)");
        let connection = world.complete(&query).await.unwrap();
        world.works(&connection).await;
        let info = connection.info().await.unwrap();
        assert_eq!((info.status, info.scopes.as_slice()), (ConnectionStatus::Active, info.requested_scopes.as_slice()));

        // The browser of another one, with a session of its own.
        let minted = world.account.mint_session_token(SessionOptions::new().grants([Grant::Connect])).await.unwrap();
        let session = world.host.vault.session(&minted.token).await.unwrap();
        let begun = session.begin_connect(request()).await.unwrap();
        session.complete_connect(ConnectCallback::from_query(&world.agree(&begun).await).unwrap()).await.unwrap();
        let connections = world.account.connections().await.unwrap();
        assert_eq!(connections.len(), 2);
        for info in connections {
            world.works(&world.account.connection(&info.id).await.unwrap()).await;
        }
        assert_eq!(world.server.count("authorization_code").await, 2);
    });
}

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn callbacks_that_fail_make_no_connection_and_break_none() {
    block_on(async {
        let world = World::new(60).await;
        let query = world.agree(&world.begin().await).await;
        let connection = world.complete(&query).await.unwrap();

        // A state that was used, with its own code and with a new one.
        assert!(matches!(world.complete(&query).await, Err(Error::Connect(ConnectError::InvalidState))));
        let fresh = world.agree(&world.begin().await).await;
        let replayed = with(&with(&fresh, "state", &of(&query, "state")), "iss", &of(&query, "iss"));
        assert!(matches!(world.complete(&replayed).await, Err(Error::Connect(ConnectError::InvalidState))));
        assert_eq!(world.server.count("authorization_code").await, 1, "no code is sent for a used state");

        // A code that is none, and the code of another flow, which only its own verifier opens (RFC 7636).
        assert!(is_invalid_grant(&world.complete(&with(&fresh, "code", "made-up")).await));
        let (mine, attackers) = (world.agree(&world.begin().await).await, world.agree(&world.begin().await).await);
        assert!(is_invalid_grant(&world.complete(&with(&mine, "code", &of(&attackers, "code"))).await));
        assert_eq!(world.server.count("authorization_code: invalid_grant").await, 2);

        // Another issuer, and none although the server always names it.
        let mixed = world.agree(&world.begin().await).await;
        let other = with(&mixed, "iss", "http://127.0.0.1:1");
        assert!(matches!(world.complete(&other).await, Err(Error::Connect(ConnectError::WrongIssuer))));
        let without = world.agree(&world.begin().await).await;
        let without = without.split('&').filter(|pair| !pair.starts_with("iss=")).collect::<Vec<_>>().join("&");
        assert!(matches!(world.complete(&without).await, Err(Error::Connect(ConnectError::WrongIssuer))));

        // The customer says no, also to renewing the connection that there is.
        let begun = world.account.begin_connect(request().reconnect(connection.id())).await.unwrap();
        let refused = world.complete(&browser::visit(&world.server, &begun.url, false).await).await;
        assert!(matches!(refused, Err(Error::Connect(ConnectError::Refused { code })) if code == "access_denied"));

        assert_eq!(world.server.count("authorization_code").await, 1);
        assert_eq!(world.account.connections().await.unwrap().len(), 1);
        world.works(&connection).await;
    });
}

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn disconnecting_ends_the_tokens_at_the_provider() {
    block_on(async {
        let world = World::new(60).await;
        let connection = world.connect().await;
        let (access, refresh) = tokens(&connection).await;
        assert!(world.server.is_active(&refresh).await && world.server.is_active(&access).await);
        connection.remove().await.unwrap();
        assert_eq!(world.server.count("revocation").await, 1);
        assert!(!world.server.is_active(&refresh).await && !world.server.is_active(&access).await);
        assert_eq!(world.server.refresh_by_hand(&refresh).await, (400, Some("invalid_grant".to_owned())));
        assert!(matches!(connection.info().await, Err(Error::NotFound { .. })));
        assert!(world.account.connections().await.unwrap().is_empty());
    });
}

fn is_invalid_grant<T>(outcome: &Result<T, Error>) -> bool {
    let refused = anchorhold::RefreshFailure::Refused { code: "invalid_grant".to_owned() };
    matches!(outcome, Err(Error::Connect(ConnectError::NoTokens { reason })) if *reason == refused)
}

/// The value of a callback's parameter.
fn of(query: &str, name: &str) -> String {
    form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).unwrap().1.into_owned()
}

/// The callback with another value of a parameter.
fn with(query: &str, name: &str, value: &str) -> String {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let changed = pairs.map(|(found, before)| if found == name { (found, value.into()) } else { (found, before) });
    form_urlencoded::Serializer::new(String::new()).extend_pairs(changed).finish()
}
