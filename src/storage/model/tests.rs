//! What only the model promises: the failures that a test asks for.

use std::sync::Arc;

use futures_lite::future::block_on;

use super::super::tests::{TestSeal, commit, handle};
use super::super::*;
use super::{ModelDisk, ModelPlace, ModelTree};

fn try_open(disk: &ModelDisk) -> Result<Arc<dyn Storage>, StorageError> {
    let place = Box::new(ModelPlace::acquire(disk)?);
    if place.header()?.is_none() {
        place.write_header(b"header")?;
    }
    block_on(place.start(Arc::new(TestSeal)))
}

fn open(disk: &ModelDisk) -> Arc<dyn Storage> {
    try_open(disk).unwrap()
}

fn create(storage: &dyn Storage, number: u16) -> Arc<dyn Tree> {
    let shard = block_on(storage.create(handle(number), commit(0, &[(b"k", b"v")]))).unwrap();
    block_on(storage.tree(shard, handle(number))).unwrap()
}

fn tree(storage: &dyn Storage, number: u16) -> Result<Arc<dyn Tree>, StorageError> {
    block_on(storage.tree(ShardId(0), handle(number)))
}

#[test]
fn every_operation_can_fail_and_a_failed_write_poisons() {
    let disk = ModelDisk::new();
    let storage = open(&disk);
    let account = create(&*storage, 1);
    let counted = disk.operations();
    disk.fail_nth(2);
    assert!(block_on(account.load(b"k")).is_ok());
    assert!(matches!(block_on(account.load(b"k")), Err(StorageError::Io { .. })));
    block_on(account.commit(commit(1, &[(b"k", b"2")]))).unwrap();
    assert_eq!(disk.operations(), counted + 3);
    disk.fail_nth(1);
    assert!(matches!(block_on(account.commit(commit(2, &[(b"k", b"3")]))), Err(StorageError::Io { .. })));
    assert!(matches!(block_on(account.commit(commit(2, &[(b"k", b"3")]))), Err(StorageError::Poisoned(_))));
    assert_eq!(block_on(account.load(b"k")).unwrap(), Some(b"2".to_vec()));
    assert!(matches!(block_on(storage.close()), Err(StorageError::Poisoned(_))));
    let storage = open(&disk);
    assert_eq!(block_on(tree(&*storage, 1).unwrap().load(b"k")).unwrap(), Some(b"2".to_vec()));
    disk.fail_nth(100);
    assert!(disk.disarm() && !disk.disarm());
}

#[test]
fn an_operation_in_doubt_takes_effect_and_reports_an_error() {
    let disk = ModelDisk::new();
    let storage = open(&disk);
    let account = create(&*storage, 1);
    disk.fail_nth_in_doubt(1);
    assert!(matches!(block_on(account.commit(commit(1, &[(b"k", b"2")]))), Err(StorageError::Io { .. })));
    drop(storage);
    let storage = open(&disk);
    let account = tree(&*storage, 1).unwrap();
    assert_eq!(block_on(account.load(b"k")).unwrap(), Some(b"2".to_vec()));
    block_on(account.commit(commit(2, &[]))).unwrap();
}

#[test]
fn a_crash_takes_what_was_not_durable_and_the_engine_with_it() {
    let disk = ModelDisk::new();
    let storage = open(&disk);
    let account = create(&*storage, 1);
    let head = block_on(storage.sync_anchors()).unwrap();
    block_on(account.commit(commit(1, &[(b"k", b"2")]))).unwrap();
    disk.crash();
    assert!(matches!(block_on(account.load(b"k")), Err(StorageError::Closed)));
    assert!(matches!(block_on(storage.sync_anchors()), Err(StorageError::Closed)));
    let again = open(&disk);
    // The dead engine's end changes nothing.
    drop(storage);
    assert_eq!(block_on(again.sync_anchors()).unwrap(), head, "the anchors were not written before the crash");
    let account = tree(&*again, 1).unwrap();
    assert_eq!(account.anchored(Mark::Account).unwrap().sequence, 1, "behind, never ahead");
    assert_eq!(block_on(account.load(b"k")).unwrap(), Some(b"2".to_vec()));
}

#[test]
fn tampering_and_older_copies_are_noticed() {
    let disk = ModelDisk::new();
    disk.set_trees_per_shard(2);
    let storage = open(&disk);
    for number in 0..3 {
        create(&*storage, number);
    }
    block_on(storage.close()).unwrap();
    let yesterday = disk.image();
    let storage = open(&disk);
    block_on(tree(&*storage, 1).unwrap().commit(commit(1, &[]))).unwrap();
    block_on(storage.close()).unwrap();
    let today = disk.image();

    disk.restore_shard(&yesterday, ShardId(0));
    let storage = open(&disk);
    match tree(&*storage, 0).map(drop) {
        Err(StorageError::RolledBack { place, accounts }) => {
            assert_eq!((place, accounts), (Location::Shard(ShardId(0)), vec![handle(0), handle(1)]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(block_on(storage.members(ShardId(0))).unwrap(), [handle(0), handle(1)]);
    block_on(storage.tree(ShardId(1), handle(2))).unwrap();
    drop(storage);

    disk.restore(&today);
    disk.remove_tree(ShardId(0), &handle(1));
    assert!(matches!(tree(&*open(&disk), 0).map(drop), Err(StorageError::Corrupted { accounts, .. }) if accounts == [handle(1)]));

    disk.restore(&today);
    disk.flip_anchor_byte(Some(ShardId(0)), 40);
    assert!(matches!(tree(&*open(&disk), 0).map(drop), Err(StorageError::Corrupted { .. })));
    disk.flip_anchor_byte(None, 40);
    assert!(matches!(try_open(&disk).map(drop), Err(StorageError::Corrupted { place: Location::Directory, .. })));

    disk.restore(&today);
    disk.set_header(None);
    assert!(matches!(try_open(&disk).map(drop), Err(StorageError::Corrupted { place: Location::Header, .. })));

    disk.restore(&today);
    let name = ModelTree::Account(ShardId(0), handle(1));
    assert!(disk.trees().contains(&name) && disk.trees().contains(&ModelTree::Directory));
    disk.put_row(name, b"k", b"other");
    disk.put_row(name, b"new", b"row");
    assert_eq!(disk.row(name, b"k").as_deref(), Some(b"other".as_slice()));
    let storage = open(&disk);
    assert_eq!(block_on(tree(&*storage, 1).unwrap().load(b"new")).unwrap(), Some(b"row".to_vec()));
    disk.remove_row(name, b"new");
    assert_eq!(disk.rows(name), [(b"k".to_vec(), b"other".to_vec())]);
}
