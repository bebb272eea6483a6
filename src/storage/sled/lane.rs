//! One database's line of waiting jobs, and its turn on a committer. The turn is the database's lock: whoever has it may open,
//! write and close the database, and there is only one at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::super::{Commit, Location, StorageError};
use super::committer::Turn;
use super::core::{Core, failed, locked};
use super::database::{Database, Failure};
use super::rows::PART_BYTES;
use super::shards::{self, Shard};
use super::watchdog::{Caller, Ticket};
use crate::ids::AccountHandle;

/// The most that one turn applies before it syncs, acknowledges and lets others have their turn.
const GROUP_BYTES: usize = 128 * 1024;
const GROUP_COMMITS: usize = 256;

/// The most that is applied between two flushes, unless one commit alone has more. sled writes up to about seven times as much
/// to its log (a page is written anew every ten changes, cleaning moves another one, splitting a page writes both halves), so
/// less than half a segment of log lies between two flushes, and a flush between queueing a truncation and waiting for it: the
/// condition under which sled can't deadlock (see `committer.rs`). One larger commit makes at most three write tasks, since it
/// is one batch; two databases of them don't fill sled's seven threads.
const FLUSH_BYTES: usize = 32 * 1024;
const FLUSH_COMMITS: usize = 64;

/// How many jobs may wait for one database, and for all of a vault. Past it the caller hears `Overloaded` at once instead of
/// waiting behind seconds of others' work.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_IN_VAULT: usize = 32 * 1024;

/// The name of the directory's only tree.
pub(super) const DIRECTORY_TREE: &[u8] = b"directory";

/// One database of a vault: the directory, or a shard.
pub(super) struct Lane {
    pub(super) core: Arc<Core>,
    /// `None` for the directory.
    pub(super) shard: Option<Shard>,
    queue: Mutex<Queue>,
    slot: Mutex<Slot>,
    settling: Settling,
    used: AtomicU64,
}

/// What waits for a database.
pub(super) enum Job {
    Commit(CommitJob),
    /// Anything else that needs the turn. It must answer its own ticket.
    Run(Box<dyn FnOnce(&Arc<Lane>) + Send>),
}

pub(super) struct CommitJob {
    pub(super) tree: Vec<u8>,
    /// The account whose tree it is; `None` for the directory.
    pub(super) account: Option<AccountHandle>,
    /// Make the tree first.
    pub(super) create: bool,
    pub(super) commit: Commit,
    pub(super) ticket: Ticket<Committed>,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Durable,
    /// The tree was to be made, and the shard is full.
    NoRoom,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// In the pool's line or on a committer.
    scheduled: bool,
}

enum Slot {
    Closed,
    Open(Arc<Database>),
    /// Not to be used before the vault is reopened. The database is there when it still has to be closed.
    Failed(StorageError, Option<Arc<Database>>),
}

/// Lets a reader wait until what it may have read is durable.
#[derive(Default)]
struct Settling {
    applying: AtomicBool,
    readers: Mutex<Vec<Ticket<()>>>,
}

/// Why a commit of a group was not applied.
enum Refusal {
    /// Only this commit is refused.
    This(StorageError),
    NoRoom,
    /// The database can't be used any more.
    Database(Failure),
}

impl Lane {
    pub(super) fn new(core: Arc<Core>, shard: Option<Shard>) -> Arc<Self> {
        Arc::new(Self {
            core,
            shard,
            queue: Mutex::default(),
            slot: Mutex::new(Slot::Closed),
            settling: Settling::default(),
            used: AtomicU64::new(0),
        })
    }

    pub(super) fn place(&self) -> Location {
        self.shard.as_ref().map_or(Location::Directory, |shard| Location::Shard(shard.id))
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
        if !std::mem::replace(&mut queue.scheduled, true) {
            drop(queue);
            self.core.ready(self.clone());
        }
    }

