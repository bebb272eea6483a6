//! An embedded vault for the third-party credentials of your customers.
//!
//! A backend that integrates with other services holds, for each of its customers, API keys, passwords and OAuth tokens of those
//! services. Link this crate into that backend: it keeps each customer's credentials sealed under keys of that customer's own, puts
//! them into requests toward the hosts that you allow, and mints short-lived session tokens for the customer's browser. One directory
//! and a root key; no server, no database; the network only to ask the providers.
//!
//! # Two credentials, two views
//!
//! | who | presents | gets | may |
//! |---|---|---|---|
//! | your backend | an [`ApiKey`] | a [`Backend`] | what the key's [`Permissions`] say, in one [`Environment`] |
//! | one customer's browser | a [`SessionToken`] | a [`Session`] | what the token's [`Grants`] say, on one linked account, and never see or use a secret |
//!
//! Authority is a type: what a handle must not do, it has no method for. And it is asked again at each call, so revoking a key or a
//! token, or disabling an account, stops every handle made from it.
//!
//! # Example
//!
//! ```
//! use anchorhold::{
//!     Credential, Environment, Grant, LinkedAccountId, NewConnection, ProviderName, ProviderSettings, RootKey, SessionOptions, Vault,
//! };
//! # futures_lite::future::block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let directory = folder.path().join("vault");
//!
//! // Once: a root key in a file of its own, and the first API key of an environment.
//! let root_key = RootKey::generate_file(folder.path().join("root.key"))?;
//! let vault = Vault::builder(directory).root_key(root_key).open().await?;
//! let api_key = vault.bootstrap_api_key(Environment::Test).await?;
//!
//! // Your backend: where a provider's credentials may go, a customer, a credential of theirs.
//! let backend = vault.backend(&api_key).await?;
//! let github = ProviderName::new("github")?;
//! backend
//!     .set_provider(
//!         ProviderSettings::new(github.clone()).allow_host("api.github.com")?.injection(anchorhold::Injection::Bearer)?,
//!     )
//!     .await?;
//! let acme = backend.create_account(&LinkedAccountId::new("acme-42")?).await?;
//! let connection = acme.add_connection(NewConnection::new(github, Credential::api_key("ghp_123".into()))).await?;
//!
//! // Using it: the credential goes into a request toward an allowed host, or the request stays as it was.
//! let mut request = http::Request::get("https://api.github.com/user").body(())?;
//! connection.authorize(&mut request).await?;
//! assert_eq!(request.headers()["authorization"], "Bearer ghp_123");
//! let mut elsewhere = http::Request::get("https://api.github.com.example.net/").body(())?;
//! assert!(connection.authorize(&mut elsewhere).await.is_err());
//!
//! // The customer's browser: sees that there is a connection, and no secret.
//! let minted = acme.mint_session_token(SessionOptions::new().grants([Grant::ListConnections])).await?;
//! let session = vault.session(&minted.token).await?;
//! assert_eq!(session.connections().await?[0].provider.as_str(), "github");
//! acme.revoke_session_token(&minted.id).await?;
//! assert!(session.connections().await.is_err());
//!
//! vault.close().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! The futures are `Send` and need no particular executor; the vault runs on threads of its own. Dropping a future does not stop what
//! it asked for.
//!
//! # The types
//!
//! ```text
//! Vault ── builder ──► VaultBuilder ── open ──► Vault
//!   │                    KeyFile · EnvVar · Passphrase · RawKey · your own KeyProvider
//!   ├─ backend(ApiKey) ──► Backend ── account(LinkedAccountId) ──► Account ── connection(ConnectionId) ──► Connection
//!   │                        API keys, providers                     metadata, status, audit                 send, authorize, reveal
//!   │                                                                session tokens
//!   ├─ session(SessionToken) ──► Session
//!   └─ events() ──► Events      status() ──► VaultStatus      head() ──► VaultHead      verify() ──► VerifyReport
//! ```
//!
//! | for | see |
//! |---|---|
//! | opening and closing, root keys, backups | [`Vault`], [`VaultBuilder`], [`KeyProvider`], [`VaultHead`] |
//! | what goes in and how it comes out | [`Credential`], [`OAuth2Tokens`], [`Revealed`], [`ConnectionInfo`] |
//! | where credentials may go | [`ProviderSettings`], [`Injection`], [`AuthorizeError`] |
//! | connecting and using them | [`ConnectRequest`], [`ConnectCallback`], [`Connection::send`], [`ConnectionStatus`], [`ReauthReason`] |
//! | OAuth providers | [`CatalogEntry`], [`discover`], [`OAuthSettings`], [`OAuthClient`], [`RefreshProfile`] |
//! | browsers | [`SessionOptions`], [`MintedToken`], [`Session`] |
//! | API keys | [`NewApiKey`], [`Permission`], [`ApiKeyInfo`] |
//! | who did what | [`AuditEntry`], [`AuditReport`], [`AuditPolicy`], [`Events`] |
//! | listings | [`PageRequest`], [`Page`] |
//! | copies that other code makes of a secret | [`ZeroizingAllocator`] |
//! | the network | [`HttpClient`] |
//!
//! # Errors
//!
//! [`OpenError`] says why a vault could not be opened, [`Error`] why a call on an open one did not succeed; smaller enums
//! ([`InvalidId`], [`InvalidCredential`], [`InvalidProvider`], …) say why something could not be made and turn into [`Error`]. Each
//! text names the thing and the next step, and none a secret or a customer's id. [`Error::is_retryable`] tells the ones where the
//! same call may succeed later. `docs/operations.md` goes through all of them.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `reqwest` | on by default; the HTTP client that is used when the host gives none |
//! | `testing` | off by default; for tests, never for production: a disk in memory with faults on demand, a clock that is set by hand (`testing`) |
//!
//! # Further reading
//!
//! In the repository: `docs/design.md` (how it is built, and why), `docs/threat-model.md` (what is promised, against whom, and what is
//! not), `docs/operations.md` (running it), `docs/format.md` and `docs/token-format.md` (every byte). `cargo run --release --example
//! quickstart` shows all of it at work.

