//! The engine over a [`ModelDisk`]: the same promises as the sled engine, without a thread and without time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::anchor::{DirectoryAnchor, ShardAnchor, ShardMark};
use super::super::{
    AnchorHead, AnchorSeal, Anchored, BoxFuture, Commit, Location, Mark, Place, Rebuilding, Row, Storage, StorageError,
    StorageStatus, Tree,
};
use super::disk::{Disk, Failure, Image, Kind, ModelDisk, ModelImage, ModelTree};
use crate::ids::{AccountHandle, ShardId};

/// A model disk, held by one vault.
pub(crate) struct ModelPlace {
    hold: Hold,
}

/// The lock on a disk, let go of when dropped.
struct Hold {
    disk: ModelDisk,
    holder: u64,
}

struct ModelStorage(Arc<Engine>);

struct ModelTreeHandle {
    engine: Arc<Engine>,
    name: ModelTree,
}

struct Engine {
    hold: Hold,
    seal: Arc<dyn AnchorSeal>,
    state: Mutex<State>,
}

struct State {
    closed: bool,
    poisoned: Option<String>,
    anchor: DirectoryAnchor,
    head: AnchorHead,
    behind: bool,
    /// The shards that passed their check, by number.
    shards: BTreeMap<ShardId, OpenShard>,
}

struct OpenShard {
    anchor: ShardAnchor,
    behind: bool,
}

impl ModelPlace {
    /// Takes the disk; `AlreadyOpen` when another vault has it.
    pub(crate) fn acquire(disk: &ModelDisk) -> Result<Self, StorageError> {
        let mut inner = disk.lock();
        if inner.holder.is_some() {
            return Err(StorageError::AlreadyOpen);
        }
        inner.holders += 1;
        let holder = inner.holders;
        inner.holder = Some(holder);
        drop(inner);
        Ok(Self { hold: Hold { disk: disk.clone(), holder } })
    }
}

impl Place for ModelPlace {
    fn header(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let mut disk = self.hold.disk.lock();
        self.hold.operate(Kind::Reads, &mut disk, |disk| match &disk.live.header {
            Some(header) => Ok(Some(header.clone())),
            None if disk.live.anchor.is_none() && disk.live.shards.is_empty() => Ok(None),
            None => Err(corrupted(Location::Header, "both copies are missing")),
        })
    }

    fn write_header(&self, header: &[u8]) -> Result<(), StorageError> {
        let mut disk = self.hold.disk.lock();
        self.hold.operate(Kind::Writes, &mut disk, |disk| {
            disk.change(|image| image.header = Some(header.to_vec()));
            Ok(())
        })
    }

    fn start(self: Box<Self>, seal: Arc<dyn AnchorSeal>) -> BoxFuture<'static, Result<Arc<dyn Storage>, StorageError>> {
        Box::pin(async move {
            let mut disk = self.hold.disk.lock();
            let (anchor, head) = self.hold.operate(Kind::Writes, &mut disk, |disk| start(disk, &*seal))?;
            drop(disk);
            let state = State { closed: false, poisoned: None, anchor, head, behind: false, shards: BTreeMap::new() };
            let engine = Engine { hold: self.hold, seal, state: Mutex::new(state) };
            Ok(Arc::new(ModelStorage(Arc::new(engine))) as Arc<dyn Storage>)
        })
    }

    fn rebuild(self: Box<Self>, seal: Arc<dyn AnchorSeal>) -> BoxFuture<'static, Result<Box<dyn Rebuilding>, StorageError>> {
        Box::pin(async move {
            let disk = self.hold.disk.lock();
            let read = disk.live.anchor.as_ref().ok_or("missing").and_then(|bytes| DirectoryAnchor::decode(bytes, &*seal));
            let (mut anchor, remembered) = match read {
                Ok((anchor, head)) => (anchor, Ok(head)),
                Err(what) => (DirectoryAnchor::default(), Err(format!("directory.anchor: {what}"))),
            };
            let known = disk.live.shards.keys().next_back().map_or(0, |last| last.0 as usize + 1);
            if anchor.shards.len() < known {
                anchor.shards.resize(known, ShardMark::default());
            }
            if remembered.is_err() {
                for (shard, image) in &disk.live.shards {
                    let own = image.anchor.as_ref().and_then(|bytes| ShardAnchor::decode(bytes, *shard, &*seal).ok());
                    anchor.shards[shard.0 as usize].counter = own.map_or(1, |own| own.counter.max(1));
                }
            }
            // A copy: what is there is only read, and whoever reads it may not write behind the back of the one who rebuilds.
            let copy = ModelDisk::new();
            copy.restore(&ModelImage(disk.live.clone()));
            drop(disk);
            let present = on_disk(&copy, anchor.clone(), &seal)?;
            let workshop = ModelDisk::new();
            let first = DirectoryAnchor { counter: 1, ..DirectoryAnchor::default() };
            let fresh = on_disk(&workshop, first, &seal)?;
            let hold = self.hold;
            Ok(Box::new(ModelRebuilding { hold, seal, present, fresh, workshop, anchor, remembered }) as Box<dyn Rebuilding>)
        })
    }
}

