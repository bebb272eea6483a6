//! What the vault knows of a provider's authorization server.

use super::invalid::InvalidOAuth;
use super::profile::RefreshProfile;
use crate::domain::credential::{MAX_SCOPES, is_field_name, is_scope};
use crate::domain::host::Target;

const MAX_URL_BYTES: usize = 2048;
const MAX_PARAMETERS: usize = 32;
const MAX_PARAMETER_NAME_BYTES: usize = 64;
const MAX_PARAMETER_VALUE_BYTES: usize = 256;

/// Parameters that the protocol sets by itself, or whose content would replace those (RFC 6749, 7636, 7521 and 9101).
const RESERVED: [&str; 16] = [
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "code",
    "code_verifier",
    "code_challenge",
    "code_challenge_method",
    "state",
    "redirect_uri",
    "response_type",
    "grant_type",
    "refresh_token",
    "scope",
    "request",
    "request_uri",
];

/// How the client shows at the token endpoint that it is itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAuth {
    /// Id and secret as HTTP basic authentication (RFC 6749 section 2.3.1): `client_secret_basic`, what every server must take.
    Basic,
    /// Id and secret in the request's body (RFC 6749 section 2.3.1): `client_secret_post`.
    Post,
    /// The id alone, in the request's body, for public clients: `none`.
    None,
}

impl ClientAuth {
    /// The name in RFC 8414 section 2 and RFC 7591 section 2: `client_secret_basic`, `client_secret_post` or `none`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ClientAuth::Basic => "client_secret_basic",
            ClientAuth::Post => "client_secret_post",
            ClientAuth::None => "none",
        }
    }

    /// The method of that name, if it is one of these.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [ClientAuth::Basic, ClientAuth::Post, ClientAuth::None].into_iter().find(|method| method.name() == name)
    }
}

/// What the vault knows of a provider's authorization server: its endpoints, what is asked of it and how (RFC 6749).
///
/// PKCE with S256 (RFC 7636) is always sent, hence no setting. Endpoints are `https`; plain `http` goes only toward this machine
/// (`localhost`, 127.0.0.0/8, `[::1]`), for tests and local stand-ins, whatever
/// [`allow_http_loopback`](crate::ProviderSettings::allow_http_loopback) says of API hosts.
///
/// # Limits
/// URLs 2,048 bytes; 64 scopes; 32 extra parameters for each of the two requests, names 64 and values 256 bytes.
///
/// ```
/// use anchorhold::{ClientAuth, OAuthSettings};
/// let google = OAuthSettings::new("https://oauth2.googleapis.com/token")?
///     .with_authorization_endpoint("https://accounts.google.com/o/oauth2/v2/auth")?
///     .with_revocation_endpoint("https://oauth2.googleapis.com/revoke")?
///     .with_client_auth(ClientAuth::Post)
///     .with_scopes(["https://www.googleapis.com/auth/drive.file"])?
///     .with_authorization_parameter("access_type", "offline")?;
/// assert!(google.with_authorization_parameter("state", "mine").is_err());
/// # Ok::<(), anchorhold::InvalidOAuth>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthSettings {
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    issuer: Option<String>,
    iss_required: bool,
    client_auth: ClientAuth,
    scopes: Vec<String>,
    scope_separator: char,
    authorization_parameters: Vec<(String, String)>,
    token_parameters: Vec<(String, String)>,
    api_host_from: Option<String>,
    refresh: RefreshProfile,
}

impl OAuthSettings {
    /// Settings with a token endpoint only, which is enough for client credentials (RFC 6749 section 4.4): basic client
    /// authentication, no scope, [`RefreshProfile::new`].
    ///
    /// # Errors
    /// [`InvalidOAuth::Endpoint`].
    pub fn new(token_endpoint: impl Into<String>) -> Result<Self, InvalidOAuth> {
        Ok(Self {
            token_endpoint: endpoint("token endpoint", token_endpoint.into())?,
            authorization_endpoint: None,
            revocation_endpoint: None,
            issuer: None,
            iss_required: false,
            client_auth: ClientAuth::Basic,
            scopes: Vec::new(),
            scope_separator: ' ',
            authorization_parameters: Vec::new(),
            token_parameters: Vec::new(),
            api_host_from: None,
            refresh: RefreshProfile::DEFAULT,
        })
    }

