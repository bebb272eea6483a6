//! What the vault knows of a provider: where its credentials may go and how they are put into a request.

use http::header::{self, HeaderName};
use serde::{Deserialize, Serialize};

use super::credential::is_field_name;
use super::host::{AllowedHost, Target};
use super::oauth::settings::OAuthSettings;
use super::oauth::stored::StoredOAuth;
use crate::codec;
use crate::ids::ProviderName;

const MAX_HOSTS: usize = 32;
const MAX_PREFIX_BYTES: usize = 64;
const MAX_PARAMETER_BYTES: usize = 64;

/// Header fields that steer the connection or the message's framing (RFC 9110 sections 7.2, 7.6.1 and 8.6): a credential in
/// one of them would let its text rewrite the request.
const FRAMING: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
];

/// How a credential is put into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Injection {
    /// A header field whose value is `prefix` and the secret, for example `X-Api-Key: …` or `Authorization: token …`.
    Header {
        /// The field's name.
        name: HeaderName,
        /// What stands in front of the secret, its space included; often empty. At most 64 visible ASCII characters and spaces.
        prefix: String,
    },
    /// A query parameter, percent-encoded. URLs end up in logs of proxies and servers: use it only where a provider takes
    /// nothing else.
    Query {
        /// The parameter's name: 1 to 64 bytes without control characters.
        name: String,
    },
    /// `Authorization: Basic` (RFC 7617): user name and password; of an API key the key as user name with an empty password;
    /// of a custom credential its fields `username` and `password`.
    Basic,
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
}

/// Why a provider's settings are not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProvider {
    /// The text is no host pattern.
    #[error(
        "not a host pattern: use 'api.example.com' or '*.example.com', perhaps with ':port'; international names in their xn-- \
         form, addresses exactly, wildcards only over names of two labels or more"
    )]
    Host,
    /// Too many host patterns.
    #[error("too many allowed hosts: the limit is {limit}")]
    TooManyHosts {
        /// How many are allowed.
        limit: usize,
    },
    /// The header field is one that frames the message.
    #[error("a credential can't go into a header that steers the connection or frames the message, such as Host")]
    HeaderName,
    /// The prefix is not usable.
    #[error("header prefix: use at most 64 visible ASCII characters and spaces, no space in front")]
    Prefix,
    /// The query parameter's name is not usable.
    #[error("query parameter name: use 1 to 64 bytes without control characters")]
    QueryName,
    /// The name is none that a custom credential's field can have.
    #[error("field name: use 1 to 64 of A-Z, a-z, 0-9, '_', '-' and '.'")]
    FieldName,
}

/// What the vault knows of one provider. A credential of a provider without settings, or with no allowed host, is never put
/// into a request.
///
/// # Limits
/// 32 allowed hosts.
///
/// ```
/// use anchorhold::{Injection, ProviderName, ProviderSettings};
/// let github = ProviderSettings::new(ProviderName::new("github")?)
///     .allow_host("api.github.com")?
///     .allow_host("*.githubusercontent.com")?
///     .injection(Injection::Bearer)?;
/// assert!(github.clone().allow_host("*.com").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSettings {
    name: ProviderName,
    hosts: Vec<AllowedHost>,
    injection: Option<Injection>,
    field: Option<String>,
    http_loopback: bool,
    oauth: Option<OAuthSettings>,
}

impl ProviderSettings {
    /// Settings that allow no host. `OAuth2` credentials go as `Bearer`, basic ones as `Basic`; the others need
    /// [`injection`](Self::injection).
    #[must_use]
    pub const fn new(name: ProviderName) -> Self {
        Self { name, hosts: Vec::new(), injection: None, field: None, http_loopback: false, oauth: None }
    }

    /// Allows one more host: `api.example.com`, or `*.example.com` for one label or more below it (not itself), either with
    /// `:port`, else 443. Letters count without case. An international name below a wildcard, with a label that begins `xn--`,
    /// is not meant by it: HTTP clients refuse a broken one, so allow the good one by its full name.
    ///
    /// # Errors
    /// [`InvalidProvider::Host`] when it is no such pattern, `TooManyHosts` past 32.
    pub fn allow_host(mut self, pattern: &str) -> Result<Self, InvalidProvider> {
        let host = AllowedHost::parse(pattern).ok_or(InvalidProvider::Host)?;
        if self.hosts.contains(&host) {
            return Ok(self);
        }
        if self.hosts.len() == MAX_HOSTS {
            return Err(InvalidProvider::TooManyHosts { limit: MAX_HOSTS });
        }
        self.hosts.push(host);
        Ok(self)
    }

