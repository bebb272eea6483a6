//! The vault: opening, closing, and the two doors into it. It can do nothing with customers itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Backend;
use crate::builder::VaultBuilder;
use crate::domain::{Error, KeyProvider, LockKind};
use crate::ids::{Environment, VaultId};
use crate::runtime::boot;
use crate::runtime::core::Core;
use crate::runtime::events::Events;
use crate::runtime::head::VaultHead;
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
pub struct Vault {
    inner: Arc<Inner>,
}

/// What a handle shares with everything that is made from it, and not with its clones: threads that have clones of their own don't meet at
/// one counter for every session that they open.
pub(crate) struct Inner {
    core: Arc<Core>,
    /// Dropped with the last handle of all.
    running: Arc<Running>,
}

/// The open vault.
struct Running {
    core: Arc<Core>,
    threads: Mutex<Option<Threads>>,
}

impl Clone for Vault {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.inner.running))
    }
}

impl Vault {
    /// Begins to open the vault in the directory `path`, which is created if it does not exist. Nothing is touched before
    /// [`open`](VaultBuilder::open).
    pub fn builder(path: impl Into<PathBuf>) -> VaultBuilder {
        VaultBuilder::new(path.into())
    }

    pub(crate) fn opened(core: Arc<Core>, threads: Threads) -> Self {
        Self::of(Arc::new(Running { core, threads: Mutex::new(Some(threads)) }))
    }

    fn of(running: Arc<Running>) -> Self {
        Self { inner: Arc::new(Inner { core: Arc::clone(&running.core), running }) }
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
        self.inner.running.stop_threads();
        closed
    }

    async fn open_session(&self, token: &SessionToken, origin: Option<&str>) -> Result<Session, Error> {
        let checked = self.core().open_session(token, origin).await?;
        Ok(Session::new(Arc::clone(&self.inner), checked))
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
}

impl Running {
    fn stop_threads(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            threads.stop();
        }
    }
}

impl Drop for Running {
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
