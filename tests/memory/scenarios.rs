//! What the child does with a vault. Each scenario plays on a thread of the host's and stops where one looks.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use anchorhold::testing::panic_next_request;
use anchorhold::{
    Account, ApiKey, Backend, Connection, Credential, EnvVar, Environment, Error, Grant, Injection, KeyFile, NewApiKey,
    NewConnection, OAuth2Tokens, OAuthClient, OAuthSettings, Passphrase, Permissions, ProviderSettings, SessionOptions,
    SessionToken, Vault, VaultBuilder,
};
use secrecy::SecretString;

use crate::WIPING_ALLOCATOR;
use crate::common::{id, provider};
use crate::stage::{PORT, ROOT_KEY, Stage, block_on, keep};

type Scenario = fn(&Stage);

const ALL: &[(&str, Scenario)] = &[
    ("open_with_raw_key", |stage| opens(stage, || stage.builder())),
    ("open_with_key_file", open_with_key_file),
    ("open_with_environment_variable", open_with_environment_variable),
    ("open_with_passphrase", |stage| opens(stage, || stage.plain_builder().root_key(passphrase(stage)))),
    ("put", put),
    ("reveal", reveal),
    ("authorize", authorize),
    ("mint_and_check", mint_and_check),
    ("wrong_token", wrong_token),
    ("damaged_record", damaged_record),
    ("dropped_future", dropped_future),
    ("handler_panic", handler_panic),
    ("passivation", passivation),
    ("batched_audit", batched_audit),
    ("api_keys", api_keys),
    ("rotation_of_account_key", rotation_of_account_key),
    ("rotation_of_root_key", rotation_of_root_key),
    ("deletion", deletion),
    ("closing", closing),
    ("refresh_over_http", refresh_over_http),
    ("everything", everything),
];

pub fn find(name: &str) -> Scenario {
    ALL.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no scenario {name}")).1
}

struct Host {
    vault: Vault,
    backend: Backend,
}

impl Host {
    async fn new(stage: &Stage, builder: VaultBuilder) -> Self {
        Self::with_key(stage, builder).await.0
    }

    /// With the API key, which the host then holds.
    async fn with_key(stage: &Stage, builder: VaultBuilder) -> (Self, ApiKey) {
        let vault = builder.open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        stage.publish("key", key.expose_secret());
        stage.hold(key.expose_secret().as_bytes());
        stage.point("bootstrapped");
        let backend = vault.backend(&key).await.unwrap();
        (Self { vault, backend }, key)
    }

    async fn customer(&self, stage: &Stage) -> (Account, Connection) {
        let account = self.backend.create_account(&id("acme")).await.unwrap();
        let connection = account.add_connection(new(api_key(stage))).await.unwrap();
        (account, connection)
    }
}

fn new(credential: Credential) -> NewConnection {
    NewConnection::new(provider("crm"), credential)
}

fn api_key(stage: &Stage) -> Credential {
    Credential::api_key(stage.text("api key"))
}

/// One credential of each kind, and a large one.
fn credentials(stage: &Stage) -> Vec<Credential> {
    let user = stage.text("user");
    let tokens = OAuth2Tokens::new(stage.text("access")).refresh_token(stage.text("refresh"));
    vec![
        api_key(stage),
        Credential::basic(exactly(&user), stage.text("password")),
        Credential::oauth2(tokens),
        Credential::custom([("first", stage.text("custom")), ("second", stage.text("password"))]),
        Credential::api_key(stage.text("large")),
    ]
}

/// A `String` that is moved on without a copy.
fn exactly(text: &SecretString) -> String {
    use secrecy::ExposeSecret as _;
    let text: Box<str> = text.expose_secret().into();
    text.into_string()
}

fn passphrase(stage: &Stage) -> Passphrase {
    Passphrase::new(stage.text("passphrase")).with_costs(8, 1).unwrap()
}

/// Opening a new vault, and opening it again.
fn opens(stage: &Stage, builder: impl Fn() -> VaultBuilder) {
    block_on(async {
        let host = Host::new(stage, builder()).await;
        stage.point("created");
        host.vault.close().await.unwrap();
        drop(host);
        let vault = builder().open().await.unwrap();
        stage.point("opened again");
        vault.close().await.unwrap();
    });
}

fn open_with_key_file(stage: &Stage) {
    opens(stage, || stage.plain_builder().root_key(KeyFile::new(stage.folder().join("root.key"))));
}

fn open_with_environment_variable(stage: &Stage) {
    let provider = EnvVar::new(ROOT_KEY);
    opens(stage, || stage.plain_builder().root_key(provider.clone()));
}

