//! One connection: the two ways out for its credential, and changing it.

use std::fmt;

use crate::account::Account;
#[cfg(doc)]
use crate::domain::Permission;
use crate::domain::account::info::ConnectionInfo;
use crate::domain::inject::{self, Approach};
use crate::domain::{Credential, Error, Revealed};
use crate::ids::ConnectionId;
use crate::runtime::ops::connections::{ChangeConnection, ConnectionChange, ReadConnection, RemoveConnection};
use crate::runtime::ops::credentials::{Reveal, Use};

/// One connection of one linked account: its credential at one provider.
///
/// There is no getter for the credential. It leaves in two ways: put into a request toward the provider's allowed hosts
/// ([`authorize`](Connection::authorize)), and shown to a closure ([`reveal`](Connection::reveal)) for API keys that carry
/// [`Permission::Reveal`]. Each call checks the API key and the account again; see [`Account`] for the errors of every call.
#[derive(Clone)]
pub struct Connection {
    account: Account,
    id: ConnectionId,
}

impl Connection {
    pub(crate) fn new(account: Account, id: ConnectionId) -> Self {
        Self { account, id }
    }

    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The linked account that it belongs to.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What the vault knows of the connection beside its credential. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub async fn info(&self) -> Result<ConnectionInfo, Error> {
        self.account.ask(ReadConnection(self.id)).await
    }

    /// Shows the credential to `look`, and wipes it when `look` returns or panics. Needs [`Permission::Reveal`].
    ///
    /// What the closure copies is the host's to wipe. It runs on the caller's thread.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AccountDisabled`]. `look` is not called then.
    ///
    /// # Examples
    /// ```
    /// # async fn example(connection: anchorhold::Connection) -> Result<(), anchorhold::Error> {
    /// let length = connection.reveal(|secret| secret.api_key().map(str::len)).await?;
    /// # let _ = length;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reveal<R>(&self, look: impl FnOnce(&Revealed) -> R) -> Result<R, Error> {
        let revealed = self.account.ask(Reveal(self.id)).await?;
        Ok(look(&revealed))
    }

    /// Puts the credential into a request, as the provider's settings say, if the request goes to one of the provider's allowed
    /// hosts. Needs [`Permission::Use`].
    ///
    /// The header is marked sensitive. The request is the host's: its copy of the secret lives as long as the request does.
    ///
    /// # Security
    /// What is checked is where this request goes. A client that follows a redirect may carry the credential elsewhere: switch
    /// redirects off, above all where the credential goes into a header of the provider's own or into the query.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`] when the request goes elsewhere or can't carry the credential, [`Error::NotFound`] when the
    /// connection was removed or the provider has no settings, [`Error::AccountDisabled`]. The request is unchanged then.
    ///
    /// # Examples
    /// ```
    /// # async fn example(connection: anchorhold::Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut request = http::Request::get("https://api.example.com/v1/me").body(())?;
    /// connection.authorize(&mut request).await?;
    /// // … send it with the HTTP client of your choice
    /// # Ok(())
    /// # }
    /// ```
    pub async fn authorize<B>(&self, request: &mut http::Request<B>) -> Result<(), Error> {
        let approach = Box::new(Approach::of(request));
        let usable = self.account.ask(Use { connection: self.id, approach }).await?;
        Ok(inject::inject(&usable.settings, &usable.revealed, request)?)
    }

    /// Replaces the credential; the id stays, and a failed connection is active again. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::InvalidCredential`]; the old credential is kept then.
    pub async fn replace_credential(&self, credential: Credential) -> Result<(), Error> {
        self.account.ask(ChangeConnection(self.id, ConnectionChange::Credential(Box::new(credential)))).await
    }

    /// Changes the label: up to 256 bytes without control characters, empty for none. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::InvalidId`].
    pub async fn set_label(&self, label: &str) -> Result<(), Error> {
        self.account.ask(ChangeConnection(self.id, ConnectionChange::Label(label.to_owned()))).await
    }

    /// Records that the provider refused the credential: the status becomes
    /// [`Failed`](crate::ConnectionStatus::Failed) until the credential is replaced. Nothing is deleted. Needs
    /// [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub async fn report_failed(&self) -> Result<(), Error> {
        self.account.ask(ChangeConnection(self.id, ConnectionChange::Failed)).await
    }

    /// Removes the connection and its credential. The sealed bytes stay in the shard's log until it is rewritten; deleting the
    /// account shreds. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed before.
    pub async fn remove(&self) -> Result<(), Error> {
        self.account.ask(RemoveConnection(self.id)).await
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("account", &self.account).finish()
    }
}
