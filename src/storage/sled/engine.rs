//! The sled engine as the layers above see it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::{
    AnchorHead, BoxFuture, Commit, Location, MAX_TREES_PER_SHARD, Mark, Storage, StorageError, StorageStatus, Tree,
};
use super::core::{Core, io_error, locked};
use super::directory;
use super::group::Committed;
use super::header;
use super::lane::{Job, Lane};
use super::shards::{self, Shard};
use super::shred;
use super::tree::{self, SledTree};
use super::watchdog::Caller;
use crate::ids::{AccountHandle, ShardId};

pub(super) struct SledStorage {
    core: Arc<Core>,
    directory: Arc<Lane>,
    /// Made when first used, and kept: a few hundred bytes each.
    shards: Mutex<HashMap<u32, Arc<Lane>>>,
}

impl SledStorage {
    pub(super) fn new(core: Arc<Core>, directory: Arc<Lane>) -> Self {
        Self { core, directory, shards: Mutex::default() }
    }

    /// Applies what a crash left in the commit log, to every database that can be opened.
    pub(super) async fn catch_up(&self, with_directory: bool) -> Result<(), StorageError> {
        for place in self.core.log.places_left() {
            let lane = match place {
                Some(shard) => self.lane(shard),
                None if with_directory => self.directory.clone(),
                None => continue,
            };
            match lane.read(|_, _| Ok(())).await {
                Ok(()) => {}
                // It is not opened again before the vault is, and whoever asks for what is in it is told so.
                Err(error @ (StorageError::Corrupted { .. } | StorageError::RolledBack { .. })) => {
                    tracing::warn!(place = %lane.place(), %error, "what the commit log has of a database stays in it");
                }
                // Later it might be opened, and would lack what was acknowledged.
                Err(error) => return Err(error),
            }
        }
        self.core.log.restart(&self.core, |place| place.map_or_else(|| self.directory.clone(), |shard| self.lane(shard)))
    }

    /// Opens the directory and compares it with its anchor, but for sections that are opened later.
    pub(super) async fn open_directory(&self) -> Result<(), StorageError> {
        self.directory.read(|lane, database| directory::check_what_is_open(lane, database)).await
    }

    fn lane(&self, shard: ShardId) -> Arc<Lane> {
        let mut lanes = locked(&self.shards);
        lanes.entry(shard.0).or_insert_with(|| Lane::new(self.core.clone(), Some(Shard::new(shard)))).clone()
    }

    /// The lane of a shard that exists.
    fn existing(&self, shard: ShardId) -> Result<Arc<Lane>, StorageError> {
        if shard.0 < locked(&self.core.room).shards() { Ok(self.lane(shard)) } else { Err(StorageError::NoTree) }
    }
}

impl Storage for SledStorage {
    fn directory(&self) -> Arc<dyn Tree> {
        Arc::new(SledTree::directory(self.directory.clone()))
    }