fn put(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, connection) = host.customer(stage).await;
        for credential in credentials(stage) {
            account.add_connection(new(credential)).await.unwrap();
        }
        stage.point("added");
        for credential in credentials(stage) {
            connection.replace_credential(credential).await.unwrap();
        }
        connection.replace_credential(Credential::api_key(stage.text("next api key"))).await.unwrap();
        stage.point("replaced");
        // Refused for what stands beside the secret.
        let refused = account.add_connection(new(Credential::custom([("no name", stage.text("custom"))]))).await;
        assert!(matches!(refused, Err(Error::InvalidCredential { .. })), "{refused:?}");
        let refused = connection.replace_credential(Credential::basic("a:b", stage.text("password"))).await;
        assert!(refused.is_err());
        stage.point("refused");
        connection.remove().await.unwrap();
        stage.point("removed");
    });
}

fn reveal(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, first) = host.customer(stage).await;
        let mut connections = Vec::new();
        for credential in credentials(stage) {
            connections.push(account.add_connection(new(credential)).await.unwrap());
        }
        let good = first.reveal(|shown| stage.is("api key", shown.api_key().unwrap())).await.unwrap();
        assert!(good);
        stage.point("one");
        for connection in &connections {
            let good = connection.reveal(|shown| {
                let names = ["api key", "user", "password", "access", "refresh", "custom", "large"];
                shown.fields().all(|(name, value)| name == "token_type" || names.iter().any(|what| stage.is(what, value)))
            });
            assert!(good.await.unwrap());
        }
        stage.point("each kind");
    });
}

fn authorize(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, _) = host.customer(stage).await;
        let header = Injection::Header { name: http::HeaderName::from_static("x-key"), prefix: "token ".into() };
        let ways = [
            ("by-header", header, api_key(stage)),
            ("by-bearer", Injection::Bearer, Credential::oauth2(OAuth2Tokens::new(stage.text("access")))),
            ("by-basic", Injection::Basic, Credential::basic(exactly(&stage.text("user")), stage.text("password"))),
            ("by-query", Injection::Query { name: "key".into() }, Credential::api_key(stage.text("next api key"))),
        ];
        let mut connections = Vec::new();
        for (name, way, credential) in ways {
            let settings = ProviderSettings::new(provider(name)).allow_host("api.example.com").unwrap().injection(way).unwrap();
            host.backend.set_provider(settings).await.unwrap();
            connections.push(account.add_connection(NewConnection::new(provider(name), credential)).await.unwrap());
        }
        for connection in &connections {
            let mut request = http::Request::get("https://api.example.com/v1/me").body(()).unwrap();
            connection.authorize(&mut request).await.unwrap();
            if !WIPING_ALLOCATOR {
                // The request's copy is the host's. It holds it while one looks, and lets go of it at the end.
                request.headers().values().for_each(|value| stage.hold(value.as_bytes()));
                stage.hold(request.uri().path_and_query().unwrap().as_str().as_bytes());
                keep(request);
            }
        }
        stage.point("put in");
        for connection in &connections {
            let mut elsewhere = http::Request::get("https://api.example.net/v1/me").body(()).unwrap();
            let refused = connection.authorize(&mut elsewhere).await;
            assert!(matches!(refused, Err(Error::NotAuthorized(_))), "{refused:?}");
        }
        stage.point("refused");
    });
}

fn mint_and_check(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, _) = host.customer(stage).await;
        let minted = account.mint_session_token(SessionOptions::new().grants([Grant::ListConnections])).await.unwrap();
        stage.publish("token", minted.token.expose_secret());
        stage.hold(minted.token.expose_secret().as_bytes());
        stage.point("minted");
        let session = host.vault.session(&minted.token).await.unwrap();
        stage.point("checked");
        assert_eq!(session.connections().await.unwrap().len(), 1);
        stage.point("used");
        let once = account.mint_session_token(SessionOptions::new().single_use()).await.unwrap();
        stage.publish("token", once.token.expose_secret());
        drop(host.vault.session(&once.token).await.unwrap());
        drop((minted.token, once.token));
        stage.point("used up");
        account.revoke_session_token(&minted.id).await.unwrap();
        assert!(session.connections().await.is_err());
        account.revoke_all_session_tokens().await.unwrap();
        stage.point("revoked");
    });
}

/// The token with one character changed, in a buffer of its own.
fn forged(token: &SessionToken, at: usize) -> SessionToken {
    let mut text = token.expose_secret().as_bytes().to_vec();
    text[at] = if text[at] == b'A' { b'B' } else { b'A' };
    SessionToken::from(String::from_utf8(text).unwrap())
}

