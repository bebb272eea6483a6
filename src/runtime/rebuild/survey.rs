//! A look at everything that is there: what the shards say, what the old directory proves, and what follows from both.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::domain::account::birth;
use crate::domain::account::records::{InfoRecord, Owner, RecordKey};
use crate::domain::account::state::{Damage, decode};
use crate::domain::audit::{self, AuditAction};
use crate::domain::directory::{ACCOUNT_BUCKETS, AccountRow, CONTROL_BUCKET, JOURNAL_BUCKET, RowName, TombstoneRow};
use crate::domain::error::{Damaged, Error, OpenError, VaultPart};
use crate::domain::{Keyring, Plaintext, WrapPurpose};
use crate::ids::{AccountHandle, Environment, ShardId};
use crate::runtime::directory::Directory;
use crate::runtime::environment::verify_api_key_audit;
use crate::runtime::loading::{damaged, load_proven};
use crate::runtime::rebuild::report::{Carried, RebuildReport};
use crate::storage::{Rebuilding, Storage};

/// Rows of the old directory that are looked at in one step.
const STEP: usize = 64;

/// What stands for an account's id in the directory.
type ById = (Environment, [u8; 32]);

/// What the new directory is made of.
pub(super) struct Survey {
    pub(super) report: RebuildReport,
    /// The old directory, if there is one to read from.
    pub(super) old: Option<Directory>,
    /// What each account gets.
    pub(super) entries: BTreeMap<AccountHandle, Entry>,
    /// Accounts that are being deleted.
    pub(super) tombstones: BTreeMap<AccountHandle, TombstoneRow>,
    /// Rows that are taken over as they are.
    pub(super) carried: Vec<(RowName, Plaintext)>,
    /// Whether the audits of API keys are.
    pub(super) audits: bool,
}

/// What the new directory says of an account.
pub(super) enum Entry {
    Whole(Account),
    /// One that can't be read: what the old directory said.
    Damaged {
        shard: ShardId,
        known: Option<(ById, String, Timestamp)>,
    },
}

/// An account that was read and proven.
pub(super) struct Account {
    environment: Environment,
    locator: [u8; 32],
    id: String,
    shard: ShardId,
    created: Timestamp,
    sequence: u64,
    pub(super) due: Option<Timestamp>,
}

/// What the old directory says of a handle.
enum Known {
    In(ShardId),
    No,
    Unproven,
}

impl Entry {
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Entry::Whole(account) => account.shard,
            Entry::Damaged { shard, .. } => *shard,
        }
    }

    /// The name of its row.
    pub(super) fn name(&self, handle: AccountHandle) -> RowName {
        match self {
            Entry::Whole(account) => RowName::Account(account.environment, account.locator),
            Entry::Damaged { known: Some(((environment, locator), ..)), .. } => RowName::Account(*environment, *locator),
            Entry::Damaged { known: None, .. } => RowName::Unnamed(handle),
        }
    }

    /// The host's id and when it was made, if its row has them.
    pub(super) fn id(&self) -> Option<(&str, Timestamp)> {
        match self {
            Entry::Whole(account) => Some((&account.id, account.created)),
            Entry::Damaged { known, .. } => known.as_ref().map(|(_, id, created)| (id.as_str(), *created)),
        }
    }
}

/// The survey while it goes on.
struct Surveyor<'a> {
    keyring: &'a Keyring,
    storage: &'a dyn Storage,
    old: Option<Directory>,
    /// Whether anything remembers how far directory and shards had come.
    remembered: bool,
    report: RebuildReport,
    accounts: HashMap<AccountHandle, Account>,
    by_id: HashMap<ById, AccountHandle>,
    /// Accounts that can't be read, and shards of which nothing can be.
    unreadable: BTreeMap<AccountHandle, ShardId>,
    unknown: HashSet<ShardId>,
    tombstones: BTreeMap<AccountHandle, TombstoneRow>,
    /// Said to be deleted by an audit that can't be proven.
    deleted: HashSet<AccountHandle>,
}

