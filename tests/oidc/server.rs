//! The OpenID server as a child process, and what one can ask it by hand.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anchorhold::{HttpClient as _, HttpLimits, RequestBody, ReqwestClient};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, StatusCode, header};

use crate::common::block_on;

pub const CLIENT_ID: &str = "client-1";
/// With characters that basic authentication has to encode (RFC 6749 section 2.3.1).
pub const CLIENT_SECRET: &str = "s3cret: 100% + of the client";
pub const REDIRECT: &str = "http://127.0.0.1/callback";

/// The requests to token endpoints of all tests, by grant type and outcome.
static EXCHANGES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// A server of its own for each test, so that its counts are that test's.
pub struct Server {
    child: Child,
    client: ReqwestClient,
    pub issuer: String,
}

/// An answer with its body read.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Server {
    /// Whose access tokens live this many seconds.
    pub fn start(access_token_seconds: u64) -> Self {
        assert!(std::env::var("ANCHORHOLD_OIDC").is_ok_and(|set| set == "1"), "needs Node: run scripts/oidc.sh");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc");
        let mut child = Command::new("node")
            .arg(folder.join("server.mjs"))
            .args([&access_token_seconds.to_string(), CLIENT_ID, CLIENT_SECRET, REDIRECT])
            // It ends when this pipe does, also when the test process dies.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut issuer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut issuer).unwrap();
        let issuer = issuer.trim().to_owned();
        assert!(issuer.starts_with("http://127.0.0.1:"), "the server did not start: run scripts/install-oidc.sh");
        Self { child, client: ReqwestClient::new(), issuer }
    }

    /// The server's host and port.
    pub fn authority(&self) -> &str {
        self.issuer.strip_prefix("http://").unwrap()
    }

    /// Where a credential is used: answers who the customer is.
    pub fn api(&self) -> String {
        format!("{}/me", self.issuer)
    }

    pub async fn exchange(&self, request: Request<RequestBody>) -> Answer {
        let (head, body) = self.client.send(request, HttpLimits::default()).await.unwrap().into_parts();
        let text = String::from_utf8(body.bytes(1 << 20).await.unwrap().to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    /// A request of somebody who has the client's secret.
    async fn as_client(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let basic = STANDARD.encode(format!("{}:{}", encoded(CLIENT_ID), encoded(CLIENT_SECRET)));
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(format!("{}{path}", self.issuer))
            .header(header::AUTHORIZATION, format!("Basic {basic}"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.exchange(request.body(RequestBody::from(body)).unwrap()).await
    }

    /// Sends a refresh token past the vault. Answers the status and the error code.
    pub async fn refresh_by_hand(&self, token: &str) -> (u16, Option<String>) {
        let answer = self.as_client("/token", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await;
        let body: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        (answer.status.as_u16(), body["error"].as_str().map(str::to_owned))
    }

    /// Whether the server says that a token is good (RFC 7662).
    pub async fn is_active(&self, token: &str) -> bool {
        let answer = self.as_client("/token/introspection", &[("token", token)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        serde_json::from_str::<serde_json::Value>(&answer.text).unwrap()["active"].as_bool().unwrap()
    }

    /// What the server did, by name.
    pub async fn counts(&self) -> BTreeMap<String, u64> {
        let request = Request::get(format!("{}/counts", self.issuer)).body(RequestBody::empty()).unwrap();
        serde_json::from_str(&self.exchange(request).await.text).unwrap()
    }

    pub async fn count(&self, name: &str) -> u64 {
        self.counts().await.get(name).copied().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let counts = block_on(self.counts());
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let mut all = EXCHANGES.lock().unwrap();
            for (name, count) in &counts {
                if name.starts_with("authorization_code") || name.starts_with("refresh_token") {
                    *all.entry(name.clone()).or_default() += count;
                }
            }
            println!("{name}: {counts:?}\nexchanges so far: {} {all:?}", all.values().sum::<u64>());
        }
        // Ends it by the end of its input; killed in case it is stuck.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
