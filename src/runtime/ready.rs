//! What a backend's caller does on its own thread, without a hop to the account's actor: it has the view that the actor published, and asks
//! again before anything goes out. Minting a session token and revealing a credential are done so.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::domain::audit::NewEntry;
use crate::ids::{AccountHandle, ConnectionId};
use crate::runtime::account::MAX_PENDING;
use crate::runtime::caller::Needs;
use crate::runtime::core::{AuditPolicy, Core};
use crate::runtime::desk::Desk;
use crate::runtime::events::EventKind;
use crate::runtime::gate::Pass;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::view::{AccountView, Opening, TokenView};

/// An account that is at hand, with nothing in the way of what its caller wants. Whatever there is to refuse, to load or to wait for, the
/// account's actor sees to.
pub(crate) struct Ready {
    /// While a place is taken the actor is not passivated, so that no note comes too late for it.
    desk: Pass<Desk>,
}

impl Ready {
    /// `bytes` of the account's desk will be looked at.
    pub(crate) fn find(
        core: &Core,
        handle: &AccountHandle,
        bytes: usize,
        key: &KeyEntry,
        needs: &Needs,
        now: Timestamp,
    ) -> Option<Self> {
        if core.is_closing() || core.settings.audit_policy != AuditPolicy::Batched || key.check(now).is_err() {
            return None;
        }
        let desk = core.router.enter(core, handle, bytes, core.settings.mailbox_capacity)?;
        let permitted = key.check_locator(&desk.locator).is_ok()
            && needs.permissions.iter().any(|permission| key.permissions().contains(*permission))
            && desk.pending().len() + 1 < MAX_PENDING;
        permitted.then_some(Self { desk })
    }

    /// What minting needs, if nothing refuses it.
    pub(crate) fn token(&self, key: &KeyEntry) -> Option<TokenView> {
        self.desk.token().filter(|token| token.environment == key.environment() && !token.disabled)
    }

    /// What opening the credential of a connection needs, if it is at hand and nothing refuses it.
    pub(crate) fn opening(&self, core: &Core, key: &KeyEntry, connection: ConnectionId) -> Option<Opening> {
        self.with_view(key, |view| view.opening(core.keyring.vault_id(), self.desk.handle, connection)).flatten()
    }

    fn with_view<R>(&self, key: &KeyEntry, look: impl FnOnce(&AccountView) -> R) -> Option<R> {
        let good = |view: &AccountView| view.environment == key.environment() && !view.disabled;
        self.desk.with_view(|view| good(view).then(|| look(view))).flatten()
    }

    /// Whether neither the key nor the account changed in a way that matters to a token of this epoch.
    pub(crate) fn still_mints(&self, key: &KeyEntry, now: Timestamp, epoch: u64) -> bool {
        let unchanged = self.desk.with_token(|token| token.epoch == epoch && !token.disabled);
        unchanged == Some(true) && key.check(now).is_ok()
    }

    /// Whether neither the key nor the account changed in a way that matters to a reveal, and the view of now has what was opened.
    pub(crate) fn still_reveals(&self, key: &KeyEntry, now: Timestamp, connection: ConnectionId, opened: &Opening) -> bool {
        self.with_view(key, |view| view.has(connection, opened)) == Some(true) && key.check(now).is_ok()
    }

    /// Notes in the account's audit what was done, and tells the host's listeners.
    pub(crate) fn note(&self, core: &Arc<Core>, entry: NewEntry, told: EventKind) {
        self.desk.note(entry);
        core.list_notes(self.desk.all());
        if core.events.has_readers()
            && let Some((environment, id)) = self.desk.with_view(|view| (view.environment, Arc::clone(&view.linked_account_id)))
        {
            core.events.send(environment, &id, told);
        }
    }
}
