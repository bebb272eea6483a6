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

/// A commit to one bucket of the directory: its mark goes one on, and a row of it is put.
fn put_in_bucket(storage: &dyn Storage, bucket: u16, expected: u64) -> Result<(), StorageError> {
    let next = Anchored { sequence: expected + 1, digest: [0; 32] };
    let marks = vec![MarkStep { mark: Mark::Bucket(bucket), expected, next }];
    let puts = vec![(bucket.to_be_bytes().to_vec(), vec![expected as u8])];
    block_on(storage.directory().commit(Commit { puts, marks, ..Commit::default() }))
}

fn row_of_bucket(storage: &dyn Storage, bucket: u16) -> Result<Option<Vec<u8>>, StorageError> {
    block_on(storage.directory().load(&bucket.to_be_bytes()))
}

/// The sections of which this process has a log open.
#[cfg(target_os = "linux")]
fn open_sections(bench: &Bench) -> Vec<String> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let sections = bench.path().canonicalize().unwrap().join("directory/sections");
    let logs = descriptors.filter_map(|path| Some(path.strip_prefix(&sections).ok()?.to_str()?.to_owned()));
    logs.filter_map(|path| path.strip_suffix("/db").map(str::to_owned))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn sections_are_made_when_they_are_written_and_opened_when_they_are_asked() {
    let mut bench = Bench::new();
    let storage = bench.open();
    put_in_bucket(&*storage, 0x0301, 0).unwrap();
    put_in_bucket(&*storage, 0x0a01, 0).unwrap();
    block_on(storage.close()).unwrap();
    assert!(!bench.path().join("directory/sections").exists(), "a small vault has none");
    bench.options.section_from_bytes = 0;
    let storage = bench.open();
    put_in_bucket(&*storage, 0x0301, 1).unwrap();
    put_in_bucket(&*storage, 0x0302, 0).unwrap();
    put_in_bucket(&*storage, 0x1000, 0).unwrap();
    block_on(storage.close()).unwrap();
    let made: Vec<_> =
        fs::read_dir(bench.path().join("directory/sections")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["3"]);
    let storage = bench.open();
    assert!(open_sections(&bench).is_empty(), "opening the vault opens none");
    // What is in none, or in the first store alone, needs none.
    assert_eq!(row_of_bucket(&*storage, 0x1000).unwrap(), Some(vec![0]));
    assert_eq!(row_of_bucket(&*storage, 0x0a01).unwrap(), Some(vec![0]));
    assert!(open_sections(&bench).is_empty());
    assert_eq!(row_of_bucket(&*storage, 0x0301).unwrap(), Some(vec![1]));
    assert_eq!(row_of_bucket(&*storage, 0x0302).unwrap(), Some(vec![0]));
    assert_eq!(open_sections(&bench), ["3"]);
    // A commit to one that is closed opens it, and has its mark.
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    assert!(matches!(put_in_bucket(&*storage, 0x0301, 1), Err(StorageError::Conflict { expected: 1, found: 2 })));
    assert_eq!(open_sections(&bench), ["3"]);
    put_in_bucket(&*storage, 0x0301, 2).unwrap();
    let rows = block_on(storage.directory().scan(&[0], &[0xff], 100)).unwrap();
    assert_eq!(
        rows,
        [(vec![0x03, 0x01], vec![2]), (vec![0x03, 0x02], vec![0]), (vec![0x0a, 0x01], vec![0]), (vec![0x10, 0], vec![0])]
    );
    block_on(storage.close()).unwrap();
}