    /// Reads from the database: on the calling thread when it is open, else on a committer, which opens it first.
    pub(super) async fn read<T, F>(self: &Arc<Self>, read: F) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Lane>, &Database) -> Result<T, StorageError> + Send + 'static,
    {
        self.core.watchdog.refuses_reads()?;
        let Some(database) = self.opened()? else {
            let (ticket, answer) = self.core.watchdog.ticket()?;
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
        let result = self.core.watchdog.call(Caller::Other, "reading a database", || read(self, &database));
        // Before waiting for anything: the database can't be closed while it is held here.
        drop(database);
        if self.settling.applying.load(Ordering::SeqCst) {
            let (ticket, answer) = self.core.watchdog.ticket()?;
            self.settling.wait(ticket);
            answer.wait().await?;
        }
        result
    }

    /// The database if it is open.
    fn opened(&self) -> Result<Option<Arc<Database>>, StorageError> {
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
            None => shards::open_directory(&self.core),
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

    /// Closes the database. Only in this lane's turn.
    pub(super) fn close_now(&self) {
        let database = {
            let mut slot = locked(&self.slot);
            match &mut *slot {
                Slot::Closed => None,
                Slot::Open(_) => match std::mem::replace(&mut *slot, Slot::Closed) {
                    Slot::Open(database) => Some(database),
                    _ => None,
                },
                Slot::Failed(_, database) => database.take(),
            }
        };
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
    fn fail(&self, error: StorageError) {
        {
            let mut slot = locked(&self.slot);
            let database = match std::mem::replace(&mut *slot, Slot::Closed) {
                Slot::Open(database) => Some(database),
                Slot::Closed => None,
                Slot::Failed(_, database) => database,
            };
            *slot = Slot::Failed(error, database);
        }
        self.close_now();
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
                lanes.sort_by_key(|lane| lane.used.load(Ordering::Relaxed));
                lanes.into_iter().find(|lane| lane.try_claim())
            };
            // All are busy: for a moment one more is open than the host wants, which is better than to wait for their turns.
            let Some(victim) = victim else { return };
            victim.close_now();
            victim.end_turn();
        }
    }

    /// Takes the turn if the lane is idle.
    fn try_claim(&self) -> bool {
        !std::mem::replace(&mut locked(&self.queue).scheduled, true)
    }

    /// Gives the turn back, to the pool's line if jobs wait.
    fn end_turn(self: &Arc<Self>) {
        let mut queue = locked(&self.queue);
        if queue.jobs.is_empty() {
            queue.scheduled = false;
        } else {
            drop(queue);
            self.core.ready(self.clone());
        }
    }

    /// The next job, with as many commits behind it as one turn may apply together.
    fn take_jobs(&self) -> Vec<Job> {
        let mut queue = locked(&self.queue);
        let mut jobs: Vec<Job> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.jobs.front() {
            match next {
                Job::Run(_) if jobs.is_empty() => jobs.extend(queue.jobs.pop_front()),
                Job::Commit(job) => {
                    bytes += job.cost();
                    if jobs.is_empty() || (bytes <= GROUP_BYTES && jobs.len() < GROUP_COMMITS) {
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

    /// Applies commits of several accounts, makes them durable together and acknowledges them.
    fn commit_group(self: &Arc<Self>, group: Vec<CommitJob>) {
        let database = match self.open_now() {
            Ok(database) => database,
            Err(error) => return group.into_iter().for_each(|job| job.ticket.answer(Err(error.clone()))),
        };
        self.settling.applying.store(true, Ordering::SeqCst);
        let mut applied = Vec::with_capacity(group.len());
        let mut broken = None;
        let (mut bytes, mut commits) = (0, 0);
        for job in group {
            if let Some(failure) = &broken {
                job.ticket.answer(Err(self.unusable(failure)));
                continue;
            }
            if commits > 0 && (bytes + job.cost() > FLUSH_BYTES || commits == FLUSH_COMMITS) {
                (bytes, commits) = (0, 0);
                if let Err(failure) = self.call("flushing a database", || database.flush()) {
                    return self.poison("writing to", &failure);
                }
            }
            bytes += job.cost();
            commits += 1;
            match self.call("writing to a database", || self.apply(&database, &job)) {
                Ok(()) => applied.push(job),
                Err(Refusal::This(error)) => job.ticket.answer(Err(error)),
                Err(Refusal::NoRoom) => job.ticket.answer(Ok(Committed::NoRoom)),
                Err(Refusal::Database(failure @ Failure::Damaged(_))) => {
                    job.ticket.answer(Err(self.unusable(&failure)));
                    broken = Some(failure);
                }
                Err(Refusal::Database(failure)) => return self.poison("writing to", &failure),
            }
        }
        if !applied.is_empty() {
            // Durable = flush + our own fdatasync. A failed one is never tried again: the kernel may have dropped the pages.
            let synced = self.call("flushing a database", || database.flush()).and_then(|()| {
                self.call("syncing a database", || {
                    self.core.options.faults.before_sync()?;
                    database.sync()
                })
            });
            if let Err(failure) = synced {
                return self.poison("writing to", &failure);
            }
        }
        drop(database);
        for job in &applied {
            self.note_durable(job);
        }
        self.settling.settle();
        for job in applied {
            job.ticket.answer(Ok(Committed::Durable));
        }
        if let Some(failure) = broken {
            self.fail(self.unusable(&failure));
        }
    }

    fn apply(&self, database: &Database, job: &CommitJob) -> Result<(), Refusal> {
        if !database.has_tree(&job.tree) {
            if !job.create {
                return Err(Refusal::This(StorageError::NoTree));
            }
            if self.shard.is_some() && database.tree_count() >= self.core.options.trees_per_shard {
                return Err(Refusal::NoRoom);
            }
            database.create_tree(&job.tree).map_err(Refusal::Database)?;
        }
        for step in &job.commit.marks {
            let found = database.mark(&job.tree, step.mark).map_err(Refusal::Database)?.map_or(0, |mark| mark.sequence);
            if found != step.expected {
                return Err(Refusal::This(StorageError::Conflict { expected: step.expected, found }));
            }
        }
        database.apply(&job.tree, &job.commit).map_err(Refusal::Database)
    }

    /// Moves the anchors, in memory, to what is durable now. The keeper writes them.
    fn note_durable(self: &Arc<Self>, job: &CommitJob) {
        for step in &job.commit.marks {
            match (&self.shard, job.account) {
                (Some(shard), Some(account)) => {
                    shard.note_durable(account, step.next);
                    self.core.anchors.note_shard(self);
                }
                _ => self.core.anchors.note_bucket(step.mark, step.next),
            }
        }
        self.core.keeper.note_behind(self.core.options.anchor_interval);
    }

    fn poison(&self, doing: &str, failure: &Failure) {
        let error = self.core.poison(self.place(), doing, failure);
        // What was applied and not synced must not be read as if it were durable.
        let mut slot = locked(&self.slot);
        let database = match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Open(database) => Some(database),
            Slot::Closed => None,
            Slot::Failed(_, database) => database,
        };
        *slot = Slot::Failed(error, database);
    }

    fn unusable(&self, failure: &Failure) -> StorageError {
        let detail = match failure {
            Failure::Damaged(detail) => detail.clone(),
            Failure::Io(error) => error.to_string(),
            Failure::Locked => "another process has it open".into(),
        };
        let accounts = self.shard.as_ref().map(Shard::accounts).unwrap_or_default();
        StorageError::Corrupted { place: self.place(), detail, accounts }
    }

    fn call<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.core.watchdog.call(Caller::Committer, what, call)
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

impl Turn for Lane {
    fn take_turn(self: Arc<Self>) {
        let mut commits = Vec::new();
        for job in self.take_jobs() {
            match job {
                Job::Commit(job) => commits.push(job),
                Job::Run(run) => run(&self),
            }
        }
        // In a poisoned vault the tickets are answered, and nothing may be written any more.
        if !commits.is_empty() && self.core.watchdog.poisoned().is_none() {
            self.commit_group(commits);
        }
        self.end_turn();
    }

    fn panicked(self: Arc<Self>) {
        self.core.watchdog.poison(format!("a committer panicked at {}", self.place()));
        // Closing the vault needs the turn.
        self.end_turn();
    }
}

impl CommitJob {
    /// About how many bytes of entries it writes.
    fn cost(&self) -> usize {
        const ENTRY: usize = 64;
        let rows = self.commit.puts.iter().map(|(key, value)| {
            let parts = value.len() / PART_BYTES + 1;
            value.len() + parts * (key.len() + ENTRY)
        });
        // Removing rows makes sled merge and rewrite pages; a new tree makes it rewrite its list of trees.
        let removes = self.commit.removes.len() * 1024;
        let create = if self.create { PART_BYTES } else { 0 };
        rows.sum::<usize>() + removes + create + self.commit.marks.len() * 2 * ENTRY
    }
}

impl Settling {
    /// Leaves a ticket that is answered when what is being applied now is durable.
    fn wait(&self, ticket: Ticket<()>) {
        let mut readers = locked(&self.readers);
        // Checked again under the lock that `settle` takes, so that no ticket is left behind.
        if self.applying.load(Ordering::SeqCst) {
            readers.push(ticket);
        } else {
            ticket.answer(Ok(()));
        }
    }

    fn settle(&self) {
        let readers = {
            let mut readers = locked(&self.readers);
            self.applying.store(false, Ordering::SeqCst);
            std::mem::take(&mut *readers)
        };
        readers.into_iter().for_each(|ticket| ticket.answer(Ok(())));
    }
}
