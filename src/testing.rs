//! For tests of this crate and of hosts (feature `testing`): a disk in memory, a clock to set, and faults on demand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::account::Account;
use crate::clock::{Clock, Timestamp};
use crate::domain::Error;
use crate::runtime::ops::panic::PanicNext;
pub use crate::storage::StorageFaults;
pub use crate::storage::model::{ModelDisk, ModelImage, ModelTree};
use crate::vault::Vault;

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.as_millis()))
    }

    /// Sets the time, forward or back.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Has everything looked after whose tokens are due by the vault's clock, as the vault does by itself every 16 seconds.
///
/// # Errors
/// What kept an account's row from being moved on.
pub async fn refresh_what_is_due(vault: &Vault) -> Result<(), Error> {
    vault.core().refresh_what_is_due().await
}

/// Has the accounts take what the journal keeps for them into their audits, as the vault does by itself after 30 seconds.
///
/// # Errors
/// What kept rows from being removed.
pub async fn merge_journal(vault: &Vault) -> Result<(), Error> {
    vault.core().merge_journal_now().await
}

/// How many rows the journal has, and how many accounts have notes in them that their audits may not have.
#[must_use]
pub fn journal_len(vault: &Vault) -> (usize, usize) {
    vault.core().journal.len()
}

/// Makes the account's next request that opens a key panic while it holds the key.
///
/// # Errors
/// Those of every call of the account.
pub async fn panic_next_request(account: &Account) -> Result<(), Error> {
    account.ask(PanicNext).await
}
