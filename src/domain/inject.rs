//! Puts a credential into a request, toward its provider's allowed hosts only.
//!
//! What is copied here on the way is wiped; the request itself is the host's, and so is the copy in it.

use base64ct::{Base64, Encoding as _};
use http::header::{AUTHORIZATION, HOST, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::credential::{CredentialKind, Revealed};
use super::host::{NoTarget, Target};
use super::provider::{Injection, ProviderSettings};
use crate::secret::SecretBytes;

/// The longest URI that the `http` crate holds.
const MAX_URI_BYTES: usize = u16::MAX as usize - 1;

/// Why a request got no credential. The request is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorizeError {
    /// The request's URI lacks scheme or host.
    #[error("the request's URI has no scheme and host: use the absolute form, https://host/path")]
    NotAbsolute,
    /// The scheme is not `https`, and not `http` toward an allowed loopback host either.
    #[error("the request's scheme is not https")]
    Scheme,
    /// The URI has `user:password@` in front of the host, where readers of URLs disagree about which host is meant.
    #[error("the request's URI has user information in front of its host: remove it")]
    UserInfo,
    /// The host or the port is not in its plain form.
    #[error("the request's host is not a plain host name or address, perhaps with a port; a dot at its end counts as other")]
    MalformedHost,
    /// The provider's settings do not list the host with that port.
    #[error("the request's host and port are not among the provider's allowed hosts: allow them in its settings")]
    HostNotAllowed,
    /// A `Host` header names another host than the URI, or there are two.
    #[error("the request's Host header and its URI name different hosts: leave the header out")]
    HostHeader,
    /// The settings do not say how to inject a credential of this kind, or their way is none for it.
    #[error("the provider's settings don't fit a credential of kind {kind}: set an injection for it")]
    NotInjectable {
        /// The credential's kind.
        kind: CredentialKind,
    },
    /// A custom credential lacks the field that is to be injected, or the settings name none.
    #[error("the custom credential lacks the field to inject: name it with `inject_field`")]
    NoField,
    /// The token type is not `Bearer` and the settings do not say how to send such a token (RFC 6749 section 7.1).
    #[error("the access token's type is not Bearer: set an injection if the provider takes it as one all the same")]
    TokenType,
    /// The secret can't stand in a header field.
    #[error("the secret has a character that no header can carry, often a line break at its end: store it again without")]
    NotSendable,
    /// The URI with the secret would be too long.
    #[error("the request's URI would be longer than 65534 bytes")]
    UriTooLong,
}

impl From<NoTarget> for AuthorizeError {
    fn from(why: NoTarget) -> Self {
        match why {
            NoTarget::NotAbsolute => AuthorizeError::NotAbsolute,
            NoTarget::Scheme => AuthorizeError::Scheme,
            NoTarget::UserInfo => AuthorizeError::UserInfo,
            NoTarget::Host => AuthorizeError::MalformedHost,
        }
    }
}

/// Where the request goes, if the provider's credentials may go there. Needs no secret, so it is asked before one is opened.
pub(crate) fn check_target(settings: &ProviderSettings, uri: &Uri, headers: &HeaderMap) -> Result<Target, AuthorizeError> {
    let target = Target::of(uri)?;
    if !settings.allows(&target) {
        // The likelier mistake gets its own message.
        let over_https = Target { https: true, ..target.clone() };
        let only_scheme = !target.https && settings.allows(&over_https);
        return Err(if only_scheme { AuthorizeError::Scheme } else { AuthorizeError::HostNotAllowed });
    }
    let mut hosts = headers.get_all(HOST).iter();
    if let Some(host) = hosts.next() {
        let named = host.to_str().ok().and_then(|text| Target::from_authority(target.https, text));
        if named.as_ref() != Some(&target) || hosts.next().is_some() {
            return Err(AuthorizeError::HostHeader);
        }
    }
    Ok(target)
}

/// Where a request goes, without what else is in it: scheme, authority and `Host` headers.
#[derive(Debug)]
pub(crate) struct Approach {
    uri: Result<Uri, AuthorizeError>,
    hosts: HeaderMap,
}

