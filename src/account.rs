//! One linked account, as the host's backend sees it.

use std::fmt;
use std::sync::Arc;

use secrecy::SecretString;

use crate::backend::{AuditReport, audit_page};
use crate::connection::Connection;
use crate::domain::account::info::{AccountInfo, ConnectionInfo};
use crate::domain::audit::AuditEntry;
use crate::domain::claims::SessionOptions;
use crate::domain::{AuthorizationRequest, ConnectCallback, ConnectRequest, Credential, Error, Permission, Revealed};
use crate::ids::{ConnectionId, Environment, LinkedAccountId, ProviderName, SessionTokenId};
use crate::page::{Page, PageRequest};
use crate::runtime::actor::Operation;
use crate::runtime::caller::Caller;
use crate::runtime::core::Core;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::lifecycle::Located;
use crate::runtime::ops::audit::{ReadAudit, VerifyAudit};
use crate::runtime::ops::connect::{BeginConnect, CompleteConnect, ConnectClient, ImportRefreshToken};
use crate::runtime::ops::connections::{AddConnection, ListConnections};
use crate::runtime::ops::info::{Delete, ReadInfo, SetDisabled, SetMetadata};
use crate::runtime::ops::keys::RotateAccountKey;
use crate::runtime::ops::sessions::{MintedToken, RevokeAllSessions, RevokeSession};
use crate::vault::Inner;

/// One linked account: one customer of yours. Made by [`Backend::account`] and [`Backend::create_account`].
///
/// Each call checks the API key again. After the account is deleted every call gets [`Error::NotFound`], also when an account
/// with the same id was created since.
///
/// # Errors of every call
/// [`Error::InvalidApiKey`], [`Error::PermissionDenied`], [`Error::NotFound`], [`Error::Overloaded`], [`Error::Corrupted`],
/// [`Error::RolledBack`], [`Error::Poisoned`], [`Error::Closed`].
///
/// [`Backend::account`]: crate::Backend::account
/// [`Backend::create_account`]: crate::Backend::create_account
#[derive(Clone)]
pub struct Account {
    inner: Arc<Inner>,
    key: Arc<KeyEntry>,
    id: LinkedAccountId,
    located: Located,
}

impl Account {
    pub(crate) fn new(inner: Arc<Inner>, key: Arc<KeyEntry>, id: LinkedAccountId, located: Located) -> Self {
        Self { inner, key, id, located }
    }

    /// The host's id of the account.
    #[must_use]
    pub fn id(&self) -> &LinkedAccountId {
        &self.id
    }

