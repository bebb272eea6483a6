//! Web origins (RFC 6454): the one spelling of each, and whether a request's is among those of a session token.

use super::host::Target;

const MAX_ORIGIN_BYTES: usize = 256;

/// The one spelling of an origin: `https://host` or `https://host:port` in lower case, the default port left out. Plain `http`
/// for loopback hosts only. `None` for everything else, a path and a `/` at the end included.
pub(crate) fn canonical(text: &str) -> Option<String> {
    if text.len() > MAX_ORIGIN_BYTES {
        return None;
    }
    let (scheme, authority) = text.split_once("://")?;
    let https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let Target { host, port, .. } = Target::from_authority(https, authority)?;
    match (https, port) {
        (true, 443) => Some(format!("https://{host}")),
        (true, _) => Some(format!("https://{host}:{port}")),
        (false, _) if !host.is_loopback() => None,
        (false, 80) => Some(format!("http://{host}")),
        (false, _) => Some(format!("http://{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_origin_has_one_spelling() {
        for (text, spelling) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com:443", "https://app.example.com"),
            ("https://app.example.com:8443", "https://app.example.com:8443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[0::1]:8080", "http://[::1]:8080"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(spelling), "{text}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "null",
            "*",
            "https://",
            "https://*.example.com",
            "https://a.example/",
            "https://a.example/path",
            "https://a.example?q",
            "https://u@a.example",
            "http://a.example",
            "ftp://a.example",
            "a.example",
            "https://a.example.",
            "https://a.example:0",
            "https://a.example:",
            "https://a b",
            "https://bücher.example",
            " https://a.example",
            "https://a.example\n",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
        assert_eq!(canonical(&format!("https://{}", "a.".repeat(130))), None);
    }

    proptest! {
        #[test]
        fn a_spelling_is_its_own(text in "(https|http)://([a-zA-Z0-9-]{1,6}\\.){0,3}(localhost|[a-z]{2}|127\\.0\\.0\\.1)(:[0-9]{1,5})?") {
            if let Some(spelling) = canonical(&text) {
                let again = canonical(&spelling);
                prop_assert_eq!(again, Some(spelling));
            }
        }
    }
}
