//! Making the directory's database anew. What is there is only read until the new one is complete; then, each step after the one
//! before and each of which a crash may be the last of: (0) the new database is durable in `directory.rebuilding/`; (1) it is renamed
//! to `directory.rebuilt`; (2) the old one is renamed to `directory.aside-N`; (3) the new one is renamed to `directory`; (4) its anchor
//! is written.
//!
//! A crash before (2) leaves the old directory. One after (2) leaves none, which keeps the vault from opening until rebuilding is
//! called again; it goes on with what is named `directory.rebuilt`. After (3) the new one counts: its buckets go on from the
//! sequences that the anchor remembers, so that the anchor is behind it as after any crash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::anchor::{DirectoryAnchor, ShardAnchor, ShardMark};
use super::super::{AnchorHead, AnchorSeal, BoxFuture, MAX_TREES_PER_SHARD, Rebuilding, Storage, StorageError};
use super::SledOptions;
use super::anchors::{self, Anchors, DIRECTORY, DIRECTORY_ANCHOR};
use super::commit_log;
use super::core::{Core, io_error};
use super::engine::SledStorage;
use super::files;
use super::keeper::Keeper;
use super::lane::Lane;
use super::place::Lock;
use super::shards::{self, ANCHOR, Room, SHARDS, generation_dir};
use crate::ids::ShardId;

/// A place of its own beside the directory, so that nothing that is done there touches what is there now.
const WORKSHOP: &str = "directory.rebuilding";
const REBUILT: &str = "directory.rebuilt";

pub(super) struct SledRebuilding {
    root: PathBuf,
    options: SledOptions,
    seal: Arc<dyn AnchorSeal>,
    present: Arc<dyn Storage>,
    fresh: Arc<dyn Storage>,
    anchor: DirectoryAnchor,
    remembered: Result<AnchorHead, String>,
    lock: Lock,
}

pub(super) async fn begin(
    root: PathBuf,
    mut options: SledOptions,
    seal: Arc<dyn AnchorSeal>,
    lock: Lock,
) -> Result<Box<dyn Rebuilding>, StorageError> {
    let starting = |error| io_error("begin to rebuild the directory", error);
    options.trees_per_shard = options.trees_per_shard.clamp(1, MAX_TREES_PER_SHARD);
    take_up_what_was_interrupted(&root).map_err(starting)?;
    let (anchor, remembered) = match anchors::read_directory_anchor_only(&root, &*seal)? {
        Ok((mut anchor, head)) => {
            shards::find_unanchored(&root, &mut anchor.shards);
            (anchor, Ok(head))
        }
        Err(what) => (look_at_shards(&root, &*seal).map_err(starting)?, Err(what)),
    };
    let readable = root.join(DIRECTORY).join("db").exists();
    let present = start(root.clone(), options.clone(), &seal, Anchors::frozen(anchor.clone()), readable).await?;
    let fresh = match open_workshop(&root, &options, &seal).await {
        Ok(fresh) => fresh,
        Err(error) => {
            // What closing says is less than the error.
            let _ = present.close().await;
            return Err(error);
        }
    };
    Ok(Box::new(SledRebuilding { root, options, seal, present, fresh, anchor, remembered, lock }))
}

impl Rebuilding for SledRebuilding {
    fn present(&self) -> &Arc<dyn Storage> {
        &self.present
    }

    fn is_readable(&self) -> bool {
        // sled would make an empty one.
        self.root.join(DIRECTORY).join("db").exists()
    }

    fn remembered(&self) -> Result<AnchorHead, String> {
        self.remembered.clone()
    }

    fn fresh(&self) -> &Arc<dyn Storage> {
        &self.fresh
    }

    fn finish(self: Box<Self>, above: u64) -> BoxFuture<'static, Result<Option<String>, StorageError>> {
        Box::pin(async move {
            self.close().await?;
            let moved = self.switch(above);
            drop(self.lock);
            moved
        })
    }

    fn abandon(self: Box<Self>) -> BoxFuture<'static, Result<(), StorageError>> {
        Box::pin(async move {
            self.close().await?;
            files::remove_tree(&self.root.join(WORKSHOP)).map_err(|error| io_error("remove what was rebuilt", error))?;
            drop(self.lock);
            Ok(())
        })
    }
}

impl SledRebuilding {
    async fn close(&self) -> Result<(), StorageError> {
        let closed = self.fresh.close().await;
        closed.and(self.present.close().await)
    }

