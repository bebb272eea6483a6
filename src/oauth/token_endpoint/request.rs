//! Builds requests with the oauth2 crate, which knows the parameters and encodings of RFC 6749, 7636 and 7009.
//!
//! Its typed exchange is left there: it gives parse errors that own the answer's body, refuses content types that real providers
//! send, and insists on field types. So the HTTP function that it is given keeps the request and sends nothing.
//!
//! oauth2 holds codes, tokens and the client secret in plain `String`s, which are freed and not wiped: tier 2 of the promise. The
//! finished body is wiped.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use http::header::AUTHORIZATION;
use http::{Request, Uri};
use oauth2::basic::BasicClient;
use oauth2::{
    AccessToken, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, ErrorResponse, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, RevocationUrl, Scope,
    StandardRevocableToken, TokenUrl,
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::domain::oauth::client::OAuthClient;
use crate::domain::oauth::failure::{FailureKind, TokenFailure};
use crate::domain::oauth::settings::{ClientAuth, OAuthSettings};

type Built = Result<Request<Zeroizing<Vec<u8>>>, TokenFailure>;

/// What is asked of the authorization endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Authorization<'a> {
    pub(crate) redirect_uri: &'a str,
    /// In the order in which they are sent; none leaves the choice to the provider.
    pub(crate) scopes: &'a [String],
    pub(crate) state: &'a str,
    /// 43 to 128 characters; only its SHA-256 goes into the address (RFC 7636 section 4.2).
    pub(crate) verifier: &'a SecretString,
}

impl Authorization<'_> {
    /// The address to which the customer's browser is sent (RFC 6749 section 4.1.1, PKCE with S256). `None` when the settings have
    /// no authorization endpoint, or the verifier is none (RFC 7636 section 4.1).
    pub(crate) fn url(&self, settings: &OAuthSettings, client: &OAuthClient) -> Option<String> {
        let endpoint = AuthUrl::new(settings.authorization_endpoint()?.to_owned()).ok()?;
        let verifier = self.verifier.expose_secret();
        if !(43..=128).contains(&verifier.len()) || !verifier.bytes().all(is_unreserved) {
            return None;
        }
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier.to_owned()));
        let oauth = BasicClient::new(ClientId::new(client.id().to_owned())).set_auth_uri(endpoint);
        let redirect = RedirectUrl::new(self.redirect_uri.to_owned()).ok()?;
        let mut request = oauth
            .authorize_url(|| CsrfToken::new(self.state.to_owned()))
            .set_pkce_challenge(challenge)
            .set_redirect_uri(Cow::Owned(redirect))
            .add_scopes(joined(self.scopes, settings));
        for (name, value) in settings.authorization_parameters() {
            request = request.add_extra_param(name, value);
        }
        Some(request.url().0.into())
    }
}

/// Which token is revoked: the hint of RFC 7009 section 2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Access,
    Refresh,
}

pub(super) fn exchange_code(
    settings: &OAuthSettings,
    client: &OAuthClient,
    code: &SecretString,
    redirect_uri: &str,
    verifier: &SecretString,
) -> Built {
    let oauth = basic_client(settings, client).set_token_uri(token_url(settings)?);
    let redirect = RedirectUrl::new(redirect_uri.to_owned()).map_err(|_| unusable())?;
    let mut request = oauth
        .exchange_code(AuthorizationCode::new(code.expose_secret().to_owned()))
        .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose_secret().to_owned()))
        .set_redirect_uri(Cow::Owned(redirect));
    for (name, value) in settings.token_parameters() {
        request = request.add_extra_param(name, value);
    }
    built(request.request(&keep))
}

pub(super) fn refresh(settings: &OAuthSettings, client: &OAuthClient, refresh_token: &SecretString) -> Built {
    let oauth = basic_client(settings, client).set_token_uri(token_url(settings)?);
    let refresh_token = RefreshToken::new(refresh_token.expose_secret().to_owned());
    let mut request = oauth.exchange_refresh_token(&refresh_token);
    for (name, value) in settings.token_parameters() {
        request = request.add_extra_param(name, value);
    }
    built(request.request(&keep))
}