    /// Where the customer's browser is sent to agree (RFC 6749 section 3.1).
    ///
    /// # Errors
    /// [`InvalidOAuth::Endpoint`].
    pub fn with_authorization_endpoint(mut self, url: impl Into<String>) -> Result<Self, InvalidOAuth> {
        self.authorization_endpoint = Some(endpoint("authorization endpoint", url.into())?);
        Ok(self)
    }

    /// Where tokens are revoked (RFC 7009).
    ///
    /// # Errors
    /// [`InvalidOAuth::Endpoint`].
    pub fn with_revocation_endpoint(mut self, url: impl Into<String>) -> Result<Self, InvalidOAuth> {
        self.revocation_endpoint = Some(endpoint("revocation endpoint", url.into())?);
        Ok(self)
    }

    /// The authorization server's issuer (RFC 8414 section 2). Where an answer names one, it must be this, to the byte (RFC 9207
    /// section 2.4).
    ///
    /// # Errors
    /// [`InvalidOAuth::Endpoint`], `IssuerQuery`.
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Result<Self, InvalidOAuth> {
        let issuer = endpoint("issuer", issuer.into())?;
        if issuer.contains('?') {
            return Err(InvalidOAuth::IssuerQuery);
        }
        self.issuer = Some(issuer);
        Ok(self)
    }

    /// Also refuses answers that name no issuer: the server says `authorization_response_iss_parameter_supported` (RFC 9207 section
    /// 2.4).
    ///
    /// # Errors
    /// [`InvalidOAuth::IssuerMissing`] when no issuer was set.
    pub fn require_iss(mut self) -> Result<Self, InvalidOAuth> {
        if self.issuer.is_none() {
            return Err(InvalidOAuth::IssuerMissing);
        }
        self.iss_required = true;
        Ok(self)
    }

    /// How the client shows at the token endpoint that it is itself.
    #[must_use]
    pub const fn with_client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    /// The scopes that are asked for when a connect flow names none, in place of those before.
    ///
    /// # Errors
    /// [`InvalidOAuth::Scopes`].
    pub fn with_scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Result<Self, InvalidOAuth> {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self.check_scopes()?;
        Ok(self)
    }

    /// What stands between scopes; a space unless the provider deviates from RFC 6749 section 3.3.
    ///
    /// # Errors
    /// [`InvalidOAuth::ScopeSeparator`], and `Scopes` when one that is set has this character.
    pub fn with_scope_separator(mut self, separator: char) -> Result<Self, InvalidOAuth> {
        if !matches!(separator, ' ' | ',' | ';' | '+' | '|') {
            return Err(InvalidOAuth::ScopeSeparator);
        }
        self.scope_separator = separator;
        self.check_scopes()?;
        Ok(self)
    }

