//! One request and its answer, between the client's thread and the caller.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use http::{Request, Response};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::{Running, leave_nothing_on_the_stack};
use crate::oauth::http::{HttpError, HttpLimits, RequestBody, ResponseBody};

/// A request under way. Dropping it ends the exchange.
pub(super) struct Exchange(JoinHandle<Result<Response<ResponseBody>, HttpError>>);

impl Exchange {
    /// Hands the request to the client's thread.
    pub(super) fn start(running: &Arc<Running>, request: Request<RequestBody>, limits: HttpLimits) -> Result<Self, HttpError> {
        let body_failed = Arc::new(AtomicBool::new(false));
        let request = converted(request, &body_failed)?;
        let runtime = running.runtime.as_ref().ok_or(HttpError::Stopped)?;
        let work = run(Arc::downgrade(running), running.client.clone(), request, limits, body_failed);
        Ok(Self(runtime.spawn(work)))
    }
}

impl Future for Exchange {
    type Output = Result<Response<ResponseBody>, HttpError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(joined.unwrap_or(Err(HttpError::Stopped)))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends the request and waits for the answer's head, on the client's thread.
async fn run(
    running: std::sync::Weak<Running>,
    client: reqwest::Client,
    request: reqwest::Request,
    limits: HttpLimits,
    body_failed: Arc<AtomicBool>,
) -> Result<Response<ResponseBody>, HttpError> {
    // So far off that it is never: the timer has its limits too.
    let now = Instant::now();
    let deadline = now.checked_add(limits.total).unwrap_or(now + NEVER).min(now + NEVER);
    let mut answer = match timeout_at(deadline, client.execute(request)).await {
        Err(_) => return Err(HttpError::TimedOut),
        Ok(Err(_)) if body_failed.load(Ordering::Relaxed) => return Err(HttpError::RequestBody),
        Ok(Err(error)) => return Err(classified(&error)),
        Ok(Ok(answer)) => answer,
    };
    // Before anybody has the answer, and not only when the thread goes to sleep.
    leave_nothing_on_the_stack();
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = answer.status();
    *response.version_mut() = answer.version();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    let left = limits.max_response_bytes.map(|bytes| bytes as u64);
    let too_large = left.zip(answer.content_length()).is_some_and(|(most, declared)| declared > most);
    let incoming = Incoming {
        stream: Box::pin(answer.bytes_stream()),
        deadline: Box::pin(sleep_until(deadline)),
        left,
        too_large,
        // Not held while the request runs: it would keep the thread, which runs it, alive.
        _running: running.upgrade().ok_or(HttpError::Stopped)?,
    };
    *response.body_mut() = ResponseBody::from_stream(incoming);
    Ok(response)
}

const NEVER: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);

/// The answer's body: within its time and its length. It is polled by whatever executor the caller has; the timer belongs to the
/// client's own runtime, which lives as long as this does.
struct Incoming {
    stream: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    deadline: Pin<Box<Sleep>>,
    left: Option<u64>,
    too_large: bool,
    _running: Arc<Running>,
}

impl Stream for Incoming {
    type Item = Result<Bytes, HttpError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.too_large {
            return Poll::Ready(Some(Err(HttpError::TooLarge)));
        }
        // Asked first: a server that sends a byte now and then would otherwise never run out of time.
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(HttpError::TimedOut)));
        }
        let chunk = match ready!(self.stream.poll_next_unpin(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(classified(&error)))),
            Some(Ok(chunk)) => chunk,
        };
        if let Some(left) = &mut self.left {
            match left.checked_sub(chunk.len() as u64) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(HttpError::TooLarge))),
            }
        }
        Poll::Ready(Some(Ok(chunk)))
    }
}

/// The request as reqwest wants it. reqwest parses the address anew, with another parser: what it finds must be the host that the
/// credential was put in for.
fn converted(request: Request<RequestBody>, body_failed: &Arc<AtomicBool>) -> Result<reqwest::Request, HttpError> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or(HttpError::InvalidRequest)?.clone();
    // Would become an `Authorization` field.
    if authority.as_str().contains('@') {
        return Err(HttpError::InvalidRequest);
    }
    head.extensions.clear();
    let empty = body.is_empty();
    let body = match body.as_bytes() {
        Some(bytes) => reqwest::Body::from(bytes.clone()),
        None => {
            let failed = Arc::clone(body_failed);
            let stream = body.into_stream().inspect(move |chunk: &io::Result<Bytes>| {
                if chunk.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
            });
            reqwest::Body::wrap_stream(stream)
        }
    };
    let mut request = reqwest::Request::try_from(Request::from_parts(head, body)).map_err(|_| HttpError::InvalidRequest)?;
    if empty {
        *request.body_mut() = None;
    }
    let same_host = request.url().host_str().is_some_and(|host| host.eq_ignore_ascii_case(authority.host()));
    let same_port = authority.port_u16().is_none_or(|port| request.url().port_or_known_default() == Some(port));
    if !same_host || !same_port {
        return Err(HttpError::InvalidRequest);
    }
    Ok(request)
}

/// What an error of reqwest's means. It is not kept: it knows the request's address.
fn classified(error: &reqwest::Error) -> HttpError {
    if error.is_builder() {
        return HttpError::InvalidRequest;
    }
    if error.is_connect() {
        return if causes(error).any(is_tls) { HttpError::Tls } else { HttpError::Unreachable };
    }
    if error.is_timeout() {
        return HttpError::TimedOut;
    }
    HttpError::Interrupted
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // What an `io::Error` was made of is not its source, but it itself.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inside.map(|inside| inside as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn is_tls(error: &(dyn Error + 'static)) -> bool {
    error.is::<rustls::Error>()
}
