//! No secret, token, key or customer id in any `Debug` output, error text or log line; nor, in logs and error texts, what a host
//! wrote about a customer. One test in a process of its own, since the log of all threads is captured.

mod common;

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::io;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anchorhold::testing::ModelDisk;
use anchorhold::{
    Account, ApiKey, AuditPolicy, Backend, ConnectCallback, ConnectRequest, Credential, EnvVar, Environment, Error, Event, Grant,
    KeyFile, KeyProvider as _, LinkedAccountId, NewApiKey, NewConnection, OAuth2Tokens, OAuthClient, OAuthSettings, PageRequest,
    Passphrase, Permissions, ProviderName, RawKey, RequestBody, ResponseBody, Revealed, RootKey, SessionOptions, SessionToken,
    Vault,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use common::{api_key_connection, block_on, header_provider, id, in_header, provider, secret, vault_path};

const CUSTOMER: &str = "customer-7f1c@needle.example";
const API_KEY_SECRET: &str = "sk-needle-0b6e1f7a94c2";
/// What is no secret and so may be shown by `Debug`, but has no business in a log or an error.
const PRIVATE: [&str; 3] = [METADATA, LABEL, SUBJECT];
const METADATA: &str = "{\"plan\":\"metadata-needle-4410\"}";
const LABEL: &str = "label-needle-5523";
const SUBJECT: &str = "subject-needle-9034";

const USER_NAME: &str = "user-needle-1188";
const PASSWORD: &str = "password-needle-\"quoted\\-77aa";
const ACCESS: &str = "access-needle-c0ffee99";
const REFRESH: &str = "refresh-needle-deadbeef";
const CUSTOM: &str = "custom-needle-3141592";
const PASSPHRASE: &str = "passphrase needle correct horse";
/// Stands for a variable that holds a root key, and holds none.
const VARIABLE: &str = "PATH";
const ROOT: [u8; 32] = *b"root-needle-0123456789-abcdefghi";

/// All that must not be seen.
struct Needles(Vec<(String, Vec<String>)>);

impl Needles {
    fn new() -> Self {
        let mut needles = Self(Vec::new());
        for text in [CUSTOMER, API_KEY_SECRET, USER_NAME, PASSWORD, ACCESS, REFRESH, CUSTOM, PASSPHRASE] {
            needles.add(text, text.as_bytes());
        }
        needles.add("root key", &ROOT);
        needles.add("variable", std::env::var_os(VARIABLE).unwrap().as_encoded_bytes());
        needles
    }

    fn and_private(&self) -> Self {
        let mut all = Self(self.0.clone());
        for text in PRIVATE {
            all.add(text, text.as_bytes());
        }
        all
    }

    /// Every form in which `bytes` may show: as text, escaped, hex, base64 at each alignment, and as a list of numbers.
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let decimal: Vec<String> = bytes.iter().map(u8::to_string).collect();
        let mut forms = vec![hex.to_uppercase(), hex, decimal.join(", "), decimal.join(",\n    ")];
        if let Ok(text) = std::str::from_utf8(bytes) {
            forms.push(text.to_owned());
            forms.push(format!("{text:?}").trim_matches('"').to_owned());
        }
        for skip in 0..3 {
            // Whole groups of three only: the text before and after may be anything.
            let inner = &bytes[skip..skip + (bytes.len() - skip) / 3 * 3];
            forms.push(STANDARD_NO_PAD.encode(inner));
            forms.push(URL_SAFE_NO_PAD.encode(inner));
        }
        self.0.push((name.to_owned(), forms));
    }

    /// A token's text, and the part after its prefix that says nothing.
    fn add_bearer(&mut self, name: &str, text: &str) {
        self.add(name, text.as_bytes());
        self.add(&format!("{name}, body"), &text.as_bytes()["ak_test_".len()..]);
    }

    fn found_in(&self, haystack: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(_, forms)| forms.iter().any(|form| haystack.contains(form.as_str())))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was shown with `{:?}` and `{:#?}`, by the name of its type.
#[derive(Default)]
struct Shown(Vec<(String, String)>);

impl Shown {
    fn show<T: Debug>(&mut self, value: &T) {
        self.0.push((std::any::type_name::<T>().to_owned(), format!("{value:?}\n{value:#?}")));
    }

    fn show_error<T: Debug + Display>(&mut self, value: &T) {
        self.show(value);
        self.0.push((ERROR_TEXT.to_owned(), value.to_string()));
    }
}

const ERROR_TEXT: &str = "the text of an error";

#[test]
fn no_secret_in_debug_output_or_logs() {
    let log = Log::default();
    let for_writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || for_writer.clone())
        .init();
    // What a panic says goes to the host's log as well.
    let for_panics = log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = writeln!(for_panics.clone(), "{panic}");
        eprintln!("{panic}");
    }));

    let mut needles = Needles::new();
    let mut shown = Shown::default();
    let folder = tempfile::tempdir().unwrap();
    block_on(full_run(&vault_path(&folder), &mut needles, &mut shown));
    block_on(refused_at_once(&vault_path(&folder), &mut shown));
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();

    for (name, text) in &shown.0 {
        assert_eq!(needles.found_in(text), [""; 0], "{name} shows a secret: {text}");
    }
    let private = needles.and_private();
    let errors = shown.0.iter().filter(|(name, _)| name == ERROR_TEXT).map(|(_, text)| text.as_str());
    for line in errors.chain(logged.lines()) {
        assert_eq!(private.found_in(line), [""; 0], "a log line or error shows a secret: {line}");
    }
    assert!(logged.contains(" anchorhold"), "the vault's own lines are in the captured log:\n{logged}");
    assert!(logged.contains("asked to panic by a test"), "what panics say is in the captured log:\n{logged}");

    positive_controls(&needles, &log);
    every_exported_type_was_shown(&shown);
}

