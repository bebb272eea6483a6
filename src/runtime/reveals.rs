//! Revealing a credential. One that was revealed lately is opened on its caller's thread, from the sealed copy in the view that the account's
//! actor published: without a hop, and without its shard, which may be closed. The first time takes the hop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::domain::audit::{AuditAction, AuditActor, NewEntry};
use crate::domain::error::Error;
use crate::domain::{Revealed, wiping_stack};
use crate::ids::{AccountHandle, ConnectionId};
use crate::runtime::actor::{Operation as _, REQUEST_STACK};
use crate::runtime::caller::Caller;
use crate::runtime::core::Core;
use crate::runtime::desk::Desk;
use crate::runtime::events::EventKind;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::ops::credentials::Reveal;
use crate::runtime::ready::Ready;

impl Core {
    /// Opens a credential for a backend's caller.
    pub(crate) async fn reveal(
        self: &Arc<Self>,
        handle: AccountHandle,
        key: &Arc<KeyEntry>,
        connection: ConnectionId,
    ) -> Result<Box<Revealed>, Error> {
        match self.reveal_here(&handle, key, connection) {
            Some(revealed) => revealed,
            None => Box::pin(self.ask(handle, Caller::ApiKey(Arc::clone(key)), Reveal(connection))).await,
        }
    }

    /// `None` when the account's actor has to see to it.
    fn reveal_here(
        self: &Arc<Self>,
        handle: &AccountHandle,
        key: &KeyEntry,
        connection: ConnectionId,
    ) -> Option<Result<Box<Revealed>, Error>> {
        let now = self.clock.now();
        let ready = Ready::find(self, handle, Desk::FOR_REVEALS, key, &Reveal::NEEDS, now)?;
        let opening = ready.opening(self, key, connection)?;
        let opened = catch_unwind(AssertUnwindSafe(|| wiping_stack::<REQUEST_STACK, _>(|| opening.open(&self.keyring))));
        let Ok(opened) = opened else { return Some(Err(Error::Internal { doing: Reveal::DOING })) };
        let revealed = opened?;
        // Asked again: a key that is revoked by now, an account or a connection that is disabled, and a credential that is replaced or
        // removed give nothing away.
        if !ready.still_reveals(key, now, connection, &opening) {
            return None;
        }
        let actor = AuditActor::ApiKey(key.id());
        let entry = NewEntry { at: now, actor, action: AuditAction::SecretRevealed, target: Some(connection) };
        ready.note(self, entry, EventKind::ConnectionRevealed { connection });
        Some(Ok(revealed))
    }
}
