//! Applying commits of several accounts together: one turn's group, one sync.

use std::sync::Arc;

use super::super::{Commit, MarkStep, StorageError};
use super::database::{Database, Failure};
use super::lane::Lane;
use super::rows::PART_BYTES;
use super::shards::Shard;
use super::watchdog::{Caller, Ticket};
use crate::ids::AccountHandle;

/// The most that is applied between two flushes, unless one commit alone has more. sled writes up to about seven times as much
/// to its log (a page is written anew every ten changes, cleaning moves another one, splitting a page writes both halves), so
/// less than half a segment of log lies between two flushes, and a flush between queueing a truncation and waiting for it: the
/// condition under which sled can't deadlock (see `committer.rs`). One larger commit makes at most three write tasks, since it
/// is one batch; two databases of them don't fill sled's seven threads.
const FLUSH_BYTES: usize = 32 * 1024;
const FLUSH_COMMITS: usize = 64;

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

/// What a turn writes.
#[derive(Default)]
struct Group {
    /// Not looked at yet.
    waiting: std::vec::IntoIter<CommitJob>,
    /// Checked, and applied with the next batch.
    batch: Vec<CommitJob>,
    /// Applied, and not yet answered.
    applied: Vec<CommitJob>,
    /// The database can't be used any more.
    broken: Option<Failure>,
}

impl Group {
    /// Whether a commit must not be in one batch with those that are there: it builds on one of them, or writes a row that one of them
    /// writes. An account has one commit under way at most, so this is for the directory.
    fn meets(&self, job: &CommitJob) -> bool {
        let rows = |commit: &Commit, key: &[u8]| {
            commit.puts.iter().any(|(put, _)| put == key) || commit.removes.iter().any(|removed| removed == key)
        };
        self.batch.iter().filter(|other| other.tree == job.tree).any(|other| {
            let same_mark = |step: &MarkStep| other.commit.marks.iter().any(|others| others.mark == step.mark);
            let keys = job.commit.puts.iter().map(|(key, _)| key).chain(&job.commit.removes);
            job.create || job.commit.marks.iter().any(same_mark) || keys.into_iter().any(|key| rows(&other.commit, key))
        })
    }
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
    /// Applies commits of several accounts, makes them durable together and acknowledges them.
    pub(super) fn commit_group(self: &Arc<Self>, jobs: Vec<CommitJob>) {
        let database = match self.open_now() {
            Ok(database) => database,
            Err(error) => return jobs.into_iter().for_each(|job| job.ticket.answer(Err(error.clone()))),
        };
        self.settling.begin(jobs.iter().map(|job| job.tree.clone()));
        let mut group = Group { waiting: jobs.into_iter(), ..Group::default() };
        if let Err(failure) = self.write(&database, &mut group) {
            // Who waits is answered by the poison, before the group is dropped.
            return self.poison("writing to", &failure);
        }
        drop(database);
        for job in &group.applied {
            self.note_durable(job);
        }
        self.settling.settle();
        for job in group.applied {
            job.ticket.answer(Ok(Committed::Durable));
        }
        if let Some(failure) = group.broken {
            self.fail(self.unusable(&failure));
        }
    }

    /// Writes what of a group can be written, and syncs it. An error leaves unknown what is durable; whoever was not answered is still in
    /// the group then.
    fn write(&self, database: &Database, group: &mut Group) -> Result<(), Failure> {
        let (mut bytes, mut commits) = (0, 0);
        while let Some(next) = group.waiting.as_slice().first() {
            let cost = next.cost();
            let full = commits > 0 && (bytes + cost > FLUSH_BYTES || commits == FLUSH_COMMITS);
            if full || group.meets(next) {
                self.apply(database, group)?;
            }
            if full {
                (bytes, commits) = (0, 0);
                self.flush(database)?;
            }
            let Some(job) = group.waiting.next() else { break };
            if let Some(failure) = &group.broken {
                job.ticket.answer(Err(self.unusable(failure)));
                continue;
            }
            bytes += cost;
            commits += 1;
            match self.call("writing to a database", || self.check(database, &job)) {
                Ok(()) => group.batch.push(job),
                Err(Refusal::This(error)) => job.ticket.answer(Err(error)),
                Err(Refusal::NoRoom) => job.ticket.answer(Ok(Committed::NoRoom)),
                Err(Refusal::Database(failure @ Failure::Damaged(_))) => {
                    job.ticket.answer(Err(self.unusable(&failure)));
                    group.broken = Some(failure);
                }
                Err(Refusal::Database(failure)) => {
                    group.batch.push(job);
                    return Err(failure);
                }
            }
        }
        self.apply(database, group)?;
        if !group.applied.is_empty() {
            // Durable = flush + our own fdatasync. A failed one is never tried again: the kernel may have dropped the pages.
            self.flush(database)?;
            self.call("syncing a database", || {
                self.core.options.faults.before_sync()?;
                database.sync()
            })?;
        }
        Ok(())
    }

    fn flush(&self, database: &Database) -> Result<(), Failure> {
        self.core.options.faults.before_flush()?;
        self.core.watchdog.flush(database, "flushing a database")
    }

    /// Whether a commit can be applied. Makes its tree if it is to be made.
    fn check(&self, database: &Database, job: &CommitJob) -> Result<(), Refusal> {
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
        Ok(())
    }

    /// Applies the commits that were checked, as one batch.
    fn apply(&self, database: &Database, group: &mut Group) -> Result<(), Failure> {
        let commits = group.batch.iter().map(|job| (job.tree.as_slice(), &job.commit));
        match self.call("writing to a database", || database.apply(commits)) {
            Ok(()) => group.applied.append(&mut group.batch),
            Err(failure @ Failure::Damaged(_)) => {
                for job in group.batch.drain(..) {
                    job.ticket.answer(Err(self.unusable(&failure)));
                }
                group.broken = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
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
        self.set_failed(error);
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
}

impl CommitJob {
    /// About how many bytes of entries it writes.
    pub(super) fn cost(&self) -> usize {
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
