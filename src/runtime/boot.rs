//! Opening and closing: header and root key, storage, directory, threads, what a crash left to complete.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_listener::{Event as Signal, listener};
use futures_channel::oneshot;
use futures_util::future::select;

use crate::clock::Clock;
use crate::domain::error::{Damaged, Error, OpenError, VaultPart};
use crate::domain::{HeaderError, KeyProvider, Keyring, Label, OpenKeyringError};
use crate::memory;
use crate::oauth::http::HttpClient;
use crate::runtime::core::{Core, Settings};
use crate::runtime::directory::Directory;
use crate::runtime::events::EventSender;
use crate::runtime::head::VaultHead;
use crate::runtime::journal::Journal;
use crate::runtime::key_table::KeyTable;
use crate::runtime::limits::Limits;
use crate::runtime::listed::Listed;
use crate::runtime::router::Router;
use crate::runtime::system::Threads;
use crate::runtime::wheel::Wheel;
use crate::storage::{self, AnchorSeal, Place};

/// How often housekeeping looks for idle accounts.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How soon it looks again while there are too many accounts that are all at work.
const CROWDED: Duration = Duration::from_millis(10);

/// How many rounds of housekeeping pass between two writes of when API keys were last used.
const ROUNDS_PER_LAST_USED: u32 = 60;

/// What opening needs beside the place.
pub(crate) struct Opening {
    pub(crate) root_key: Box<dyn KeyProvider>,
    pub(crate) previous_root_key: Option<Box<dyn KeyProvider>>,
    pub(crate) expected_head: Option<VaultHead>,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) http: Arc<dyn HttpClient>,
}

/// Where a vault is, and how its engine is to keep it.
#[derive(Debug)]
pub(crate) struct PlaceOptions {
    path: PathBuf,
    pub(crate) max_open_shards: usize,
    pub(crate) stall_timeout: Duration,
    pub(crate) return_large_blocks: bool,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) model: Option<storage::model::ModelDisk>,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) trees_per_shard: Option<usize>,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) commit_log_bytes: u64,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) section_from_bytes: u64,
    pub(crate) faults: storage::StorageFaults,
}

impl PlaceOptions {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            max_open_shards: 128,
            stall_timeout: Duration::from_secs(10),
            return_large_blocks: true,
            #[cfg(any(test, feature = "testing"))]
            model: None,
            #[cfg(any(test, feature = "testing"))]
            trees_per_shard: None,
            #[cfg(any(test, feature = "testing"))]
            commit_log_bytes: storage::COMMIT_LOG_BYTES,
            #[cfg(any(test, feature = "testing"))]
            section_from_bytes: storage::SECTION_FROM_BYTES,
            faults: storage::StorageFaults::default(),
        }
    }

    pub(crate) fn acquire(self) -> Result<Box<dyn Place>, OpenError> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(disk) = &self.model {
            if let Some(trees) = self.trees_per_shard {
                disk.set_trees_per_shard(trees);
            }
            return Ok(storage::acquire_model(disk)?);
        }
        if self.return_large_blocks {
            memory::return_large_blocks();
        }
        let options = storage::EngineOptions {
            max_open_shards: self.max_open_shards,
            stall_timeout: self.stall_timeout,
            #[cfg(any(test, feature = "testing"))]
            trees_per_shard: self.trees_per_shard.unwrap_or(storage::TREES_PER_SHARD),
            #[cfg(not(any(test, feature = "testing")))]
            trees_per_shard: storage::TREES_PER_SHARD,
            #[cfg(any(test, feature = "testing"))]
            commit_log_bytes: self.commit_log_bytes,
            #[cfg(not(any(test, feature = "testing")))]
            commit_log_bytes: storage::COMMIT_LOG_BYTES,
            #[cfg(any(test, feature = "testing"))]
            section_from_bytes: self.section_from_bytes,
            #[cfg(not(any(test, feature = "testing")))]
            section_from_bytes: storage::SECTION_FROM_BYTES,
            faults: self.faults,
        };
        Ok(storage::acquire(&self.path, options)?)
    }
}