/// An engine whose directory is not compared with any anchor.
fn on_disk(disk: &ModelDisk, anchor: DirectoryAnchor, seal: &Arc<dyn AnchorSeal>) -> Result<Arc<dyn Storage>, StorageError> {
    let hold = ModelPlace::acquire(disk)?.hold;
    let head = AnchorHead { counter: anchor.counter, digest: [0; 32] };
    let state = State { closed: false, poisoned: None, anchor, head, behind: false, shards: BTreeMap::new() };
    Ok(Arc::new(ModelStorage(Arc::new(Engine { hold, seal: seal.clone(), state: Mutex::new(state) }))))
}

/// The directory of a disk that is made anew beside it, on a disk of its own.
struct ModelRebuilding {
    hold: Hold,
    seal: Arc<dyn AnchorSeal>,
    present: Arc<dyn Storage>,
    fresh: Arc<dyn Storage>,
    workshop: ModelDisk,
    anchor: DirectoryAnchor,
    remembered: Result<AnchorHead, String>,
}

impl Rebuilding for ModelRebuilding {
    fn present(&self) -> &Arc<dyn Storage> {
        &self.present
    }

    fn is_readable(&self) -> bool {
        true
    }

    fn remembered(&self) -> Result<AnchorHead, String> {
        self.remembered.clone()
    }

    fn fresh(&self) -> &Arc<dyn Storage> {
        &self.fresh
    }

    fn finish(self: Box<Self>, above: u64) -> BoxFuture<'static, Result<Option<String>, StorageError>> {
        Box::pin(async move {
            self.fresh.close().await?;
            let made = self.workshop.lock().live.clone();
            let (marks, directory) = match &made.anchor {
                Some(bytes) => DirectoryAnchor::decode(bytes, &*self.seal).map(|(anchor, _)| (anchor.marks, made.directory)),
                None => Err("missing"),
            }
            .map_err(|detail| corrupted(Location::Directory, detail))?;
            let counter = self.anchor.counter.max(above) + 1;
            let (bytes, _) = DirectoryAnchor { counter, marks, shards: self.anchor.shards }.encode(&*self.seal);
            let mut disk = self.hold.disk.lock();
            self.hold.operate(Kind::Writes, &mut disk, |disk| {
                disk.change(|image| (image.directory, image.anchor) = (directory.clone(), Some(bytes.clone())));
                Ok(None)
            })
        })
    }

    fn abandon(self: Box<Self>) -> BoxFuture<'static, Result<(), StorageError>> {
        Box::pin(async move { self.fresh.close().await })
    }
}

fn start(disk: &mut Disk, seal: &dyn AnchorSeal) -> Result<(DirectoryAnchor, AnchorHead), StorageError> {
    let (mut anchor, head) = match &disk.live.anchor {
        Some(bytes) => DirectoryAnchor::decode(bytes, seal)
            .map_err(|detail| corrupted(Location::Directory, &format!("directory.anchor: {detail}")))?,
        // The first start writes the anchor before anything else, so rows without one have lost it.
        None if !disk.live.directory.marks.is_empty() || !disk.live.shards.is_empty() => {
            return Err(corrupted(Location::Directory, "directory.anchor is missing"));
        }
        None => {
            let anchor = DirectoryAnchor { counter: 1, ..DirectoryAnchor::default() };
            let (bytes, head) = anchor.encode(seal);
            disk.change(|image| image.anchor = Some(bytes.clone()));
            (anchor, head)
        }
    };
    for (bucket, mark) in &anchor.marks {
        let found = disk.live.directory.marks.get(&Mark::Bucket(*bucket)).copied().unwrap_or(0);
        if found < mark.sequence {
            return Err(StorageError::RolledBack { place: Location::Directory, accounts: Vec::new() });
        }
    }
    // Shards that were made after the anchor was last written.
    let known = disk.live.shards.keys().next_back().map_or(0, |last| last.0 as usize + 1);
    if anchor.shards.len() < known {
        anchor.shards.resize(known, ShardMark::default());
    }
    Ok((anchor, head))
}

