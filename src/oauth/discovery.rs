//! What an authorization server publishes about itself (RFC 8414, OpenID Connect Discovery 1.0), as settings.

use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use serde::Deserialize;

use super::http::{HttpClient, HttpError, HttpLimits, RequestBody};
use crate::domain::host::Target;
use crate::domain::is_scope;
use crate::domain::{ClientAuth, InvalidOAuth, OAuthSettings};

const MAX_BYTES: usize = 256 * 1024;
const TIME: Duration = Duration::from_secs(20);
const MAX_SCOPES: usize = 256;
const MAX_SHOWN: usize = 200;

/// What [`discover`] found out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discovered {
    /// Endpoints, issuer, client authentication, and whether answers have to name the issuer. No default scope, and the cautious
    /// refresh profile: neither is published.
    pub settings: OAuthSettings,
    /// The scopes that the server says it knows: at most 256, and servers may leave out some. A hint for people.
    pub scopes_supported: Vec<String>,
}

/// Why there are no settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The issuer is no URL that can be asked, or something in the document is not usable as a setting.
    #[error("{0}")]
    Invalid(#[from] InvalidOAuth),
    /// There was no answer.
    #[error("the authorization server's document could not be fetched")]
    Http(#[from] HttpError),
    /// There is no document at either of the two addresses.
    #[error(
        "no document about the authorization server (HTTP status {status}): check the issuer, or set the endpoints by hand if the \
         provider publishes none"
    )]
    NotFound {
        /// The HTTP status.
        status: u16,
    },
    /// The server redirects elsewhere, which is not followed.
    #[error("the document's address redirects, which is not followed: give the issuer as the provider spells it itself")]
    Redirected,
    /// What came is no such document.
    #[error(
        "what the server publishes is not the JSON object of RFC 8414 section 2: check the issuer, or set the endpoints by hand"
    )]
    Malformed,
    /// A member that must be there is missing.
    #[error("the document has no '{member}': set the endpoints by hand")]
    Missing {
        /// Its name.
        member: &'static str,
    },
    /// The document is about another issuer (RFC 8414 section 3.3).
    #[error(
        "the document is about another issuer ({found}): give that one, to the byte, if it is the one you mean; with a provider of \
         many tenants, give the tenant's own"
    )]
    IssuerMismatch {
        /// What it says, at most 200 visible ASCII characters.
        found: String,
    },
    /// An endpoint would be asked without TLS.
    #[error("'{member}' is not https: tokens would travel in the clear")]
    PlainHttp {
        /// The document's member.
        member: &'static str,
    },
    /// The server knows PKCE and not S256.
    #[error("the server does not take PKCE with S256 (RFC 7636), which is always sent")]
    NoS256,
    /// The server takes none of the ways in which a client can show that it is itself.
    #[error(
        "the server takes none of client_secret_basic, client_secret_post and none at its token endpoint: other methods are not \
         supported"
    )]
    ClientAuth,
}

impl DiscoveryError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            DiscoveryError::Http(error) => !matches!(error, HttpError::InvalidRequest | HttpError::TooLarge),
            DiscoveryError::NotFound { status } => matches!(status, 429 | 500..),
            _ => false,
        }
    }
}

/// Asks an authorization server for what it publishes about itself.
///
/// First `/.well-known/oauth-authorization-server` (RFC 8414 section 3), then `/.well-known/openid-configuration` (`OpenID` Connect
/// Discovery 1.0 section 4) is asked: at most 256 KiB and 20 seconds each, and no redirect is followed. Do this when you set a
/// provider up, and look at what came back: from then on the settings say where client and tokens are sent.
///
/// The issuer is an https URL; plain http goes toward this machine only. It is compared to the byte, a slash at the end included.
///
/// # Errors
/// [`DiscoveryError`]: each says what to do about it.
///
/// # Examples
/// ```no_run
/// # async fn set_up(client: &dyn anchorhold::HttpClient) -> Result<(), Box<dyn std::error::Error>> {
/// use anchorhold::{ProviderSettings, discover};
/// let found = discover("https://accounts.google.com", client).await?;
/// let settings = found.settings.with_scopes(["openid", "email"])?.with_authorization_parameter("access_type", "offline")?;
/// let provider = ProviderSettings::new("google".parse()?).allow_host("*.googleapis.com")?.oauth(settings);
/// # Ok(())
/// # }
/// ```
pub async fn discover(issuer: &str, client: &dyn HttpClient) -> Result<Discovered, DiscoveryError> {
    let mut first = None;
    for url in addresses(issuer)? {
        let error = match fetch(&url, client).await {
            Ok(document) => match read(issuer, &document) {
                Err(DiscoveryError::Malformed) => DiscoveryError::Malformed,
                known => return known,
            },
            Err(error @ DiscoveryError::Http(_)) => return Err(error),
            Err(error) => error,
        };
        // Of two failures the one that is not just an empty place tells more.
        if matches!(first, None | Some(DiscoveryError::NotFound { .. })) {
            first = Some(error);
        }
    }
    Err(first.unwrap_or(DiscoveryError::Malformed))
}

