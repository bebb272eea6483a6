//! Steps over two databases, ordered so that a crash between them leaves a state which reopening completes or undoes.
//!
//! | step | a crash after it leaves | reopening |
//! |---|---|---|
//! | create 1: tree with keys, record and head in a shard | a tree that the directory does not know | the shard's first use removes it |
//! | create 2: the directory's row | the account | nothing to do |
//! | delete 1: the directory's row replaced by a tombstone | a tree that the directory disowns | shreds it |
//! | delete 2: the shard rewritten without the tree, the older generation removed | a tombstone | shreds again (nothing is left), removes it |
//! | delete 3: tombstone removed | nothing of the account | nothing to do |

use std::sync::Arc;

use crate::domain::account::birth::{self, Birth};
use crate::domain::account::records::{Owner, RecordKey};
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::directory::{AccountRow, CONTROL_BUCKET, RowName, TombstoneRow};
use crate::domain::error::{Damaged, Error, VaultPart};
use crate::domain::random_handle;
use crate::ids::{AccountHandle, Environment, LinkedAccountId, ShardId};
use crate::runtime::account::GONE;
use crate::runtime::core::Core;
use crate::runtime::events::EventKind;
use crate::storage::{Anchored, Commit, Mark, MarkStep};

/// Where an account is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) handle: AccountHandle,
    pub(crate) locator: [u8; 32],
}

impl Located {
    pub(crate) fn locator(&self) -> &[u8; 32] {
        &self.locator
    }
}

impl Core {
    /// Finds an account by the host's id, or proves that there is none.
    pub(crate) async fn locate(&self, environment: Environment, id: &LinkedAccountId) -> Result<Located, Error> {
        let locator = self.keyring.locator(environment, id.as_str());
        let row: AccountRow = self.directory.get(RowName::Account(environment, locator)).await?.ok_or(GONE)?;
        Ok(Located { handle: row.handle, locator })
    }

    /// Creates an account, or finds the one that has this id already: then the metadata given here is not looked at.
    pub(crate) async fn create_account(
        self: &Arc<Self>,
        environment: Environment,
        id: LinkedAccountId,
        metadata: String,
        actor: AuditActor,
    ) -> Result<Located, Error> {
        let locator = self.keyring.locator(environment, id.as_str());
        let by_id = RowName::Account(environment, locator);
        if let Some(row) = self.directory.get::<AccountRow>(by_id).await? {
            return Ok(Located { handle: row.handle, locator });
        }
        let handle = random_handle(&locator);
        // The lock of the id's bucket is held over both steps: two callers with one id make one account.
        let mut change = self.directory.change(&[by_id]).await?;
        if let Some(row) = change.get::<AccountRow>(by_id).await? {
            return Ok(Located { handle: row.handle, locator });
        }
        let now = self.clock.now();
        let owner = Owner { vault: self.keyring.vault_id(), environment, handle };
        // Before the account's keys are wrapped: a rotation of the root key waits for it.
        let creating = Creating::begin(Arc::clone(self), handle);
        let born = birth::rows(&self.keyring, Birth { owner, id: &id, metadata: &metadata, now, actor })?;
        let first = Commit {
            puts: born.rows,
            removes: Vec::new(),
            marks: vec![MarkStep {
                mark: Mark::Account,
                expected: 0,
                next: Anchored { sequence: born.sequence, digest: [0; 32] },
            }],
            ..Commit::default()
        };
        let shard = self.storage.create(handle, first).await?;
        let row = AccountRow { linked_account_id: id.as_str().to_owned(), handle, shard, created: now };
        change.put_new(by_id, &row).await?;
        change.commit().await?;
        drop(creating);
        self.events.send(environment, id.as_str(), EventKind::AccountCreated);
        Ok(Located { handle, locator })
    }