impl Storage for ModelStorage {
    fn directory(&self) -> Arc<dyn Tree> {
        Arc::new(ModelTreeHandle { engine: self.0.clone(), name: ModelTree::Directory })
    }

    fn create(&self, handle: AccountHandle, first: Commit) -> BoxFuture<'_, Result<ShardId, StorageError>> {
        Box::pin(async move {
            first.check_limits()?;
            self.0.operate(Kind::Writes, |engine, disk, state| {
                let shard = engine.shard_with_room(disk, state);
                disk.change(|image| {
                    image.shards.entry(shard).or_default();
                });
                if state.anchor.shards.len() <= shard.0 as usize {
                    state.anchor.shards.resize(shard.0 as usize + 1, ShardMark::default());
                }
                engine.open_shard(disk, state, shard)?;
                engine.commit(disk, state, ModelTree::Account(shard, handle), &first)?;
                Ok(shard)
            })
        })
    }

    /// A model's header and anchors are read from the image of the disk at each start, and lie nowhere else.
    fn check_files(&self, _: Location) -> BoxFuture<'_, Result<Vec<StorageError>, StorageError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn tree(&self, shard: ShardId, handle: AccountHandle) -> BoxFuture<'_, Result<Arc<dyn Tree>, StorageError>> {
        Box::pin(async move {
            self.0.operate(Kind::Reads, |engine, disk, state| {
                let anchored = engine.open_shard(disk, state, shard)?.anchor.accounts.get(&handle).copied();
                let name = ModelTree::Account(shard, handle);
                let found = disk.live.tree(name).and_then(|image| image.marks.get(&Mark::Account)).copied();
                match (found, anchored) {
                    (None, None) => Err(StorageError::NoTree),
                    (None, Some(_)) => {
                        let detail = "an account's rows are missing".into();
                        Err(StorageError::Corrupted { place: Location::Shard(shard), detail, accounts: vec![handle] })
                    }
                    (Some(found), Some(anchored)) if found < anchored.sequence => {
                        Err(StorageError::RolledBack { place: Location::Shard(shard), accounts: vec![handle] })
                    }
                    _ => Ok(Arc::new(ModelTreeHandle { engine: self.0.clone(), name }) as Arc<dyn Tree>),
                }
            })
        })
    }

    fn members(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<AccountHandle>, StorageError>> {
        Box::pin(async move {
            self.0.operate(Kind::Reads, |engine, disk, state| match engine.open_shard(disk, state, shard) {
                Ok(_) => {
                    let trees = disk.live.shards.get(&shard).into_iter().flat_map(|image| &image.trees);
                    Ok(trees.filter(|(_, tree)| !tree.marks.is_empty()).map(|(handle, _)| *handle).collect())
                }
                Err(error) => {
                    let bytes = disk.live.shards.get(&shard).and_then(|image| image.anchor.as_ref()).ok_or(error.clone())?;
                    let anchor = ShardAnchor::decode(bytes, shard, &*engine.seal).map_err(|_| error)?;
                    Ok(anchor.accounts.into_keys().collect())
                }
            })
        })
    }

    fn shards(&self) -> Vec<ShardId> {
        let count = u32::try_from(self.0.state().anchor.shards.len()).unwrap_or(u32::MAX);
        (0..count).map(ShardId).collect()
    }

    fn shred(&self, shard: ShardId, handles: Vec<AccountHandle>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            self.0.operate(Kind::Writes, |engine, disk, state| {
                let open = engine.open_shard(disk, state, shard)?;
                open.anchor.accounts.retain(|handle, _| !handles.contains(handle));
                open.anchor.generation += 1;
                open.behind = true;
                disk.change(|image| {
                    if let Some(image) = image.shards.get_mut(&shard) {
                        image.trees.retain(|handle, tree| !handles.contains(handle) && !tree.marks.is_empty());
                    }
                });
                engine.sync_anchors(disk, state);
                Ok(())
            })
        })
    }

    fn sync_anchors(&self) -> BoxFuture<'_, Result<AnchorHead, StorageError>> {
        Box::pin(async move { self.0.operate(Kind::Writes, |engine, disk, state| Ok(engine.sync_anchors(disk, state))) })
    }

    fn write_header(&self, header: Vec<u8>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            self.0.operate(Kind::Writes, |_, disk, _| {
                disk.change(|image| image.header = Some(header.clone()));
                Ok(())
            })
        })
    }

    fn status(&self) -> StorageStatus {
        let state = self.0.state();
        StorageStatus {
            engine: "model",
            shards: state.anchor.shards.len(),
            open_shards: state.shards.len(),
            accounts: state.anchor.shards.iter().map(|shard| u64::from(shard.members)).sum(),
            repaired: Vec::new(),
            poisoned: state.poisoned.clone(),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let result = self.0.operate(Kind::Writes, |engine, disk, state| {
                engine.sync_anchors(disk, state);
                Ok(())
            });
            self.0.state().closed = true;
            self.0.hold.let_go();
            match result {
                Err(StorageError::Closed) => Ok(()),
                other => other,
            }
        })
    }
}