    /// Says how its credentials are put into requests, whatever their kind.
    ///
    /// # Errors
    /// [`InvalidProvider`] when header, prefix or parameter name is not usable.
    pub fn injection(mut self, injection: Injection) -> Result<Self, InvalidProvider> {
        match &injection {
            Injection::Header { name, .. } if FRAMING.contains(name) => return Err(InvalidProvider::HeaderName),
            Injection::Header { prefix, .. } if !is_prefix(prefix) => return Err(InvalidProvider::Prefix),
            Injection::Query { name }
                if !(1..=MAX_PARAMETER_BYTES).contains(&name.len()) || name.contains(|c: char| c.is_control()) =>
            {
                return Err(InvalidProvider::QueryName);
            }
            _ => self.injection = Some(injection),
        }
        Ok(self)
    }

    /// Names the field of its custom credentials that is injected as header, query parameter or bearer token.
    ///
    /// # Errors
    /// [`InvalidProvider::FieldName`] when no field can have that name.
    pub fn inject_field(mut self, field: impl Into<String>) -> Result<Self, InvalidProvider> {
        let field = field.into();
        if !is_field_name(&field) {
            return Err(InvalidProvider::FieldName);
        }
        self.field = Some(field);
        Ok(self)
    }

    /// Also allows plain `http` toward those allowed hosts that are this machine (`localhost`, 127.0.0.0/8, `[::1]`), for
    /// tests and local stand-ins. The port, 80 if the URI has none, must be the pattern's.
    #[must_use]
    pub const fn allow_http_loopback(mut self) -> Self {
        self.http_loopback = true;
        self
    }

    /// Says how connections to it are made and kept fresh with OAuth, in place of what was said before.
    #[must_use]
    pub fn oauth(mut self, oauth: OAuthSettings) -> Self {
        self.oauth = Some(oauth);
        self
    }

    /// The provider's name.
    #[must_use]
    pub const fn name(&self) -> &ProviderName {
        &self.name
    }

    /// The allowed hosts, each in its one spelling.
    pub fn allowed_hosts(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(ToString::to_string)
    }

    /// How credentials are put into requests, if that was said.
    #[must_use]
    pub const fn injected_as(&self) -> Option<&Injection> {
        self.injection.as_ref()
    }

    /// The field of custom credentials that is injected, if that was said.
    #[must_use]
    pub fn injected_field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// How OAuth goes there, if that was said.
    #[must_use]
    pub const fn oauth_settings(&self) -> Option<&OAuthSettings> {
        self.oauth.as_ref()
    }

    /// The origin of an address that the provider gave with the tokens, if requests to it may carry a credential.
    pub(crate) fn api_origin(&self, address: &str) -> Option<String> {
        let uri: http::Uri = address.parse().ok()?;
        let target = Target::of(&uri).ok().filter(|target| self.allows(target))?;
        Some(format!("{}://{target}", uri.scheme_str()?))
    }

    /// Whether a request to `target` may carry a credential.
    pub(crate) fn allows(&self, target: &Target) -> bool {
        (target.https || self.http_loopback && target.host.is_loopback()) && self.hosts.iter().any(|host| host.allows(target))
    }

    /// For the directory.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        codec::encode(&Stored {
            name: self.name.as_str().to_owned(),
            hosts: self.allowed_hosts().collect(),
            injection: self.injection.as_ref().map(|injection| match injection {
                Injection::Header { name, prefix } => StoredInjection::Header(name.as_str().to_owned(), prefix.clone()),
                Injection::Query { name } => StoredInjection::Query(name.clone()),
                Injection::Basic => StoredInjection::Basic,
                Injection::Bearer => StoredInjection::Bearer,
            }),
            field: self.field.clone(),
            http_loopback: self.http_loopback,
            oauth: self.oauth.as_ref().map(StoredOAuth::of),
        })
    }

    /// Reads what [`encode`](Self::encode) wrote, with the same checks that the host's own settings went through.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = codec::decode(bytes).ok()?;
        let mut settings = Self::new(ProviderName::new(&stored.name).ok()?);
        for host in &stored.hosts {
            settings = settings.allow_host(host).ok()?;
        }
        if let Some(injection) = stored.injection {
            settings = settings
                .injection(match injection {
                    StoredInjection::Header(name, prefix) => Injection::Header { name: name.parse().ok()?, prefix },
                    StoredInjection::Query(name) => Injection::Query { name },
                    StoredInjection::Basic => Injection::Basic,
                    StoredInjection::Bearer => Injection::Bearer,
                })
                .ok()?;
        }
        if let Some(field) = stored.field {
            settings = settings.inject_field(field).ok()?;
        }
        settings.http_loopback = stored.http_loopback;
        if let Some(oauth) = stored.oauth {
            settings = settings.oauth(oauth.settings()?);
        }
        Some(settings)
    }
}

