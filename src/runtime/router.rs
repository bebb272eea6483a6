//! Which accounts are resident, and the way to each: one actor per linked account, started on demand, passivated when idle or
//! when there are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use actix::dev::SendError;
use actix::{Actor as _, Addr};
use arc_swap::ArcSwapOption;
use futures_channel::oneshot;

use crate::domain::directory::{HandleRow, RowName};
use crate::domain::error::Error;
use crate::ids::AccountHandle;
use crate::runtime::account::{Account, GONE};
use crate::runtime::actor::{AccountActor, Job, Passivate, Work};
use crate::runtime::core::Core;
use crate::runtime::gate::{Gate, Refused};
use crate::runtime::view::AccountView;

/// Parts of the map, so that callers of different accounts rarely meet at a lock.
const PARTS: usize = 64;

/// The concurrent map from handle to actor.
pub(crate) struct Router {
    parts: Box<[RwLock<HashMap<AccountHandle, Arc<Resident>>>]>,
    resident: AtomicUsize,
}

/// An account whose actor has stopped. Until this is dropped, whoever asks for the account waits.
pub(crate) struct Retired<'a> {
    router: &'a Router,
    resident: Arc<Resident>,
}

impl Drop for Retired<'_> {
    fn drop(&mut self) {
        self.router.forget(&self.resident);
    }
}

/// An account that has an actor.
pub(crate) struct Resident {
    pub(crate) handle: AccountHandle,
    address: Addr<AccountActor>,
    gate: Arc<Gate>,
    last_used: AtomicU64,
    /// What a check of a session token needs, published by the actor; `None` until the account is loaded.
    pub(crate) view: Arc<ArcSwapOption<AccountView>>,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| RwLock::default()).collect(), resident: AtomicUsize::new(0) }
    }

    /// How many accounts are resident.
    pub(crate) fn len(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    /// The account's actor, if it is resident.
    pub(crate) fn resident(&self, core: &Core, handle: &AccountHandle) -> Option<Arc<Resident>> {
        let part = self.part(handle).read().unwrap_or_else(PoisonError::into_inner);
        let resident = part.get(handle).cloned()?;
        resident.last_used.store(core.uptime_millis(), Ordering::Relaxed);
        Some(resident)
    }

    /// The account's actor, started if need be.
    ///
    /// # Errors
    /// `NotFound` when the directory proves that there is no such account.
    pub(crate) async fn start(&self, core: &Arc<Core>, handle: AccountHandle) -> Result<Arc<Resident>, Error> {
        if let Some(resident) = self.resident(core, &handle) {
            return Ok(resident);
        }
        let place: HandleRow = core.directory.get(RowName::Handle(handle)).await?.ok_or(GONE)?;
        core.sweep_shard(place.shard).await?;
        let mut part = self.part(&handle).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(resident) = part.get(&handle) {
            return Ok(Arc::clone(resident));
        }
        if core.is_closing() {
            return Err(Error::Closed);
        }
        let view = Arc::new(ArcSwapOption::empty());
        let address = {
            let (core, view) = (Arc::clone(core), Arc::clone(&view));
            let arbiter = core.arbiters.of(&handle).clone();
            AccountActor::start_in_arbiter(&arbiter, move |context| {
                AccountActor::new(Account::new(core, handle, place, view), context)
            })
        };
        let resident =
            Arc::new(Resident { handle, address, gate: Arc::default(), last_used: AtomicU64::new(core.uptime_millis()), view });
        part.insert(handle, Arc::clone(&resident));
        drop(part);
        if self.resident.fetch_add(1, Ordering::Relaxed) >= core.settings.max_resident_accounts {
            core.wake_housekeeping();
        }
        Ok(resident)
    }

    /// Hands a job to the account's actor. The job carries its own way to answer.
    pub(crate) async fn send(&self, core: &Arc<Core>, handle: AccountHandle, mut job: Box<dyn Job>) -> Result<(), Error> {
        loop {
            let resident = self.start(core, handle).await?;
            let pass = match resident.gate.enter(core.settings.mailbox_capacity) {
                Ok(pass) => pass,
                Err(Refused::Full) => return Err(Error::Overloaded),
                Err(Refused::Closed) => {
                    resident.gate.wait_gone().await;
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

    /// Stops the account's actor after everything that it was asked is done. Nobody can start it again until `between` is done.
    pub(crate) async fn retire(&self, core: &Core, handle: &AccountHandle) -> Option<Retired<'_>> {
        let resident = self.resident(core, handle)?;
        let retired = Retired { router: self, resident };
        retired.resident.gate.close().await;
        let (done, wait) = oneshot::channel();
        if retired.resident.address.try_send(Passivate { keep: false, done }).is_ok() {
            // A dropped sender means that the actor is gone, which is what is wanted.
            let _ = wait.await;
        }
        Some(retired)
    }

    /// Stops every actor, each after what it was asked is done and what it kept back is written.
    pub(crate) async fn retire_all(&self) {
        let all = self.all();
        for resident in &all {
            resident.gate.close().await;
        }
        self.stop(all).await;
    }

    /// Passivates every account that was not used for `idle` milliseconds, and the least recently used ones past `most`.
    pub(crate) async fn passivate(&self, now: u64, idle: u64, most: usize) {
        let mut all = self.all();
        all.sort_unstable_by_key(|resident| resident.last_used.load(Ordering::Relaxed));
        // An eighth below the bound, so that a stream of new accounts does not passivate one by one.
        let surplus = all.len().checked_sub(most).map_or(0, |over| if over == 0 { 0 } else { over + most / 8 });
        let mut leaving = Vec::new();
        for (position, resident) in all.into_iter().enumerate() {
            let unused_for = now.saturating_sub(resident.last_used.load(Ordering::Relaxed));
            if position >= surplus && unused_for < idle {
                break;
            }
            if resident.gate.close_if_empty() {
                leaving.push(resident);
            }
        }
        self.stop(leaving).await;
    }

    /// Stops actors whose gates are closed and empty, all at once.
    async fn stop(&self, leaving: Vec<Arc<Resident>>) {
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
    pub(crate) fn all(&self) -> Vec<Arc<Resident>> {
        self.parts
            .iter()
            .flat_map(|part| part.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn forget(&self, resident: &Arc<Resident>) {
        let mut part = self.part(&resident.handle).write().unwrap_or_else(PoisonError::into_inner);
        if part.get(&resident.handle).is_some_and(|present| Arc::ptr_eq(present, resident)) {
            part.remove(&resident.handle);
            self.resident.fetch_sub(1, Ordering::Relaxed);
        }
        drop(part);
        resident.gate.set_gone();
    }

    fn part(&self, handle: &AccountHandle) -> &RwLock<HashMap<AccountHandle, Arc<Resident>>> {
        &self.parts[usize::from(handle.as_bytes()[8]) % PARTS]
    }
}
