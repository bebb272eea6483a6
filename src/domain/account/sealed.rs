//! Credentials that were revealed lately, kept as they lie on the disk: sealed. Whoever reveals one of them again needs neither the
//! account's actor nor its shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::records::{Owner, RecordKey};
use crate::domain::account::state::{AccountState, Stamp, open_current};
use crate::domain::credential::Revealed;
use crate::domain::{KeyBytes, Plaintext};
use crate::ids::ConnectionId;
use crate::memory;

/// How many sealed bytes are kept of one account. With the default bound on resident accounts, 200 MiB in all at the very most.
pub(crate) const MAX_KEPT_BYTES: usize = 4 * 1024;

/// The sealed credential of a connection that is not disabled. Clones share its bytes.
#[derive(Clone, Debug)]
pub(crate) struct SealedCredential {
    connection: ConnectionId,
    stamp: Stamp,
    sealed: Arc<[u8]>,
}

impl SealedCredential {
    /// Opens the credential with the account's record key. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn open(&self, owner: &Owner, record_key: &KeyBytes) -> Option<Box<Revealed>> {
        let plain: Plaintext =
            open_current(record_key, owner, RecordKey::Secret(self.connection), self.stamp, &self.sealed).ok()?;
        Revealed::parse(plain).map(Box::new)
    }

    /// Has its bytes fetched while something else is done, such as unmasking the key.
    pub(crate) fn fetch(&self) {
        memory::fetch(self.sealed.as_ptr(), self.sealed.len());
    }

    /// Whether both were kept at once, not only of one connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sealed, &other.sealed)
    }
}

/// Those of one account.
#[derive(Debug, Default)]
pub(crate) struct SealedCredentials {
    /// In place: most accounts that reveal have one, and each step to other memory takes as long as the cipher.
    latest: Option<SealedCredential>,
    /// The oldest first.
    earlier: Vec<SealedCredential>,
}

impl SealedCredentials {
    pub(crate) fn find(&self, connection: ConnectionId) -> Option<&SealedCredential> {
        self.latest.iter().chain(&self.earlier).find(|kept| kept.connection == connection)
    }

    /// Keeps what was just opened as the current version, if it is small enough; others go for it, the oldest first. The caller has seen
    /// that the connection is not disabled.
    pub(crate) fn keep(&mut self, state: &AccountState, connection: ConnectionId, sealed: Vec<u8>) {
        let Some(stamp) = state.stamp(RecordKey::Secret(connection)) else { return };
        // While the account key is rotated, two of them are alive; the view has one.
        if stamp.key_version != state.facts.key_version
            || state.facts.wrapped.previous_account.is_some()
            || sealed.len() > MAX_KEPT_BYTES
        {
            return;
        }
        self.retain(|kept| kept.connection != connection);
        while self.bytes() + sealed.len() > MAX_KEPT_BYTES {
            if self.earlier.is_empty() {
                self.latest = None;
            } else {
                self.earlier.remove(0);
            }
        }
        let before = self.latest.replace(SealedCredential { connection, stamp, sealed: sealed.into() });
        self.earlier.extend(before);
    }

    fn bytes(&self) -> usize {
        self.latest.iter().chain(&self.earlier).map(|kept| kept.sealed.len()).sum()
    }

    fn retain(&mut self, stays: impl Fn(&SealedCredential) -> bool) {
        self.latest = self.latest.take().filter(&stays);
        self.earlier.retain(stays);
    }

    /// Forgets what a change makes outdated: credentials that it replaces or removes, and those of connections that it disables.
    pub(crate) fn apply(&mut self, stamps: &BTreeMap<RecordKey, Option<Stamp>>, disabled: &BTreeMap<ConnectionId, bool>) {
        self.retain(|kept| {
            let replaced = [RecordKey::Secret(kept.connection), RecordKey::AccountKey].iter().any(|key| stamps.contains_key(key));
            let gone = stamps.get(&RecordKey::Connection(kept.connection)).is_some_and(Option::is_none);
            let is_disabled = disabled.get(&kept.connection) == Some(&true);
            !(replaced || gone || is_disabled)
        });
    }
}
