//! What the test files share: a clock that is set by hand, a root key, and short ways to an opened vault with one customer.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anchorhold::testing::ManualClock;
use anchorhold::{
    Account, ApiKey, Backend, Connection, Credential, Environment, Injection, LinkedAccountId, NewConnection, ProviderName,
    ProviderSettings, RawKey, Timestamp, Vault, VaultBuilder,
};
use secrecy::SecretString;

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures_lite::future::block_on(future)
}

/// A clock that stands still until it is moved. Starts in 2026, so that nothing is near zero.
pub fn new_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)))
}

/// The root key of every test vault that doesn't say otherwise.
pub fn root_key() -> RawKey {
    root_key_of(7)
}

pub fn root_key_of(byte: u8) -> RawKey {
    RawKey::new([byte; 32])
}

pub fn builder(path: &Path) -> VaultBuilder {
    Vault::builder(path).root_key(root_key()).threads(2)
}

pub async fn open(path: &Path) -> Vault {
    builder(path).open().await.unwrap()
}

pub fn id(text: &str) -> LinkedAccountId {
    LinkedAccountId::new(text).unwrap()
}

pub fn provider(text: &str) -> ProviderName {
    ProviderName::new(text).unwrap()
}

pub fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

/// A provider that takes its key in a header of its own, at `api.example.com`.
pub fn header_provider(name: &str) -> ProviderSettings {
    ProviderSettings::new(provider(name)).allow_host("api.example.com").unwrap().injection(in_header()).unwrap()
}

pub fn in_header() -> Injection {
    Injection::Header { name: http::HeaderName::from_static("x-provider-key"), prefix: String::new() }
}

/// A vault in a directory of its own with one environment open.
pub struct Host {
    pub folder: tempfile::TempDir,
    pub vault: Vault,
    pub key: ApiKey,
    pub backend: Backend,
}

impl Host {
    pub async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub async fn with(options: impl FnOnce(VaultBuilder) -> VaultBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = options(builder(&vault_path(&folder))).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        Self { folder, vault, key, backend }
    }

    pub fn path(&self) -> PathBuf {
        vault_path(&self.folder)
    }

    /// A customer with one connection, whose key is `secret_text`.
    pub async fn customer(&self, name: &str, secret_text: &str) -> (Account, Connection) {
        customer(&self.backend, name, secret_text).await
    }
}

pub fn vault_path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("vault")
}

pub async fn customer(backend: &Backend, name: &str, secret_text: &str) -> (Account, Connection) {
    let account = backend.create_account(&id(name)).await.unwrap();
    let connection = account.add_connection(api_key_connection("crm", secret_text)).await.unwrap();
    (account, connection)
}

pub fn api_key_connection(provider_name: &str, secret_text: &str) -> NewConnection {
    NewConnection::new(provider(provider_name), Credential::api_key(secret(secret_text))).label("main")
}

/// What `reveal` shows of an API key connection.
pub async fn revealed(connection: &Connection) -> Result<String, anchorhold::Error> {
    connection.reveal(|shown| shown.api_key().unwrap().to_owned()).await
}

/// A number from the environment, for longer runs.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Every file under a folder with its content.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    assert!(needle.len() >= 4, "a needle this short is found by chance");
    haystack.windows(needle.len()).any(|window| window == needle)
}