#![deny(missing_docs, clippy::expect_used, clippy::unwrap_used)]
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::large_stack_arrays)
)]

mod account;
mod allocator;
mod backend;
mod builder;
mod clock;
mod codec;
mod connection;
mod crypto;
mod domain;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod memory;
mod oauth;
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
pub use allocator::ZeroizingAllocator;
pub use backend::{AuditReport, Backend};
pub use builder::VaultBuilder;
pub use clock::{Clock, SystemClock, Timestamp};
pub use connection::{Connection, SendError};
pub use domain::{
    AccountInfo, AccountStatus, ApiKeyInfo, AuditAction, AuditActor, AuditEntry, AuthorizationRequest, AuthorizeError,
    BrokenLink, ClientAuth, ConnectCallback, ConnectError, ConnectRequest, ConnectionInfo, ConnectionStatus, CreatedApiKey,
    Credential, CredentialKind, Damaged, DenialReason, Error, FailureClass, Grant, Grants, Injection, InvalidApiKeyOptions,
    InvalidCredential, InvalidOAuth, InvalidProvider, InvalidSessionOptions, Item, NewApiKey, OAuth2Tokens, OAuthClient,
    OAuthSettings, OpenError, Permission, Permissions, ProviderSettings, ReauthReason, RefreshFailure, RefreshProfile,
    RefreshRate, Revealed, SessionOptions, VaultPart,
};
pub use domain::{EnvVar, KeyFile, KeyProvider, LockKind, Passphrase, RawKey, RootKeyError};
pub use ids::{
    AccountHandle, ApiKeyId, ConnectionId, Environment, InvalidId, LinkedAccountId, ProviderName, SessionTokenId, ShardId,
    VaultId,
};
pub use oauth::catalog::{CatalogEntry, CatalogError, catalog};
pub use oauth::discovery::{Discovered, DiscoveryError, discover};
pub use oauth::http::{HttpClient, HttpError, HttpFuture, HttpLimits, RequestBody, ResponseBody};
#[cfg(feature = "reqwest")]
pub use oauth::reqwest_client::{InvalidCertificates, ReqwestClient, ReqwestClientBuilder};
pub use page::{Page, PageRequest};
pub use runtime::core::AuditPolicy;
pub use runtime::events::{ApiKeyEventKind, Event, EventKind, Events};
pub use runtime::head::VaultHead;
pub use runtime::ops::sessions::MintedToken;
pub use runtime::rebuild::{Carried, RebuildError, RebuildReport};
pub use runtime::verify::{DamagedAccount, Unproven, VerifyReport};
pub use secret::{ApiKey, RootKey, SessionToken};
pub use session::Session;
pub use vault::{Vault, VaultStatus};
