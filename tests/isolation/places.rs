//! Where the vault of a case lives, and how it is opened, ended and opened again.

use std::path::PathBuf;
use std::sync::Arc;

use anchorhold::testing::{ManualClock, ModelDisk};
use anchorhold::{ApiKey, Backend, Environment, Vault, VaultHead};

use crate::common::{builder, new_clock, root_key_of};
use crate::steps::Ending;

pub trait Engine {
    fn disk() -> Disk;
}

pub enum Disk {
    Model(ModelDisk),
    Sled(tempfile::TempDir),
}

pub struct Model;
pub struct Sled;

impl Engine for Model {
    fn disk() -> Disk {
        Disk::Model(ModelDisk::new())
    }
}

impl Engine for Sled {
    fn disk() -> Disk {
        Disk::Sled(tempfile::tempdir().unwrap())
    }
}

pub trait Passivation {
    const MAX_RESIDENT: usize;
}

/// Nobody is passivated.
pub struct Never;
/// Every change of account passivates the one before.
pub struct AtEveryChange;

impl Passivation for Never {
    const MAX_RESIDENT: usize = 1_000;
}

impl Passivation for AtEveryChange {
    const MAX_RESIDENT: usize = 1;
}

pub struct Place {
    pub clock: Arc<ManualClock>,
    /// The root key of now, by its byte.
    pub root_key: u8,
    disk: Disk,
    /// `None` only in the middle of a restart.
    opened: Option<Opened>,
    keys: [ApiKey; 2],
}

struct Opened {
    vault: Vault,
    backends: [Backend; 2],
}

impl Place {
    pub async fn new<E: Engine, P: Passivation>() -> Self {
        let (disk, clock, root_key) = (E::disk(), new_clock(), 1);
        let vault = open::<P>(&disk, &clock, root_key, None).await;
        let keys = [
            vault.bootstrap_api_key(Environment::Test).await.unwrap(),
            vault.bootstrap_api_key(Environment::Production).await.unwrap(),
        ];
        let opened = Some(Opened::new(vault, &keys).await);
        Self { clock, root_key, disk, opened, keys }
    }

    pub fn vault(&self) -> &Vault {
        &self.opened().vault
    }

    pub fn backend(&self, environment: Environment) -> &Backend {
        match environment {
            Environment::Test => &self.opened().backends[0],
            Environment::Production => &self.opened().backends[1],
        }
    }

    /// Ends the vault and opens it again, which must be no older than it was. The caller has dropped all other handles.
    pub async fn restart<P: Passivation>(&mut self, ending: Ending) {
        let head = self.vault().head().await.unwrap();
        match (ending, &self.disk) {
            (Ending::Close, _) => self.vault().close().await.unwrap(),
            (Ending::Crash, Disk::Model(disk)) => disk.crash(),
            (Ending::Crash | Ending::Drop, _) => {}
        }
        self.opened = None;
        let vault = open::<P>(&self.disk, &self.clock, self.root_key, Some(head)).await;
        self.opened = Some(Opened::new(vault, &self.keys).await);
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("only a restart takes it away")
    }
}

impl Opened {
    async fn new(vault: Vault, keys: &[ApiKey; 2]) -> Self {
        let backends = [vault.backend(&keys[0]).await.unwrap(), vault.backend(&keys[1]).await.unwrap()];
        Self { vault, backends }
    }
}

async fn open<P: Passivation>(disk: &Disk, clock: &Arc<ManualClock>, root_key: u8, head: Option<VaultHead>) -> Vault {
    let path = match disk {
        Disk::Model(_) => PathBuf::from("unused"),
        Disk::Sled(folder) => folder.path().join("vault"),
    };
    // Small shards, so that a case has several of them and some accounts have a neighbour.
    let options = builder(&path).root_key(root_key_of(root_key)).clock(Arc::<ManualClock>::clone(clock)).trees_per_shard(2);
    let mut options = options.max_resident_accounts(P::MAX_RESIDENT);
    if let Disk::Model(disk) = disk {
        options = options.model_disk(disk.clone());
    }
    if let Some(head) = head {
        options = options.expect_head(head);
    }
    options.open().await.unwrap()
}
