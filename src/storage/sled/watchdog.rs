//! Turns a hang into an error. Every answer that a vault owes and every call into sled or to the disk is known here; a thread
//! looks at them, and when one takes longer than the stall timeout, or when a write failed, the vault is poisoned: whoever
//! waits gets the error at once, and nothing is acknowledged any more. The stuck thread itself can't be helped.
//!
//! This is the last line of defence against sled's deadlock (see `committer.rs`), which stops every sled database of the
//! process for good.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use super::super::StorageError;
use super::database::{Failure, Rouser, Store};

/// When a committer last got something done, in milliseconds since [`EPOCH`]. The committers serve all vaults of the process,
/// so a vault whose jobs merely wait for another's must not take that for a stall.
static PROGRESS: AtomicU64 = AtomicU64::new(0);
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One vault's watchdog.
pub(super) struct Watchdog {
    stall_timeout: Duration,
    state: Mutex<State>,
    /// A call returned or a ticket was answered.
    changed: Condvar,
    /// The thread is to end.
    stop: Condvar,
}

/// An answer that is owed. Dropping it unanswered answers `Closed`, or `Poisoned` in a vault that is.
pub(super) struct Ticket<T> {
    watchdog: Arc<Watchdog>,
    id: u64,
    reply: Arc<Reply<T>>,
}

/// A ticket that only its holder answers: the watchdog did not, and does not any more.
pub(super) struct Claimed<T> {
    sender: oneshot::Sender<Result<T, StorageError>>,
    // Whoever waits until all are answered waits for this one too, unless the vault is poisoned.
    ticket: Ticket<T>,
}

/// The other end of a [`Ticket`].
pub(super) struct Answer<T>(oneshot::Receiver<Result<T, StorageError>>);

/// Who makes a watched call, or owes an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A committer: when the call returns, that is progress for every vault.
    Committer,
    /// The thread that reads.
    Reader,
    /// A committer that opens a database. After a kill sled reads the log from its last snapshot on, so how long that takes depends on how
    /// much was written, not on whether the disk answers. Whoever waits for that database waits as long.
    Opener,
    /// The keeper. No commit waits for the files that it writes, so a slow disk is no reason to stop acknowledging; a dead one is.
    Keeper,
}

/// How many stall timeouts a call of the keeper, or opening a database, may take.
const LONG_PATIENCE: u32 = 6;

/// After which part of the stall timeout a flush that has not returned is roused.
const ROUSED_AFTER: u32 = 4;

/// Why a vault acknowledges nothing any more.
struct Poison {
    reason: String,
    /// Since when a call hangs; any further call into sled may hang as well.
    stalled: Option<Instant>,
}

/// A call under way; forgotten when it returns or panics.
struct Call<'a> {
    watchdog: &'a Watchdog,
    id: u64,
}

#[derive(Default)]
struct State {
    next: u64,
    calls: HashMap<u64, UnderWay>,
    waiting: HashMap<u64, Waiter>,
    poison: Option<Poison>,
    /// Who waits for the vault to be closed: not in `waiting`, which closing waits for.
    closers: Vec<oneshot::Sender<Result<(), StorageError>>>,
    closed: bool,
    stopped: bool,
    /// How many threads wait for `changed`: telling nobody costs a system call as well.
    interested: usize,
}

struct UnderWay {
    since: Instant,
    what: &'static str,
    caller: Caller,
    patience: Duration,
    /// Taken when it is used.
    rouser: Option<Arc<Rouser>>,
}

struct Waiter {
    since: Instant,
    /// Who is to answer.
    from: Caller,
    reply: Arc<dyn Abandon>,
}

struct Reply<T>(Mutex<Option<oneshot::Sender<Result<T, StorageError>>>>);

trait Abandon: Send + Sync {
    fn abandon(&self, error: StorageError);
}

impl Watchdog {
    /// Starts the thread that watches.
    pub(super) fn start(stall_timeout: Duration) -> std::io::Result<Arc<Self>> {
        let watchdog = Arc::new(Self { stall_timeout, state: Mutex::default(), changed: Condvar::new(), stop: Condvar::new() });
        let watching = Arc::downgrade(&watchdog);
        let pause = (stall_timeout / 8).clamp(Duration::from_millis(5), Duration::from_millis(500));
        std::thread::Builder::new().name("anchorhold-watch".into()).spawn(move || {
            while let Some(watchdog) = watching.upgrade() {
                if watchdog.look(pause) {
                    return;
                }
            }
        })?;
        Ok(watchdog)
    }