    fn switch(&self, above: u64) -> Result<Option<String>, StorageError> {
        let moving = |error| io_error("put the rebuilt directory in its place", error);
        let stop = |step| self.options.faults.after_rebuilding_step(step).map_err(moving);
        let (root, workshop) = (&self.root, self.root.join(WORKSHOP));
        let (made, _) = anchors::read_directory_anchor(&workshop, &*self.seal)?;
        files::sync_tree(&workshop).map_err(moving)?;
        stop(0)?;
        rename(root, &workshop.join(DIRECTORY), &root.join(REBUILT)).map_err(moving)?;
        stop(1)?;
        let directory = root.join(DIRECTORY);
        let aside = directory.exists().then(|| free_aside(&directory));
        commit_log::forget_directory(root, &directory, &*self.seal).map_err(moving)?;
        if let Some(aside) = &aside {
            rename(root, &directory, aside).map_err(moving)?;
        }
        stop(2)?;
        rename(root, &root.join(REBUILT), &directory).map_err(moving)?;
        stop(3)?;
        let counter = self.anchor.counter.max(above) + 1;
        let anchor = DirectoryAnchor { counter, marks: made.marks, shards: self.anchor.shards.clone() };
        files::replace(&root.join(DIRECTORY_ANCHOR), &anchor.encode(&*self.seal).0).map_err(moving)?;
        files::remove_tree(&workshop).map_err(moving)?;
        Ok(aside.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())))
    }
}

fn take_up_what_was_interrupted(root: &Path) -> std::io::Result<()> {
    files::remove_tree(&root.join(WORKSHOP))?;
    let rebuilt = root.join(REBUILT);
    if rebuilt.exists() && !root.join(DIRECTORY).exists() {
        return rename(root, &rebuilt, &root.join(DIRECTORY));
    }
    files::remove_tree(&rebuilt).map(drop)
}

fn rename(root: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(from, to)?;
    files::sync_dir(root)
}

/// Beyond the number of copies that opening makes by itself: this one is the only one of what it holds.
fn free_aside(directory: &Path) -> PathBuf {
    let mut number = 1_u32;
    loop {
        let path = files::with_suffix(directory, &format!(".aside-{number}"));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}

/// An engine whose directory is not compared with any anchor.
async fn start(
    root: PathBuf,
    options: SledOptions,
    seal: &Arc<dyn AnchorSeal>,
    anchors: Anchors,
    readable: bool,
) -> Result<Arc<dyn Storage>, StorageError> {
    let room = Room::new(anchors.remembered_counts().into_iter(), options.trees_per_shard);
    let core = Arc::new(Core::new(root, options, seal.clone(), anchors, room)?);
    let lane = Lane::new(core.clone(), None);
    Keeper::start(core.clone(), lane.clone(), None).map_err(|error| io_error("start the storage engine", error))?;
    let storage = SledStorage::new(core, lane);
    if let Err(error) = storage.catch_up(readable).await {
        // What closing says is less than the error.
        let _ = storage.close().await;
        return Err(error);
    }
    Ok(Arc::new(storage))
}

async fn open_workshop(root: &Path, options: &SledOptions, seal: &Arc<dyn AnchorSeal>) -> Result<Arc<dyn Storage>, StorageError> {
    let starting = |error| io_error("begin to rebuild the directory", error);
    let workshop = root.join(WORKSHOP);
    files::create_private_dir(&workshop).map_err(starting)?;
    let (anchor, head) = anchors::read_directory_anchor(&workshop, &**seal)?;
    start(workshop, options.clone(), seal, Anchors::new(anchor, head), true).await
}

/// What the shards' own anchors say, for an anchor of the directory that is lost: of each shard the newest generation that an anchor
/// vouches for. That it is the newest that there was, nothing says any more.
fn look_at_shards(root: &Path, seal: &dyn AnchorSeal) -> std::io::Result<DirectoryAnchor> {
    let mut found: Vec<(ShardId, u32)> = Vec::new();
    if root.join(SHARDS).exists() {
        for entry in std::fs::read_dir(root.join(SHARDS))? {
            let name = entry?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('.'));
            if let Some((Ok(shard), Ok(generation))) = parts.map(|(shard, generation)| (shard.parse(), generation.parse())) {
                found.push((ShardId(shard), generation));
            }
        }
    }
    let mut shards = Vec::new();
    for (shard, generation) in found {
        let number = shard.0 as usize;
        if shards.len() <= number {
            // A shard of which nothing is left is missing, not new.
            shards.resize(number + 1, ShardMark { counter: 1, members: 0, generation: 0 });
        }
        let bytes = files::read_optional(&generation_dir(root, shard, generation).join(ANCHOR))?;
        let anchor = bytes.and_then(|bytes| ShardAnchor::decode(&bytes, shard, seal).ok());
        let mark: &mut ShardMark = &mut shards[number];
        match anchor.filter(|anchor| anchor.generation == generation) {
            Some(anchor) if mark.members == 0 || generation >= mark.generation => {
                let members = u16::try_from(anchor.accounts.len()).unwrap_or(u16::MAX);
                *mark = ShardMark { counter: anchor.counter.max(1), members, generation };
            }
            None if mark.members == 0 => mark.generation = mark.generation.max(generation),
            _ => {}
        }
    }
    Ok(DirectoryAnchor { counter: 0, marks: std::collections::BTreeMap::new(), shards })
}