/// Opens a vault on a thread of its own, which ends when it is open. If the caller drops the future, the vault is closed again.
pub(crate) async fn open_on_own_thread(place: PlaceOptions, opening: Opening) -> Result<(Arc<Core>, Threads), OpenError> {
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("anchorhold-open".into())
        .spawn(move || {
            let opened = place.acquire().and_then(|place| open(place, opening));
            if let Err(Ok((core, threads))) = reply.send(opened) {
                futures_lite::future::block_on(close(&core))
                    .unwrap_or_else(|error| tracing::warn!(%error, "closing an unwanted vault"));
                threads.stop();
            }
        })
        .map_err(|source| OpenError::Io { doing: "starting a thread", source: Arc::new(source) })?;
    answer.await.unwrap_or(Err(OpenError::Internal { doing: "opening the vault" }))
}

/// Opens a vault at a place that is held already. Blocks: a passphrase takes its time, and so may a key service.
fn open(place: Box<dyn Place>, opening: Opening) -> Result<(Arc<Core>, Threads), OpenError> {
    let Opening { root_key, previous_root_key, expected_head, settings, clock, http } = opening;
    let keyring = Arc::new(open_keyring(place.as_ref(), root_key.as_ref(), previous_root_key.as_deref())?);
    drop((root_key, previous_root_key));

    let seal: Arc<dyn AnchorSeal> = Arc::new(Seal(Arc::clone(&keyring)));
    let storage = futures_lite::future::block_on(place.start(seal))?;
    if let Some(expected) = expected_head {
        expected.check(&keyring, futures_lite::future::block_on(storage.sync_anchors())?)?;
    }
    let (threads, arbiters) = Threads::start(settings.threads)
        .map_err(|source| OpenError::Io { doing: "starting threads", source: Arc::new(source) })?;
    let core = Arc::new(Core {
        directory: Directory::new(storage.directory(), Arc::clone(&keyring)),
        settings,
        clock,
        keyring,
        storage,
        router: Router::new(),
        api_keys: KeyTable::default(),
        events: EventSender::new(),
        arbiters,
        http,
        limits: Limits::default(),
        wheel: Wheel::default(),
        journal: Journal::default(),
        listed: Listed::default(),
        started: Instant::now(),
        creating: std::sync::Mutex::default(),
        swept: std::sync::Mutex::default(),
        denials: std::sync::Mutex::default(),
        housekeeping: Signal::new(),
        coarse_uptime: AtomicU64::new(0),
        closing: AtomicBool::new(false),
        closing_begun: Signal::new(),
        work: Arc::default(),
        rotation: async_lock::Mutex::new(()),
        closed: async_lock::Mutex::new(false),
    });
    let prepared = futures_lite::future::block_on(core.run("opening the vault", {
        let core = Arc::clone(&core);
        async move {
            core.load_api_keys().await?;
            core.load_wheel().await?;
            core.load_journal().await?;
            core.finish_deletions().await.map(drop)
        }
    }));
    if let Err(error) = prepared {
        futures_lite::future::block_on(close(&core))
            .unwrap_or_else(|error| tracing::warn!(%error, "closing after a failed opening"));
        threads.stop();
        return Err(error.into());
    }
    core.arbiters.spawn(keep_time(Arc::clone(&core)));
    core.arbiters.spawn(keep_house(Arc::clone(&core)));
    core.arbiters.spawn(Arc::clone(&core).turn_wheel());
    core.arbiters.spawn(Arc::clone(&core).keep_journal_short());
    Ok((core, threads))
}

