//! What a backend's caller does on its own thread, without a hop to the account's actor: it has the view that the actor published, and asks
//! again before anything goes out. Minting a session token and revealing a credential are done so.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::domain::audit::NewEntry;
use crate::ids::AccountHandle;
use crate::runtime::account::MAX_PENDING;
use crate::runtime::caller::Needs;
use crate::runtime::core::{AuditPolicy, Core};
use crate::runtime::desk::Desk;
use crate::runtime::events::EventKind;
use crate::runtime::gate::Pass;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::view::AccountView;

/// An account that is at hand, with nothing in the way of what its caller wants. Whatever there is to refuse, to load or to wait for, the
/// account's actor sees to.
pub(crate) struct Ready {
    /// While a place is taken the actor is not passivated, so that no note comes too late for it.
    desk: Pass<Desk>,
    pub(crate) view: Arc<AccountView>,
}

impl Ready {
    pub(crate) fn find(core: &Core, handle: &AccountHandle, key: &KeyEntry, needs: &Needs, now: Timestamp) -> Option<Self> {
        if core.is_closing() || core.settings.audit_policy != AuditPolicy::Batched {
            return None;
        }
        let desk = core.router.enter(core, handle, core.settings.mailbox_capacity)?;
        let view = desk.view.load_full()?;
        let permitted = key.check_account(view.owner.environment, &desk.locator).is_ok()
            && needs.permissions.iter().any(|permission| key.permissions().contains(*permission))
            && desk.pending().len() + 1 < MAX_PENDING;
        let ready = Self { desk, view };
        (permitted && ready.still(key, now)).then_some(ready)
    }

    /// Whether neither the key nor the account changed in a way that matters.
    pub(crate) fn still(&self, key: &KeyEntry, now: Timestamp) -> bool {
        self.still_with(key, now, |_| true)
    }

    /// [`still`](Self::still), and the view of now has what the caller used.
    pub(crate) fn still_with(&self, key: &KeyEntry, now: Timestamp, used: impl FnOnce(&AccountView) -> bool) -> bool {
        let view = self.desk.view.load();
        let unchanged = view.as_ref().is_some_and(|view| view.epoch == self.view.epoch && !view.disabled && used(view));
        unchanged && key.check(now).is_ok()
    }

    /// Notes in the account's audit what was done, and tells the host's listeners.
    pub(crate) fn note(&self, core: &Arc<Core>, entry: NewEntry, told: EventKind) {
        self.desk.note(entry);
        core.list_notes(self.desk.all());
        core.events.send(self.view.owner.environment, &self.view.linked_account_id, told);
    }
}
