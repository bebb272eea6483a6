//! A provider in memory behind the HTTP client's trait: authorization page, token endpoint and API, with the habits of real ones.
//! What it answers can be scripted, and it counts what it is asked.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anchorhold::testing::ManualClock;
use anchorhold::{
    Account, AuthorizationRequest, Clock as _, ConnectCallback, ConnectRequest, Connection, HttpClient, HttpError, HttpFuture,
    HttpLimits, OAuthClient, OAuthSettings, ProviderSettings, RefreshProfile, RequestBody, ResponseBody, Timestamp,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use event_listener::Event;
use http::{Request, Response, StatusCode, header};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

use crate::common::provider as name;

pub const CLIENT_ID: &str = "client-1";
pub const CLIENT_SECRET: &str = "s3cret of the client";
pub const REDIRECT: &str = "https://app.example.com/callback";
pub const API: &str = "https://api.example.com/me";

/// One answer that a test asks for instead of what the provider would say.
#[derive(Clone)]
pub enum Scripted {
    /// This status, content type, headers and body.
    Answer(u16, Vec<(&'static str, String)>, String),
    Fails(HttpError),
}

/// Called when the provider has done its part, before the answer goes out.
type Hook = Box<dyn Fn() + Send + Sync>;

#[expect(clippy::struct_excessive_bools, reason = "independent habits")]
pub struct State {
    pub rotates: bool,
    pub grace: Duration,
    pub lifetime: Duration,
    pub scripted: VecDeque<Scripted>,
    pub after_token: Option<Hook>,
    pub iss: Option<String>,
    /// What the customer ticks; `None` for everything asked for.
    pub granted: Option<String>,
    pub token_requests: u64,
    pub refreshes: u64,
    pub api_requests: u64,
    pub revoked: Vec<String>,
    /// Every refresh token that was sent, in order.
    pub sent: Vec<String>,
    /// While set, token requests wait.
    pub held: bool,
    pub client_refused: bool,
    pub api_refuses: bool,
    codes: HashMap<String, Code>,
    /// Of each refresh token, since when it is replaced.
    grants: HashMap<String, Option<Timestamp>>,
    access: HashMap<String, Timestamp>,
    counter: u64,
}

struct Code {
    challenge: String,
    redirect_uri: String,
    scope: String,
}

#[derive(Clone)]
pub struct Provider {
    state: Arc<Mutex<State>>,
    clock: Arc<ManualClock>,
    released: Arc<Event>,
}

impl Provider {
    pub fn new(clock: &Arc<ManualClock>) -> Self {
        let state = State {
            rotates: true,
            grace: Duration::ZERO,
            lifetime: Duration::from_secs(3_600),
            scripted: VecDeque::new(),
            after_token: None,
            iss: None,
            granted: None,
            token_requests: 0,
            refreshes: 0,
            api_requests: 0,
            revoked: Vec::new(),
            sent: Vec::new(),
            held: false,
            client_refused: false,
            api_refuses: false,
            codes: HashMap::new(),
            grants: HashMap::new(),
            access: HashMap::new(),
            counter: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), clock: Arc::clone(clock), released: Arc::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn script(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.state().scripted.extend(answers);
    }

    /// Lets the token requests that wait go on.
    pub fn release(&self) {
        self.state().held = false;
        self.released.notify(usize::MAX);
    }

    /// The customer withdraws consent.
    pub fn withdraw(&self) {
        let mut state = self.state();
        state.grants.clear();
        state.access.clear();
    }

    /// The API no longer takes any access token that was given out.
    pub fn forget_access_tokens(&self) {
        self.state().access.clear();
    }

    /// The customer's browser at the authorization page: answers the query that it comes back with.
    pub fn consent(&self, request: &AuthorizationRequest) -> String {
        let (endpoint, query) = request.url.split_once('?').unwrap();
        assert_eq!(endpoint, "https://id.example.com/authorize");
        let asked: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], CLIENT_ID);
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(asked["redirect_uri"], REDIRECT);
        let mut state = self.state();
        state.counter += 1;
        let code = format!("code-{}", state.counter);
        let scope = state.granted.clone().unwrap_or_else(|| asked.get("scope").cloned().unwrap_or_default());
        let kept = Code { challenge: asked["code_challenge"].clone(), redirect_uri: asked["redirect_uri"].clone(), scope };
        state.codes.insert(code.clone(), kept);
        let mut answer = form_urlencoded::Serializer::new(String::new());
        answer.append_pair("code", &code).append_pair("state", &asked["state"]);
        if let Some(iss) = &state.iss {
            answer.append_pair("iss", iss);
        }
        answer.finish()
    }

    /// Connects an account the whole way.
    pub async fn connect(&self, account: &Account) -> Connection {
        let request = account.begin_connect(request()).await.unwrap();
        let query = self.consent(&request);
        account.complete_connect(ConnectCallback::from_query(&query).unwrap()).await.unwrap()
    }

    fn answer(&self, request: &Request<RequestBody>) -> Response<ResponseBody> {
        match request.uri().host() {
            Some("id.example.com") if request.uri().path() == "/token" => self.token(request),
            Some("id.example.com") if request.uri().path() == "/revoke" => self.revoke(request),
            Some("api.example.com") => self.api(request),
            other => panic!("a request to {other:?}"),
        }
    }

    fn token(&self, request: &Request<RequestBody>) -> Response<ResponseBody> {
        let form = form(request);
        let now = self.clock.now();
        let mut state = self.state();
        let state = &mut *state;
        let expected = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{}", CLIENT_SECRET.replace(' ', "+"))));
        if request.headers().get(header::AUTHORIZATION).is_none_or(|sent| sent.as_bytes() != expected.as_bytes())
            || state.client_refused
        {
            return json(401, r#"{"error":"invalid_client"}"#);
        }
        let scope = match form["grant_type"].as_str() {
            "authorization_code" => {
                let Some(code) = state.codes.remove(&form["code"]) else { return json(400, r#"{"error":"invalid_grant"}"#) };
                let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
                if challenge != code.challenge || form["redirect_uri"] != code.redirect_uri {
                    return json(400, r#"{"error":"invalid_grant"}"#);
                }
                code.scope
            }
            "refresh_token" => {
                state.refreshes += 1;
                let sent = form["refresh_token"].clone();
                state.sent.push(sent.clone());
                match state.grants.get(&sent) {
                    Some(None) => {}
                    Some(Some(replaced)) if now.since(*replaced) < state.grace => {}
                    // Reuse ends the family (RFC 9700 section 4.14.2).
                    Some(Some(_)) => {
                        state.grants.clear();
                        return json(400, r#"{"error":"invalid_grant"}"#);
                    }
                    None => return json(400, r#"{"error":"invalid_grant"}"#),
                }
                if state.rotates {
                    state.grants.insert(sent, Some(now));
                }
                String::new()
            }
            "client_credentials" => "machine".to_owned(),
            other => panic!("{other}"),
        };
        state.counter += 1;
        let access = format!("access-{}", state.counter);
        state.access.insert(access.clone(), now.plus(state.lifetime));
        let mut body = format!(r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":{}"#, state.lifetime.as_secs());
        let refresh = form["grant_type"] == "authorization_code" || form["grant_type"] == "refresh_token" && state.rotates;
        if refresh {
            let refresh = format!("refresh-{}", state.counter);
            write!(body, r#","refresh_token":"{refresh}""#).unwrap();
            state.grants.insert(refresh, None);
        }
        if !scope.is_empty() {
            write!(body, r#","scope":"{scope}""#).unwrap();
        }
        if let Some(hook) = &state.after_token {
            hook();
        }
        json(200, &(body + "}"))
    }

    fn revoke(&self, request: &Request<RequestBody>) -> Response<ResponseBody> {
        let token = form(request)["token"].clone();
        let mut state = self.state();
        state.grants.remove(&token);
        state.revoked.push(token);
        json(200, "{}")
    }

    fn api(&self, request: &Request<RequestBody>) -> Response<ResponseBody> {
        let mut state = self.state();
        state.api_requests += 1;
        let sent = request.headers().get(header::AUTHORIZATION).map(|sent| sent.to_str().unwrap());
        let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
        let good = token.and_then(|token| state.access.get(token)).is_some_and(|until| self.clock.now() < *until);
        if good && !state.api_refuses { json(200, token.unwrap()) } else { json(401, "{}") }
    }
}

impl HttpClient for Provider {
    fn send(&self, request: Request<RequestBody>, _: HttpLimits) -> HttpFuture<'_> {
        Box::pin(async move {
            let is_token = request.uri().path() == "/token";
            if is_token {
                self.state().token_requests += 1;
            }
            while is_token && self.state().held {
                let listener = self.released.listen();
                if self.state().held {
                    listener.await;
                }
            }
            let scripted = if is_token { self.state().scripted.pop_front() } else { None };
            match scripted {
                None => Ok(self.answer(&request)),
                Some(Scripted::Fails(error)) => Err(error),
                Some(Scripted::Answer(status, headers, body)) => {
                    let mut response = Response::new(ResponseBody::from_bytes(body));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    for (name, value) in headers {
                        response.headers_mut().insert(name, value.parse().unwrap());
                    }
                    Ok(response)
                }
            }
        })
    }
}

pub fn json(status: u16, body: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn form(request: &Request<RequestBody>) -> HashMap<String, String> {
    form_urlencoded::parse(request.body().as_bytes().unwrap()).into_owned().collect()
}

pub fn request() -> ConnectRequest {
    ConnectRequest::new(name("idp"), REDIRECT).unwrap()
}

pub fn oauth(profile: RefreshProfile) -> OAuthSettings {
    OAuthSettings::new("https://id.example.com/token")
        .unwrap()
        .with_authorization_endpoint("https://id.example.com/authorize")
        .unwrap()
        .with_revocation_endpoint("https://id.example.com/revoke")
        .unwrap()
        .with_scopes(["read", "write"])
        .unwrap()
        .with_refresh_profile(profile)
}

pub fn settings(oauth: OAuthSettings) -> ProviderSettings {
    ProviderSettings::new(name("idp")).allow_host("api.example.com").unwrap().oauth(oauth)
}

pub fn client() -> OAuthClient {
    OAuthClient::new(CLIENT_ID).unwrap().with_secret(SecretString::from(CLIENT_SECRET)).unwrap()
}
