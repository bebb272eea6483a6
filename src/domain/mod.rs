//! What the vault decides: synchronous, without I/O and without a clock (`now` is an argument).

pub(crate) mod audit;
mod credential;
pub(crate) mod head;
mod host;
mod inject;
mod provider;

pub use audit::{AuditAction, AuditActor, AuditEntry, BrokenLink};
pub use credential::{Credential, CredentialKind, InvalidCredential, OAuth2Tokens, Revealed};
pub use inject::AuthorizeError;
pub(crate) use inject::{check_target, inject};
pub use provider::{Injection, InvalidProviderSettings, ProviderSettings};
