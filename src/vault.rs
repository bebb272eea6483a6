//! The vault: opening, closing, and the two doors into it. It can do nothing with customers itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::Backend;
use crate::clock::{Clock, SystemClock};
use crate::domain::{Error, KeyProvider, LockKind, OpenError};
use crate::ids::{Environment, VaultId};
use crate::oauth::http::HttpClient;
use crate::runtime::boot::{self, Opening, PlaceOptions};
use crate::runtime::core::{AuditPolicy, Core, Settings};
use crate::runtime::events::Events;
use crate::runtime::head::VaultHead;
use crate::runtime::rebuild::{self, RebuildError, RebuildReport, Wanted};
use crate::runtime::system::Threads;
use crate::runtime::verify::VerifyReport;
use crate::secret::{ApiKey, SessionToken};
use crate::session::Session;

/// A vault: one directory, one root key, the credentials of all your customers, each customer's sealed under keys of its own.
///
/// The handle is cheap to clone and may be used from any thread and any executor. The vault runs on threads of its own; they
/// stop, and everything is flushed, when the last handle (and everything made from it) is dropped, or at [`close`](Vault::close).
///
/// # Examples
/// ```
/// use anchorhold::{Environment, LinkedAccountId, RawKey, RootKey, Vault};
/// # futures_lite::future::block_on(async {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("vault");
/// let vault = Vault::builder(path).root_key(RawKey::new(RootKey::generate())).open().await?;
/// let api_key = vault.bootstrap_api_key(Environment::Test).await?;
/// let backend = vault.backend(&api_key).await?;
/// let account = backend.create_account(&LinkedAccountId::new("acme-42")?).await?;
/// assert_eq!(account.info().await?.connections, 0);
/// vault.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

/// What all handles share. Dropped with the last of them.
pub(crate) struct Inner {
    core: Arc<Core>,
    threads: Mutex<Option<Threads>>,
}

impl Vault {
    /// Begins to open the vault in the directory `path`, which is created if it does not exist. Nothing is touched before
    /// [`open`](VaultBuilder::open).
    pub fn builder(path: impl Into<PathBuf>) -> VaultBuilder {
        VaultBuilder::new(path.into())
    }

    /// Creates the first API key of an environment, with all permissions. Works once per environment, ever: keep the key where
    /// your backend keeps its secrets, it is not shown again.
    ///
    /// # Errors
    /// [`Error::AlreadyBootstrapped`] the second time, also when the key of the first time was revoked.
    pub async fn bootstrap_api_key(&self, environment: Environment) -> Result<ApiKey, Error> {
        let core = Arc::clone(self.core());
        self.core().run("creating the first API key", async move { core.bootstrap(environment).await }).await
    }

    /// Checks an API key and gives the handle that acts for your backend in the key's environment.
    ///
    /// # Errors
    /// [`Error::InvalidApiKey`] when the key is not one of this vault's, or is expired or revoked.
    #[expect(clippy::unused_async, reason = "keys may come from a database elsewhere one day, and callers should not notice")]
    pub async fn backend(&self, key: &ApiKey) -> Result<Backend, Error> {
        let entry = self.core().check_api_key(key)?;
        Ok(Backend::new(Arc::clone(&self.inner), entry))
    }

    /// Checks a session token and gives the handle of its one linked account. A token for single use is used up, durably,
    /// before this returns.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] for every reason; the account's audit says which. A token that allows only some origins is
    /// refused here: use [`session_from`](Vault::session_from).
    pub async fn session(&self, token: &SessionToken) -> Result<Session, Error> {
        self.open_session(token, None).await
    }

    /// [`session`](Vault::session) for a request with an `Origin` header (RFC 6454), which must be one that the token allows.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] for every reason; the account's audit says which.
    pub async fn session_from(&self, token: &SessionToken, origin: &str) -> Result<Session, Error> {
        self.open_session(token, Some(origin)).await
    }

    /// The stream of events from now on. A slow reader loses the oldest ones and is told how many; it never blocks anybody. See
    /// [`Events`].
    #[must_use]
    pub fn events(&self) -> Events {
        self.core().events.subscribe()
    }

