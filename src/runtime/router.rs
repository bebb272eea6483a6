//! Which accounts are resident, and the way to each: one actor per linked account, started on demand, passivated when idle or
//! when there are too many.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use actix::dev::SendError;
use actix::{Actor as _, Addr};
use futures_channel::oneshot;

use crate::domain::directory::AccountPlace;
use crate::domain::error::Error;
use crate::ids::AccountHandle;
use crate::memory;
use crate::runtime::account::{Account, GONE};
use crate::runtime::actor::{AccountActor, Job, Passivate, Work};
use crate::runtime::core::Core;
use crate::runtime::desk::Desk;
use crate::runtime::gate::{Gate, Gated as _, Pass, Refused};
use crate::runtime::handles::{ByHandle, HandleMap, HandleSet};
use crate::runtime::view::TokenView;

/// Parts of the map, so that callers of different accounts rarely meet at a lock.
const PARTS: usize = 256;

/// A part of the map on cache lines of its own, so that its lock is not moved between cores for another's sake.
#[derive(Default)]
#[repr(align(128))]
struct Padded(RwLock<Part>);

/// The accounts of one part.
#[derive(Default)]
// The lock and what a token needs share a cache line.
#[repr(C)]
struct Part {
    desks: HandleSet<Desk>,
    /// Of the same accounts. Only a hop needs them.
    addresses: HandleMap<Addr<AccountActor>>,
}

impl Part {
    fn get(&self, handle: &AccountHandle) -> Option<Resident> {
        let (ByHandle(desk), address) = (self.desks.get(handle)?, self.addresses.get(handle)?);
        Some(Resident { desk: Arc::clone(desk), address: address.clone() })
    }
}

/// The concurrent map from handle to actor.
pub(crate) struct Router {
    parts: Box<[Padded]>,
    resident: AtomicUsize,
    /// Accounts that are being deleted, each with the gate at which others wait until that is decided.
    deleting: Mutex<HashMap<AccountHandle, Arc<Gate>>>,
    /// How many deletions were decided: whoever read the directory before one of them reads it again.
    deletions: AtomicU64,
}

/// An account whose actor has stopped and is not started again before this is dropped: whoever asks for the account waits.
pub(crate) struct Deleting<'a> {
    router: &'a Router,
    handle: AccountHandle,
    gate: Arc<Gate>,
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        let mut deleting = self.router.deleting();
        deleting.remove(&self.handle);
        self.router.deletions.fetch_add(1, Ordering::Release);
        drop(deleting);
        self.gate.set_gone();
    }
}

/// What became of starting an actor.
enum Started {
    Resident(Resident),
    /// The account is being deleted; the gate is gone when that is decided.
    Deleting(Arc<Gate>),
    /// Something was deleted since the directory was read, perhaps this account.
    Outdated,
    Closing,
}

