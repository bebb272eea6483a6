//! The account itself: what is known of it, its metadata, whether it is served.

use std::rc::Rc;

use crate::domain::account::info::{AccountInfo, AccountStatus, MAX_METADATA_BYTES};
use crate::domain::account::records::{InfoRecord, RecordKey};
use crate::domain::account::state::{Damage, decode};
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::error::Error;
use crate::domain::grants::Permission;
use crate::ids::LinkedAccountId;
use crate::runtime::account::{Account, Turn};
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs};
use crate::runtime::events::EventKind;

/// Reads what is known of the account.
pub(crate) struct ReadInfo;

impl Operation for ReadInfo {
    type Answer = AccountInfo;
    const DOING: &'static str = "reading the account";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<AccountInfo, Error> {
        let record = read_info(account).await?;
        let connections = account.with_state(|state| state.connections().count())?;
        Ok(AccountInfo {
            id: LinkedAccountId::new(&record.linked_account_id)
                .map_err(|_| account.damaged(Damage("the account's id is none")))?,
            metadata: record.metadata,
            created: record.created,
            updated: record.updated,
            status: if record.disabled { AccountStatus::Disabled } else { AccountStatus::Enabled },
            connections,
        })
    }
}

/// Replaces the metadata.
pub(crate) struct SetMetadata(pub(crate) String);

impl Operation for SetMetadata {
    type Answer = ();
    const DOING: &'static str = "changing the metadata";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        check_metadata(&self.0)?;
        let turn = account.turn(caller).await?;
        let record = InfoRecord { metadata: self.0, ..read_info(account).await? };
        store_info(account, &turn, caller.actor(), record, AuditAction::MetadataChanged).await?;
        account.tell(EventKind::AccountUpdated)
    }
}

/// Disables the account or enables it again.
pub(crate) struct SetDisabled(pub(crate) bool);

impl Operation for SetDisabled {
    type Answer = ();
    const DOING: &'static str = "changing the status";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let turn = account.turn(caller).await?;
        let record = read_info(account).await?;
        if record.disabled == self.0 {
            return Ok(());
        }
        let (action, event) = if self.0 {
            (AuditAction::AccountDisabled, EventKind::AccountDisabled)
        } else {
            (AuditAction::AccountEnabled, EventKind::AccountEnabled)
        };
        store_info(account, &turn, caller.actor(), InfoRecord { disabled: self.0, ..record }, action).await?;
        account.tell(event)
    }
}

/// Decides whether the caller may delete the account; the deletion itself takes both databases and is no actor's.
pub(crate) struct Delete;

impl Operation for Delete {
    type Answer = ();
    const DOING: &'static str = "deleting the account";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, _: &Rc<Account>, _: &Admitted<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Checks metadata before it is stored.
pub(crate) fn check_metadata(metadata: &str) -> Result<(), Error> {
    match metadata.len() {
        bytes if bytes > MAX_METADATA_BYTES => Err(Error::TooLarge { what: "metadata", limit: MAX_METADATA_BYTES, bytes }),
        _ => Ok(()),
    }
}

/// The account's own record.
pub(crate) async fn read_info(account: &Account) -> Result<InfoRecord, Error> {
    let plain =
        account.read(RecordKey::Info).await?.ok_or_else(|| account.damaged(Damage("the account's own record is missing")))?;
    decode(&plain).map_err(|damage| account.damaged(damage))
}

async fn store_info(
    account: &Account,
    turn: &Turn<'_>,
    actor: AuditActor,
    mut record: InfoRecord,
    action: AuditAction,
) -> Result<(), Error> {
    record.updated = account.now();
    let entry = account.entry(actor, action, None);
    account
        .change(turn, |draft| {
            draft.put_info(&record)?;
            draft.audit([entry]);
            Ok(())
        })
        .await
}
