//! Where a credential may be sent: host patterns of a provider, and the target of a request, read so strictly that the check
//! and whatever HTTP client comes after it can't understand two different hosts.

use std::fmt;
// Addresses only; `std::net`, which has sockets too, is barred from this layer.
use core::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;

const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// A host in its one spelling: names in lower case without trailing dot, addresses as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Name(Box<str>),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    /// `None` for anything but LDH names (RFC 1123 section 2.1, internationalised ones in their `xn--` form), dotted quads and
    /// IPv6 in brackets (RFC 3986 section 3.2.2).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner.strip_suffix(']')?.parse().ok().map(Host::V6);
        }
        let name = text.to_ascii_lowercase();
        let last = name.rsplit('.').next()?;
        // Resolvers read `127.1`, `0x7f.1` and `2130706433` as addresses; only the plain form stands for one here.
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return name.parse().ok().map(Host::V4);
        }
        (name.len() <= 253 && name.split('.').all(is_label)).then(|| Host::Name(name.into()))
    }

    /// Whether it names this machine whatever the network says (RFC 6761 section 6.3 for `localhost`).
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Host::Name(name) => &**name == "localhost",
            Host::V4(address) => address.is_loopback(),
            Host::V6(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::V4(address) => write!(f, "{address}"),
            Host::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// One entry of a provider's list of allowed hosts: `api.example.com`, `*.example.com`, either with `:port` (default 443).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedHost {
    /// `*.`: one label or more stand below the name, which itself is not meant; none of them in the `xn--` form.
    below: bool,
    host: Host,
    port: u16,
}

impl AllowedHost {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = split_authority(text)?;
        let port = port.unwrap_or(HTTPS_PORT);
        let Some(name) = host.strip_prefix("*.") else {
            return Some(Self { below: false, host: Host::parse(host)?, port });
        };
        match Host::parse(name)? {
            // A wildcard over a whole top-level domain is nobody's provider.
            host @ Host::Name(_) if name.contains('.') => Some(Self { below: true, host, port }),
            _ => None,
        }
    }

    pub(crate) fn allows(&self, target: &Target) -> bool {
        self.port == target.port
            && match (self.below, &self.host, &target.host) {
                (true, Host::Name(suffix), Host::Name(name)) => {
                    let front = name.strip_suffix(&**suffix).and_then(|front| front.strip_suffix('.'));
                    // What follows `xn--` may be no name in any script: most clients refuse such a host, with the whole URI in
                    // their error. Who means one names it.
                    front.is_some_and(|front| !front.split('.').any(|label| label.starts_with("xn--")))
                }
                (true, ..) => false,
                (false, allowed, host) => allowed == host,
            }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str("*.")?;
        }
        write!(f, "{}", self.host)?;
        if self.port == HTTPS_PORT { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) https: bool,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl fmt::Display for Target {
    /// The host, with its port unless it is the scheme's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        let own = if self.https { HTTPS_PORT } else { HTTP_PORT };
        if self.port == own { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Why a URI names no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTarget {
    NotAbsolute,
    Scheme,
    UserInfo,
    Host,
}

impl Target {
    pub(crate) fn of(uri: &Uri) -> Result<Self, NoTarget> {
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(NoTarget::NotAbsolute);
        };
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(NoTarget::Scheme),
        };
        if authority.as_str().contains('@') {
            return Err(NoTarget::UserInfo);
        }
        Self::from_authority(https, authority.as_str()).ok_or(NoTarget::Host)
    }

    /// From `host` or `host:port`, as it also stands in a `Host` header.
    pub(crate) fn from_authority(https: bool, authority: &str) -> Option<Self> {
        let (host, port) = split_authority(authority)?;
        let port = port.unwrap_or(if https { HTTPS_PORT } else { HTTP_PORT });
        Some(Self { https, host: Host::parse(host)?, port })
    }
}

/// The port in its one spelling only: no sign, no leading zero, not 0, not empty.
fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        // The colon of `[::1]` belongs to the address.
        Some((host, port)) if !port.ends_with(']') => {
            let number: u16 = port.parse().ok()?;
            (port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0')).then_some((host, Some(number)))
        }
        _ => Some((text, None)),
    }
}

