//! What providers and browsers send: answers of token endpoints, documents about servers, callbacks, and the state in them.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};

use super::{HANDLE, VECTOR_VAULT, vector_key};
use crate::clock::{Clock, Timestamp};
use crate::domain::account::records::Owner;
use crate::domain::oauth::connect::{CallbackAnswer, Flow, FlowOwner};
use crate::domain::oauth::refresh::{Decision, RefreshState, Renewal, Trigger};
use crate::domain::{
    ConnectCallback, FailureClass, OAuthClient, OAuthSettings, ProviderSettings, ReauthReason, RefreshFailure, RefreshProfile,
};
use crate::ids::{AccountHandle, Environment, SessionTokenId};
use crate::oauth::discovery::{DiscoveryError, discover};
use crate::oauth::http::{HttpClient, HttpError, HttpFuture, HttpLimits, RequestBody, ResponseBody};
use crate::oauth::token_endpoint::{TokenAnswer, TokenEndpoint};

/// The time of every fuzzed exchange: 1994-11-06 08:49:37 UTC, the date of the examples in RFC 9110.
const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

/// What one server answers.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The HTTP status, if it is one.
    pub status: u16,
    /// The header `Retry-After`, if it can be one.
    pub retry_after: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// How many bytes of it come at once; 0 for all.
    pub chunk: usize,
}

/// What became of a refresh.
#[derive(Debug)]
pub struct Outcome {
    /// The addresses that were asked.
    pub asked: Vec<String>,
    /// The tokens, or all that can be seen of the failure, and its class.
    pub tokens: Result<Box<Obtained>, (String, FailureClass)>,
    /// By how much later than now the access token expires.
    pub lifetime: Option<Duration>,
    /// By how much later than now is asked again, at the soonest.
    pub pause: Option<Duration>,
    /// Why the connection ended.
    pub ended: Option<ReauthReason>,
}

/// The tokens of an answer, in the clear.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is named like the answer's member")]
pub struct Obtained {
    pub access_token: String,
    pub refresh_token: Option<String>,
    pub token_type: String,
    pub expires_in: Option<Duration>,
    pub scopes: Option<Vec<String>>,
    pub api_host: Option<String>,
    /// `Debug` of the answer, and of the same answer with other tokens in it.
    pub shown: [String; 2],
    /// Whether they can be stored.
    pub storable: bool,
}

/// Refreshes once at a server that answers so. The answer's tokens and the pause are those that a connection would get.
#[must_use]
pub fn token_answer(answer: Answer<'_>, refresh_token: &str, client_secret: &str) -> Option<Outcome> {
    let profile = RefreshProfile::new().with_error("BAD_REFRESH_TOKEN", FailureClass::Revoked).ok()?;
    let settings = OAuthSettings::new("https://auth.example/token").ok()?.with_api_host_from("instance_url").ok()?;
    let settings = settings.with_refresh_profile(profile);
    let client = OAuthClient::new("client").ok()?.with_secret(client_secret.into()).ok()?;
    let server = Server::new([answer])?;
    let endpoint = TokenEndpoint { http: &server, clock: &StoppedClock, settings: &settings, client: &client };

    let mut state = RefreshState::new(Renewal::RefreshToken, NOW, None);
    let Decision::Refresh(intent) = state.decide(settings.refresh_profile(), NOW, Trigger::Forced) else { return None };
    state.begin(intent);
    let answered = block_on(endpoint.refresh(&SecretString::from(refresh_token)));
    match &answered {
        Ok(tokens) => state.succeed(settings.refresh_profile(), tokens.expires_in, tokens.refresh_token.is_some(), u8::MAX),
        Err(failure) => state.fail(settings.refresh_profile(), failure, NOW, u8::MAX),
    }
    let tokens = answered.map(|tokens| Box::new(obtained(&tokens))).map_err(|failure| {
        let told = RefreshFailure::of(&failure);
        (format!("{failure:?} {told:?} {told}"), failure.class(settings.refresh_profile()))
    });
    Some(Outcome {
        asked: server.asked(),
        tokens,
        lifetime: state.expires_at.map(|at| at.since(NOW)),
        pause: state.retry_at.map(|at| at.since(NOW)),
        ended: state.ended,
    })
}

fn obtained(tokens: &TokenAnswer) -> Obtained {
    let clear = |token: &SecretString| token.expose_secret().to_owned();
    let mut others = tokens.clone();
    others.access_token = "another".into();
    others.refresh_token = others.refresh_token.map(|_| "another".into());
    Obtained {
        access_token: clear(&tokens.access_token),
        refresh_token: tokens.refresh_token.as_ref().map(clear),
        token_type: tokens.token_type.clone(),
        expires_in: tokens.expires_in,
        scopes: tokens.scopes.clone(),
        api_host: tokens.api_host.clone(),
        shown: [format!("{tokens:?}"), format!("{others:?}")],
        storable: crate::runtime::refresh::credential(tokens, None).encode().is_ok(),
    }
}

/// What `discover` found out, or the text of its error.
#[derive(Debug)]
pub struct Discovery {
    /// The addresses that were asked.
    pub asked: Vec<String>,
    /// The settings, the scopes, and whether the settings can be stored and read again.
    pub found: Result<(OAuthSettings, Vec<String>, bool), DiscoveryError>,
}

