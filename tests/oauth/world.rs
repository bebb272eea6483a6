//! A vault with one account and the provider in memory.

use std::sync::Arc;
use std::time::Duration;

use anchorhold::testing::ManualClock;
use anchorhold::{Account, Connection, ConnectionInfo, OAuthSettings, RefreshProfile, ResponseBody, VaultBuilder};
use http::{Request, Response};

use crate::common::{Host, id, new_clock};
use crate::provider::{API, Provider, client, oauth, settings};

pub struct World {
    pub clock: Arc<ManualClock>,
    pub provider: Provider,
    pub host: Host,
    pub account: Account,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|builder| builder, oauth(RefreshProfile::new())).await
    }

    pub async fn of(oauth: OAuthSettings) -> Self {
        Self::with(|builder| builder, oauth).await
    }

    pub async fn with(options: impl FnOnce(VaultBuilder) -> VaultBuilder, oauth: OAuthSettings) -> Self {
        let clock = new_clock();
        let provider = Provider::new(&clock);
        let host = Host::with(|builder| options(builder.clock(clock.clone()).http_client(provider.clone()))).await;
        host.backend.set_provider(settings(oauth)).await.unwrap();
        host.backend.set_oauth_client(&crate::common::provider("idp"), client()).await.unwrap();
        let account = host.backend.create_account(&id("acme")).await.unwrap();
        Self { clock, provider, host, account }
    }

    pub async fn connect(&self) -> Connection {
        self.provider.connect(&self.account).await
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Time as it passes without the vault looking after anything.
    pub fn set_back(&self, seconds: u64) {
        let now = anchorhold::Clock::now(&*self.clock).as_millis();
        self.clock.set(anchorhold::Timestamp::from_millis(now - seconds * 1_000));
    }
}

pub fn get() -> Request<&'static str> {
    Request::get(API).body("").unwrap()
}

pub async fn text(response: Response<ResponseBody>) -> String {
    String::from_utf8(response.into_body().bytes(1 << 20).await.unwrap().to_vec()).unwrap()
}

/// The access token that the API sees.
pub async fn used(connection: &Connection) -> String {
    let response = connection.send(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    text(response).await
}

pub async fn info(connection: &Connection) -> ConnectionInfo {
    connection.info().await.unwrap()
}
