//! A request that gets a credential goes, by the reading of any HTTP client, to an allowed host.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::fuzz_target;
use url::Url;

const HOST: &str = "api.acme.test";

// Lines: what stands before and after the allowed host in the URI, so that the fuzzer needs not find it; the secret; perhaps a
// Host header.
fuzz_target!(|data: &str| {
    let mut lines = data.splitn(4, '\n');
    let (Some(before), Some(after), Some(secret)) = (lines.next(), lines.next(), lines.next()) else { return };
    let host_header = lines.next();
    let given = format!("{before}{HOST}{after}");

    if let Some(exact) = fuzzing::authorized_uri(HOST, &given, host_header, secret) {
        let url = Url::parse(&exact).expect("an authorised URI is a URL");
        assert_eq!(url.host_str(), Some(HOST), "{exact}");
        check(&url, &exact, secret);
    }
    if let Some(below) = fuzzing::authorized_uri("*.acme.test", &given, host_header, secret) {
        let url = Url::parse(&below).expect("an authorised URI is a URL");
        assert!(url.host_str().is_some_and(|host| host.ends_with(".acme.test")), "{below}");
        check(&url, &below, secret);
    }
});

fn check(url: &Url, text: &str, secret: &str) {
    assert_eq!(url.scheme(), "https", "{text}");
    assert_eq!(url.port_or_known_default(), Some(443), "{text}");
    assert_eq!((url.username(), url.password()), ("", None), "{text}");
    let keys: Vec<_> = url.query_pairs().filter(|(name, _)| name == "key").collect();
    assert_eq!(keys.len(), 1, "the caller's own parameter stayed: {text}");
    assert_eq!(keys[0].1, secret, "{text}");
}
