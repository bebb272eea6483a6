//! A walk over the whole vault that reads and proves everything, names what is damaged and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::WrapPurpose;
use crate::domain::account::records::RecordKey;
use crate::domain::account::state::Damage;
use crate::domain::directory::{AccountPlace, AccountRow, BUCKETS, RowName, handle_bucket};
use crate::domain::error::{Damaged, Error, VaultPart};
use crate::ids::{AccountHandle, Environment, LinkedAccountId};
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs};
use crate::runtime::core::Core;
use crate::runtime::ops::audit::VerifyAudit;
use crate::storage::Location;

/// How long the walk waits before it asks an account again that has too much to do, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often it asks: half a minute in all, then the account is named as not proven.
const TRIES: u32 = 64;

/// What a walk over the whole vault found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many accounts were read and are what was acknowledged.
    pub intact: u64,
    /// What is not, part by part; empty when all is well. A part may stand there more than once, each time with another detail.
    pub damaged: Vec<Damaged>,
    /// Who the accounts in `damaged` are, as far as the directory tells.
    pub accounts: BTreeMap<AccountHandle, DamagedAccount>,
    /// What could not be looked at, and why: accounts that were too busy for half a minute, files that the system does not give
    /// out. Neither proven nor found damaged: verify again.
    pub unproven: Vec<Unproven>,
}

/// The host's name of an account that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedAccount {
    /// Its environment.
    pub environment: Environment,
    /// The host's own id of it; `None` when the directory's row with it is damaged too.
    pub id: Option<LinkedAccountId>,
}

/// Something that a walk did not get to see.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unproven {
    /// The part that it belongs to.
    pub part: VaultPart,
    /// The account, if it is one.
    pub account: Option<AccountHandle>,
    /// Why.
    pub error: Error,
}

impl Core {
    /// Reads and proves everything: header and anchors, each bucket of the directory, the API-key audits, each shard, each account
    /// with all its rows and its audit.
    pub(crate) async fn verify(self: &Arc<Self>) -> Result<VerifyReport, Error> {
        let mut walk = Walk { core: self, report: VerifyReport::default() };
        walk.files(VaultPart::Header, Location::Header).await?;
        walk.files(VaultPart::Directory, Location::Directory).await?;
        for shard in self.storage.shards() {
            match self.storage.members(shard).await {
                Ok(_) => walk.files(VaultPart::Shard(shard), Location::Shard(shard)).await?,
                Err(error) => walk.note(VaultPart::Shard(shard), None, error.into())?,
            }
        }
        let mut unreadable = BTreeMap::new();
        for bucket in 0..BUCKETS {
            match self.directory.accounts(bucket).await {
                Ok(accounts) => {
                    for (handle, place) in accounts {
                        walk.account(handle, place).await?;
                    }
                }
                Err(error) => {
                    unreadable.insert(bucket, error);
                }
            }
        }
        walk.api_key_audits().await?;
        walk.buckets(unreadable).await?;
        Ok(walk.report)
    }
}

struct Walk<'a> {
    core: &'a Arc<Core>,
    report: VerifyReport,
}