fn wrong_token(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, _) = host.customer(stage).await;
        let other = host.backend.create_account(&id("other")).await.unwrap();
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        stage.publish("token", minted.token.expose_secret());
        let length = minted.token.expose_secret().len();
        for at in [0, 9, 20, 40, length / 2, length - 2] {
            assert!(matches!(host.vault.session(&forged(&minted.token, at)).await, Err(Error::InvalidToken)));
        }
        let revoked = other.mint_session_token(SessionOptions::new()).await.unwrap();
        stage.publish("token", revoked.token.expose_secret());
        other.revoke_session_token(&revoked.id).await.unwrap();
        assert!(matches!(host.vault.session(&revoked.token).await, Err(Error::InvalidToken)));
        let elsewhere = host.vault.session_from(&minted.token, "https://evil.example").await;
        drop(elsewhere);
        drop((minted, revoked));
        stage.point("refused");
    });
}

fn damaged_record(stage: &Stage) {
    block_on(async {
        let (host, key) = Host::with_key(stage, stage.builder()).await;
        let (_, connection) = host.customer(stage).await;
        let connection_id = connection.id();
        host.vault.close().await.unwrap();
        drop((host, connection));
        // The parent changes a bit of each sealed credential here.
        stage.point("damage");
        let vault = stage.builder().open().await.unwrap();
        let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
        drop(key);
        let connection = account.connection(&connection_id).await.unwrap();
        let shown = connection.reveal(|_| ()).await;
        assert!(matches!(shown, Err(Error::Corrupted(_))), "{shown:?}");
        stage.point("revealed in vain");
        assert!(!vault.verify().await.unwrap().damaged.is_empty());
        stage.point("verified");
        connection.replace_credential(api_key(stage)).await.ok();
        stage.point("replaced");
    });
}

/// Begins a call and drops it when it was polled so often.
fn drop_after<T>(polls: usize, call: impl Future<Output = T>) {
    let mut call = pin!(call);
    for _ in 0..polls {
        if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn dropped_future(stage: &Stage) {
    let host = block_on(Host::new(stage, stage.builder()));
    let (account, connection) = block_on(host.customer(stage));
    for polls in [0, 1, 1, 2, 5, 1] {
        drop_after(polls, connection.reveal(|shown| shown.api_key().map(str::len)));
        drop_after(polls, connection.replace_credential(api_key(stage)));
        drop_after(polls, account.add_connection(new(Credential::api_key(stage.text("next api key")))));
        let mut request = http::Request::get("https://api.example.com/").body(()).unwrap();
        drop_after(polls, connection.authorize(&mut request));
        drop_after(polls, account.mint_session_token(SessionOptions::new()));
        drop_after(polls, host.backend.create_api_key(NewApiKey::new("dropped").permissions(Permissions::ALL)));
    }
    // All that was begun comes to its end, or not.
    block_on(account.info()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    stage.point("dropped");
    // Opening, and closing, dropped on the way.
    block_on(host.vault.close()).unwrap();
    drop((host, account, connection));
    drop_after(1, stage.builder().open());
    std::thread::sleep(Duration::from_millis(600));
    stage.point("opening dropped");
}

fn handler_panic(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, connection) = host.customer(stage).await;
        for _ in 0..3 {
            panic_next_request(&account).await.unwrap();
            let panicked = connection.reveal(|_| ()).await;
            assert!(matches!(panicked, Err(Error::Internal { .. })), "{panicked:?}");
            panic_next_request(&account).await.unwrap();
            let panicked = connection.replace_credential(Credential::api_key(stage.text("next api key"))).await;
            assert!(matches!(panicked, Err(Error::Internal { .. })), "{panicked:?}");
            panic_next_request(&account).await.unwrap();
            assert!(matches!(account.mint_session_token(SessionOptions::new()).await, Err(Error::Internal { .. })));
        }
        stage.point("panicked");
        connection.reveal(|_| ()).await.unwrap();
        stage.point("served again");
        let call = std::panic::AssertUnwindSafe(connection.reveal(|_| panic!("the host's own fault")));
        let outcome: Result<Result<(), Error>, _> = futures_util::FutureExt::catch_unwind(call).await;
        assert!(outcome.is_err());
        stage.point("the closure panicked");
    });
}

fn passivation(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder().idle_after(Duration::from_millis(50)).max_open_shards(1)).await;
        let (account, connection) = host.customer(stage).await;
        connection.reveal(|_| ()).await.unwrap();
        while host.vault.status().resident_accounts > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stage.point("passivated");
        connection.reveal(|_| ()).await.unwrap();
        account.set_metadata("awake").await.unwrap();
        stage.point("started cold");
    });
}

