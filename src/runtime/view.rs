//! What minting and checking a session token and revealing a credential need, published by the account's actor: all run on their
//! caller's thread, without a hop, and see a revocation before the call that made it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::keys::MaskedKeys;
use crate::domain::account::records::{Owner, Spent, SpentToken};
use crate::domain::account::sealed::{SealedCredential, SealedCredentials};
use crate::domain::account::state::AccountState;
use crate::domain::claims::SessionClaims;
use crate::domain::credential::Revealed;
use crate::domain::{KeyBytes, Keyring, MaskedKey, session_token};
use crate::ids::{ConnectionId, SessionTokenId};
use crate::secret::SessionToken;

/// An immutable view of an account; every change publishes another one. The keys in it are masked and the credentials sealed.
#[derive(Debug)]
// What a token needs comes first and together: each line of memory that has to be fetched takes as long as the cipher.
#[repr(C)]
pub(crate) struct AccountView {
    token_key: Option<MaskedKey>,
    pub(crate) owner: Owner,
    pub(crate) disabled: bool,
    pub(crate) epoch: u64,
    /// `None` when there are none, which needs no look elsewhere.
    spent: Option<Arc<BTreeMap<SessionTokenId, SpentToken>>>,
    pub(crate) linked_account_id: Arc<str>,
    credentials: SealedCredentials,
    record_key: MaskedKey,
}

impl AccountView {
    pub(crate) fn of(state: &AccountState, keys: &MaskedKeys, credentials: &SealedCredentials) -> Self {
        Self {
            token_key: keys.token.clone(),
            owner: state.owner,
            disabled: state.facts.disabled,
            epoch: state.facts.epoch,
            spent: (!state.spent.is_empty()).then(|| Arc::clone(&state.spent)),
            linked_account_id: Arc::clone(&state.facts.linked_account_id),
            credentials: credentials.clone(),
            record_key: keys.records.clone(),
        }
    }

    /// Whether a token was revoked or used up.
    pub(crate) fn spent(&self, token: &SessionTokenId) -> Option<Spent> {
        self.spent.as_ref().and_then(|spent| spent.get(token)).map(|token| token.spent)
    }

    /// The credential of a connection, if it is kept.
    pub(crate) fn credential(&self, connection: ConnectionId) -> Option<&Arc<SealedCredential>> {
        self.credentials.find(connection)
    }

    /// Opens a credential of this view. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn open(&self, keyring: &Keyring, credential: &SealedCredential) -> Option<Box<Revealed>> {
        keyring.with_unmasked(&self.record_key, |key| credential.open(&self.owner, key))
    }

    /// Lends the account's token key. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn with_token_key<R>(&self, keyring: &Keyring, work: impl FnOnce(&KeyBytes) -> R) -> Option<R> {
        self.token_key.as_ref().map(|key| keyring.with_unmasked(key, work))
    }

    /// Seals claims under the account's token key. `None` when that does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn seal(&self, keyring: &Keyring, claims: &SessionClaims) -> Option<SessionToken> {
        let owner = &self.owner;
        self.with_token_key(keyring, |key| session_token::seal(key, &owner.vault, owner.environment, &owner.handle, claims))
    }
}
