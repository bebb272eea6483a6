//! The HTTP client behind a small trait, so that a host can bring its own and tests need no server.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use super::body::{RequestBody, ResponseBody};

/// What [`HttpClient::send`] returns: boxed, so that a client can be chosen at run time.
pub type HttpFuture<'a> = Pin<Box<dyn Future<Output = Result<http::Response<ResponseBody>, HttpError>> + Send + 'a>>;

/// Sends one HTTP request. The vault talks to token endpoints through it, and sends a host's requests with credentials in them.
///
/// `ReqwestClient` is the default one (feature `reqwest`). An implementation of your own has to keep to these rules, on which the
/// vault's promises rest:
///
/// - It follows **no redirect**: a redirect is an answer like others. Otherwise the credential goes where the provider says, not
///   where its settings allow.
/// - It sends the request to the host of its URI, with **exactly its headers**, but for those that frame a message (`Host`,
///   `Content-Length`, `Transfer-Encoding`, `Connection`). It adds no cookies and keeps none.
/// - It uses no proxy unless the host asked for one.
/// - It sends each request **once**. A refresh token that rotates is spent by the first attempt; only the vault knows whether
///   there may be a second.
/// - It verifies certificates. Whether plain `http` is allowed was decided before the request came here.
/// - It keeps to the limits, and logs no header and no body.
/// - Dropping the future, or the response's body, ends the exchange.
/// - The future is `Send` and is polled by whatever executor the vault's caller has: a client that needs a runtime of its own
///   brings it.
///
/// ```
/// use anchorhold::{HttpClient, HttpError, HttpFuture, HttpLimits, RequestBody, ResponseBody};
///
/// /// Answers everything with 204, for a test.
/// struct Silent;
///
/// impl HttpClient for Silent {
///     fn send(&self, _request: http::Request<RequestBody>, _limits: HttpLimits) -> HttpFuture<'_> {
///         Box::pin(async {
///             let mut response = http::Response::new(ResponseBody::empty());
///             *response.status_mut() = http::StatusCode::NO_CONTENT;
///             Ok(response)
///         })
///     }
/// }
/// # futures_lite::future::block_on(async {
/// let request = http::Request::get("https://api.example.com/").body(RequestBody::empty()).unwrap();
/// assert_eq!(Silent.send(request, HttpLimits::default()).await.unwrap().status(), 204);
/// # });
/// ```
pub trait HttpClient: Send + Sync + 'static {
    /// Sends `request` and gives the answer as soon as its head is there; the body follows as it is read.
    ///
    /// # Errors
    /// [`HttpError`] when there is no answer. A status of 400 and above is an answer, not an error.
    fn send(&self, request: http::Request<RequestBody>, limits: HttpLimits) -> HttpFuture<'_>;
}

/// How long an exchange may take and how much may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpLimits {
    /// From the call of `send`, connecting included, to the last byte of the answer's body. Past it `send` or the reading of the
    /// body fails with [`HttpError::TimedOut`].
    pub total: Duration,
    /// The most bytes of the answer's body; past them reading it fails with [`HttpError::TooLarge`]. `None`: no limit.
    pub max_response_bytes: Option<usize>,
}

impl HttpLimits {
    /// This long for the whole exchange, and no limit to the answer.
    #[must_use]
    pub const fn new(total: Duration) -> Self {
        Self { total, max_response_bytes: None }
    }

    /// At most this many bytes of answer.
    #[must_use]
    pub const fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = Some(bytes);
        self
    }
}

impl Default for HttpLimits {
    /// 60 seconds, and no limit to the answer.
    fn default() -> Self {
        Self::new(Duration::from_secs(60))
    }
}

/// Why there was no answer, or no whole one. Says nothing of the request: no URL, no header, no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The name was not found, or nothing accepts connections there. The request was not sent.
    #[error("the server can't be reached: check its name, that it runs, and the network")]
    Unreachable,
    /// The server's certificate is not trusted or not its own, or there is no common version of TLS. The request was not sent.
    #[error("no trusted TLS connection: check the server's certificate, and add the root of a private authority to the client")]
    Tls,
    /// The time was over. Whether the server acted on the request is unknown.
    #[error("no whole answer in time")]
    TimedOut,
    /// The answer's body is longer than allowed.
    #[error("the answer is longer than allowed")]
    TooLarge,
    /// The connection broke, or what came is not HTTP. Whether the server acted on the request is unknown.
    #[error("the connection broke before the answer was whole")]
    Interrupted,
    /// The request can't be sent as it is, for instance because its URI has no host. It was not sent.
    #[error("the request can't be sent as it is: check that its URI has a scheme and a host")]
    InvalidRequest,
    /// The stream of the request's body gave an error.
    #[error("the request's body could not be read to its end")]
    RequestBody,
    /// The client can't start, or has stopped.
    #[error("the HTTP client does not run")]
    Stopped,
}

impl HttpError {
    /// Whether it is certain that the server saw nothing of the request.
    #[must_use]
    pub fn was_not_sent(self) -> bool {
        matches!(self, Self::Unreachable | Self::Tls | Self::InvalidRequest | Self::Stopped)
    }
}

impl fmt::Debug for dyn HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}
