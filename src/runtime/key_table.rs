//! The API keys of a vault, in memory: each call of a handle asks here whether its key is still good.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::clock::Timestamp;
use crate::domain::api_key::ApiKeyRecord;
use crate::domain::denial::DenialReason;
use crate::domain::error::{Error, Item};
use crate::domain::grants::{Permission, Permissions};
use crate::ids::{ApiKeyId, Environment};

/// One API key. What may change while handles hold it is atomic.
#[derive(Debug)]
pub(crate) struct KeyEntry {
    record: ApiKeyRecord,
    revoked: AtomicBool,
    /// Milliseconds; `u64::MAX` for no end.
    expires: AtomicU64,
    last_used: AtomicU64,
    used_since_written: AtomicBool,
}

impl KeyEntry {
    fn new(record: ApiKeyRecord) -> Self {
        Self {
            revoked: AtomicBool::new(record.revoked.is_some()),
            expires: AtomicU64::new(record.expires.map_or(u64::MAX, Timestamp::as_millis)),
            last_used: AtomicU64::new(record.last_used.map_or(0, Timestamp::as_millis)),
            used_since_written: AtomicBool::new(false),
            record,
        }
    }

    pub(crate) fn id(&self) -> ApiKeyId {
        self.record.id
    }

    pub(crate) fn environment(&self) -> Environment {
        self.record.environment
    }

    pub(crate) fn permissions(&self) -> Permissions {
        self.record.permissions
    }

    /// Locators of the only accounts that the key reaches; `None` for all.
    pub(crate) fn account_list(&self) -> Option<&[[u8; 32]]> {
        self.record.accounts.as_deref()
    }

    /// Whether a presented secret, hashed, is this key's, and the key is valid.
    pub(crate) fn verify(&self, environment: Environment, hash: &[u8; 32], now: Timestamp) -> Result<(), DenialReason> {
        self.record.verify(environment, hash, now)?;
        self.check(now)
    }

    /// Whether the key is valid.
    pub(crate) fn check(&self, now: Timestamp) -> Result<(), DenialReason> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(DenialReason::Revoked);
        }
        if now.as_millis() >= self.expires.load(Ordering::Acquire) {
            return Err(DenialReason::Expired);
        }
        Ok(())
    }

    /// Whether the key reaches an account.
    pub(crate) fn check_account(&self, environment: Environment, locator: &[u8; 32]) -> Result<(), DenialReason> {
        if environment != self.record.environment {
            return Err(DenialReason::AccountNotListed);
        }
        self.check_locator(locator)
    }

    /// [`check_account`](Self::check_account) of an account that is known to be of the key's environment, or is asked for that apart.
    pub(crate) fn check_locator(&self, locator: &[u8; 32]) -> Result<(), DenialReason> {
        self.record.check_account(locator)
    }

    /// Whether the key may do something to an account now, asked where the account's actor can't be.
    pub(crate) fn admit(&self, locator: &[u8; 32], needed: Permission, now: Timestamp) -> Result<(), Error> {
        self.check(now).map_err(|_| Error::InvalidApiKey)?;
        self.record.check_account(locator).map_err(|_| Error::NotFound { what: Item::LinkedAccount })?;
        if self.permissions().contains(needed) { Ok(()) } else { Err(Error::PermissionDenied { needed }) }
    }

    /// Remembers a use; written to the directory now and then.
    pub(crate) fn touch(&self, now: Timestamp) {
        self.last_used.fetch_max(now.as_millis(), Ordering::Relaxed);
        self.used_since_written.store(true, Ordering::Relaxed);
    }

    /// When the key was used last, if at all.
    pub(crate) fn last_used(&self) -> Option<Timestamp> {
        match self.last_used.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Timestamp::from_millis(millis)),
        }
    }

    /// Takes over what a stored record says of the key's end.
    fn update(&self, record: &ApiKeyRecord) {
        self.expires.store(record.expires.map_or(u64::MAX, Timestamp::as_millis), Ordering::Release);
        if record.revoked.is_some() {
            self.revoked.store(true, Ordering::Release);
        }
    }
}

/// All API keys of a vault.
#[derive(Debug, Default)]
pub(crate) struct KeyTable(RwLock<HashMap<ApiKeyId, Arc<KeyEntry>>>);

impl KeyTable {
    pub(crate) fn find(&self, id: &ApiKeyId) -> Option<Arc<KeyEntry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Puts a stored record in force. Handles that hold the key see the change at once.
    pub(crate) fn put(&self, record: ApiKeyRecord) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match keys.get(&record.id) {
            Some(entry) => entry.update(&record),
            None => {
                keys.insert(record.id, Arc::new(KeyEntry::new(record)));
            }
        }
    }

    /// The keys that were used since they were last asked for here.
    pub(crate) fn take_used(&self) -> Vec<Arc<KeyEntry>> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.values().filter(|entry| entry.used_since_written.swap(false, Ordering::Relaxed)).cloned().collect()
    }
}
