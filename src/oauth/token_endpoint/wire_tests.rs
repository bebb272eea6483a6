//! What goes over the wire, and what becomes of each way in which an exchange can end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use futures_util::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use secrecy::{ExposeSecret as _, SecretString};

use super::TokenEndpoint;
use super::request::{Authorization, TokenKind};
use crate::clock::{Clock, Timestamp};
use crate::domain::oauth::client::OAuthClient;
use crate::domain::oauth::failure::{FailureKind, TokenFailure};
use crate::domain::oauth::settings::{ClientAuth, OAuthSettings};
use crate::oauth::http::{HttpClient, HttpError, HttpFuture, HttpLimits, RequestBody, ResponseBody};

/// The verifier and challenge of RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDIRECT: &str = "https://app.example/callback?a=b";
const TOKENS: &str = r#"{"access_token":"at-needle-1","token_type":"Bearer","expires_in":3600,"refresh_token":"rt-needle-2"}"#;

/// Answers once, and remembers what was asked.
struct Scripted {
    answer: Mutex<Option<Result<Response<ResponseBody>, HttpError>>>,
    asked: Mutex<Option<(Request<RequestBody>, HttpLimits)>>,
}

impl Scripted {
    fn new(answer: Result<Response<ResponseBody>, HttpError>) -> Self {
        Self { answer: Mutex::new(Some(answer)), asked: Mutex::new(None) }
    }

    fn answering(status: u16, headers: &[(&'static str, &str)], body: ResponseBody) -> Self {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Self::new(Ok(response.body(body).unwrap()))
    }

    /// Method, address, header fields and the body's parameters.
    fn asked(&self) -> (Method, String, HeaderMap, BTreeMap<String, String>) {
        let (request, limits) = self.asked.lock().unwrap().take().unwrap();
        assert_eq!(limits, HttpLimits::new(Duration::from_secs(20)).max_response_bytes(64 * 1024));
        let (head, body) = request.into_parts();
        let body = std::str::from_utf8(body.as_bytes().unwrap()).unwrap().to_owned();
        let mut parameters = BTreeMap::new();
        for pair in body.split('&') {
            let (name, value) = pair.split_once('=').unwrap();
            assert!(parameters.insert(name.to_owned(), value.to_owned()).is_none(), "{name} is there twice");
        }
        (head.method, head.uri.to_string(), head.headers, parameters)
    }
}

impl HttpClient for Scripted {
    fn send(&self, request: Request<RequestBody>, limits: HttpLimits) -> HttpFuture<'_> {
        Box::pin(async move {
            let before = self.asked.lock().unwrap().replace((request, limits));
            assert!(before.is_none(), "asked twice");
            self.answer.lock().unwrap().take().unwrap()
        })
    }
}

/// 1994-11-06 08:49:37 UTC.
struct Then;

impl Clock for Then {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(784_111_777_000)
    }
}

fn settings() -> OAuthSettings {
    OAuthSettings::new("https://auth.example/oauth/token?tenant=1")
        .unwrap()
        .with_authorization_endpoint("https://auth.example/authorize?tenant=1")
        .unwrap()
        .with_revocation_endpoint("http://127.0.0.1:8080/revoke?x=y")
        .unwrap()
        .with_authorization_parameter("access_type", "offline & more")
        .unwrap()
        .with_token_parameter("audience", "https://api.example/")
        .unwrap()
}

fn client() -> OAuthClient {
    OAuthClient::new("id:1").unwrap().with_secret("s&cret+%".into()).unwrap()
}

fn secret(text: &str) -> SecretString {
    text.into()
}

fn endpoint<'a>(http: &'a Scripted, settings: &'a OAuthSettings, client: &'a OAuthClient) -> TokenEndpoint<'a> {
    TokenEndpoint { http, clock: &Then, settings, client }
}

/// How a refresh ends that is answered like this.
fn refreshed(http: &Scripted) -> Result<(), TokenFailure> {
    let (settings, client) = (settings(), client());
    block_on(endpoint(http, &settings, &client).refresh(&secret("rt-needle-1"))).map(|_| ())
}

fn tokens() -> Scripted {
    Scripted::answering(200, &[("content-type", "text/html")], ResponseBody::from_bytes(TOKENS))
}