pub(super) fn client_credentials(settings: &OAuthSettings, client: &OAuthClient, scopes: &[String]) -> Built {
    let oauth = basic_client(settings, client).set_token_uri(token_url(settings)?);
    let mut request = oauth.exchange_client_credentials().add_scopes(joined(scopes, settings));
    for (name, value) in settings.token_parameters() {
        request = request.add_extra_param(name, value);
    }
    built(request.request(&keep))
}

pub(super) fn revoke(settings: &OAuthSettings, client: &OAuthClient, token: &SecretString, kind: TokenKind) -> Built {
    let endpoint = settings.revocation_endpoint().ok_or_else(unusable)?;
    // oauth2 insists on https here. The settings allow http toward loopback hosts, so it gets an address of its own, and the request
    // the true one.
    let stand_in = RevocationUrl::new("https://localhost/".to_owned()).map_err(|_| unusable())?;
    let oauth = basic_client(settings, client).set_revocation_url(stand_in);
    let token = token.expose_secret().to_owned();
    let token = match kind {
        TokenKind::Access => StandardRevocableToken::AccessToken(AccessToken::new(token)),
        TokenKind::Refresh => StandardRevocableToken::RefreshToken(RefreshToken::new(token)),
    };
    let request = oauth.revoke_token(token).map_err(|_| unusable())?;
    let mut request = built(request.request(&keep))?;
    *request.uri_mut() = endpoint.parse::<Uri>().map_err(|_| unusable())?;
    Ok(request)
}

fn basic_client(settings: &OAuthSettings, client: &OAuthClient) -> BasicClient {
    let oauth = BasicClient::new(ClientId::new(client.id().to_owned()));
    match (settings.client_auth(), client.secret()) {
        // Without a secret oauth2 sends the id in the body, as a public client has to.
        (ClientAuth::None, _) | (_, None) => oauth,
        (auth, Some(secret)) => oauth
            .set_client_secret(ClientSecret::new(secret.expose_secret().to_owned()))
            .set_auth_type(if auth == ClientAuth::Post { AuthType::RequestBody } else { AuthType::BasicAuth }),
    }
}

fn token_url(settings: &OAuthSettings) -> Result<TokenUrl, TokenFailure> {
    TokenUrl::new(settings.token_endpoint().to_owned()).map_err(|_| unusable())
}

/// All scopes as one: oauth2 would join them by spaces, whatever the provider wants.
fn joined(scopes: &[String], settings: &OAuthSettings) -> Option<Scope> {
    let separator = settings.scope_separator().encode_utf8(&mut [0; 4]).to_owned();
    (!scopes.is_empty()).then(|| Scope::new(scopes.join(&separator)))
}

/// The unreserved characters of RFC 3986, of which a verifier consists (RFC 7636 section 4.1).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The settings can't be turned into a request: the class of that failure is a wrong configuration.
fn unusable() -> TokenFailure {
    TokenFailure { kind: FailureKind::Refused("invalid_request".into()), status: None, retry_after: None }
}

/// The HTTP function for oauth2: keeps the request and sends nothing.
fn keep(request: HttpRequest) -> Result<HttpResponse, Kept> {
    Err(Kept(Box::new(request)))
}

/// A request in the place of an error, since that is what comes back untouched.
struct Kept(Box<HttpRequest>);

fn built<A, T: ErrorResponse + 'static>(exchanged: Result<A, RequestTokenError<Kept, T>>) -> Built {
    let Err(RequestTokenError::Request(Kept(request))) = exchanged else { return Err(unusable()) };
    let mut request = request.map(Zeroizing::new);
    if let Some(value) = request.headers_mut().get_mut(AUTHORIZATION) {
        value.set_sensitive(true);
    }
    Ok(request)
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept(redacted)")
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was kept, not sent")
    }
}

impl Error for Kept {}
