//! Tests of the directory on the real engine.

use std::time::Duration;

use futures_lite::future::block_on;

use super::*;
use crate::clock::Timestamp;
use crate::domain::directory::handle_beside;
use crate::ids::{ApiKeyId, Environment, ShardId};
use crate::secret::RootKey;
use crate::storage::{self, AnchorSeal, EngineOptions, Storage, StorageFaults, TREES_PER_SHARD};

struct NoSeal;

impl AnchorSeal for NoSeal {
    fn mac(&self, _: &[u8], content: &[u8]) -> [u8; 32] {
        let mut mac = [0; 32];
        mac[..4].copy_from_slice(&crc32fast::hash(content).to_be_bytes());
        mac
    }
}

/// An engine in a directory of its own, and keys.
fn engine() -> (tempfile::TempDir, Arc<dyn Storage>, Arc<Keyring>) {
    let (keyring, _) = Keyring::create(&RootKey::from_bytes(&mut [7; 32]), b"").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        max_open_shards: 1,
        stall_timeout: Duration::from_secs(10),
        trees_per_shard: TREES_PER_SHARD,
        commit_log_bytes: storage::COMMIT_LOG_BYTES,
        section_from_bytes: 0,
        faults: StorageFaults::default(),
    };
    let place = storage::acquire(&folder.path().join("vault"), options).unwrap();
    let storage = block_on(place.start(Arc::new(NoSeal))).unwrap();
    (folder, storage, Arc::new(keyring))
}

#[test]
fn accounts_whose_locators_begin_alike_are_told_apart_by_their_handles() {
    let (_folder, storage, keyring) = engine();
    let directory = Directory::new(storage.directory(), keyring);
    let account = |last: u8, handle: u8| {
        let mut locator = [9; 32];
        locator[31] = last;
        let handle = handle_beside(&locator, [handle; 16]);
        let row = AccountRow {
            linked_account_id: format!("customer {last}"),
            handle,
            shard: ShardId(last.into()),
            created: Timestamp::from_millis(0),
        };
        (locator, row)
    };
    let (test, live) = (Environment::Test, Environment::Production);
    let accounts = [(test, account(1, 30)), (live, account(1, 20)), (test, account(2, 10))];
    let unnamed = handle_beside(&[9; 32], [40; 16]);
    let names = accounts.iter().map(|(environment, (locator, _))| RowName::Account(*environment, *locator));
    let names: Vec<_> = names.chain([RowName::Unnamed(unnamed)]).collect();
    block_on(async {
        let mut change = directory.change(&names).await.unwrap();
        for (name, (_, (_, row))) in names.iter().zip(&accounts) {
            change.put_new(*name, row).await.unwrap();
        }
        change.put_new(RowName::Unnamed(unnamed), &UnnamedRow { shard: ShardId(77) }).await.unwrap();
        change.commit().await.unwrap();
        let mut all = BTreeMap::new();
        for (environment, (locator, row)) in &accounts {
            let place = AccountPlace { environment: *environment, locator: *locator, shard: row.shard };
            assert_eq!(directory.place(&row.handle).await.unwrap(), Some(place));
            all.insert(row.handle, place);
        }
        let nobody = AccountPlace::unnamed(UnnamedRow { shard: ShardId(77) });
        assert_eq!(directory.place(&unnamed).await.unwrap(), Some(nobody));
        all.insert(unnamed, nobody);
        assert_eq!(directory.place(&handle_beside(&[9; 32], [50; 16])).await.unwrap(), None);
        assert_eq!(directory.place(&handle_beside(&[8; 32], [30; 16])).await.unwrap(), None);
        let bucket = handle_bucket(&unnamed);
        assert_eq!(directory.accounts(bucket).await.unwrap().into_iter().collect::<BTreeMap<_, _>>(), all);
        assert_eq!(directory.accounts(bucket + 1).await.unwrap(), []);
    });
}

#[test]
fn the_engine_remembers_no_digest_in_the_clear_and_a_bucket_is_proven_against_what_it_remembers() {
    let (_folder, storage, keyring) = engine();
    let name = RowName::ApiKey(Environment::Test, ApiKeyId::from_bytes([1; 12]));
    let bucket = name.bucket().unwrap();
    let directory = Directory::new(storage.directory(), Arc::clone(&keyring));
    block_on(async {
        let mut change = directory.change(&[name]).await.unwrap();
        change.put(name, &7u64).await.unwrap();
        change.commit().await.unwrap();
    });
    let kept = storage.directory().anchored(Mark::Bucket(bucket)).unwrap();
    let head = RowName::BucketHead(bucket).to_bytes();
    let sealed = block_on(storage.directory().load(&head)).unwrap().unwrap();
    let row: BucketHeadRow = decode(&keyring.open_row(&head, &sealed).unwrap()).unwrap();
    assert_ne!(row.digest, [0; 32]);
    assert_ne!(kept.digest, row.digest);

    let reopened = Directory::new(storage.directory(), Arc::clone(&keyring));
    assert_eq!(block_on(reopened.get::<u64>(name)).unwrap(), Some(7));
    // The same rows at the same sequence, and another digest remembered: as if others had been there.
    let step = MarkStep {
        mark: Mark::Bucket(bucket),
        expected: kept.sequence,
        next: Anchored { sequence: kept.sequence + 1, digest: row.digest },
    };
    let moved = keyring.seal_row(&head, kept.sequence + 1, &codec::encode(&row).unwrap());
    let commit = Commit { puts: vec![(head, moved)], removes: Vec::new(), marks: vec![step], ..Commit::default() };
    block_on(storage.directory().commit(commit)).unwrap();
    let reopened = Directory::new(storage.directory(), keyring);
    assert!(matches!(block_on(reopened.get::<u64>(name)), Err(Error::Corrupted(_))));
}
