//! Shards on disk: which generation of a shard counts, what is checked when one opens, and where there is room for a new
//! account.
//!
//! A shard is the directory `shards/NNNN.G`: its number, and its generation, which grows by one with each rewriting. A
//! rewriting makes `NNNN.(G+1).new`, renames it when it is complete, and removes `NNNN.G`. So at opening `.new` is a leftover,
//! and of two complete generations the older one is.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use super::super::anchor::{ShardAnchor, ShardMark};
use super::super::{Anchored, Location, StorageError};
use super::core::{Core, failed, io_error, locked};
use super::database::{Database, Failure};
use super::directory;
use super::files;
use super::frames::Logged;
use crate::ids::{AccountHandle, ShardId};

pub(super) const SHARDS: &str = "shards";
pub(super) const ANCHOR: &str = "anchor";

/// How far beyond the last shard that the anchor knows others may exist after a crash: as many new shards as jobs can wait.
const UNANCHORED_SHARDS: usize = 64;

/// What is known of one shard in memory.
pub(super) struct Shard {
    pub(super) id: ShardId,
    state: Mutex<State>,
}

/// What the anchor remembers of one account, shared with the handles of its tree.
pub(super) type AnchoredCell = Mutex<Option<Anchored>>;

#[derive(Default)]
struct State {
    /// Kept while the shard is open, and until what it remembers is written.
    anchor: Option<ShardAnchor>,
    open: bool,
    behind: bool,
    /// Its file is just being written: until that has ended, what is on disk is older.
    writing: bool,
    cells: HashMap<AccountHandle, Weak<AnchoredCell>>,
}

/// How many trees each shard has or is about to get.
pub(super) struct Room {
    counts: Vec<usize>,
    limit: usize,
    /// The shard that gets the next account. One is filled before the next, so that new accounts share its commits.
    current: Option<u32>,
    with_room: BTreeSet<u32>,
}

impl Shard {
    pub(super) fn new(id: ShardId) -> Self {
        Self { id, state: Mutex::default() }
    }

    /// The cell of an account's tree. Only while the shard is open.
    pub(super) fn cell(&self, account: AccountHandle) -> Arc<AnchoredCell> {
        let mut state = locked(&self.state);
        if let Some(cell) = state.cells.get(&account).and_then(Weak::upgrade) {
            return cell;
        }
        state.cells.retain(|_, cell| cell.strong_count() > 0);
        let anchored = state.anchor.as_ref().and_then(|anchor| anchor.accounts.get(&account).copied());
        let cell = Arc::new(Mutex::new(anchored));
        state.cells.insert(account, Arc::downgrade(&cell));
        cell
    }

    /// A commit of this account is durable.
    pub(super) fn note_durable(&self, account: AccountHandle, mark: Anchored) {
        let mut state = locked(&self.state);
        state.behind = true;
        if let Some(anchor) = &mut state.anchor {
            anchor.accounts.insert(account, mark);
        }
        if let Some(cell) = state.cells.get(&account).and_then(Weak::upgrade) {
            *locked(&cell) = Some(mark);
        }
    }

    /// The accounts that the anchor in memory knows.
    pub(super) fn accounts(&self) -> Vec<AccountHandle> {
        let state = locked(&self.state);
        state.anchor.iter().flat_map(|anchor| anchor.accounts.keys().copied()).collect()
    }

    /// The anchor to write next, if it is behind. Whoever asks writes it.
    pub(super) fn take_behind(&self) -> Option<ShardAnchor> {
        let mut state = locked(&self.state);
        if !std::mem::take(&mut state.behind) {
            return None;
        }
        let anchor = state.anchor.as_mut()?;
        anchor.counter += 1;
        let anchor = anchor.clone();
        state.writing = true;
        Some(anchor)
    }

    /// The anchor was written; it is dropped from memory when nothing needs it.
    pub(super) fn anchor_written(&self) {
        let mut state = locked(&self.state);
        state.writing = false;
        state.forget_anchor();
    }