    /// A ticket for who is to answer, and the answer, unless the vault is closed or poisoned.
    pub(super) fn ticket<T: Send + 'static>(self: &Arc<Self>, from: Caller) -> Result<(Ticket<T>, Answer<T>), StorageError> {
        let mut state = self.state();
        state.refusal()?;
        let (sender, receiver) = oneshot::channel();
        let reply = Arc::new(Reply(Mutex::new(Some(sender))));
        let id = state.take_id();
        state.waiting.insert(id, Waiter { since: Instant::now(), from, reply: reply.clone() });
        Ok((Ticket { watchdog: self.clone(), id, reply }, Answer(receiver)))
    }

    /// Makes a call that must return within the stall timeout, or within several if it is the keeper's.
    pub(super) fn call<T>(&self, caller: Caller, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.watched(caller, what, None, call)
    }

    /// A committer's flush, which is roused in good time before the stall timeout. No other call is: a second flush beside one that
    /// waits seals nothing, but beside one that writes it would be a write more than `committer.rs` counts with. Whoever else sleeps
    /// for a failed write is woken with the flush that follows every write.
    pub(super) fn flush(&self, store: &Store, what: &'static str) -> Result<(), Failure> {
        self.watched(Caller::Committer, what, Some(store.rouser().clone()), || store.flush())
    }

    fn watched<T>(&self, caller: Caller, what: &'static str, rouser: Option<Arc<Rouser>>, call: impl FnOnce() -> T) -> T {
        let under_way = {
            let mut state = self.state();
            let id = state.take_id();
            let patience = match caller {
                Caller::Keeper | Caller::Opener => LONG_PATIENCE * self.stall_timeout,
                Caller::Committer | Caller::Reader => self.stall_timeout,
            };
            state.calls.insert(id, UnderWay { since: Instant::now(), what, caller, patience, rouser });
            Call { watchdog: self, id }
        };
        let result = call();
        drop(under_way);
        if matches!(caller, Caller::Committer | Caller::Opener) {
            note_progress();
        }
        result
    }

    /// Like a ticket's refusal, but lets reads go on after a failed write: sled serves them from what it has.
    pub(super) fn refuses_reads(&self) -> Result<(), StorageError> {
        let state = self.state();
        match &state.poison {
            _ if state.closed => Err(StorageError::Closed),
            Some(poison) if poison.stalled.is_some() => Err(poison.error()),
            _ => Ok(()),
        }
    }

    /// Stops acknowledging: every waiter gets the error now, everyone who comes later as well.
    pub(super) fn poison(&self, reason: String) {
        self.poison_for(Poison { reason, stalled: None });
    }

    pub(super) fn poisoned(&self) -> Option<String> {
        self.state().poison.as_ref().map(|poison| poison.reason.clone())
    }

    /// Whether a call hangs, or did when the vault was poisoned.
    pub(super) fn stalled(&self) -> bool {
        self.state().poison.as_ref().is_some_and(|poison| poison.stalled.is_some())
    }

    /// Refuses new tickets and waits until every one is answered; `Err` when the vault is poisoned.
    pub(super) fn close(&self) -> Result<(), StorageError> {
        let mut state = self.state();
        state.closed = true;
        state.interested += 1;
        while !state.waiting.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.interested -= 1;
        state.refusal_by_poison()
    }

    /// Waits until no call is under way, for as long as the stall timeout at most; whether it is so.
    pub(super) fn wait_until_quiet(&self) -> bool {
        let deadline = Instant::now() + self.stall_timeout;
        let mut state = self.state();
        state.interested += 1;
        while !state.calls.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.interested -= 1;
        state.calls.is_empty()
    }

    /// The answer to come when the vault is closed, or when it turns out that a hang keeps it from being closed.
    pub(super) fn closer(&self) -> oneshot::Receiver<Result<(), StorageError>> {
        let (sender, receiver) = oneshot::channel();
        self.state().closers.push(sender);
        receiver
    }

    /// Answers who waits for the vault to be closed.
    pub(super) fn answer_closers(&self, result: &Result<(), StorageError>) {
        let closers = std::mem::take(&mut self.state().closers);
        for closer in closers {
            // Whoever dropped the future does not want the answer.
            let _ = closer.send(result.clone());
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.stop.notify_all();
    }

    /// One look of the thread; whether it is to end.
    fn look(&self, pause: Duration) -> bool {
        let mut state = self.state();
        if state.stopped {
            return true;
        }
        let now = Instant::now();
        for call in state.calls.values_mut() {
            if now.duration_since(call.since) > call.patience / ROUSED_AFTER
                && let Some(rouser) = call.rouser.take()
            {
                tracing::warn!(call = call.what, "the storage engine is slow; it is asked whether a write has failed");
                // A thread of its own, since it may hang as well. Without one the stall timeout does what there is to do.
                let _ = std::thread::Builder::new().name("anchorhold-rouse".into()).spawn(move || rouser.rouse());
            }
        }
        let stuck = state.calls.values().find(|call| now.duration_since(call.since) > call.patience);
        let stuck = stuck.map(|call| (call.what, call.patience.as_secs_f32()));
        // The keeper's own calls are watched; only a job in the committers' line can wait without any call being under way.
        let overdue = |waiter: &Waiter| waiter.from != Caller::Keeper && now.duration_since(waiter.since) > self.stall_timeout;
        let opens = state.calls.values().any(|call| call.caller == Caller::Opener);
        let starved = !opens && state.waiting.values().any(overdue) && since_progress() > self.stall_timeout;
        let hanging = state.poison.as_ref().and_then(|poison| poison.stalled);
        let reason = match stuck {
            _ if hanging.is_some() => None,
            Some((what, seconds)) => Some(format!("the storage engine hangs: {what} took more than {seconds} s")),
            None if starved => {
                Some(format!("the storage engine hangs: nothing was written for {} s", self.stall_timeout.as_secs_f32()))
            }
            None => None,
        };
        if let Some(reason) = reason {
            drop(state);
            self.poison_for(Poison { reason, stalled: Some(now) });
            state = self.state();
        } else if hanging.is_some_and(|since| now.duration_since(since) > 2 * self.stall_timeout) && !state.closers.is_empty() {
            // The thread that closes the vault should have been done by now, so the hang is in its way.
            let result = state.refusal_by_poison();
            drop(state);
            self.answer_closers(&result);
            state = self.state();
        }
        let (state, _) = self.stop.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
        state.stopped
    }

    fn poison_for(&self, poison: Poison) {
        let mut state = self.state();
        let error = match &mut state.poison {
            // The first reason is the cause, and stays. A stall is worse than a failure, and is noted.
            Some(first) => {
                first.stalled = first.stalled.or(poison.stalled);
                first.error()
            }
            none => {
                tracing::error!(reason = poison.reason, "the vault is poisoned and acknowledges nothing until it is reopened");
                none.insert(poison).error()
            }
        };
        let abandoned = std::mem::take(&mut state.waiting);
        drop(state);
        for waiter in abandoned.into_values() {
            waiter.reply.abandon(error.clone());
        }
        self.changed.notify_all();
    }

    fn answered(&self, id: u64) {
        let mut state = self.state();
        state.waiting.remove(&id);
        self.tell_of_change(&state);
    }

    fn tell_of_change(&self, state: &State) {
        if state.interested > 0 {
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while the lock is held; if it does all the same, the watchdog must go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refusal(&self) -> Result<(), StorageError> {
        if self.closed { Err(StorageError::Closed) } else { self.refusal_by_poison() }
    }

    fn refusal_by_poison(&self) -> Result<(), StorageError> {
        self.poison.as_ref().map_or(Ok(()), |poison| Err(poison.error()))
    }

    fn take_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Poison {
    fn error(&self) -> StorageError {
        StorageError::Poisoned(self.reason.clone())
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut state = self.watchdog.state();
        state.calls.remove(&self.id);
        self.watchdog.tell_of_change(&state);
    }
}

impl<T> Ticket<T> {
    /// Answers, unless the watchdog has done so already.
    pub(super) fn answer(self, result: Result<T, StorageError>) {
        self.reply.send(result);
    }

    /// Takes it on to answer, whatever befalls the vault from now on; `None` if the watchdog has answered already.
    pub(super) fn claim(self) -> Option<Claimed<T>> {
        let sender = self.reply.take()?;
        Some(Claimed { sender, ticket: self })
    }
}

impl<T> Claimed<T> {
    pub(super) fn answer(self, result: Result<T, StorageError>) {
        let Self { sender, ticket } = self;
        // Whoever dropped the future does not want the answer.
        let _ = sender.send(result);
        drop(ticket);
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if self.reply.is_owed() {
            let reason = self.watchdog.poisoned();
            self.reply.send(Err(reason.map_or(StorageError::Closed, StorageError::Poisoned)));
        }
        self.watchdog.answered(self.id);
    }
}

impl<T> Answer<T> {
    pub(super) async fn wait(self) -> Result<T, StorageError> {
        self.0.await.unwrap_or(Err(StorageError::Closed))
    }
}

impl<T> Reply<T> {
    fn is_owed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take(&self) -> Option<oneshot::Sender<Result<T, StorageError>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn send(&self, result: Result<T, StorageError>) {
        if let Some(sender) = self.take() {
            // Whoever dropped the future does not want the answer.
            let _ = sender.send(result);
        }
    }
}

impl<T: Send> Abandon for Reply<T> {
    fn abandon(&self, error: StorageError) {
        self.send(Err(error));
    }
}

/// Notes that a committer got something done.
fn note_progress() {
    PROGRESS.store(millis_since_epoch(), Ordering::Relaxed);
}

fn since_progress() -> Duration {
    Duration::from_millis(millis_since_epoch().saturating_sub(PROGRESS.load(Ordering::Relaxed)))
}

fn millis_since_epoch() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn a_call_that_hangs_poisons_and_frees_every_waiter() {
        let watchdog = Watchdog::start(Duration::from_millis(300)).unwrap();
        let (release, hang) = std::sync::mpsc::channel::<Ticket<()>>();
        let (begin, begun) = std::sync::mpsc::channel();
        let stuck = {
            let watchdog = watchdog.clone();
            std::thread::spawn(move || {
                let own = watchdog.call(Caller::Committer, "a test's call", || {
                    begin.send(()).unwrap();
                    hang.recv().unwrap()
                });
                own.answer(Ok(()));
            })
        };
        // The call is the older one: else it would only be said that nothing is written.
        begun.recv().unwrap();
        let (own, owns_answer) = watchdog.ticket::<()>(Caller::Committer).unwrap();
        let (_other, others_answer) = watchdog.ticket::<()>(Caller::Committer).unwrap();
        for answer in [owns_answer, others_answer] {
            match block_on(answer.wait()) {
                Err(StorageError::Poisoned(reason)) => assert!(reason.contains("a test's call"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(watchdog.ticket::<()>(Caller::Committer), Err(StorageError::Poisoned(_))));
        assert!(watchdog.refuses_reads().is_err());
        release.send(own).unwrap();
        stuck.join().unwrap();
    }

    #[test]
    fn reads_go_on_after_a_failed_write() {
        let watchdog = Watchdog::start(Duration::from_secs(10)).unwrap();
        watchdog.poison("the disk is full".into());
        assert!(watchdog.refuses_reads().is_ok());
        assert!(matches!(watchdog.ticket::<()>(Caller::Committer), Err(StorageError::Poisoned(_))));
    }

    #[test]
    fn a_dropped_ticket_is_answered() {
        let watchdog = Watchdog::start(Duration::from_secs(10)).unwrap();
        let (ticket, answer) = watchdog.ticket::<u8>(Caller::Committer).unwrap();
        drop(ticket);
        assert!(matches!(block_on(answer.wait()), Err(StorageError::Closed)));
        assert!(watchdog.close().is_ok());
    }

    #[test]
    fn opening_a_database_may_take_longer_and_whoever_waits_for_it_waits() {
        let watchdog = Watchdog::start(Duration::from_millis(100)).unwrap();
        let (owed, answer) = watchdog.ticket::<()>(Caller::Committer).unwrap();
        watchdog.call(Caller::Opener, "opening a database", || std::thread::sleep(Duration::from_millis(350)));
        assert!(watchdog.poisoned().is_none());
        owed.answer(Ok(()));
        block_on(answer.wait()).unwrap();
        watchdog.call(Caller::Opener, "opening a database", || std::thread::sleep(Duration::from_millis(900)));
        assert!(watchdog.poisoned().unwrap().contains("opening a database took more than 0.6 s"));
    }

    #[test]
    fn the_keeper_may_take_longer_but_not_for_ever() {
        let watchdog = Watchdog::start(Duration::from_millis(100)).unwrap();
        let (_owed, _answer) = watchdog.ticket::<()>(Caller::Keeper).unwrap();
        watchdog.call(Caller::Keeper, "writing an anchor", || std::thread::sleep(Duration::from_millis(300)));
        assert!(watchdog.poisoned().is_none());
        watchdog.call(Caller::Keeper, "writing an anchor", || std::thread::sleep(Duration::from_millis(900)));
        assert!(watchdog.poisoned().unwrap().contains("writing an anchor took more than 0.6 s"));
    }
}