/// One label of a host name (RFC 1123 section 2.1).
pub(crate) fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allows(pattern: &str, uri: &str) -> bool {
        let target = Target::of(&uri.parse().unwrap());
        target.is_ok_and(|target| AllowedHost::parse(pattern).unwrap().allows(&target))
    }

    #[test]
    fn exact_hosts_match_themselves_only() {
        assert!(allows("api.example.com", "https://api.example.com/v1"));
        assert!(allows("API.example.com", "https://Api.EXAMPLE.com:443/v1"));
        assert!(allows("api.example.com:8443", "https://api.example.com:8443"));
        assert!(allows("127.0.0.1:80", "http://127.0.0.1/"));
        assert!(allows("[::1]:9000", "http://[0:0::1]:9000/"));
        for uri in [
            "https://api.example.com:8443/",
            "https://api.example.com./",
            "https://xapi.example.com/",
            "https://api.example.com.evil.test/",
            "https://example.com/",
            "https://x@api.example.com/",
            "https://api.example.com@evil.test/",
            "https://api.example.com:0443/",
            "https://api.example.com:/",
            "http://api.example.com/",
            "ftp://api.example.com:443/",
            "/v1",
        ] {
            assert!(!allows("api.example.com", uri), "{uri}");
        }
    }

    #[test]
    fn wildcards_need_a_label_in_front() {
        for uri in ["https://a.example.com", "https://a.b.example.com", "https://A.Example.Com"] {
            assert!(allows("*.example.com", uri), "{uri}");
        }
        for uri in ["https://example.com", "https://badexample.com", "https://a.example.com.evil.test", "https://a..example.com"]
        {
            assert!(!allows("*.example.com", uri), "{uri}");
        }
        // An international name, perhaps a broken one, is allowed by name only.
        for name in ["xn--bcher-kva", "XN--a", "a.xn--ac4e2es.b"] {
            let uri = format!("https://{name}.example.com");
            assert!(!allows("*.example.com", &uri), "{uri}");
            assert!(allows(&format!("{name}.example.com"), &uri), "{uri}");
        }
        assert!(allows("*.xn--bcher-kva.example", "https://a.xn--bcher-kva.example"));
        assert!(allows("*.example.com:8443", "https://a.example.com:8443"));
        assert!(!allows("*.example.com:8443", "https://a.example.com"));
    }

    #[test]
    fn patterns_that_are_no_hosts_are_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*.com",
            "*.*.example.com",
            "a.*.com",
            "*a.example.com",
            "example.com.",
            ".example.com",
            "a..b",
            "exa mple.com",
            "https://example.com",
            "example.com/",
            "a@example.com",
            "example.com:",
            "example.com:0",
            "example.com:+443",
            "example.com:65536",
            "bücher.example",
            "a_b.example",
            "-a.example",
            "*.1.2.3.4",
            "1.2.3",
            "1.2.3.04",
            "0x7f.1",
            "256.1.1.1",
            "*.[::1]",
            "[::1",
            "::1",
            "[::1%eth0]",
        ] {
            assert_eq!(AllowedHost::parse(text), None, "{text}");
        }
        assert!(AllowedHost::parse("xn--bcher-kva.example").is_some());
    }

    #[test]
    fn loopback_is_what_no_network_can_move() {
        for text in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"] {
            assert!(Host::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in ["localhost.example.com", "a.localhost", "10.0.0.1", "[::]", "[::ffff:127.0.0.1]", "128.0.0.1"] {
            assert!(!Host::parse(text).unwrap().is_loopback(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_reads_back_from_its_text(text in "(\\*\\.)?[a-z0-9-]{1,8}(\\.[a-z0-9-]{1,8}){0,3}(:[0-9]{1,5})?") {
            if let Some(pattern) = AllowedHost::parse(&text) {
                prop_assert_eq!(AllowedHost::parse(&pattern.to_string()), Some(pattern));
            }
        }

        #[test]
        fn what_an_exact_pattern_allows_has_its_name(
            host in prop_oneof!["[a-zA-Z0-9.:@\\[\\]-]{0,30}", "[.@:]?[aA][.:@-]?[bB][cC][.:@]?(443|80)?[.@]?"],
        ) {
            if let Ok(uri) = format!("https://{host}/").parse::<Uri>()
                && let Ok(target) = Target::of(&uri)
                && AllowedHost::parse("a.bc").unwrap().allows(&target)
            {
                prop_assert!(["a.bc", "a.bc:443"].contains(&host.to_ascii_lowercase().as_str()), "{}", host);
            }
        }
    }
}
