//! One suite for all engines: what the layers above rely on.

use std::sync::Arc;

use futures_lite::future::block_on;

use super::model::{ModelDisk, ModelPlace};
use super::sled::{SledOptions, SledPlace};
use super::*;

/// A seal without a key, for tests.
pub(super) struct TestSeal;

impl AnchorSeal for TestSeal {
    fn mac(&self, file: &[u8], content: &[u8]) -> [u8; 32] {
        let mut mac = [0; 32];
        for (salt, chunk) in mac.chunks_mut(4).enumerate() {
            let mut hasher = crc32fast::Hasher::new_with_initial(salt as u32 + 1);
            hasher.update(file);
            hasher.update(content);
            chunk.copy_from_slice(&hasher.finalize().to_be_bytes());
        }
        mac
    }
}

/// A place where a vault can be opened again and again.
trait Bench: Sync {
    fn acquire(&self) -> Result<Box<dyn Place>, StorageError>;

    fn try_open(&self) -> Result<Arc<dyn Storage>, StorageError> {
        let place = self.acquire()?;
        if place.header()?.is_none() {
            place.write_header(b"header")?;
        }
        block_on(place.start(Arc::new(TestSeal)))
    }

    fn open(&self) -> Arc<dyn Storage> {
        self.try_open().unwrap()
    }
}

struct ModelBench(ModelDisk);

impl ModelBench {
    fn new() -> Self {
        Self(ModelDisk::new())
    }
}

impl Bench for ModelBench {
    fn acquire(&self) -> Result<Box<dyn Place>, StorageError> {
        Ok(Box::new(ModelPlace::acquire(&self.0)?))
    }
}

pub(super) struct SledBench {
    pub(super) dir: tempfile::TempDir,
    pub(super) options: SledOptions,
}

impl SledBench {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options: SledOptions::default() }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("vault")
    }
}

impl Bench for SledBench {
    fn acquire(&self) -> Result<Box<dyn Place>, StorageError> {
        Ok(Box::new(SledPlace::acquire(&self.path(), self.options.clone())?))
    }
}