/// The search must find each needle, in each form, in a log line and in a `Debug` output.
fn positive_controls(needles: &Needles, log: &Log) {
    #[derive(Debug)]
    struct Careless<'a> {
        #[allow(dead_code, reason = "read by Debug only")]
        inner: &'a [u8],
    }
    assert_eq!(needles.found_in(&format!("{:?}", Careless { inner: &ROOT })), ["root key"]);
    assert_eq!(needles.found_in(&format!("{:#?}", vec![("password", PASSWORD)])), [PASSWORD]);
    let framed = STANDARD_NO_PAD.encode(format!("xy{REFRESH}z"));
    assert_eq!(needles.found_in(&framed), [REFRESH]);
    tracing::trace!(token = ACCESS, "a careless line about {LABEL}");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(needles.and_private().found_in(&logged), [ACCESS, LABEL]);
}

#[expect(clippy::too_many_lines, reason = "one run, told in its order")]
async fn full_run(path: &Path, needles: &mut Needles, shown: &mut Shown) {
    let root = RawKey::new(RootKey::from_bytes(&mut { ROOT }));
    shown.show(&RootKey::from_bytes(&mut { ROOT }));
    shown.show(&root);
    shown.show(&Passphrase::new(secret(PASSPHRASE)));
    let builder = Vault::builder(path).root_key(root).audit_policy(AuditPolicy::Strict);
    shown.show(&builder);
    let vault = builder.http_client(Refusing).open().await.unwrap();
    let mut events = vault.events();
    shown.show(&vault);
    shown.show(&events);

    let key = vault.bootstrap_api_key(Environment::Production).await.unwrap();
    needles.add_bearer("first API key", key.expose_secret());
    shown.show(&key);
    shown.show_error(&vault.bootstrap_api_key(Environment::Production).await.unwrap_err());
    let backend = vault.backend(&key).await.unwrap();
    shown.show(&backend);

    shown.show(&AuditPolicy::Strict);
    shown.show(&vault.status().vault_id);
    shown.show(&vault.status().lock_kind);

    let new_key = NewApiKey::new(LABEL).permissions(Permissions::ALL).accounts([id(CUSTOMER)]);
    shown.show(&new_key);
    let created = backend.create_api_key(new_key).await.unwrap();
    needles.add_bearer("second API key", created.key.expose_secret());
    shown.show(&created);
    shown.show(&created.info.id);
    shown.show(&created.info.permissions);
    let rotated = backend.rotate_api_key(&created.info.id, Duration::from_secs(60)).await.unwrap();
    needles.add_bearer("rotated API key", rotated.key.expose_secret());
    shown.show(&rotated.info);
    shown.show(&backend.api_keys().await.unwrap());
    backend.revoke_api_key(&created.info.id).await.unwrap();
    shown.show_error(&vault.backend(&created.key).await.unwrap_err());

    let settings = header_provider("crm");
    shown.show(&settings);
    shown.show(&in_header());
    backend.set_provider(settings).await.unwrap();
    shown.show(&backend.providers().await.unwrap());

    let account = backend.create_account_with(&id(CUSTOMER), METADATA).await.unwrap();
    shown.show(&account);
    shown.show(&account.info().await.unwrap());
    shown.show(&account.info().await.unwrap().status);
    shown.show(&id(CUSTOMER));
    let page = backend.accounts(PageRequest::first(10)).await.unwrap();
    shown.show(&page);
    shown.show(&PageRequest::first(10));

    let tokens = || OAuth2Tokens::new(secret(ACCESS)).refresh_token(secret(REFRESH)).scopes(["read"]);
    shown.show(&tokens());
    for credential in [
        Credential::api_key(secret(API_KEY_SECRET)),
        Credential::basic(USER_NAME, secret(PASSWORD)),
        Credential::oauth2(tokens()),
        Credential::custom([("field", secret(CUSTOM))]),
    ] {
        shown.show(&credential);
        let new = NewConnection::new(provider("crm"), credential).label(LABEL);
        shown.show(&new);
        let connection = account.add_connection(new).await.unwrap();
        shown.show(&connection);
        let info = connection.info().await.unwrap();
        shown.show(&info);
        shown.show(&(info.id, info.provider, info.kind, info.status));
        let as_seen = connection.reveal(|seen| format!("{seen:?} {seen:#?}")).await.unwrap();
        shown.0.push((std::any::type_name::<Revealed>().to_owned(), as_seen));
    }
    connect_and_refresh(&backend, &account, shown).await;
    let connection = account.add_connection(api_key_connection("crm", API_KEY_SECRET)).await.unwrap();
    let mut request = http::Request::get("https://api.example.com/").body(()).unwrap();
    connection.authorize(&mut request).await.unwrap();
    // `http` itself shows a header that is not marked as sensitive.
    shown.show(&request);
    let mut elsewhere = http::Request::get("https://elsewhere.example.com/").body(()).unwrap();
    let Err(Error::NotAuthorized(inner)) = connection.authorize(&mut elsewhere).await else { panic!("it is another host") };
    shown.show_error(&inner);
    let too_large = "x".repeat(70 * 1024) + API_KEY_SECRET;
    shown.show_error(&account.add_connection(api_key_connection("crm", &too_large)).await.unwrap_err());

    let options = SessionOptions::new().grants([Grant::ListConnections]).origins(["https://app.example.com"]).subject(SUBJECT);
    shown.show(&options);
    let minted = account.mint_session_token(options).await.unwrap();
    needles.add_bearer("session token", minted.token.expose_secret());
    shown.show(&minted);
    shown.show(&minted.token);
    shown.show(&minted.id);
    let session = vault.session_from(&minted.token, "https://app.example.com").await.unwrap();
    shown.show(&session);
    shown.show(&session.grants());
    shown.show(&session.connections().await.unwrap());
    shown.show_error(&session.disconnect(&connection.id()).await.unwrap_err());
    shown.show_error(&vault.session(&minted.token).await.unwrap_err());
    let forged = SessionToken::from(format!("{}A", minted.token.expose_secret()));
    shown.show_error(&vault.session(&forged).await.unwrap_err());
    shown.show_error(&vault.backend(&ApiKey::from("ak_live_nonsense")).await.unwrap_err());
    account.revoke_session_token(&minted.id).await.unwrap();

    // A panic is caught and reported; its report must not carry what the request held.
    anchorhold::testing::panic_next_request(&account).await.unwrap();
    shown.show_error(&connection.reveal(|_| ()).await.unwrap_err());

    connection.replace_credential(Credential::api_key(secret(API_KEY_SECRET))).await.unwrap();
    account.rotate_key().await.unwrap();
    for page in [account.audit(PageRequest::first(100)).await, backend.api_key_audit(PageRequest::first(100)).await] {
        let page = page.unwrap();
        shown.show(&page);
        page.items.into_iter().for_each(|entry| shown.show(&(entry.action, entry.actor)));
    }
    shown.show(&account.verify_audit().await.unwrap());
    shown.show(&vault.verify().await.unwrap());
    shown.show(&vault.status());
    shown.show(&vault.head().await.unwrap());
    account.disable().await.unwrap();
    shown.show_error(&account.mint_session_token(SessionOptions::new()).await.unwrap_err());
    account.delete().await.unwrap();
    shown.show_error(&account.info().await.unwrap_err());
    while let Some(event) = events.try_next() {
        shown.show(&event);
        match event {
            Event::Account { kind, .. } => shown.show(&kind),
            Event::ApiKey { kind, .. } => shown.show(&kind),
            _ => {}
        }
    }
    vault.close().await.unwrap();
    shown.show_error(&account.info().await.unwrap_err());
}

