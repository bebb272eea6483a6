//! What minting and checking a session token and revealing a credential need, published by the account's actor: all run on their
//! caller's thread, without a hop, and see a revocation before the call that made it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::records::{Owner, SpentToken};
use crate::domain::account::sealed::{SealedCredential, SealedCredentials};
use crate::domain::account::state::AccountState;
use crate::domain::claims::SessionClaims;
use crate::domain::credential::Revealed;
use crate::domain::{Keyring, WrapPurpose, session_token};
use crate::ids::{ConnectionId, SessionTokenId};
use crate::secret::SessionToken;

/// An immutable view of an account; every change publishes another one. The keys and the credentials in it are sealed.
#[derive(Debug)]
pub(crate) struct AccountView {
    pub(crate) owner: Owner,
    pub(crate) linked_account_id: Arc<str>,
    pub(crate) wrapped_token_key: Arc<[u8]>,
    wrapped_account_key: Arc<[u8]>,
    credentials: SealedCredentials,
    pub(crate) epoch: u64,
    pub(crate) disabled: bool,
    pub(crate) spent: Arc<BTreeMap<SessionTokenId, SpentToken>>,
}

impl AccountView {
    pub(crate) fn of(state: &AccountState, credentials: &SealedCredentials) -> Self {
        Self {
            owner: state.owner,
            linked_account_id: Arc::clone(&state.facts.linked_account_id),
            wrapped_token_key: Arc::clone(&state.facts.wrapped.token),
            wrapped_account_key: Arc::clone(&state.facts.wrapped.account),
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

    /// Unwraps the account's key and opens a credential of this view. `None` when either does not open.
    pub(crate) fn open(&self, keyring: &Keyring, credential: &SealedCredential) -> Option<Box<Revealed>> {
        credential.open(keyring, &self.owner, &self.wrapped_account_key)
    }

    /// Unwraps the account's token key and seals claims under it. `None` when the key does not open.
    pub(crate) fn seal(&self, keyring: &Keyring, claims: &SessionClaims) -> Option<SessionToken> {
        let owner = &self.owner;
        let key = keyring.unwrap(WrapPurpose::TokenKey, owner.environment, &owner.handle, &self.wrapped_token_key).ok()?;
        Some(session_token::seal(&key, &owner.vault, owner.environment, &owner.handle, claims))
    }
}
