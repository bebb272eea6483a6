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
    ApiKeyInfo, AuditAction, AuditActor, AuditEntry, AuthorizeError, BrokenLink, CreatedApiKey, Credential, CredentialKind,
    Grant, Grants, Injection, InvalidApiKeyOptions, InvalidCredential, InvalidProvider, InvalidSessionOptions, NewApiKey,
    OAuth2Tokens, Permission, Permissions, ProviderSettings, Revealed, SessionOptions,
};
pub use domain::{EnvVar, KeyFile, KeyProvider, LockKind, Passphrase, RawKey, RootKeyError};
pub use ids::{
    AccountHandle, ApiKeyId, ConnectionId, Environment, InvalidId, LinkedAccountId, ProviderName, SessionTokenId, ShardId,
    VaultId,
};
pub use secret::{ApiKey, RootKey, SessionToken};
#[cfg(any(test, feature = "testing"))]
pub use storage::model::{ModelDisk, ModelImage, ModelTree};