    /// Facts for the operator; costs little.
    ///
    /// # Examples
    /// ```
    /// # use anchorhold::{LockKind, Vault};
    /// /// What a health check would say, if it has something to say.
    /// fn complaint(vault: &Vault) -> Option<String> {
    ///     let status = vault.status();
    ///     match status.poisoned {
    ///         Some(reason) => Some(format!("the vault acknowledges nothing: {reason}")),
    ///         None if status.lock_kind == LockKind::Unlocked => Some(status.lock_kind.to_string()),
    ///         None => status.repaired.first().cloned(),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn status(&self) -> VaultStatus {
        let core = self.core();
        let storage = core.storage.status();
        VaultStatus {
            vault_id: core.keyring.vault_id(),
            lock_kind: core.keyring.lock_kind(),
            root_key_generation: core.keyring.generation(),
            rotating_root_key: core.keyring.is_rotating(),
            engine: storage.engine,
            accounts: storage.accounts,
            resident_accounts: core.router.len(),
            shards: storage.shards,
            open_shards: storage.open_shards,
            repaired: storage.repaired,
            poisoned: storage.poisoned,
            closed: core.is_closing(),
        }
    }

    /// How far the vault has come: keep the newest one outside the vault's directory, and give it to
    /// [`VaultBuilder::expect_head`] when you open the vault again. Writes the anchors that are behind.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`], [`Error::Io`].
    ///
    /// # Examples
    /// ```
    /// # use anchorhold::{OpenError, RawKey, Vault, VaultHead};
    /// # futures_lite::future::block_on(async {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("vault");
    /// # let builder = |path| Vault::builder(path).root_key(RawKey::new([7; 32]));
    /// let vault = builder(&path).open().await?;
    /// let kept: String = vault.head().await?.to_string(); // somewhere else
    /// vault.close().await?;
    ///
    /// let head: VaultHead = kept.parse()?;
    /// builder(&path).expect_head(head).open().await?;
    /// let other = builder(&directory.path().join("another vault")).expect_head(head).open().await;
    /// assert!(matches!(other, Err(OpenError::ForeignHead)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn head(&self) -> Result<VaultHead, Error> {
        if self.core().is_closing() {
            return Err(Error::Closed);
        }
        Ok(VaultHead::of(&self.core().keyring, self.core().storage.sync_anchors().await?))
    }

    /// Reads and proves everything: header and anchors as they lie on the disk, each part of the directory, the audits of API keys,
    /// each shard, each account with all its records and its audit. Names what is damaged and goes on; waits for accounts that have
    /// too much to do. Takes as long as reading the whole vault takes; the vault is served meanwhile.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Poisoned`]. Whatever else is found is in the report.
    ///
    /// # Examples
    /// ```
    /// # use anchorhold::{Error, Vault};
    /// /// The customers whose accounts are damaged, for whoever restores them.
    /// async fn damaged_customers(vault: &Vault) -> Result<Vec<String>, Error> {
    ///     let report = vault.verify().await?;
    ///     Ok(report.accounts.values().filter_map(|account| Some(account.id.as_ref()?.as_str().to_owned())).collect())
    /// }
    /// ```
    pub async fn verify(&self) -> Result<VerifyReport, Error> {
        let core = Arc::clone(self.core());
        self.core().run("verifying the vault", async move { core.verify().await }).await
    }

    /// Replaces the root key: the keys of every account are wrapped anew, no record is touched; the vault is served meanwhile.
    /// When this returns the old root key does not open the vault any more. After a crash in between, open with both keys
    /// ([`VaultBuilder::previous_root_key`]) and call it again with the new key to complete it.
    ///
    /// The provider is asked on a thread of its own and may take its time.
    ///
    /// # Security
    /// What the old root key wrapped in older copies of the files it still unwraps, and the accounts' keys are the same ones. When
    /// a root key has leaked, rotate the accounts' keys too ([`Account::rotate_key`](crate::Account::rotate_key)); the threat
    /// model (`docs/threat-model.md`) says what stays readable.
    ///
    /// # Errors
    /// [`Error::RootKey`] from the provider; [`Error::RotationUnfinished`] when a rotation to another key was interrupted;
    /// [`Error::Corrupted`] when an account's keys can't be read (both root keys stay valid then).
    pub async fn rotate_root_key(&self, provider: impl KeyProvider + 'static) -> Result<(), Error> {
        let core = Arc::clone(self.core());
        self.core().run("rotating the root key", async move { core.rotate_root_key(Box::new(provider)).await }).await
    }

    /// Writes everything that waits, closes all files, wipes the keys and stops the vault's threads. Requests that are under way
    /// are completed first; later ones get [`Error::Closed`]. Closing twice is fine.
    ///
    /// # Errors
    /// What could not be written; the files are closed all the same.
    pub async fn close(&self) -> Result<(), Error> {
        let closed = boot::close(self.core()).await;
        self.inner.stop_threads();
        closed
    }

    async fn open_session(&self, token: &SessionToken, origin: Option<&str>) -> Result<Session, Error> {
        let (handle, environment, claims) = self.core().open_session(token, origin).await?;
        Ok(Session::new(Arc::clone(&self.inner), handle, environment, claims))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("id", &self.core().keyring.vault_id()).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn stop_threads(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            threads.stop();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Waits for the vault's own threads only, which wait for nothing of the host's.
        if let Err(error) = futures_lite::future::block_on(boot::close(&self.core)) {
            tracing::error!(%error, "the vault could not be closed cleanly");
        }
        self.stop_threads();
    }
}