/// Makes a test of every law for every engine.
macro_rules! on_both_engines {
    ($($law:ident),* $(,)?) => {
        mod on_model {
            $(#[test] fn $law() { super::$law(&super::ModelBench::new()) })*
        }
        mod on_sled {
            $(#[test] fn $law() { super::$law(&super::SledBench::new()) })*
        }
    };
}

on_both_engines!(
    rows_come_back_after_reopening,
    a_commit_with_a_wrong_mark_changes_nothing,
    scans_are_ordered_and_bounded,
    rows_of_every_size_come_back,
    trees_never_see_each_other,
    anchors_remember_every_commit_and_move_only_forward,
    marks_of_the_directory_stand_alone,
    members_are_the_created_accounts,
    shredding_removes_the_named_accounts_only,
    a_closed_vault_refuses_everything,
    a_held_place_is_already_open,
    the_header_is_replaced_as_a_whole,
    limits_are_refused_before_anything_is_written,
    two_vaults_never_meet,
    reopening_at_once_works_many_times,
);

pub(super) fn handle(number: u16) -> AccountHandle {
    let mut bytes = [0xa5; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    AccountHandle::from_bytes(bytes)
}

fn anchored(sequence: u64) -> Anchored {
    Anchored { sequence, digest: [sequence as u8; 32] }
}

fn step(mark: Mark, expected: u64) -> MarkStep {
    MarkStep { mark, expected, next: anchored(expected + 1) }
}

/// A commit of an account from the sequence `expected` to the next one.
pub(super) fn commit(expected: u64, puts: &[(&[u8], &[u8])]) -> Commit {
    let puts = puts.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    Commit { puts, removes: Vec::new(), marks: vec![step(Mark::Account, expected)], ..Commit::default() }
}

fn create(storage: &dyn Storage, number: u16, puts: &[(&[u8], &[u8])]) -> (ShardId, Arc<dyn Tree>) {
    let shard = block_on(storage.create(handle(number), commit(0, puts))).unwrap();
    (shard, block_on(storage.tree(shard, handle(number))).unwrap())
}

fn load(tree: &dyn Tree, key: &[u8]) -> Option<Vec<u8>> {
    block_on(tree.load(key)).unwrap()
}

fn all(tree: &dyn Tree) -> Vec<Row> {
    block_on(tree.scan(b"", &[0xff; 8], usize::MAX)).unwrap()
}

fn row(key: &[u8], value: &[u8]) -> Row {
    (key.to_vec(), value.to_vec())
}

fn rows_come_back_after_reopening(bench: &dyn Bench) {
    let storage = bench.open();
    let (shard, tree) = create(&*storage, 1, &[(b"a", b"1"), (b"b", b"2")]);
    let mut second = commit(1, &[(b"c", b"3"), (b"a", b"4")]);
    second.removes.push(b"b".to_vec());
    block_on(tree.commit(second)).unwrap();
    let expected = [row(b"a", b"4"), row(b"c", b"3")];
    assert_eq!(all(&*tree), expected);
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    let tree = block_on(storage.tree(shard, handle(1))).unwrap();
    assert_eq!(all(&*tree), expected);
    assert_eq!(load(&*tree, b"b"), None);
    // Dropped without closing.
    block_on(tree.commit(commit(2, &[(b"d", b"5")]))).unwrap();
    drop(storage);
    let storage = bench.open();
    assert_eq!(load(&*block_on(storage.tree(shard, handle(1))).unwrap(), b"d"), Some(b"5".to_vec()));
}

fn a_commit_with_a_wrong_mark_changes_nothing(bench: &dyn Bench) {
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1, &[(b"a", b"1")]);
    for wrong in [0, 2] {
        let mut commit = commit(wrong, &[(b"a", b"9"), (b"z", b"9")]);
        commit.removes.push(b"a".to_vec());
        match block_on(tree.commit(commit)) {
            Err(StorageError::Conflict { expected, found: 1 }) => assert_eq!(expected, wrong),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(all(&*tree), [row(b"a", b"1")]);
    // One of several marks that is wrong stops all.
    let directory = storage.directory();
    let marks = vec![step(Mark::Bucket(1), 0), step(Mark::Bucket(2), 5)];
    let both = Commit { puts: vec![row(b"k", b"v")], removes: Vec::new(), marks, ..Commit::default() };
    assert!(matches!(block_on(directory.commit(both)), Err(StorageError::Conflict { expected: 5, found: 0 })));
    assert_eq!(load(&*directory, b"k"), None);
    assert_eq!(directory.anchored(Mark::Bucket(1)), None);
}

fn scans_are_ordered_and_bounded(bench: &dyn Bench) {
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1, &[]);
    let keys: Vec<Vec<u8>> =
        vec![vec![0], vec![0, 0], vec![0, 1], vec![1], b"a".to_vec(), b"a\0".to_vec(), b"ab".to_vec(), vec![0xff]];
    for (at, key) in keys.iter().enumerate() {
        block_on(tree.commit(commit(at as u64 + 1, &[(key, key)]))).unwrap();
    }
    let scan = |start: &[u8], end: &[u8], limit| block_on(tree.scan(start, end, limit)).unwrap();
    let expected: Vec<_> = keys.iter().map(|key| row(key, key)).collect();
    assert_eq!(scan(b"", &[0xff, 0], usize::MAX), expected);
    assert_eq!(scan(&[0, 0], b"ab", usize::MAX), expected[1..6]);
    assert_eq!(scan(&[0, 0], b"ab", 2), expected[1..3]);
    assert_eq!(scan(b"a", b"a", 9), []);
    assert_eq!(scan(b"b", b"a", 9), []);
    assert_eq!(scan(b"", &[0xff], 0), []);
}

fn rows_of_every_size_come_back(bench: &dyn Bench) {
    let storage = bench.open();
    let (shard, tree) = create(&*storage, 1, &[]);
    let sizes = [0, 1, 4095, 4096, 4097, 20_000, 70_000, 90_000, 70_000, 5000, 10, 0, 66_000];
    let value = |size: usize| (0..size).map(|at| (at % 253) as u8).collect::<Vec<_>>();
    for (at, size) in sizes.into_iter().enumerate() {
        let sequence = 2 * at as u64 + 1;
        block_on(tree.commit(commit(sequence, &[(b"same", &value(size))]))).unwrap();
        block_on(tree.commit(commit(sequence + 1, &[(&[at as u8], &value(size))]))).unwrap();
        assert_eq!(load(&*tree, b"same"), Some(value(size)));
    }
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    let tree = block_on(storage.tree(shard, handle(1))).unwrap();
    assert_eq!(all(&*tree).len(), sizes.len() + 1);
    for (at, size) in sizes.into_iter().enumerate() {
        assert_eq!(load(&*tree, &[at as u8]), Some(value(size)));
    }
    let removes = (0..sizes.len()).map(|at| vec![at as u8]).collect();
    let marks = vec![step(Mark::Account, 2 * sizes.len() as u64 + 1)];
    block_on(tree.commit(Commit { puts: Vec::new(), removes, marks, ..Commit::default() })).unwrap();
    assert_eq!(all(&*tree), [row(b"same", &value(66_000))]);
}

fn trees_never_see_each_other(bench: &dyn Bench) {
    let storage = bench.open();
    let (_, one) = create(&*storage, 1, &[(b"k", b"one")]);
    let (_, two) = create(&*storage, 2, &[(b"k", b"two")]);
    block_on(storage.directory().commit(Commit {
        puts: vec![row(b"k", b"dir")],
        removes: vec![],
        marks: vec![],
        ..Commit::default()
    }))
    .unwrap();
    block_on(one.commit(commit(1, &[(b"only", b"one")]))).unwrap();
    assert_eq!(all(&*one), [row(b"k", b"one"), row(b"only", b"one")]);
    assert_eq!(all(&*two), [row(b"k", b"two")]);
    assert_eq!(all(&*storage.directory()), [row(b"k", b"dir")]);
    let shard = storage.shards()[0];
    assert!(matches!(block_on(storage.tree(shard, handle(3))), Err(StorageError::NoTree)));
    assert!(matches!(block_on(storage.tree(ShardId(77), handle(1))), Err(StorageError::NoTree)));
    assert!(matches!(block_on(storage.create(handle(1), commit(0, &[]))), Err(StorageError::Conflict { found: 2, .. })));
}

fn anchors_remember_every_commit_and_move_only_forward(bench: &dyn Bench) {
    let storage = bench.open();
    let (shard, tree) = create(&*storage, 1, &[]);
    let other_handle = block_on(storage.tree(shard, handle(1))).unwrap();
    assert_eq!(tree.anchored(Mark::Account), Some(anchored(1)));
    for sequence in 1..5 {
        block_on(tree.commit(commit(sequence, &[(b"k", b"v")]))).unwrap();
        assert_eq!(other_handle.anchored(Mark::Account), Some(anchored(sequence + 1)));
    }
    let head = block_on(storage.sync_anchors()).unwrap();
    assert_eq!(block_on(storage.sync_anchors()).unwrap(), head, "nothing changed, so nothing was written");
    block_on(tree.commit(commit(5, &[]))).unwrap();
    let later = block_on(storage.sync_anchors()).unwrap();
    assert!(later.counter > head.counter && later.digest != head.digest);
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    assert_eq!(block_on(storage.sync_anchors()).unwrap(), later, "reopening writes nothing");
    let tree = block_on(storage.tree(shard, handle(1))).unwrap();
    assert_eq!(tree.anchored(Mark::Account), Some(anchored(6)));
    assert_eq!(tree.anchored(Mark::Bucket(0)), None);
}

fn marks_of_the_directory_stand_alone(bench: &dyn Bench) {
    let storage = bench.open();
    let directory = storage.directory();
    let put = |bucket, expected, value: &[u8]| {
        let marks = vec![step(Mark::Bucket(bucket), expected)];
        block_on(directory.commit(Commit {
            puts: vec![row(&bucket.to_be_bytes(), value)],
            removes: Vec::new(),
            marks,
            ..Commit::default()
        }))
    };
    put(0, 0, b"a").unwrap();
    put(4100, 0, b"b").unwrap();
    put(0, 1, b"c").unwrap();
    assert!(put(4100, 0, b"d").is_err());
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    let directory = storage.directory();
    assert_eq!(directory.anchored(Mark::Bucket(0)), Some(anchored(2)));
    assert_eq!(directory.anchored(Mark::Bucket(4100)), Some(anchored(1)));
    assert_eq!(directory.anchored(Mark::Bucket(1)), None);
    assert_eq!(all(&*directory), [row(&[0, 0], b"c"), row(&4100_u16.to_be_bytes(), b"b")]);
}

fn members_are_the_created_accounts(bench: &dyn Bench) {
    let storage = bench.open();
    let count = TREES_PER_SHARD as u16 + 3;
    let mut by_shard = std::collections::BTreeMap::<_, Vec<_>>::new();
    for number in 0..count {
        let shard = block_on(storage.create(handle(number), commit(0, &[(b"k", b"v")]))).unwrap();
        by_shard.entry(shard).or_default().push(handle(number));
    }
    for _ in 0..2 {
        let storage = bench.try_open();
        assert!(matches!(storage, Err(StorageError::AlreadyOpen)));
    }
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    assert_eq!(storage.shards(), by_shard.keys().copied().collect::<Vec<_>>());
    assert_eq!(storage.shards().len(), 2);
    for (shard, members) in &by_shard {
        assert!(members.len() <= TREES_PER_SHARD);
        assert_eq!(&block_on(storage.members(*shard)).unwrap(), members);
    }
    assert_eq!(storage.status().accounts, u64::from(count));
}

fn shredding_removes_the_named_accounts_only(bench: &dyn Bench) {
    let storage = bench.open();
    let big = vec![7; 30_000];
    let trees: Vec<_> = (0..6).map(|number| create(&*storage, number, &[(b"k", b"v"), (b"big", &big)]).1).collect();
    let shard = storage.shards()[0];
    block_on(storage.sync_anchors()).unwrap();
    // Once with anchors that are behind and once with written ones.
    for _ in 0..2 {
        block_on(storage.shred(shard, vec![handle(1), handle(4), handle(99)])).unwrap();
        for number in [0, 2, 3, 5] {
            let tree = block_on(storage.tree(shard, handle(number))).unwrap();
            assert_eq!(tree.anchored(Mark::Account), Some(anchored(1)), "account {number} lost its anchor");
        }
        assert_eq!(block_on(storage.members(shard)).unwrap(), [0, 2, 3, 5].map(handle));
    }
    assert!(matches!(block_on(trees[1].load(b"k")), Err(StorageError::NoTree)));
    assert!(matches!(block_on(trees[4].commit(commit(1, &[]))), Err(StorageError::NoTree)));
    assert!(matches!(block_on(storage.tree(shard, handle(1))), Err(StorageError::NoTree)));
    assert_eq!(load(&*trees[2], b"big"), Some(big.clone()));
    block_on(trees[2].commit(commit(1, &[(b"more", b"rows")]))).unwrap();
    // There is room again, and a second rewriting works on the first one's result.
    let (again, _) = create(&*storage, 1, &[]);
    assert_eq!(again, shard);
    block_on(storage.shred(shard, vec![handle(0)])).unwrap();
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    assert_eq!(block_on(storage.members(shard)).unwrap(), [1, 2, 3, 5].map(handle));
    let tree = block_on(storage.tree(shard, handle(2))).unwrap();
    assert_eq!(all(&*tree), [row(b"big", &big), row(b"k", b"v"), row(b"more", b"rows")]);
    assert_eq!(tree.anchored(Mark::Account), Some(anchored(2)));
}

fn a_closed_vault_refuses_everything(bench: &dyn Bench) {
    let storage = bench.open();
    let (shard, tree) = create(&*storage, 1, &[]);
    let directory = storage.directory();
    block_on(storage.close()).unwrap();
    block_on(storage.close()).unwrap();
    assert!(matches!(block_on(tree.load(b"k")), Err(StorageError::Closed)));
    assert!(matches!(block_on(tree.commit(commit(1, &[]))), Err(StorageError::Closed)));
    assert!(matches!(block_on(directory.scan(b"", b"z", 1)), Err(StorageError::Closed)));
    assert!(matches!(block_on(storage.create(handle(2), commit(0, &[]))), Err(StorageError::Closed)));
    assert!(matches!(block_on(storage.tree(shard, handle(1))), Err(StorageError::Closed)));
    assert!(matches!(block_on(storage.shred(shard, vec![])), Err(StorageError::Closed)));
    assert!(matches!(block_on(storage.sync_anchors()), Err(StorageError::Closed)));
    assert!(matches!(block_on(storage.write_header(vec![1])), Err(StorageError::Closed)));
    // The closed one does not hold the place, dropped or not.
    block_on(bench.open().close()).unwrap();
}

fn a_held_place_is_already_open(bench: &dyn Bench) {
    let place = bench.acquire().unwrap();
    assert!(matches!(bench.acquire(), Err(StorageError::AlreadyOpen)));
    drop(place);
    let storage = bench.open();
    assert!(matches!(bench.acquire(), Err(StorageError::AlreadyOpen)));
    drop(storage);
    bench.acquire().unwrap();
}

fn the_header_is_replaced_as_a_whole(bench: &dyn Bench) {
    let place = bench.acquire().unwrap();
    assert_eq!(place.header().unwrap(), None);
    place.write_header(b"first").unwrap();
    assert_eq!(place.header().unwrap().as_deref(), Some(b"first".as_slice()));
    let storage = block_on(place.start(Arc::new(TestSeal))).unwrap();
    block_on(storage.write_header(b"the second one".to_vec())).unwrap();
    drop(storage);
    assert_eq!(bench.acquire().unwrap().header().unwrap().as_deref(), Some(b"the second one".as_slice()));
}

fn limits_are_refused_before_anything_is_written(bench: &dyn Bench) {
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1, &[]);
    let refused = |commit| matches!(block_on(tree.commit(commit)), Err(StorageError::TooLarge { .. }));
    assert!(refused(commit(1, &[(b"k", &vec![0; MAX_ROW_BYTES])])));
    assert!(refused(commit(1, &[(&[0; MAX_KEY_BYTES + 1], b"v")])));
    assert!(refused(commit(1, &[(b"a", &[0; MAX_COMMIT_BYTES / 2]), (b"b", &[0; MAX_COMMIT_BYTES / 2])])));
    let mut long = commit(1, &[]);
    long.removes.push(vec![0; MAX_KEY_BYTES + 1]);
    assert!(refused(long));
    block_on(tree.commit(commit(1, &[(&[0; MAX_KEY_BYTES], &vec![1; MAX_ROW_BYTES - MAX_KEY_BYTES])]))).unwrap();
    assert_eq!(all(&*tree).len(), 1);
}

fn two_vaults_never_meet(bench: &dyn Bench) {
    let other: Box<dyn Bench> = Box::new(SledBench::new());
    let (here, there) = (bench.open(), other.open());
    let (_, one) = create(&*here, 1, &[(b"k", b"here")]);
    let (_, two) = create(&*there, 1, &[(b"k", b"there")]);
    block_on(here.close()).unwrap();
    assert_eq!(load(&*two, b"k"), Some(b"there".to_vec()));
    block_on(two.commit(commit(1, &[(b"k", b"still")]))).unwrap();
    assert!(block_on(one.load(b"k")).is_err());
}

fn reopening_at_once_works_many_times(bench: &dyn Bench) {
    for round in 0..12_u16 {
        let storage = bench.open();
        let directory = storage.directory();
        for earlier in 0..round {
            assert_eq!(load(&*directory, &earlier.to_be_bytes()), Some(vec![earlier as u8; 500]));
        }
        let marks = vec![step(Mark::Bucket(9), u64::from(round))];
        let puts = vec![row(&round.to_be_bytes(), &vec![round as u8; 500])];
        block_on(directory.commit(Commit { puts, removes: Vec::new(), marks, ..Commit::default() })).unwrap();
        create(&*storage, round, &[(b"k", b"v")]);
        if round % 2 == 0 {
            block_on(storage.close()).unwrap();
        }
    }
}
