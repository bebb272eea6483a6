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
use crate::ids::{AccountHandle, ConnectionId, Environment, SessionTokenId, VaultId};
use crate::secret::SessionToken;

/// What tokens need of an account. It lies in the account's desk and is copied out of it. The key in it is masked.
#[derive(Clone, Debug)]
pub(crate) struct TokenView {
    /// `None` when the wrapped one does not open.
    key: Option<MaskedKey>,
    pub(crate) epoch: u64,
    /// `None` when there are none, which needs no look elsewhere.
    spent: Option<Arc<BTreeMap<SessionTokenId, SpentToken>>>,
    pub(crate) environment: Environment,
    pub(crate) disabled: bool,
}

/// What those who reveal need of an account. It lies in the account's desk, and every change puts another one there. The key in it is masked
/// and the credentials are sealed.
#[derive(Debug)]
pub(crate) struct AccountView {
    pub(crate) environment: Environment,
    pub(crate) disabled: bool,
    record_key: MaskedKey,
    credentials: SealedCredentials,
    pub(crate) linked_account_id: Arc<str>,
}

/// What opening one credential needs, copied out of a view.
#[derive(Debug)]
pub(crate) struct Opening {
    owner: Owner,
    record_key: MaskedKey,
    credential: SealedCredential,
}

impl TokenView {
    pub(crate) fn of(state: &AccountState, keys: &MaskedKeys) -> Self {
        Self {
            key: keys.token.clone(),
            epoch: state.facts.epoch,
            spent: (!state.spent.is_empty()).then(|| Arc::clone(&state.spent)),
            environment: state.owner.environment,
            disabled: state.facts.disabled,
        }
    }

    /// Whether a token was revoked or used up.
    pub(crate) fn spent(&self, token: &SessionTokenId) -> Option<Spent> {
        self.spent.as_ref().and_then(|spent| spent.get(token)).map(|token| token.spent)
    }

    /// Lends the account's token key. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn with_key<R>(&self, keyring: &Keyring, work: impl FnOnce(&KeyBytes) -> R) -> Option<R> {
        self.key.as_ref().map(|key| keyring.with_unmasked(key, work))
    }

    /// Seals claims under the account's token key. `None` when that does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn seal(&self, keyring: &Keyring, handle: &AccountHandle, claims: &SessionClaims) -> Option<SessionToken> {
        self.with_key(keyring, |key| session_token::seal(key, &keyring.vault_id(), self.environment, handle, claims))
    }
}

impl AccountView {
    pub(crate) fn of(state: &AccountState, keys: &MaskedKeys, credentials: SealedCredentials) -> Self {
        Self {
            environment: state.owner.environment,
            disabled: state.facts.disabled,
            record_key: keys.records.clone(),
            credentials,
            linked_account_id: Arc::clone(&state.facts.linked_account_id),
        }
    }

    pub(crate) fn into_credentials(self) -> SealedCredentials {
        self.credentials
    }

    /// What opening the credential of a connection needs, if it is kept.
    pub(crate) fn opening(&self, vault: VaultId, handle: AccountHandle, connection: ConnectionId) -> Option<Opening> {
        let credential = self.credentials.find(connection)?.clone();
        credential.fetch();
        let owner = Owner { vault, environment: self.environment, handle };
        Some(Opening { owner, record_key: self.record_key.clone(), credential })
    }

    /// Whether it has the credential that is opened.
    pub(crate) fn has(&self, connection: ConnectionId, opening: &Opening) -> bool {
        self.credentials.find(connection).is_some_and(|kept| kept.is(&opening.credential))
    }
}

impl Opening {
    /// Opens the credential. `None` when it does not open. Call it inside a stack frame that is wiped.
    pub(crate) fn open(&self, keyring: &Keyring) -> Option<Box<Revealed>> {
        keyring.with_unmasked(&self.record_key, |key| self.credential.open(&self.owner, key))
    }
}