impl Approach {
    /// Reads it off a request. User information, path and query, which may hold secrets, stay behind.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let mut hosts = HeaderMap::new();
        for host in request.headers().get_all(HOST) {
            hosts.append(HOST, host.clone());
        }
        let uri = Target::of(request.uri()).map_err(AuthorizeError::from).and_then(|_| {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static("/"));
            Uri::from_parts(parts).map_err(|_| AuthorizeError::MalformedHost)
        });
        Self { uri, hosts }
    }

    /// Where it goes, if the provider's credentials may go there.
    pub(crate) fn check(&self, settings: &ProviderSettings) -> Result<Target, AuthorizeError> {
        check_target(settings, self.uri.as_ref().map_err(|error| *error)?, &self.hosts)
    }
}

/// Checks the request's target and puts the credential in, in place of what the caller had under the same name.
///
/// # Errors
/// [`AuthorizeError`]; the request is then unchanged.
pub(crate) fn inject<B>(
    settings: &ProviderSettings,
    revealed: &Revealed,
    request: &mut Request<B>,
) -> Result<(), AuthorizeError> {
    check_target(settings, request.uri(), request.headers())?;
    match settings.injected_as() {
        Some(Injection::Header { name, prefix }) => {
            let value = sensitive(&[prefix.as_bytes(), secret(settings, revealed)?.as_bytes()])?;
            replace_header(request, name, value);
        }
        Some(Injection::Query { name }) => {
            *request.uri_mut() = with_parameter(request.uri(), name, secret(settings, revealed)?)?;
        }
        Some(Injection::Basic) => replace_header(request, &AUTHORIZATION, basic(revealed)?),
        Some(Injection::Bearer) => replace_header(request, &AUTHORIZATION, bearer(secret(settings, revealed)?)?),
        None => replace_header(request, &AUTHORIZATION, by_kind(revealed)?),
    }
    Ok(())
}

/// Without an injection in the settings: what the credential's own standard says.
fn by_kind(revealed: &Revealed) -> Result<HeaderValue, AuthorizeError> {
    match (revealed.kind(), revealed.access_token(), revealed.token_type()) {
        (CredentialKind::Basic, ..) => basic(revealed),
        (_, Some(token), Some(kind)) if kind.eq_ignore_ascii_case("bearer") => bearer(token),
        (CredentialKind::OAuth2, ..) => Err(AuthorizeError::TokenType),
        (kind, ..) => Err(AuthorizeError::NotInjectable { kind }),
    }
}

/// The one text that goes into a header, parameter or bearer token.
fn secret<'a>(settings: &ProviderSettings, revealed: &'a Revealed) -> Result<&'a str, AuthorizeError> {
    match revealed.kind() {
        CredentialKind::ApiKey => revealed.api_key(),
        CredentialKind::OAuth2 => revealed.access_token(),
        CredentialKind::Custom => {
            return settings.injected_field().and_then(|field| revealed.field(field)).ok_or(AuthorizeError::NoField);
        }
        CredentialKind::Basic => None,
    }
    .ok_or(AuthorizeError::NotInjectable { kind: revealed.kind() })
}

fn bearer(token: &str) -> Result<HeaderValue, AuthorizeError> {
    sensitive(&[b"Bearer ", token.as_bytes()])
}

/// RFC 7617 section 2, in UTF-8.
fn basic(revealed: &Revealed) -> Result<HeaderValue, AuthorizeError> {
    let (user_name, password) = match revealed.kind() {
        CredentialKind::Basic => revealed.basic(),
        CredentialKind::ApiKey => revealed.api_key().map(|key| (key, "")),
        CredentialKind::Custom => {
            Some(revealed.field("username").zip(revealed.field("password")).ok_or(AuthorizeError::NoField)?)
        }
        CredentialKind::OAuth2 => None,
    }
    .ok_or(AuthorizeError::NotInjectable { kind: revealed.kind() })?;
    if user_name.contains(':') {
        return Err(AuthorizeError::NotSendable);
    }
    let pair = SecretBytes::concat(&[user_name.as_bytes(), b":", password.as_bytes()]);
    let mut encoded = SecretBytes::zeroed(Base64::encoded_len(pair.expose()));
    // The buffer has the length that the encoder asked for.
    Base64::encode(pair.expose(), encoded.expose_mut()).map_err(|_| AuthorizeError::NotSendable)?;
    sensitive(&[b"Basic ", encoded.expose()])
}

