//! Trees of the sled engine.

use std::sync::Arc;

use super::super::{Anchored, BoxFuture, Commit, Mark, Row, StorageError, Tree};
use super::core::locked;
use super::database::sections;
use super::directory::DIRECTORY_TREE;
use super::group::{CommitJob, Committed};
use super::lane::{Job, Lane};
use super::shards::AnchoredCell;
use super::watchdog::Caller;
use crate::ids::AccountHandle;

/// The directory's tree or an account's. It holds names, no open database: a shard may be closed and opened under it.
pub(super) struct SledTree {
    lane: Arc<Lane>,
    /// The account and what the anchor remembers of it; `None` for the directory.
    account: Option<(AccountHandle, Arc<AnchoredCell>)>,
}

impl SledTree {
    pub(super) fn directory(lane: Arc<Lane>) -> Self {
        Self { lane, account: None }
    }

    pub(super) fn account(lane: Arc<Lane>, handle: AccountHandle, anchored: Arc<AnchoredCell>) -> Self {
        Self { lane, account: Some((handle, anchored)) }
    }

    fn handle(&self) -> Option<AccountHandle> {
        self.account.as_ref().map(|(handle, _)| *handle)
    }

    fn name(&self) -> Vec<u8> {
        self.handle().map_or_else(|| DIRECTORY_TREE.to_vec(), |handle| handle.as_bytes().to_vec())
    }
}

impl Tree for SledTree {
    fn load<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Vec<u8>>, StorageError>> {
        Box::pin(async move {
            let (name, account, key) = (self.name(), self.handle(), key.to_vec());
            self.lane.open_sections(sections::of_key(&key).into_iter()).await?;
            let read = self.lane.read(move |lane, database| {
                if !database.has_tree(&name) {
                    return Err(StorageError::NoTree);
                }
                database.get(&name, &key).map_err(|failure| lane.read_error(account, failure))
            });
            read.await
        })
    }

    fn scan<'a>(&'a self, start: &'a [u8], end: &'a [u8], limit: usize) -> BoxFuture<'a, Result<Vec<Row>, StorageError>> {
        Box::pin(async move {
            let (name, account, start, end) = (self.name(), self.handle(), start.to_vec(), end.to_vec());
            self.lane.open_sections(sections::of_range(&start, &end)).await?;
            let read = self.lane.read(move |lane, database| {
                if !database.has_tree(&name) {
                    return Err(StorageError::NoTree);
                }
                database.scan(&name, &start, &end, limit).map_err(|failure| lane.read_error(account, failure))
            });
            read.await
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            commit.check_limits()?;
            match submit(&self.lane, self.name(), self.handle(), false, commit).await? {
                Committed::Durable => Ok(()),
                Committed::NoRoom => Err(StorageError::NoTree),
            }
        })
    }

    fn anchored(&self, mark: Mark) -> Option<Anchored> {
        match (&self.account, mark) {
            (Some((_, cell)), Mark::Account) => *locked(cell),
            (None, Mark::Bucket(bucket)) => self.lane.core.anchors.bucket(bucket),
            _ => None,
        }
    }
}

/// Puts a commit in its database's line and waits for what becomes of it.
pub(super) async fn submit(
    lane: &Arc<Lane>,
    tree: Vec<u8>,
    account: Option<AccountHandle>,
    create: bool,
    commit: Commit,
) -> Result<Committed, StorageError> {
    let (ticket, answer) = lane.core.watchdog.ticket(Caller::Committer)?;
    lane.submit(Job::Commit(CommitJob { tree, account, create, commit, ticket }))?;
    answer.wait().await
}
