//! Rotation. An account's key: every record is sealed anew, in steps that a crash can interrupt. The root key: the account's
//! keys are wrapped anew, no record is touched.

use std::rc::Rc;

use crate::domain::account::change::MAX_FORGOTTEN;
use crate::domain::account::keys::{AccountKeys, WrappedKeys};
use crate::domain::account::records::RecordKey;
use crate::domain::account::state::Damage;
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::error::Error;
use crate::domain::grants::Permission;
use crate::domain::{Key, Keyring, WrapPurpose};
use crate::runtime::account::{Account, Turn};
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs};

/// How much is sealed anew in one commit, unless one record alone is larger: leaves room for the audit entries that wait.
const STEP_BYTES: usize = 48 * 1024;

/// What a row has more than its content, at most: envelope, padding and key. A small record grows several times by it.
const ROW_OVERHEAD: usize = 128;

/// Replaces the account's key and token key and seals every record anew. All session tokens minted before become invalid.
/// A rotation that a crash interrupted is completed instead of a new one begun.
pub(crate) struct RotateAccountKey;

impl Operation for RotateAccountKey {
    type Answer = ();
    const DOING: &'static str = "rotating the account key";
    const NEEDS: Needs = Needs::backend(&[Permission::Keys]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        {
            let turn = account.turn(caller).await?;
            if account.with_state(|state| state.facts.wrapped.previous_account.is_none())? {
                begin(account, &turn, caller.actor()).await?;
            }
        }
        complete(account).await
    }
}

/// Wraps the account's keys under the present root key, if they are not yet.
pub(crate) struct Rewrap;

impl Operation for Rewrap {
    type Answer = ();
    const DOING: &'static str = "wrapping the account's keys under the new root key";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let turn = account.turn(caller).await?;
        let generation = account.core.keyring.generation();
        let rows = account.with_state(|state| wrapped_rows(&state.facts.wrapped))?;
        let old: Vec<_> =
            rows.into_iter().filter(|(_, _, wrapped)| Keyring::wrapped_generation(wrapped) != Ok(generation)).collect();
        if old.is_empty() {
            return Ok(());
        }
        let entry = account.entry(caller.actor(), AuditAction::KeysRewrapped, None);
        account
            .change(&turn, |draft| {
                for (key, purpose, wrapped) in &old {
                    let owner = account.owner();
                    let keyring = &account.core.keyring;
                    let plain = keyring
                        .unwrap(*purpose, owner.environment, &owner.handle, wrapped)
                        .map_err(|_| account.damaged(Damage("the account's keys do not open")))?;
                    let revision = draft.facts_mut().sequence;
                    let sealed = keyring.wrap(*purpose, owner.environment, &owner.handle, revision, &plain);
                    set_wrapped(&mut draft.facts_mut().wrapped, *key, &sealed);
                    draft.put_sealed(*key, sealed);
                }
                draft.audit([entry]);
                Ok(())
            })
            .await
    }
}

async fn begin(account: &Account, turn: &Turn<'_>, actor: AuditActor) -> Result<(), Error> {
    let mut info = super::info::read_info(account).await?;
    info.key_version += 1;
    // The new token key refuses the old tokens; a session that was opened from one before is refused by its epoch.
    info.epoch += 1;
    info.updated = account.now();
    let entry = account.entry(actor, AuditAction::AccountKeyRotated, None);
    let owner = account.owner();
    let keyring = &account.core.keyring;
    account
        .change_under(
            turn,
            |state| {
                let unwrap = |purpose, wrapped: &[u8]| {
                    keyring
                        .unwrap(purpose, owner.environment, &owner.handle, wrapped)
                        .map_err(|_| account.damaged(Damage("the account's keys do not open")))
                };
                let wrapped = &state.facts.wrapped;
                let old = unwrap(WrapPurpose::AccountKey, &wrapped.account)?;
                let audit = unwrap(WrapPurpose::AuditKey, &wrapped.audit)?;
                let (new, token) = (Key::random(), Key::random());
                let wrap =
                    |purpose, key: &Key| keyring.wrap(purpose, owner.environment, &owner.handle, state.facts.sequence + 1, key);
                let rows = vec![
                    (RecordKey::AccountKey, wrap(WrapPurpose::AccountKey, &new)),
                    (RecordKey::TokenKey, wrap(WrapPurpose::TokenKey, &token)),
                    (RecordKey::PreviousAccountKey, wrap(WrapPurpose::PreviousAccountKey, &old)),
                ];
                Ok((AccountKeys::derive(&new, Some(&old), &audit), rows))
            },
            |draft, rows| {
                for (key, sealed) in rows {
                    set_wrapped(&mut draft.facts_mut().wrapped, key, &sealed);
                    draft.put_sealed(key, sealed);
                }
                draft.facts_mut().key_version = info.key_version;
                draft.put_info(&info)?;
                draft.audit([entry]);
                Ok(())
            },
        )
        .await
}

