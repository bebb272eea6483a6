//! What an account's actor shares with those who do something for the account on threads of their own: the view that it published, the door
//! that they go through, and the notes that they leave. All in one place: at a million accounts, what a token costs is mostly fetching it.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use crate::domain::audit::NewEntry;
use crate::ids::{AccountHandle, ShardId};
use crate::runtime::gate::{Gate, Gated};
use crate::runtime::pending::Pending;
use crate::runtime::view::AccountView;

/// One resident account's desk.
#[derive(Debug)]
// What a token needs comes first and together: each line of memory that has to be fetched takes as long as the cipher.
#[repr(C)]
pub(crate) struct Desk {
    /// What minting and checking a session token and revealing need, published by the actor; `None` until the account is loaded.
    pub(crate) view: ArcSwapOption<AccountView>,
    /// Milliseconds since the vault was opened.
    pub(crate) last_used: AtomicU64,
    /// On the list of those whose notes the journal is to take.
    pub(super) listed: AtomicBool,
    pub(crate) shard: ShardId,
    pub(crate) handle: AccountHandle,
    gate: Gate,
    /// What happened and is not in the audit yet.
    pending: Mutex<Pending>,
    pub(crate) locator: [u8; 32],
}

impl Desk {
    pub(crate) fn new(handle: AccountHandle, shard: ShardId, locator: [u8; 32], now: u64) -> Self {
        Self {
            handle,
            shard,
            locator,
            last_used: AtomicU64::new(now),
            gate: Gate::default(),
            view: ArcSwapOption::empty(),
            pending: Mutex::default(),
            listed: AtomicBool::new(false),
        }
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

impl Gated for Desk {
    fn gate(&self) -> &Gate {
        &self.gate
    }
}