fn pairs<'a>(pairs: &[(&'a str, &'a str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_code_is_exchanged_with_its_verifier() {
    let (http, settings, client) = (tokens(), settings(), client());
    let answer =
        block_on(endpoint(&http, &settings, &client).exchange_code(&secret("c/d"), REDIRECT, &secret(VERIFIER))).unwrap();
    assert_eq!(answer.access_token.expose_secret(), "at-needle-1");
    let (method, uri, headers, parameters) = http.asked();
    assert_eq!((method, uri.as_str()), (Method::POST, "https://auth.example/oauth/token?tenant=1"));
    assert_eq!(headers[ACCEPT], "application/json");
    assert_eq!(headers[CONTENT_TYPE], "application/x-www-form-urlencoded");
    assert!(headers[USER_AGENT].to_str().unwrap().starts_with("anchorhold/"));
    // RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined: `id%3A1:s%26cret%2B%25`.
    assert_eq!(headers[AUTHORIZATION], "Basic aWQlM0ExOnMlMjZjcmV0JTJCJTI1");
    assert!(headers[AUTHORIZATION].is_sensitive());
    let expected = [
        ("grant_type", "authorization_code"),
        ("code", "c%2Fd"),
        ("code_verifier", VERIFIER),
        ("redirect_uri", "https%3A%2F%2Fapp.example%2Fcallback%3Fa%3Db"),
        ("audience", "https%3A%2F%2Fapi.example%2F"),
    ];
    assert_eq!(parameters, pairs(&expected));
}

#[test]
fn a_refresh_sends_the_token_and_the_client_s_proof() {
    let (http, client) = (tokens(), client());
    let post = settings().with_client_auth(ClientAuth::Post);
    let answer = block_on(endpoint(&http, &post, &client).refresh(&secret("rt 1"))).unwrap();
    assert_eq!(answer.refresh_token.unwrap().expose_secret(), "rt-needle-2");
    let (_, _, headers, parameters) = http.asked();
    assert!(!headers.contains_key(AUTHORIZATION));
    let mut expected = pairs(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", "rt+1"),
        ("client_id", "id%3A1"),
        ("client_secret", "s%26cret%2B%25"),
        ("audience", "https%3A%2F%2Fapi.example%2F"),
    ]);
    assert_eq!(parameters, expected);

    // A public client, and one that is told not to show its secret.
    expected.remove("client_secret");
    let public = OAuthClient::new("id:1").unwrap();
    for (settings, client) in [(settings(), &public), (settings().with_client_auth(ClientAuth::None), &client)] {
        let http = tokens();
        block_on(endpoint(&http, &settings, client).refresh(&secret("rt 1"))).unwrap();
        let (_, _, headers, parameters) = http.asked();
        assert!(!headers.contains_key(AUTHORIZATION));
        assert_eq!(parameters, expected);
    }
}

#[test]
fn client_credentials_ask_for_scopes_in_the_provider_s_form() {
    let client = client();
    for (separator, scope) in [(' ', Some("a+b")), (',', Some("a%2Cb"))] {
        let (http, settings) = (tokens(), settings().with_scope_separator(separator).unwrap());
        let scopes = ["a".to_owned(), "b".to_owned()];
        block_on(endpoint(&http, &settings, &client).client_credentials(&scopes)).unwrap();
        let (_, _, _, parameters) = http.asked();
        assert_eq!(parameters["grant_type"], "client_credentials");
        assert_eq!(parameters.get("scope").map(String::as_str), scope);
    }
    let (http, settings) = (tokens(), settings());
    block_on(endpoint(&http, &settings, &client).client_credentials(&[])).unwrap();
    assert!(!http.asked().3.contains_key("scope"));
}

