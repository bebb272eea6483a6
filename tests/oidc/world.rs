//! A vault on disk with the default HTTP client, one account, and a server with settings that were discovered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold::{
    Account, AuthorizationRequest, ConnectCallback, ConnectRequest, Connection, Error, OAuthClient, ProviderSettings,
    RefreshProfile, ReqwestClient, SendError, discover,
};
use http::Request;

use crate::browser;
use crate::common::{Host, builder, id, provider, secret, vault_path};
use crate::server::{CLIENT_ID, CLIENT_SECRET, REDIRECT, Server};

pub struct World {
    pub server: Server,
    pub host: Host,
    pub account: Account,
}

impl World {
    pub async fn new(access_token_seconds: u64) -> Self {
        let server = Server::start(access_token_seconds);
        let host = Host::new().await;
        let found = discover(&server.issuer, &ReqwestClient::new()).await.unwrap();
        assert!(found.settings.iss_required() && found.settings.revocation_endpoint().is_some());
        assert!(found.scopes_supported.iter().any(|scope| scope == "offline_access"));
        let oauth = found
            .settings
            .with_scopes(["openid", "offline_access"])
            .unwrap()
            // Without it the server gives no refresh token (OpenID Connect Core section 11).
            .with_authorization_parameter("prompt", "consent")
            .unwrap()
            .with_refresh_profile(RefreshProfile::new().with_rotation(true));
        let settings = ProviderSettings::new(provider("idp")).allow_host(server.authority()).unwrap();
        host.backend.set_provider(settings.allow_http_loopback().oauth(oauth)).await.unwrap();
        let client = OAuthClient::new(CLIENT_ID).unwrap().with_secret(secret(CLIENT_SECRET)).unwrap();
        host.backend.set_oauth_client(&provider("idp"), client).await.unwrap();
        let account = host.backend.create_account(&id("acme")).await.unwrap();
        Self { server, host, account }
    }

    /// Connects the account the whole way.
    pub async fn connect(&self) -> Connection {
        let query = self.agree(&self.begin().await).await;
        self.complete(&query).await.unwrap()
    }

    pub async fn begin(&self) -> AuthorizationRequest {
        self.account.begin_connect(request()).await.unwrap()
    }

    /// The customer agrees; gives what the browser comes back with.
    pub async fn agree(&self, request: &AuthorizationRequest) -> String {
        browser::visit(&self.server, &request.url, true).await
    }

    pub async fn complete(&self, query: &str) -> Result<Connection, Error> {
        self.account.complete_connect(ConnectCallback::from_query(query).unwrap()).await
    }

    /// Closes the vault and opens it again.
    pub async fn reopen(&mut self, connection: Connection) -> Connection {
        let id_of_connection = connection.id();
        drop(connection);
        self.host.vault.close().await.unwrap();
        self.host.vault = builder(&vault_path(&self.host.folder)).open().await.unwrap();
        self.host.backend = self.host.vault.backend(&self.host.key).await.unwrap();
        self.account = self.host.backend.account(&id("acme")).await.unwrap();
        self.account.connection(&id_of_connection).await.unwrap()
    }

    /// Uses the credential; gives the status and who the server says that the customer is.
    pub async fn used(&self, connection: &Connection) -> Result<(u16, String), Error> {
        match connection.send(Request::get(self.server.api()).body("").unwrap()).await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.into_body().bytes(1 << 16).await.unwrap();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                Ok((status, body["sub"].as_str().unwrap_or_default().to_owned()))
            }
            Err(SendError::Vault(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    pub async fn works(&self, connection: &Connection) {
        assert_eq!(self.used(connection).await.unwrap(), (200, "customer".to_owned()));
    }
}

pub fn request() -> ConnectRequest {
    ConnectRequest::new(provider("idp"), REDIRECT).unwrap()
}

/// The access and the refresh token, which a test may look at.
pub async fn tokens(connection: &Connection) -> (String, String) {
    let shown = connection.reveal(|shown| (shown.access_token().map(str::to_owned), shown.refresh_token().map(str::to_owned)));
    let (access, refresh) = shown.await.unwrap();
    (access.unwrap(), refresh.unwrap())
}

/// Waits until the access token has expired, in real time.
pub async fn expiry(connection: &Connection) {
    let expires = connection.info().await.unwrap().expires_at.unwrap().as_millis();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    smol::Timer::after(Duration::from_millis(expires.saturating_sub(now) + 20)).await;
}
