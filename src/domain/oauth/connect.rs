//! The connect flow without I/O: what is asked for, the state that travels through the customer's browser, and what comes back
//! (RFC 6749 section 4.1, RFC 7636, RFC 9207).
//!
//! ```text
//! state    = base64url( version(1) = 1 ‖ handle(16) ‖ envelope of the encoded flow )      under derive(token key; connect-state)
//! aad      = "anchorhold connect state" ‖ vault id(16) ‖ environment(1) ‖ handle(16)
//! verifier = base64url( mac(connect-verifier; vault id, handle, flow id) )
//! ```
//!
//! Nothing is stored when a flow begins, so that beginning many costs nothing; the flow's id is marked as used up, durably, before
//! the code is sent to the provider.

use std::fmt;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::codec;
use crate::crypto::derive::Label;
use crate::crypto::envelope;
use crate::crypto::key::Key;
use crate::domain::account::records::Owner;
use crate::domain::credential::{MAX_SCOPES, is_scope};
use crate::ids::{AccountHandle, ApiKeyId, ConnectionId, ProviderName, SessionTokenId};

/// How long a customer may take at the provider.
pub(crate) const FLOW_LIFETIME: Duration = Duration::from_secs(10 * 60);

const VERSION: u8 = 1;
const MAX_STATE_BYTES: usize = 8 * 1024;
const MAX_CODE_BYTES: usize = 8 * 1024;
const MAX_URI_BYTES: usize = 2_048;
const AAD_LABEL: &[u8] = b"anchorhold connect state";

/// What a customer is to be asked for.
///
/// ```
/// use anchorhold::{ConnectRequest, ProviderName};
/// let request = ConnectRequest::new(ProviderName::new("github")?, "https://app.example.com/oauth/callback")?
///     .scopes(["repo"])?
///     .label("work");
/// assert!(ConnectRequest::new(ProviderName::new("github")?, "http://app.example.com/").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    pub(crate) provider: ProviderName,
    pub(crate) redirect_uri: String,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) label: String,
    pub(crate) connection: Option<ConnectionId>,
}

impl ConnectRequest {
    /// A new connection with the provider; the customer comes back to `redirect_uri`, which the provider must know: `https`, or
    /// `http` on this machine (RFC 8252 section 7.3), without a fragment, at most 2,048 bytes.
    ///
    /// # Errors
    /// [`ConnectError::RedirectUri`].
    pub fn new(provider: ProviderName, redirect_uri: impl Into<String>) -> Result<Self, ConnectError> {
        let redirect_uri = redirect_uri.into();
        if !is_redirect_uri(&redirect_uri) {
            return Err(ConnectError::RedirectUri);
        }
        Ok(Self { provider, redirect_uri, scopes: None, label: String::new(), connection: None })
    }

    /// Asks for these scopes instead of those of the provider's settings: as few as the work needs. At most 64.
    ///
    /// # Errors
    /// [`ConnectError::Scopes`].
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Result<Self, ConnectError> {
        let scopes: Vec<String> = scopes.into_iter().map(Into::into).collect();
        if scopes.len() > MAX_SCOPES || !scopes.iter().all(|scope| is_scope(scope)) {
            return Err(ConnectError::Scopes);
        }
        self.scopes = Some(scopes);
        Ok(self)
    }

    /// The label of the new connection: up to 256 bytes without control characters.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Renews the tokens of this connection instead of making a new one: its id, label and creation stay. Until the flow has come
    /// to its end the connection works as before.
    #[must_use]
    pub const fn reconnect(mut self, connection: ConnectionId) -> Self {
        self.connection = Some(connection);
        self
    }
}

/// Where to send the customer's browser.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorizationRequest {
    /// The provider's authorization page with everything that it needs.
    pub url: String,
    /// When the flow ends, if the customer has not come back.
    pub expires_at: Timestamp,
}

impl fmt::Debug for AuthorizationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationRequest").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// What a provider's page brought back to the redirect URI.
///
/// ```
/// let callback = anchorhold::ConnectCallback::from_query("code=SplxlOBe&state=xyz&iss=https%3A%2F%2Fidp.example.com")?;
/// assert!(anchorhold::ConnectCallback::from_query("code=a&code=b&state=xyz").is_err());
/// # Ok::<(), anchorhold::ConnectError>(())
/// ```
pub struct ConnectCallback {
    pub(crate) state: SecretString,
    pub(crate) answer: CallbackAnswer,
    pub(crate) iss: Option<String>,
}

/// A code, or why there is none.
pub(crate) enum CallbackAnswer {
    Code(SecretString),
    Error(String),
}

impl ConnectCallback {
    /// From the query of the redirect URI, without `?`. Parameters that are none of `code`, `state`, `iss` and `error` are left
    /// out of account; one of these that comes twice is refused (RFC 6749 section 3.1).
    ///
    /// # Errors
    /// [`ConnectError::Callback`] when it has no state, or neither a code nor an error.
    pub fn from_query(query: &str) -> Result<Self, ConnectError> {
        if query.len() > MAX_STATE_BYTES + MAX_CODE_BYTES + MAX_URI_BYTES {
            return Err(ConnectError::Callback);
        }
        let (mut code, mut state, mut iss, mut error) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "code" => &mut code,
                "state" => &mut state,
                "iss" => &mut iss,
                "error" => &mut error,
                _ => continue,
            };
            if slot.replace(SecretString::from(value.into_owned())).is_some() {
                return Err(ConnectError::Callback);
            }
        }
        let state = state.filter(|state| (1..=MAX_STATE_BYTES).contains(&state.expose_secret().len()));
        let state = state.ok_or(ConnectError::Callback)?;
        let answer = match (code, error) {
            (Some(code), None) if is_visible(code.expose_secret(), MAX_CODE_BYTES) => CallbackAnswer::Code(code),
            (None, Some(error)) => CallbackAnswer::Error(visible(error.expose_secret())),
            _ => return Err(ConnectError::Callback),
        };
        Ok(Self { state, answer, iss: iss.map(|iss| iss.expose_secret().to_owned()) })
    }
}

