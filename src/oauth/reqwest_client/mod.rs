//! The default HTTP client: reqwest with rustls on a thread of its own, so that it works under every executor.
//!
//! reqwest needs tokio, which the vault's caller may not have. So the client has a small tokio runtime: started with the first
//! request, stopped when the last clone and the last body of an answer are gone. Connecting, TLS and sending happen there; the
//! caller's future only waits.

mod exchange;
mod tls;

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Request;
use tokio::runtime::Runtime;

use self::exchange::Exchange;
pub use self::tls::InvalidCertificates;
use super::http::{HttpClient, HttpError, HttpFuture, HttpLimits, RequestBody};
use crate::domain::wiping_stack;

/// Servers that are impatient close a connection after 5 seconds without a request. One that is given up before that is never closed
/// just while a request is written into it, after which nobody knows whether that arrived.
const IDLE: Duration = Duration::from_secs(4);

/// How deep the HTTP and TLS libraries' calls go below the task that makes them; 28 KiB were seen without optimisation.
const STACK: usize = 64 * 1024;

/// Threads for looking up names, which blocks; they end when idle.
const MAX_LOOKUPS: usize = 16;

/// The HTTP client that a vault uses when the host gives none: reqwest with rustls, HTTP/1.1 and HTTP/2, and the system's root
/// certificates.
///
/// It keeps to the rules of [`HttpClient`]: no redirects, no cookies, no retries, no proxy unless asked for, no decompression. It
/// adds `Accept: */*` to requests that say nothing about it. It runs on a thread of its own, `anchorhold-http`, from its first request
/// on; clones share that thread and the connections. When the last clone is gone the thread ends, without waiting for it.
///
/// A path with dot segments (`/a/../b`) is sent in its shorter form, as browsers do.
///
/// ```no_run
/// use anchorhold::ReqwestClient;
/// # fn roots() -> Vec<u8> { Vec::new() }
/// let client = ReqwestClient::builder().add_root_certificates(&roots())?.build();
/// # Ok::<(), anchorhold::InvalidCertificates>(())
/// ```
#[derive(Clone)]
pub struct ReqwestClient(Arc<Shared>);

struct Shared {
    settings: ReqwestClientBuilder,
    running: OnceLock<Result<Arc<Running>, HttpError>>,
}

impl ReqwestClient {
    /// A client with the defaults of [`ReqwestClient::builder`].
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// To be set before the client is built: root certificates, proxy, threads, and the time for connecting.
    pub fn builder() -> ReqwestClientBuilder {
        ReqwestClientBuilder { roots: Vec::new(), connect_timeout: Duration::from_secs(5), environment_proxy: false, threads: 1 }
    }

    fn running(&self) -> Result<&Arc<Running>, HttpError> {
        self.0.running.get_or_init(|| Running::start(&self.0.settings).map(Arc::new)).as_ref().map_err(|error| *error)
    }
}

/// Wipes what earlier calls of this thread left below: a parser that looks at 32 bytes at once looks beyond the end of an answer's head and
/// keeps the beginning of its body, where a token endpoint has the token.
fn leave_nothing_on_the_stack() {
    wiping_stack::<STACK, _>(|| ());
}

impl Default for ReqwestClient {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClient for ReqwestClient {
    fn send(&self, request: Request<RequestBody>, limits: HttpLimits) -> HttpFuture<'_> {
        Box::pin(async move {
            let running = self.running()?;
            Exchange::start(running, request, limits)?.await
        })
    }
}

impl fmt::Debug for ReqwestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestClient")
            .field("settings", &self.0.settings)
            .field("running", &self.0.running.get().is_some())
            .finish()
    }
}

/// Settings of a [`ReqwestClient`].
#[derive(Clone)]
#[must_use]
pub struct ReqwestClientBuilder {
    roots: Vec<rustls::pki_types::CertificateDer<'static>>,
    connect_timeout: Duration,
    environment_proxy: bool,
    threads: usize,
}

impl ReqwestClientBuilder {
    /// Also trusts these root certificates: one or more in PEM, for servers whose certificates a private authority issues. The
    /// system's remain trusted.
    ///
    /// # Errors
    /// [`InvalidCertificates`] when there is none in `pem`, or one that can't be read.
    pub fn add_root_certificates(mut self, pem: &[u8]) -> Result<Self, InvalidCertificates> {
        self.roots.extend(tls::certificates(pem)?);
        Ok(self)
    }

    /// How long connecting may take, TLS included; 5 seconds unless set. Within the whole exchange's limit all the same.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Uses the proxy that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name when the client starts. It sees the names of
    /// the servers, and all of a request over plain http.
    pub const fn environment_proxy(mut self) -> Self {
        self.environment_proxy = true;
        self
    }

    /// How many threads do the work, 1 to 64; 1 unless set, which is enough for thousands of requests a second.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, 64);
        self
    }

    /// The client. Nothing is started yet.
    #[must_use]
    pub fn build(self) -> ReqwestClient {
        ReqwestClient(Arc::new(Shared { settings: self, running: OnceLock::new() }))
    }
}

impl fmt::Debug for ReqwestClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestClientBuilder")
            .field("root_certificates", &self.roots.len())
            .field("connect_timeout", &self.connect_timeout)
            .field("environment_proxy", &self.environment_proxy)
            .field("threads", &self.threads)
            .finish()
    }
}

/// The runtime, and the client that runs on it. Held by every clone of the client and by every body that is still read.
struct Running {
    client: reqwest::Client,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

impl Running {
    fn start(settings: &ReqwestClientBuilder) -> Result<Self, HttpError> {
        let failed = |error: &dyn fmt::Display| {
            tracing::error!(%error, "the HTTP client can't start");
            HttpError::Stopped
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.threads)
            .max_blocking_threads(MAX_LOOKUPS)
            .thread_name("anchorhold-http")
            .enable_all()
            .on_thread_park(leave_nothing_on_the_stack)
            .build()
            .map_err(|error| failed(&error))?;
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(&settings.roots).map_err(|error| failed(&error))?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(IDLE);
        if !settings.environment_proxy {
            client = client.no_proxy();
        }
        // The pool's housekeeping is started where the client is built.
        let entered = runtime.enter();
        let client = client.build().map_err(|error| failed(&error.without_url()))?;
        drop(entered);
        Ok(Self { client, runtime: Some(runtime) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, and panics where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
