//! Sending requests with a credential. HOSTILE 15.

use anchorhold::{Error, RequestBody, SendError};
use http::Request;

use crate::common::block_on;
use crate::provider::API;
use crate::world::{World, get, used};

#[test]
fn a_refused_request_is_repeated_once_with_new_tokens() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let first = used(&connection).await;
        world.pass(60);
        world.provider.forget_access_tokens();
        let second = used(&connection).await;
        assert_ne!(first, second);
        let state = world.provider.state();
        assert_eq!((state.refreshes, state.api_requests), (1, 3));
    });
}

#[test]
fn an_api_that_refuses_everything_gets_its_answer_through_and_no_storm_of_refreshes() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        world.pass(60);
        world.provider.state().api_refuses = true;
        for _ in 0..20 {
            assert_eq!(connection.send(get()).await.unwrap().status(), 401);
        }
        assert_eq!(world.provider.state().refreshes, 1, "a new token that is refused is no reason for a newer one");
    });
}

#[test]
fn a_stream_is_sent_once() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        world.pass(60);
        world.provider.forget_access_tokens();
        let body = RequestBody::from_stream(futures_lite::stream::once(Ok(bytes::Bytes::from_static(b"x"))));
        let response = connection.send(Request::post(API).body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(world.provider.state().refreshes, 0);
    });
}

#[test]
fn the_credential_goes_nowhere_but_to_the_allowed_hosts() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let asked = world.provider.state().api_requests;
        for uri in [
            "https://evil.example.com/",
            "http://api.example.com/",
            "https://api.example.com:8443/",
            "https://api.example.com.evil.com/",
            "https://user@api.example.com/",
            "https://xapi.example.com/",
        ] {
            let request = Request::get(uri).body("").unwrap();
            let outcome = connection.send(request).await;
            assert!(matches!(outcome, Err(SendError::Vault(Error::NotAuthorized(_)))), "{uri}");
        }
        // Not even tokens are asked for.
        world.pass(3_600);
        let _ = connection.send(Request::get("https://evil.example.com/").body("").unwrap()).await;
        let state = world.provider.state();
        assert_eq!((state.api_requests, state.refreshes), (asked, 0));
    });
}

#[test]
fn the_header_is_sensitive() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let mut request = get();
        connection.authorize(&mut request).await.unwrap();
        assert!(request.headers()[http::header::AUTHORIZATION].is_sensitive());
        assert!(!format!("{request:?}").contains("access-"));
    });
}