/// Facts for the operator. Holds no secret and no customer id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VaultStatus {
    /// The vault's identity.
    pub vault_id: VaultId,
    /// How the memory that holds the keys is protected.
    pub lock_kind: LockKind,
    /// How often the root key was replaced, plus one. While a rotation is unfinished, of the new one.
    pub root_key_generation: u32,
    /// Whether a rotation of the root key is unfinished.
    pub rotating_root_key: bool,
    /// The storage engine: `sled`.
    pub engine: &'static str,
    /// How many linked accounts there are, in both environments, counted by their trees. A shard that is damaged counts as full.
    pub accounts: u64,
    /// How many of them have an actor now.
    pub resident_accounts: usize,
    /// How many shards there are.
    pub shards: usize,
    /// How many of them are open now.
    pub open_shards: usize,
    /// Databases that were found damaged when they were opened, set aside and repaired.
    pub repaired: Vec<String>,
    /// Why nothing is acknowledged any more, if so.
    pub poisoned: Option<String>,
    /// Whether the vault is closed.
    pub closed: bool,
}

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
    fn new(path: PathBuf) -> Self {
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

    /// How many shards may be open at once, each with a cache of up to 8 MiB and two file descriptors; the least recently used are
    /// closed. The default is 64, the least 1. One more is open for a moment when all are at work.
    pub fn max_open_shards(mut self, count: usize) -> Self {
        self.place.max_open_shards = count.max(1);
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

    /// How many requests of one account may be under way or waiting; more get [`Error::Overloaded`] at once. The default is
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
    /// must be longer than the longest pause of the disk.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.place.stall_timeout = timeout;
        self
    }

    /// When audit entries become durable. The default is [`AuditPolicy::Batched`].
    pub fn audit_policy(mut self, policy: AuditPolicy) -> Self {
        self.settings.audit_policy = policy;
        self
    }

    /// How many entries of each account's audit are kept at least; older ones are removed, up to 64 at a time, and the chain stays
    /// verifiable. The default keeps all. The audit of API keys is always kept.
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

    /// How many accounts share a shard: fewer than 128 make small shards for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn trees_per_shard(mut self, count: usize) -> Self {
        self.place.trees_per_shard = Some(count.max(1));
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
        Ok(Vault { inner: Arc::new(Inner { core, threads: Mutex::new(Some(threads)) }) })
    }
}

impl VaultBuilder {
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