/// A header value marked sensitive, so that `Debug` of the request does not show it and HPACK does not index it (RFC 7541
/// section 7.1.3).
fn sensitive(parts: &[&[u8]]) -> Result<HeaderValue, AuthorizeError> {
    let text = SecretBytes::concat(parts);
    let bytes = text.expose();
    // Readers trim spaces at both ends (RFC 9110 section 5.5), so the provider would see another text.
    let trimmed = bytes.first() == Some(&b' ') || bytes.last() == Some(&b' ');
    if trimmed || !bytes.iter().all(|b| matches!(b, 0x20..=0x7e)) {
        return Err(AuthorizeError::NotSendable);
    }
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| AuthorizeError::NotSendable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// `insert` removes all values that the field had.
fn replace_header<B>(request: &mut Request<B>, name: &HeaderName, value: HeaderValue) {
    request.headers_mut().insert(name, value);
}

/// The URI with `name=value` as its last parameter and no other of that name.
fn with_parameter(uri: &Uri, name: &str, value: &str) -> Result<Uri, AuthorizeError> {
    let name_bytes = percent_encoded(name.as_bytes());
    let value_bytes = percent_encoded(value.as_bytes());
    let mut parts: Vec<&[u8]> = vec![uri.path().as_bytes(), b"?"];
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !is_named(pair, name)) {
        parts.extend([pair.as_bytes(), b"&"]);
    }
    parts.extend([name_bytes.expose(), b"=", value_bytes.expose()]);
    // Checked here so that building below can't fail with the secret in hand.
    if parts.iter().map(|part| part.len()).sum::<usize>() > MAX_URI_BYTES {
        return Err(AuthorizeError::UriTooLong);
    }
    let target = SecretBytes::concat(&parts);
    let mut uri_parts = uri.clone().into_parts();
    uri_parts.path_and_query = Some(PathAndQuery::try_from(target.expose()).map_err(|_| AuthorizeError::NotSendable)?);
    Uri::from_parts(uri_parts).map_err(|_| AuthorizeError::NotSendable)
}

/// Whether `pair` sets the parameter, however its name is written (`application/x-www-form-urlencoded`).
fn is_named(pair: &str, name: &str) -> bool {
    let written = pair.split('=').next().unwrap_or_default().as_bytes();
    let mut decoded = Vec::with_capacity(written.len());
    let mut rest = written;
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits make at most 255.
                decoded.extend(u8::try_from(high * 16 + low));
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', ..) => {
                decoded.push(b' ');
                rest = tail;
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    decoded == name.as_bytes()
}

