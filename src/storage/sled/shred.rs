//! Rewriting a shard without some of its trees, which is how an account is deleted: sled keeps removed values in its log for
//! long, so only a database that never had them is free of them.
//!
//! The steps, each of which a crash may be the last of: (1) copy what stays into `NNNN.(G+1).new`, compare, write its anchor,
//! sync everything; (2) rename it to `NNNN.(G+1)`, from when on it counts; (3) remember the new generation in the directory's
//! anchor; (4) remove `NNNN.G`; (5) remove copies of damaged databases of this shard that were set aside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

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

/// Rewrites the lane's shard without these accounts. Only in the lane's turn.
pub(super) fn shred(lane: &Arc<Lane>, accounts: &[AccountHandle]) -> Result<(), StorageError> {
    let core = &lane.core;
    let Some(shard) = &lane.shard else { return Ok(()) };
    let old = lane.open_now()?;
    let there = accounts.iter().any(|account| old.has_tree(account.as_bytes()));
    if there {
        let gone: BTreeSet<&[u8]> = accounts.iter().map(|account| account.as_bytes().as_slice()).collect();
        let doing = |failure| failed(lane.place(), "rewrite a shard", failure);
        let kept = trees_to_keep(core, &old, &gone).map_err(doing)?;
        let generation = shard.anchor().map_or(0, |anchor| anchor.generation);
        let old_dir = generation_dir(&core.root, shard.id, generation);
        let new_dir = generation_dir(&core.root, shard.id, generation + 1);
        let unfinished = files::with_suffix(&new_dir, ".new");
        files::remove_tree(&unfinished).map_err(|error| doing(error.into()))?;
        copy(core, &old, &kept, &unfinished).map_err(doing)?;
        drop(old);

        // From here to the end no anchor file may be written into the generation that goes.
        let writing = core.anchors.begin_writing();
        let anchor = next_anchor(shard, &gone, generation + 1);
        finish(core, &anchor, &unfinished, &new_dir).map_err(|error| io_error("rewrite a shard", error))?;
        lane.close_now();
        shard.replace_anchor(anchor.clone());
        core.anchors.note_written(&anchor);
        core.anchors.write_directory(core, &writing)?;
        drop(writing);
        files::remove_tree(&old_dir).map_err(|error| io_error("remove a shard's old generation", error))?;
        locked(&core.room).set(shard.id, kept.len());
    }
    remove_copies_aside(core, shard).map_err(|error| io_error("remove copies of a shard", error))
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
    call(core, || new.flush())
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

fn next_anchor(shard: &Shard, gone: &BTreeSet<&[u8]>, generation: u32) -> ShardAnchor {
    let mut anchor = shard.anchor().unwrap_or_else(|| ShardAnchor::empty(shard.id, generation));
    anchor.accounts.retain(|account, _| !gone.contains(account.as_bytes().as_slice()));
    anchor.generation = generation;
    anchor.counter += 1;
    anchor
}

/// Steps 1 and 2 from the anchor on: after the rename the new generation is the one that counts.
fn finish(core: &Core, anchor: &ShardAnchor, unfinished: &Path, new_dir: &Path) -> std::io::Result<()> {
    core.watchdog.call(Caller::Committer, "syncing a rewritten shard", || {
        files::replace(&unfinished.join(ANCHOR), &anchor.encode(&*core.seal))?;
        files::sync_tree(unfinished)?;
        fs::rename(unfinished, new_dir)?;
        new_dir.parent().map_or(Ok(()), files::sync_dir)
    })
}

/// Removes damaged copies of any generation of this shard.
fn remove_copies_aside(core: &Core, shard: &Shard) -> std::io::Result<()> {
    let shards = core.root.join(SHARDS);
    let of_this_shard = format!("{}.", shard.id);
    for entry in fs::read_dir(&shards)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&of_this_shard) && name.contains(".aside-") {
            files::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn call<T>(core: &Core, call: impl FnOnce() -> T) -> T {
    core.watchdog.call(Caller::Committer, "rewriting a shard", call)
}
