//! Whatever a server publishes about itself: it was asked at its own origin, and gives settings that send secrets over TLS and can be
//! stored, or an error that is fit for a log.
#![no_main]

use anchorhold::fuzzing::{self, Answer};
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

// Lines: issuer; two statuses and the bytes that come at once; then two bodies, with a line of three hyphens between them. `{issuer}`
// in a body stands for the issuer, so that the fuzzer can change both.
fuzz_target!(|data: &str| {
    let mut lines = data.splitn(3, '\n');
    let (Some(issuer), Some(head), Some(bodies)) = (lines.next(), lines.next(), lines.next()) else { return };
    let mut numbers = head.split(' ').map(|number| number.parse::<u16>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let (statuses, chunk) = ([number(), number()], usize::from(number()));
    let bodies = bodies.replace("{issuer}", issuer);
    let (first, second) = bodies.split_once("\n---\n").unwrap_or((&bodies, ""));
    let answers = [0, 1].map(|at| Answer { status: statuses[at], retry_after: b"", body: [first, second][at].as_bytes(), chunk });

    let Some(discovery) = fuzzing::discovery(issuer, answers) else { return };
    assert!(discovery.asked.len() <= 2);
    let own = Url::parse(issuer).ok();
    for asked in &discovery.asked {
        assert!(asked.contains("/.well-known/"), "{asked}");
        // A client that can't read the address sends nothing.
        let Ok(asked) = Url::parse(asked) else { continue };
        assert_eq!(Some(asked.origin()), own.as_ref().map(Url::origin), "{asked}");
        assert!((asked.username(), asked.password(), asked.fragment()) == ("", None, None), "{asked}");
    }
    match discovery.found {
        Ok((settings, scopes, storable)) => {
            assert_eq!(settings.issuer(), Some(issuer));
            assert!(storable, "{settings:?}");
            let local = own.as_ref().is_some_and(is_loopback);
            for url in [Some(settings.token_endpoint()), settings.authorization_endpoint(), settings.revocation_endpoint()] {
                let Some(Ok(url)) = url.map(Url::parse) else { continue };
                assert!(url.scheme() == "https" || local && is_loopback(&url) && url.scheme() == "http", "{url}");
                assert!((url.username(), url.password(), url.fragment()) == ("", None, None), "{url}");
            }
            assert!(scopes.len() <= 256 && scopes.iter().all(|scope| is_visible(scope, 256)));
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(is_visible(&shown.replace(' ', "_"), 600), "{shown}");
        }
    }
});

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_visible(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