impl Walk<'_> {
    /// Notes what went wrong with a part. Only a vault that is closed or poisoned ends the walk.
    fn note(&mut self, part: VaultPart, account: Option<AccountHandle>, error: Error) -> Result<(), Error> {
        match error {
            Error::Corrupted(damaged) | Error::RolledBack(damaged) => self.report.damaged.push(damaged),
            Error::Closed | Error::Poisoned { .. } => return Err(error),
            error => self.report.unproven.push(Unproven { part, account, error }),
        }
        Ok(())
    }

    /// Looks at what lies beside the databases; then others have their turn on this thread.
    async fn files(&mut self, part: VaultPart, place: Location) -> Result<(), Error> {
        match self.core.storage.check_files(place).await {
            Ok(found) => found.into_iter().try_for_each(|error| self.note(part, None, error.into()))?,
            Err(error) => self.note(part, None, error.into())?,
        }
        futures_lite::future::yield_now().await;
        Ok(())
    }

    async fn account(&mut self, handle: AccountHandle, place: AccountPlace) -> Result<(), Error> {
        let part = VaultPart::Shard(place.shard);
        let before = self.report.damaged.len() + self.report.unproven.len();
        match self.ask(handle, || ProveRows).await {
            Ok(found) => self.report.damaged.extend(found),
            // It was deleted since its row was read.
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => self.note(part, Some(handle), error)?,
        }
        match self.ask(handle, || VerifyAudit).await {
            Ok(Ok(_)) => {}
            Ok(Err(broken)) => {
                let detail = broken.to_string().into();
                self.report.damaged.push(Damaged { part, accounts: vec![handle], detail });
            }
            Err(Error::NotFound { .. }) => return Ok(()),
            // What keeps the rows from being read was noted with them.
            Err(Error::Corrupted(_) | Error::RolledBack(_))
                if self.report.damaged.len() + self.report.unproven.len() > before => {}
            Err(error) => self.note(part, Some(handle), error)?,
        }
        if self.report.damaged.len() + self.report.unproven.len() == before {
            self.report.intact += 1;
        } else {
            let by_id = self.core.directory.get::<AccountRow>(RowName::Account(place.environment, place.locator)).await;
            let id = by_id.ok().flatten().and_then(|row| LinkedAccountId::new(row.linked_account_id).ok());
            self.report.accounts.insert(handle, DamagedAccount { environment: place.environment, id });
        }
        Ok(())
    }

    /// Asks an account until it is not too busy to answer.
    async fn ask<O: Operation>(&self, handle: AccountHandle, operation: impl Fn() -> O) -> Result<O::Answer, Error> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.core.ask_aside(handle, operation()).await {
                Err(error) if error.is_retryable() => {}
                answer => return answer,
            }
            self.core.sleep_until_closing(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.core.ask_aside(handle, operation()).await
    }

    async fn api_key_audits(&mut self) -> Result<(), Error> {
        for environment in Environment::ALL {
            match self.core.verify_api_key_audit(environment).await {
                Ok(Ok(_)) => {}
                Ok(Err(broken)) => self.report.damaged.push(Damaged {
                    part: VaultPart::Directory,
                    accounts: Vec::new(),
                    detail: format!("the API-key audit of the {environment} environment: {broken}").into(),
                }),
                Err(Error::Corrupted(damaged)) => self.report.damaged.push(Damaged {
                    detail: format!("the API-key audit of the {environment} environment: {}", damaged.detail).into(),
                    ..damaged
                }),
                Err(error) => self.note(VaultPart::Directory, None, error)?,
            }
        }
        Ok(())
    }

    /// Notes buckets of the directory that can't be proven, each with the accounts that can't be found because of it.
    async fn buckets(&mut self, unreadable: BTreeMap<u16, Error>) -> Result<(), Error> {
        if unreadable.is_empty() {
            return Ok(());
        }
        let mut behind: BTreeMap<u16, BTreeSet<AccountHandle>> = BTreeMap::new();
        for shard in self.core.storage.shards() {
            for handle in self.core.storage.members(shard).await.unwrap_or_default() {
                behind.entry(handle_bucket(&handle)).or_default().insert(handle);
            }
        }
        for (bucket, error) in unreadable {
            let accounts = behind.remove(&bucket).unwrap_or_default().into_iter().collect();
            let name =
                |damaged: Damaged| Damaged { accounts, detail: format!("bucket {bucket}: {}", damaged.detail).into(), ..damaged };
            let error = match error {
                Error::Corrupted(damaged) => Error::Corrupted(name(damaged)),
                Error::RolledBack(damaged) => Error::RolledBack(name(damaged)),
                other => other,
            };
            self.note(VaultPart::Directory, None, error)?;
        }
        Ok(())
    }
}

/// Reads every row of an account and opens it; says what is wrong with each that is not whole.
struct ProveRows;

impl Operation for ProveRows {
    type Answer = Vec<Damaged>;
    const DOING: &'static str = "verifying an account";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Vec<Damaged>, Error> {
        let _turn = account.turn(caller).await?;
        let records: Vec<RecordKey> = account.with_state(|state| state.index.keys().copied().collect())?;
        let mut found = Vec::new();
        for key in records {
            match account.prove(key).await {
                Ok(()) => {}
                Err(Error::Corrupted(damaged)) => {
                    found.push(Damaged { detail: format!("{key}: {}", damaged.detail).into(), ..damaged });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

impl Account {
    /// Reads one row from the disk and opens it. Only in the account's turn.
    async fn prove(&self, key: RecordKey) -> Result<(), Error> {
        let wrapped = self.with_state(|state| {
            let wrapped = &state.facts.wrapped;
            match key {
                RecordKey::AccountKey => Some(Arc::clone(&wrapped.account)),
                RecordKey::TokenKey => Some(Arc::clone(&wrapped.token)),
                RecordKey::AuditKey => Some(Arc::clone(&wrapped.audit)),
                RecordKey::PreviousAccountKey => wrapped.previous_account.clone(),
                _ => None,
            }
        })?;
        let Some(wrapped) = wrapped else { return self.read(key).await.map(drop) };
        if self.tree()?.load(&key.to_bytes()).await?.as_deref() != Some(&*wrapped) {
            return Err(self.damaged(Damage("the row is not the one that was read when the account was loaded")));
        }
        match key {
            // The others were opened before anything else could be.
            RecordKey::TokenKey => {
                let (keyring, owner) = (&self.core.keyring, self.owner());
                let opened = keyring.unwrap(WrapPurpose::TokenKey, owner.environment, &owner.handle, &wrapped);
                opened.map(drop).map_err(|_| self.damaged(Damage("the key does not open")))
            }
            _ => Ok(()),
        }
    }
}
