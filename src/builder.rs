//! The settings of a vault, and what is done with one that is not open: opening it, and rebuilding its directory.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::domain::{KeyProvider, OpenError};
use crate::oauth::http::HttpClient;
use crate::runtime::boot::{self, Opening, PlaceOptions};
use crate::runtime::core::{AuditPolicy, Settings};
use crate::runtime::head::VaultHead;
use crate::runtime::rebuild::{self, RebuildError, RebuildReport, Wanted};
use crate::vault::Vault;

/// Settings for opening a vault. Defaults are meant for production.
///
/// # Examples
/// ```no_run
/// use anchorhold::{AuditPolicy, KeyFile, OpenError, Vault};
///
/// # async fn example() -> Result<(), OpenError> {
/// let vault = Vault::builder("/srv/app/vault")
///     .root_key(KeyFile::new("/etc/app/root.key"))
///     .audit_policy(AuditPolicy::Strict)
///     .audit_retention(10_000)
///     .open()
///     .await?;
/// # let _ = vault;
/// # Ok(())
/// # }
/// ```
#[must_use = "call open"]
pub struct VaultBuilder {
    place: PlaceOptions,
    root_key: Option<Box<dyn KeyProvider>>,
    previous_root_key: Option<Box<dyn KeyProvider>>,
    expected_head: Option<VaultHead>,
    accept_losses: bool,
    settings: Settings,
    clock: Arc<dyn Clock>,
    http: Arc<dyn HttpClient>,
}