    fn create(&self, handle: AccountHandle, first: Commit) -> BoxFuture<'_, Result<ShardId, StorageError>> {
        Box::pin(async move {
            first.check_limits()?;
            loop {
                let shard = locked(&self.core.room).take();
                let name = handle.as_bytes().to_vec();
                let commit = first.clone();
                match tree::submit(&self.lane(shard), name, Some(handle), true, commit).await {
                    Ok(Committed::Durable) => return Ok(shard),
                    Ok(Committed::NoRoom) => locked(&self.core.room).set_full(shard),
                    // A damaged shard must not keep new customers out.
                    Err(StorageError::Corrupted { .. } | StorageError::RolledBack { .. }) => {
                        locked(&self.core.room).set_full(shard);
                    }
                    Err(error) => {
                        locked(&self.core.room).give_back(shard);
                        return Err(error);
                    }
                }
            }
        })
    }

    fn tree(&self, shard: ShardId, handle: AccountHandle) -> BoxFuture<'_, Result<Arc<dyn Tree>, StorageError>> {
        Box::pin(async move {
            let lane = self.existing(shard)?;
            let find = lane.read(move |lane, database| {
                // The anchor first: a commit in between may only make the tree newer than it.
                let cell = lane.shard.as_ref().map(|shard| shard.cell(handle)).unwrap_or_default();
                let anchored = *locked(&cell);
                let found = database.mark(handle.as_bytes(), Mark::Account);
                let found = found.map_err(|failure| lane.read_error(Some(handle), failure))?;
                let (place, accounts) = (lane.place(), vec![handle]);
                match (found, anchored) {
                    (None, None) => Err(StorageError::NoTree),
                    (None, Some(_)) => {
                        let detail = "an account's rows are missing".into();
                        Err(StorageError::Corrupted { place, detail, accounts })
                    }
                    (Some(found), Some(anchored)) if found.sequence < anchored.sequence => {
                        Err(StorageError::RolledBack { place, accounts })
                    }
                    _ => Ok(cell),
                }
            });
            let cell = find.await?;
            Ok(Arc::new(SledTree::account(lane, handle, cell)) as Arc<dyn Tree>)
        })
    }

    fn members(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<AccountHandle>, StorageError>> {
        Box::pin(async move {
            let lane = self.existing(shard)?;
            let found = lane.read(|lane, database| {
                let mut members = Vec::new();
                for name in database.tree_names() {
                    let Ok(bytes) = <[u8; 16]>::try_from(name.as_slice()) else { continue };
                    // A tree without a mark is what a crash left of a creation that was never acknowledged.
                    let mark = database.mark(&name, Mark::Account).map_err(|failure| lane.read_error(None, failure))?;
                    if mark.is_some() {
                        members.push(AccountHandle::from_bytes(bytes));
                    }
                }
                members.sort();
                Ok(members)
            });
            match (found.await, &lane.shard) {
                (Err(error @ (StorageError::Corrupted { .. } | StorageError::RolledBack { .. })), Some(shard)) => {
                    shards::anchored_accounts(&self.core, shard).ok_or(error)
                }
                (found, _) => found,
            }
        })
    }

    fn shards(&self) -> Vec<ShardId> {
        (0..locked(&self.core.room).shards()).map(ShardId).collect()
    }

    fn shred(&self, shard: ShardId, handles: Vec<AccountHandle>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let lane = self.existing(shard)?;
            let (ticket, answer) = self.core.watchdog.ticket(Caller::Committer)?;
            shred::admit(&self.core, move |admitted| {
                lane.submit_unbounded(Job::Run(Box::new(move |lane| {
                    ticket.answer(shred::shred(lane, &handles));
                    drop(admitted);
                })));
            });
            answer.wait().await?;
            // What was written to the accounts lately is in the commit log as well.
            let (ticket, answer) = self.core.watchdog.ticket(Caller::Committer)?;
            let core = self.core.clone();
            self.directory.submit_unbounded(Job::Run(Box::new(move |_| {
                if let Err(error) = core.log.empty(&core, ticket) {
                    core.watchdog.poison(format!("writing the commit log: {error}"));
                }
            })));
            answer.wait().await
        })
    }

    fn sync_anchors(&self) -> BoxFuture<'_, Result<AnchorHead, StorageError>> {
        Box::pin(async move {
            let (ticket, answer) = self.core.watchdog.ticket(Caller::Keeper)?;
            self.core.keeper.sync_anchors(ticket);
            answer.wait().await
        })
    }

    fn check_files(&self, place: Location) -> BoxFuture<'_, Result<Vec<StorageError>, StorageError>> {
        Box::pin(async move {
            self.core.watchdog.refuses_reads()?;
            self.core.watchdog.call(Caller::Reader, "reading header and anchors", || match place {
                Location::Header => header::check(&self.core.root).map_err(|error| io_error("read the vault header", error)),
                Location::Directory => self.core.anchors.check_directory_file(&self.core),
                Location::Shard(shard) => self.core.anchors.check_shard_file(&self.core, shard),
            })
        })
    }

    fn write_header(&self, header: Vec<u8>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let (ticket, answer) = self.core.watchdog.ticket(Caller::Keeper)?;
            self.core.keeper.write_header(header, ticket);
            answer.wait().await
        })
    }

    fn status(&self) -> StorageStatus {
        let (shards, accounts) = {
            let room = locked(&self.core.room);
            (room.shards() as usize, room.accounts())
        };
        StorageStatus {
            engine: "sled",
            shards,
            open_shards: locked(&self.core.open).len(),
            accounts,
            repaired: self.core.repaired(),
            poisoned: self.core.watchdog.poisoned(),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            // Before asking, so that the answer can't come too early.
            let answer = self.core.watchdog.closer();
            match self.core.keeper.close() {
                Some(result) => result,
                None => answer.await.unwrap_or(Err(StorageError::Closed)),
            }
        })
    }
}

impl Drop for SledStorage {
    fn drop(&mut self) {
        let _ = self.core.keeper.close();
        // A call that hangs must not hang the host's drop for ever.
        self.core.keeper.wait_until_ended(3 * self.core.options.stall_timeout + Duration::from_secs(1));
    }
}

/// A shard's anchor counts members in 16 bits.
const _: () = assert!(MAX_TREES_PER_SHARD <= u16::MAX as usize);