/// Discovers at a server that answers so, one after the other.
#[must_use]
pub fn discovery(issuer: &str, answers: [Answer<'_>; 2]) -> Option<Discovery> {
    let server = Server::new(answers)?;
    let found = block_on(discover(issuer, &server)).map(|found| {
        let storable = is_storable(&found.settings);
        (found.settings, found.scopes_supported, storable)
    });
    Some(Discovery { asked: server.asked(), found })
}

fn is_storable(oauth: &OAuthSettings) -> bool {
    let again = || {
        let settings = ProviderSettings::new("p".parse().ok()?).oauth(oauth.clone());
        Some(ProviderSettings::decode(&settings.encode().ok()?)? == settings)
    };
    again() == Some(true)
}

/// A catalog file: for each entry its settings, encoded, if it can be used without values for its placeholders.
#[must_use]
pub fn catalog_file(text: &str) -> Option<Vec<Option<Vec<u8>>>> {
    let entries = crate::oauth::catalog::settings_of_file(text)?;
    Some(entries.into_iter().map(|settings| settings?.encode().ok()).collect())
}

/// The parameters of a callback that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The state.
    pub state: String,
    /// The code, or the error.
    pub answer: Result<String, String>,
    /// The issuer.
    pub iss: Option<String>,
    /// `Debug` of the callback.
    pub shown: String,
}

/// A callback's query, read.
#[must_use]
pub fn callback(query: &str) -> Option<Callback> {
    let callback = ConnectCallback::from_query(query).ok()?;
    let shown = format!("{callback:?}");
    Some(Callback {
        state: callback.state.expose_secret().to_owned(),
        answer: match callback.answer {
            CallbackAnswer::Code(code) => Ok(code.expose_secret().to_owned()),
            CallbackAnswer::Error(error) => Err(error),
        },
        iss: callback.iss,
        shown,
    })
}

/// The texts of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named like the flow's member")]
pub struct FlowParts {
    pub provider: String,
    pub redirect_uri: String,
    pub issuer: Option<String>,
    pub scopes: Vec<String>,
    pub label: String,
}

/// The state and the PKCE verifier of a flow of the account `account`, under the vectors' key.
#[must_use]
pub fn flow_state(parts: FlowParts, account: u8) -> Option<(String, String)> {
    let flow = Flow {
        id: SessionTokenId::from_bytes(*b"flow of the fuzz"),
        owner: FlowOwner::Session(SessionTokenId::from_bytes(*b"its owner's name")),
        provider: parts.provider,
        redirect_uri: parts.redirect_uri,
        issuer: parts.issuer,
        scopes: parts.scopes,
        label: parts.label,
        connection: None,
        expires: NOW,
        epoch: 7,
    };
    let owner = owner(account);
    Some((flow.seal(&vector_key(), &owner)?, flow.verifier(&vector_key(), &owner).expose_secret().to_owned()))
}

/// The flow in a state of the account `account`.
#[must_use]
pub fn opened_flow(state: &str, account: u8) -> Option<FlowParts> {
    let flow = Flow::open(&SecretString::from(state), &vector_key(), &owner(account))?;
    Some(FlowParts {
        provider: flow.provider,
        redirect_uri: flow.redirect_uri,
        issuer: flow.issuer,
        scopes: flow.scopes,
        label: flow.label,
    })
}

fn owner(account: u8) -> Owner {
    let mut handle = *HANDLE.as_bytes();
    handle[15] ^= account;
    Owner { vault: VECTOR_VAULT, environment: Environment::Test, handle: AccountHandle::from_bytes(handle) }
}

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// Gives its answers in turn, whatever it is asked.
struct Server {
    answers: Mutex<VecDeque<Response<ResponseBody>>>,
    asked: Mutex<Vec<String>>,
}

impl Server {
    fn new<'a>(answers: impl IntoIterator<Item = Answer<'a>>) -> Option<Self> {
        let answers: Option<VecDeque<_>> = answers.into_iter().map(response).collect();
        Some(Self { answers: Mutex::new(answers?), asked: Mutex::default() })
    }

    fn asked(self) -> Vec<String> {
        self.asked.into_inner().unwrap_or_default()
    }
}

impl HttpClient for Server {
    fn send(&self, request: Request<RequestBody>, _: HttpLimits) -> HttpFuture<'_> {
        Box::pin(async move {
            self.asked.lock().map_err(|_| HttpError::Stopped)?.push(request.uri().to_string());
            self.answers.lock().map_err(|_| HttpError::Stopped)?.pop_front().ok_or(HttpError::Unreachable)
        })
    }
}

fn response(answer: Answer<'_>) -> Option<Response<ResponseBody>> {
    let chunk = if answer.chunk == 0 { answer.body.len().max(1) } else { answer.chunk };
    let pieces: Vec<_> = answer.body.chunks(chunk).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut response = Response::new(ResponseBody::from_stream(futures_util::stream::iter(pieces)));
    *response.status_mut() = StatusCode::from_u16(answer.status).ok()?;
    if !answer.retry_after.is_empty() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_bytes(answer.retry_after).ok()?);
    }
    Some(response)
}
