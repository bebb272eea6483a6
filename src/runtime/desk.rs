//! What an account's actor shares with those who do something for the account on threads of their own: the view that it published, the door
//! that they go through, and the notes that they leave. All in one place: at a million accounts, what a token costs is mostly fetching it.

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use crate::domain::account::sealed::SealedCredentials;
use crate::domain::audit::NewEntry;
use crate::ids::{AccountHandle, ShardId};
use crate::runtime::gate::{Gate, Gated};
use crate::runtime::handles::OfAccount;
use crate::runtime::pending::Pending;
use crate::runtime::view::{AccountView, TokenView};

/// One resident account's desk.
#[derive(Debug)]
// What a token needs comes first and together: each line of memory that has to be fetched takes as long as the cipher.
#[repr(C)]
pub(crate) struct Desk {
    /// Milliseconds since the vault was opened.
    pub(crate) last_used: AtomicU64,
    /// On the list of those whose notes the journal is to take.
    pub(super) listed: AtomicBool,
    pub(crate) shard: ShardId,
    pub(crate) handle: AccountHandle,
    gate: Gate,
    token: RwLock<Option<TokenView>>,
    /// What happened and is not in the audit yet.
    pending: Mutex<Pending>,
    pub(crate) locator: [u8; 32],
    view: RwLock<Option<AccountView>>,
}

impl Desk {
    /// How much of it is looked at for a token.
    pub(crate) const FOR_TOKENS: usize = offset_of!(Self, view);

    /// How much of it is looked at for a reveal.
    pub(crate) const FOR_REVEALS: usize = size_of::<Self>();

    pub(crate) fn new(handle: AccountHandle, shard: ShardId, locator: [u8; 32], now: u64) -> Self {
        Self {
            last_used: AtomicU64::new(now),
            listed: AtomicBool::new(false),
            shard,
            handle,
            gate: Gate::default(),
            token: RwLock::default(),
            pending: Mutex::default(),
            locator,
            view: RwLock::default(),
        }
    }

    /// Shows those who are on threads of their own what the account is like from now on. `view` gets the credentials that were shown before.
    pub(crate) fn publish(&self, token: TokenView, view: impl FnOnce(SealedCredentials) -> AccountView) {
        *self.token_mut() = Some(token);
        let mut shown = self.view_mut();
        let credentials = shown.take().map(AccountView::into_credentials).unwrap_or_default();
        *shown = Some(view(credentials));
    }

    /// Shows them nothing from now on: they go to the actor.
    pub(crate) fn publish_nothing(&self) {
        *self.token_mut() = None;
        *self.view_mut() = None;
    }

    /// What minting and checking need; `None` until the account is loaded.
    pub(crate) fn token(&self) -> Option<TokenView> {
        self.with_token(Clone::clone)
    }

    /// Looks at what minting and checking need, for a few steps.
    pub(crate) fn with_token<R>(&self, look: impl FnOnce(&TokenView) -> R) -> Option<R> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    /// Looks at what revealing needs, for a few steps; `None` until the account is loaded.
    pub(crate) fn with_view<R>(&self, look: impl FnOnce(&AccountView) -> R) -> Option<R> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, Option<AccountView>> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn token_mut(&self) -> RwLockWriteGuard<'_, Option<TokenView>> {
        self.token.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits for the audit. Held for a few steps only, never over an `await`.
    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry; answers how many wait.
    pub(crate) fn note(&self, entry: NewEntry) -> usize {
        let mut pending = self.pending();
        pending.note(entry);
        pending.len()
    }
}

impl OfAccount for Desk {
    fn handle(&self) -> &AccountHandle {
        &self.handle
    }
}

impl Gated for Desk {
    fn gate(&self) -> &Gate {
        &self.gate
    }
}
