//! What the vault decides: synchronous, without I/O and without a clock (`now` is an argument).

pub(crate) mod account;
pub(crate) mod api_key;
pub(crate) mod audit;
pub(crate) mod base64url;
pub(crate) mod claims;
pub(crate) mod credential;
pub(crate) mod denial;
pub(crate) mod directory;
pub(crate) mod entries;
pub(crate) mod error;
#[cfg(test)]
mod format_tests;
pub(crate) mod grants;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod inject;
pub(crate) mod journal;
pub(crate) mod oauth;
mod origin;
pub(crate) mod packed;
pub(crate) mod provider;
pub(crate) mod session_token;

pub use account::info::{AccountInfo, AccountStatus, ConnectionInfo};
pub use account::status::ConnectionStatus;
pub use api_key::{ApiKeyInfo, CreatedApiKey, InvalidApiKeyOptions, NewApiKey};
pub use audit::{AuditAction, AuditActor, AuditEntry, BrokenLink};
pub use claims::{InvalidSessionOptions, SessionOptions};
pub use credential::{Credential, CredentialKind, InvalidCredential, OAuth2Tokens, Revealed};
pub use denial::DenialReason;
pub use error::{Damaged, Error, Item, OpenError, VaultPart};
pub use grants::{Grant, Grants, Permission, Permissions};
pub use inject::AuthorizeError;
pub use oauth::client::OAuthClient;
pub use oauth::connect::{AuthorizationRequest, ConnectCallback, ConnectError, ConnectRequest};
pub use oauth::invalid::InvalidOAuth;
pub use oauth::profile::{FailureClass, RefreshProfile, RefreshRate};
pub use oauth::refresh::{ReauthReason, RefreshFailure};
pub use oauth::settings::{ClientAuth, OAuthSettings};
pub use provider::{Injection, InvalidProvider, ProviderSettings};

// What the layers above need of the cryptography, which they don't name themselves.
pub(crate) use crate::crypto::derive::Label;
pub(crate) use crate::crypto::envelope::{OpenFailed, Plaintext};
pub(crate) use crate::crypto::header::HeaderError;
pub(crate) use crate::crypto::key::{Key, KeyBytes};
pub(crate) use crate::crypto::keyring::{HeaderChange, Keyring, OpenKeyringError, RotationError, WrapPurpose};
pub(crate) use crate::crypto::masked::MaskedKey;
pub(crate) use crate::crypto::wipe::{PRIMITIVE_STACK, wiping_stack};
pub use crate::crypto::{EnvVar, KeyFile, KeyProvider, LockKind, Passphrase, RawKey, RootKeyError};

pub(crate) use credential::is_scope;

use crate::crypto::rng;
use crate::ids::{AccountHandle, ConnectionId, SessionTokenId};

/// The name of a new account inside the vault: random but for its beginning, by which it lies beside this locator.
pub(crate) fn random_handle(locator: &[u8; 32]) -> AccountHandle {
    directory::handle_beside(locator, random())
}

/// The id of a new connection.
pub(crate) fn random_connection_id() -> ConnectionId {
    ConnectionId::from_bytes(random())
}

/// The revision that an envelope says it has; whether it is true, opening it tells.
pub(crate) fn row_revision(sealed: &[u8]) -> Option<u64> {
    crate::crypto::envelope::header(sealed).ok().map(|header| header.revision)
}

/// The id of a new connect flow; it shares the namespace of what a session token's mark is kept under.
pub(crate) fn random_flow_id() -> SessionTokenId {
    SessionTokenId::from_bytes(random())
}

/// To spread what would happen at one moment.
pub(crate) fn random_byte() -> u8 {
    random::<1>()[0]
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rng::fill(&mut bytes);
    bytes
}