/// An account that has an actor.
#[derive(Clone)]
pub(crate) struct Resident {
    pub(crate) desk: Arc<Desk>,
    address: Addr<AccountActor>,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Padded::default()).collect(),
            resident: AtomicUsize::new(0),
            deleting: Mutex::default(),
            deletions: AtomicU64::new(0),
        }
    }

    /// How many accounts are resident.
    pub(crate) fn len(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    /// The account's actor, if it is resident.
    fn resident(&self, core: &Core, handle: &AccountHandle) -> Option<Resident> {
        let part = self.part(handle).read().unwrap_or_else(PoisonError::into_inner);
        let resident = part.get(handle)?;
        resident.desk.last_used.store(core.coarse_uptime_millis(), Ordering::Relaxed);
        Some(resident)
    }

    /// What checking a token needs, if the account is resident and loaded.
    pub(crate) fn token(&self, core: &Core, handle: &AccountHandle) -> Option<TokenView> {
        self.with(core, handle, Desk::FOR_TOKENS, |desk| desk.token())
    }

    /// A place at the account's desk, so many bytes of which will be looked at, if it is resident and fewer than `places` are taken.
    pub(crate) fn enter(&self, core: &Core, handle: &AccountHandle, bytes: usize, places: usize) -> Option<Pass<Desk>> {
        self.with(core, handle, bytes, |desk| Pass::enter(desk, places).ok())
    }

    /// Looks at a resident account's desk, for a few steps.
    fn with<R>(
        &self,
        core: &Core,
        handle: &AccountHandle,
        bytes: usize,
        look: impl FnOnce(&Arc<Desk>) -> Option<R>,
    ) -> Option<R> {
        let part = self.part(handle).read().unwrap_or_else(PoisonError::into_inner);
        let ByHandle(desk) = part.desks.get(handle)?;
        memory::fetch(Arc::as_ptr(desk).cast(), bytes);
        desk.last_used.store(core.coarse_uptime_millis(), Ordering::Relaxed);
        look(desk)
    }

    /// The account's actor, started if need be.
    ///
    /// # Errors
    /// `NotFound` when the directory proves that there is no such account.
    pub(crate) async fn start(&self, core: &Arc<Core>, handle: AccountHandle) -> Result<Resident, Error> {
        loop {
            if let Some(resident) = self.resident(core, &handle) {
                return Ok(resident);
            }
            let deletions = self.deletions.load(Ordering::Acquire);
            let place = core.directory.place(&handle).await?.ok_or(GONE)?;
            core.sweep_shard(place.shard).await?;
            match self.start_at(core, handle, place, deletions) {
                Started::Resident(resident) => return Ok(resident),
                Started::Deleting(gate) => gate.wait_gone().await,
                Started::Outdated => {}
                Started::Closing => return Err(Error::Closed),
            }
        }
    }

    /// Starts the actor where the directory said that the account is, when so many deletions had been decided.
    fn start_at(&self, core: &Arc<Core>, handle: AccountHandle, place: AccountPlace, deletions: u64) -> Started {
        let mut part = self.part(&handle).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(resident) = part.get(&handle) {
            return Started::Resident(resident);
        }
        // Looked at with the part locked: a deletion that begins later finds this actor in it.
        let deleting = self.deleting();
        if let Some(gate) = deleting.get(&handle) {
            return Started::Deleting(Arc::clone(gate));
        }
        if self.deletions.load(Ordering::Acquire) != deletions {
            return Started::Outdated;
        }
        drop(deleting);
        if core.is_closing() {
            return Started::Closing;
        }
        let desk = Arc::new(Desk::new(handle, place.shard, place.locator, core.coarse_uptime_millis()));
        let address = {
            let (core, desk) = (Arc::clone(core), Arc::clone(&desk));
            let arbiter = core.arbiters.of(&handle).clone();
            AccountActor::start_in_arbiter(&arbiter, move |context| {
                AccountActor::new(Account::new(core, handle, place, desk), context)
            })
        };
        let resident = Resident { desk, address };
        part.desks.insert(ByHandle(Arc::clone(&resident.desk)));
        part.addresses.insert(handle, resident.address.clone());
        drop(part);
        if self.resident.fetch_add(1, Ordering::Relaxed) >= core.settings.max_resident_accounts {
            core.wake_housekeeping();
        }
        Started::Resident(resident)
    }

    /// Hands a job to the account's actor if fewer than `places` are under way there. The job carries its own way to answer.
    pub(crate) async fn send(
        &self,
        core: &Arc<Core>,
        handle: AccountHandle,
        mut job: Box<dyn Job>,
        places: usize,
    ) -> Result<(), Error> {
        loop {
            let resident = self.start(core, handle).await?;
            let pass = match Pass::enter(&resident.desk, places) {
                Ok(pass) => pass,
                Err(Refused::Full) => return Err(Error::Overloaded),
                Err(Refused::Closed) => {
                    resident.desk.gate().wait_gone().await;
                    continue;
                }
            };
            match resident.address.try_send(Work { job, pass }) {
                Ok(()) => return Ok(()),
                Err(SendError::Full(_)) => return Err(Error::Overloaded),
                Err(SendError::Closed(work)) => {
                    // The actor died outside a handler body, or its arbiter did. Start it anew.
                    job = work.job;
                    drop(work.pass);
                    self.forget(&resident);
                    if core.is_closing() {
                        return Err(Error::Closed);
                    }
                }
            }
        }
    }

    /// Stops the account's actor, if it has one, after everything that it was asked is done. Nobody starts it again until what
    /// this returns is dropped.
    pub(crate) async fn retire(&self, core: &Core, handle: &AccountHandle) -> Deleting<'_> {
        let deleting = loop {
            match self.begin_deleting(handle) {
                Ok(deleting) => break deleting,
                Err(other) => other.wait_gone().await,
            }
        };
        if let Some(resident) = self.resident(core, handle) {
            resident.desk.gate().close().await;
            let (done, wait) = oneshot::channel();
            if resident.address.try_send(Passivate { keep: false, done }).is_ok() {
                // A dropped sender means that the actor is gone, which is what is wanted.
                let _ = wait.await;
            }
            self.forget(&resident);
        }
        deleting
    }

    /// Only one deletes; another one gets the gate of the first.
    fn begin_deleting(&self, handle: &AccountHandle) -> Result<Deleting<'_>, Arc<Gate>> {
        match self.deleting().entry(*handle) {
            Entry::Occupied(other) => Err(Arc::clone(other.get())),
            Entry::Vacant(free) => {
                let gate = Arc::clone(free.insert(Arc::default()));
                Ok(Deleting { router: self, handle: *handle, gate })
            }
        }
    }

    /// Stops every actor, each after what it was asked is done and what it kept back is written.
    pub(crate) async fn retire_all(&self) {
        let all = self.all();
        for resident in &all {
            resident.desk.gate().close().await;
        }
        self.stop(all).await;
    }

    /// Passivates every account that was not used for `idle` milliseconds, and the least recently used ones past `most`.
    pub(crate) async fn passivate(&self, now: u64, idle: u64, most: usize) {
        // An eighth below the bound, so that a stream of new accounts does not passivate one by one.
        let surplus = self.len().checked_sub(most).map_or(0, |over| if over == 0 { 0 } else { over + most / 8 });
        let is_idle = |last_used: u64| now.saturating_sub(last_used) >= idle;
        // Only numbers are taken along for all: a place and an address for each would be half of what housekeeping takes.
        let mut found: Vec<(u64, AccountHandle)> = Vec::new();
        for part in &self.parts {
            let part = part.0.read().unwrap_or_else(PoisonError::into_inner);
            let all = part.desks.iter().map(|ByHandle(desk)| (desk.last_used.load(Ordering::Relaxed), desk.handle));
            found.extend(all.filter(|(last_used, _)| surplus > 0 || is_idle(*last_used)));
        }
        if let Some(last) = surplus.min(found.len()).checked_sub(1) {
            found.select_nth_unstable(last);
        }
        let mut leaving = Vec::new();
        for (position, (_, handle)) in found.into_iter().enumerate() {
            let part = self.part(&handle).read().unwrap_or_else(PoisonError::into_inner);
            let Some(resident) = part.get(&handle) else { continue };
            // Asked again: it may have been used since.
            let goes = position < surplus || is_idle(resident.desk.last_used.load(Ordering::Relaxed));
            if goes && resident.desk.gate().close_if_empty() {
                leaving.push(resident);
            }
        }
        self.stop(leaving).await;
    }

    /// Stops actors whose gates are closed and empty, all at once.
    async fn stop(&self, leaving: Vec<Resident>) {
        let mut stopping = Vec::new();
        for resident in leaving {
            let (done, stopped) = oneshot::channel();
            let asked = resident.address.try_send(Passivate { keep: true, done }).is_ok();
            stopping.push((resident, asked.then_some(stopped)));
        }
        for (resident, stopped) in stopping {
            if let Some(stopped) = stopped {
                // A dropped sender means that the actor is gone, which is what is wanted.
                let _ = stopped.await;
            }
            self.forget(&resident);
        }
    }

    /// Every resident account.
    pub(crate) fn all(&self) -> Vec<Resident> {
        self.parts
            .iter()
            .flat_map(|part| {
                let part = part.0.read().unwrap_or_else(PoisonError::into_inner);
                part.addresses.keys().filter_map(|handle| part.get(handle)).collect::<Vec<_>>()
            })
            .collect()
    }

    fn forget(&self, resident: &Resident) {
        let mut part = self.part(&resident.desk.handle).write().unwrap_or_else(PoisonError::into_inner);
        let handle = &resident.desk.handle;
        if part.desks.get(handle).is_some_and(|ByHandle(present)| Arc::ptr_eq(present, &resident.desk)) {
            part.desks.remove(handle);
            part.addresses.remove(handle);
            self.resident.fetch_sub(1, Ordering::Relaxed);
        }
        drop(part);
        resident.desk.gate().set_gone();
    }

    fn deleting(&self) -> MutexGuard<'_, HashMap<AccountHandle, Arc<Gate>>> {
        self.deleting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, handle: &AccountHandle) -> &RwLock<Part> {
        // None of the bytes that are the hash.
        &self.parts[usize::from(handle.as_bytes()[0]) % PARTS].0
    }
}
