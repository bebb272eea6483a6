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
use crate::domain::{Key, Keyring, session_token};
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

    /// Opens a credential of this view. `None` when it does not open.
    pub(crate) fn open(&self, keyring: &Keyring, credential: &SealedCredential) -> Option<Box<Revealed>> {
        credential.open(&self.owner, &keyring.unmask(&self.keys.records))
    }

    /// The account's token key. `None` when it does not open.
    pub(crate) fn token_key(&self, keyring: &Keyring) -> Option<Key> {
        self.keys.token.as_ref().map(|key| keyring.unmask(key))
    }

    /// Seals claims under the account's token key. `None` when that does not open.
    pub(crate) fn seal(&self, keyring: &Keyring, claims: &SessionClaims) -> Option<SessionToken> {
        let owner = &self.owner;
        Some(session_token::seal(&self.token_key(keyring)?, &owner.vault, owner.environment, &owner.handle, claims))
    }
}
