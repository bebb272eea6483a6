//! One database's line of waiting jobs, and its turn on a committer. The turn is the database's lock: whoever has it may open,
//! write and close the database, and there is only one at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::{Location, StorageError};
use super::commit_log::Pressure;
use super::committer::Turn;
use super::core::{Core, failed, locked};
use super::database::{Database, Failure};
use super::directory;
use super::frames::Target;
use super::group::{self, CommitJob, Staged, Subjects};
use super::shards::{self, Shard};
use super::watchdog::Caller;
use crate::ids::{AccountHandle, ShardId};

/// The most that one turn writes of one database before it acknowledges and lets others have their turn.
const GROUP_BYTES: usize = 128 * 1024;
const GROUP_COMMITS: usize = 256;

/// About how much of several databases is written and synced together.
const SHARED_BYTES: usize = 1024 * 1024;

/// How many jobs may wait for one database, and for all of a vault. Past it the caller hears `Overloaded` at once instead of
/// waiting behind seconds of others' work.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_IN_VAULT: usize = 32 * 1024;

/// How many pieces a database is given in a turn while others wait.
const PRESSING_PIECES: usize = 4;

/// One database of a vault: the directory, or a shard.
pub(super) struct Lane {
    pub(super) core: Arc<Core>,
    /// `None` for the directory.
    pub(super) shard: Option<Shard>,
    queue: Mutex<Queue>,
    slot: Mutex<Slot>,
    used: AtomicU64,
}

/// What waits for a database.
pub(super) enum Job {
    Commit(CommitJob),
    /// Anything else that needs the turn. It must answer its own ticket.
    Run(Box<dyn FnOnce(&Arc<Lane>) + Send>),
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// The database is to be given what the commit log is ahead, when nothing else waits.
    follows: bool,
    /// In the pool's line or on a committer.
    scheduled: bool,
    /// Perhaps in the line of those that are patient.
    patient: bool,
}

enum Slot {
    Closed,
    Open(Arc<Database>),
    /// Not to be used before the vault is reopened. The database is there when it still has to be closed.
    Failed(StorageError, Option<Arc<Database>>),
}

impl Lane {
    pub(super) fn new(core: Arc<Core>, shard: Option<Shard>) -> Arc<Self> {
        Arc::new(Self { core, shard, queue: Mutex::default(), slot: Mutex::new(Slot::Closed), used: AtomicU64::new(0) })
    }

    pub(super) fn place(&self) -> Location {
        self.shard.as_ref().map_or(Location::Directory, |shard| Location::Shard(shard.id))
    }

    /// The database as the commit log knows it.
    pub(super) fn log_place(&self) -> Option<ShardId> {
        self.shard.as_ref().map(|shard| shard.id)
    }

    /// The database's files as the commit log knows them.
    pub(super) fn target(&self) -> Target {
        let shard = self.log_place();
        Target { shard, generation: self.core.generation(shard) }
    }

    /// Puts a job at the end of the line.
    pub(super) fn submit(self: &Arc<Self>, job: Job) -> Result<(), StorageError> {
        if self.core.waiting.load(Ordering::Relaxed) >= MAX_WAITING_IN_VAULT || locked(&self.queue).jobs.len() >= MAX_WAITING {
            return Err(StorageError::Overloaded);
        }
        self.submit_unbounded(job);
        Ok(())
    }

    /// For the vault's own jobs, of which there are few.
    pub(super) fn submit_unbounded(self: &Arc<Self>, job: Job) {
        self.core.waiting.fetch_add(1, Ordering::Relaxed);
        let mut queue = locked(&self.queue);
        queue.jobs.push_back(job);
        let scheduled = std::mem::replace(&mut queue.scheduled, true);
        let patient = std::mem::take(&mut queue.patient);
        drop(queue);
        // Whoever has taken it out of that line meanwhile finds the job.
        if !scheduled || patient && self.core.claim_patient(self) {
            self.core.ready(self.clone());
        }
    }

    /// Has the database given what the commit log is ahead, in pieces: in turn with all that waits if that presses, else when nothing else
    /// waits.
    pub(super) fn follow(self: &Arc<Self>, pressure: Pressure) {
        let presses = pressure != Pressure::None;
        let mut queue = locked(&self.queue);
        queue.follows = true;
        let scheduled = std::mem::replace(&mut queue.scheduled, true);
        let patient = presses && std::mem::take(&mut queue.patient);
        drop(queue);
        if scheduled {
            if patient && self.core.claim_patient(self) {
                self.core.ready(self.clone());
            }
        } else if presses {
            self.core.ready(self.clone());
        } else {
            self.wait_patiently();
        }
    }

