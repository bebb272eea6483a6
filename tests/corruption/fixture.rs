//! A vault of several small shards, what it must answer, and how an answer is sorted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anchorhold::{ApiKey, Backend, Connection, Credential, Damaged, Environment, Error, OpenError, Vault, VaultBuilder};

use crate::common::{api_key_connection, block_on, builder, copy_folder, id, revealed, secret, vault_path};

/// Few accounts to a shard, so that a small vault has several.
pub const TREES_PER_SHARD: usize = 3;

/// Connections of each customer.
const CONNECTIONS: usize = 3;

pub fn options(path: &Path) -> VaultBuilder {
    builder(path).trees_per_shard(TREES_PER_SHARD)
}

/// A closed vault that tests copy and damage.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub key: ApiKey,
    pub names: Vec<String>,
}

impl Fixture {
    /// A vault with so many customers, each with a history: most of what lies in the files is older than what is acknowledged.
    pub fn new(customers: usize) -> Self {
        Self::opened_with(customers, |builder| builder)
    }

    /// The same with sections of the directory, which only large vaults have else.
    pub fn in_sections(customers: usize) -> Self {
        Self::opened_with(customers, |builder| builder.section_from_bytes(0))
    }

    fn opened_with(customers: usize, with: impl FnOnce(VaultBuilder) -> VaultBuilder) -> Self {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let vault = with(options(&vault_path(&folder))).open().await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            let names: Vec<String> = (0..customers).map(|n| format!("customer {n}")).collect();
            for name in &names {
                fill(&backend, name).await;
            }
            vault.close().await.unwrap();
            Self { folder, key, names }
        })
    }

    pub fn path(&self) -> PathBuf {
        vault_path(&self.folder)
    }

    /// Those of the directory's sections that there are.
    pub fn sections(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.path().join("directory/sections"));
        let mut sections: Vec<_> = folder.unwrap().map(|entry| entry.unwrap().path()).collect();
        sections.sort();
        sections
    }

    pub fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.path(), &vault_path(&copy));
        copy
    }

    /// Opens every shard once more; that is when the engine writes its snapshots.
    pub fn open_once_more(&self) {
        let Verdict::Opened(outcomes) = self.classify(&self.path(), &"opened once more") else { panic!("it is whole") };
        assert!(outcomes.values().all(|outcome| matches!(outcome, Outcome::Intact)));
    }

    /// Opens a damaged copy, reads everything and says what came of each customer.
    pub fn classify(&self, path: &Path, what: &dyn fmt::Display) -> Verdict {
        block_on(async {
            let vault = match options(path).open().await {
                Ok(vault) => vault,
                Err(OpenError::Corrupted(damaged) | OpenError::RolledBack(damaged)) => return Verdict::NotOpened(damaged),
                Err(other) => panic!("{what}: opening gave {other:?}"),
            };
            let verdict = self.read_all(&vault, what).await;
            vault.close().await.unwrap_or_else(|error| panic!("{what}: closing gave {error:?}"));
            verdict
        })
    }

    pub async fn read_all(&self, vault: &Vault, what: &dyn fmt::Display) -> Verdict {
        // A key that is lost would be answered with `InvalidApiKey`, which is an answer about keys and not about damage.
        let backend = vault.backend(&self.key).await.unwrap_or_else(|error| panic!("{what}: the API key gave {error:?}"));
        let mut outcomes = BTreeMap::new();
        for name in &self.names {
            outcomes.insert(name.clone(), outcome(&backend, name, what).await);
        }
        Verdict::Opened(outcomes)
    }
}

/// Makes a customer as [`read`] expects it, in several revisions.
pub async fn fill(backend: &Backend, name: &str) {
    let account = backend.create_account_with(&id(name), "first metadata").await.unwrap();
    let mut connections: Vec<Connection> = Vec::new();
    for n in 0..CONNECTIONS {
        connections.push(account.add_connection(api_key_connection("crm", &format!("first secret {n}"))).await.unwrap());
    }
    let removed = account.add_connection(api_key_connection("crm", "removed again")).await.unwrap();
    for revision in 0..4 {
        account.set_metadata(&format!("revision {revision} of the metadata")).await.unwrap();
        for (n, connection) in connections.iter().enumerate() {
            let text = if revision == 3 { secret_of(name, n) } else { format!("revision {revision} of secret {n}") };
            connection.replace_credential(Credential::api_key(secret(&text))).await.unwrap();
        }
    }
    removed.remove().await.unwrap();
    account.set_metadata(&metadata_of(name)).await.unwrap();
}

fn secret_of(name: &str, n: usize) -> String {
    format!("last secret {n} of {name}")
}

fn metadata_of(name: &str) -> String {
    format!("last metadata of {name}")
}

/// What a damaged vault answers.
#[derive(Debug)]
pub enum Verdict {
    /// Refused as a whole, with an error that says so.
    NotOpened(Damaged),
    Opened(BTreeMap<String, Outcome>),
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Intact,
    Corrupted(Damaged),
    RolledBack(Damaged),
}

/// Everything of one customer. What is neither whole nor an honest error fails the test here.
pub async fn outcome(backend: &Backend, name: &str, what: &dyn fmt::Display) -> Outcome {
    match read(backend, name).await {
        Ok(state) => {
            let mut expected: Vec<String> = (0..CONNECTIONS).map(|n| secret_of(name, n)).collect();
            expected.sort();
            assert_eq!(state, (metadata_of(name), expected), "{what}: silent loss at {name}");
            Outcome::Intact
        }
        Err(Error::Corrupted(damaged)) => Outcome::Corrupted(damaged),
        Err(Error::RolledBack(damaged)) => Outcome::RolledBack(damaged),
        Err(other) => panic!("{what}: {name} answered {other:?}"),
    }
}

/// Metadata and secrets of a customer whose audit holds.
pub async fn read(backend: &Backend, name: &str) -> Result<(String, Vec<String>), Error> {
    let account = backend.account(&id(name)).await?;
    let metadata = account.info().await?.metadata;
    let mut secrets = Vec::new();
    for info in account.connections().await? {
        secrets.push(revealed(&account.connection(&info.id).await?).await?);
    }
    secrets.sort();
    let audit = account.verify_audit().await?;
    assert!(audit.is_intact(), "the audit of {name} is broken at {:?}, and its rows are not reported damaged", audit.broken);
    Ok((metadata, secrets))
}
