//! What minting and checking a session token and revealing a credential need, published by the account's actor: all run on their
//! caller's thread, without a hop, and see a revocation before the call that made it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::keys::MaskedKeys;
use crate::domain::account::records::{Owner, SpentToken};
use crate::domain::account::sealed::{SealedCredential, SealedCredentials};
use crate::domain::account::state::AccountState;
use crate::domain::claims::SessionClaims;
use crate::domain::credential::Revealed;
use crate::domain::{KeyBytes, Keyring, session_token};
use crate::ids::{ConnectionId, SessionTokenId};
use crate::secret::SessionToken;

/// An immutable view of an account; every change publishes another one. The keys in it are masked and the credentials sealed.
#[derive(Debug)]
pub(crate) struct AccountView {
    pub(crate) owner: Owner,
    pub(crate) linked_account_id: Arc<str>,
    keys: MaskedKeys,
    credentials: SealedCredentials,
    pub(crate) epoch: u64,
    pub(crate) disabled: bool,
    pub(crate) spent: Arc<BTreeMap<SessionTokenId, SpentToken>>,
}

impl AccountView {
    pub(crate) fn of(state: &AccountState, keys: &MaskedKeys, credentials: &SealedCredentials) -> Self {
        Self {
            owner: state.owner,
            linked_account_id: Arc::clone(&state.facts.linked_account_id),
            keys: keys.clone(),
            credentials: credentials.clone(),
            epoch: state.facts.epoch,
            disabled: state.facts.disabled,
            spent: Arc::clone(&state.spent),
        }
    }

    /// The credential of a connection, if it is kept.
    pub(crate) fn credential(&self, connection: ConnectionId) -> Option<&Arc<SealedCredential>> {
        self.credentials.find(connection)
    }

    /// Opens a credential of this view. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn open(&self, keyring: &Keyring, credential: &SealedCredential) -> Option<Box<Revealed>> {
        keyring.with_unmasked(&self.keys.records, |key| credential.open(&self.owner, key))
    }

    /// Lends the account's token key. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn with_token_key<R>(&self, keyring: &Keyring, work: impl FnOnce(&KeyBytes) -> R) -> Option<R> {
        self.keys.token.as_ref().map(|key| keyring.with_unmasked(key, work))
    }

    /// Seals claims under the account's token key. `None` when that does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn seal(&self, keyring: &Keyring, claims: &SessionClaims) -> Option<SessionToken> {
        let owner = &self.owner;
        self.with_token_key(keyring, |key| session_token::seal(key, &owner.vault, owner.environment, &owner.handle, claims))
    }
}
