//! The ways to a connection.

use anchorhold::{
    ConnectCallback, ConnectError, ConnectRequest, ConnectionStatus, Credential, CredentialKind, Error, Grant, Item, OAuthClient,
    RefreshProfile, SessionOptions,
};

use crate::common::{block_on, header_provider, provider as name, secret};
use crate::provider::{REDIRECT, Scripted, oauth, request, settings};
use crate::world::{World, info, used};

#[test]
fn a_customer_connects_and_the_host_sends_requests_as_them() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        assert_eq!(used(&connection).await, "access-2");
        let info = info(&connection).await;
        assert_eq!(info.kind, CredentialKind::OAuth2);
        assert_eq!(info.scopes, ["read", "write"]);
        assert_eq!(info.missing_scopes(), Vec::<&str>::new());
        assert_eq!(info.status, ConnectionStatus::Active);
        assert_eq!(world.provider.state().token_requests, 1);
    });
}

#[test]
fn scopes_that_the_customer_unticked_are_told() {
    block_on(async {
        let world = World::new().await;
        world.provider.state().granted = Some("read".into());
        let connection = world.connect().await;
        let info = info(&connection).await;
        assert_eq!((info.scopes.clone(), info.missing_scopes()), (vec!["read".to_owned()], vec!["write"]));
    });
}

#[test]
fn only_the_scopes_of_the_request_are_asked_for() {
    block_on(async {
        let world = World::new().await;
        let request = world.account.begin_connect(request().scopes(["read"]).unwrap()).await.unwrap();
        assert!(request.url.contains("scope=read&") || request.url.ends_with("scope=read"), "{}", request.url);
        let query = world.provider.consent(&request);
        let connection = world.account.complete_connect(ConnectCallback::from_query(&query).unwrap()).await.unwrap();
        assert_eq!(info(&connection).await.requested_scopes, ["read"]);
    });
}

#[test]
fn a_session_connects_within_its_grants() {
    block_on(async {
        let world = World::new().await;
        let mint = |options: SessionOptions| world.account.mint_session_token(options);
        let token = mint(SessionOptions::new().grants([Grant::Connect, Grant::ListConnections])).await.unwrap().token;
        let session = world.host.vault.session(&token).await.unwrap();
        let request_ = session.begin_connect(request().label("mine")).await.unwrap();
        let query = world.provider.consent(&request_);
        let id = session.complete_connect(ConnectCallback::from_query(&query).unwrap()).await.unwrap();
        let listed = session.connections().await.unwrap();
        assert_eq!((listed.len(), listed[0].id, listed[0].label.as_str()), (1, id, "mine"));

        let lists_only = mint(SessionOptions::new().grants([Grant::ListConnections])).await.unwrap().token;
        let session = world.host.vault.session(&lists_only).await.unwrap();
        assert!(matches!(session.begin_connect(request()).await, Err(Error::NotGranted { needed: Grant::Connect })));

        let elsewhere = SessionOptions::new().grants([Grant::Connect]).providers([name("other")]);
        let session = world.host.vault.session(&mint(elsewhere).await.unwrap().token).await.unwrap();
        assert!(matches!(session.begin_connect(request()).await, Err(Error::NotFound { what: Item::Provider })));
    });
}

#[test]
fn a_customer_enters_keys_but_no_tokens() {
    block_on(async {
        let world = World::new().await;
        world.host.backend.set_provider(header_provider("keys")).await.unwrap();
        let options = SessionOptions::new().grants([Grant::Connect, Grant::ListConnections]);
        let token = world.account.mint_session_token(options).await.unwrap().token;
        let session = world.host.vault.session(&token).await.unwrap();
        let id = session.add_credential(&name("keys"), Credential::api_key(secret("k")), "typed").await.unwrap();
        assert_eq!(session.connections().await.unwrap()[0].id, id);
        let unknown = session.add_credential(&name("nobody"), Credential::api_key(secret("k")), "").await;
        assert!(matches!(unknown, Err(Error::NotFound { what: Item::Provider })));
        let tokens = Credential::oauth2(anchorhold::OAuth2Tokens::new(secret("t")));
        let refused = session.add_credential(&name("keys"), tokens, "").await;
        assert!(matches!(refused, Err(Error::Connect(ConnectError::Unsupported { .. }))));
    });
}