/// Everything but the unreserved characters of RFC 3986 section 2.3 as `%XX`.
fn percent_encoded(bytes: &[u8]) -> SecretBytes {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let unreserved = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let length = bytes.iter().map(|b| if unreserved(b) { 1 } else { 3 }).sum();
    let mut encoded = SecretBytes::zeroed(length);
    let mut slots = encoded.expose_mut().iter_mut();
    let mut put = |byte: u8| {
        if let Some(slot) = slots.next() {
            *slot = byte;
        }
    };
    for byte in bytes {
        if unreserved(byte) {
            put(*byte);
        } else {
            put(b'%');
            put(HEX[usize::from(byte >> 4)]);
            put(HEX[usize::from(byte & 15)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credential::{Credential, OAuth2Tokens};
    use crate::ids::ProviderName;
    use proptest::prelude::*;

    fn settings(injection: impl Into<Option<Injection>>) -> ProviderSettings {
        let settings = ProviderSettings::new(ProviderName::new("acme").unwrap()).allow_host("api.acme.test").unwrap();
        match injection.into() {
            Some(injection) => settings.injection(injection).unwrap(),
            None => settings,
        }
    }

    fn header(name: &'static str, prefix: &str) -> Injection {
        Injection::Header { name: HeaderName::from_static(name), prefix: prefix.to_owned() }
    }

    fn query(name: &str) -> Injection {
        Injection::Query { name: name.to_owned() }
    }

    fn revealed(credential: &Credential) -> Revealed {
        Revealed::parse_bytes(credential.encode().unwrap().expose()).unwrap()
    }

    fn to(uri: &str) -> Request<()> {
        Request::get(uri).body(()).unwrap()
    }

    fn sent(
        settings: &ProviderSettings,
        credential: &Credential,
        mut request: Request<()>,
    ) -> Result<Request<()>, AuthorizeError> {
        inject(settings, &revealed(credential), &mut request).map(|()| request)
    }

    fn authorization(settings: &ProviderSettings, credential: &Credential) -> Result<String, AuthorizeError> {
        let request = sent(settings, credential, to("https://api.acme.test/"))?;
        let value = &request.headers()[AUTHORIZATION];
        assert!(value.is_sensitive());
        Ok(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn headers_carry_the_secret_marked_sensitive() {
        let key = Credential::api_key("k1".into());
        let request = sent(&settings(header("x-api-key", "")), &key, to("https://api.acme.test/")).unwrap();
        assert_eq!(request.headers()["x-api-key"], "k1");
        assert!(request.headers()["x-api-key"].is_sensitive());
        assert!(!format!("{request:?}").contains("k1"));
        assert_eq!(authorization(&settings(header("authorization", "token ")), &key).unwrap(), "token k1");
        assert_eq!(authorization(&settings(Injection::Bearer), &key).unwrap(), "Bearer k1");
        // The example of RFC 7617 section 2, and the one of section 2.1 with a pound sign.
        let aladdin = Credential::basic("Aladdin", "open sesame".into());
        assert_eq!(authorization(&settings(None), &aladdin).unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(authorization(&settings(None), &Credential::basic("test", "123£".into())).unwrap(), "Basic dGVzdDoxMjPCow==");
        assert_eq!(authorization(&settings(Injection::Basic), &key).unwrap(), "Basic azE6");
    }

    #[test]
    fn every_kind_needs_settings_that_fit_it() {
        let key = Credential::api_key("k".into());
        let basic = Credential::basic("u", "p".into());
        let oauth = |kind: &str| Credential::oauth2(OAuth2Tokens::new("at".into()).token_type(kind));
        let custom = Credential::custom([("id", "i".into()), ("token", "t".into())]);

        assert_eq!(authorization(&settings(None), &oauth("bearer")).unwrap(), "Bearer at");
        assert_eq!(authorization(&settings(None), &oauth("bot")), Err(AuthorizeError::TokenType));
        assert_eq!(authorization(&settings(Injection::Bearer), &oauth("bot")).unwrap(), "Bearer at");
        assert_eq!(authorization(&settings(None), &key), Err(AuthorizeError::NotInjectable { kind: CredentialKind::ApiKey }));
        assert_eq!(
            authorization(&settings(Injection::Bearer), &basic),
            Err(AuthorizeError::NotInjectable { kind: CredentialKind::Basic })
        );
        assert_eq!(
            authorization(&settings(Injection::Basic), &oauth("bearer")),
            Err(AuthorizeError::NotInjectable { kind: CredentialKind::OAuth2 })
        );
        assert_eq!(authorization(&settings(Injection::Bearer), &custom), Err(AuthorizeError::NoField));
        let field = |name: &str| settings(Injection::Bearer).inject_field(name).unwrap();
        assert_eq!(authorization(&field("token"), &custom).unwrap(), "Bearer t");
        assert_eq!(authorization(&field("missing"), &custom), Err(AuthorizeError::NoField));
        assert_eq!(authorization(&settings(Injection::Basic), &custom), Err(AuthorizeError::NoField));
        let pair = Credential::custom([("username", "u".into()), ("password", "p".into())]);
        assert_eq!(authorization(&settings(Injection::Basic), &pair).unwrap(), "Basic dTpw");
    }

    #[test]
    fn what_the_caller_had_under_the_name_is_replaced() {
        let key = Credential::api_key("k".into());
        let mut request = to("https://api.acme.test/");
        request.headers_mut().append("x-api-key", HeaderValue::from_static("mine"));
        request.headers_mut().append("x-api-key", HeaderValue::from_static("mine too"));
        let request = sent(&settings(header("x-api-key", "")), &key, request).unwrap();
        assert_eq!(request.headers().get_all("x-api-key").iter().collect::<Vec<_>>(), ["k"]);

        let uri = |given: &str| sent(&settings(query("api key")), &key, to(given)).unwrap().uri().to_string();
        assert_eq!(uri("https://api.acme.test"), "https://api.acme.test/?api%20key=k");
        assert_eq!(uri("https://api.acme.test/p?a=1&b"), "https://api.acme.test/p?a=1&b&api%20key=k");
        assert_eq!(
            uri("https://api.acme.test/p?api%20key=x&a=1&%61pi+key=y&api%20key"),
            "https://api.acme.test/p?a=1&api%20key=k"
        );
    }

    #[test]
    fn no_other_host_gets_the_credential_and_the_request_stays_as_it_was() {
        let key = Credential::api_key("needle".into());
        for injection in [header("x-api-key", ""), query("key"), Injection::Bearer, Injection::Basic] {
            let settings = settings(injection);
            for (uri, host, error) in [
                ("https://evil.test/", None, AuthorizeError::HostNotAllowed),
                ("https://api.acme.test:8443/", None, AuthorizeError::HostNotAllowed),
                ("https://api.acme.test./", None, AuthorizeError::MalformedHost),
                ("https://u:p@api.acme.test/", None, AuthorizeError::UserInfo),
                ("https://api.acme.test@evil.test/", None, AuthorizeError::UserInfo),
                ("http://api.acme.test:443/", None, AuthorizeError::Scheme),
                ("ftp://api.acme.test/", None, AuthorizeError::Scheme),
                ("/path", Some("api.acme.test"), AuthorizeError::NotAbsolute),
                ("https://api.acme.test/", Some("evil.test"), AuthorizeError::HostHeader),
                ("https://api.acme.test/", Some("api.acme.test:8443"), AuthorizeError::HostHeader),
                ("https://api.acme.test/", Some(""), AuthorizeError::HostHeader),
            ] {
                let mut request = to(uri);
                if let Some(host) = host {
                    request.headers_mut().insert(HOST, HeaderValue::from_static(host));
                }
                let before = (request.uri().clone(), request.headers().clone());
                assert_eq!(inject(&settings, &revealed(&key), &mut request), Err(error), "{uri}");
                assert_eq!((request.uri(), request.headers()), (&before.0, &before.1), "{uri}");
            }
        }
        let mut twice = to("https://api.acme.test/");
        twice.headers_mut().append(HOST, HeaderValue::from_static("api.acme.test"));
        let once = twice.headers().clone();
        twice.headers_mut().append(HOST, HeaderValue::from_static("api.acme.test"));
        assert_eq!(check_target(&settings(None), twice.uri(), twice.headers()), Err(AuthorizeError::HostHeader));
        assert!(check_target(&settings(None), twice.uri(), &once).is_ok());
    }

    #[test]
    fn secrets_that_no_header_carries_are_refused() {
        let try_key = |secret: &str| authorization(&settings(Injection::Bearer), &Credential::api_key(secret.into()));
        for secret in ["k\n", "k\r\nX-Other: 1", "k ", "ключ", "k\0"] {
            assert_eq!(try_key(secret), Err(AuthorizeError::NotSendable), "{secret:?}");
        }
        let colon = Credential::api_key("a:b".into());
        assert_eq!(authorization(&settings(Injection::Basic), &colon), Err(AuthorizeError::NotSendable));
        let long = Credential::api_key("%".repeat(30_000).into());
        let refused = sent(&settings(query("key")), &long, to("https://api.acme.test/")).unwrap_err();
        assert_eq!(refused, AuthorizeError::UriTooLong);
    }

    proptest! {
        #[test]
        fn a_query_secret_reads_back_and_other_parameters_stay(secret in ".{1,40}", others in "([a-c]=[0-9]{0,3}&){0,4}") {
            let credential = Credential::api_key(secret.as_str().into());
            let given = format!("https://api.acme.test/p?{others}");
            let request = sent(&settings(query("key")), &credential, to(&given)).unwrap();
            let (kept, value) = request.uri().query().unwrap().rsplit_once("key=").unwrap();
            prop_assert_eq!(kept, others);
            prop_assert!(is_named(value, &secret), "percent-decoding {} gives the secret", value);
        }
    }
}