    /// The environment of the account.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.key.environment()
    }

    /// What the vault knows of the account. Needs [`Permission::Accounts`].
    ///
    /// # Errors
    /// Those of every call.
    pub async fn info(&self) -> Result<AccountInfo, Error> {
        self.ask(ReadInfo).await
    }

    /// Replaces the metadata, which must not be secret: up to 4 KiB of text. Needs [`Permission::Accounts`].
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub async fn set_metadata(&self, metadata: &str) -> Result<(), Error> {
        self.ask(SetMetadata(metadata.to_owned())).await
    }

    /// Disables the account: from the moment this returns its credentials can't be used or revealed, no token is minted and its
    /// sessions are refused. Everything is kept, and may be managed. Needs [`Permission::Accounts`].
    ///
    /// # Errors
    /// Those of every call.
    pub async fn disable(&self) -> Result<(), Error> {
        self.ask(SetDisabled(true)).await
    }

    /// Enables the account again; its session tokens that have not expired are good again. Needs [`Permission::Accounts`].
    ///
    /// # Errors
    /// Those of every call.
    pub async fn enable(&self) -> Result<(), Error> {
        self.ask(SetDisabled(false)).await
    }

    /// Deletes the account by shredding: when this returns, no byte of its wrapped keys or sealed records is left in the vault's
    /// files. Its audit goes too; that it was deleted stands in the API-key audit. Needs [`Permission::Accounts`].
    ///
    /// # Security
    /// Backups of the vault hold what they held: one from before, with the root key of that time, still opens. The row that led
    /// from the host's id to the account, and audit entries that were on their way to it, sealed under the vault's key, stay in the
    /// directory's log until their places are reused.
    ///
    /// # Errors
    /// Those of every call, but a damaged account is deleted like any other. After an error the deletion may have been decided: it is then completed when the vault is opened
    /// the next time, and the account is gone already.
    pub async fn delete(&self) -> Result<(), Error> {
        // Asked of the actor first, which checks the key and notes a refusal; an account that is damaged has none to ask.
        match self.ask(Delete).await {
            Ok(()) => {}
            Err(Error::Corrupted(_) | Error::RolledBack(_)) => {
                self.key.admit(self.located.locator(), Permission::Accounts, self.core().clock.now())?;
            }
            Err(error) => return Err(error),
        }
        let (core, environment, id, located) = (Arc::clone(self.core()), self.environment(), self.id.clone(), self.located);
        let actor = self.caller().actor();
        self.core().run("deleting an account", async move { core.delete_account(environment, id, located, actor).await }).await
    }

    /// Replaces the account's key and seals every record anew; the audit keeps its own key. Session tokens minted before, and
    /// sessions opened from them, become invalid. Runs beside other requests of the account. Needs [`Permission::Keys`].
    ///
    /// # Errors
    /// Those of every call. A rotation that was interrupted is completed by the next one, and when the account is next loaded.
    pub async fn rotate_key(&self) -> Result<(), Error> {
        self.ask(RotateAccountKey).await
    }

    /// Adds a connection with its credential; durable when this returns. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::InvalidCredential`] (over 64 KiB, unusable fields), [`Error::InvalidId`] for the label, [`Error::TooMany`] past
    /// 1,000 connections; nothing is stored then.
    pub async fn add_connection(&self, connection: NewConnection) -> Result<Connection, Error> {
        let NewConnection { provider, label, credential } = connection;
        let id = self.ask(AddConnection { provider, label, credential }).await?;
        Ok(Connection::new(self.clone(), id))
    }

    /// Begins to connect a provider: the answer says where to send the customer's browser. The provider sends it back to the request's
    /// redirect URI within 10 minutes; [`complete_connect`](Self::complete_connect) ends the flow. Authorization code with PKCE
    /// S256 (RFC 6749 section 4.1, RFC 7636). Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when the provider has no settings in this environment, [`Error::NotConfigured`] when they have no OAuth
    /// part or no client is set, [`Error::Connect`], [`Error::AccountDisabled`].
    ///
    /// # Examples
    /// ```no_run
    /// # use anchorhold::{Account, ConnectCallback, ConnectRequest, ConnectionId, ProviderName};
    /// # async fn example(account: &Account, query_of_the_callback: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// let request = ConnectRequest::new(ProviderName::new("github")?, "https://app.example.com/oauth/callback")?;
    /// let redirect_to = account.begin_connect(request).await?.url;
    /// // … the customer's browser goes there and comes back with a query
    /// let connection = account.complete_connect(ConnectCallback::from_query(query_of_the_callback)?).await?;
    /// let response = connection.send(http::Request::get("https://api.github.com/user").body("")?).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin_connect(&self, request: ConnectRequest) -> Result<AuthorizationRequest, Error> {
        self.ask(BeginConnect(Box::new(request))).await.map(|request| *request)
    }

    /// Ends a connect flow that [`begin_connect`](Self::begin_connect) began for this account, with whatever API key: exchanges the
    /// code for tokens and stores them, durable when this returns. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::Connect`]; nothing is stored then, and a connection that was to be renewed is as it was. A state works once.
    pub async fn complete_connect(&self, callback: ConnectCallback) -> Result<Connection, Error> {
        let id = self.ask(CompleteConnect(Box::new(callback))).await?;
        Ok(Connection::new(self.clone(), id))
    }

    /// Connects a provider with your own client, without a customer's consent (RFC 6749 section 4.4). `scopes` of `None` are those
    /// of the settings. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// Those of [`begin_connect`](Self::begin_connect); [`ConnectError::NoTokens`](crate::ConnectError::NoTokens).
    pub async fn connect_with_client_credentials(
        &self,
        provider: &ProviderName,
        scopes: Option<Vec<String>>,
        label: &str,
    ) -> Result<Connection, Error> {
        let id = self.ask(ConnectClient { provider: provider.clone(), scopes, label: label.to_owned() }).await?;
        Ok(Connection::new(self.clone(), id))
    }

    /// Makes a connection of a refresh token that you have from elsewhere, by using it: what is stored is what the provider
    /// answers. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// Those of [`begin_connect`](Self::begin_connect); [`ConnectError::NoTokens`](crate::ConnectError::NoTokens).
    pub async fn import_refresh_token(
        &self,
        provider: &ProviderName,
        refresh_token: SecretString,
        label: &str,
    ) -> Result<Connection, Error> {
        let token = Box::new(refresh_token);
        let id = self.ask(ImportRefreshToken { provider: provider.clone(), label: label.to_owned(), token }).await?;
        Ok(Connection::new(self.clone(), id))
    }

    /// The account's connections, in the order of their ids. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// Those of every call.
    pub async fn connections(&self) -> Result<Vec<ConnectionInfo>, Error> {
        self.ask(ListConnections).await
    }

    /// One connection. Needs a key with [`Permission::Connections`], [`Permission::Use`] or [`Permission::Reveal`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when the account has none with this id.
    pub async fn connection(&self, id: &ConnectionId) -> Result<Connection, Error> {
        self.ask(crate::runtime::ops::connections::FindConnection(*id)).await?;
        Ok(Connection::new(self.clone(), *id))
    }

    /// Mints a session token for this account's browser. Needs [`Permission::Sessions`], whatever the token grants.
    ///
    /// # Errors
    /// [`Error::InvalidSession`], [`Error::AccountDisabled`].
    ///
    /// # Examples
    /// ```
    /// # use anchorhold::{Account, Grant, SessionOptions};
    /// # use std::time::Duration;
    /// # async fn example(account: &Account) -> Result<String, anchorhold::Error> {
    /// let options = SessionOptions::new()
    ///     .lifetime(Duration::from_secs(300))
    ///     .grants([Grant::ListConnections, Grant::Disconnect])
    ///     .origins(["https://app.example.com"]);
    /// let minted = account.mint_session_token(options).await?;
    /// let header = format!("Bearer {}", minted.token.expose_secret()); // the one place where the text is taken out
    /// # Ok(header)
    /// # }
    /// ```
    pub async fn mint_session_token(&self, options: SessionOptions) -> Result<MintedToken, Error> {
        self.core().mint(self.located.handle, &self.key, options).await
    }

    /// Revokes one session token; once this returns it is refused everywhere. An id that was never minted is no error, so that
    /// nobody learns which exist. Needs [`Permission::Sessions`].
    ///
    /// # Errors
    /// [`Error::TooMany`] past 20,000 tokens that are revoked or used up and not expired: revoke all then.
    pub async fn revoke_session_token(&self, id: &SessionTokenId) -> Result<(), Error> {
        self.ask(RevokeSession(*id)).await
    }

    /// Revokes every session token minted so far. Needs [`Permission::Sessions`].
    ///
    /// # Errors
    /// Those of every call.
    pub async fn revoke_all_session_tokens(&self) -> Result<(), Error> {
        self.ask(RevokeAllSessions).await
    }

    /// Reads the account's audit, oldest entries first. Needs [`Permission::Accounts`]. Reading does not walk the chain:
    /// [`verify_audit`](Self::verify_audit) does.
    ///
    /// # Errors
    /// [`Error::InvalidCursor`] for a page of another listing.
    pub async fn audit(&self, page: PageRequest) -> Result<Page<AuditEntry>, Error> {
        let items = self.ask(ReadAudit { after: page.after_entry()?, limit: page.limit() }).await?;
        Ok(audit_page(&page, items))
    }

    /// Walks the audit's chain from its first kept entry to its end. Needs [`Permission::Accounts`].
    ///
    /// # Errors
    /// Those of every call; a broken chain is in the answer.
    ///
    /// # Examples
    /// ```
    /// # async fn example(account: &anchorhold::Account) -> Result<(), anchorhold::Error> {
    /// let report = account.verify_audit().await?;
    /// let first_bad_entry = report.broken.map(|link| link.sequence);
    /// assert_eq!(first_bad_entry, None, "{} entries hold", report.entries);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn verify_audit(&self) -> Result<AuditReport, Error> {
        self.ask(VerifyAudit).await.map(AuditReport::of)
    }

    pub(crate) async fn reveal(&self, connection: ConnectionId) -> Result<Box<Revealed>, Error> {
        self.core().reveal(self.located.handle, &self.key, connection).await
    }

    pub(crate) async fn ask<O: Operation>(&self, operation: O) -> Result<O::Answer, Error> {
        self.core().ask(self.located.handle, self.caller(), operation).await
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.inner.core()
    }

    fn caller(&self) -> Caller {
        Caller::ApiKey(Arc::clone(&self.key))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("environment", &self.environment())
            .field("handle", &self.located.handle)
            .finish_non_exhaustive()
    }
}

/// A connection that is to be added.
///
/// ```
/// use anchorhold::{Credential, NewConnection, ProviderName};
/// let connection = NewConnection::new(ProviderName::new("stripe")?, Credential::api_key("sk_123".into())).label("EU shop");
/// # let _ = connection;
/// # Ok::<(), anchorhold::InvalidId>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewConnection {
    provider: ProviderName,
    label: String,
    credential: Box<Credential>,
}

impl NewConnection {
    /// A connection at a provider. The provider needs settings ([`Backend::set_provider`](crate::Backend::set_provider)) only when
    /// the credential is used for requests.
    #[must_use]
    pub fn new(provider: ProviderName, credential: Credential) -> Self {
        Self { provider, label: String::new(), credential: Box::new(credential) }
    }

    /// A name for people, to tell several connections at one provider apart: up to 256 bytes without control characters.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
}
