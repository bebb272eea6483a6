//! Anchorhold.

#![deny(missing_docs, clippy::expect_used, clippy::unwrap_used)]
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::large_stack_arrays)
)]

mod account;
mod backend;
mod clock;
mod codec;
mod connection;
mod crypto;
mod domain;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod page;
mod runtime;
mod secret;
mod session;
mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vault;
#[cfg(test)]
mod vectors;

pub use account::{Account, NewConnection};
pub use backend::{AuditReport, Backend};
pub use clock::{Clock, SystemClock, Timestamp};
pub use connection::Connection;
pub use domain::{
    AccountInfo, AccountStatus, ApiKeyInfo, AuditAction, AuditActor, AuditEntry, AuthorizeError, BrokenLink, ConnectionInfo,
    ConnectionStatus, CreatedApiKey, Credential, CredentialKind, Damaged, DenialReason, Error, Grant, Grants, Injection,
    InvalidApiKeyOptions, InvalidCredential, InvalidProvider, InvalidSessionOptions, Item, NewApiKey, OAuth2Tokens, OpenError,
    Permission, Permissions, ProviderSettings, Revealed, SessionOptions, VaultPart,
};
pub use domain::{EnvVar, KeyFile, KeyProvider, LockKind, Passphrase, RawKey, RootKeyError};
pub use ids::{
    AccountHandle, ApiKeyId, ConnectionId, Environment, InvalidId, LinkedAccountId, ProviderName, SessionTokenId, ShardId,
    VaultId,
};
pub use page::{Page, PageRequest};
pub use runtime::core::AuditPolicy;
pub use runtime::events::{ApiKeyEventKind, Event, EventKind, Events};
pub use runtime::head::VaultHead;
pub use runtime::listing::VerifyReport;
pub use runtime::ops::sessions::MintedToken;
pub use secret::{ApiKey, RootKey, SessionToken};
pub use session::Session;
pub use vault::{Vault, VaultBuilder, VaultStatus};
