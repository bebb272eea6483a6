//! The only threads that write to sled: at most two in the process, shared by all vaults.
//!
//! Why they exist. sled 0.34.7 writes its log by tasks on a thread pool of the process. Truncating a log file is such a task
//! too, and the writer that needs the truncated place again waits for it while it holds the lock of that database's segment
//! accountant, for which all of its write tasks wait as well. When these occupy the pool's seven lasting threads and the
//! truncation is queued behind them, every sled database of the process hangs for ever. What keeps it from happening:
//!
//! - [`MAX_COMMITTERS`]: never more than two databases have write tasks queued at once.
//! - One committer at a time per database: a database's turn is its lock (`lane.rs`).
//! - Little is written between two flushes (`database/settling.rs`): sled keeps one free segment back, so a whole segment of log lies
//!   between queueing a truncation and waiting for it. If at least one flush falls in between, the truncation, queued before
//!   the writes that the flush waited for, has been taken from the queue by then, and it needs no lock to finish.
//!
//! What all this can't rule out, the watchdog turns into an error.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::lane::Lane;

/// The bound on threads that write to sled, in the whole process. More would let write tasks of more databases fill sled's
/// pool; two are enough to let one database sync while another writes.
const MAX_COMMITTERS: usize = 2;

/// Something that has work for a committer.
pub(super) trait Turn: Send + Sync {
    /// Does a bounded piece of the work, and becomes [ready](Membership::ready) again if there is more. It panics only by a mistake of this
    /// crate, since calls into sled are caught one by one.
    fn take_turn(self: Arc<Self>);

    /// The database whose commits can be written now, together with another one's.
    fn companion(self: Arc<Self>) -> Option<Arc<Lane>>;
}

/// A vault's membership of the pool, ended when dropped. The threads end with the last one.
pub(super) struct Membership(u64);

static POOL: Mutex<Option<Pool>> = Mutex::new(None);
static WORK: Condvar = Condvar::new();

#[derive(Default)]
struct Pool {
    /// Threads that were started and have not left their loop, also those that still work for a vault that is gone. That is
    /// what keeps the bound while old threads end and new ones are wanted.
    threads: usize,
    /// How many of them wait for work: telling nobody costs a system call as well.
    idle: usize,
    next: u64,
    /// What is ready, by vault.
    vaults: HashMap<u64, Line>,
    /// The vaults that have something ready, each once. Taking turns by vault first, then by database, lets a vault with one
    /// busy shard write as often as one with two hundred.
    order: VecDeque<u64>,
}

/// What is ready of one vault.
#[derive(Default)]
struct Line {
    turns: VecDeque<Arc<dyn Turn>>,
    /// Nobody waits for these: their turn comes when no other one is ready.
    patient: VecDeque<Arc<dyn Turn>>,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.patient.is_empty()
    }
}

impl Membership {
    /// Joins, and starts a thread if there are too few.
    pub(super) fn join() -> io::Result<Self> {
        let mut guard = lock();
        let pool = guard.get_or_insert_default();
        pool.next += 1;
        let id = pool.next;
        while pool.threads < MAX_COMMITTERS {
            let thread = std::thread::Builder::new().name("anchorhold-commit".into()).spawn(work);
            match thread {
                Ok(_) => pool.threads += 1,
                // One is enough to go on with.
                Err(_) if pool.threads > 0 => break,
                Err(error) => return Err(error),
            }
        }
        pool.vaults.insert(id, Line::default());
        Ok(Self(id))
    }

    /// Puts something at the end of this vault's line. It must not be in it already.
    pub(super) fn ready(&self, turn: Arc<dyn Turn>) {
        self.put(|line| line.turns.push_back(turn));
    }

    /// Puts something in line for when nothing else of this vault is ready. It must not be in a line already.
    pub(super) fn ready_patiently(&self, turn: Arc<dyn Turn>) {
        self.put(|line| line.patient.push_back(turn));
    }

    /// Takes something out of the line of what is patient; whether it was in it.
    pub(super) fn claim_patient<T: Turn>(&self, turn: &Arc<T>) -> bool {
        lock().as_mut().is_some_and(|pool| pool.claim(self.0, turn))
    }

    fn put(&self, put: impl FnOnce(&mut Line)) {
        let mut guard = lock();
        let pool = guard.get_or_insert_default();
        if let Some(line) = pool.vaults.get_mut(&self.0) {
            if line.is_empty() {
                pool.order.push_back(self.0);
            }
            put(line);
        }
        let somebody_waits = pool.idle > 0;
        drop(guard);
        if somebody_waits {
            WORK.notify_one();
        }
    }

    /// Takes the next one in this vault's line if its commits can be written together with another one's.
    pub(super) fn companion(&self) -> Option<Arc<Lane>> {
        let mut guard = lock();
        let pool = guard.as_mut()?;
        let line = pool.vaults.get_mut(&self.0)?;
        let lane = line.turns.front()?.clone().companion()?;
        let taken = line.turns.pop_front();
        if line.is_empty() {
            pool.order.retain(|id| *id != self.0);
        }
        drop(guard);
        drop(taken);
        Some(lane)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut guard = lock();
        let line = guard.as_mut().and_then(|pool| {
            pool.order.retain(|id| *id != self.0);
            pool.vaults.remove(&self.0)
        });
        drop(guard);
        WORK.notify_all();
        // Dropped after the lock: its jobs' tickets answer.
        drop(line);
    }
}