/// Completes what is under way, writes what waits, stops all actors, closes the storage, forgets the keys. The threads are stopped
/// by who holds them. Runs to its end even if the caller drops the future; closing twice is fine, the second call waits for the
/// first.
pub(crate) async fn close(core: &Arc<Core>) -> Result<(), Error> {
    core.closing.store(true, Ordering::Release);
    core.closing_begun.notify(usize::MAX);
    core.wake_housekeeping();
    let closing = {
        let core = Arc::clone(core);
        async move {
            let mut closed = core.closed.lock().await;
            if std::mem::replace(&mut *closed, true) {
                return Ok(());
            }
            core.work.close().await;
            let kept = core.keep_all_notes().await;
            core.router.retire_all().await;
            let written = kept.and(core.write_denials().await).and(core.write_last_used().await);
            core.events.close();
            // Whatever came before, the files are closed and the lock is let go.
            let stored = core.storage.close().await;
            core.keyring.forget();
            written.and(stored.map_err(Error::from))
        }
    };
    match core.run_even_closing("closing the vault", closing).await {
        // The threads are stopped: whoever stopped them had closed the vault.
        Err(Error::Closed) => Ok(()),
        outcome => outcome,
    }
}

/// How often housekeeping comes, and time goes on for those who note when an account was used.
fn tick(core: &Core) -> Duration {
    HOUSEKEEPING.min(core.settings.idle_after.max(CROWDED))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Lets time go on, whatever housekeeping waits for, until the vault closes.
async fn keep_time(core: Arc<Core>) {
    while !core.is_closing() {
        core.coarse_uptime.store(core.uptime_millis(), Ordering::Relaxed);
        core.sleep_until_closing(tick(&core)).await;
    }
}

/// Passivates what is idle or too much, until the vault closes.
async fn keep_house(core: Arc<Core>) {
    let mut rounds = 0;
    while !core.is_closing() {
        listener!(core.housekeeping => woken);
        let crowded = core.router.len() > core.settings.max_resident_accounts;
        let pause = if crowded { CROWDED } else { tick(&core) };
        drop(select(Box::pin(actix::clock::sleep(pause)), woken).await);
        if core.is_closing() {
            return;
        }
        let idle = millis(core.settings.idle_after);
        // A use may be later than noted by up to a tick: it is not taken for idle that much too early.
        let now = core.coarse_uptime_millis().saturating_sub(millis(tick(&core)));
        core.router.passivate(now, idle, core.settings.max_resident_accounts).await;
        rounds += 1;
        if rounds % ROUNDS_PER_LAST_USED == 0
            && let Err(error) = core.write_last_used().await
        {
            tracing::warn!(%error, "the last use of API keys could not be written");
        }
    }
}

pub(crate) fn open_keyring(
    place: &dyn Place,
    root_key: &dyn KeyProvider,
    previous: Option<&dyn KeyProvider>,
) -> Result<Keyring, OpenError> {
    let Some(header) = place.header()? else {
        let parameters = root_key.parameters()?;
        let (keyring, header) = Keyring::create(&root_key.root_key(&parameters)?, &parameters)?;
        place.write_header(&header)?;
        return Ok(keyring);
    };
    let providers: Vec<&dyn KeyProvider> = std::iter::once(root_key).chain(previous).collect();
    Keyring::open(&header, &providers).map_err(|error| match error {
        OpenKeyringError::Header(HeaderError::NotAVault) => OpenError::NotAVault,
        OpenKeyringError::Header(HeaderError::NewerFormat { found, supported }) => OpenError::NewerFormat { found, supported },
        OpenKeyringError::Header(_) => {
            OpenError::Corrupted(Damaged { part: VaultPart::Header, accounts: Vec::new(), detail: "it can't be read".into() })
        }
        OpenKeyringError::WrongRootKey => OpenError::WrongRootKey,
        OpenKeyringError::PreviousRootKeyNeeded | OpenKeyringError::NewRootKeyNeeded => OpenError::BothRootKeysNeeded,
        OpenKeyringError::RootKey(error) => OpenError::RootKey(error),
    })
}

/// Authenticates anchor files with a subkey of the vault key.
pub(crate) struct Seal(pub(crate) Arc<Keyring>);

impl AnchorSeal for Seal {
    fn mac(&self, file: &[u8], content: &[u8]) -> [u8; 32] {
        self.0.mac(Label::Anchor, &[file, content])
    }
}
