//! Discovery against a client that has its answers ready, and against documents of any content.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures_lite::future::block_on;
use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::discovery::{Discovered, DiscoveryError, discover};
use super::http::{HttpClient, HttpError, HttpFuture, HttpLimits, RequestBody, ResponseBody};
use crate::domain::{ClientAuth, InvalidOAuth};

const ISSUER: &str = "https://login.example.com";
const OAUTH: &str = "https://login.example.com/.well-known/oauth-authorization-server";
const OIDC: &str = "https://login.example.com/.well-known/openid-configuration";

/// Status and body by address; what is not there is 404.
#[derive(Default)]
struct Site {
    pages: BTreeMap<String, (u16, Vec<u8>)>,
    asked: Mutex<Vec<String>>,
}

impl Site {
    fn with(mut self, url: &str, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.pages.insert(url.to_owned(), (status, body.into()));
        self
    }

    fn discover(&self, issuer: &str) -> Result<Discovered, DiscoveryError> {
        block_on(discover(issuer, self))
    }
}

impl HttpClient for Site {
    fn send(&self, request: Request<RequestBody>, limits: HttpLimits) -> HttpFuture<'_> {
        assert_eq!(limits.max_response_bytes, Some(256 * 1024));
        let url = request.uri().to_string();
        self.asked.lock().unwrap().push(url.clone());
        let (status, body) = self.pages.get(&url).cloned().unwrap_or((404, Vec::new()));
        Box::pin(async move {
            if status == 0 {
                return Err(HttpError::Unreachable);
            }
            let mut response = Response::new(ResponseBody::from_bytes(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        })
    }
}

fn document() -> Value {
    json!({
        "issuer": ISSUER,
        "authorization_endpoint": "https://login.example.com/authorize",
        "token_endpoint": "https://api.example.com/token",
        "revocation_endpoint": "https://api.example.com/revoke",
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post", "none"],
        "code_challenge_methods_supported": ["plain", "S256"],
        "scopes_supported": ["openid", "email", "not a scope"],
        "authorization_response_iss_parameter_supported": true,
        "jwks_uri": "https://api.example.com/keys",
    })
}

/// What the document gives with `member` in place of its own.
fn with(member: &str, value: Value) -> Result<Discovered, DiscoveryError> {
    let mut document = document();
    document[member] = value;
    Site::default().with(OAUTH, 200, document.to_string()).discover(ISSUER)
}

#[test]
fn a_document_becomes_settings() {
    let site = Site::default().with(OAUTH, 200, document().to_string());
    let Discovered { settings, scopes_supported } = site.discover(ISSUER).unwrap();
    assert_eq!(settings.token_endpoint(), "https://api.example.com/token");
    assert_eq!(settings.authorization_endpoint(), Some("https://login.example.com/authorize"));
    assert_eq!(settings.revocation_endpoint(), Some("https://api.example.com/revoke"));
    assert_eq!((settings.issuer(), settings.iss_required()), (Some(ISSUER), true));
    assert_eq!(settings.client_auth(), ClientAuth::Post);
    assert_eq!(scopes_supported, ["openid", "email"]);
    assert_eq!(*site.asked.lock().unwrap(), [OAUTH]);
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_rfc() {
    let least = json!({ "issuer": ISSUER, "token_endpoint": "https://api.example.com/token" });
    let settings = Site::default().with(OAUTH, 200, least.to_string()).discover(ISSUER).unwrap().settings;
    assert_eq!((settings.authorization_endpoint(), settings.revocation_endpoint()), (None, None));
    assert_eq!((settings.client_auth(), settings.iss_required()), (ClientAuth::Basic, false));
}

#[test]
fn both_addresses_are_asked_and_paths_are_inserted_or_appended() {
    for issuer in ["https://example.com/realms/a", "https://example.com/realms/a/"] {
        let oauth = "https://example.com/.well-known/oauth-authorization-server/realms/a";
        let oidc = "https://example.com/realms/a/.well-known/openid-configuration";
        let mut document = document();
        document["issuer"] = issuer.into();
        let site = Site::default().with(oauth, 200, "<html>not JSON").with(oidc, 200, document.to_string());
        assert_eq!(site.discover(issuer).unwrap().settings.issuer(), Some(issuer));
        assert_eq!(*site.asked.lock().unwrap(), [oauth, oidc]);
    }
    let site = Site::default().with(OIDC, 200, document().to_string());
    assert!(site.discover(ISSUER).is_ok());
}

#[test]
fn the_failure_that_tells_most_is_reported() {
    assert_eq!(Site::default().discover(ISSUER), Err(DiscoveryError::NotFound { status: 404 }));
    let redirecting = Site::default().with(OAUTH, 302, "").with(OIDC, 404, "");
    assert_eq!(redirecting.discover(ISSUER), Err(DiscoveryError::Redirected));
    assert_eq!(Site::default().with(OIDC, 200, "[]").discover(ISSUER), Err(DiscoveryError::Malformed));
    let large = format!("{{\"issuer\":\"{}\"}}", "x".repeat(256 * 1024));
    let too_large = Site::default().with(OAUTH, 200, large).discover(ISSUER).unwrap_err();
    assert_eq!(too_large, DiscoveryError::Http(HttpError::TooLarge));
    let unreachable = Site::default().with(OAUTH, 0, "");
    assert_eq!(unreachable.discover(ISSUER), Err(DiscoveryError::Http(HttpError::Unreachable)));
    assert_eq!(unreachable.asked.lock().unwrap().len(), 1);
    assert!(DiscoveryError::NotFound { status: 503 }.is_retryable() && !too_large.is_retryable());
}

#[test]
fn another_issuer_is_refused_to_the_byte() {
    for found in ["https://login.example.com/", "https://LOGIN.example.com", "https://login.example.com.evil.test", ""] {
        assert_eq!(with("issuer", found.into()), Err(DiscoveryError::IssuerMismatch { found: found.to_owned() }));
    }
    let odd = with("issuer", "https://x.test/\n\u{1b}[31mä".into());
    assert_eq!(odd, Err(DiscoveryError::IssuerMismatch { found: "https://x.test/??[31m?".to_owned() }));
    assert_eq!(with("issuer", Value::Null), Err(DiscoveryError::Missing { member: "issuer" }));
    // The second address is not a second chance for it.
    let other = document().to_string().replace(ISSUER, "https://evil.test");
    let site = Site::default().with(OAUTH, 200, other).with(OIDC, 200, document().to_string());
    assert!(matches!(site.discover(ISSUER), Err(DiscoveryError::IssuerMismatch { .. })));
}

#[test]
fn endpoints_are_https_unless_the_issuer_is_this_machine() {
    for member in ["token_endpoint", "authorization_endpoint", "revocation_endpoint"] {
        for url in ["http://login.example.com/x", "http://127.0.0.1:4000/x"] {
            let refused = with(member, url.into());
            assert!(matches!(refused, Err(DiscoveryError::PlainHttp { member: named }) if named == member), "{member} {url}");
        }
        for url in ["", "/token", "https://a@login.example.com/x", "https://login.example.com/#x", "javascript:alert(1)"] {
            let refused = with(member, url.into());
            assert!(matches!(refused, Err(DiscoveryError::Invalid(InvalidOAuth::Endpoint { .. }))), "{member} {url} {refused:?}");
        }
    }
    assert_eq!(with("token_endpoint", Value::Null), Err(DiscoveryError::Missing { member: "token_endpoint" }));

    let issuer = "http://127.0.0.1:4000";
    let local = document().to_string().replace(ISSUER, issuer).replace("https://api.example.com", "http://localhost:4001");
    let site = Site::default().with("http://127.0.0.1:4000/.well-known/oauth-authorization-server", 200, local);
    assert_eq!(site.discover(issuer).unwrap().settings.token_endpoint(), "http://localhost:4001/token");
}

#[test]
fn issuers_that_can_t_be_asked_are_refused_before_a_request() {
    let site = Site::default();
    for issuer in ["", "login.example.com", "http://login.example.com", "https://login.example.com/#a", "https://a:b@example.com"]
    {
        assert_eq!(site.discover(issuer), Err(InvalidOAuth::Endpoint { what: "issuer" }.into()), "{issuer}");
    }
    assert_eq!(site.discover("https://login.example.com?a=b"), Err(InvalidOAuth::IssuerQuery.into()));
    assert!(site.asked.lock().unwrap().is_empty());
}

#[test]
fn s256_and_a_known_client_authentication_are_needed() {
    assert_eq!(with("code_challenge_methods_supported", json!(["plain"])), Err(DiscoveryError::NoS256));
    assert_eq!(with("code_challenge_methods_supported", json!([])), Err(DiscoveryError::NoS256));
    assert!(with("code_challenge_methods_supported", Value::Null).is_ok());
    let methods =
        |methods: Value| with("token_endpoint_auth_methods_supported", methods).map(|found| found.settings.client_auth());
    assert_eq!(methods(json!(["client_secret_post", "client_secret_basic"])), Ok(ClientAuth::Basic));
    assert_eq!(methods(json!(["none"])), Ok(ClientAuth::None));
    assert_eq!(methods(json!(["private_key_jwt", "tls_client_auth"])), Err(DiscoveryError::ClientAuth));
}

/// JSON of any shape, with texts that come close to good ones.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "\\PC{0,12}",
        "(https?|ftp)://[a-z@:#?]{0,6}(example\\.com|127\\.0\\.0\\.1)(:[0-9]{1,5})?[/a-z#?]{0,4}",
        Just(ISSUER.to_owned()),
        Just("S256".to_owned()),
        Just("client_secret_basic".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{0,8}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_published_gives_safe_settings_or_an_error(
        changes in proptest::collection::vec((0..9usize, any_json()), 0..4),
        instead in proptest::option::weighted(0.2, any_json()),
        cut in proptest::option::weighted(0.2, 0..600usize),
    ) {
        let mut document = document();
        let members: Vec<String> = document.as_object().unwrap().keys().cloned().collect();
        for (at, value) in changes {
            document[&members[at]] = value;
        }
        let mut bytes = instead.unwrap_or(document).to_string().into_bytes();
        bytes.truncate(cut.unwrap_or(usize::MAX));
        if let Ok(found) = Site::default().with(OAUTH, 200, bytes).discover(ISSUER) {
            let settings = found.settings;
            prop_assert_eq!(settings.issuer(), Some(ISSUER));
            let endpoints = [Some(settings.token_endpoint()), settings.authorization_endpoint(), settings.revocation_endpoint()];
            for url in endpoints.into_iter().flatten() {
                prop_assert!(url.starts_with("https://") && !url.contains(['@', '#']), "{}", url);
            }
        }
    }
}
