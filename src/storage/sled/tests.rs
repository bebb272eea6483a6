//! What only the sled engine promises of its files: whose directory it is, damage and older copies, repairs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_lite::future::block_on;

use super::super::tests::{TestSeal, commit, handle};
use super::super::*;
use super::{SledOptions, SledPlace};

/// A vault's directory, with options that a test changes.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) options: SledOptions,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options: SledOptions::default() }
    }

    pub(super) fn with_small_shards(trees_per_shard: usize) -> Self {
        let mut bench = Self::new();
        bench.options.trees_per_shard = trees_per_shard;
        bench
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    pub(super) fn shard(&self, number: u32, generation: u32) -> PathBuf {
        self.path().join(format!("shards/{number:04}.{generation}"))
    }

    pub(super) fn try_open(&self) -> Result<Arc<dyn Storage>, StorageError> {
        try_open(&self.path(), &self.options)
    }

    pub(super) fn open(&self) -> Arc<dyn Storage> {
        self.try_open().unwrap()
    }
}

pub(super) fn try_open(path: &Path, options: &SledOptions) -> Result<Arc<dyn Storage>, StorageError> {
    let place = Box::new(SledPlace::acquire(path, options.clone())?);
    if place.header()?.is_none() {
        place.write_header(b"header")?;
    }
    block_on(place.start(Arc::new(TestSeal)))
}

pub(super) fn create(storage: &dyn Storage, number: u16) -> (ShardId, Arc<dyn Tree>) {
    let shard = block_on(storage.create(handle(number), commit(0, &[(b"k", &number.to_be_bytes())]))).unwrap();
    (shard, block_on(storage.tree(shard, handle(number))).unwrap())
}

/// Whether an account's tree can be had and has what [`create`] put there.
pub(super) fn check(storage: &dyn Storage, shard: u32, number: u16) -> Result<(), StorageError> {
    let tree = block_on(storage.tree(ShardId(shard), handle(number)))?;
    assert_eq!(block_on(tree.load(b"k"))?, Some(number.to_be_bytes().to_vec()));
    Ok(())
}

/// Every file below a directory with its content.
pub(super) fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

pub(super) fn copy(from: &Path, to: &Path) {
    super::files::copy_tree(from, to).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_foreign_directory_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let before = content(dir.path());
    assert!(matches!(SledPlace::acquire(dir.path(), SledOptions::default()), Err(StorageError::NotAVault)));
    assert!(matches!(SledPlace::acquire(&dir.path().join("thesis.tex"), SledOptions::default()), Err(StorageError::NotAVault)));
    assert_eq!(content(dir.path()), before);
    // An empty directory that the host made is fine, and so is what others put into a vault's directory later.
    let bench = Bench::new();
    fs::create_dir(bench.path()).unwrap();
    drop(bench.open());
    fs::write(bench.path().join(".backup-marker"), "").unwrap();
    drop(bench.open());
}

