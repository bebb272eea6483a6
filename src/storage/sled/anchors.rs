//! The anchors in memory, and writing them: the shards' first, then the directory's, so that the directory's never remembers
//! a shard's that a power cut could take back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::super::anchor::{DirectoryAnchor, ShardAnchor, ShardMark};
use super::super::{AnchorHead, AnchorSeal, Anchored, Location, Mark, StorageError};
use super::core::{Core, io_error, locked};
use super::database::{Failure, sections};
use super::files;
use super::lane::Lane;
use super::shards::{ANCHOR, SHARDS, generation_dir, remembered_counts};
use super::watchdog::{Caller, Watchdog};
use crate::ids::ShardId;

pub(super) const DIRECTORY: &str = "directory";
pub(super) const DIRECTORY_ANCHOR: &str = "directory.anchor";

pub(super) struct Anchors {
    state: Mutex<State>,
    /// Held by whoever writes anchor files or moves a shard to another generation.
    writing: Mutex<()>,
    /// No anchor file is written: the vault is only read.
    frozen: bool,
}

/// The right to write anchor files, held while a shard moves to another generation.
pub(super) struct Writing<'a>(#[allow(dead_code, reason = "held, not used")] MutexGuard<'a, ()>);

struct State {
    directory: DirectoryAnchor,
    head: AnchorHead,
    behind: bool,
    shards_behind: BTreeMap<u32, Arc<Lane>>,
}

impl Anchors {
    pub(super) fn new(directory: DirectoryAnchor, head: AnchorHead) -> Self {
        let state = State { directory, head, behind: false, shards_behind: BTreeMap::new() };
        Self { state: Mutex::new(state), writing: Mutex::new(()), frozen: false }
    }

    /// For a vault that is only read.
    pub(super) fn frozen(directory: DirectoryAnchor) -> Self {
        Self { frozen: true, ..Self::new(directory, AnchorHead { counter: 0, digest: [0; 32] }) }
    }

    /// How many trees each shard has.
    pub(super) fn remembered_counts(&self) -> Vec<usize> {
        remembered_counts(&locked(&self.state).directory.shards).collect()
    }

    /// What the anchor remembers of a bucket, moved forward by every commit.
    pub(super) fn bucket(&self, bucket: u16) -> Option<Anchored> {
        locked(&self.state).directory.marks.get(&bucket).copied()
    }

    pub(super) fn shard_mark(&self, shard: ShardId) -> ShardMark {
        locked(&self.state).directory.shards.get(shard.0 as usize).copied().unwrap_or_default()
    }

    /// A commit of the directory is durable.
    pub(super) fn note_bucket(&self, mark: Mark, next: Anchored) {
        if let Mark::Bucket(bucket) = mark {
            let mut state = locked(&self.state);
            state.directory.marks.insert(bucket, next);
            state.behind = true;
        }
    }

    /// A commit in this shard is durable.
    pub(super) fn note_shard(&self, lane: &Arc<Lane>) {
        if let Some(shard) = &lane.shard {
            locked(&self.state).shards_behind.entry(shard.id.0).or_insert_with(|| lane.clone());
        }
    }

    pub(super) fn note_generation(&self, shard: ShardId, generation: u32) {
        self.update_shard(shard, |mark| mark.generation = generation);
    }

