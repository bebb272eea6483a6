//! Accounts in pages, and a walk over the whole vault.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::domain::account::info::AccountInfo;
use crate::domain::account::records::RecordKey;
use crate::domain::directory::{ACCOUNT_BUCKETS, AccountRow, BUCKETS, HandleRow, RowName};
use crate::domain::error::{Damaged, Error, VaultPart};
use crate::ids::Environment;
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Caller, Needs};
use crate::runtime::core::Core;
use crate::runtime::ops::audit::VerifyAudit;
use crate::runtime::ops::info::ReadInfo;

/// How many accounts of a page are read at once.
const AT_ONCE: usize = 32;

/// Where a listing of accounts goes on: after this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AfterAccount(pub(crate) [u8; 32]);

/// What a walk over the whole vault found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many accounts were read and are what was acknowledged.
    pub intact: u64,
    /// What is not, part by part; empty when all is well. A part may stand there more than once.
    pub damaged: Vec<Damaged>,
}

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
            .map(|(_, row)| self.ask(row.handle, caller.clone(), ReadInfo))
            .buffered(AT_ONCE)
            .filter_map(|info| async {
                // One that was deleted since its row was read is left out.
                (!matches!(info, Err(Error::NotFound { .. }))).then_some(info)
            })
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

    /// Reads and proves everything: each bucket of the directory, each account with all its rows and its audit.
    pub(crate) async fn verify(self: &Arc<Self>) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport::default();
        for shard in self.storage.shards() {
            if let Err(error) = self.storage.members(shard).await {
                report.note(error.into())?;
            }
        }
        for bucket in 0..BUCKETS {
            let rows = match self.directory.list::<HandleRow>(bucket, |name| matches!(name, RowName::Handle(_))).await {
                Ok(rows) => rows,
                Err(error) => {
                    report.note(error)?;
                    continue;
                }
            };
            for (name, row) in rows {
                let RowName::Handle(handle) = name else { continue };
                match self.ask(handle, Caller::Vault, ProveRows).await {
                    Ok(()) => {}
                    Err(Error::NotFound { .. }) => continue,
                    Err(error) => {
                        report.note(error)?;
                        continue;
                    }
                }
                match self.ask(handle, Caller::Vault, VerifyAudit).await {
                    Ok(Ok(_)) => report.intact += 1,
                    Ok(Err(broken)) => report.damaged.push(Damaged {
                        part: VaultPart::Shard(row.shard),
                        accounts: vec![handle],
                        detail: broken.to_string().into(),
                    }),
                    Err(error) => report.note(error)?,
                }
            }
        }
        Ok(report)
    }
}

impl VerifyReport {
    /// Notes damage; any other error ends the walk.
    fn note(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::Corrupted(damaged) | Error::RolledBack(damaged) => {
                self.damaged.push(damaged);
                Ok(())
            }
            other => Err(other),
        }
    }
}

/// Reads every row of an account and opens it.
struct ProveRows;

impl Operation for ProveRows {
    type Answer = ();
    const DOING: &'static str = "verifying an account";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let _turn = account.turn(caller).await?;
        let records: Vec<RecordKey> = account.with_state(|state| {
            let sealed_records = |key: &RecordKey| {
                matches!(key, RecordKey::Info | RecordKey::Connection(_) | RecordKey::Secret(_) | RecordKey::SpentToken(_))
            };
            state.index.keys().copied().filter(sealed_records).collect()
        })?;
        for key in records {
            account.read(key).await?;
        }
        Ok(())
    }
}