/// Where the document may be, in the order of asking.
fn addresses(issuer: &str) -> Result<[String; 2], DiscoveryError> {
    // As strict as the setting, because it becomes one.
    OAuthSettings::new(issuer).and_then(|settings| settings.with_issuer(issuer)).map_err(as_issuer)?;
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let host_at = base.find("://").map_or(0, |at| at + 3);
    let path_at = base.get(host_at..).and_then(|rest| rest.find('/')).map_or(base.len(), |at| host_at + at);
    let (host, path) = base.split_at(path_at);
    Ok([format!("{host}/.well-known/oauth-authorization-server{path}"), format!("{base}/.well-known/openid-configuration")])
}

fn as_issuer(error: InvalidOAuth) -> InvalidOAuth {
    match error {
        InvalidOAuth::Endpoint { .. } => InvalidOAuth::Endpoint { what: "issuer" },
        other => other,
    }
}

async fn fetch(url: &str, client: &dyn HttpClient) -> Result<bytes::Bytes, DiscoveryError> {
    let request = Request::get(url).header(header::ACCEPT, "application/json").body(RequestBody::empty());
    let request = request.map_err(|_| HttpError::InvalidRequest)?;
    let response = client.send(request, HttpLimits::new(TIME).max_response_bytes(MAX_BYTES)).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body().bytes(MAX_BYTES).await?),
        status if status.is_redirection() => Err(DiscoveryError::Redirected),
        status => Err(DiscoveryError::NotFound { status: status.as_u16() }),
    }
}

/// The members of RFC 8414 section 2, RFC 9207 section 3 and `OpenID` Connect Discovery 1.0 section 3 that matter here.
#[derive(Deserialize)]
struct Document {
    issuer: Option<String>,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
    authorization_response_iss_parameter_supported: Option<bool>,
}

/// The settings that a document about `issuer` gives.
fn read(issuer: &str, document: &[u8]) -> Result<Discovered, DiscoveryError> {
    let document: Document = serde_json::from_slice(document).map_err(|_| DiscoveryError::Malformed)?;
    let found = document.issuer.ok_or(DiscoveryError::Missing { member: "issuer" })?;
    if found != issuer {
        return Err(DiscoveryError::IssuerMismatch { found: shown(&found) });
    }
    if document.code_challenge_methods_supported.is_some_and(|methods| !methods.iter().any(|method| method == "S256")) {
        return Err(DiscoveryError::NoS256);
    }
    let local = target(issuer).is_some_and(|target| target.host.is_loopback());
    let checked = |member, url: String| match target(&url) {
        Some(target) if !target.https && !local => Err(DiscoveryError::PlainHttp { member }),
        _ => Ok(url),
    };

    let token_endpoint = document.token_endpoint.ok_or(DiscoveryError::Missing { member: "token_endpoint" })?;
    let mut settings = OAuthSettings::new(checked("token_endpoint", token_endpoint)?)?.with_issuer(issuer)?;
    if let Some(url) = document.authorization_endpoint {
        settings = settings.with_authorization_endpoint(checked("authorization_endpoint", url)?)?;
    }
    if let Some(url) = document.revocation_endpoint {
        settings = settings.with_revocation_endpoint(checked("revocation_endpoint", url)?)?;
    }
    if document.authorization_response_iss_parameter_supported == Some(true) {
        settings = settings.require_iss()?;
    }
    settings = settings.with_client_auth(client_auth(document.token_endpoint_auth_methods_supported)?);
    let mut scopes_supported = document.scopes_supported.unwrap_or_default();
    scopes_supported.retain(|scope| is_scope(scope));
    scopes_supported.truncate(MAX_SCOPES);
    Ok(Discovered { settings, scopes_supported })
}

/// Without the member it is `client_secret_basic` (RFC 8414 section 2).
fn client_auth(supported: Option<Vec<String>>) -> Result<ClientAuth, DiscoveryError> {
    let Some(supported) = supported else { return Ok(ClientAuth::Basic) };
    let mut known = [ClientAuth::Basic, ClientAuth::Post, ClientAuth::None].into_iter();
    known.find(|method| supported.iter().any(|name| name == method.name())).ok_or(DiscoveryError::ClientAuth)
}

fn target(url: &str) -> Option<Target> {
    Target::of(&url.parse::<Uri>().ok()?).ok()
}

/// Fit for a log line.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
