//! The first rows of a new account: three fresh keys, its own record, the first audit entry, the head.

use crate::clock::Timestamp;
use crate::domain::account::change::Draft;
use crate::domain::account::keys::{AccountKeys, WrappedKeys};
use crate::domain::account::records::{ChainEnds, InfoRecord, Owner, RecordKey};
use crate::domain::account::state::{AccountState, Facts};
use crate::domain::audit::{AuditAction, AuditActor, NewEntry};
use crate::domain::error::Error;
use crate::domain::head::Digest;
use crate::domain::{Key, Keyring, WrapPurpose};
use crate::ids::LinkedAccountId;

/// The key version that an account begins with.
const FIRST_KEY_VERSION: u32 = 1;

/// Who is born, and by whom.
pub(crate) struct Birth<'a> {
    pub(crate) owner: Owner,
    pub(crate) id: &'a LinkedAccountId,
    pub(crate) metadata: &'a str,
    pub(crate) now: Timestamp,
    pub(crate) actor: AuditActor,
}

/// The rows of a new account.
pub(crate) struct Born {
    pub(crate) rows: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sequence: u64,
}

/// The sequence of an account that nothing was done with yet.
pub(crate) const SEQUENCE: u64 = 1;

/// Makes the rows.
pub(crate) fn rows(keyring: &Keyring, birth: Birth<'_>) -> Result<Born, Error> {
    let Birth { owner, id, metadata, now, actor } = birth;
    let (account, token, audit) = (Key::random(), Key::random(), Key::random());
    let wrap = |purpose, key: &Key| keyring.wrap(purpose, owner.environment, &owner.handle, 1, key);
    let wrapped = [
        (RecordKey::AccountKey, wrap(WrapPurpose::AccountKey, &account)),
        (RecordKey::TokenKey, wrap(WrapPurpose::TokenKey, &token)),
        (RecordKey::AuditKey, wrap(WrapPurpose::AuditKey, &audit)),
    ];
    let [account_key, token_key, audit_key] = [0, 1, 2].map(|at: usize| wrapped[at].1.as_slice().into());
    let unborn = AccountState {
        owner,
        facts: Facts {
            linked_account_id: id.as_str().into(),
            disabled: false,
            epoch: 0,
            key_version: FIRST_KEY_VERSION,
            sequence: 0,
            digest: Digest::EMPTY,
            audit: ChainEnds::EMPTY,
            noted: 0,
            wrapped: WrappedKeys { account: account_key, token: token_key, audit: audit_key, previous_account: None },
        },
        index: std::collections::BTreeMap::new(),
        spent: std::sync::Arc::default(),
        dues: std::collections::BTreeMap::new(),
    };
    let keys = AccountKeys::derive(&account, None, &audit);
    let mut draft = Draft::new(&unborn, &keys);
    for (key, sealed) in wrapped {
        draft.put_sealed(key, sealed);
    }
    draft.put_info(&InfoRecord {
        linked_account_id: id.as_str().to_owned(),
        metadata: metadata.to_owned(),
        created: now,
        updated: now,
        disabled: false,
        epoch: 0,
        key_version: FIRST_KEY_VERSION,
    })?;
    draft.audit([NewEntry { at: now, actor, action: AuditAction::AccountCreated, target: None }]);
    let change = draft.finish()?;
    debug_assert_eq!(change.facts.sequence, SEQUENCE);
    Ok(Born { rows: change.puts, sequence: change.facts.sequence })
}