fn batched_audit(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder().audit_policy(anchorhold::AuditPolicy::Batched)).await;
        let (account, connection) = host.customer(stage).await;
        for _ in 0..20 {
            connection.reveal(|_| ()).await.unwrap();
        }
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        stage.publish("token", minted.token.expose_secret());
        drop(minted);
        // Within 100 ms the entries are written.
        std::thread::sleep(Duration::from_millis(300));
        stage.point("written later");
    });
}

fn api_keys(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        host.customer(stage).await;
        let created = host.backend.create_api_key(NewApiKey::new("ci").permissions(Permissions::ALL)).await.unwrap();
        stage.publish("key", created.key.expose_secret());
        stage.hold(created.key.expose_secret().as_bytes());
        stage.point("created");
        let other = host.vault.backend(&created.key).await.unwrap();
        stage.point("checked");
        other.account(&id("acme")).await.unwrap();
        let rotated = host.backend.rotate_api_key(&created.info.id, Duration::from_secs(60)).await.unwrap();
        stage.publish("key", rotated.key.expose_secret());
        host.vault.backend(&rotated.key).await.unwrap().account(&id("acme")).await.unwrap();
        host.backend.revoke_api_key(&created.info.id).await.unwrap();
        assert!(matches!(host.vault.backend(&created.key).await, Err(Error::InvalidApiKey)));
        drop((created, rotated, other));
        stage.point("revoked and dropped");
    });
}

fn rotation_of_account_key(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, connection) = host.customer(stage).await;
        stage.point("before");
        account.rotate_key().await.unwrap();
        stage.point("rotated");
        connection.reveal(|_| ()).await.unwrap();
        account.rotate_key().await.unwrap();
        stage.point("rotated again");
    });
}

fn rotation_of_root_key(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (_, connection) = host.customer(stage).await;
        stage.point("before");
        host.vault.rotate_root_key(stage.root("next root")).await.unwrap();
        stage.point("rotated");
        connection.reveal(|_| ()).await.unwrap();
        stage.point("used");
    });
}

fn deletion(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, _) = host.customer(stage).await;
        let other = host.backend.create_account(&id("other")).await.unwrap();
        other.add_connection(new(Credential::api_key(stage.text("next api key")))).await.unwrap();
        stage.point("before");
        account.delete().await.unwrap();
        stage.point("deleted");
    });
}

fn closing(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, connection) = host.customer(stage).await;
        connection.reveal(|_| ()).await.unwrap();
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        stage.publish("token", minted.token.expose_secret());
        drop(minted);
        stage.point("open");
        host.vault.close().await.unwrap();
        stage.point("closed, the handles still there");
        drop((host, account, connection));
        stage.point("all gone");
    });
}

/// Tokens that are imported, refreshed and used, each time by a request over HTTP to the parent's process.
fn refresh_over_http(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let account = host.backend.create_account(&id("acme")).await.unwrap();
        let port = std::env::var(PORT).unwrap();
        let idp = provider("idp");
        let oauth = OAuthSettings::new(format!("http://127.0.0.1:{port}/token")).unwrap();
        let settings = ProviderSettings::new(idp.clone()).allow_host(&format!("127.0.0.1:{port}")).unwrap();
        host.backend.set_provider(settings.allow_http_loopback().oauth(oauth)).await.unwrap();
        let client = OAuthClient::new("client").unwrap().with_secret(stage.text("client secret")).unwrap();
        host.backend.set_oauth_client(&idp, client).await.unwrap();
        stage.point("client set");
        let connection = account.import_refresh_token(&idp, stage.text("imported refresh"), "main").await.unwrap();
        stage.point("imported");
        let api = format!("http://127.0.0.1:{port}/api");
        let response = connection.send(http::Request::get(&api).body("").unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        stage.point("used");
        connection.refresh().await.unwrap();
        stage.point("refreshed");
        let good = connection.reveal(|shown| stage.is("next access", shown.access_token().unwrap())).await.unwrap();
        assert!(good);
        let refused = connection.refresh().await;
        assert!(matches!(refused, Err(Error::ReauthRequired { .. })), "{refused:?}");
        stage.point("refused");
    });
}

/// What is looked for in a core dump: some of everything.
fn everything(stage: &Stage) {
    block_on(async {
        let host = Host::new(stage, stage.builder()).await;
        let (account, connection) = host.customer(stage).await;
        for credential in credentials(stage) {
            account.add_connection(new(credential)).await.unwrap();
        }
        connection.reveal(|_| ()).await.unwrap();
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        stage.publish("token", minted.token.expose_secret());
        host.vault.session(&minted.token).await.unwrap();
        drop(minted);
        stage.point("at work");
        drop(host);
    });
}