impl Survey {
    pub(super) async fn of(rebuilding: &dyn Rebuilding, keyring: &Arc<Keyring>, remembered: bool) -> Result<Self, OpenError> {
        let storage = rebuilding.present().as_ref();
        let old = rebuilding.is_readable().then(|| Directory::new(storage.directory(), Arc::clone(keyring)));
        let anchor = if remembered { Carried::Proven } else { Carried::Lost };
        let mut surveyor = Surveyor {
            keyring,
            storage,
            old,
            remembered,
            report: RebuildReport::new(anchor),
            accounts: HashMap::new(),
            by_id: HashMap::new(),
            unreadable: BTreeMap::new(),
            unknown: HashSet::new(),
            tombstones: BTreeMap::new(),
            deleted: HashSet::new(),
        };
        let (carried, audits) = surveyor.look_at_settings().await?;
        for shard in storage.shards() {
            surveyor.look_at_shard(shard).await?;
        }
        let mut entries = surveyor.look_at_old_rows().await;
        let Surveyor { mut report, old, accounts, tombstones, .. } = surveyor;
        report.accounts = accounts.len() as u64;
        entries.extend(accounts.into_iter().map(|(handle, account)| (handle, Entry::Whole(account))));
        report.deletions = (tombstones.len() - report.given_up.len()) as u64;
        Ok(Self { report, old, entries, tombstones, carried, audits })
    }
}

