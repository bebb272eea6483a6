//! Rewriting a shard without some of its trees, which is how an account is deleted: sled keeps removed values in its log for
//! long, so only a database that never had them is free of them.
//!
//! The steps, each of which a crash may be the last of: (0) copy what stays into `NNNN.(G+1).new` and compare; (1) write its
//! anchor and sync everything; (2) rename it to `NNNN.(G+1)`, from when on it counts; (3) remember the new generation in the
//! directory's anchor; (4) remove `NNNN.G` and the copies of damaged databases of this shard that were set aside.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::anchor::ShardAnchor;
use super::super::{Mark, Row, StorageError};
use super::core::{Core, failed, io_error, locked};
use super::database::{Database, Failure};
use super::files;
use super::lane::Lane;
use super::shards::{ANCHOR, SHARDS, Shard, generation_dir};
use super::watchdog::Caller;
use crate::ids::AccountHandle;

/// The most entries' bytes that are copied between two flushes; the same bound as for commits, for the same reason.
const FLUSH_BYTES: usize = 32 * 1024;

const REWRITING: &str = "rewriting a shard";

/// Rewriting takes a committer for long, so a vault rewrites one shard at a time and the other committer goes on with commits.
/// This is the line: `Some` while one is rewritten.
pub(super) type Line = Mutex<Option<VecDeque<Admission>>>;

type Admission = Box<dyn FnOnce(Admitted) + Send>;

/// The permission to rewrite a shard; dropping it admits the next one.
pub(super) struct Admitted(Arc<Core>);