/// What stands in the directory.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    hosts: Vec<String>,
    injection: Option<StoredInjection>,
    field: Option<String>,
    http_loopback: bool,
    oauth: Option<StoredOAuth>,
}

#[derive(Serialize, Deserialize)]
enum StoredInjection {
    Header(String, String),
    Query(String),
    Basic,
    Bearer,
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= MAX_PREFIX_BYTES && prefix.bytes().all(|b| matches!(b, 0x20..=0x7e)) && !prefix.starts_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> ProviderSettings {
        ProviderSettings::new(ProviderName::new("acme").unwrap())
    }

    #[test]
    fn unusable_settings_are_refused() {
        let header = |name: &'static str, prefix: &str| {
            settings().injection(Injection::Header { name: HeaderName::from_static(name), prefix: prefix.to_owned() })
        };
        assert!(header("authorization", "token ").is_ok());
        for name in ["host", "content-length", "transfer-encoding", "connection"] {
            assert_eq!(header(name, "").unwrap_err(), InvalidProvider::HeaderName, "{name}");
        }
        for prefix in [" x", "a\r\nb", "ä", &"x".repeat(65)] {
            assert_eq!(header("x-key", prefix).unwrap_err(), InvalidProvider::Prefix, "{prefix}");
        }
        for name in ["", "a\nb", &"x".repeat(65)] {
            let query = Injection::Query { name: name.to_owned() };
            assert_eq!(settings().injection(query).unwrap_err(), InvalidProvider::QueryName, "{name}");
        }
        assert_eq!(settings().inject_field("a b").unwrap_err(), InvalidProvider::FieldName);
        assert_eq!(settings().allow_host("*.com").unwrap_err(), InvalidProvider::Host);
    }

    #[test]
    fn hosts_are_counted_once_each() {
        let mut full = settings();
        for n in 0..MAX_HOSTS {
            full = full.allow_host(&format!("h{n}.example.com")).unwrap().allow_host(&format!("H{n}.example.com:443")).unwrap();
        }
        assert_eq!(full.allowed_hosts().count(), MAX_HOSTS);
        assert!(matches!(full.allow_host("more.example.com"), Err(InvalidProvider::TooManyHosts { .. })));
    }

    #[test]
    fn plain_http_is_for_loopback_and_only_when_allowed() {
        let target = |uri: &str| Target::of(&uri.parse().unwrap()).unwrap();
        let closed = settings().allow_host("127.0.0.1:8080").unwrap().allow_host("example.com:8080").unwrap();
        assert!(!closed.allows(&target("http://127.0.0.1:8080/")));
        assert!(closed.allows(&target("https://127.0.0.1:8080/")));
        let open = closed.allow_http_loopback();
        assert!(open.allows(&target("http://127.0.0.1:8080/")));
        assert!(!open.allows(&target("http://127.0.0.1:8081/")));
        assert!(!open.allows(&target("http://127.0.0.2:8080/")));
        assert!(!open.allows(&target("http://example.com:8080/")));
    }

    proptest! {
        #[test]
        fn settings_read_back_from_their_bytes(
            hosts in proptest::collection::vec("(\\*\\.)?[a-z]{1,8}\\.[a-z]{1,8}(:[1-9][0-9]{0,3})?", 0..5),
            injection in proptest::option::of(prop_oneof![
                ("[a-z]{9,12}", "[!-~]{0,8}").prop_map(|(name, prefix)| Injection::Header { name: name.parse().unwrap(), prefix }),
                "\\PC{1,16}".prop_map(|name| Injection::Query { name }),
                Just(Injection::Basic),
                Just(Injection::Bearer),
            ]),
            field in proptest::option::of("[a-z]{1,8}"),
            loopback: bool,
        ) {
            let mut settings = settings();
            for host in &hosts {
                settings = settings.allow_host(host).unwrap();
            }
            if let Some(injection) = injection {
                settings = settings.injection(injection).unwrap();
            }
            if let Some(field) = field {
                settings = settings.inject_field(field).unwrap();
            }
            if loopback {
                settings = settings.allow_http_loopback();
            }
            prop_assert_eq!(ProviderSettings::decode(&settings.encode().unwrap()), Some(settings));
        }
    }
}