impl Pool {
    fn claim<T: Turn>(&mut self, vault: u64, turn: &Arc<T>) -> bool {
        let Some(line) = self.vaults.get_mut(&vault) else { return false };
        let same = |other: &Arc<dyn Turn>| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(turn));
        // Whoever claims it has another reference: nothing is dropped under the lock.
        let claimed = line.patient.iter().position(same).and_then(|at| line.patient.remove(at)).is_some();
        if claimed && line.is_empty() {
            self.order.retain(|id| *id != vault);
        }
        claimed
    }

    /// The next turn: of the vault that waited longest, the database that waited longest; a patient one if there is no other.
    fn take(&mut self) -> Option<Arc<dyn Turn>> {
        let vault = self.order.pop_front()?;
        let line = self.vaults.get_mut(&vault)?;
        let turn = line.turns.pop_front().or_else(|| line.patient.pop_front());
        if !line.is_empty() {
            self.order.push_back(vault);
        }
        turn
    }
}

fn work() {
    let mut guard = lock();
    loop {
        let pool = guard.get_or_insert_default();
        if pool.vaults.is_empty() {
            pool.threads -= 1;
            return;
        }
        let Some(turn) = pool.take() else {
            pool.idle += 1;
            guard = WORK.wait(guard).unwrap_or_else(PoisonError::into_inner);
            guard.get_or_insert_default().idle -= 1;
            continue;
        };
        drop(guard);
        // Whoever has the turn poisons its vault.
        let _ = catch_unwind(AssertUnwindSafe(|| turn.take_turn()));
        guard = lock();
    }
}

fn lock() -> MutexGuard<'static, Option<Pool>> {
    // Nothing panics while the lock is held; if it does all the same, the other vaults must go on.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many committers there are in the process now.
#[cfg(test)]
pub(super) fn threads() -> usize {
    lock().as_ref().map_or(0, |pool| pool.threads)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    struct Named(&'static str, Mutex<Option<mpsc::Sender<&'static str>>>);

    impl Turn for Named {
        fn take_turn(self: Arc<Self>) {
            let _said = (self.0 == "panics").then(|| Said(self.1.lock().unwrap().clone()));
            assert_ne!(self.0, "panics");
            if let Some(sender) = &*self.1.lock().unwrap() {
                sender.send(self.0).unwrap();
            }
        }

        fn companion(self: Arc<Self>) -> Option<Arc<Lane>> {
            None
        }
    }

    /// What a panic drops.
    struct Said(Option<mpsc::Sender<&'static str>>);

    impl Drop for Said {
        fn drop(&mut self) {
            self.0.as_ref().unwrap().send("panicked").unwrap();
        }
    }

    #[test]
    fn a_vault_with_one_busy_database_has_every_other_turn() {
        let mut pool = Pool::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (vault, names) in [(1, vec!["a1", "a2", "a3"]), (2, vec!["b1"]), (3, vec!["c1", "c2"])] {
            let turns = names.into_iter().map(|name| Arc::new(Recorded(name, order.clone())) as Arc<dyn Turn>);
            pool.vaults.insert(vault, Line { turns: turns.collect(), ..Line::default() });
            pool.order.push_back(vault);
        }
        while let Some(turn) = pool.take() {
            turn.take_turn();
        }
        assert_eq!(*order.lock().unwrap(), ["a1", "b1", "c1", "a2", "c2", "a3"]);
    }

    #[test]
    fn a_patient_turn_comes_when_no_other_is_ready_and_can_be_claimed() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let turn = |name| Arc::new(Recorded(name, order.clone()));
        let (claimed, busy) = (turn("claimed"), turn("busy"));
        let mut pool = Pool::default();
        let patient = [claimed.clone() as Arc<dyn Turn>, turn("patient")];
        let line = Line { turns: [busy.clone() as Arc<dyn Turn>].into(), patient: patient.into() };
        pool.vaults.insert(1, line);
        pool.order.push_back(1);
        assert!(pool.claim(1, &claimed));
        assert!(!pool.claim(1, &claimed), "it is in the line no more");
        assert!(!pool.claim(1, &busy), "it is in the other line");
        while let Some(turn) = pool.take() {
            turn.take_turn();
        }
        assert_eq!(*order.lock().unwrap(), ["busy", "patient"]);
    }

    struct Recorded(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Turn for Recorded {
        fn take_turn(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }

        fn companion(self: Arc<Self>) -> Option<Arc<Lane>> {
            None
        }
    }

    #[test]
    fn a_turn_that_panics_ends_and_the_threads_go_on() {
        let membership = Membership::join().unwrap();
        let (sender, receiver) = mpsc::channel();
        for name in ["panics", "panics", "panics", "works"] {
            membership.ready(Arc::new(Named(name, Mutex::new(Some(sender.clone())))));
        }
        let mut heard: Vec<_> = (0..4).map(|_| receiver.recv().unwrap()).collect();
        heard.sort_unstable();
        assert_eq!(heard, ["panicked", "panicked", "panicked", "works"]);
    }

    #[test]
    fn what_a_leaving_vault_has_in_line_is_dropped() {
        static RAN: AtomicUsize = AtomicUsize::new(0);
        struct Slow;
        impl Turn for Slow {
            fn take_turn(self: Arc<Self>) {
                RAN.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }

            fn companion(self: Arc<Self>) -> Option<Arc<Lane>> {
                None
            }
        }
        let membership = Membership::join().unwrap();
        let turn = Arc::new(Slow);
        for _ in 0..100 {
            membership.ready(turn.clone());
        }
        drop(membership);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(RAN.load(Ordering::SeqCst) < 50);
        assert_eq!(Arc::strong_count(&turn), 1);
    }
}