impl VaultBuilder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            place: PlaceOptions::new(path),
            root_key: None,
            previous_root_key: None,
            expected_head: None,
            accept_losses: false,
            settings: Settings::default(),
            clock: Arc::new(SystemClock),
            http: default_http_client(),
        }
    }

    /// Where the root key comes from. Needed.
    pub fn root_key(mut self, provider: impl KeyProvider + 'static) -> Self {
        self.root_key = Some(Box::new(provider));
        self
    }

    /// The root key before, while a rotation is unfinished.
    pub fn previous_root_key(mut self, provider: impl KeyProvider + 'static) -> Self {
        self.previous_root_key = Some(Box::new(provider));
        self
    }

    /// Refuses to open a vault that has not come as far as this head: an older copy of the whole directory.
    pub fn expect_head(mut self, head: VaultHead) -> Self {
        self.expected_head = Some(head);
        self
    }

    /// How many shards may be open at once, each with two file descriptors and memory: some 2 MiB, and 13 after minutes of writes to all
    /// of its accounts. The least recently used are closed. The default is 128, the least 1. One more is open for a moment when all are at work.
    pub fn max_open_shards(mut self, count: usize) -> Self {
        self.place.max_open_shards = count.max(1);
        self
    }

    /// Whether opening has the C library give blocks of 2 MiB and more back to the system when they are freed; the default is `true`. Only
    /// glibc on Linux is told, once for the whole process (`mallopt`, `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`). Without it each open shard
    /// takes 6 MiB more once others were closed: the engine asks for that many zeros and hardly uses them. Say `false` if your
    /// program frees many blocks of that size and is slower for mapping them anew, or sets these limits itself.
    pub fn return_large_blocks(mut self, tell: bool) -> Self {
        self.place.return_large_blocks = tell;
        self
    }

    /// How many accounts may have an actor at once; the least recently used are passivated. The default is 50,000, the least 1.
    /// More may be resident for a moment while they are being passivated.
    pub fn max_resident_accounts(mut self, count: usize) -> Self {
        self.settings.max_resident_accounts = count.max(1);
        self
    }

    /// How many threads run account actors. The default is one per core, the least 1.
    pub fn threads(mut self, count: usize) -> Self {
        self.settings.threads = count.max(1);
        self
    }

    /// How many requests of one account may be under way or waiting; more get [`Error::Overloaded`](crate::Error::Overloaded) at once. The default is
    /// 1,024, the least 1.
    pub fn mailbox_capacity(mut self, count: usize) -> Self {
        self.settings.mailbox_capacity = count.max(1);
        self
    }

    /// After how long without a request an account's actor is passivated. The default is 5 minutes.
    pub fn idle_after(mut self, idle: Duration) -> Self {
        self.settings.idle_after = idle;
        self
    }

    /// After how long an operation on the vault's files counts as stalled and poisons the vault. The default is 10 seconds; it
    /// must be longer than the longest pause of the disk. Opening a database has six times as long: after a crash its log is read.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.place.stall_timeout = timeout;
        self
    }

    /// When audit entries become durable. The default is [`AuditPolicy::Batched`].
    pub fn audit_policy(mut self, policy: AuditPolicy) -> Self {
        self.settings.audit_policy = policy;
        self
    }

    /// How many entries of each account's audit are kept at least; older ones are removed, some 64 at a time and whole segments of up to 128,
    /// and the chain stays verifiable. The default keeps all. The audit of API keys is always kept.
    pub fn audit_retention(mut self, entries: u64) -> Self {
        self.settings.audit_retention = Some(entries);
        self
    }

    /// What sends requests to providers. The default is the one of the feature `reqwest`; without that feature there is none, and what
    /// needs one fails with [`HttpError::Stopped`](crate::HttpError::Stopped).
    pub fn http_client(mut self, client: impl HttpClient) -> Self {
        self.http = Arc::new(client);
        self
    }

    /// Where the time comes from.
    #[cfg(any(test, feature = "testing"))]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps the vault on a disk in memory instead of in the directory.
    #[cfg(any(test, feature = "testing"))]
    pub fn model_disk(mut self, disk: crate::testing::ModelDisk) -> Self {
        self.place.model = Some(disk);
        self
    }

    /// Failures of the disk that a test asks for; the caller keeps a clone to ask with.
    #[cfg(any(test, feature = "testing"))]
    pub fn storage_faults(mut self, faults: crate::testing::StorageFaults) -> Self {
        self.place.faults = faults;
        self
    }

    /// How many accounts share a shard: fewer than 96 make small shards for tests, and 128 is the most.
    #[cfg(any(test, feature = "testing"))]
    pub fn trees_per_shard(mut self, count: usize) -> Self {
        self.place.trees_per_shard = Some(count.max(1));
        self
    }

    /// How long a file of the commit log gets: with fewer than 16 MiB, databases follow it more often in tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn commit_log_bytes(mut self, bytes: u64) -> Self {
        self.place.commit_log_bytes = bytes;
        self
    }

    /// How long the directory's first log is when it gets sections: with fewer than 8 MiB, in tests, smaller vaults have some.
    #[cfg(any(test, feature = "testing"))]
    pub fn section_from_bytes(mut self, bytes: u64) -> Self {
        self.place.section_from_bytes = bytes;
        self
    }

    /// Opens the vault; creates it if the directory is new or empty. Completes or removes what a crash has left.
    ///
    /// Takes place on a thread of its own: a passphrase or a key service may take its time. If the future is dropped, the vault is
    /// closed again.
    ///
    /// # Errors
    /// [`OpenError`]. When it fails, nothing that was stored has changed; a directory that was new may be left with an empty lock
    /// file.
    pub async fn open(self) -> Result<Vault, OpenError> {
        let Self { place, root_key, previous_root_key, expected_head, settings, clock, http, .. } = self;
        let root_key = root_key.ok_or(OpenError::NoRootKey)?;
        let opening = Opening { root_key, previous_root_key, expected_head, settings, clock, http };
        let (core, threads) = boot::open_on_own_thread(place, opening).await?;
        Ok(Vault::opened(core, threads))
    }

    /// Lets [`rebuild_directory`](Self::rebuild_directory) go on although something can't be brought back. Say so after you have seen
    /// what, in [`RebuildError::WouldLose`].
    pub fn accept_losses(mut self) -> Self {
        self.accept_losses = true;
        self
    }

    /// Makes the vault's directory anew from its shards, for a vault that reports `Corrupted` or `RolledBack` in the directory. The
    /// vault must not be open; open it afterwards. Nothing but this call does it: opening never rebuilds.
    ///
    /// Accounts come back from what they say of themselves, with their tokens' due times. API keys, providers, clients and the
    /// audits of API keys are taken over where the old directory proves them, and are lost where it does not. Accounts that were
    /// deleted do not come back. Shards are held to what `directory.anchor` remembers of them, and the vault to
    /// [`expect_head`](Self::expect_head), as when it is opened. The old directory is kept aside
    /// ([`RebuildReport::kept_aside`]).
    ///
    /// Takes as long as reading every account takes, on a thread of its own, and some 300 bytes of memory for each. If the future is
    /// dropped, it goes on to its end. After a crash in the middle the vault has its old directory, or the new one, or does not open
    /// until this is called again.
    ///
    /// # Errors
    /// [`RebuildError::WouldLose`] when something can't be brought back and
    /// [`accept_losses`](Self::accept_losses) was not called; [`RebuildError::Open`] for what keeps a vault
    /// from being read at all, a wrong root key above all. Nothing has changed then.
    ///
    /// # Examples
    /// ```no_run
    /// use anchorhold::{KeyFile, RebuildError, Vault};
    ///
    /// # async fn example() -> Result<(), RebuildError> {
    /// let builder = || Vault::builder("/srv/app/vault").root_key(KeyFile::new("/etc/app/root.key"));
    /// let report = match builder().rebuild_directory().await {
    ///     Err(RebuildError::WouldLose(report)) => {
    ///         // Show it to whoever decides; first put damaged shards back, if there is a copy that fits.
    ///         tracing::error!(%report, "to be accepted");
    ///         builder().accept_losses().rebuild_directory().await?
    ///     }
    ///     done => done?,
    /// };
    /// # let _ = report;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn rebuild_directory(self) -> Result<RebuildReport, RebuildError> {
        let Self { place, root_key, previous_root_key, expected_head, accept_losses, clock, .. } = self;
        let root_key = root_key.ok_or(OpenError::NoRootKey)?;
        let wanted = Wanted { root_key, previous_root_key, expected_head, accept_losses, clock };
        rebuild::rebuild_on_own_thread(place, wanted).await
    }
}

#[cfg(feature = "reqwest")]
fn default_http_client() -> Arc<dyn HttpClient> {
    Arc::new(crate::oauth::reqwest_client::ReqwestClient::default())
}

#[cfg(not(feature = "reqwest"))]
fn default_http_client() -> Arc<dyn HttpClient> {
    struct NoClient;
    impl HttpClient for NoClient {
        fn send(&self, _: http::Request<crate::oauth::http::RequestBody>, _: crate::oauth::http::HttpLimits) -> HttpFuture<'_> {
            Box::pin(std::future::ready(Err(crate::oauth::http::HttpError::Stopped)))
        }
    }
    use crate::oauth::http::HttpFuture;
    Arc::new(NoClient)
}

impl fmt::Debug for VaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultBuilder").field("place", &self.place).field("settings", &self.settings).finish_non_exhaustive()
    }
}