impl Drop for ModelStorage {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let mut disk = self.0.hold.disk.lock();
        if !state.closed && state.poisoned.is_none() && disk.holder == Some(self.0.hold.holder) {
            self.0.sync_anchors(&mut disk, &mut state);
        }
        state.closed = true;
        drop(disk);
        self.0.hold.let_go();
    }
}

impl Tree for ModelTreeHandle {
    fn load<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Vec<u8>>, StorageError>> {
        Box::pin(async move {
            self.engine.operate(Kind::Reads, |_, disk, _| {
                Ok(disk.live.tree(self.name).ok_or(StorageError::NoTree)?.rows.get(key).cloned())
            })
        })
    }

    fn scan<'a>(&'a self, start: &'a [u8], end: &'a [u8], limit: usize) -> BoxFuture<'a, Result<Vec<Row>, StorageError>> {
        Box::pin(async move {
            self.engine.operate(Kind::Reads, |_, disk, _| {
                Ok(disk.live.tree(self.name).ok_or(StorageError::NoTree)?.range(start, end, limit))
            })
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            commit.check_limits()?;
            self.engine.operate(Kind::Writes, |engine, disk, state| {
                disk.live.tree(self.name).ok_or(StorageError::NoTree)?;
                engine.commit(disk, state, self.name, &commit)
            })
        })
    }

    fn anchored(&self, mark: Mark) -> Option<Anchored> {
        let state = self.engine.state();
        match (self.name, mark) {
            (ModelTree::Directory, Mark::Bucket(bucket)) => state.anchor.marks.get(&bucket).copied(),
            (ModelTree::Account(shard, handle), Mark::Account) => state.shards.get(&shard)?.anchor.accounts.get(&handle).copied(),
            _ => None,
        }
    }
}