    /// Reads from the database: on the calling thread when it is open, else on a committer, which opens it first.
    ///
    /// What is read is durable: a commit is applied only when the commit log has it.
    pub(super) async fn read<T, F>(self: &Arc<Self>, read: F) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Lane>, &Database) -> Result<T, StorageError> + Send + 'static,
    {
        self.core.watchdog.refuses_reads()?;
        let Some(database) = self.opened()? else {
            let (ticket, answer) = self.core.watchdog.ticket(Caller::Committer)?;
            self.submit(Job::Run(Box::new(move |lane| {
                let result = lane.open_now().and_then(|database| {
                    let result = lane.core.watchdog.call(Caller::Committer, "reading a database", || read(lane, &database));
                    drop(database);
                    result
                });
                ticket.answer(result);
            })))?;
            return answer.wait().await;
        };
        self.core.watchdog.call(Caller::Reader, "reading a database", || read(self, &database))
    }

    /// The database if it is open.
    pub(super) fn opened(&self) -> Result<Option<Arc<Database>>, StorageError> {
        match &*locked(&self.slot) {
            Slot::Open(database) => {
                self.used.store(self.core.use_number(), Ordering::Relaxed);
                Ok(Some(database.clone()))
            }
            Slot::Closed => Ok(None),
            Slot::Failed(error, _) => Err(error.clone()),
        }
    }

    /// The open database; opens it if it is not. Only in this lane's turn.
    pub(super) fn open_now(self: &Arc<Self>) -> Result<Arc<Database>, StorageError> {
        if let Some(database) = self.opened()? {
            return Ok(database);
        }
        if let Some(reason) = self.core.watchdog.poisoned() {
            return Err(StorageError::Poisoned(reason));
        }
        let opened = match &self.shard {
            None => directory::open(&self.core),
            Some(shard) => {
                self.make_room();
                shards::open(&self.core, shard)
            }
        };
        let mut slot = locked(&self.slot);
        match opened {
            Ok(database) => {
                let database = Arc::new(database);
                *slot = Slot::Open(database.clone());
                drop(slot);
                self.used.store(self.core.use_number(), Ordering::Relaxed);
                if let Some(shard) = &self.shard {
                    locked(&self.core.open).insert(shard.id.0, self.clone());
                }
                Ok(database)
            }
            Err(error) => {
                // Damage does not go away by trying again, and each try would copy the database aside.
                if matches!(error, StorageError::Corrupted { .. } | StorageError::RolledBack { .. }) {
                    *slot = Slot::Failed(error.clone(), None);
                }
                Err(error)
            }
        }
    }

    /// Makes durable in the database what so far only the commit log has. Only in this lane's turn.
    pub(super) fn settle_now(&self) {
        self.settle_but(true);
    }

    /// Does some pieces of what [`follow`](Self::follow) asks for, if there is nothing else to do or it presses.
    fn follow_on(&self, idle: bool) {
        if !locked(&self.queue).follows {
            return;
        }
        let pieces = match self.core.log.pressure(self.log_place()) {
            Pressure::None if idle => 1,
            Pressure::None => return,
            Pressure::Some => PRESSING_PIECES,
            Pressure::Much => usize::MAX,
        };
        // Taken back before, not to miss who asks meanwhile.
        locked(&self.queue).follows = false;
        if !self.settled(self.settle(true, pieces)) {
            locked(&self.queue).follows = true;
        }
    }

    /// Passing rows stay in the commit log if they are to be `kept`.
    fn settle_but(&self, kept: bool) {
        // What was begun in pieces is begun anew.
        if let Slot::Open(database) = &*locked(&self.slot) {
            database.end_settling();
        }
        locked(&self.queue).follows = false;
        self.settled(self.settle(kept, usize::MAX));
    }

    /// Whether a settling has come to its end, if only a bad one.
    fn settled(&self, settled: Result<bool, Failure>) -> bool {
        match settled {
            Ok(all) => return all,
            // The commit log keeps it, for when the database is whole again.
            Err(failure @ Failure::Damaged(_)) => self.fail(self.unusable(&failure)),
            Err(failure) => {
                let error = self.core.poison(self.place(), "writing to", &failure);
                self.set_failed(error);
            }
        }
        true
    }

    /// Does so many pieces; whether nothing is left to do.
    fn settle(&self, kept: bool, pieces: usize) -> Result<bool, Failure> {
        let open = match &*locked(&self.slot) {
            Slot::Open(database) => Some(database.clone()),
            Slot::Closed | Slot::Failed(..) => None,
        };
        // In a poisoned vault nothing says what the database has; the commit log stays, and has it.
        if !self.core.log.is_ahead_of(self.log_place()) || self.core.watchdog.poisoned().is_some() {
            return Ok(true);
        }
        let Some(database) = open else { return Ok(true) };
        let log = &self.core.log;
        if !database.is_settling() {
            self.core.options.faults.before_settling()?;
            database.begin_settling(log.number(), &self.core.watchdog)?;
        }
        let before_flush = || self.core.options.faults.before_flush();
        let piece = || database.settle_on(kept, &self.core.watchdog, &before_flush).transpose();
        let Some(left) = (0..pieces).find_map(|_| piece()).transpose()? else { return Ok(false) };
        let passing = match database.oldest_passing() {
            Some(file) if !log.keeps(file) => {
                let file = log.write_again(&self.core, self.target(), database.passing())?;
                database.passing_moved(file);
                Some(file)
            }
            file => file,
        };
        if passing.or(left.since).is_none() {
            log.note_settled(&self.core, self.target())?;
            log.settled(self.log_place())?;
        } else {
            log.settled_since(self.log_place(), passing, left.since)?;
        }
        // A file that was full meanwhile can't go before what it has is in the database too.
        Ok(left.since.is_none_or(|file| file >= log.number()))
    }

    /// Closes the database. Only in this lane's turn.
    pub(super) fn close_now(&self) {
        self.settle_but(false);
        let database = locked(&self.slot).take_database();
        let Some(database) = database else { return };
        if let Some(shard) = &self.shard {
            locked(&self.core.open).remove(&shard.id.0);
        }
        let closed = self.core.watchdog.call(Caller::Committer, "closing a database", || {
            // Readers hold it for the length of one read. Whoever drops it last makes sled write, so that must be this thread.
            let mut database = database;
            let database = loop {
                match Arc::try_unwrap(database) {
                    Ok(database) => break database,
                    Err(shared) => database = shared,
                }
                std::thread::sleep(Duration::from_micros(100));
            };
            database.close()
        });
        if let Some(shard) = &self.shard {
            shard.closed();
        }
        if let Err(failure) = closed {
            self.core.poison(self.place(), "closing", &failure);
        }
    }

    /// Makes the database unusable until the vault is reopened, and closes it. Only in this lane's turn.
    pub(super) fn fail(&self, error: StorageError) {
        self.set_failed(error);
        self.close_now();
    }

    /// Nobody uses the database any more, but it may still have to be closed.
    pub(super) fn set_failed(&self, error: StorageError) {
        let mut slot = locked(&self.slot);
        let database = slot.take_database();
        *slot = Slot::Failed(error, database);
        drop(slot);
        if self.core.watchdog.poisoned().is_none()
            && let Err(error) = self.core.log.stuck(&self.core, self.log_place())
        {
            self.core.watchdog.poison(format!("writing the commit log: {error}"));
        }
    }

    /// Closes the least recently used shards that nobody waits for, until there is room for another one.
    fn make_room(&self) {
        loop {
            let victim = {
                let open = locked(&self.core.open);
                if open.len() < self.core.options.max_open_shards.max(1) {
                    return;
                }
                let mut lanes: Vec<_> = open.values().cloned().collect();
                // Each time is read once: they change meanwhile, and `sort` panics on an order that contradicts itself.
                lanes.sort_by_cached_key(|lane| lane.used.load(Ordering::Relaxed));
                lanes.into_iter().find(Self::try_claim)
            };
            // All are busy: for a moment one more is open than the host wants, which is better than to wait for their turns.
            let Some(victim) = victim else { return };
            victim.close_now();
            victim.end_turn();
        }
    }

    /// Takes the turn if nobody waits for the lane.
    fn try_claim(self: &Arc<Self>) -> bool {
        let mut queue = locked(&self.queue);
        if !std::mem::replace(&mut queue.scheduled, true) {
            return true;
        }
        let patient = queue.jobs.is_empty() && std::mem::take(&mut queue.patient);
        drop(queue);
        patient && self.core.claim_patient(self)
    }

    /// Gives the turn back, to the pool's line if there is more to do.
    fn end_turn(self: &Arc<Self>) {
        let mut queue = locked(&self.queue);
        if !queue.jobs.is_empty() {
            drop(queue);
            self.core.ready(self.clone());
        } else if queue.follows {
            drop(queue);
            match self.core.log.pressure(self.log_place()) {
                Pressure::None => {
                    self.wait_patiently();
                    // It may have begun to press before this lane could be found in that line.
                    match self.core.log.pressure(self.log_place()) {
                        Pressure::None => {}
                        pressure => self.follow(pressure),
                    }
                }
                Pressure::Some | Pressure::Much => self.core.ready(self.clone()),
            }
        } else {
            queue.scheduled = false;
        }
    }

    /// Goes to the line of those that nobody waits for. In this lane's turn, which it gives back.
    fn wait_patiently(self: &Arc<Self>) {
        self.core.ready_patiently(self.clone());
        // Said afterwards, so that whoever comes with a job and looks for the lane in that line finds it. Who came before did not look.
        let mut queue = locked(&self.queue);
        queue.patient = true;
        if queue.jobs.is_empty() {
            return;
        }
        drop(queue);
        if self.core.claim_patient(self) {
            self.core.ready(self.clone());
        }
    }

    /// The next job, with as many commits behind it as one turn may write together.
    fn take_jobs(&self) -> Vec<Job> {
        let mut queue = locked(&self.queue);
        let mut jobs: Vec<Job> = Vec::with_capacity(queue.jobs.len().min(GROUP_COMMITS));
        let (mut bytes, mut subjects) = (0, Subjects::default());
        while let Some(next) = queue.jobs.front() {
            match next {
                Job::Run(_) if jobs.is_empty() => jobs.extend(queue.jobs.pop_front()),
                Job::Commit(job) => {
                    bytes += job.cost();
                    let fits = bytes <= GROUP_BYTES && jobs.len() < GROUP_COMMITS;
                    if subjects.add(job) && fits || jobs.is_empty() {
                        jobs.extend(queue.jobs.pop_front());
                        continue;
                    }
                }
                Job::Run(_) => {}
            }
            break;
        }
        self.core.waiting.fetch_sub(jobs.len(), Ordering::Relaxed);
        jobs
    }

    /// What a failed read means to the caller.
    pub(super) fn read_error(&self, account: Option<AccountHandle>, failure: Failure) -> StorageError {
        match failed(self.place(), "read a database", failure) {
            StorageError::Corrupted { place, detail, .. } => {
                StorageError::Corrupted { place, detail, accounts: account.into_iter().collect() }
            }
            other => other,
        }
    }
}