impl Surveyor<'_> {
    /// What is taken over as it is: the rows of proven buckets. Tombstones count proven or not, since a handle is never used again:
    /// whoever was being deleted once still is.
    async fn look_at_settings(&mut self) -> Result<(Vec<(RowName, Plaintext)>, bool), OpenError> {
        let Some(old) = &self.old else { return Ok((Vec::new(), false)) };
        let proven = if self.remembered { Carried::Proven } else { Carried::AsFound };
        let mut carried = Vec::new();
        let mut take = |rows: Vec<(RowName, Plaintext)>, tombstones: &mut BTreeMap<_, _>, everything: bool| {
            for (name, plain) in rows {
                match name {
                    RowName::Tombstone(handle) => {
                        if let Ok(row) = crate::codec::decode::<TombstoneRow>(&plain) {
                            tombstones.insert(handle, row);
                        }
                    }
                    RowName::ApiKey(..)
                    | RowName::Provider(..)
                    | RowName::OAuthClient(..)
                    | RowName::Environment(_)
                    | RowName::Journal(_)
                        if everything =>
                    {
                        carried.push((name, plain));
                    }
                    _ => {}
                }
            }
        };
        let settings = readable(old.list_bytes(CONTROL_BUCKET, |_| true).await)?;
        let audits = settings.is_some();
        match settings {
            Some(rows) => {
                self.report.settings = proven;
                take(rows, &mut self.tombstones, true);
                for environment in Environment::ALL {
                    if !matches!(readable(verify_api_key_audit(old, self.keyring, environment).await)?, Some(Ok(_))) {
                        self.report.broken_audits.push(environment);
                    }
                }
            }
            None => {
                take(salvaged(old, CONTROL_BUCKET).await, &mut self.tombstones, false);
                self.deleted = deletions_in_audits(old).await;
            }
        }
        if let Some(rows) = readable(old.list_bytes(JOURNAL_BUCKET, |_| true).await)? {
            self.report.journal = proven;
            take(rows, &mut self.tombstones, true);
        }
        Ok((carried, audits))
    }

    async fn look_at_shard(&mut self, shard: ShardId) -> Result<(), OpenError> {
        let members = match self.storage.members(shard).await.map_err(Error::from) {
            Ok(members) => members,
            Err(Error::Corrupted(damaged) | Error::RolledBack(damaged)) => {
                self.unknown.insert(shard);
                self.note(damaged);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for handle in members {
            if self.tombstones.contains_key(&handle) {
                continue;
            }
            if self.deleted.contains(&handle) {
                self.tombstones.insert(handle, TombstoneRow { environment: Environment::Test, shard });
                continue;
            }
            match self.read(shard, handle).await {
                Ok(account) => self.judge(handle, account).await?,
                Err(Error::Corrupted(damaged) | Error::RolledBack(damaged)) => {
                    self.unreadable.insert(handle, shard);
                    self.note(Damaged { accounts: vec![handle], ..damaged });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what an account says of itself, and proves it.
    async fn read(&self, shard: ShardId, handle: AccountHandle) -> Result<Account, Error> {
        let tree = self.storage.tree(shard, handle).await?;
        let wrapped = tree.load(&RecordKey::AccountKey.to_bytes()).await?.unwrap_or_default();
        let opens =
            |environment: &Environment| self.keyring.unwrap(WrapPurpose::AccountKey, *environment, &handle, &wrapped).is_ok();
        let no_key = Damage("the account's keys do not open");
        let environment = Environment::ALL.into_iter().find(opens).ok_or(Error::Corrupted(damaged(shard, handle, no_key)))?;
        let owner = Owner { vault: self.keyring.vault_id(), environment, handle };
        let (tree, state, keys) = load_proven(self.storage, self.keyring, shard, owner).await?;
        let sealed = tree.load(&RecordKey::Info.to_bytes()).await?;
        let keys = keys.unmask_records(self.keyring);
        let info = state.open(&keys, RecordKey::Info, sealed.as_deref()).and_then(|plain| decode::<InfoRecord>(&plain));
        let info = info.map_err(|damage| Error::Corrupted(damaged(shard, handle, damage)))?;
        Ok(Account {
            environment,
            locator: self.keyring.locator(environment, &info.linked_account_id),
            id: info.linked_account_id,
            shard,
            created: info.created,
            sequence: state.facts.sequence,
            due: state.dues.values().min().copied(),
        })
    }

    /// Whether an account that is whole is one that there is.
    async fn judge(&mut self, handle: AccountHandle, account: Account) -> Result<(), OpenError> {
        let settings_lost = self.report.settings == Carried::Lost;
        match self.known(handle).await? {
            Known::In(shard) if shard != account.shard => {
                let detail = "an account that the directory knows in another shard".into();
                self.note(Damaged { part: VaultPart::Shard(account.shard), accounts: vec![handle], detail });
                return Ok(());
            }
            // What an interrupted creation left; it is removed when its shard is used.
            Known::No if account.sequence == birth::SEQUENCE => return Ok(()),
            // The directory disowned it, and what would say why is lost: it was being deleted.
            Known::No if settings_lost => {
                self.give_up(handle, &account);
                return Ok(());
            }
            // The directory is older than the account, or can't be asked.
            Known::In(_) | Known::No | Known::Unproven => {}
        }
        let by_id = (account.environment, account.locator);
        let Some(other) = self.by_id.get(&by_id).copied() else {
            self.by_id.insert(by_id, handle);
            self.accounts.insert(handle, account);
            return Ok(());
        };
        // Two that have one id: the earlier one was being deleted when the later one was created, or its creation was interrupted.
        let named = match &self.old {
            Some(old) => {
                readable(old.get::<AccountRow>(RowName::Account(by_id.0, by_id.1)).await)?.flatten().map(|row| row.handle)
            }
            None => None,
        };
        let rank = |handle: AccountHandle, account: &Account| {
            (named == Some(handle), account.sequence > birth::SEQUENCE, account.created, handle)
        };
        let newer = self.accounts.get(&other).is_none_or(|present| rank(handle, &account) > rank(other, present));
        let loser = if newer {
            self.by_id.insert(by_id, handle);
            self.accounts.insert(handle, account);
            self.accounts.remove(&other).map(|account| (other, account))
        } else {
            Some((handle, account))
        };
        if let Some((handle, account)) = loser.filter(|(_, account)| account.sequence > birth::SEQUENCE) {
            self.give_up(handle, &account);
        }
        Ok(())
    }

    fn give_up(&mut self, handle: AccountHandle, account: &Account) {
        self.report.given_up.push(handle);
        self.tombstones.insert(handle, TombstoneRow { environment: account.environment, shard: account.shard });
    }

    async fn known(&self, handle: AccountHandle) -> Result<Known, OpenError> {
        let Some(old) = &self.old else { return Ok(Known::Unproven) };
        Ok(match readable(old.place(&handle).await)? {
            Some(Some(place)) => Known::In(place.shard),
            Some(None) if self.remembered => Known::No,
            _ => Known::Unproven,
        })
    }

    /// What the old directory says of accounts that can't be read. Of rows that it can't prove, only those count that speak of such
    /// an account: were one too old, its account would answer that it is damaged, and not that there is none.
    async fn look_at_old_rows(&mut self) -> BTreeMap<AccountHandle, Entry> {
        let mut entries = BTreeMap::new();
        let mut all_proven = self.old.is_some();
        if let Some(old) = self.old.take() {
            for bucket in 0..ACCOUNT_BUCKETS {
                let (rows, proven) = match old.list_bytes(bucket, |name| matches!(name, RowName::Account(..))).await {
                    Ok(rows) => (rows, true),
                    Err(_) => (salvaged(&old, bucket).await, false),
                };
                all_proven &= proven;
                for (name, plain) in rows {
                    let (RowName::Account(environment, locator), Ok(row)) = (name, crate::codec::decode::<AccountRow>(&plain))
                    else {
                        continue;
                    };
                    let suspect = self.unreadable.contains_key(&row.handle) || self.unknown.contains(&row.shard);
                    let taken = self.accounts.contains_key(&row.handle)
                        || self.tombstones.contains_key(&row.handle)
                        || self.by_id.contains_key(&(environment, locator));
                    if taken || !(suspect || (proven && self.remembered)) {
                        continue;
                    }
                    if !suspect {
                        let missing = Damage("the account's tree is missing");
                        self.note(damaged(row.shard, row.handle, missing));
                    }
                    self.unreadable.insert(row.handle, row.shard);
                    let known = Some(((environment, locator), row.linked_account_id, row.created));
                    entries.insert(row.handle, Entry::Damaged { shard: row.shard, known });
                }
            }
            self.old = Some(old);
        }
        for (handle, shard) in &self.unreadable {
            if !entries.contains_key(handle) {
                // Kept all the same, so that its shard is not taken to hold what nobody knows.
                entries.insert(*handle, Entry::Damaged { shard: *shard, known: None });
                self.report.unnamed.push(*handle);
            }
        }
        if !all_proven {
            self.report.unknown.extend(self.unknown.iter().copied());
            self.report.unknown.sort();
        }
        entries
    }

    /// Notes damage; the same damage of several accounts once.
    fn note(&mut self, damaged: Damaged) {
        match self.report.damaged.last_mut() {
            Some(last) if last.part == damaged.part && last.detail == damaged.detail => {
                for account in damaged.accounts {
                    if !last.accounts.contains(&account) {
                        last.accounts.push(account);
                    }
                }
            }
            _ => self.report.damaged.push(damaged),
        }
    }
}

/// `None` for what is damaged; other errors, as of a disk that fails, end the rebuilding.
fn readable<T>(read: Result<T, Error>) -> Result<Option<T>, OpenError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Error::Corrupted(_) | Error::RolledBack(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn salvaged(old: &Directory, bucket: u16) -> Vec<(RowName, Plaintext)> {
    let (mut start, end) = RowName::bucket_range(bucket);
    let mut found = Vec::new();
    loop {
        let step = old.salvage(&mut start, &end, STEP).await;
        if step.is_empty() {
            return found;
        }
        found.extend(step);
    }
}

/// The accounts of which an audit says that they were deleted. It can't be proven, and need not be: nobody else could have sealed it.
async fn deletions_in_audits(old: &Directory) -> HashSet<AccountHandle> {
    let mut deleted = HashSet::new();
    for environment in Environment::ALL {
        let (mut start, end) = RowName::audit_range(environment);
        loop {
            let step = old.salvage(&mut start, &end, STEP).await;
            if step.is_empty() {
                break;
            }
            for (name, plain) in step {
                let RowName::AuditSegment(_, first) = name else { continue };
                let entries = audit::decode_segment(first, &plain).unwrap_or_default();
                deleted.extend(entries.iter().filter_map(|entry| match entry.action {
                    AuditAction::AccountDeleted { account } => Some(account),
                    _ => None,
                }));
            }
        }
    }
    deleted
}
