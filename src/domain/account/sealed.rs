//! Credentials that were revealed lately, kept as they lie on the disk: sealed. Whoever reveals one of them again needs neither the
//! account's actor nor its shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::records::{Owner, RecordKey};
use crate::domain::account::state::{AccountState, Stamp, open_current};
use crate::domain::credential::Revealed;
use crate::domain::{KeyBytes, Plaintext};
use crate::ids::ConnectionId;

/// How many sealed bytes are kept of one account. With the default bound on resident accounts, 200 MiB in all at the very most.
pub(crate) const MAX_KEPT_BYTES: usize = 4 * 1024;

/// The sealed credential of a connection that is not disabled.
#[derive(Debug)]
pub(crate) struct SealedCredential {
    pub(crate) connection: ConnectionId,
    stamp: Stamp,
    sealed: Box<[u8]>,
}

impl SealedCredential {
    /// Opens the credential with the account's record key. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn open(&self, owner: &Owner, record_key: &KeyBytes) -> Option<Box<Revealed>> {
        let plain: Plaintext =
            open_current(record_key, owner, RecordKey::Secret(self.connection), self.stamp, &self.sealed).ok()?;
        Revealed::parse(plain).map(Box::new)
    }
}

/// Those of one account, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct SealedCredentials(Vec<Arc<SealedCredential>>);

impl SealedCredentials {
    pub(crate) fn find(&self, connection: ConnectionId) -> Option<&Arc<SealedCredential>> {
        self.0.iter().find(|kept| kept.connection == connection)
    }

    /// Keeps what was just opened as the current version, if it is small enough; others go for it, the oldest first. Whether it does. The
    /// caller has seen that the connection is not disabled.
    pub(crate) fn keep(&mut self, state: &AccountState, connection: ConnectionId, sealed: Vec<u8>) -> bool {
        let Some(stamp) = state.stamp(RecordKey::Secret(connection)) else { return false };
        // While the account key is rotated, two of them are alive; the view has one.
        if stamp.key_version != state.facts.key_version
            || state.facts.wrapped.previous_account.is_some()
            || sealed.len() > MAX_KEPT_BYTES
        {
            return false;
        }
        self.0.retain(|kept| kept.connection != connection);
        while self.0.iter().map(|kept| kept.sealed.len()).sum::<usize>() + sealed.len() > MAX_KEPT_BYTES {
            self.0.remove(0);
        }
        self.0.push(Arc::new(SealedCredential { connection, stamp, sealed: sealed.into() }));
        true
    }

    /// Forgets what a change makes outdated: credentials that it replaces or removes, and those of connections that it disables.
    pub(crate) fn apply(&mut self, stamps: &BTreeMap<RecordKey, Option<Stamp>>, disabled: &BTreeMap<ConnectionId, bool>) {
        self.0.retain(|kept| {
            let replaced = [RecordKey::Secret(kept.connection), RecordKey::AccountKey].iter().any(|key| stamps.contains_key(key));
            let gone = stamps.get(&RecordKey::Connection(kept.connection)).is_some_and(Option::is_none);
            let is_disabled = disabled.get(&kept.connection) == Some(&true);
            !(replaced || gone || is_disabled)
        });
    }
}