#[test]
fn what_is_wrong_with_a_section_keeps_nobody_else_from_the_vault() {
    let mut bench = Bench::new();
    bench.options.section_from_bytes = 0;
    let storage = bench.open();
    put_in_bucket(&*storage, 0x0301, 0).unwrap();
    put_in_bucket(&*storage, 0x0401, 0).unwrap();
    block_on(storage.close()).unwrap();
    let backup = bench.dir.path().join("backup");
    let section = bench.path().join("directory/sections/3");
    copy(&section, &backup);
    let storage = bench.open();
    put_in_bucket(&*storage, 0x0301, 1).unwrap();
    block_on(storage.close()).unwrap();
    let whole = bench.dir.path().join("whole");
    copy(&bench.path(), &whole);

    let older = |error: &StorageError| matches!(error, StorageError::RolledBack { place: Location::Directory, .. });
    let damaged = |error: &StorageError| matches!(error, StorageError::Corrupted { place: Location::Directory, .. });
    let put_back = |section: &Path| {
        fs::remove_dir_all(section).unwrap();
        copy(&backup, section);
    };
    let cases: [(&dyn Fn(&Path), &dyn Fn(&StorageError) -> bool); 3] = [
        (&put_back, &older),
        (&|section| fs::remove_dir_all(section).unwrap(), &damaged),
        (&|section| fs::write(section.join("db"), [0x5a; 4096]).unwrap(), &damaged),
    ];
    for (harm, expected) in cases {
        harm(&section);
        let storage = bench.open();
        for _ in 0..2 {
            let error = row_of_bucket(&*storage, 0x0301).unwrap_err();
            assert!(expected(&error), "{error}");
            let error = put_in_bucket(&*storage, 0x0301, 2).unwrap_err();
            assert!(expected(&error), "{error}");
        }
        assert_eq!(row_of_bucket(&*storage, 0x0401).unwrap(), Some(vec![0]));
        put_in_bucket(&*storage, 0x0401, 1).unwrap();
        assert!(storage.status().poisoned.is_none());
        block_on(storage.close()).unwrap();
        fs::remove_dir_all(bench.path()).unwrap();
        copy(&whole, &bench.path());
    }
    // Without any, the whole directory is not what its anchor remembers.
    fs::remove_dir_all(bench.path().join("directory/sections")).unwrap();
    assert!(bench.try_open().is_err_and(|error| damaged(&error)));
}

#[test]
fn a_damaged_section_that_a_crash_left_commits_for_is_refused_to_those_who_are_in_it() {
    let mut bench = Bench::new();
    bench.options.section_from_bytes = 0;
    let storage = bench.open();
    for bucket in [0x0301, 0x0302, 0x0401] {
        put_in_bucket(&*storage, bucket, 0).unwrap();
    }
    block_on(storage.close()).unwrap();
    let storage = bench.open();
    put_in_bucket(&*storage, 0x0301, 1).unwrap();
    let [whole, damaged, blocked] = ["whole", "damaged", "blocked"].map(|name| bench.dir.path().join(name));
    for to in [&whole, &damaged, &blocked] {
        copy(&bench.path(), to);
    }
    block_on(storage.close()).unwrap();
    fs::write(damaged.join("directory/sections/3/db"), [0x5a; 4096]).unwrap();
    let storage = try_open(&damaged, &bench.options).unwrap();
    assert!(matches!(row_of_bucket(&*storage, 0x0301), Err(StorageError::Corrupted { place: Location::Directory, .. })));
    assert_eq!(row_of_bucket(&*storage, 0x0401).unwrap(), Some(vec![0]));
    block_on(storage.close()).unwrap();
    // What may pass keeps the vault closed: it would lack what was acknowledged.
    fs::remove_file(blocked.join("directory/sections/3/db")).unwrap();
    fs::create_dir(blocked.join("directory/sections/3/db")).unwrap();
    assert!(matches!(try_open(&blocked, &bench.options), Err(StorageError::Io { .. })));
    // The control: whole, it is given what the commit log has.
    let storage = try_open(&whole, &bench.options).unwrap();
    assert_eq!(row_of_bucket(&*storage, 0x0301).unwrap(), Some(vec![1]));
    block_on(storage.close()).unwrap();
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