/// A lane's turn, given back when dropped.
pub(super) struct Held(pub(super) Arc<Lane>);

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.core.watchdog.poison(format!("a committer panicked at {}", self.0.place()));
        }
        // Also after a panic: closing the vault needs the turn.
        self.0.end_turn();
    }
}

impl Held {
    /// Does what waits in the lane's line: a job of another kind to its end, commits up to where they are to be written.
    fn begin(self) -> Option<Staged> {
        let mut commits = Vec::new();
        let jobs = self.0.take_jobs();
        self.0.follow_on(jobs.is_empty());
        for job in jobs {
            match job {
                Job::Commit(job) => commits.push(job),
                Job::Run(run) => run(&self.0),
            }
        }
        // In a poisoned vault the tickets are answered, and nothing may be written any more.
        if commits.is_empty() || self.0.core.watchdog.poisoned().is_some() {
            return None;
        }
        Staged::new(self, commits)
    }
}

impl Turn for Lane {
    /// Writes what waits here together with what waits for other databases of the vault: one write, one sync.
    fn take_turn(self: Arc<Self>) {
        let core = self.core.clone();
        let Some(first) = Held(self).begin() else { return };
        let mut staged = vec![first];
        while staged.iter().map(Staged::bytes).sum::<usize>() < SHARED_BYTES
            && let Some(lane) = core.companion()
        {
            staged.extend(Held(lane).begin());
        }
        group::write_together(&core, staged);
    }

    fn companion(self: Arc<Self>) -> Option<Arc<Lane>> {
        let only_commits = matches!(locked(&self.queue).jobs.front(), Some(Job::Commit(_)));
        let open = matches!(&*locked(&self.slot), Slot::Open(_));
        (only_commits && open).then_some(self)
    }
}

impl Slot {
    /// Takes the database out, to be closed.
    fn take_database(&mut self) -> Option<Arc<Database>> {
        match std::mem::replace(self, Slot::Closed) {
            Slot::Closed => None,
            Slot::Open(database) => Some(database),
            Slot::Failed(error, database) => {
                *self = Slot::Failed(error, None);
                database
            }
        }
    }
}