/// Seals what is left under the key before anew, step by step; requests are served between the steps.
pub(crate) async fn complete(account: &Account) -> Result<(), Error> {
    loop {
        let turn = account.own_turn().await?;
        let (done, left) = account.with_state(|state| {
            let version = state.facts.key_version;
            let left: Vec<_> = state
                .index
                .iter()
                .filter(|(key, stamp)| stamp.key_version != version && is_record(**key))
                .map(|(key, _)| *key)
                .collect();
            (state.facts.wrapped.previous_account.is_none(), left)
        })?;
        if done {
            return Ok(());
        }
        let (mut records, mut marks) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for key in &left {
            // Marks of the epoch before: it refuses those tokens by itself.
            if let RecordKey::SpentToken(id) = key {
                if marks.len() == MAX_FORGOTTEN {
                    break;
                }
                marks.push(*id);
                continue;
            }
            let Some(plain) = account.read(*key).await? else { continue };
            bytes += plain.len() + ROW_OVERHEAD;
            if bytes > STEP_BYTES && !records.is_empty() {
                break;
            }
            records.push((*key, plain));
        }
        let last = records.len() + marks.len() == left.len();
        account
            .change(&turn, |draft| {
                for (key, plain) in &records {
                    draft.put_bytes(*key, plain);
                }
                draft.forget(&marks);
                if last {
                    draft.facts_mut().wrapped.previous_account = None;
                    draft.remove(RecordKey::PreviousAccountKey);
                }
                Ok(())
            })
            .await?;
    }
}

/// Rows that are sealed under the account's record subkey.
const fn is_record(key: RecordKey) -> bool {
    match key {
        RecordKey::Info
        | RecordKey::Connection(_)
        | RecordKey::Secret(_)
        | RecordKey::Refresh(_)
        | RecordKey::PreviousToken(_)
        | RecordKey::SpentToken(_) => true,
        RecordKey::Head
        | RecordKey::AccountKey
        | RecordKey::TokenKey
        | RecordKey::AuditKey
        | RecordKey::PreviousAccountKey
        | RecordKey::Audit(_) => false,
    }
}

fn wrapped_rows(wrapped: &WrappedKeys) -> Vec<(RecordKey, WrapPurpose, std::sync::Arc<[u8]>)> {
    let mut rows = vec![
        (RecordKey::AccountKey, WrapPurpose::AccountKey, wrapped.account.clone()),
        (RecordKey::TokenKey, WrapPurpose::TokenKey, wrapped.token.clone()),
        (RecordKey::AuditKey, WrapPurpose::AuditKey, wrapped.audit.clone()),
    ];
    if let Some(previous) = &wrapped.previous_account {
        rows.push((RecordKey::PreviousAccountKey, WrapPurpose::PreviousAccountKey, previous.clone()));
    }
    rows
}

fn set_wrapped(wrapped: &mut WrappedKeys, key: RecordKey, sealed: &[u8]) {
    match key {
        RecordKey::AccountKey => wrapped.account = sealed.into(),
        RecordKey::TokenKey => wrapped.token = sealed.into(),
        RecordKey::AuditKey => wrapped.audit = sealed.into(),
        RecordKey::PreviousAccountKey => wrapped.previous_account = Some(sealed.into()),
        _ => {}
    }
}
