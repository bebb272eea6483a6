//! What the vault decides: synchronous, without I/O and without a clock (`now` is an argument).

mod api_key;
pub(crate) mod audit;
mod credential;
mod denial;
mod grants;
pub(crate) mod head;
mod host;
mod inject;
mod provider;

pub use api_key::{ApiKeyInfo, CreatedApiKey, InvalidApiKeyRequest, NewApiKey};
pub(crate) use api_key::{ApiKeyParts, ApiKeyRecord};
pub use audit::{AuditAction, AuditActor, AuditEntry, BrokenLink};
pub use credential::{Credential, CredentialKind, InvalidCredential, OAuth2Tokens, Revealed};
pub use denial::DenialReason;
pub use grants::{Grant, Grants, Permission, Permissions};
pub use inject::AuthorizeError;
pub(crate) use inject::{check_target, inject};
pub use provider::{Injection, InvalidProviderSettings, ProviderSettings};

// What the layers above need of the cryptography, which they don't name themselves.
pub(crate) use crate::crypto::envelope::OpenFailed;
pub(crate) use crate::crypto::header::HeaderError;
pub(crate) use crate::crypto::keyring::{HeaderChange, Keyring, OpenKeyringError, RotationError, WrapPurpose};
pub use crate::crypto::{EnvVar, KeyFile, KeyProvider, LockKind, Passphrase, RawKey, RootKeyError};