/// Errors of what is not even tried, each made with a secret in the wrong place.
async fn refused_at_once(path: &Path, shown: &mut Shown) {
    let other = RawKey::new(RootKey::from_bytes(&mut [9; 32]));
    shown.show_error(&Vault::builder(path).root_key(other).open().await.unwrap_err());
    let wrong = Passphrase::new(secret(PASSPHRASE));
    shown.show_error(&Vault::builder(path).root_key(wrong).open().await.unwrap_err());

    let key_file = path.with_file_name("root.key");
    std::fs::write(&key_file, ROOT).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let readable_by_all = KeyFile::new(&key_file);
    shown.show(&readable_by_all);
    shown.show_error(&readable_by_all.root_key(&[]).unwrap_err());
    std::fs::write(&key_file, [&ROOT[..], b"one byte too many"].concat()).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    shown.show_error(&readable_by_all.root_key(&[]).unwrap_err());
    let no_key = EnvVar::new(VARIABLE);
    shown.show(&no_key);
    shown.show_error(&no_key.root_key(&[]).unwrap_err());

    shown.show_error(&LinkedAccountId::new(format!("{CUSTOMER}\n")).unwrap_err());
    shown.show_error(&ProviderName::new(format!("A {API_KEY_SECRET}")).unwrap_err());
    shown.show_error(&header_provider("crm").allow_host(&format!("https://{API_KEY_SECRET}/")).unwrap_err());
    let credential = Credential::custom([("same", secret(CUSTOM)), ("same", secret(CUSTOM))]);
    shown.show(&credential);
    let nowhere = common::builder(path).model_disk(ModelDisk::new()).open().await.unwrap();
    let backend = nowhere.backend(&nowhere.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap();
    let account = backend.create_account(&id(CUSTOMER)).await.unwrap();
    let new = NewConnection::new(provider("crm"), credential);
    let Err(Error::InvalidCredential(inner)) = account.add_connection(new).await else { panic!("two fields of one name") };
    shown.show_error(&inner);
    let label = api_key_connection("crm", API_KEY_SECRET).label(format!("{LABEL}\u{7}"));
    shown.show_error(&account.add_connection(label).await.unwrap_err());
    let options = SessionOptions::new().origins([format!("ftp://{ACCESS}")]);
    let Err(Error::InvalidSession(inner)) = account.mint_session_token(options).await else { panic!("ftp is no origin") };
    shown.show_error(&inner);
    let new_key = NewApiKey::new(format!("{LABEL}\n"));
    let Err(Error::InvalidApiKeyOptions(inner)) = backend.create_api_key(new_key).await else { panic!("a label of two lines") };
    shown.show_error(&inner);
    shown.show_error(&account.set_metadata(&METADATA.repeat(1_000)).await.unwrap_err());
}

/// A connect flow, a refresh and a withdrawn consent, with an HTTP client that answers what the test says.
async fn connect_and_refresh(backend: &Backend, account: &Account, shown: &mut Shown) {
    let oauth = OAuthSettings::new("https://id.example.com/token")
        .unwrap()
        .with_authorization_endpoint("https://id.example.com/authorize")
        .unwrap();
    shown.show(&oauth);
    shown.show(oauth.refresh_profile());
    backend.set_provider(header_provider("idp").oauth(oauth)).await.unwrap();
    let client = OAuthClient::new("client").unwrap().with_secret(secret(PASSWORD)).unwrap();
    shown.show(&client);
    backend.set_oauth_client(&provider("idp"), client).await.unwrap();
    let request = ConnectRequest::new(provider("idp"), "https://app.example.com/").unwrap().label(LABEL);
    shown.show(&request);
    let begun = account.begin_connect(request).await.unwrap();
    shown.show(&begun);
    let state = begun.url.split_once("state=").unwrap().1.split('&').next().unwrap();
    let callback = ConnectCallback::from_query(&format!("code={ACCESS}&state={state}")).unwrap();
    shown.show(&callback);
    // The client of this vault answers as if the customer had withdrawn consent.
    let Err(Error::Connect(inner)) = account.complete_connect(callback).await else { panic!("no tokens") };
    shown.show_error(&inner);
    let again = ConnectCallback::from_query(&format!("code={ACCESS}&state={state}")).unwrap();
    shown.show_error(&account.complete_connect(again).await.unwrap_err());
    let expired =
        OAuth2Tokens::new(secret(ACCESS)).refresh_token(secret(REFRESH)).expires_at(anchorhold::Timestamp::from_millis(1));
    let new = NewConnection::new(provider("idp"), Credential::oauth2(expired)).label(LABEL);
    let connection = account.add_connection(new).await.unwrap();
    let request = http::Request::get("https://api.example.com/").body("").unwrap();
    let error = connection.send(request).await.unwrap_err();
    shown.show_error(&error);
    let status = connection.info().await.unwrap().status;
    shown.show(&status);
    let anchorhold::ConnectionStatus::ReauthRequired { reason } = status else { panic!("{status:?}") };
    shown.show(&reason);
    shown.show(&RequestBody::from(PASSWORD));
    shown.show(&ResponseBody::from_bytes(PASSWORD));
}

/// What [`connect_and_refresh`] talks to.
struct Refusing;

impl anchorhold::HttpClient for Refusing {
    fn send(&self, _: http::Request<RequestBody>, _: anchorhold::HttpLimits) -> anchorhold::HttpFuture<'_> {
        Box::pin(async {
            let body = format!(r#"{{"error":"invalid_grant","error_description":"{REFRESH} {ACCESS}"}}"#);
            let mut response = http::Response::new(ResponseBody::from_bytes(body));
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            Ok(response)
        })
    }
}

/// Types that hold nothing of a customer's or of a key's, so that their `Debug` needs no run; with the reason.
const NOTHING_TO_HIDE: &[(&str, &str)] = &[
    ("Timestamp", "a time"),
    ("Clock", "a trait"),
    ("SystemClock", "empty"),
    ("KeyProvider", "a trait"),
    ("Environment", "two words"),
    ("Permission", "six words"),
    ("Grant", "three words"),
    ("Item", "five words"),
    ("DenialReason", "words"),
    ("BrokenLink", "a number"),
    ("ShardId", "a number"),
    ("VaultPart", "words and a number"),
    ("Damaged", "a part, random handles, a fixed sentence"),
    ("Carried", "three words"),
    ("RebuildReport", "numbers, random handles, fixed sentences"),
    ("RebuildError", "a RebuildReport or an OpenError"),
    ("DamagedAccount", "a word, and a LinkedAccountId; one is shown in tests/corruption/named.rs"),
    ("Unproven", "a part, a random handle, an Error"),
    ("AccountHandle", "random, and in the clear in every token"),
    ("CatalogError", "words, and the name of a placeholder"),
    ("Discovered", "public facts of an authorization server"),
    ("CatalogEntry", "public facts of the built-in catalog"),
    ("ClientAuth", "three words"),
    ("DiscoveryError", "words and public addresses"),
    ("FailureClass", "three words"),
    ("HttpClient", "a trait"),
    ("HttpError", "words"),
    ("HttpFuture", "a future of the host's client"),
    ("HttpLimits", "two numbers"),
    ("InvalidCertificates", "words"),
    ("InvalidOAuth", "words, and the name of a setting"),
    ("RefreshFailure", "words, a status and an error code that was cut and cleaned"),
    ("RefreshRate", "two numbers"),
    ("ReqwestClient", "the settings of a client: no request and no answer"),
    ("ReqwestClientBuilder", "the same"),
    ("ZeroizingAllocator", "empty"),
];

/// A type that is exported and neither shown above nor listed as harmless is a type that nobody thought of.
fn every_exported_type_was_shown(shown: &Shown) {
    let exports = exported_types(include_str!("../src/lib.rs"));
    assert!(exports.len() > 60, "the exports are read from lib.rs: {exports:?}");
    let types: BTreeSet<&str> = shown.0.iter().flat_map(|(name, _)| words(name)).collect();
    let is_harmless = |name: &str| NOTHING_TO_HIDE.iter().any(|(harmless, _)| *harmless == name);
    let missing: Vec<&String> =
        exports.iter().filter(|name| !is_harmless(name.as_str()) && !types.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "show these too, or say why there is nothing to hide: {missing:?}");
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The capitalised names in the `pub use` lists.
fn exported_types(lib: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for list in lib.split("pub use ").skip(1) {
        let list = list.split(';').next().unwrap();
        let path_end = list.rfind("::").map_or(0, |at| at + 2);
        for name in words(&list[path_end..]) {
            if name.starts_with(|c: char| c.is_uppercase()) && name.chars().any(char::is_lowercase) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}
