//! The keys of one account, unwrapped for one request and wiped at its end.

use std::sync::Arc;

use crate::domain::account::records::Owner;
use crate::domain::{Key, Keyring, Label, MaskedKey, OpenFailed, WrapPurpose};

/// The account's keys as they are stored: sealed under a subkey of the root key, safe to keep in memory.
#[derive(Clone, Debug)]
pub(crate) struct WrappedKeys {
    pub(crate) account: Arc<[u8]>,
    pub(crate) token: Arc<[u8]>,
    pub(crate) audit: Arc<[u8]>,
    /// The account key before, while a rotation is under way.
    pub(crate) previous_account: Option<Arc<[u8]>>,
}

/// The subkeys that opening an account's records needs. Each is a heap box that wipes itself.
#[derive(Debug)]
pub(crate) struct RecordKeys {
    /// Seals records of the current key version.
    pub(crate) current: Key,
    /// Seals records that a rotation under way has not reached yet.
    pub(crate) previous: Option<Key>,
}

/// What a resident account needs of its keys, masked: unmasked for one request and wiped at its end.
#[derive(Clone, Debug)]
pub(crate) struct MaskedKeys {
    /// `None` when the wrapped one does not open.
    pub(crate) token: Option<MaskedKey>,
    /// Seals records of the current key version.
    pub(crate) records: MaskedKey,
    previous_records: Option<MaskedKey>,
    head: MaskedKey,
    digest: MaskedKey,
    audit_record: MaskedKey,
    audit_chain: MaskedKey,
}

impl MaskedKeys {
    /// Unwraps the account's keys and masks them. Call it inside a stack frame that is wiped.
    ///
    /// # Errors
    /// As for [`AccountKeys::unwrap`]; a damaged token key alone is none, since the rest of the account can be used.
    pub(crate) fn of(keyring: &Keyring, owner: &Owner, wrapped: &WrappedKeys) -> Result<Self, OpenFailed> {
        AccountKeys::unwrap(keyring, owner, wrapped).map(|keys| Self::mask(keyring, owner, wrapped, &keys))
    }

    /// Masks keys that were just unwrapped. Call it inside a stack frame that is wiped.
    pub(crate) fn mask(keyring: &Keyring, owner: &Owner, wrapped: &WrappedKeys, keys: &AccountKeys) -> Self {
        let token = keyring.unwrap(WrapPurpose::TokenKey, owner.environment, &owner.handle, &wrapped.token);
        Self {
            token: token.ok().map(|key| keyring.mask(&key)),
            records: keyring.mask(&keys.records.current),
            previous_records: keys.records.previous.as_ref().map(|key| keyring.mask(key)),
            head: keyring.mask(&keys.head),
            digest: keyring.mask(&keys.digest),
            audit_record: keyring.mask(&keys.audit.record),
            audit_chain: keyring.mask(&keys.audit.chain),
        }
    }

    /// What a request needs that changes the account. Call it inside a stack frame that is wiped.
    pub(crate) fn unmask(&self, keyring: &Keyring) -> AccountKeys {
        AccountKeys {
            records: self.unmask_records(keyring),
            head: keyring.unmask(&self.head),
            digest: keyring.unmask(&self.digest),
            audit: AuditKeys { record: keyring.unmask(&self.audit_record), chain: keyring.unmask(&self.audit_chain) },
        }
    }

    /// What a request needs that only opens records. Call it inside a stack frame that is wiped.
    pub(crate) fn unmask_records(&self, keyring: &Keyring) -> RecordKeys {
        RecordKeys {
            current: keyring.unmask(&self.records),
            previous: self.previous_records.as_ref().map(|key| keyring.unmask(key)),
        }
    }
}

/// The subkeys that a change of an account needs. Each is a heap box that wipes itself.
#[derive(Debug)]
pub(crate) struct AccountKeys {
    pub(crate) records: RecordKeys,
    pub(crate) head: Key,
    pub(crate) digest: Key,
    pub(crate) audit: AuditKeys,
}

/// The subkeys of the audit: they don't change when the account key is rotated, so history stays readable and one chain.
#[derive(Debug)]
pub(crate) struct AuditKeys {
    pub(crate) record: Key,
    pub(crate) chain: Key,
}

impl AccountKeys {
    /// Unwraps what a request needs. Call it inside a stack frame that is wiped.
    ///
    /// # Errors
    /// [`OpenFailed`] when a wrapped key is not this account's, or was wrapped by another root key.
    pub(crate) fn unwrap(keyring: &Keyring, owner: &Owner, wrapped: &WrappedKeys) -> Result<Self, OpenFailed> {
        let open = |purpose, bytes: &[u8]| keyring.unwrap(purpose, owner.environment, &owner.handle, bytes);
        let account = open(WrapPurpose::AccountKey, &wrapped.account)?;
        let audit = open(WrapPurpose::AuditKey, &wrapped.audit)?;
        let previous =
            wrapped.previous_account.as_deref().map(|bytes| open(WrapPurpose::PreviousAccountKey, bytes)).transpose()?;
        Ok(Self::derive(&account, previous.as_ref(), &audit))
    }

    /// The subkeys of keys that are at hand, as when an account is made or its key is rotated.
    pub(crate) fn derive(account: &Key, previous: Option<&Key>, audit: &Key) -> Self {
        Self {
            records: RecordKeys { current: record_key(account), previous: previous.map(record_key) },
            head: account.derive(Label::AccountHead, &[]),
            digest: account.derive(Label::AccountDigest, &[]),
            audit: AuditKeys { record: audit.derive(Label::AuditRecord, &[]), chain: audit.derive(Label::AuditChain, &[]) },
        }
    }
}

fn record_key(account: &Key) -> Key {
    account.derive(Label::AccountRecord, &[])
}
