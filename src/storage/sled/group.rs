//! Writing commits of several databases together: checked in each one's turn, made durable by one write and one sync of the commit log,
//! then applied to each database.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::super::{Commit, Mark, MarkStep, StorageError};
use super::core::Core;
use super::database::{CREATION_BYTES, Database, ENTRY_BYTES, Failure, REMOVAL_BYTES, sections};
use super::frames;
use super::lane::{Held, Lane};
use super::rows::PART_BYTES;
use super::shards::Shard;
use super::watchdog::{Caller, Ticket};
use crate::ids::AccountHandle;

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

/// Commits of one database that can be applied, in its turn.
pub(super) struct Staged {
    database: Arc<Database>,
    jobs: Vec<CommitJob>,
    // The turn ends when everything else is dropped.
    turn: Held,
}

/// What the commits of one turn are about. None may build on another one, and two that write the same row have a mark in common. An account
/// has one commit under way at most, so this is for the directory.
#[derive(Default)]
pub(super) struct Subjects(HashSet<u64>);

impl Subjects {
    /// Adds a commit's; whether it can be written with those before. It may be refused by mistake, which costs a turn.
    pub(super) fn add(&mut self, job: &CommitJob) -> bool {
        let about = |mark: Option<Mark>| {
            let mut hasher = DefaultHasher::new();
            (&job.tree, mark).hash(&mut hasher);
            hasher.finish()
        };
        if job.commit.marks.is_empty() {
            return self.0.insert(about(None));
        }
        job.commit.marks.iter().all(|step| self.0.insert(about(Some(step.mark))))
    }
}

/// Makes commits of several databases durable together, applies and acknowledges them.
pub(super) fn write_together(core: &Arc<Core>, staged: Vec<Staged>) {
    match log(core, &staged) {
        Ok(file) => staged.into_iter().for_each(|staged| staged.apply(file)),
        // Nothing was applied. Who waits is answered by the poison, before the tickets are dropped.
        Err(failure) => core.watchdog.poison(format!("writing the commit log: {failure}")),
    }
}

/// Writes and syncs them; returns the number of the file.
fn log(core: &Arc<Core>, staged: &[Staged]) -> std::io::Result<u64> {
    let page = core.log.page(core, staged.iter().map(|staged| &staged.turn.0))?;
    let mut bytes = Vec::with_capacity(staged.iter().map(Staged::bytes).sum());
    for Staged { turn, jobs, .. } in staged {
        let target = turn.0.target();
        for job in jobs {
            frames::put_commit(&mut bytes, page.number, target, &job.tree, job.create, &job.commit);
        }
    }
    core.log.append(core, &page, &bytes, true)?;
    Ok(page.number)
}

impl Staged {
    /// Looks at each of the commits, in the database's turn, and answers those that can't be applied.
    pub(super) fn new(turn: Held, jobs: Vec<CommitJob>) -> Option<Self> {
        let lane = turn.0.clone();
        let database = match lane.open_now() {
            Ok(database) => database,
            Err(error) => {
                jobs.into_iter().for_each(|job| job.ticket.answer(Err(error.clone())));
                return None;
            }
        };
        let mut staged: Vec<CommitJob> = Vec::with_capacity(jobs.len());
        let mut creating = 0;
        let mut broken: Option<Failure> = None;
        for job in jobs {
            if let Some(failure) = &broken {
                job.ticket.answer(Err(lane.unusable(failure)));
                continue;
            }
            match lane.call("reading a database", || lane.check(&database, &job, creating)) {
                Ok(()) => {
                    creating += usize::from(job.create);
                    staged.push(job);
                }
                Err(Refusal::This(error)) => job.ticket.answer(Err(error)),
                Err(Refusal::NoRoom) => job.ticket.answer(Ok(Committed::NoRoom)),
                Err(Refusal::Database(failure)) => {
                    job.ticket.answer(Err(lane.unusable(&failure)));
                    broken = Some(failure);
                }
            }
        }
        if let Some(failure) = broken {
            staged.into_iter().for_each(|job| job.ticket.answer(Err(lane.unusable(&failure))));
            drop(database);
            lane.fail(lane.unusable(&failure));
            return None;
        }
        (!staged.is_empty()).then_some(Self { database, jobs: staged, turn })
    }

    /// About how many bytes it is.
    pub(super) fn bytes(&self) -> usize {
        self.jobs.iter().map(CommitJob::cost).sum()
    }

    /// Applies what is durable, and acknowledges it; but nothing of whom the watchdog has told meanwhile that the vault is poisoned: they go
    /// on with what they had, and would take a row that is newer for a damaged one. Reopening the vault finds it in the commit log.
    fn apply(self, file: u64) {
        let Self { database, jobs, turn } = self;
        let mut tickets = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Some(ticket) = job.ticket.claim() else { continue };
            let steps = job.commit.marks.clone();
            database.apply(&job.tree, job.commit, file);
            // Afterwards: whoever reads both must not find the anchor ahead.
            turn.0.note_durable(job.account, &steps);
            tickets.push(ticket);
        }
        turn.0.note_behind();
        tickets.into_iter().for_each(|ticket| ticket.answer(Ok(Committed::Durable)));
    }
}

/// Why a commit is not written.
enum Refusal {
    /// Only this commit is refused.
    This(StorageError),
    NoRoom,
    /// The database can't be used any more.
    Database(Failure),
}

impl Lane {
    /// Whether a commit can be applied, when so many trees will have been made before it.
    fn check(self: &Arc<Self>, database: &Database, job: &CommitJob, creating: usize) -> Result<(), Refusal> {
        if !database.has_tree(&job.tree) {
            if !job.create {
                return Err(Refusal::This(StorageError::NoTree));
            }
            if self.shard.is_some() && database.tree_count() + creating >= self.core.options.trees_per_shard {
                return Err(Refusal::NoRoom);
            }
        }
        self.open_sections_now(database, sections::of_commit(&job.commit)).map_err(Refusal::This)?;
        for step in &job.commit.marks {
            let found = database.mark(&job.tree, step.mark).map_err(Refusal::Database)?.map_or(0, |mark| mark.sequence);
            if found != step.expected {
                return Err(Refusal::This(StorageError::Conflict { expected: step.expected, found }));
            }
        }
        Ok(())
    }

    /// Moves an anchor, in memory, to what is durable now.
    fn note_durable(&self, account: Option<AccountHandle>, steps: &[MarkStep]) {
        for step in steps {
            match (&self.shard, account) {
                (Some(shard), Some(account)) => shard.note_durable(account, step.next),
                _ => self.core.anchors.note_bucket(step.mark, step.next),
            }
        }
    }

    /// The keeper is to write the anchors that moved.
    fn note_behind(self: &Arc<Self>) {
        self.core.anchors.note_shard(self);
        self.core.keeper.note_behind(self.core.options.anchor_interval);
    }

    pub(super) fn unusable(&self, failure: &Failure) -> StorageError {
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
        let rows = self.commit.puts.iter().chain(&self.commit.passing).map(|(key, value)| {
            let parts = value.len() / PART_BYTES + 1;
            value.len() + parts * (key.len() + ENTRY_BYTES)
        });
        let create = if self.create { CREATION_BYTES } else { 0 };
        rows.sum::<usize>() + self.commit.removes.len() * REMOVAL_BYTES + create + self.commit.marks.len() * 2 * ENTRY_BYTES
    }
}