#[test]
fn a_token_is_revoked_also_over_loopback_http() {
    let (settings, client) = (settings(), client());
    for (kind, hint) in [(TokenKind::Refresh, "refresh_token"), (TokenKind::Access, "access_token")] {
        let http = Scripted::answering(200, &[], ResponseBody::empty());
        block_on(endpoint(&http, &settings, &client).revoke(&secret("rt/1"), kind)).unwrap();
        let (method, uri, headers, parameters) = http.asked();
        assert_eq!((method, uri.as_str()), (Method::POST, "http://127.0.0.1:8080/revoke?x=y"));
        assert!(headers[AUTHORIZATION].is_sensitive());
        assert_eq!(parameters, pairs(&[("token", "rt%2F1"), ("token_type_hint", hint)]));
    }
    let revoked = |status, body: &'static str| {
        let http = Scripted::answering(status, &[("retry-after", "9")], ResponseBody::from_bytes(body));
        block_on(endpoint(&http, &settings, &client).revoke(&secret("rt"), TokenKind::Refresh))
    };
    assert_eq!(revoked(200, "<html>"), Ok(()));
    assert_eq!(revoked(200, r#"{"ok":true,"revoked":true}"#), Ok(()));
    assert_eq!(revoked(204, ""), Ok(()));
    let failure = |kind, status| Err(TokenFailure { kind, status: Some(status), retry_after: Some(Duration::from_secs(9)) });
    let refused = |code: &str| FailureKind::Refused(code.into());
    assert_eq!(revoked(400, r#"{"error":"unsupported_token_type"}"#), failure(refused("unsupported_token_type"), 400));
    assert_eq!(revoked(200, r#"{"ok":false,"error":"token_revoked"}"#), failure(refused("token_revoked"), 200));
    assert_eq!(revoked(503, "busy"), failure(FailureKind::Malformed("not one JSON object"), 503));
    let without = OAuthSettings::new("https://auth.example/token").unwrap();
    let http = tokens();
    let refused = block_on(endpoint(&http, &without, &client).revoke(&secret("rt"), TokenKind::Refresh)).unwrap_err();
    assert_eq!((refused.kind, refused.status), (FailureKind::Refused("invalid_request".into()), None));
    assert!(http.asked.lock().unwrap().is_none());
}

#[test]
fn the_authorization_address_has_a_challenge_and_no_verifier() {
    let (client, verifier) = (client(), secret(VERIFIER));
    let scopes = ["a".to_owned(), "https://b.example/c".to_owned()];
    let asked = Authorization { redirect_uri: REDIRECT, scopes: &scopes, state: "st&te", verifier: &verifier };
    let url = asked.url(&settings().with_scope_separator(',').unwrap(), &client).unwrap();
    let query = url.strip_prefix("https://auth.example/authorize?tenant=1&").unwrap();
    let query: BTreeMap<_, _> = query.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    let expected = BTreeMap::from([
        ("response_type", "code"),
        ("client_id", "id%3A1"),
        ("state", "st%26te"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("redirect_uri", "https%3A%2F%2Fapp.example%2Fcallback%3Fa%3Db"),
        ("scope", "a%2Chttps%3A%2F%2Fb.example%2Fc"),
        ("access_type", "offline+%26+more"),
    ]);
    assert_eq!(query, expected);
    assert!(!url.contains(VERIFIER) && !url.contains("s%26cret"));

    let unscoped = Authorization { scopes: &[], ..asked };
    assert!(!unscoped.url(&settings(), &client).unwrap().contains("scope="));
    let without = OAuthSettings::new("https://auth.example/token").unwrap();
    assert_eq!(asked.url(&without, &client), None);
    for bad in ["", &"a".repeat(42), &"a".repeat(129), &format!("{} ", "a".repeat(42))] {
        let verifier = secret(bad);
        assert_eq!(Authorization { verifier: &verifier, ..asked }.url(&settings(), &client), None, "{bad}");
    }
}

#[test]
fn each_end_of_an_exchange_has_its_failure() {
    let failure = |kind, status, retry_after: Option<u64>| {
        Err(TokenFailure { kind, status, retry_after: retry_after.map(Duration::from_secs) })
    };
    for (error, kind) in [
        (HttpError::Unreachable, FailureKind::Unreachable),
        (HttpError::Tls, FailureKind::Unreachable),
        (HttpError::Interrupted, FailureKind::Unreachable),
        (HttpError::Stopped, FailureKind::Unreachable),
        (HttpError::TimedOut, FailureKind::TimedOut),
        (HttpError::TooLarge, FailureKind::TooLarge),
    ] {
        assert_eq!(refreshed(&Scripted::new(Err(error))), failure(kind.clone(), None, None), "{error:?}");
        let halves = [Ok(Bytes::from_static(b"{\"access_token\":")), Err(error)];
        let http = Scripted::answering(200, &[], ResponseBody::from_stream(stream::iter(halves)));
        assert_eq!(refreshed(&http), failure(kind, Some(200), None), "{error:?}");
    }
    // Ten megabytes, from a client that does not keep to its limit.
    let endless = stream::iter(std::iter::repeat_n(Ok(Bytes::from(vec![b' '; 8192])), 1280));
    let http = Scripted::answering(200, &[], ResponseBody::from_stream(endless));
    assert_eq!(refreshed(&http), failure(FailureKind::TooLarge, Some(200), None));
    for status in [301, 302, 303, 307, 308] {
        let http = Scripted::answering(status, &[("location", "https://evil.example/")], ResponseBody::from_bytes(TOKENS));
        assert_eq!(refreshed(&http), failure(FailureKind::Redirected, Some(status), None), "{status}");
    }
    let html = "<html>Sign in</html>";
    for (status, retry_after, seconds) in [
        (200, None, None),
        (429, Some("30"), Some(30)),
        (503, Some("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60)),
        (500, Some("99999999"), Some(86_400)),
        (502, Some("soon"), None),
    ] {
        let headers: Vec<_> = retry_after.map(|value| ("retry-after", value)).into_iter().collect();
        let http = Scripted::answering(status, &headers, ResponseBody::from_bytes(html));
        assert_eq!(refreshed(&http), failure(FailureKind::Malformed("not one JSON object"), Some(status), seconds), "{status}");
    }
    let http = Scripted::answering(400, &[], ResponseBody::from_bytes(r#"{"error":"invalid_grant"}"#));
    assert_eq!(refreshed(&http), failure(FailureKind::Refused("invalid_grant".into()), Some(400), None));
}

#[test]
fn a_server_that_repeats_a_secret_is_not_quoted() {
    for code in ["rt-needle-1", "bad token: rt-needle-1", "s&cret+%"] {
        let http = Scripted::answering(400, &[], ResponseBody::from_bytes(format!("{{\"error\":\"{code}\"}}")));
        let failure = refreshed(&http).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Malformed("an error code that repeats a secret"), "{code}");
    }
    // A token that is longer than a code may be: its beginning.
    let (settings, client, long) = (settings(), client(), "abcdefgh".repeat(20));
    let http = Scripted::answering(400, &[], ResponseBody::from_bytes(format!("{{\"error\":\"{long}\"}}")));
    let failure = block_on(endpoint(&http, &settings, &client).refresh(&secret(&long))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Malformed("an error code that repeats a secret"));
    // Behind other text, so that the end is cut off; another end; a space, of which the code has a question mark.
    for (code, sent) in [
        ("unknown token, which was: 8xLOxBtZp8-needle-4f0c91b7e2-a95d1be30c7742", "8xLOxBtZp8-needle-4f0c91b7e2-a95d1be30c7742"),
        ("8xLOxBtZp8-needle-4f0c91b7e2...", "8xLOxBtZp8-needle-4f0c91b7e2-a95d1be30c7742"),
        ("not good: correct horse battery staple", "correct horse battery staple"),
    ] {
        let http = Scripted::answering(400, &[], ResponseBody::from_bytes(format!("{{\"error\":\"{code}\"}}")));
        let failure = block_on(endpoint(&http, &settings, &client).refresh(&secret(sent))).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Malformed("an error code that repeats a secret"), "{code}");
    }
    // And codes as they are.
    let http = Scripted::answering(400, &[], ResponseBody::from_bytes(r#"{"error":"unsupported_grant_type"}"#));
    let failure = block_on(endpoint(&http, &settings, &client).refresh(&secret("unsupported_grant_type-1"))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused("unsupported_grant_type".into()));
}

#[test]
fn futures_go_between_threads() {
    fn send<T: Send>(future: T) -> T {
        future
    }
    let (http, settings, client, token) = (tokens(), settings(), client(), secret("rt"));
    block_on(send(endpoint(&http, &settings, &client).refresh(&token))).unwrap();
}