#[test]
fn a_reconnect_keeps_the_id_and_breaks_nothing_when_it_fails() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let id = connection.id();
        let before = used(&connection).await;

        let begun = world.account.begin_connect(request().reconnect(id)).await.unwrap();
        let query = world.provider.consent(&begun);
        world.provider.script([Scripted::Answer(400, vec![], r#"{"error":"invalid_grant"}"#.into())]);
        let failed = world.account.complete_connect(ConnectCallback::from_query(&query).unwrap()).await;
        assert!(matches!(failed, Err(Error::Connect(ConnectError::NoTokens { .. }))), "{failed:?}");
        assert_eq!(used(&connection).await, before);

        let begun = world.account.begin_connect(request().reconnect(id)).await.unwrap();
        let refused = ConnectCallback::from_query(&format!(
            "error=access_denied&state={}",
            world.provider.consent(&begun).split_once("state=").unwrap().1
        ));
        let failed = world.account.complete_connect(refused.unwrap()).await;
        assert!(matches!(failed, Err(Error::Connect(ConnectError::Refused { code })) if code == "access_denied"));
        assert_eq!(used(&connection).await, before);

        let begun = world.account.begin_connect(request().reconnect(id)).await.unwrap();
        let query = world.provider.consent(&begun);
        let renewed = world.account.complete_connect(ConnectCallback::from_query(&query).unwrap()).await.unwrap();
        assert_eq!(renewed.id(), id);
        assert_ne!(used(&connection).await, before);
        assert_eq!(world.account.connections().await.unwrap().len(), 1);
    });
}

#[test]
fn client_credentials_and_imported_refresh_tokens_make_connections_too() {
    block_on(async {
        let world = World::new().await;
        let machine = world.account.connect_with_client_credentials(&name("idp"), None, "machine").await.unwrap();
        let first = used(&machine).await;
        world.pass(3_600);
        assert_ne!(used(&machine).await, first);

        let connection = world.connect().await;
        let refresh = connection.reveal(|tokens| tokens.refresh_token().map(str::to_owned)).await.unwrap().unwrap();
        connection.remove().await.unwrap();
        assert_eq!(world.provider.state().revoked, [refresh]);
        let dead = world.account.import_refresh_token(&name("idp"), secret("never given"), "").await;
        assert!(matches!(dead, Err(Error::Connect(ConnectError::NoTokens { .. }))));

        let other = world.connect().await;
        let refresh = other.reveal(|tokens| tokens.refresh_token().map(str::to_owned)).await.unwrap().unwrap();
        let imported = world.account.import_refresh_token(&name("idp"), secret(&refresh), "imported").await.unwrap();
        used(&imported).await;
    });
}

#[test]
fn what_is_not_configured_is_told() {
    block_on(async {
        let world = World::new().await;
        let unknown = ConnectRequest::new(name("nobody"), REDIRECT).unwrap();
        assert!(matches!(world.account.begin_connect(unknown).await, Err(Error::NotFound { what: Item::Provider })));
        let client = || OAuthClient::new("c").unwrap();
        let refused = world.host.backend.set_oauth_client(&name("nobody"), client()).await;
        assert!(matches!(refused, Err(Error::NotFound { what: Item::Provider })));
        // Removed with the settings, the client does not come back with them.
        world.host.backend.remove_provider(&name("idp")).await.unwrap();
        world.host.backend.set_provider(settings(oauth(RefreshProfile::new()))).await.unwrap();
        assert!(matches!(world.account.begin_connect(request()).await, Err(Error::NotConfigured { .. })));
        for uri in ["http://app.example.com/", "ftp://a", "https://user@a.example/", "https://a.example/#x", "/cb", ""] {
            assert!(matches!(ConnectRequest::new(name("idp"), uri), Err(ConnectError::RedirectUri)), "{uri}");
        }
        for uri in ["http://127.0.0.1:4000/cb", "http://localhost/cb", "https://app.example.com/cb?x=1"] {
            assert!(ConnectRequest::new(name("idp"), uri).is_ok(), "{uri}");
        }
    });
}
