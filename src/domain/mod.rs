//! What the vault decides: synchronous, without I/O and without a clock (`now` is an argument).

mod credential;

pub use credential::{Credential, CredentialKind, InvalidCredential, OAuth2Tokens, Revealed};
