//! What an operation on an open vault answers when it does not succeed.
//!
//! It stands in the domain layer, not beside the handles, because the runtime returns it: an error that is converted at each
//! floor loses its cause on the way.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::domain::api_key::InvalidApiKeyOptions;
use crate::domain::claims::InvalidSessionOptions;
use crate::domain::credential::InvalidCredential;
use crate::domain::grants::{Grant, Permission};
use crate::domain::inject::AuthorizeError;
use crate::domain::oauth::connect::ConnectError;
use crate::domain::oauth::refresh::{ReauthReason, RefreshFailure};
use crate::domain::provider::InvalidProvider;
use crate::ids::{AccountHandle, Environment, InvalidId, ShardId};

/// Why an operation did not succeed: what happened, to which thing, and what to do next.
///
/// No variant carries a secret, a customer's id, or a hint that another customer exists. See
/// [`is_retryable`](Error::is_retryable) for the ones where the same call may succeed later.
///
/// # Examples
/// ```
/// # use anchorhold::Error;
/// /// The status of an HTTP answer to a browser: what only the host may know looks like any other fault.
/// fn status(error: &Error) -> u16 {
///     match error {
///         Error::InvalidToken => 401,
///         Error::NotGranted { .. } => 403,
///         Error::NotFound { .. } => 404,
///         Error::Overloaded => 503,
///         _ => 500,
///     }
/// }
/// # assert_eq!(status(&Error::InvalidToken), 401);
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API key is not one of this vault's, or is expired or revoked. Which of them is not told.
    #[error("the API key is not valid here: check that it is complete, and neither expired nor revoked")]
    InvalidApiKey,
    /// The session token is not good: forged, expired, revoked, used up, or presented from an origin that it does not allow.
    /// Which of them stands in the account's audit only.
    #[error("the session token is not valid: mint a new one for this customer")]
    InvalidToken,
    /// The API key does not carry the permission that the call needs.
    #[error("the API key lacks the permission {needed:?}: use a key that has it, or create one")]
    PermissionDenied {
        /// The missing permission.
        needed: Permission,
    },
    /// The session token does not grant what the call needs.
    #[error("the session token does not grant {needed:?}: mint one that does")]
    NotGranted {
        /// The missing grant.
        needed: Grant,
    },
    /// There is no such thing, or the caller may not know of it.
    #[error("no such {what}")]
    NotFound {
        /// The kind of thing.
        what: Item,
    },
    /// The linked account is disabled: its credentials can't be used and its sessions are refused until it is enabled.
    #[error("the linked account is disabled: enable it first")]
    AccountDisabled,
    /// The connection is disabled: its credential can't be used or revealed until it is enabled.
    #[error("the connection is disabled: enable it first")]
    ConnectionDisabled,
    /// There is no good access token and no way to a new one. The customer has to connect anew; the connection is kept.
    #[error("the customer has to connect again ({reason}): begin a connect flow for this connection")]
    ReauthRequired {
        /// Why.
        reason: ReauthReason,
    },
    /// There is no good access token at the moment; it is asked for again later.
    #[error("no fresh access token yet ({reason}): try again after {until:?}")]
    RefreshFailed {
        /// When the provider is asked again.
        until: Timestamp,
        /// Why the last request failed.
        reason: RefreshFailure,
    },
    /// The provider refuses the host's client or settings, so there is no good access token.
    #[error("the provider refuses the client or the settings ({reason}): correct them, then refresh the connection")]
    Misconfigured {
        /// What the provider said.
        reason: RefreshFailure,
    },
    /// A connect flow did not come to tokens. A connection that was to be renewed is as it was.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The provider has no OAuth settings or no client in this environment.
    #[error("the provider has no {what} in this environment: set it first")]
    NotConfigured {
        /// What is missing.
        what: &'static str,
    },
    /// The environment's first API key was handed out before.
    #[error(
        "the first API key of the {environment} environment was created before: use it, or another key with the permission Keys"
    )]
    AlreadyBootstrapped {
        /// The environment.
        environment: Environment,
    },
    /// A value has more bytes than allowed; nothing was stored.
    #[error("{what} of {bytes} bytes: the limit is {limit}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// How many bytes are allowed.
        limit: usize,
        /// How many were given.
        bytes: usize,
    },
    /// There are as many of a thing as allowed; nothing was stored.
    #[error("there are {limit} {what} already: remove some first")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// An identifier or label is not usable.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// A credential is not usable; nothing was stored.
    #[error(transparent)]
    InvalidCredential(#[from] InvalidCredential),
    /// A provider's settings are not usable; nothing was stored.
    #[error(transparent)]
    InvalidProvider(#[from] InvalidProvider),
    /// Session options are not usable; no token was minted.
    #[error(transparent)]
    InvalidSession(#[from] InvalidSessionOptions),
    /// Options of an API key are not usable; no key was created.
    #[error(transparent)]
    InvalidApiKeyOptions(#[from] InvalidApiKeyOptions),
    /// The request may not carry the credential; it was left as it was.
    #[error(transparent)]
    NotAuthorized(#[from] AuthorizeError),
    /// The page cursor is not one that this listing gave.
    #[error("the page cursor is not from this listing: start again without one")]
    InvalidCursor,
    /// The account has too many requests waiting. Other accounts are served.
    #[error("too many requests are waiting: try again in a moment")]
    Overloaded,
    /// Stored rows are not what was acknowledged. They are neither used nor overwritten; other shards are served. See
    /// `docs/operations.md`, "A part is damaged".
    #[error(
        "stored data is damaged in {0}; the rest of the vault is served: delete the accounts concerned, or restore the whole vault"
    )]
    Corrupted(Damaged),
    /// Stored rows are older than what was acknowledged. They are neither used nor overwritten.
    #[error("stored data is older than what was acknowledged in {0}: put the newest copy of the vault back")]
    RolledBack(Damaged),
    /// A write failed or stalled, so nothing is acknowledged until the vault is opened again. What was acknowledged before is
    /// safe; whether a call that got this error took effect is known after reopening.
    #[error("the vault stopped acknowledging after a failure ({reason}): mend the cause, then open the vault again")]
    Poisoned {
        /// What failed first.
        reason: Arc<str>,
    },
    /// The vault is closed.
    #[error("the vault is closed: open it again")]
    Closed,
    /// The operating system refused an operation on the vault's files.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The provider of the new root key failed; nothing has changed.
    #[error(transparent)]
    RootKey(#[from] Arc<crate::domain::RootKeyError>),
    /// A rotation to another root key is unfinished; that key and the one before it open the vault.
    #[error("a rotation to another root key is unfinished: complete it with that key first")]
    RotationUnfinished,
    /// A fault of this library. The account is served again at once; its credentials are unchanged or the change is whole.
    #[error("internal fault while {doing}: please report it")]
    Internal {
        /// What was being done.
        doing: &'static str,
    },
}

impl Error {
    /// Whether the same call may succeed later without anything being changed by the host.
    ///
    /// ```
    /// assert!(anchorhold::Error::Overloaded.is_retryable());
    /// assert!(!anchorhold::Error::InvalidToken.is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Overloaded | Error::Internal { .. } | Error::RefreshFailed { .. })
    }

    /// Names the account that was asked for, where a shard is too damaged to tell whose rows it held.
    pub(crate) fn naming(mut self, account: AccountHandle) -> Self {
        if let Error::Corrupted(damaged) | Error::RolledBack(damaged) = &mut self
            && matches!(damaged.part, VaultPart::Shard(_))
            && damaged.accounts.is_empty()
        {
            damaged.accounts.push(account);
        }
        self
    }
}

/// A kind of thing that can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Item {
    /// A linked account.
    LinkedAccount,
    /// A connection of the account.
    Connection,
    /// A session token of the account.
    SessionToken,
    /// An API key of the environment.
    ApiKey,
    /// A provider's settings in the environment.
    Provider,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Item::LinkedAccount => "linked account",
            Item::Connection => "connection",
            Item::SessionToken => "session token",
            Item::ApiKey => "API key",
            Item::Provider => "provider",
        })
    }
}