    /// Continues with a rewritten shard's anchor.
    pub(super) fn replace_anchor(&self, anchor: ShardAnchor) {
        let mut state = locked(&self.state);
        state.cells.retain(|account, _| anchor.accounts.contains_key(account));
        state.anchor = Some(anchor);
        state.behind = false;
    }

    pub(super) fn anchor(&self) -> Option<ShardAnchor> {
        locked(&self.state).anchor.clone()
    }

    pub(super) fn closed(&self) {
        let mut state = locked(&self.state);
        state.open = false;
        state.forget_anchor();
    }
}

impl State {
    /// Drops the anchor if the file has it and the shard is closed. Whoever opens the shard reads it from there.
    fn forget_anchor(&mut self) {
        if !self.open && !self.behind && !self.writing {
            self.anchor = None;
        }
    }
}

impl Room {
    pub(super) fn new(counts: impl Iterator<Item = usize>, limit: usize) -> Self {
        let counts: Vec<_> = counts.collect();
        let with_room = (0..).zip(&counts).filter(|(_, count)| **count < limit).map(|(id, _)| id).collect();
        Self { counts, limit, current: None, with_room }
    }

    /// Takes a place for one tree.
    pub(super) fn take(&mut self) -> ShardId {
        let full = |id: &u32| self.counts[*id as usize] >= self.limit;
        let id = match self.current.filter(|id| !full(id)).or_else(|| self.with_room.last().copied()) {
            Some(id) => id,
            None => {
                self.counts.push(0);
                // Shard numbers are 32-bit: half a trillion accounts.
                let id = u32::try_from(self.counts.len() - 1).unwrap_or(u32::MAX);
                self.with_room.insert(id);
                id
            }
        };
        self.current = Some(id);
        self.set(ShardId(id), self.counts[id as usize] + 1);
        ShardId(id)
    }

    /// Gives a place back: the tree was not made.
    pub(super) fn give_back(&mut self, shard: ShardId) {
        let count = self.count(shard).saturating_sub(1);
        self.set(shard, count);
    }

    /// A shard that can't take another tree, or can't be used.
    pub(super) fn set_full(&mut self, shard: ShardId) {
        self.set(shard, self.limit);
    }

    pub(super) fn set(&mut self, shard: ShardId, count: usize) {
        if let Some(known) = self.counts.get_mut(shard.0 as usize) {
            *known = count;
            if count < self.limit {
                self.with_room.insert(shard.0);
            } else {
                self.with_room.remove(&shard.0);
            }
        }
    }

    pub(super) fn count(&self, shard: ShardId) -> usize {
        self.counts.get(shard.0 as usize).copied().unwrap_or(0)
    }

