//! What all parts of an open vault share.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event as Signal, listener};
use futures_channel::oneshot;
use futures_util::FutureExt as _;
use futures_util::future::select;

use crate::clock::Clock;
use crate::domain::Keyring;
use crate::domain::audit::NewEntry;
use crate::domain::error::Error;
use crate::ids::{AccountHandle, Environment, ShardId};
use crate::oauth::http::HttpClient;
use crate::runtime::actor::{Operation, job};
use crate::runtime::caller::Caller;
use crate::runtime::directory::Directory;
use crate::runtime::events::EventSender;
use crate::runtime::gate::{Gate, Pass};
use crate::runtime::journal::Journal;
use crate::runtime::key_table::KeyTable;
use crate::runtime::limits::Limits;
use crate::runtime::listed::Listed;
use crate::runtime::router::Router;
use crate::runtime::system::Arbiters;
use crate::runtime::wheel::Wheel;
use crate::storage::Storage;

/// How long an audit entry that needs no commit of its own waits for others. Leaves time to write it within the promised 100 ms.
pub(crate) const AUDIT_DELAY: Duration = Duration::from_millis(60);

/// How many places an account's mailbox has beside those that the host's callers share: one for each round that the vault makes by
/// itself (journal, wheel, rotation of the root key), and some for verifications that the host started at once.
pub(crate) const OWN_PLACES: usize = 8;

/// When the entries of mints, uses, reveals and refusals become durable in an account's audit. Changes are always one commit with
/// their entry, and refusals in the API-key audit are always batched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditPolicy {
    /// Within 100 ms, and before the account is passivated or the vault closed. The default. Within 30 seconds they are in the
    /// account's own chain; until then the vault's journal keeps them.
    #[default]
    Batched,
    /// Before the answer: when the entry can't be made durable, the answer is refused.
    Strict,
}

/// The settings of an open vault.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) threads: usize,
    pub(crate) max_resident_accounts: usize,
    pub(crate) mailbox_capacity: usize,
    pub(crate) idle_after: Duration,
    pub(crate) audit_policy: AuditPolicy,
    pub(crate) audit_retention: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            max_resident_accounts: 50_000,
            mailbox_capacity: 1_024,
            idle_after: Duration::from_secs(300),
            audit_policy: AuditPolicy::Batched,
            audit_retention: None,
        }
    }
}

/// An open vault's parts.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) directory: Directory,
    pub(crate) router: Router,
    pub(crate) api_keys: KeyTable,
    pub(crate) events: EventSender,
    pub(crate) arbiters: Arbiters,
    /// What asks providers.
    pub(crate) http: Arc<dyn HttpClient>,
    pub(crate) limits: Limits,
    pub(crate) wheel: Wheel,
    pub(crate) journal: Journal,
    /// Accounts whose notes the journal is to take.
    pub(crate) listed: Listed,
    pub(crate) started: Instant,
    /// Accounts that are being made and have no directory row yet: their trees are no orphans.
    pub(crate) creating: Mutex<HashSet<AccountHandle>>,
    /// Shards that were looked through for orphans since opening.
    pub(crate) swept: Mutex<HashSet<ShardId>>,
    /// Refusals that wait to be written to the API-key audit.
    pub(crate) denials: Mutex<BTreeMap<Environment, Vec<NewEntry>>>,
    pub(crate) housekeeping: Signal,
    /// Milliseconds since the vault was opened, set every second.
    pub(crate) coarse_uptime: AtomicU64,
    pub(crate) closing: AtomicBool,
    /// Told when closing begins.
    pub(crate) closing_begun: Signal,
    /// What [`run`](Self::run) has not finished; closing waits for it.
    pub(crate) work: Arc<Gate>,
    /// Held by a rotation of the root key from its beginning to its end.
    pub(crate) rotation: async_lock::Mutex<()>,
    /// Whether closing is done; held while it goes on.
    pub(crate) closed: async_lock::Mutex<bool>,
}

impl Core {
    /// [`uptime_millis`](Self::uptime_millis) as it was up to a second ago: which account was used when needs no more, and is noted for every
    /// token.
    pub(crate) fn coarse_uptime_millis(&self) -> u64 {
        self.coarse_uptime.load(Ordering::Relaxed)
    }

    /// Milliseconds since the vault was opened; what idleness is measured in, since the wall clock may step.
    pub(crate) fn uptime_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits, but not past the beginning of closing.
    pub(crate) async fn sleep_until_closing(&self, pause: Duration) {
        listener!(self.closing_begun => begun);
        if !self.is_closing() {
            drop(select(Box::pin(actix::clock::sleep(pause)), begun).await);
        }
    }

    pub(crate) fn wake_housekeeping(&self) {
        self.housekeeping.notify(1);
    }

    /// Asks an account's actor and waits for its answer. If the caller drops the future, the operation is still done.
    pub(crate) async fn ask<O: Operation>(
        self: &Arc<Self>,
        handle: AccountHandle,
        caller: Caller,
        operation: O,
    ) -> Result<O::Answer, Error> {
        self.ask_within(handle, caller, operation, self.settings.mailbox_capacity).await
    }

    /// [`ask`](Self::ask) for the vault's own rounds, which have places in the mailbox that no caller of the host can take: an
    /// account that is flooded is still proven, rewrapped and kept fresh.
    pub(crate) async fn ask_aside<O: Operation>(
        self: &Arc<Self>,
        handle: AccountHandle,
        operation: O,
    ) -> Result<O::Answer, Error> {
        self.ask_within(handle, Caller::Vault, operation, self.settings.mailbox_capacity.saturating_add(OWN_PLACES)).await
    }

    async fn ask_within<O: Operation>(
        self: &Arc<Self>,
        handle: AccountHandle,
        caller: Caller,
        operation: O,
        places: usize,
    ) -> Result<O::Answer, Error> {
        if self.is_closing() {
            return Err(Error::Closed);
        }
        let (job, answer) = job(operation, caller);
        let outcome = match self.router.send(self, handle, job, places).await {
            // A sender that is gone without an answer went down with its arbiter.
            Ok(()) => answer
                .await
                .unwrap_or_else(|_| Err(if self.is_closing() { Error::Closed } else { Error::Internal { doing: O::DOING } })),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| error.naming(handle))
    }

    /// Does work of several steps on the vault's own threads, so that a caller who drops its future leaves nothing half done.
    /// The vault is not closed before it has come to its end.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.is_closing() {
            return Err(Error::Closed);
        }
        let Ok(pass) = Pass::enter(&self.work, usize::MAX >> 1) else { return Err(Error::Closed) };
        let counted = async move {
            let outcome = work.await;
            drop(pass);
            outcome
        };
        self.run_even_closing(doing, counted).await
    }

    /// [`run`](Self::run) for closing itself.
    pub(crate) async fn run_even_closing<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let started = self.arbiters.spawn(async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            // Whoever asked may have dropped its future.
            let _ = reply.send(outcome.unwrap_or(Err(Error::Internal { doing })));
        });
        if !started {
            return Err(Error::Closed);
        }
        answer.await.unwrap_or(Err(Error::Closed))
    }

    pub(crate) fn creating(&self) -> std::sync::MutexGuard<'_, HashSet<AccountHandle>> {
        self.creating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn denials(&self) -> std::sync::MutexGuard<'_, BTreeMap<Environment, Vec<NewEntry>>> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn swept(&self) -> std::sync::MutexGuard<'_, HashSet<ShardId>> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
