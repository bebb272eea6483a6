//! Refreshing in real time, with access tokens of two seconds and refresh tokens that work once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anchorhold::{ConnectionStatus, Error, ReauthReason};

use crate::common::block_on;
use crate::world::{World, expiry, tokens};

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn refresh_tokens_rotate_and_the_connection_goes_on_through_restarts() {
    block_on(async {
        let mut world = World::new(2).await;
        let mut connection = world.connect().await;
        let mut seen = BTreeSet::from([tokens(&connection).await]);
        for round in 0..6 {
            expiry(&connection).await;
            if round % 2 == 1 {
                connection = world.reopen(connection).await;
            }
            world.works(&connection).await;
            assert!(seen.insert(tokens(&connection).await), "both tokens are new");
        }
        let counts = world.server.counts().await;
        // The wheel may have been faster than a use, and then there was one request all the same.
        assert_eq!(counts["refresh_token"], counts["refresh tokens replaced"]);
        assert!(counts["refresh_token"] >= 6 && !counts.contains_key("refresh_token: invalid_grant"), "{counts:?}");
        assert_eq!(seen.iter().map(|(_, refresh)| refresh).collect::<BTreeSet<_>>().len(), 7);
        assert_eq!(connection.info().await.unwrap().status, ConnectionStatus::Active);
    });
}

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn fifty_callers_at_expiry_make_one_request() {
    block_on(async {
        let world = World::new(5).await;
        let connection = world.connect().await;
        let (before, _) = tokens(&connection).await;
        expiry(&connection).await;
        assert_eq!(world.server.count("refresh_token").await, 0);
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (connection, api) = (connection.clone(), world.server.api());
                smol::spawn(async move {
                    let mut request = http::Request::get(api).body("").unwrap();
                    connection.authorize(&mut request).await.unwrap();
                    request.headers()[http::header::AUTHORIZATION].to_str().unwrap().to_owned()
                })
            })
            .collect();
        let mut got = BTreeSet::new();
        for caller in callers {
            got.insert(caller.await);
        }
        assert_eq!(world.server.count("refresh_token").await, 1);
        assert_eq!(got.len(), 1, "all get the same access token");
        assert!(!got.contains(&format!("Bearer {before}")));
        world.works(&connection).await;
    });
}

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn a_refresh_token_that_somebody_else_used_ends_the_connection_for_good() {
    block_on(async {
        let mut world = World::new(2).await;
        let mut connection = world.connect().await;
        let (_, stolen) = tokens(&connection).await;
        connection.refresh().await.unwrap();
        let (_, current) = tokens(&connection).await;
        assert!(world.server.is_active(&current).await);
        // Whoever has the replaced token presents it: the server ends the whole family (RFC 9700 section 4.14.2).
        assert_eq!(world.server.refresh_by_hand(&stolen).await, (400, Some("invalid_grant".to_owned())));
        assert_eq!(world.server.count("families of tokens ended").await, 1);
        assert!(!world.server.is_active(&current).await);

        expiry(&connection).await;
        let ended = |outcome: Result<_, Error>| matches!(outcome, Err(Error::ReauthRequired { reason: ReauthReason::Revoked }));
        assert!(ended(world.used(&connection).await.map(drop)));
        let asked = world.server.count("refresh_token: invalid_grant").await;
        assert_eq!(asked, 2, "once by hand and once by the vault");
        for _ in 0..3 {
            assert!(ended(world.used(&connection).await.map(drop)));
            assert!(ended(connection.refresh().await));
            connection = world.reopen(connection).await;
        }
        assert_eq!(world.server.count("refresh_token: invalid_grant").await, asked, "a dead token is not sent again");
        let status = connection.info().await.unwrap().status;
        assert_eq!(status, ConnectionStatus::ReauthRequired { reason: ReauthReason::Revoked });

        // The customer connects again, and it is the same connection.
        let begun = world.account.begin_connect(crate::world::request().reconnect(connection.id())).await.unwrap();
        let renewed = world.complete(&world.agree(&begun).await).await.unwrap();
        assert_eq!(renewed.id(), connection.id());
        world.works(&connection).await;
    });
}

#[test]
#[ignore = "needs Node: scripts/oidc.sh"]
fn the_wheel_refreshes_what_nobody_uses() {
    block_on(async {
        let world = World::new(5).await;
        let connection = world.connect().await;
        let started = Instant::now();
        while world.server.count("refresh_token").await < 2 {
            assert!(started.elapsed() < Duration::from_secs(80), "the wheel does not turn");
            smol::Timer::after(Duration::from_millis(250)).await;
        }
        assert!(connection.info().await.unwrap().last_refresh.is_some());
        assert!(!world.server.counts().await.contains_key("refresh_token: invalid_grant"));
    });
}