    /// Keeps others from writing anchor files meanwhile. Whoever has the right makes calls that may hang, so the waiting ends
    /// when the vault is poisoned.
    pub(super) fn begin_writing(&self, watchdog: &Watchdog) -> Result<Writing<'_>, StorageError> {
        loop {
            match self.writing.try_lock() {
                Ok(guard) => return Ok(Writing(guard)),
                Err(TryLockError::Poisoned(error)) => return Ok(Writing(error.into_inner())),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(reason) = watchdog.poisoned() {
                return Err(StorageError::Poisoned(reason));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Writes what is behind. A failure poisons the vault.
    pub(super) fn write_all(&self, core: &Core) -> Result<AnchorHead, StorageError> {
        if self.frozen {
            return Ok(locked(&self.state).head);
        }
        self.write_shards(core)?;
        self.write_directory(core, &self.begin_writing(&core.watchdog)?)
    }

    /// Compares the buckets of one section of the directory's database, or those that are in none, as they were opened, with what its anchor
    /// remembers.
    pub(super) fn check_directory(&self, section: Option<u8>, found: &BTreeMap<u16, u64>) -> Result<(), StorageError> {
        if self.frozen {
            return Ok(());
        }
        let state = locked(&self.state);
        let (place, accounts) = (Location::Directory, Vec::new());
        for (bucket, mark) in
            state.directory.marks.iter().filter(|(bucket, _)| sections::of_mark(Mark::Bucket(**bucket)) == section)
        {
            match found.get(bucket) {
                None => {
                    let detail = format!("the mark of bucket {bucket} is missing");
                    return Err(StorageError::Corrupted { place, detail, accounts });
                }
                Some(sequence) if *sequence < mark.sequence => return Err(StorageError::RolledBack { place, accounts }),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Reads the directory's anchor back and compares it with what was written last.
    pub(super) fn check_directory_file(&self, core: &Core) -> Result<Vec<StorageError>, StorageError> {
        let _writing = self.begin_writing(&core.watchdog)?;
        let bytes = files::read_optional(&core.root.join(DIRECTORY_ANCHOR)).map_err(|error| io_error("read an anchor", error))?;
        let what = match bytes.ok_or("missing").and_then(|bytes| DirectoryAnchor::decode(&bytes, &*core.seal)) {
            Ok((_, head)) if head == locked(&self.state).head => return Ok(Vec::new()),
            Ok(_) => "not the one that was written last",
            Err(what) => what,
        };
        let detail = format!("{DIRECTORY_ANCHOR}: {what}; it is written anew with the next change");
        Ok(vec![StorageError::Corrupted { place: Location::Directory, detail, accounts: Vec::new() }])
    }

    /// The same for a shard's anchor.
    pub(super) fn check_shard_file(&self, core: &Core, shard: ShardId) -> Result<Vec<StorageError>, StorageError> {
        let _writing = self.begin_writing(&core.watchdog)?;
        let (mark, place) = (self.shard_mark(shard), Location::Shard(shard));
        if mark.counter == 0 {
            return Ok(Vec::new());
        }
        let bytes = files::read_optional(&generation_dir(&core.root, shard, mark.generation).join(ANCHOR));
        let bytes = bytes.map_err(|error| io_error("read an anchor", error))?;
        Ok(match bytes.ok_or("missing").and_then(|bytes| ShardAnchor::decode(&bytes, shard, &*core.seal)) {
            Ok(anchor) if anchor.counter >= mark.counter => Vec::new(),
            Ok(anchor) => vec![StorageError::RolledBack { place, accounts: anchor.accounts.into_keys().collect() }],
            Err(what) => {
                let detail = format!("{SHARDS}/{shard}.{}/{ANCHOR}: {what}", mark.generation);
                vec![StorageError::Corrupted { place, detail, accounts: Vec::new() }]
            }
        })
    }

    /// Forgets which shards are behind, and with it their lanes.
    pub(super) fn clear(&self) {
        let lanes = std::mem::take(&mut locked(&self.state).shards_behind);
        drop(lanes);
    }

    fn write_shards(&self, core: &Core) -> Result<(), StorageError> {
        let lanes = std::mem::take(&mut locked(&self.state).shards_behind);
        for lane in lanes.into_values() {
            let Some(shard) = &lane.shard else { continue };
            let writing = self.begin_writing(&core.watchdog)?;
            if let Some(anchor) = shard.take_behind() {
                self.write_shard(core, &anchor, &writing)?;
                shard.anchor_written();
            }
        }
        Ok(())
    }

    /// Writes a shard's anchor into the directory of its generation.
    fn write_shard(&self, core: &Core, anchor: &ShardAnchor, _: &Writing<'_>) -> Result<(), StorageError> {
        let path = generation_dir(&core.root, anchor.shard, anchor.generation).join(ANCHOR);
        let bytes = anchor.encode(&*core.seal);
        let written = core.watchdog.call(Caller::Keeper, "writing an anchor", || {
            core.options.faults.before_anchor();
            files::replace(&path, &bytes)
        });
        written.map_err(|error| core.poison(Location::Shard(anchor.shard), "writing the anchor of", &Failure::Io(error)))?;
        self.note_written(anchor);
        Ok(())
    }

    /// A shard's anchor is on disk.
    pub(super) fn note_written(&self, anchor: &ShardAnchor) {
        self.update_shard(anchor.shard, |mark| {
            mark.counter = anchor.counter;
            mark.generation = anchor.generation;
            mark.members = u16::try_from(anchor.accounts.len()).unwrap_or(u16::MAX);
        });
    }

    /// Writes the directory's anchor if it is behind.
    pub(super) fn write_directory(&self, core: &Core, _: &Writing<'_>) -> Result<AnchorHead, StorageError> {
        let (bytes, head) = {
            let mut state = locked(&self.state);
            if !std::mem::take(&mut state.behind) {
                return Ok(state.head);
            }
            state.directory.counter += 1;
            state.directory.encode(&*core.seal)
        };
        let path = core.root.join(DIRECTORY_ANCHOR);
        let written = core.watchdog.call(Caller::Keeper, "writing an anchor", || {
            core.options.faults.before_anchor();
            files::replace(&path, &bytes)
        });
        written.map_err(|error| core.poison(Location::Directory, "writing the anchor of", &Failure::Io(error)))?;
        locked(&self.state).head = head;
        Ok(head)
    }

    fn update_shard(&self, shard: ShardId, update: impl FnOnce(&mut ShardMark)) {
        let mut state = locked(&self.state);
        let shards = &mut state.directory.shards;
        if shards.len() <= shard.0 as usize {
            shards.resize(shard.0 as usize + 1, ShardMark::default());
        }
        update(&mut shards[shard.0 as usize]);
        state.behind = true;
    }
}

/// Reads the directory's anchor and nothing else, or says why it can't be read.
pub(super) fn read_directory_anchor_only(
    root: &Path,
    seal: &dyn AnchorSeal,
) -> Result<Result<(DirectoryAnchor, AnchorHead), String>, StorageError> {
    let bytes = files::read_optional(&root.join(DIRECTORY_ANCHOR)).map_err(|error| io_error("read an anchor", error))?;
    let read = bytes.ok_or("missing").and_then(|bytes| DirectoryAnchor::decode(&bytes, seal));
    Ok(read.map_err(|what| format!("{DIRECTORY_ANCHOR}: {what}")))
}

/// Reads the directory's anchor; makes the first one of a new vault.
pub(super) fn read_directory_anchor(root: &Path, seal: &dyn AnchorSeal) -> Result<(DirectoryAnchor, AnchorHead), StorageError> {
    let path = root.join(DIRECTORY_ANCHOR);
    let damaged = |what: &str| {
        let detail = format!("{DIRECTORY_ANCHOR}: {what}");
        StorageError::Corrupted { place: Location::Directory, detail, accounts: Vec::new() }
    };
    let databases = || [DIRECTORY, SHARDS].iter().any(|name| root.join(name).exists());
    match files::read_optional(&path).map_err(|error| io_error("read an anchor", error))? {
        Some(bytes) => {
            let (anchor, head) = DirectoryAnchor::decode(&bytes, seal).map_err(damaged)?;
            // sled would make an empty one.
            if !anchor.marks.is_empty() && !root.join(DIRECTORY).join("db").exists() {
                let detail = format!("{DIRECTORY}/db: missing");
                return Err(StorageError::Corrupted { place: Location::Directory, detail, accounts: Vec::new() });
            }
            Ok((anchor, head))
        }
        // It is made before the databases are, so these without one have lost it.
        None if databases() => Err(damaged("missing")),
        None => {
            let anchor = DirectoryAnchor { counter: 1, ..DirectoryAnchor::default() };
            let (bytes, head) = anchor.encode(seal);
            files::replace(&path, &bytes).map_err(|error| io_error("write an anchor", error))?;
            Ok((anchor, head))
        }
    }
}