impl fmt::Debug for ConnectCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectCallback").finish_non_exhaustive()
    }
}

/// Why a connect flow did not come to tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The redirect URI is not usable.
    #[error("redirect URI: use https, or http on this machine, without a fragment, at most 2,048 bytes")]
    RedirectUri,
    /// A scope is not usable.
    #[error("scopes: at most 64, each 1 to 256 visible ASCII characters other than quotes and backslashes")]
    Scopes,
    /// The callback is none: parameters are missing, repeated or too long.
    #[error("the callback has no state, or not exactly one of code and error: begin the connect flow again")]
    Callback,
    /// The state is not one of this account and caller, or is expired or used up. Which of them stands in the account's audit only.
    #[error("the connect flow is not valid here, or is over: begin it again")]
    InvalidState,
    /// The answer comes from another issuer than the flow was begun with (RFC 9207).
    #[error(
        "the callback names another issuer than the provider's settings: check the settings, and that nobody mixes up providers"
    )]
    WrongIssuer,
    /// The customer or the provider refused; the provider's error code (RFC 6749 section 4.1.2.1).
    #[error("the provider refused ({code}): begin the connect flow again when the reason is gone")]
    Refused {
        /// The error code: at most 64 visible ASCII characters.
        code: String,
    },
    /// The code could not be exchanged for tokens. A code works once: begin the flow again.
    #[error("no tokens: {reason}")]
    NoTokens {
        /// Why.
        reason: super::refresh::RefreshFailure,
    },
    /// The provider can't be connected to in this way.
    #[error("the provider's settings have no {what}: this way to connect needs it")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
}

/// Who began a flow, and who alone may end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FlowOwner {
    /// Any API key of the host that may manage the account's connections: keys rotate.
    Backend(ApiKeyId),
    /// One session.
    Session(SessionTokenId),
}

/// A flow that was begun: what the state holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) id: SessionTokenId,
    pub(crate) owner: FlowOwner,
    pub(crate) provider: String,
    pub(crate) redirect_uri: String,
    pub(crate) issuer: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) label: String,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) expires: Timestamp,
    /// The account's epoch: an epoch later, the mark that the flow is used up may be gone.
    pub(crate) epoch: u64,
}

impl Flow {
    /// The state to send along.
    pub(crate) fn seal(&self, token_key: &Key, owner: &Owner) -> Option<String> {
        let plain = codec::encode(self).ok()?;
        let key = token_key.derive(Label::ConnectState, &[]);
        let sealed = with_aad(owner, |aad| envelope::seal(&key, u32::from(VERSION), aad, 0, &plain));
        let raw = [&[VERSION], owner.handle.as_bytes().as_slice(), &sealed].concat();
        let text = Base64UrlUnpadded::encode_string(&raw);
        (text.len() <= MAX_STATE_BYTES).then_some(text)
    }

    /// Reads a state that was sealed for this account of this vault.
    pub(crate) fn open(state: &SecretString, token_key: &Key, owner: &Owner) -> Option<Self> {
        let raw = Base64UrlUnpadded::decode_vec(state.expose_secret()).ok()?;
        let (version, rest) = raw.split_first()?;
        let (handle, sealed) = rest.split_first_chunk::<16>()?;
        if *version != VERSION || AccountHandle::from_bytes(*handle) != owner.handle {
            return None;
        }
        let key = token_key.derive(Label::ConnectState, &[]);
        let plain = with_aad(owner, |aad| envelope::open(&key, aad, Some(0), sealed)).ok()?;
        codec::decode(&plain).ok()
    }

    /// The PKCE code verifier (RFC 7636 section 4.1): known to nobody who has not the account's token key, and stored nowhere.
    pub(crate) fn verifier(&self, token_key: &Key, owner: &Owner) -> SecretString {
        let key = token_key.derive(Label::ConnectVerifier, &[]);
        let mac = key.mac(Label::ConnectVerifier, &[owner.vault.as_bytes(), owner.handle.as_bytes(), self.id.as_bytes()]);
        Base64UrlUnpadded::encode_string(&mac).into()
    }
}

fn with_aad<R>(owner: &Owner, with: impl FnOnce(&[&[u8]]) -> R) -> R {
    with(&[AAD_LABEL, owner.vault.as_bytes(), &[owner.environment.byte()], owner.handle.as_bytes()])
}

fn is_redirect_uri(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let Ok(target) = crate::domain::host::Target::of(&uri) else { return false };
    text.len() <= MAX_URI_BYTES && !text.contains(['#', '@']) && (target.https || target.host.is_loopback())
}

fn is_visible(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len()) && text.bytes().all(|b| matches!(b, 0x20..=0x7e))
}

/// At most 64 visible ASCII characters of a text that somebody else wrote.
fn visible(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
