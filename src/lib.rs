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
    AuthorizeError, Credential, CredentialKind, Injection, InvalidCredential, InvalidProviderSettings, OAuth2Tokens,
    ProviderSettings, Revealed,
};
pub use ids::{
    AccountHandle, ApiKeyId, ConnectionId, Environment, InvalidId, LinkedAccountId, ProviderName, SessionTokenId, ShardId,
    VaultId,
};
pub use secret::{ApiKey, RootKey, SessionToken};
