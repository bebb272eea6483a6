//! What the vault decides: synchronous, without I/O and without a clock (`now` is an argument).

mod credential;
mod host;
mod inject;
mod provider;

pub use credential::{Credential, CredentialKind, InvalidCredential, OAuth2Tokens, Revealed};
pub use inject::AuthorizeError;
pub(crate) use inject::{check_target, inject};
pub use provider::{Injection, InvalidProviderSettings, ProviderSettings};