    /// Deletes an account by shredding: when this returns, no byte of its wrapped keys is in any file of the vault.
    pub(crate) async fn delete_account(
        self: &Arc<Self>,
        environment: Environment,
        id: LinkedAccountId,
        located: Located,
        actor: AuditActor,
    ) -> Result<(), Error> {
        let by_id = RowName::Account(environment, located.locator);
        let tombstone = RowName::Tombstone(located.handle);
        let deleting = self.router.retire(self, &located.handle).await;
        let mut change = self.directory.change(&[by_id, tombstone]).await?;
        let row = change.get::<AccountRow>(by_id).await?.filter(|row| row.handle == located.handle).ok_or(GONE)?;
        change.remove(by_id).await?;
        change.put(tombstone, &TombstoneRow { environment, shard: row.shard }).await?;
        self.audit_keys_in(&mut change, environment, actor, AuditAction::AccountDeleted { account: located.handle }).await?;
        change.commit().await?;
        self.journal.forget(&located.handle);
        drop(deleting);
        self.shred(row.shard, vec![located.handle]).await?;
        self.events.send(environment, id.as_str(), EventKind::AccountDeleted);
        Ok(())
    }

    /// Completes the deletions that a crash interrupted.
    pub(crate) async fn finish_deletions(&self) -> Result<usize, Error> {
        let pending = self.directory.list::<TombstoneRow>(CONTROL_BUCKET, |name| matches!(name, RowName::Tombstone(_))).await?;
        let mut by_shard = std::collections::BTreeMap::<ShardId, Vec<AccountHandle>>::new();
        for (name, row) in &pending {
            if let RowName::Tombstone(handle) = name {
                by_shard.entry(row.shard).or_default().push(*handle);
            }
        }
        for (shard, handles) in by_shard {
            match self.shred(shard, handles).await {
                Ok(()) => {}
                // The accounts are gone already; their bytes are not, and the tombstones stay. The rest of the vault is served.
                Err(error @ (Error::Corrupted(_) | Error::RolledBack(_))) => {
                    tracing::error!(%shard, %error, "a deletion can't be completed: the shard can't be rewritten");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(pending.len())
    }

    /// Before a shard's first use since opening: removes trees that the directory does not know, which a crash between the two
    /// steps of a creation leaves.
    pub(crate) async fn sweep_shard(&self, shard: ShardId) -> Result<(), Error> {
        if self.swept().contains(&shard) {
            return Ok(());
        }
        let (mut orphans, mut lost) = (Vec::new(), Vec::new());
        for handle in self.storage.members(shard).await? {
            // Looked at first: a creation leaves this set only after its directory row is durable.
            if self.creating().contains(&handle) {
                continue;
            }
            let known = match self.directory.place(&handle).await {
                // Of this account nothing is known for certain, so it is left alone; the others in its shard are served.
                Err(Error::Corrupted(_) | Error::RolledBack(_)) => continue,
                known => known?,
            };
            let deleting = self.directory.get::<TombstoneRow>(RowName::Tombstone(handle)).await?;
            if known.is_none_or(|place| place.shard != shard) && deleting.is_none() {
                let tree = self.storage.tree(shard, handle).await?;
                let head = tree.load(&RecordKey::Head.to_bytes()).await?;
                match head.and_then(|sealed| crate::domain::row_revision(&sealed)) {
                    Some(sequence) if sequence > birth::SEQUENCE => lost.push(handle),
                    _ => orphans.push(handle),
                }
            }
        }
        // An interrupted creation leaves what an account begins with. One that went on from there was acknowledged, so what does
        // not know it is an older copy of the directory, and its tree may be the only one left.
        if !lost.is_empty() {
            let detail = "it does not know accounts whose trees are there".into();
            return Err(Error::RolledBack(Damaged { part: VaultPart::Directory, accounts: lost, detail }));
        }
        if !orphans.is_empty() {
            tracing::info!(%shard, count = orphans.len(), "removing account trees whose creation was interrupted");
            self.storage.shred(shard, orphans).await?;
        }
        self.swept().insert(shard);
        Ok(())
    }

    async fn shred(&self, shard: ShardId, handles: Vec<AccountHandle>) -> Result<(), Error> {
        self.storage.shred(shard, handles.clone()).await?;
        let names: Vec<RowName> = handles.into_iter().map(RowName::Tombstone).collect();
        let mut change = self.directory.change(&names).await?;
        for name in names {
            change.remove(name).await?;
        }
        change.commit().await
    }
}

/// Keeps a handle among those that are being created, until dropped.
struct Creating {
    core: Arc<Core>,
    handle: AccountHandle,
}

impl Creating {
    fn begin(core: Arc<Core>, handle: AccountHandle) -> Self {
        core.creating().insert(handle);
        Self { core, handle }
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        self.core.creating().remove(&self.handle);
    }
}