impl Engine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operate<T>(
        &self,
        kind: Kind,
        work: impl FnOnce(&Self, &mut Disk, &mut State) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut state = self.state();
        if state.closed {
            return Err(StorageError::Closed);
        }
        if let (Kind::Writes, Some(reason)) = (kind, &state.poisoned) {
            return Err(StorageError::Poisoned(reason.clone()));
        }
        let mut disk = self.hold.disk.lock();
        let result = self.hold.operate(kind, &mut disk, |disk| work(self, disk, &mut state));
        if let (Kind::Writes, Err(error @ StorageError::Io { .. })) = (kind, &result) {
            state.poisoned = Some(error.to_string());
        }
        result
    }

    fn commit(&self, disk: &mut Disk, state: &mut State, name: ModelTree, commit: &Commit) -> Result<(), StorageError> {
        for step in &commit.marks {
            let found = disk.live.tree(name).and_then(|image| image.marks.get(&step.mark)).copied().unwrap_or(0);
            if found != step.expected {
                return Err(StorageError::Conflict { expected: step.expected, found });
            }
        }
        disk.change(|image| {
            let tree = image.tree_or_new(name);
            for key in &commit.removes {
                tree.rows.remove(key);
            }
            tree.rows.extend(commit.puts.iter().chain(&commit.passing).cloned());
            tree.marks.extend(commit.marks.iter().map(|step| (step.mark, step.next.sequence)));
        });
        for step in &commit.marks {
            match (name, step.mark) {
                (ModelTree::Directory, Mark::Bucket(bucket)) => {
                    state.anchor.marks.insert(bucket, step.next);
                    state.behind = true;
                }
                (ModelTree::Account(shard, handle), Mark::Account) => {
                    let open = self.open_shard(disk, state, shard)?;
                    open.anchor.accounts.insert(handle, step.next);
                    open.behind = true;
                    let members = u16::try_from(open.anchor.accounts.len()).unwrap_or(u16::MAX);
                    state.anchor.shards[shard.0 as usize].members = members;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks a shard against what the anchors remember, the first time that it is used.
    fn open_shard<'s>(&self, disk: &Disk, state: &'s mut State, shard: ShardId) -> Result<&'s mut OpenShard, StorageError> {
        let remembered = *state.anchor.shards.get(shard.0 as usize).ok_or(StorageError::NoTree)?;
        match state.shards.entry(shard) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let anchor = self.check_shard(&disk.live, shard, remembered)?;
                Ok(entry.insert(OpenShard { anchor, behind: false }))
            }
        }
    }

    fn check_shard(&self, image: &Image, shard: ShardId, remembered: ShardMark) -> Result<ShardAnchor, StorageError> {
        let place = Location::Shard(shard);
        let Some(found) = image.shards.get(&shard) else {
            return Err(corrupted(place, "it is missing"));
        };
        let anchor = match &found.anchor {
            Some(bytes) => ShardAnchor::decode(bytes, shard, &*self.seal)
                .map_err(|detail| corrupted(place, &format!("its anchor: {detail}")))?,
            None if remembered.counter > 0 => return Err(corrupted(place, "its anchor is missing")),
            None => ShardAnchor::empty(shard, 0),
        };
        if anchor.counter < remembered.counter {
            return Err(StorageError::RolledBack { place, accounts: anchor.accounts.into_keys().collect() });
        }
        let lost: Vec<_> = anchor.accounts.keys().filter(|handle| !found.trees.contains_key(handle)).copied().collect();
        if !lost.is_empty() {
            return Err(StorageError::Corrupted { place, detail: "account trees are missing".into(), accounts: lost });
        }
        Ok(anchor)
    }

    /// A shard that has room and passes its check; the next number when there is none.
    fn shard_with_room(&self, disk: &Disk, state: &mut State) -> ShardId {
        for number in (0..state.anchor.shards.len()).rev() {
            let shard = ShardId(u32::try_from(number).unwrap_or(u32::MAX));
            let trees = disk.live.shards.get(&shard).map_or(0, |image| image.trees.len());
            if trees < disk.trees_per_shard() && self.open_shard(disk, state, shard).is_ok() {
                return shard;
            }
        }
        ShardId(u32::try_from(state.anchor.shards.len()).unwrap_or(u32::MAX))
    }

    /// Writes the anchors that are behind: the shards' first, so that the directory's never remembers one that was not written.
    fn sync_anchors(&self, disk: &mut Disk, state: &mut State) -> AnchorHead {
        for (shard, open) in &mut state.shards {
            if !std::mem::take(&mut open.behind) {
                continue;
            }
            open.anchor.counter += 1;
            let bytes = open.anchor.encode(&*self.seal);
            disk.change(|image| {
                if let Some(image) = image.shards.get_mut(shard) {
                    image.anchor = Some(bytes.clone());
                }
            });
            state.anchor.shards[shard.0 as usize] = ShardMark {
                counter: open.anchor.counter,
                members: u16::try_from(open.anchor.accounts.len()).unwrap_or(u16::MAX),
                generation: open.anchor.generation,
            };
            state.behind = true;
        }
        if std::mem::take(&mut state.behind) {
            state.anchor.counter += 1;
            let (bytes, head) = state.anchor.encode(&*self.seal);
            disk.change(|image| image.anchor = Some(bytes.clone()));
            state.head = head;
        }
        state.head
    }
}

impl Disk {
    fn change(&mut self, mut change: impl FnMut(&mut Image)) {
        change(&mut self.live);
        change(&mut self.durable);
    }
}

impl Hold {
    fn operate<T>(
        &self,
        kind: Kind,
        disk: &mut Disk,
        work: impl FnOnce(&mut Disk) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if disk.holder != Some(self.holder) {
            return Err(StorageError::Closed);
        }
        match disk.count_operation(kind) {
            None => work(disk),
            Some(failure) => {
                if failure == Failure::InDoubt {
                    work(disk)?;
                }
                let source = Arc::new(io::Error::other("a failure that a test asked for"));
                Err(StorageError::Io { doing: "use the model disk", source })
            }
        }
    }

    fn let_go(&self) {
        let mut disk = self.disk.lock();
        if disk.holder == Some(self.holder) {
            disk.holder = None;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn corrupted(place: Location, detail: &str) -> StorageError {
    StorageError::Corrupted { place, detail: detail.to_owned(), accounts: Vec::new() }
}