/// Calls `admitted` when no other shard of the vault is being rewritten: now, or on the thread that finishes the one before.
pub(super) fn admit(core: &Arc<Core>, admitted: impl FnOnce(Admitted) + Send + 'static) {
    let mut line = locked(&core.rewriting);
    match &mut *line {
        Some(waiting) => waiting.push_back(Box::new(admitted)),
        None => {
            *line = Some(VecDeque::new());
            drop(line);
            admitted(Admitted(core.clone()));
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut line = locked(&self.0.rewriting);
        let next = line.as_mut().and_then(VecDeque::pop_front);
        if next.is_none() {
            *line = None;
        }
        drop(line);
        if let Some(next) = next {
            next(Admitted(self.0.clone()));
        }
    }
}

/// Rewrites the lane's shard without these accounts. Only in the lane's turn.
pub(super) fn shred(lane: &Arc<Lane>, accounts: &[AccountHandle]) -> Result<(), StorageError> {
    let Some(shard) = &lane.shard else { return Ok(()) };
    // What is copied is what is there, and what a crash leaves in the commit log of the old generation counts no more.
    lane.settle_now();
    let old = lane.open_now()?;
    if accounts.iter().any(|account| old.has_tree(account.as_bytes())) {
        rewrite(lane, shard, old, accounts)?;
    } else {
        drop(old);
    }
    // Also when a former call has done the rewriting and failed here.
    remove_leftovers(&lane.core, shard).map_err(|error| io_error("remove what is left of a shard", error))
}

fn rewrite(lane: &Lane, shard: &Shard, old: Arc<Database>, accounts: &[AccountHandle]) -> Result<(), StorageError> {
    let core = &lane.core;
    let doing = |failure| failed(lane.place(), "rewrite a shard", failure);
    let gone: BTreeSet<&[u8]> = accounts.iter().map(|account| account.as_bytes().as_slice()).collect();
    let kept = trees_to_keep(core, &old, &gone).map_err(doing)?;
    // An open shard has its anchor in memory; a rewritten one that lost it would vouch for nothing.
    let no_anchor = || core.poison(lane.place(), "rewriting", &Failure::Damaged("its anchor is not known".into()));
    let generation = shard.anchor().ok_or_else(no_anchor)?.generation + 1;
    let new_dir = generation_dir(&core.root, shard.id, generation);
    let unfinished = files::with_suffix(&new_dir, ".new");
    files::remove_tree(&unfinished).map_err(|error| doing(error.into()))?;
    let copied = copy(core, &old, &kept, &unfinished);
    drop(old);
    if let Err(failure) = copied {
        // Nothing has changed yet. Best effort: opening the shard removes it as well.
        let _ = files::remove_tree(&unfinished);
        return Err(doing(failure));
    }
    core.options.faults.after_rewriting_step(0).map_err(|error| doing(error.into()))?;

    // From here to the end no anchor file may be written into the generation that goes, and after a failure nothing may be
    // acknowledged: it would go into the old generation, and after the next opening the new one counts.
    let writing = core.anchors.begin_writing(&core.watchdog)?;
    let mut anchor = shard.anchor().ok_or_else(no_anchor)?;
    anchor.accounts.retain(|account, _| !gone.contains(account.as_bytes().as_slice()));
    anchor.generation = generation;
    anchor.counter += 1;
    lane.close_now();
    let poisoned = |error| core.poison(lane.place(), "rewriting", &Failure::Io(error));
    let stop = |step| core.options.faults.after_rewriting_step(step).map_err(poisoned);
    prepare(core, &anchor, &unfinished).map_err(poisoned)?;
    stop(1)?;
    rename(core, &unfinished, &new_dir).map_err(poisoned)?;
    stop(2)?;
    shard.replace_anchor(anchor.clone());
    core.anchors.note_written(&anchor);
    core.anchors.write_directory(core, &writing)?;
    drop(writing);
    stop(3)?;
    locked(&core.room).set(shard.id, kept.len());
    Ok(())
}

/// All trees but those that go and those that a crash left without any row.
fn trees_to_keep(core: &Core, old: &Database, gone: &BTreeSet<&[u8]>) -> Result<Vec<Vec<u8>>, Failure> {
    let mut kept = Vec::new();
    for name in old.tree_names() {
        if !gone.contains(name.as_slice()) && call(core, || old.mark(&name, Mark::Account))?.is_some() {
            kept.push(name);
        }
    }
    Ok(kept)
}

/// Copies trees into a new database, compares it with the old one and closes it.
fn copy(core: &Core, old: &Database, kept: &[Vec<u8>], dir: &Path) -> Result<(), Failure> {
    let (new, _) = Database::open(dir, core.options.shard_cache_bytes, &core.watchdog)?;
    for name in kept {
        call(core, || new.create_tree(name))?;
        let mut chunk: Vec<Row> = Vec::new();
        let mut bytes = 0;
        for entry in old.raw_entries(name)? {
            let entry = entry?;
            bytes += entry.0.len() + entry.1.len();
            chunk.push(entry);
            if bytes >= FLUSH_BYTES {
                bytes = 0;
                put(core, &new, name, std::mem::take(&mut chunk))?;
            }
        }
        put(core, &new, name, chunk)?;
    }
    for name in kept {
        if !call(core, || same(old.raw_entries(name)?, new.raw_entries(name)?))? {
            return Err(Failure::Damaged("the rewritten shard differs from the old one".into()));
        }
    }
    call(core, || new.close())
}

fn put(core: &Core, new: &Database, name: &[u8], chunk: Vec<Row>) -> Result<(), Failure> {
    call(core, || new.put_raw(name, chunk))?;
    core.watchdog.flush(new.first(), REWRITING)
}

fn same(
    mut old: impl Iterator<Item = Result<Row, Failure>>,
    mut new: impl Iterator<Item = Result<Row, Failure>>,
) -> Result<bool, Failure> {
    loop {
        match (old.next().transpose()?, new.next().transpose()?) {
            (None, None) => return Ok(true),
            (old, new) if old != new => return Ok(false),
            _ => {}
        }
    }
}

fn prepare(core: &Core, anchor: &ShardAnchor, unfinished: &Path) -> io::Result<()> {
    core.watchdog.call(Caller::Committer, "syncing a rewritten shard", || {
        files::replace(&unfinished.join(ANCHOR), &anchor.encode(&*core.seal))?;
        files::sync_tree(unfinished)
    })
}

fn rename(core: &Core, unfinished: &Path, new_dir: &Path) -> io::Result<()> {
    core.watchdog.call(Caller::Committer, "syncing a rewritten shard", || {
        fs::rename(unfinished, new_dir)?;
        new_dir.parent().map_or(Ok(()), files::sync_dir)
    })
}

/// Removes all that is on disk of this shard but the generation that counts: older generations, what was never finished, and
/// damaged copies that were set aside.
fn remove_leftovers(core: &Core, shard: &Shard) -> io::Result<()> {
    let counts = format!("{}.{}", shard.id, core.anchors.shard_mark(shard.id).generation);
    let of_this_shard = format!("{}.", shard.id);
    for entry in fs::read_dir(core.root.join(SHARDS))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&of_this_shard) && name != counts.as_str() {
            files::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn call<T>(core: &Core, call: impl FnOnce() -> T) -> T {
    core.watchdog.call(Caller::Committer, REWRITING, call)
}
