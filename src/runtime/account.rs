//! One resident account: loads its rows and proves them, makes changes durable one after the other, keeps audit entries until
//! they are written. Lives on one arbiter; what several requests share is borrowed only between awaits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use async_lock::{Mutex, MutexGuard};
use event_listener::Event as Signal;

use crate::clock::Timestamp;
use crate::domain::account::change::{Change, Draft};
use crate::domain::account::keys::{AccountKeys, MaskedKeys, RecordKeys, WrappedKeys};
use crate::domain::account::records::{ConnectionRecord, Owner, RecordKey};
use crate::domain::account::sealed::SealedCredentials;
use crate::domain::account::state::{AccountState, Damage, Stamp, decode};
use crate::domain::audit::{self, AuditAction, AuditActor};
use crate::domain::directory::AccountPlace;
use crate::domain::error::{Error, Item};
use crate::domain::{Keyring, Plaintext};
use crate::ids::{AccountHandle, ConnectionId, ShardId};
use crate::runtime::caller::Admitted;
use crate::runtime::core::{AuditPolicy, Core};
use crate::runtime::desk::Desk;
use crate::runtime::events::EventKind;
use crate::runtime::flights::Flights;
use crate::runtime::loading::{self, KEYS};
use crate::runtime::pending::Pending;
use crate::runtime::view::{AccountView, TokenView};
use crate::storage::{Anchored, Commit, Mark, MarkStep, StorageError, Tree};

/// What everybody hears of an account that is not there (any more).
pub(crate) const GONE: Error = Error::NotFound { what: Item::LinkedAccount };

/// How many entries may wait for the account's next commit before a request has to make one for them.
pub(crate) const MAX_PENDING: usize = 512;

/// A resident account.
pub(crate) struct Account {
    pub(crate) core: Arc<Core>,
    owner: Owner,
    shard: ShardId,
    desk: Arc<Desk>,
    loaded: RefCell<Option<Loaded>>,
    /// Held by whoever changes the account or loads it: one at a time.
    changes: Mutex<()>,
    /// A commit is under way: until it ends, rows may be newer than the state.
    committing: Cell<bool>,
    committed: Signal,
    /// What the journal has of the account was looked at.
    recovered: Cell<bool>,
    rotation_found: Cell<bool>,
    /// Requests for new tokens that are under way.
    pub(crate) flights: Flights,
    /// The actor has stopped: what is still running for it must not touch the account any more.
    retired: Cell<bool>,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) panic_next: Cell<bool>,
}

struct Loaded {
    tree: Arc<dyn Tree>,
    state: AccountState,
    /// These go with every view.
    keys: MaskedKeys,
}

impl Loaded {
    /// Shows what the account is like now, with the sealed credentials that the desk has after `change`.
    fn publish(&self, desk: &Desk, change: impl FnOnce(&mut SealedCredentials)) {
        desk.publish(self.token(), |mut credentials| {
            change(&mut credentials);
            AccountView::of(&self.state, &self.keys, credentials)
        });
    }

    fn token(&self) -> TokenView {
        TokenView::of(&self.state, &self.keys)
    }
}

/// The right to change the account, held until the change is durable.
pub(crate) struct Turn<'a>(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'a, ()>);

impl Account {
    pub(crate) fn new(core: Arc<Core>, handle: AccountHandle, place: AccountPlace, desk: Arc<Desk>) -> Self {
        let owner = Owner { vault: core.keyring.vault_id(), environment: place.environment, handle };
        Self {
            core,
            owner,
            shard: place.shard,
            desk,
            loaded: RefCell::default(),
            changes: Mutex::new(()),
            committing: Cell::new(false),
            committed: Signal::new(),
            recovered: Cell::new(false),
            rotation_found: Cell::new(false),
            flights: Flights::default(),
            retired: Cell::new(false),
            #[cfg(any(test, feature = "testing"))]
            panic_next: Cell::new(false),
        }
    }

