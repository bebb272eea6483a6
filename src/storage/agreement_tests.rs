//! Both engines, given the same calls, answer the same. That is what lets the tests above use the model.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::sync::Arc;

use futures_lite::future::block_on;
use proptest::prelude::*;

use super::model::{ModelDisk, ModelPlace};
use super::sled::{SledOptions, SledPlace};
use super::tests::{TestSeal, commit, handle};
use super::*;

const TREES_IN_A_SHARD: usize = 3;

#[derive(Clone, Debug)]
enum Call {
    Create(u16),
    Commit { account: u16, puts: Vec<(u8, usize)>, removes: Vec<u8>, wrong_mark: bool },
    Load(u16, u8),
    Scan(u16, u8, u8, usize),
    Directory { bucket: u16, key: u8, length: usize },
    Shred(Vec<u16>),
    Members(u16),
    SyncAnchors,
    Reopen { close: bool },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let account = 0..7_u16;
    let key = 0..6_u8;
    let length = prop_oneof![0..50_usize, 4000..4200_usize, 9000..20_000_usize];
    let call = prop_oneof![
        3 => account.clone().prop_map(Call::Create),
        8 => (account.clone(), prop::collection::vec((key.clone(), length.clone()), 0..4), prop::collection::vec(key.clone(), 0..3), prop::bool::weighted(0.1))
            .prop_map(|(account, puts, removes, wrong_mark)| Call::Commit { account, puts, removes, wrong_mark }),
        2 => (account.clone(), key.clone()).prop_map(|(account, key)| Call::Load(account, key)),
        2 => (account.clone(), key.clone(), key.clone(), 0..5_usize).prop_map(|(account, start, end, limit)| Call::Scan(account, start, end, limit)),
        2 => (0..3_u16, key, length).prop_map(|(bucket, key, length)| Call::Directory { bucket, key, length }),
        1 => prop::collection::vec(account.clone(), 0..3).prop_map(Call::Shred),
        1 => account.prop_map(Call::Members),
        1 => Just(Call::SyncAnchors),
        2 => any::<bool>().prop_map(|close| Call::Reopen { close }),
    ];
    prop::collection::vec(call, 1..40)
}

/// One engine with what its caller remembers.
struct Side<'a> {
    acquire: &'a dyn Fn() -> Box<dyn Place>,
    storage: Option<Arc<dyn Storage>>,
    /// Where each account is. Engines may choose different shards.
    accounts: BTreeMap<u16, (ShardId, u64)>,
    buckets: BTreeMap<u16, u64>,
}

/// What a call answered, in a form that both engines share.
#[derive(Debug, PartialEq)]
enum Said {
    Done,
    Rows(Vec<Row>, Option<Anchored>),
    Members(Vec<AccountHandle>),
    Error(std::mem::Discriminant<StorageError>),
}