#[test]
fn a_second_vault_on_the_same_directory_changes_not_one_byte() {
    let bench = Bench::new();
    let storage = bench.open();
    create(&*storage, 1);
    block_on(storage.sync_anchors()).unwrap();
    let before = content(&bench.path());
    assert!(matches!(bench.try_open(), Err(StorageError::AlreadyOpen)));
    assert_eq!(content(&bench.path()), before);
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_enter() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    create(&*bench.open(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for dir in ["", "directory", "shards", "shards/0000.0"] {
        assert_eq!(mode(&bench.path().join(dir)), 0o700, "{dir}");
    }
    for file in ["vault.lock", "header.a", "header.b", "directory.anchor", "shards/0000.0/anchor"] {
        assert_eq!(mode(&bench.path().join(file)), 0o600, "{file}");
    }
}

#[test]
fn an_older_copy_of_a_shard_is_rolled_back_and_its_neighbours_are_not() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    let trees: Vec<_> = (0..4).map(|number| create(&*storage, number).1).collect();
    block_on(storage.close()).unwrap();
    let backup = bench.dir.path().join("backup");
    copy(&bench.shard(0, 0), &backup);
    drop(trees);

    let storage = bench.open();
    let tree = block_on(storage.tree(ShardId(0), handle(1))).unwrap();
    block_on(tree.commit(commit(1, &[(b"x", b"newer")]))).unwrap();
    block_on(storage.close()).unwrap();
    fs::remove_dir_all(bench.shard(0, 0)).unwrap();
    copy(&backup, &bench.shard(0, 0));

    let storage = bench.open();
    match check(&*storage, 0, 0) {
        Err(StorageError::RolledBack { place, accounts }) => {
            assert_eq!((place, accounts), (Location::Shard(ShardId(0)), vec![handle(0), handle(1)]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(block_on(storage.members(ShardId(0))).unwrap(), [handle(0), handle(1)]);
    check(&*storage, 1, 2).unwrap();
    check(&*storage, 1, 3).unwrap();
    // New accounts don't go there either.
    assert_eq!(create(&*storage, 9).0, ShardId(2));
}

#[test]
fn an_older_database_under_its_newer_anchor_is_rolled_back_for_the_account_that_lost() {
    let bench = Bench::new();
    let storage = bench.open();
    let trees: Vec<_> = (0..2).map(|number| create(&*storage, number).1).collect();
    block_on(storage.close()).unwrap();
    let backup = bench.dir.path().join("backup");
    copy(&bench.shard(0, 0), &backup);
    drop(trees);
    let storage = bench.open();
    let tree = block_on(storage.tree(ShardId(0), handle(1))).unwrap();
    block_on(tree.commit(commit(1, &[(b"x", b"newer")]))).unwrap();
    block_on(storage.close()).unwrap();
    fs::copy(bench.shard(0, 0).join("anchor"), backup.join("anchor")).unwrap();
    fs::remove_dir_all(bench.shard(0, 0)).unwrap();
    copy(&backup, &bench.shard(0, 0));
    let storage = bench.open();
    check(&*storage, 0, 0).unwrap();
    assert!(matches!(check(&*storage, 0, 1), Err(StorageError::RolledBack { accounts, .. }) if accounts == [handle(1)]));
}

#[test]
fn an_older_directory_under_its_newer_anchor_is_rolled_back() {
    let bench = Bench::new();
    let put = |expected: u64| {
        let storage = bench.open();
        let next = Anchored { sequence: expected + 1, digest: [0; 32] };
        let marks = vec![MarkStep { mark: Mark::Bucket(5), expected, next }];
        block_on(storage.directory().commit(Commit { puts: vec![], removes: vec![], marks, ..Commit::default() })).unwrap();
        block_on(storage.close()).unwrap();
    };
    put(0);
    let backup = bench.dir.path().join("backup");
    copy(&bench.path().join("directory"), &backup);
    put(1);
    fs::remove_dir_all(bench.path().join("directory")).unwrap();
    copy(&backup, &bench.path().join("directory"));
    assert!(matches!(bench.try_open(), Err(StorageError::RolledBack { place: Location::Directory, .. })));
    fs::remove_dir_all(bench.path().join("directory")).unwrap();
    match bench.try_open() {
        Err(StorageError::Corrupted { place: Location::Directory, detail, .. }) => assert!(detail.contains("directory/db")),
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn missing_and_damaged_files_are_named() {
    let bench = Bench::with_small_shards(2);
    let storage = bench.open();
    for number in 0..6 {
        create(&*storage, number);
    }
    block_on(storage.close()).unwrap();
    let whole = bench.dir.path().join("whole");
    copy(&bench.path(), &whole);
    let outcome = |damage: &dyn Fn(), shard: u32| {
        fs::remove_dir_all(bench.path()).unwrap();
        copy(&whole, &bench.path());
        damage();
        let storage = bench.open();
        for other in (0..3_u16).filter(|other| u32::from(*other) != shard) {
            check(&*storage, other.into(), 2 * other).unwrap();
        }
        match check(&*storage, shard, 2 * shard as u16) {
            Err(StorageError::Corrupted { place, detail, accounts }) => {
                assert_eq!(place, Location::Shard(ShardId(shard)));
                (detail, accounts)
            }
            other => panic!("{other:?}"),
        }
    };
    let members = |shard: u16| vec![handle(2 * shard), handle(2 * shard + 1)];

    let (detail, _) = outcome(&|| fs::remove_file(bench.shard(1, 0).join("anchor")).unwrap(), 1);
    assert_eq!(detail, "shards/0001.0/anchor: missing");
    let (detail, _) = outcome(&|| flip(&bench.shard(2, 0).join("anchor"), 60), 2);
    assert_eq!(detail, "shards/0002.0/anchor: its seal does not match its content");
    let (detail, _) = outcome(&|| fs::remove_dir_all(bench.shard(0, 0)).unwrap(), 0);
    assert_eq!(detail, "its files are missing");
    let (detail, accounts) = outcome(&|| fs::remove_file(bench.shard(0, 0).join("db")).unwrap(), 0);
    assert_eq!((detail.as_str(), accounts), ("shards/0000.0/db: missing", members(0)));
    let (_, accounts) = outcome(&|| fs::write(bench.shard(1, 0).join("db"), b"").unwrap(), 1);
    assert_eq!(accounts, members(1));
    let swap = || {
        let swapped = bench.dir.path().join("swapped");
        fs::rename(bench.shard(0, 0), &swapped).unwrap();
        copy(&bench.shard(1, 0), &bench.shard(0, 0));
    };
    assert_eq!(outcome(&swap, 0).0, "shards/0000.0/anchor: its seal does not match its content");

    for damage in [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| flip(path, 30)] {
        fs::remove_dir_all(bench.path()).unwrap();
        copy(&whole, &bench.path());
        damage(&bench.path().join("directory.anchor"));
        match bench.try_open() {
            Err(StorageError::Corrupted { place: Location::Directory, detail, .. }) => {
                assert!(detail.starts_with("directory.anchor: "), "{detail}");
            }
            other => panic!("{:?}", other.map(drop)),
        }
    }
    for name in ["header.a", "header.b"] {
        fs::remove_file(bench.path().join(name)).unwrap();
    }
    // The header gone, what is there must not look like a new vault.
    assert!(matches!(bench.try_open(), Err(StorageError::Corrupted { place: Location::Header, .. })));
}

#[test]
fn unfinished_and_damaged_snapshots_cost_nothing() {
    let bench = Bench::new();
    let storage = bench.open();
    for number in 0..20 {
        create(&*storage, number);
    }
    block_on(storage.close()).unwrap();
    // sled writes its snapshot at opening.
    block_on(bench.open().tree(ShardId(0), handle(1))).unwrap();
    let shard = bench.shard(0, 0);
    fs::write(shard.join("snap.00000000000FFFFF.generating"), b"half").unwrap();
    let storage = bench.open();
    check(&*storage, 0, 1).unwrap();
    assert!(storage.status().repaired.is_empty());
    drop(storage);
    let snapshot = fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = snapshot.into_iter().find(|path| path.to_string_lossy().contains("snap.")).unwrap();
    flip(&snapshot, 20);
    let storage = bench.open();
    for number in 0..20 {
        check(&*storage, 0, number).unwrap();
    }
    assert_eq!(storage.status().repaired.len(), 1, "{:?}", storage.status());
    assert!(bench.path().join("shards/0000.0.aside-1/db").exists());
}

#[test]
fn large_rows_stay_out_of_the_blob_directory() {
    let bench = Bench::new();
    let storage = bench.open();
    let (_, tree) = create(&*storage, 1);
    let mut sequence = 1;
    for round in 0..30_u8 {
        for key in 0..12_u8 {
            let value = vec![round; 2000 + 5000 * usize::from(key)];
            block_on(tree.commit(commit(sequence, &[(&[key], &value)]))).unwrap();
            sequence += 1;
        }
    }
    block_on(storage.close()).unwrap();
    assert_eq!(fs::read_dir(bench.shard(0, 0).join("blobs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(bench.path().join("directory/blobs")).unwrap().count(), 0);
}
