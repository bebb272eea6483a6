//! A vault in a child process, what was acknowledged of it, and the comparison after opening it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anchorhold::{Account, ApiKey, Backend, Credential, Environment, Error, PageRequest, Vault, VaultBuilder};

use crate::common::{api_key_connection, builder, id, revealed, secret};
use crate::syscalls;

const CASE: &str = "ANCHORHOLD_FAULT_CASE";
const FOLDER: &str = "ANCHORHOLD_FAULT_FOLDER";

/// Runs one case in a child process under the library; `name` is the function's path.
pub fn in_child(name: &str, case: fn(&mut Host)) {
    if let Ok(folder) = std::env::var(FOLDER) {
        assert_eq!(std::env::var(CASE).as_deref(), Ok(name));
        return case(&mut Host::new(folder.into()));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let library = syscalls::build(&path);
    let child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .env(FOLDER, &path)
        .env(syscalls::UNDER, path.join("vault"))
        .env("LD_PRELOAD", library)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
    told.lines().filter(|line| line.contains("fault:")).for_each(|line| println!("{line}"));
}

/// The vault of a child process.
pub struct Host {
    pub folder: PathBuf,
    key: Option<ApiKey>,
    /// What was acknowledged: secrets by account.
    acknowledged: BTreeMap<String, String>,
    /// What was refused with an error: it may be there or not.
    in_doubt: BTreeMap<String, Vec<String>>,
    counter: u64,
}

impl Host {
    fn new(folder: PathBuf) -> Self {
        Self { folder, key: None, acknowledged: BTreeMap::new(), in_doubt: BTreeMap::new(), counter: 0 }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join("vault")
    }

    /// Forgets the vault, for the next one in another directory.
    pub fn next_vault(&mut self) {
        std::fs::remove_dir_all(self.path()).unwrap();
        *self = Self::new(self.folder.clone());
    }

    pub fn builder(&self) -> VaultBuilder {
        builder(&self.path()).trees_per_shard(2).max_open_shards(2).commit_log_bytes(64 * 1024).section_from_bytes(0)
    }

    pub async fn open(&mut self) -> (Vault, Backend) {
        self.open_with(|builder| builder).await
    }

    pub async fn open_with(&mut self, options: impl FnOnce(VaultBuilder) -> VaultBuilder) -> (Vault, Backend) {
        let vault = options(self.builder()).open().await.unwrap();
        if self.key.is_none() {
            self.key = Some(vault.bootstrap_api_key(Environment::Test).await.unwrap());
        }
        let backend = self.backend(&vault).await;
        (vault, backend)
    }

    pub async fn backend(&self, vault: &Vault) -> Backend {
        vault.backend(self.key.as_ref().expect("the vault was opened before")).await.unwrap()
    }

    /// Makes an account with one connection; both acknowledged, or an error.
    pub async fn create(&mut self, backend: &Backend, name: &str, bytes: usize) -> Result<(), Error> {
        let account = match backend.create_account(&id(name)).await {
            Ok(account) => account,
            Err(error) => {
                self.in_doubt.entry(name.to_owned()).or_default();
                return Err(error);
            }
        };
        self.acknowledged.insert(name.to_owned(), String::new());
        let text = self.text(bytes);
        let added = account.add_connection(api_key_connection("crm", &text)).await;
        self.note(name, text, added.map(drop))
    }

    /// Replaces the credential of an account's one connection.
    pub async fn replace(&mut self, backend: &Backend, name: &str, bytes: usize) -> Result<(), Error> {
        let text = self.text(bytes);
        let replaced = async {
            let account = backend.account(&id(name)).await?;
            let info = account.connections().await?.swap_remove(0);
            account.connection(&info.id).await?.replace_credential(Credential::api_key(secret(&text))).await
        };
        let replaced = replaced.await;
        self.note(name, text, replaced)
    }

    fn text(&mut self, bytes: usize) -> String {
        self.counter += 1;
        format!("{:016}", self.counter).repeat(bytes.div_ceil(16))
    }

    fn note(&mut self, name: &str, text: String, outcome: Result<(), Error>) -> Result<(), Error> {
        match outcome {
            Ok(()) => {
                self.acknowledged.insert(name.to_owned(), text);
                self.in_doubt.remove(name);
                Ok(())
            }
            Err(error) => {
                self.in_doubt.entry(name.to_owned()).or_default().push(text);
                Err(error)
            }
        }
    }

    /// Opens the vault once more: what was acknowledged is there, or what was in doubt as a whole in its place; it is undamaged, and
    /// takes changes.
    pub async fn consistent_after_reopening(&mut self, what: &str) {
        let (vault, backend) = self.open().await;
        let mut seen = BTreeMap::new();
        for info in backend.accounts(PageRequest::first(1_000)).await.unwrap().items {
            let account = backend.account(&info.id).await.unwrap();
            seen.insert(info.id.as_str().to_owned(), shown(&account).await);
        }
        for (name, text) in &self.acknowledged {
            let found = seen.get(name).unwrap_or_else(|| panic!("{what}: {name} is lost"));
            let in_doubt = self.in_doubt.get(name).is_some_and(|texts| texts.contains(found));
            assert!(found == text || in_doubt, "{what}: {name} has {found:.40?}, acknowledged was {text:.40?}");
        }
        for name in seen.keys() {
            assert!(self.acknowledged.contains_key(name) || self.in_doubt.contains_key(name), "{what}: nobody made {name}");
        }
        let report = vault.verify().await.unwrap();
        assert!(report.damaged.is_empty(), "{what}: {:?}", report.damaged);
        self.acknowledged = seen;
        self.in_doubt.clear();
        self.create(&backend, &format!("after {what}"), 16).await.unwrap();
        vault.close().await.unwrap();
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

/// The secret of an account's one connection; empty when it has none.
async fn shown(account: &Account) -> String {
    match account.connections().await.unwrap().first() {
        Some(info) => revealed(&account.connection(&info.id).await.unwrap()).await.unwrap(),
        None => String::new(),
    }
}
