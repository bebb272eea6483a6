//! One connection: the two ways out for its credential, and changing it.

use std::fmt;

use crate::account::Account;
#[cfg(doc)]
use crate::domain::Permission;
use crate::domain::account::info::ConnectionInfo;
use crate::domain::inject::{self, Approach};
use crate::domain::{Credential, Error, Revealed};
use crate::ids::ConnectionId;
use crate::oauth::http::{HttpError, HttpLimits, RequestBody, ResponseBody};
use crate::runtime::ops::connections::{ChangeConnection, ConnectionChange, ReadConnection, RemoveConnection};
use crate::runtime::ops::credentials::Use;
use crate::runtime::ops::refresh::RefreshNow;

/// One connection of one linked account: its credential at one provider.
///
/// There is no getter for the credential. It leaves in two ways: put into a request toward the provider's allowed hosts
/// ([`send`](Connection::send), [`authorize`](Connection::authorize)), and shown to a closure ([`reveal`](Connection::reveal)) for API keys that carry
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
        let revealed = self.account.reveal(self.id).await?;
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
        let usable = self.account.ask(Use { connection: self.id, approach, refused: None }).await?;
        Ok(inject::inject(&usable.settings, &usable.revealed, request)?)
    }

    /// Sends a request with the credential in it, as the provider's settings say, if it goes to one of the provider's allowed hosts.
    /// Tokens that are due are refreshed first. When the provider answers 401, tokens that can be are refreshed once and the request
    /// is repeated once, unless its body is a stream; where there are no newer tokens, the 401 is the answer. Needs
    /// [`Permission::Use`].
    ///
    /// No redirect is followed: it is an answer like any other. The whole exchange has 60 seconds; see
    /// [`send_within`](Self::send_within) for other limits. Whatever is not 401 is the answer, also 4xx and 5xx.
    ///
    /// # Errors
    /// [`SendError::Vault`] before anything was sent, with the errors of [`authorize`](Self::authorize) and
    /// [`Error::ReauthRequired`], [`Error::RefreshFailed`], [`Error::Misconfigured`]; [`SendError::Http`] when there is no answer.
    ///
    /// # Examples
    /// ```
    /// # async fn example(connection: anchorhold::Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let request = http::Request::post("https://api.example.com/v1/notes").body("{\"text\":\"hello\"}")?;
    /// let response = connection.send(request).await?;
    /// let body = response.into_body().bytes(1 << 20).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send<B: Into<RequestBody>>(&self, request: http::Request<B>) -> Result<http::Response<ResponseBody>, SendError> {
        self.send_within(request, HttpLimits::default()).await
    }

    /// [`send`](Self::send) with limits of your own; each of the two exchanges has them.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub async fn send_within<B: Into<RequestBody>>(
        &self,
        request: http::Request<B>,
        limits: HttpLimits,
    ) -> Result<http::Response<ResponseBody>, SendError> {
        let mut request = request.map(Into::into);
        let again = copy(&request);
        let generation = self.put_into(&mut request, None).await?;
        let http = &self.account.core().http;
        let response = http.send(request, limits).await?;
        let (Some(mut request), Some(generation), http::StatusCode::UNAUTHORIZED) = (again, generation, response.status()) else {
            return Ok(response);
        };
        match self.put_into(&mut request, Some(generation)).await {
            Ok(newer) if newer != Some(generation) => Ok(http.send(request, limits).await?),
            // Whatever is in the way of newer tokens, the answer stands.
            Ok(_) | Err(_) => Ok(response),
        }
    }

    async fn put_into(&self, request: &mut http::Request<RequestBody>, refused: Option<u64>) -> Result<Option<u64>, Error> {
        let approach = Box::new(Approach::of(request));
        let usable = self.account.ask(Use { connection: self.id, approach, refused }).await?;
        inject::inject(&usable.settings, &usable.revealed, request)?;
        Ok(usable.generation)
    }

    /// Asks the provider for new tokens now, whether they are due or not. Callers that come meanwhile wait for the same answer.
    /// Needs [`Permission::Connections`] or [`Permission::Use`].
    ///
    /// # Errors
    /// [`Error::ReauthRequired`], [`Error::RefreshFailed`], [`Error::Misconfigured`], [`Error::NotConfigured`],
    /// [`Error::ConnectionDisabled`].
    pub async fn refresh(&self) -> Result<(), Error> {
        self.account.ask(RefreshNow(self.id)).await
    }

    /// Disables the connection: its credential can't be used or revealed and its tokens are not refreshed until it is enabled.
    /// Nothing is deleted. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub async fn disable(&self) -> Result<(), Error> {
        self.account.ask(ChangeConnection(self.id, ConnectionChange::Disabled(true))).await
    }

    /// Enables the connection again. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub async fn enable(&self) -> Result<(), Error> {
        self.account.ask(ChangeConnection(self.id, ConnectionChange::Disabled(false))).await
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
    /// [`ReauthRequired`](crate::ConnectionStatus::ReauthRequired) until the credential is replaced. Nothing is deleted. Needs
    /// [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub async fn report_failed(&self) -> Result<(), Error> {
        self.account.ask(ChangeConnection(self.id, ConnectionChange::Failed)).await
    }

    /// Removes the connection and its credential, after asking its provider to revoke the tokens where it can (RFC 7009, at most 20
    /// seconds); whatever the provider says, the connection is removed. The sealed bytes stay in the shard's log until it is
    /// rewritten; deleting the account shreds. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed before.
    pub async fn remove(&self) -> Result<(), Error> {
        self.account.ask(RemoveConnection(self.id)).await
    }
}

/// The request once more, when it can be repeated.
fn copy(request: &http::Request<RequestBody>) -> Option<http::Request<RequestBody>> {
    let mut copy = http::Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Why a request got no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The vault did not put the credential into the request; nothing was sent.
    #[error(transparent)]
    Vault(#[from] Error),
    /// The request was not answered.
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("account", &self.account).finish()
    }
}