    /// One more parameter for the authorization endpoint; in place of one of the same name.
    ///
    /// # Errors
    /// [`InvalidOAuth::Parameter`], `ReservedParameter`, `TooManyParameters`.
    pub fn with_authorization_parameter(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, InvalidOAuth> {
        put_parameter(&mut self.authorization_parameters, name.into(), value.into())?;
        Ok(self)
    }

    /// One more parameter for every request to the token endpoint; in place of one of the same name. It is stored as a setting, not
    /// as a secret.
    ///
    /// # Errors
    /// [`InvalidOAuth::Parameter`], `ReservedParameter`, `TooManyParameters`.
    pub fn with_token_parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, InvalidOAuth> {
        put_parameter(&mut self.token_parameters, name.into(), value.into())?;
        Ok(self)
    }

    /// The member of the token endpoint's answer that names the customer's own API host as an https URL, such as Salesforce's
    /// `instance_url`. The host must be one that the provider's settings allow.
    ///
    /// # Errors
    /// [`InvalidOAuth::ApiHostMember`].
    pub fn with_api_host_from(mut self, member: impl Into<String>) -> Result<Self, InvalidOAuth> {
        let member = member.into();
        if !is_field_name(&member) {
            return Err(InvalidOAuth::ApiHostMember);
        }
        self.api_host_from = Some(member);
        Ok(self)
    }

    /// How the provider treats refresh tokens.
    #[must_use]
    pub fn with_refresh_profile(mut self, profile: RefreshProfile) -> Self {
        self.refresh = profile;
        self
    }

    /// Where codes and refresh tokens are exchanged (RFC 6749 section 3.2).
    #[must_use]
    pub fn token_endpoint(&self) -> &str {
        &self.token_endpoint
    }

    /// Where the customer's browser is sent to agree; nothing for providers with client credentials only.
    #[must_use]
    pub fn authorization_endpoint(&self) -> Option<&str> {
        self.authorization_endpoint.as_deref()
    }

    /// Where tokens are revoked, if the provider has such an endpoint.
    #[must_use]
    pub fn revocation_endpoint(&self) -> Option<&str> {
        self.revocation_endpoint.as_deref()
    }

    /// The authorization server's issuer, if that is known.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Whether answers without an issuer are refused. If so, there is an [`issuer`](Self::issuer).
    #[must_use]
    pub const fn iss_required(&self) -> bool {
        self.iss_required
    }

    /// How the client shows that it is itself.
    #[must_use]
    pub const fn client_auth(&self) -> ClientAuth {
        self.client_auth
    }

    /// The scopes that are asked for when a connect flow names none.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// What stands between scopes.
    #[must_use]
    pub const fn scope_separator(&self) -> char {
        self.scope_separator
    }

    /// Extra parameters for the authorization endpoint, in the order given.
    pub fn authorization_parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.authorization_parameters)
    }

    /// Extra parameters for the token endpoint, in the order given.
    pub fn token_parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.token_parameters)
    }

    /// The member of the token endpoint's answer that names the customer's API host, if there is one.
    #[must_use]
    pub fn api_host_from(&self) -> Option<&str> {
        self.api_host_from.as_deref()
    }

    /// How the provider treats refresh tokens.
    #[must_use]
    pub const fn refresh_profile(&self) -> &RefreshProfile {
        &self.refresh
    }

    fn check_scopes(&self) -> Result<(), InvalidOAuth> {
        let fits = |scope: &String| is_scope(scope) && !scope.contains(self.scope_separator);
        if self.scopes.len() > MAX_SCOPES || !self.scopes.iter().all(fits) {
            return Err(InvalidOAuth::Scopes);
        }
        Ok(())
    }
}

/// The URL as it was given, if it may be sent secrets.
fn endpoint(what: &'static str, url: String) -> Result<String, InvalidOAuth> {
    // `Uri` drops a fragment and takes bytes above ASCII, so both are looked for here.
    let plain = url.len() <= MAX_URL_BYTES && url.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    let target = plain.then(|| url.parse().ok().and_then(|uri| Target::of(&uri).ok())).flatten();
    if target.is_some_and(|target| target.https || target.host.is_loopback()) {
        return Ok(url);
    }
    Err(InvalidOAuth::Endpoint { what })
}

fn put_parameter(parameters: &mut Vec<(String, String)>, name: String, value: String) -> Result<(), InvalidOAuth> {
    if let Some(name) = RESERVED.into_iter().find(|reserved| reserved.eq_ignore_ascii_case(&name)) {
        return Err(InvalidOAuth::ReservedParameter { name });
    }
    let fits = (1..=MAX_PARAMETER_NAME_BYTES).contains(&name.len()) && value.len() <= MAX_PARAMETER_VALUE_BYTES;
    if !fits || !name.bytes().all(|b| b.is_ascii_graphic()) || value.contains(|c: char| c.is_control()) {
        return Err(InvalidOAuth::Parameter);
    }
    if let Some((_, known)) = parameters.iter_mut().find(|(known, _)| *known == name) {
        *known = value;
    } else if parameters.len() == MAX_PARAMETERS {
        return Err(InvalidOAuth::TooManyParameters { limit: MAX_PARAMETERS });
    } else {
        parameters.push((name, value));
    }
    Ok(())
}

fn pairs(parameters: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}
