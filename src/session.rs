//! What a session token opens: one linked account, without a way to any secret.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::domain::account::info::ConnectionInfo;
use crate::domain::claims::SessionClaims;
use crate::domain::{AuthorizationRequest, ConnectCallback, ConnectRequest, Credential, Error, Grants};
use crate::ids::{AccountHandle, ConnectionId, Environment, LinkedAccountId, ProviderName, SessionTokenId};
use crate::runtime::actor::Operation;
use crate::runtime::caller::Caller;
use crate::runtime::ops::connect::{BeginConnect, CompleteConnect, EnterCredential};
use crate::runtime::ops::connections::{ListConnections, RemoveConnection};
use crate::runtime::ops::sessions::ReadSession;
use crate::runtime::sessions::CheckedSession;
use crate::vault::Inner;

/// One browser session of ONE linked account. Made by [`Vault::session`] from its token.
///
/// The account is derived from the token: no method takes an account id, so nothing that a client sends can name another
/// customer; and none returns or uses a secret. Each call checks the token again: once it is revoked or expired, or the account
/// is disabled or deleted, every call gets [`Error::InvalidToken`]; a call that the token does not grant gets
/// [`Error::NotGranted`].
///
/// # Examples
/// ```
/// # use anchorhold::{ConnectionInfo, Error, SessionToken, Vault};
/// /// What a browser asks for: the token from its `Authorization` header is all that says whose connections these are.
/// async fn list(vault: &Vault, bearer: &str) -> Result<Vec<ConnectionInfo>, Error> {
///     vault.session(&SessionToken::from(bearer)).await?.connections().await
/// }
/// ```
///
/// [`Vault::session`]: crate::Vault::session
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
    handle: AccountHandle,
    environment: Environment,
    claims: Arc<SessionClaims>,
}

impl Session {
    pub(crate) fn new(inner: Arc<Inner>, checked: CheckedSession) -> Self {
        let CheckedSession { handle, environment, claims } = checked;
        Self { inner, handle, environment, claims }
    }

    /// The token's id, as it stands in the audit.
    #[must_use]
    pub fn id(&self) -> SessionTokenId {
        self.claims.id
    }

    /// The environment of the account.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// When the token expires.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.claims.expires
    }

    /// What the token grants.
    #[must_use]
    pub fn grants(&self) -> Grants {
        self.claims.grants
    }

    /// The subject that your backend gave the token when it minted it.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.claims.subject.as_deref()
    }

    /// The host's id of the account that the session belongs to.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] when the session has ended.
    pub async fn linked_account_id(&self) -> Result<LinkedAccountId, Error> {
        self.ask(ReadSession).await
    }

    /// The account's connections, as far as the token allows their providers. Needs [`Grant::ListConnections`].
    ///
    /// # Errors
    /// [`Error::InvalidToken`], [`Error::NotGranted`].
    ///
    /// [`Grant::ListConnections`]: crate::Grant::ListConnections
    pub async fn connections(&self) -> Result<Vec<ConnectionInfo>, Error> {
        self.ask(ListConnections).await
    }

    /// Begins to connect a provider that the token allows: the answer says where to send the browser. Needs [`Grant::Connect`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such provider for this session, [`Error::Connect`], [`Error::NotConfigured`],
    /// [`Error::InvalidToken`], [`Error::NotGranted`].
    ///
    /// [`Grant::Connect`]: crate::Grant::Connect
    pub async fn begin_connect(&self, request: ConnectRequest) -> Result<AuthorizationRequest, Error> {
        self.ask(BeginConnect(Box::new(request))).await.map(|request| *request)
    }

    /// Ends a connect flow that this very session began: another session's state, of this account or another, is refused like a
    /// forged one. Needs [`Grant::Connect`].
    ///
    /// # Errors
    /// [`Error::Connect`]; nothing is stored then. [`Error::InvalidToken`], [`Error::NotGranted`].
    ///
    /// [`Grant::Connect`]: crate::Grant::Connect
    pub async fn complete_connect(&self, callback: ConnectCallback) -> Result<ConnectionId, Error> {
        self.ask(CompleteConnect(Box::new(callback))).await
    }

    /// Stores a credential that the customer enters: an API key, user name and password, or named fields, for a provider that has
    /// settings in this environment. Tokens come through [`begin_connect`](Self::begin_connect) only. Needs [`Grant::Connect`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such provider for this session, [`Error::InvalidCredential`], [`Error::Connect`] for
    /// tokens, [`Error::InvalidToken`], [`Error::NotGranted`].
    ///
    /// [`Grant::Connect`]: crate::Grant::Connect
    pub async fn add_credential(
        &self,
        provider: &ProviderName,
        credential: Credential,
        label: &str,
    ) -> Result<ConnectionId, Error> {
        let credential = Box::new(credential);
        self.ask(EnterCredential { provider: provider.clone(), label: label.to_owned(), credential }).await
    }

    /// Removes a connection of this account, after asking its provider to revoke the tokens where it can (RFC 7009). Needs
    /// [`Grant::Disconnect`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when this account has none with that id, or the token does not allow its provider;
    /// [`Error::InvalidToken`], [`Error::NotGranted`].
    ///
    /// [`Grant::Disconnect`]: crate::Grant::Disconnect
    pub async fn disconnect(&self, connection: &ConnectionId) -> Result<(), Error> {
        self.ask(RemoveConnection(*connection)).await
    }

    async fn ask<O: Operation>(&self, operation: O) -> Result<O::Answer, Error> {
        let caller = Caller::Session(Arc::clone(&self.claims));
        match self.inner.core().ask(self.handle, caller, operation).await {
            // An account that is gone ends its sessions like any other reason does.
            Err(Error::NotFound { what: crate::domain::Item::LinkedAccount }) => Err(Error::InvalidToken),
            other => other,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.claims.id)
            .field("environment", &self.environment)
            .field("grants", &self.claims.grants)
            .field("expires_at", &self.claims.expires)
            .finish_non_exhaustive()
    }
}