/// Which part of a vault an error speaks of. Accounts are named by handle, never by the host's customer id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damaged {
    /// The part: the header, the directory, or a shard.
    pub part: VaultPart,
    /// The accounts that are known to be affected.
    pub accounts: Vec<AccountHandle>,
    /// Which rule the stored rows break.
    pub detail: Arc<str>,
}

/// A part of a vault on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VaultPart {
    /// The two copies of the header.
    Header,
    /// The directory and its anchor.
    Directory,
    /// One shard and its anchor.
    Shard(ShardId),
}

impl fmt::Display for VaultPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VaultPart::Header => f.write_str("the header"),
            VaultPart::Directory => f.write_str("the directory"),
            VaultPart::Shard(shard) => write!(f, "shard {shard}"),
        }
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.part)?;
        match self.accounts.as_slice() {
            [] => {}
            [account] => write!(f, ", account {account}")?,
            [account, rest @ ..] => write!(f, ", account {account} and {} more", rest.len())?,
        }
        write!(f, " ({})", self.detail)
    }
}

/// Why a vault could not be opened: what is wrong with what, and what to do next. Nothing that was stored has changed.
///
/// # Examples
/// ```
/// # use anchorhold::{OpenError, RawKey, Vault};
/// # futures_lite::future::block_on(async {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("vault");
/// # Vault::builder(&path).root_key(RawKey::new([7; 32])).open().await?.close().await?;
/// let refused = Vault::builder(&path).root_key(RawKey::new([8; 32])).open().await;
/// assert!(matches!(refused, Err(OpenError::WrongRootKey)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The root key is not this vault's.
    #[error("the root key is not this vault's: give the one that the vault was created or last rotated with")]
    WrongRootKey,
    /// A rotation of the root key is unfinished and only one of its two keys was given.
    #[error("a rotation of the root key is unfinished: give the new key as root_key and the old one as previous_root_key")]
    BothRootKeysNeeded,
    /// The vault was written by a newer version of this library.
    #[error("the vault has format {found}, this version reads up to {supported}: use a newer version of anchorhold")]
    NewerFormat {
        /// The format of the vault.
        found: u16,
        /// The newest format that this version reads.
        supported: u16,
    },
    /// The directory has files that are not a vault's.
    #[error("the directory has files that are not a vault's: give an empty or new directory, or that of a vault")]
    NotAVault,
    /// Another process, or another vault handle of this one, has the vault open. Not one byte was changed.
    #[error("the vault is open already, in this process or another: close it there first")]
    AlreadyOpen,
    /// The vault is older than what the host, or the vault itself, remembers.
    #[error("the vault is older than what was acknowledged in {0}: put the newest copy back")]
    RolledBack(Damaged),
    /// A part without which nothing can be served is damaged.
    #[error("the vault is damaged in {0}: restore it from a backup; a directory can also be rebuilt from the shards")]
    Corrupted(Damaged),
    /// The head given to `expect_head` is of another vault.
    #[error("the expected head is of another vault: give the head that this vault returned")]
    ForeignHead,
    /// The root key provider failed.
    #[error(transparent)]
    RootKey(#[from] crate::domain::RootKeyError),
    /// The operating system refused an operation on the vault's files, or a thread.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// No [`root_key`](crate::VaultBuilder::root_key) was given.
    #[error("no root key was given: call root_key on the builder")]
    NoRootKey,
    /// The vault stopped acknowledging while it was being opened.
    #[error("the vault stopped acknowledging while it was opened ({reason}): mend the cause and open it again")]
    Poisoned {
        /// What failed.
        reason: Arc<str>,
    },
    /// A fault of this library.
    #[error("internal fault while {doing}: please report it")]
    Internal {
        /// What was being done.
        doing: &'static str,
    },
}