    pub(super) fn shards(&self) -> u32 {
        u32::try_from(self.counts.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn accounts(&self) -> u64 {
        self.counts.iter().map(|count| *count as u64).sum()
    }
}

/// Finds shards that were made after the directory's anchor was last written.
pub(super) fn find_unanchored(root: &Path, shards: &mut Vec<ShardMark>) {
    let known = shards.len();
    let exists = |number: &usize| u32::try_from(*number).is_ok_and(|number| generation_dir(root, ShardId(number), 0).exists());
    if let Some(last) = (known..known + UNANCHORED_SHARDS).rfind(exists) {
        shards.resize(last + 1, ShardMark::default());
    }
}

pub(super) fn generation_dir(root: &Path, shard: ShardId, generation: u32) -> PathBuf {
    root.join(SHARDS).join(format!("{shard}.{generation}"))
}

/// Applies what a crash left of a database in the commit log, durably.
pub(super) fn catch_up(core: &Core, database: &Database, shard: Option<ShardId>, generation: u32) -> Result<(), Failure> {
    let left = core.log.take_left(shard);
    if left.is_empty() {
        return Ok(());
    }
    let caught_up = left.iter().try_for_each(|logged| {
        if shard.is_none() {
            directory::open_sections_for(core, database, &logged.commit)?;
        }
        // What was written to another generation of the shard was in it before the shard was rewritten.
        if logged.target.generation != generation {
            return Ok(());
        }
        if is_behind(database, logged)? {
            database.apply(&logged.tree, logged.commit.clone(), 0);
        } else if database.has_tree(&logged.tree) {
            database.apply_passing(&logged.tree, &logged.commit, 0);
        }
        Ok(())
    });
    let settled = caught_up.and_then(|()| database.settle(false, &core.watchdog, &|| Ok(())));
    settled.inspect_err(|_| core.log.put_back(shard, left))
}

/// Whether a commit has to be applied: the database does not have a later one. Also when it is the last one that the database has,
/// perhaps by half.
pub(super) fn is_behind(database: &Database, logged: &Logged) -> Result<bool, Failure> {
    if !logged.create && !database.has_tree(&logged.tree) {
        // What is missing is more than this commit, and told by whoever looks for the tree.
        return Ok(false);
    }
    for step in &logged.commit.marks {
        if database.mark(&logged.tree, step.mark)?.is_none_or(|mark| mark.sequence <= step.next.sequence) {
            return Ok(true);
        }
    }
    Ok(logged.commit.marks.is_empty())
}

/// Opens a shard and checks it against what the anchors remember. Only in its lane's turn.
pub(super) fn open(core: &Core, shard: &Shard) -> Result<Database, StorageError> {
    let place = Location::Shard(shard.id);
    let remembered = core.anchors.shard_mark(shard.id);
    let (generation, dir) = resolve_generation(core, shard.id, remembered)?;
    let anchor = match shard.anchor() {
        // Not written yet when the shard was closed, so what is in memory is newer than the file.
        Some(anchor) => anchor,
        None => read_anchor(core, shard.id, generation, &dir, remembered)?,
    };
    let accounts = || anchor.accounts.keys().copied().collect();
    // sled would make an empty one.
    if !anchor.accounts.is_empty() && !dir.join("db").exists() {
        let detail = format!("{SHARDS}/{}.{generation}/db: missing", shard.id);
        return Err(StorageError::Corrupted { place, detail, accounts: accounts() });
    }
    let opened = Database::open(&dir, core.options.shard_cache_bytes, &core.watchdog);
    let (database, repaired) = opened.map_err(|failure| match failed(place, "open a database", failure) {
        StorageError::Corrupted { place, detail, .. } => StorageError::Corrupted { place, detail, accounts: accounts() },
        other => other,
    })?;
    if let Some(detail) = repaired {
        core.note_repaired(place, &detail);
    }
    catch_up(core, &database, Some(shard.id), generation).map_err(|failure| failed(place, "open a database", failure))?;
    let lost: Vec<_> = anchor.accounts.keys().filter(|account| !database.has_tree(account.as_bytes())).copied().collect();
    if !lost.is_empty() {
        return Err(StorageError::Corrupted { place, detail: "account trees are missing".into(), accounts: lost });
    }
    let mut room = locked(&core.room);
    let count = room.count(shard.id).max(database.tree_count());
    room.set(shard.id, count);
    drop(room);
    let mut state = locked(&shard.state);
    state.anchor = Some(anchor);
    state.open = true;
    Ok(database)
}

/// The accounts that a shard's anchor file knows, for a shard that can't be read.
pub(super) fn anchored_accounts(core: &Core, shard: &Shard) -> Option<Vec<AccountHandle>> {
    let remembered = core.anchors.shard_mark(shard.id);
    let dir = generation_dir(&core.root, shard.id, remembered.generation);
    let bytes = files::read_optional(&dir.join(ANCHOR)).ok()??;
    let anchor = ShardAnchor::decode(&bytes, shard.id, &*core.seal).ok()?;
    Some(anchor.accounts.into_keys().collect())
}

/// Which generation counts; removes what a crash during a rewriting left behind. The directory's anchor is written in every
/// rewriting, between renaming the new generation and removing the old one, so the disk has the generation that the anchor
/// remembers or the next one, and perhaps the one before that.
fn resolve_generation(core: &Core, shard: ShardId, remembered: ShardMark) -> Result<(u32, PathBuf), StorageError> {
    let place = Location::Shard(shard);
    let opening = |error: io::Error| io_error("open a shard", error);
    let current = generation_dir(&core.root, shard, remembered.generation);
    let next = generation_dir(&core.root, shard, remembered.generation + 1);
    for dir in [&current, &next] {
        files::remove_tree(&files::with_suffix(dir, ".new")).map_err(opening)?;
    }
    let previous = remembered.generation.checked_sub(1).map(|generation| generation_dir(&core.root, shard, generation));
    if next.exists() {
        files::remove_tree(&current).map_err(opening)?;
        core.anchors.note_generation(shard, remembered.generation + 1);
        return Ok((remembered.generation + 1, next));
    }
    if let Some(previous) = previous.filter(|_| current.exists()) {
        files::remove_tree(&previous).map_err(opening)?;
    }
    if !current.exists() && remembered != ShardMark::default() {
        let older = (0..remembered.generation).rev().find(|generation| generation_dir(&core.root, shard, *generation).exists());
        return Err(match older {
            Some(_) => StorageError::RolledBack { place, accounts: Vec::new() },
            None => StorageError::Corrupted { place, detail: "its files are missing".into(), accounts: Vec::new() },
        });
    }
    Ok((remembered.generation, current))
}

fn read_anchor(
    core: &Core,
    shard: ShardId,
    generation: u32,
    dir: &Path,
    remembered: ShardMark,
) -> Result<ShardAnchor, StorageError> {
    let place = Location::Shard(shard);
    let path = dir.join(ANCHOR);
    let damaged = |what: &str| {
        let detail = format!("{SHARDS}/{shard}.{generation}/{ANCHOR}: {what}");
        StorageError::Corrupted { place, detail, accounts: Vec::new() }
    };
    let anchor = match files::read_optional(&path).map_err(|error| io_error("read an anchor", error))? {
        Some(bytes) => ShardAnchor::decode(&bytes, shard, &*core.seal).map_err(damaged)?,
        // A crash right after the shard was made leaves no anchor, and nothing that remembers one.
        None if remembered.counter == 0 => ShardAnchor::empty(shard, generation),
        None => return Err(damaged("missing")),
    };
    if anchor.generation != generation {
        return Err(damaged("of another generation"));
    }
    if anchor.counter < remembered.counter {
        return Err(StorageError::RolledBack { place, accounts: anchor.accounts.into_keys().collect() });
    }
    let _ = fs::remove_file(files::with_suffix(&path, ".new"));
    Ok(anchor)
}

/// The shards' counts as the directory's anchor remembers them.
pub(super) fn remembered_counts(shards: &[ShardMark]) -> impl Iterator<Item = usize> {
    shards.iter().map(|mark| usize::from(mark.members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_shard_keeps_its_anchor_until_the_file_has_it() {
        let shard = Shard::new(ShardId(0));
        let anchor = ShardAnchor::empty(ShardId(0), 0);
        *locked(&shard.state) = State { anchor: Some(anchor), open: true, ..State::default() };
        shard.note_durable(AccountHandle::from_bytes([1; 16]), Anchored { sequence: 3, digest: [0; 32] });
        let taken = shard.take_behind().unwrap();
        // Opened again now, it would read the older file, and remove the new one that is just being written.
        shard.closed();
        assert_eq!(shard.anchor(), Some(taken));
        shard.anchor_written();
        assert_eq!(shard.anchor(), None);
    }

    #[test]
    fn one_shard_is_filled_before_the_next() {
        let mut room = Room::new([128, 126].into_iter(), 128);
        let taken: Vec<_> = (0..4).map(|_| room.take().0).collect();
        assert_eq!(taken, [1, 1, 2, 2]);
        room.give_back(ShardId(1));
        assert_eq!(room.take().0, 2, "the current shard stays the current one");
        room.set_full(ShardId(2));
        assert_eq!(room.take().0, 1);
        assert_eq!(room.take().0, 3);
        assert_eq!(room.shards(), 4);
    }
}