    pub(crate) fn handle(&self) -> AccountHandle {
        self.owner.handle
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    /// Waits until the account is loaded. Reads begin with it.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        if self.loaded.borrow().is_none() {
            self.own_turn().await?;
        }
        Ok(())
    }

    /// Waits for a request's turn to change the account, and until it is loaded; then the caller is checked again, since what
    /// was done before this turn may have revoked it. Changes begin with it.
    pub(crate) async fn turn(self: &Rc<Self>, caller: &Admitted<'_>) -> Result<Turn<'_>, Error> {
        let turn = self.own_turn().await?;
        match caller.check(self)? {
            Ok(()) => Ok(turn),
            Err(refusal) => {
                drop(turn);
                Err(caller.refused(self, refusal).await)
            }
        }
    }

    /// Waits for a turn for what the vault does by itself.
    pub(crate) async fn own_turn(&self) -> Result<Turn<'_>, Error> {
        let turn = Turn(self.changes.lock().await);
        if self.retired.get() {
            return Err(Error::Closed);
        }
        if self.loaded.borrow().is_none() {
            let loaded = self.load_proven().await?;
            self.recover(loaded.state.facts.noted).await?;
            loaded.publish(&self.desk, |_| {});
            self.rotation_found.set(loaded.state.facts.wrapped.previous_account.is_some());
            *self.loaded.borrow_mut() = Some(loaded);
        }
        Ok(turn)
    }

    /// Has the account loaded and proven anew before the next request: after a panic nothing in memory is trusted.
    pub(crate) fn distrust(&self) {
        // A panic leaves no borrow behind, since borrows end before every await and with every unwinding frame.
        *self.loaded.borrow_mut() = None;
        self.desk.publish_nothing();
    }

    /// What tokens need of the account now.
    pub(crate) fn loaded_token(&self) -> Result<TokenView, Error> {
        self.loaded.borrow().as_ref().map(Loaded::token).ok_or(Error::Internal { doing: "using an account that is not loaded" })
    }

    /// Looks at the state between two awaits.
    pub(crate) fn with_state<R>(&self, look: impl FnOnce(&AccountState) -> R) -> Result<R, Error> {
        let loaded = self.loaded.borrow();
        loaded.as_ref().map(|loaded| look(&loaded.state)).ok_or(Error::Internal { doing: "using an account that is not loaded" })
    }

    /// Unmasks the account's keys for the length of one closure, and wipes them.
    pub(crate) fn with_keys<R>(&self, work: impl FnOnce(&AccountState, &AccountKeys) -> Result<R, Error>) -> Result<R, Error> {
        self.with_unmasked(MaskedKeys::unmask, work)
    }

    /// [`with_keys`](Self::with_keys) for what only opens records.
    pub(crate) fn with_record_keys<R>(
        &self,
        work: impl FnOnce(&AccountState, &RecordKeys) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.with_unmasked(MaskedKeys::unmask_records, work)
    }

    fn with_unmasked<K, R>(
        &self,
        unmask: impl FnOnce(&MaskedKeys, &Keyring) -> K,
        work: impl FnOnce(&AccountState, &K) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let loaded = self.loaded.borrow();
        let loaded = loaded.as_ref().ok_or(Error::Internal { doing: "using an account that is not loaded" })?;
        let keys = unmask(&loaded.keys, &self.core.keyring);
        #[cfg(any(test, feature = "testing"))]
        assert!(!self.panic_next.replace(false), "asked to panic by a test");
        work(&loaded.state, &keys)
    }

    /// Reads one row and opens it, if the account has it.
    pub(crate) async fn read(&self, key: RecordKey) -> Result<Option<Plaintext>, Error> {
        Ok(self.read_with_sealed(key).await?.map(|(plain, _)| plain))
    }

    /// Reads a connection's credential and has the next ones who reveal it open it by themselves, unless the connection is or was
    /// disabled meanwhile.
    pub(crate) async fn read_secret(&self, id: ConnectionId, enabled_at: u64) -> Result<Option<Plaintext>, Error> {
        let Some((plain, sealed)) = self.read_with_sealed(RecordKey::Secret(id)).await? else { return Ok(None) };
        let loaded = self.loaded.borrow();
        // A change that is under way drops what it makes outdated when it ends.
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.state.facts.sequence == enabled_at) {
            loaded.publish(&self.desk, |credentials| credentials.keep(&loaded.state, id, sealed));
        }
        Ok(Some(plain))
    }

    /// Lets whoever reveals a credential come to the actor first.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forget_credentials(&self) {
        if let Some(loaded) = self.loaded.borrow().as_ref() {
            loaded.publish(&self.desk, |credentials| *credentials = SealedCredentials::default());
        }
    }

    async fn read_with_sealed(&self, key: RecordKey) -> Result<Option<(Plaintext, Vec<u8>)>, Error> {
        loop {
            let (Some(stamp), tree) = (self.with_state(|state| state.stamp(key))?, self.tree()?) else { return Ok(None) };
            let sealed = tree.load(&key.to_bytes()).await?;
            // A change may have been applied while the row was read: then read it again.
            if self.with_state(|state| state.stamp(key))? != Some(stamp) {
                continue;
            }
            // Or be in the tree and not in the state yet: then wait until it is.
            let is_current = sealed.as_deref().is_some_and(|sealed| Stamp::of(sealed) == Ok(stamp));
            if !is_current && self.committing.get() {
                self.committed.listen().await;
                continue;
            }
            let plain = self.with_record_keys(|state, keys| {
                state.open(keys, key, sealed.as_deref()).map_err(|damage| self.damaged(damage))
            })?;
            return Ok(sealed.map(|sealed| (plain, sealed)));
        }
    }

    /// Makes a change durable: the rows that `draft` puts together, the audit entries that wait, and the new head, in one commit.
    pub(crate) async fn change<R>(
        &self,
        turn: &Turn<'_>,
        draft: impl FnOnce(&mut Draft<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.write_surplus_entries(turn).await?;
        let (change, waiting, answer) = self.with_keys(|state, keys| self.finish(Draft::new(state, keys), draft))?;
        self.commit(change, waiting).await?;
        Ok(answer)
    }

    /// A change that puts the account under other keys: `rekey` makes them, and what `draft` needs beside them.
    pub(crate) async fn change_under<K>(
        &self,
        turn: &Turn<'_>,
        rekey: impl FnOnce(&AccountState) -> Result<(AccountKeys, K), Error>,
        draft: impl FnOnce(&mut Draft<'_>, K) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.write_surplus_entries(turn).await?;
        let (change, waiting, ()) = self.with_state(|state| {
            let (keys, made) = rekey(state)?;
            self.finish(Draft::rekeyed(state, &keys), |drafted| draft(drafted, made))
        })??;
        self.commit(change, waiting).await
    }

    /// Puts the entries that wait in front of those that the change brings.
    fn finish<R>(
        &self,
        mut drafted: Draft<'_>,
        draft: impl FnOnce(&mut Draft<'_>) -> Result<R, Error>,
    ) -> Result<(Change, usize, R), Error> {
        let waiting = {
            let mut pending = self.desk.pending();
            let entries = pending.hand_to_commit();
            drafted.audit_noted(entries);
            entries.len()
        };
        let answer = draft(&mut drafted)?;
        Ok((drafted.finish()?, waiting, answer))
    }

    /// Writes entries in commits of their own until the rest fits beside any change.
    async fn write_surplus_entries(&self, _: &Turn<'_>) -> Result<(), Error> {
        while self.desk.pending().is_surplus() {
            let (change, waiting, ()) = self.with_keys(|state, keys| self.finish(Draft::new(state, keys), |_| Ok(())))?;
            self.commit(change, waiting).await?;
        }
        Ok(())
    }

    /// Notes what happened without a change of its own. Returns when the entry is as durable as the audit policy asks.
    pub(crate) async fn note(&self, actor: AuditActor, action: AuditAction, target: Option<ConnectionId>) -> Result<(), Error> {
        let waiting = self.desk.note(audit::NewEntry { at: self.now(), actor, action, target });
        match self.core.settings.audit_policy {
            AuditPolicy::Strict => self.flush().await,
            AuditPolicy::Batched if waiting >= MAX_PENDING => self.flush().await,
            AuditPolicy::Batched => {
                self.core.list_notes(&self.desk);
                Ok(())
            }
        }
    }

    /// When the connection was last used, if that is not written yet.
    pub(crate) fn touched(&self, connection: ConnectionId) -> Option<Timestamp> {
        self.desk.pending().touched(connection)
    }

    /// Writes what waits into the account's audit: before passivation, and when the journal has kept it for long enough.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        if self.desk.pending().is_empty() {
            return Ok(());
        }
        let turn = self.own_turn().await?;
        // What was used since: each connection's record, if it is still there.
        let uses = self.desk.pending().uses().clone();
        let mut records = Vec::new();
        for (id, at) in &uses {
            let Some(plain) = self.read(RecordKey::Connection(*id)).await? else { continue };
            let mut record: ConnectionRecord = decode(&plain).map_err(|damage| self.damaged(damage))?;
            if record.last_used < Some(*at) {
                record.last_used = Some(*at);
                records.push((*id, record));
            }
        }
        let waiting = self.desk.pending().len();
        if waiting != 0 || !records.is_empty() {
            self.change(&turn, |draft| records.iter().try_for_each(|(id, record)| draft.put_connection(*id, record))).await?;
        }
        self.desk.pending().uses_written(&uses);
        self.merged()?;
        drop(turn);
        match self.core.settings.audit_retention {
            Some(keep) => crate::runtime::ops::audit::prune(self, keep).await,
            None => Ok(()),
        }
    }

    /// Writes what waits, or forgets it, and lets nothing touch the account from here on: its actor stops.
    pub(crate) async fn retire(&self, keep: bool) -> Result<(), Error> {
        let flushed = match keep {
            // The journal keeps the rest: a vault with many accounts at work closes as fast as any.
            true if self.core.is_closing() && !self.desk.pending().has_bare_use() => self.keep_in_journal().await,
            true => self.flush().await,
            false => Ok(()),
        };
        // Waits for a change that is under way.
        let turn = self.changes.lock().await;
        self.retired.set(true);
        *self.desk.pending() = Pending::default();
        self.desk.publish_nothing();
        drop(turn);
        flushed
    }

    /// Goes on with a rotation of the account key that was found unfinished when the account was loaded.
    pub(crate) fn resume_rotation(self: &Rc<Self>) {
        if !self.rotation_found.replace(false) {
            return;
        }
        let account = Rc::clone(self);
        actix::spawn(async move {
            if let Err(error) = crate::runtime::ops::keys::complete(&account).await {
                tracing::warn!(account = %account.handle(), %error, "a rotation of the account key could not be completed");
            }
        });
    }

    /// An audit entry of now.
    pub(crate) fn entry(&self, actor: AuditActor, action: AuditAction, target: Option<ConnectionId>) -> audit::NewEntry {
        audit::NewEntry { at: self.now(), actor, action, target }
    }

    /// Tells the host's listeners.
    pub(crate) fn tell(&self, kind: EventKind) -> Result<(), Error> {
        self.with_state(|state| self.core.events.send(self.owner.environment, &state.facts.linked_account_id, kind))
    }

    /// What stands for the host's id of the account in the directory.
    pub(crate) fn locator(&self) -> &[u8; 32] {
        &self.desk.locator
    }

    async fn keep_in_journal(&self) -> Result<(), Error> {
        self.core.keep_notes(vec![Arc::clone(&self.desk)]).await
    }

    /// Brings what waits into line with what the audit has by now, and takes over what the journal kept when the account was last
    /// resident.
    async fn recover(&self, noted: u64) -> Result<(), Error> {
        self.desk.pending().settle(noted);
        if !self.recovered.get() {
            let kept = self.core.kept_in_journal(&self.owner.handle).await?;
            self.desk.pending().recover(kept);
            self.recovered.set(true);
        }
        Ok(())
    }

    /// Everything about damage to this account's rows that a caller may know.
    pub(crate) fn damaged(&self, damage: Damage) -> Error {
        Error::Corrupted(loading::damaged(self.shard, self.owner.handle, damage))
    }

    pub(crate) fn tree(&self) -> Result<Arc<dyn Tree>, Error> {
        let loaded = self.loaded.borrow();
        loaded
            .as_ref()
            .map(|loaded| Arc::clone(&loaded.tree))
            .ok_or(Error::Internal { doing: "using an account that is not loaded" })
    }

    async fn commit(&self, change: Change, waiting: usize) -> Result<(), Error> {
        let tree = self.tree()?;
        let step = MarkStep {
            mark: Mark::Account,
            expected: change.before,
            next: Anchored { sequence: change.facts.sequence, digest: [0; 32] },
        };
        let commit = Commit { puts: change.puts, removes: change.removes, marks: vec![step], ..Commit::default() };
        let committed = {
            let _under_way = UnderWay::begin(self);
            tree.commit(commit).await
        };
        // No await from here on: whoever waited for the end sees the state that comes with it.
        if let Err(error) = committed {
            // What is durable now is not known here.
            self.distrust();
            return Err(match error {
                // Nobody else writes to the tree, and the head was proven.
                StorageError::Conflict { .. } => self.damaged(Damage("the engine's mark is not where the head is")),
                error => error.into(),
            });
        }
        let rekeyed = RecordKey::KEYS.iter().any(|key| change.stamps.contains_key(key));
        let keys = if rekeyed { self.masked(&change.facts.wrapped).inspect_err(|_| self.distrust())?.into() } else { None };
        let mut loaded = self.loaded.borrow_mut();
        if let Some(loaded) = loaded.as_mut() {
            let Change { facts, stamps, spent, dues, disabled, .. } = change;
            if let Some(keys) = keys {
                loaded.keys = keys;
            }
            loaded.state.apply(facts, &stamps, spent, dues);
            loaded.publish(&self.desk, |credentials| credentials.apply(&stamps, &disabled));
        }
        self.desk.pending().committed(waiting);
        // Borrowed till here.
        drop(loaded);
        if waiting > 0 { self.merged() } else { Ok(()) }
    }

    /// Tells the journal how far the audit has the account's notes. While a connection's record lacks a use, the journal keeps it too.
    fn merged(&self) -> Result<(), Error> {
        if self.desk.pending().uses().is_empty() {
            self.core.journal.merged(&self.owner.handle, self.with_state(|state| state.facts.noted)?);
        }
        Ok(())
    }

    async fn load_proven(&self) -> Result<Loaded, Error> {
        let loading = loading::load_proven(self.core.storage.as_ref(), &self.core.keyring, self.shard, self.owner);
        let (tree, state, keys) = loading.await?;
        Ok(Loaded { tree, state, keys })
    }

    fn masked(&self, wrapped: &WrappedKeys) -> Result<MaskedKeys, Error> {
        MaskedKeys::of(&self.core.keyring, &self.owner, wrapped).map_err(|_| self.damaged(KEYS))
    }
}

/// A commit under way. It ends on drop, so that no reader waits for one that panicked.
struct UnderWay<'a>(&'a Account);

impl<'a> UnderWay<'a> {
    fn begin(account: &'a Account) -> Self {
        account.committing.set(true);
        Self(account)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.committing.set(false);
        self.0.committed.notify(usize::MAX);
    }
}
