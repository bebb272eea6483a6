//! Two customers on a disk in memory, of which every row can be read and written behind the vault's back.

use std::path::Path;
use std::sync::Arc;

use anchorhold::testing::{ManualClock, ModelDisk, ModelTree};
use anchorhold::{
    Account, AccountHandle, ApiKey, Backend, Connection, ConnectionId, Credential, Environment, Error, Grant, OAuthClient,
    OAuthSettings, PageRequest, ProviderSettings, RawKey, SessionOptions, Vault, VaultBuilder,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::common::{customer, header_provider, new_clock, provider, revealed, secret};
use crate::format::{Header, Key, derive, open};

pub const OF_A: &str = "the secret of the first one";
pub const OF_B: &str = "what belongs to the other";

const ROOT: Key = [7; 32];

pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

pub struct World {
    pub disk: ModelDisk,
    pub clock: Arc<ManualClock>,
    pub vault: Vault,
    pub key: ApiKey,
    pub backend: Backend,
    pub a: Account,
    pub of_a: Connection,
    pub b: Account,
    pub of_b: Connection,
    pub tree_a: ModelTree,
    pub tree_b: ModelTree,
}

impl World {
    pub async fn new() -> Self {
        let (disk, clock) = (ModelDisk::new(), new_clock());
        let vault = builder(&disk, &clock).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        backend.set_provider(header_provider("crm")).await.unwrap();
        let oauth = OAuthSettings::new("https://idp.example.com/token").unwrap();
        let oauth = oauth.with_authorization_endpoint("https://idp.example.com/authorize").unwrap();
        backend.set_provider(ProviderSettings::new(provider("idp")).oauth(oauth)).await.unwrap();
        backend.set_oauth_client(&provider("idp"), OAuthClient::new("client").unwrap()).await.unwrap();
        let (a, of_a) = customer(&backend, "acme-4711", OF_A).await;
        let tree_a = new_tree(&disk, &[ModelTree::Directory]);
        let (b, of_b) = customer(&backend, "globex-0815", OF_B).await;
        let tree_b = new_tree(&disk, &[ModelTree::Directory, tree_a]);
        Self { disk, clock, vault, key, backend, a, of_a, b, of_b, tree_a, tree_b }
    }

    /// The vault once more, on what lies on the disk now.
    pub async fn reopened(&self) -> Vault {
        let _ = self.vault.close().await;
        builder(&self.disk, &self.clock).open().await.unwrap()
    }

    /// Everything of the second customer on the disk, its audit included.
    pub fn rows_of_b(&self) -> Rows {
        self.disk.rows(self.tree_b)
    }

    pub async fn audit_of_a(&self) -> Vec<anchorhold::AuditEntry> {
        self.a.audit(PageRequest::first(500)).await.unwrap().items
    }

    /// The parts that each envelope of an account's row has.
    pub fn parts<'p>(&'p self, vault: &'p [u8; 16], handle: &'p [u8; 16], row: &'p [u8]) -> [&'p [u8]; 4] {
        [vault, &[1], handle, row]
    }

    /// A key of an account, as one finds it in memory during a request.
    pub fn stolen(&self, tree: ModelTree, row: &[u8], purpose: &str) -> Key {
        let header = self.header();
        let wrap = derive(&ROOT, "wrap", &[&header.vault, &header.slots[0].generation.to_be_bytes()]);
        let wrapped = self.disk.row(tree, row).unwrap();
        let handle = handle_bytes(tree);
        Key::try_from(&open(&wrap, &self.parts(&header.vault, &handle, purpose.as_bytes()), &wrapped).unwrap()[..]).unwrap()
    }

    pub fn header(&self) -> Header {
        Header::parse(&self.disk.header().unwrap())
    }
}

pub fn builder(disk: &ModelDisk, clock: &Arc<ManualClock>) -> VaultBuilder {
    Vault::builder(Path::new("unused")).root_key(RawKey::new(ROOT)).threads(2).model_disk(disk.clone()).clock(clock.clone())
}

pub fn all_grants() -> SessionOptions {
    SessionOptions::new().grants([Grant::ListConnections, Grant::Connect, Grant::Disconnect])
}

/// What a vault that was opened anew shows of a customer's connection.
pub async fn seen(vault: &Vault, key: &ApiKey, name: &str, connection: ConnectionId) -> Result<String, Error> {
    let backend = vault.backend(key).await?;
    let account = backend.account(&crate::common::id(name)).await?;
    revealed(&account.connection(&connection).await?).await
}

pub async fn replace(connection: &Connection, text: &str) {
    connection.replace_credential(Credential::api_key(secret(text))).await.unwrap();
}

/// The bytes of a tree's handle, which stand in the clear.
pub fn handle_bytes(tree: ModelTree) -> [u8; 16] {
    let ModelTree::Account(_, handle) = tree else { panic!("the directory has no handle") };
    bytes_of(&handle)
}

fn bytes_of(handle: &AccountHandle) -> [u8; 16] {
    let text = handle.to_string();
    URL_SAFE_NO_PAD.decode(&text[text.len() - 22..]).unwrap().try_into().unwrap()
}

fn new_tree(disk: &ModelDisk, known: &[ModelTree]) -> ModelTree {
    let new: Vec<_> = disk.trees().into_iter().filter(|tree| !known.contains(tree)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    new[0]
}
