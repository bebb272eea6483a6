//! Anchorhold.

mod clock;
mod codec;
mod crypto;
mod domain;
mod ids;
mod secret;
mod storage;

pub use clock::{Clock, SystemClock, Timestamp};
pub use domain::{
    ApiKeyInfo, AuthorizeError, CreatedApiKey, Credential, CredentialKind, DenialReason, Grant, Grants, Injection,
    InvalidApiKeyRequest, InvalidCredential, InvalidProviderSettings, NewApiKey, OAuth2Tokens, Permission, Permissions,
    ProviderSettings, Revealed,
};
pub use domain::{EnvVar, KeyFile, KeyProvider, LockKind, Passphrase, RawKey, RootKeyError};
pub use ids::{
    AccountHandle, ApiKeyId, ConnectionId, Environment, InvalidId, LinkedAccountId, ProviderName, SessionTokenId, ShardId,
    VaultId,
};
pub use secret::{ApiKey, RootKey, SessionToken};