impl Side<'_> {
    fn storage(&mut self) -> Arc<dyn Storage> {
        let open = || block_on((self.acquire)().start(Arc::new(TestSeal))).unwrap();
        self.storage.get_or_insert_with(open).clone()
    }

    fn call(&mut self, call: &Call) -> Said {
        self.answer(call).unwrap_or_else(|error| {
            println!("{call:?} answers {error:?}");
            Said::Error(discriminant(&error))
        })
    }

    fn tree(&mut self, account: u16) -> Result<Arc<dyn Tree>, StorageError> {
        let shard = self.accounts.get(&account).map_or(ShardId(0), |(shard, _)| *shard);
        block_on(self.storage().tree(shard, handle(account)))
    }

    fn answer(&mut self, call: &Call) -> Result<Said, StorageError> {
        let storage = self.storage();
        match call {
            Call::Create(account) => {
                // Whether the same handle may be made again in another shard is not the engine's business.
                if self.accounts.contains_key(account) {
                    return Ok(Said::Done);
                }
                let shard = block_on(storage.create(handle(*account), commit(0, &[(b"first", b"row")])))?;
                self.accounts.insert(*account, (shard, 1));
            }
            Call::Commit { account, puts, removes, wrong_mark } => {
                let tree = self.tree(*account)?;
                let Some((_, sequence)) = self.accounts.get_mut(account) else { return Ok(Said::Done) };
                let mut commit = commit(*sequence + u64::from(*wrong_mark), &[]);
                commit.puts = puts.iter().map(|(key, length)| (vec![*key], vec![*key ^ *sequence as u8; *length])).collect();
                commit.removes = removes.iter().map(|key| vec![*key]).collect();
                block_on(tree.commit(commit))?;
                *sequence += 1;
                return Ok(Said::Rows(Vec::new(), tree.anchored(Mark::Account)));
            }
            Call::Load(account, key) => {
                let tree = self.tree(*account)?;
                let row = block_on(tree.load(&[*key]))?.map(|value| (vec![*key], value));
                return Ok(Said::Rows(row.into_iter().collect(), tree.anchored(Mark::Account)));
            }
            Call::Scan(account, start, end, limit) => {
                let tree = self.tree(*account)?;
                return Ok(Said::Rows(block_on(tree.scan(&[*start], &[*end], *limit))?, tree.anchored(Mark::Account)));
            }
            Call::Directory { bucket, key, length } => {
                let directory = storage.directory();
                let expected = self.buckets.entry(*bucket).or_default();
                let next = Anchored { sequence: *expected + 1, digest: [*key; 32] };
                let marks = vec![MarkStep { mark: Mark::Bucket(*bucket), expected: *expected, next }];
                let puts = vec![(vec![*bucket as u8, *key], vec![*key; *length])];
                block_on(directory.commit(Commit { puts, removes: Vec::new(), marks, ..Commit::default() }))?;
                *expected += 1;
                let rows = block_on(directory.scan(b"", &[0xff], usize::MAX))?;
                return Ok(Said::Rows(rows, directory.anchored(Mark::Bucket(*bucket))));
            }
            Call::Shred(accounts) => {
                for account in accounts {
                    if let Some((shard, _)) = self.accounts.remove(account) {
                        block_on(storage.shred(shard, vec![handle(*account)]))?;
                    }
                }
            }
            Call::Members(account) => {
                let Some((shard, _)) = self.accounts.get(account) else { return Ok(Said::Done) };
                let shard = *shard;
                let expected: Vec<_> =
                    self.accounts.iter().filter(|(_, (of, _))| *of == shard).map(|(number, _)| handle(*number)).collect();
                assert_eq!(block_on(storage.members(shard))?, expected);
            }
            Call::SyncAnchors => {
                block_on(storage.sync_anchors())?;
            }
            Call::Reopen { close } => {
                if *close {
                    block_on(storage.close())?;
                }
                drop(storage);
                self.storage = None;
            }
        }
        let storage = self.storage();
        let mut members = Vec::new();
        for shard in storage.shards() {
            members.extend(block_on(storage.members(shard))?);
        }
        members.sort();
        Ok(Said::Members(members))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn engines_agree_on_every_answer(calls in calls()) {
        let disk = ModelDisk::new();
        disk.set_trees_per_shard(TREES_IN_A_SHARD);
        let dir = tempfile::tempdir().unwrap();
        let options = SledOptions { trees_per_shard: TREES_IN_A_SHARD, max_open_shards: 2, ..SledOptions::default() };
        let model = || Box::new(ModelPlace::acquire(&disk).unwrap()) as Box<dyn Place>;
        let sled = || Box::new(SledPlace::acquire(&dir.path().join("vault"), options.clone()).unwrap()) as Box<dyn Place>;
        let mut sides = [&model as &dyn Fn() -> _, &sled].map(|acquire| {
            acquire().write_header(b"header").unwrap();
            Side { acquire, storage: None, accounts: BTreeMap::new(), buckets: BTreeMap::new() }
        });
        for call in &calls {
            let [model, sled] = sides.each_mut().map(|side| side.call(call));
            prop_assert_eq!(model, sled, "{:?}", call);
        }
    }
}
