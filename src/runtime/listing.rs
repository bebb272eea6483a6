//! Accounts in pages.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::domain::account::info::{AccountInfo, AccountStatus};
use crate::domain::directory::{ACCOUNT_BUCKETS, AccountRow, RowName};
use crate::domain::error::Error;
use crate::ids::{Environment, LinkedAccountId};
use crate::runtime::caller::Caller;
use crate::runtime::core::Core;
use crate::runtime::ops::info::ReadInfo;

/// How many accounts of a page are read at once.
const AT_ONCE: usize = 32;

/// Where a listing of accounts goes on: after this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AfterAccount(pub(crate) [u8; 32]);

impl Core {
    /// The environment's accounts after a position, at most `limit`, in the order of their locators (which tells nothing), and
    /// where to go on if there are more.
    pub(crate) async fn list_accounts(
        self: &Arc<Self>,
        environment: Environment,
        caller: &Caller,
        after: Option<AfterAccount>,
        limit: usize,
    ) -> Result<(Vec<AccountInfo>, Option<AfterAccount>), Error> {
        let (rows, more) = self.account_rows(environment, caller, after, limit).await?;
        let last = rows.last().filter(|_| more).map(|(locator, _)| AfterAccount(*locator));
        // An account that is not resident costs a few milliseconds, most of them waiting for its shard.
        let infos = stream::iter(rows)
            .map(|(_, row)| async {
                let info = self.ask(row.handle, caller.clone(), ReadInfo).await;
                match info {
                    // One that was deleted since its row was read is left out.
                    Err(Error::NotFound { .. }) => None,
                    // One that is damaged neither ends the listing nor is missing from it.
                    Err(error @ (Error::Corrupted(_) | Error::RolledBack(_))) => Some(unreadable(row).ok_or(error)),
                    info => Some(info),
                }
            })
            .buffered(AT_ONCE)
            .filter_map(std::future::ready)
            .try_collect()
            .await?;
        Ok((infos, last))
    }

    /// The directory's rows of a page, and whether there are more.
    async fn account_rows(
        &self,
        environment: Environment,
        caller: &Caller,
        after: Option<AfterAccount>,
        limit: usize,
    ) -> Result<(Vec<([u8; 32], AccountRow)>, bool), Error> {
        let mut rows = Vec::new();
        let first = after.and_then(|AfterAccount(locator)| RowName::Account(environment, locator).bucket()).unwrap_or(0);
        for bucket in first..ACCOUNT_BUCKETS {
            let wanted = |name: &RowName| match name {
                RowName::Account(of, locator) => {
                    *of == environment
                        && after.is_none_or(|AfterAccount(last)| *locator > last)
                        && caller.may_know(environment, locator)
                }
                _ => false,
            };
            for (name, row) in self.directory.list::<AccountRow>(bucket, wanted).await? {
                if rows.len() == limit {
                    return Ok((rows, true));
                }
                if let RowName::Account(_, locator) = name {
                    rows.push((locator, row));
                }
            }
        }
        Ok((rows, false))
    }
}

/// What the directory tells of an account whose own records can't be read.
fn unreadable(row: AccountRow) -> Option<AccountInfo> {
    Some(AccountInfo {
        id: LinkedAccountId::new(row.linked_account_id).ok()?,
        metadata: String::new(),
        created: row.created,
        updated: row.created,
        status: AccountStatus::Damaged,
        connections: 0,
    })
}
