//! The client of a provider's token and revocation endpoints.
//!
//! One call is one request: it follows no redirect and repeats nothing, since a rotating refresh token is spent by the first attempt.
//! What comes back is either tokens or a [`TokenFailure`] that holds no byte of the answer but a checked error code.
//!
//! What is wiped, and what is not: the request's body (an owned buffer), the buffer in which the answer is collected, and the tokens
//! in [`TokenAnswer`] are. The copies that oauth2, the HTTP client, TLS and serde make on the heap are not; they are tier 2 of the
//! promise, for which the host installs the allocator that wipes what is freed.

pub(crate) mod answer;
#[cfg(test)]
mod answer_tests;
mod members;
pub(crate) mod request;
mod retry_after;
#[cfg(test)]
mod wire_tests;

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, USER_AGENT};
use http::{HeaderValue, Request};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::http::{HttpClient, HttpError, HttpLimits, RequestBody};
use crate::clock::Clock;
use crate::domain::oauth::client::OAuthClient;
use crate::domain::oauth::failure::{FailureKind, TokenFailure};
use crate::domain::oauth::settings::OAuthSettings;

pub(crate) use answer::TokenAnswer;
pub(crate) use request::{Authorization, TokenKind};

/// The most bytes of an answer. Tokens of 16 KiB twice and an id token fit.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

const LIMITS: HttpLimits = HttpLimits::new(Duration::from_secs(20)).max_response_bytes(MAX_ANSWER_BYTES);

/// So much of a secret in a row is told nowhere.
const LONGEST_PART: usize = 24;
/// What is shorter stands by chance in a code.
const SHORTEST_SECRET: usize = 8;

/// Some providers refuse requests without one.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("anchorhold/", env!("CARGO_PKG_VERSION")));

/// Where one provider is asked for tokens, and as whom.
#[derive(Clone, Copy)]
pub(crate) struct TokenEndpoint<'a> {
    pub(crate) http: &'a dyn HttpClient,
    /// Reads a `Retry-After` that is a date.
    pub(crate) clock: &'a dyn Clock,
    pub(crate) settings: &'a OAuthSettings,
    pub(crate) client: &'a OAuthClient,
}

impl TokenEndpoint<'_> {
    /// Exchanges the code of an authorization answer (RFC 6749 section 4.1.3). `redirect_uri` and `verifier` are those of the
    /// authorization request (RFC 7636 section 4.5).
    pub(crate) async fn exchange_code(
        &self,
        code: &SecretString,
        redirect_uri: &str,
        verifier: &SecretString,
    ) -> Result<Box<TokenAnswer>, TokenFailure> {
        let request = request::exchange_code(self.settings, self.client, code, redirect_uri, verifier)?;
        self.tokens(request, &[code, verifier]).await
    }

    /// Asks for a new access token (RFC 6749 section 6), of the same scopes.
    pub(crate) async fn refresh(&self, refresh_token: &SecretString) -> Result<Box<TokenAnswer>, TokenFailure> {
        let request = request::refresh(self.settings, self.client, refresh_token)?;
        self.tokens(request, &[refresh_token]).await
    }

    /// Asks for a token of the client's own (RFC 6749 section 4.4).
    pub(crate) async fn client_credentials(&self, scopes: &[String]) -> Result<Box<TokenAnswer>, TokenFailure> {
        let request = request::client_credentials(self.settings, self.client, scopes)?;
        self.tokens(request, &[]).await
    }

    /// Ends a token at the provider (RFC 7009). A token that the provider does not know counts as ended, as it does there.
    ///
    /// # Errors
    /// Also when the settings have no revocation endpoint: `Refused("invalid_request")` without a status.
    pub(crate) async fn revoke(&self, token: &SecretString, kind: TokenKind) -> Result<(), TokenFailure> {
        let request = request::revoke(self.settings, self.client, token, kind)?;
        let (status, headers, body) = self.exchange(request).await?;
        if status.is_success() {
            // RFC 7009 section 2.2: the body says nothing. But for those who answer errors with status 200.
            return match answer::error(status, &body) {
                Some(kind @ FailureKind::Refused(_)) => Err(self.failure(kind, status, &headers, &[token])),
                _ => Ok(()),
            };
        }
        let kind = answer::error(status, &body).unwrap_or(FailureKind::Malformed("an error without a code"));
        Err(self.failure(kind, status, &headers, &[token]))
    }

    async fn tokens(
        &self,
        request: Request<Zeroizing<Vec<u8>>>,
        sent: &[&SecretString],
    ) -> Result<Box<TokenAnswer>, TokenFailure> {
        let (status, headers, body) = self.exchange(request).await?;
        answer::read(status, &body, self.settings).map_err(|kind| self.failure(kind, status, &headers, sent))
    }

    /// Sends the request and collects the answer, unless it is a redirect.
    async fn exchange(
        &self,
        request: Request<Zeroizing<Vec<u8>>>,
    ) -> Result<(StatusCode, HeaderMap, Zeroizing<Vec<u8>>), TokenFailure> {
        let mut request = request.map(RequestBody::wiped);
        request.headers_mut().insert(USER_AGENT, AGENT);
        let (head, body) = self.http.send(request, LIMITS).await.map_err(|error| broken(error, None))?.into_parts();
        if head.status.is_redirection() {
            return Err(self.failure(FailureKind::Redirected, head.status, &head.headers, &[]));
        }
        let body = body.wiped(MAX_ANSWER_BYTES).await.map_err(|error| broken(error, Some(head.status)))?;
        Ok((head.status, head.headers, body))
    }

    fn failure(&self, kind: FailureKind, status: StatusCode, headers: &HeaderMap, sent: &[&SecretString]) -> TokenFailure {
        let kind = match kind {
            FailureKind::Refused(code)
                if sent.iter().copied().chain(self.client.secret()).any(|secret| repeats(&code, secret)) =>
            {
                FailureKind::Malformed("an error code that repeats a secret")
            }
            kind => kind,
        };
        TokenFailure { kind, status: Some(status.as_u16()), retry_after: retry_after::read(headers, self.clock.now()) }
    }
}

/// A failure of the exchange itself.
fn broken(error: HttpError, status: Option<StatusCode>) -> TokenFailure {
    let kind = match error {
        HttpError::TimedOut => FailureKind::TimedOut,
        HttpError::TooLarge => FailureKind::TooLarge,
        _ => FailureKind::Unreachable,
    };
    TokenFailure { kind, status: status.map(|status| status.as_u16()), retry_after: None }
}

/// Whether a server wrote what it was sent, or much of it, into its error code; that is cut at some length, so the end may be missing.
/// Codes of the RFCs are shorter than such a part, so that a token that begins like one does no harm.
fn repeats(code: &str, secret: &SecretString) -> bool {
    let secret = secret.expose_secret().as_bytes();
    let part = secret.len().min(LONGEST_PART);
    // In a code all that is not visible became a question mark.
    let is_told = |(told, sent): (&u8, &u8)| told == sent || (*told == b'?' && !sent.is_ascii_graphic());
    let told_in_code = |sent: &[u8]| code.as_bytes().windows(part).any(|told| told.iter().zip(sent).all(is_told));
    part >= SHORTEST_SECRET && secret.windows(part).any(told_in_code)
}
