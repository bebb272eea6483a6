//! The directory: which accounts, API keys and providers there are. Every answer, a miss above all, is given only after the
//! rows of its bucket were proven to be the ones last acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_lock::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::domain::directory::{AccountPlace, AccountRow, BUCKETS, BucketHeadRow, RowName, UnnamedRow, handle_bucket};
use crate::domain::error::{Damaged, Error, VaultPart};
use crate::domain::head::Digest;
use crate::domain::{Keyring, Label, Plaintext};
use crate::ids::AccountHandle;
use crate::storage::{Anchored, Commit, Mark, MarkStep, Row, StorageError, Tree};

/// A change names all its rows when it takes its locks; any other row is a fault in this crate.
const UNLOCKED: Error = Error::Internal { doing: "changing a directory row outside the locked buckets" };

const NAMED_TWICE: Error = Error::Internal { doing: "changing a directory row twice in one commit" };

/// Rows read in one step of a scan.
const SCAN_STEP: usize = 512;

/// Buckets begun in one commit: some 200 bytes each.
const BUCKETS_PER_COMMIT: usize = 256;

/// The directory of one vault.
pub(crate) struct Directory {
    tree: Arc<dyn Tree>,
    keyring: Arc<Keyring>,
    buckets: Box<[Bucket]>,
}

#[derive(Default)]
struct Bucket {
    proven: AtomicBool,
    /// One writer at a time; `None` until the bucket was proven.
    state: Mutex<Option<BucketState>>,
}

#[derive(Clone, Copy)]
struct BucketState {
    sequence: u64,
    digest: Digest,
}

impl Directory {
    pub(crate) fn new(tree: Arc<dyn Tree>, keyring: Arc<Keyring>) -> Self {
        Self { tree, keyring, buckets: (0..BUCKETS).map(|_| Bucket::default()).collect() }
    }

    /// One row, or the proof that there is none.
    pub(crate) async fn get<T: DeserializeOwned>(&self, name: RowName) -> Result<Option<T>, Error> {
        self.get_bytes(name).await?.map(|plain| decode(&plain)).transpose()
    }

    /// One row as it was sealed, or the proof that there is none.
    pub(crate) async fn get_bytes(&self, name: RowName) -> Result<Option<Plaintext>, Error> {
        if let Some(bucket) = name.bucket() {
            self.prove(bucket).await?;
        }
        let key = name.to_bytes();
        self.tree.load(&key).await?.map(|value| self.open(&key, &value)).transpose()
    }

    /// Where an account is, or the proof that there is none with this handle.
    pub(crate) async fn place(&self, handle: &AccountHandle) -> Result<Option<AccountPlace>, Error> {
        self.prove(handle_bucket(handle)).await?;
        let (start, end) = RowName::beside(handle);
        for (key, value) in self.scan(start, &end).await? {
            let Some(RowName::Account(environment, locator)) = RowName::parse(&key) else { continue };
            let row: AccountRow = decode(&self.open(&key, &value)?)?;
            if row.handle == *handle {
                return Ok(Some(AccountPlace { environment, locator, shard: row.shard }));
            }
        }
        Ok(self.get(RowName::Unnamed(*handle)).await?.map(AccountPlace::unnamed))
    }

    /// The accounts of one bucket, and where they are.
    pub(crate) async fn accounts(&self, bucket: u16) -> Result<Vec<(AccountHandle, AccountPlace)>, Error> {
        let rows = self.list_bytes(bucket, |name| matches!(name, RowName::Account(..) | RowName::Unnamed(_))).await?;
        rows.into_iter()
            .map(|(name, plain)| match name {
                RowName::Account(environment, locator) => {
                    let row: AccountRow = decode(&plain)?;
                    Ok((row.handle, AccountPlace { environment, locator, shard: row.shard }))
                }
                RowName::Unnamed(handle) => Ok((handle, AccountPlace::unnamed(decode::<UnnamedRow>(&plain)?))),
                _ => Err(Error::Internal { doing: "listing the accounts of a bucket" }),
            })
            .collect()
    }

    /// All rows of one bucket whose name `wanted` picks, in the order of their keys.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        bucket: u16,
        wanted: impl Fn(&RowName) -> bool,
    ) -> Result<Vec<(RowName, T)>, Error> {
        let rows = self.list_bytes(bucket, wanted).await?;
        rows.into_iter().map(|(name, plain)| Ok((name, decode(&plain)?))).collect()
    }

    /// [`list`](Self::list) of rows as they were sealed.
    pub(crate) async fn list_bytes(
        &self,
        bucket: u16,
        wanted: impl Fn(&RowName) -> bool,
    ) -> Result<Vec<(RowName, Plaintext)>, Error> {
        self.prove(bucket).await?;
        let (start, end) = RowName::bucket_range(bucket);
        let mut found = Vec::new();
        for (key, value) in self.scan(start, &end).await? {
            match RowName::parse(&key) {
                Some(name) if wanted(&name) => found.push((name, self.open(&key, &value)?)),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Rows of an API-key audit from `first` on, opened but not decoded.
    pub(crate) async fn scan_range(&self, start: Vec<u8>, end: &[u8], limit: usize) -> Result<Vec<(RowName, Plaintext)>, Error> {
        let rows = self.tree.scan(&start, end, limit).await?;
        rows.into_iter()
            .map(|(key, value)| {
                let name = RowName::parse(&key).ok_or_else(|| damaged("a row has a name that no row has"))?;
                Ok((name, self.open(&key, &value)?))
            })
            .collect()
    }

    /// Up to so many rows from `start` on that can be read and opened, proven or not; `start` moves behind them. Each was acknowledged
    /// once, and nothing says that it is the newest of its name, or that there were no others.
    pub(crate) async fn salvage(&self, start: &mut Vec<u8>, end: &[u8], limit: usize) -> Vec<(RowName, Plaintext)> {
        let mut found = Vec::new();
        // One at a time: a row that can't be read ends the scan, and must not take others with it.
        while found.len() < limit
            && let Ok(rows) = self.tree.scan(start, end, 1).await
            && let Some((key, value)) = rows.into_iter().next()
        {
            if let (Some(name), Ok(plain)) = (RowName::parse(&key), self.open(&key, &value)) {
                found.push((name, plain));
            }
            *start = [key.as_slice(), &[0]].concat();
        }
        found
    }

    /// Begins empty buckets at these sequences, each with a head over no row.
    pub(crate) async fn begin_at(&self, sequences: &[(u16, u64)]) -> Result<(), Error> {
        for some in sequences.chunks(BUCKETS_PER_COMMIT) {
            let mut commit = Commit::default();
            for &(bucket, sequence) in some {
                let (put, next) = self.sealed_head(bucket, BucketState { sequence, digest: Digest::EMPTY })?;
                commit.puts.push(put);
                commit.marks.push(MarkStep { mark: Mark::Bucket(bucket), expected: 0, next });
            }
            self.tree.commit(commit).await?;
        }
        Ok(())
    }

    /// A bucket's head, and what stands for it outside.
    fn sealed_head(&self, bucket: u16, state: BucketState) -> Result<(Row, Anchored), Error> {
        let key = RowName::BucketHead(bucket).to_bytes();
        let head = BucketHeadRow { digest: state.digest.bytes() };
        let plain = codec::encode(&head).map_err(|_| Error::Internal { doing: "encoding a bucket's head" })?;
        let value = self.keyring.seal_row(&key, state.sequence, &plain);
        let digest = state.digest.mark(&self.keyring, bucket, state.sequence);
        Ok(((key, value), Anchored { sequence: state.sequence, digest }))
    }

    /// Takes the write locks of all buckets that `names` fall into, in one order, so that two changes never wait for each other.
    pub(crate) async fn change(&self, names: &[RowName]) -> Result<Change<'_>, Error> {
        let mut wanted: Vec<u16> = names.iter().filter_map(RowName::bucket).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut locked = BTreeMap::new();
        for bucket in wanted {
            let mut guard = self.buckets[usize::from(bucket)].state.lock().await;
            let state = match *guard {
                Some(state) => state,
                None => self.prove_locked(bucket, &mut guard).await?,
            };
            locked.insert(bucket, Locked { next: state, touched: false, guard });
        }
        Ok(Change { directory: self, locked, named: BTreeSet::new(), commit: Commit::default() })
    }

    /// Proves a bucket once per opening; from then on the tree answers as it was proven.
    async fn prove(&self, bucket: u16) -> Result<(), Error> {
        let entry = &self.buckets[usize::from(bucket)];
        if entry.proven.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut guard = entry.state.lock().await;
        if guard.is_none() {
            self.prove_locked(bucket, &mut guard).await?;
        }
        Ok(())
    }

    async fn prove_locked(&self, bucket: u16, guard: &mut MutexGuard<'_, Option<BucketState>>) -> Result<BucketState, Error> {
        let head_key = RowName::BucketHead(bucket).to_bytes();
        let (start, end) = RowName::bucket_range(bucket);
        let mut head = None;
        let mut digest = Digest::EMPTY;
        for (key, value) in self.scan(start, &end).await? {
            if key == head_key {
                let revision =
                    crate::domain::row_revision(&value).ok_or_else(|| damaged("a bucket's head is not an envelope"))?;
                head = Some((revision, decode::<BucketHeadRow>(&self.open(&key, &value)?)?));
            } else {
                digest.toggle_element(&self.element(&key, &value));
            }
        }
        let anchored = self.tree.anchored(Mark::Bucket(bucket)).unwrap_or(Anchored { sequence: 0, digest: [0; 32] });
        let (sequence, recorded) = match head {
            Some((sequence, row)) => (sequence, row.digest),
            None => (0, Digest::EMPTY.bytes()),
        };
        if digest.bytes() != recorded {
            return Err(damaged("a bucket's rows are not those that its head covers"));
        }
        if sequence < anchored.sequence {
            let detail = "a bucket is older than its anchor";
            return Err(Error::RolledBack(Damaged { part: VaultPart::Directory, accounts: Vec::new(), detail: detail.into() }));
        }
        if sequence == anchored.sequence && sequence > 0 && anchored.digest != digest.mark(&self.keyring, bucket, sequence) {
            return Err(damaged("a bucket's head is not the one that its anchor remembers"));
        }
        let state = BucketState { sequence, digest };
        **guard = Some(state);
        self.buckets[usize::from(bucket)].proven.store(true, Ordering::Release);
        Ok(state)
    }

    async fn scan(&self, mut start: Vec<u8>, end: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let mut rows = Vec::new();
        loop {
            let step = self.tree.scan(&start, end, SCAN_STEP).await?;
            let last = step.len() < SCAN_STEP;
            if let Some((key, _)) = step.last() {
                start = [key.as_slice(), &[0]].concat();
            }
            rows.extend(step);
            if last {
                return Ok(rows);
            }
        }
    }

    fn open(&self, key: &[u8], value: &[u8]) -> Result<Plaintext, Error> {
        self.keyring.open_row(key, value).map_err(|_| damaged("a row does not open"))
    }

    fn element(&self, key: &[u8], value: &[u8]) -> [u8; 32] {
        self.keyring.mac(Label::DirectoryElement, &[key, value])
    }
}

/// A change of the directory that is being put together. It holds the locks of its buckets until it is committed or dropped.
/// Changes run on the vault's own threads, so that a caller who drops its future does not leave one half done.
pub(crate) struct Change<'a> {
    directory: &'a Directory,
    locked: BTreeMap<u16, Locked<'a>>,
    /// What was set or removed.
    named: BTreeSet<RowName>,
    commit: Commit,
}

struct Locked<'a> {
    next: BucketState,
    touched: bool,
    guard: MutexGuard<'a, Option<BucketState>>,
}

impl Change<'_> {
    /// Reads a row of a locked bucket as it is before this change.
    pub(crate) async fn get<T: DeserializeOwned>(&self, name: RowName) -> Result<Option<T>, Error> {
        let key = name.to_bytes();
        match self.directory.tree.load(&key).await? {
            Some(value) => decode(&self.directory.open(&key, &value)?).map(Some),
            None => Ok(None),
        }
    }

    /// [`get`](Self::get) of a row as it was sealed.
    pub(crate) async fn get_bytes(&self, name: RowName) -> Result<Option<Plaintext>, Error> {
        let key = name.to_bytes();
        let value = self.directory.tree.load(&key).await?;
        value.map(|value| self.directory.open(&key, &value)).transpose()
    }

    /// Sets a row. Each name at most once per change.
    pub(crate) async fn put<T: Serialize>(&mut self, name: RowName, row: &T) -> Result<(), Error> {
        self.put_bytes(name, &encoded(row)?).await
    }

    /// Sets a row of which [`get`](Self::get) of this change has found that it is not there. It is not read once more. Were it there, the digest
    /// would go wrong and the bucket count as damaged.
    pub(crate) async fn put_new<T: Serialize>(&mut self, name: RowName, row: &T) -> Result<(), Error> {
        debug_assert!(self.get_bytes(name).await?.is_none(), "a row that was there");
        let plain = encoded(row)?;
        self.name_once(name)?;
        let row = self.seal(name, name.to_bytes(), &plain)?;
        self.commit.puts.push(row);
        Ok(())
    }

    /// Sets a row to bytes that are encoded already.
    pub(crate) async fn put_bytes(&mut self, name: RowName, plain: &[u8]) -> Result<(), Error> {
        let row = self.sealed(name, plain).await?;
        self.commit.puts.push(row);
        Ok(())
    }

    /// The same for a row that will soon be removed.
    pub(crate) async fn put_passing(&mut self, name: RowName, plain: &[u8]) -> Result<(), Error> {
        let row = self.sealed(name, plain).await?;
        self.commit.passing.push(row);
        Ok(())
    }

    async fn sealed(&mut self, name: RowName, plain: &[u8]) -> Result<Row, Error> {
        let key = name.to_bytes();
        self.toggle_old(name, &key).await?;
        self.seal(name, key, plain)
    }

    /// Seals a row for this change, and takes it into its bucket's digest.
    fn seal(&mut self, name: RowName, key: Vec<u8>, plain: &[u8]) -> Result<Row, Error> {
        let revision = match name.bucket() {
            Some(bucket) => self.sequence(bucket)? + 1,
            None => 0,
        };
        let value = self.directory.keyring.seal_row(&key, revision, plain);
        if let Some(bucket) = name.bucket() {
            let element = self.directory.element(&key, &value);
            self.toggle(bucket, Some(&element))?;
        }
        Ok((key, value))
    }

    /// Removes a row, if it is there; says whether it was. Each name at most once per change.
    pub(crate) async fn remove(&mut self, name: RowName) -> Result<bool, Error> {
        let key = name.to_bytes();
        let present = self.toggle_old(name, &key).await?;
        if present {
            self.commit.removes.push(key);
        }
        Ok(present)
    }

    /// Makes the change durable.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        for (bucket, locked) in &mut self.locked {
            let Some(before) = *locked.guard else { continue };
            if !locked.touched {
                continue;
            }
            locked.next.sequence = before.sequence + 1;
            let (put, next) = self.directory.sealed_head(*bucket, locked.next)?;
            self.commit.puts.push(put);
            self.commit.marks.push(MarkStep { mark: Mark::Bucket(*bucket), expected: before.sequence, next });
        }
        match self.directory.tree.commit(std::mem::take(&mut self.commit)).await {
            Ok(()) => {
                for locked in self.locked.values_mut() {
                    *locked.guard = Some(locked.next);
                }
                Ok(())
            }
            Err(error) => {
                // What is durable now is not known here: have the buckets proven again.
                for (bucket, locked) in &mut self.locked {
                    *locked.guard = None;
                    self.directory.buckets[usize::from(*bucket)].proven.store(false, Ordering::Release);
                }
                Err(match error {
                    // Nobody else writes to the directory, and the buckets were proven.
                    StorageError::Conflict { .. } => damaged("the engine's mark is not where the bucket's head is"),
                    error => error.into(),
                })
            }
        }
    }

    fn sequence(&self, bucket: u16) -> Result<u64, Error> {
        self.locked.get(&bucket).map(|locked| locked.next.sequence).ok_or(UNLOCKED)
    }

    fn toggle(&mut self, bucket: u16, element: Option<&[u8; 32]>) -> Result<(), Error> {
        let locked = self.locked.get_mut(&bucket).ok_or(UNLOCKED)?;
        locked.touched = true;
        if let Some(element) = element {
            locked.next.digest.toggle_element(element);
        }
        Ok(())
    }

    /// A second time the row in the tree would no longer be the one before this change, and the digest would cover both.
    fn name_once(&mut self, name: RowName) -> Result<(), Error> {
        if self.named.insert(name) { Ok(()) } else { Err(NAMED_TWICE) }
    }

    /// Takes the present version of a row out of its bucket's digest. True when there is one.
    async fn toggle_old(&mut self, name: RowName, key: &[u8]) -> Result<bool, Error> {
        self.name_once(name)?;
        let Some(bucket) = name.bucket() else { return Ok(false) };
        let old = self.directory.tree.load(key).await?;
        let element = old.as_ref().map(|value| self.directory.element(key, value));
        self.toggle(bucket, element.as_ref())?;
        Ok(element.is_some())
    }
}

fn encoded<T: Serialize>(row: &T) -> Result<Vec<u8>, Error> {
    codec::encode(row).map_err(|_| Error::Internal { doing: "encoding a directory row" })
}

fn decode<T: DeserializeOwned>(plain: &Plaintext) -> Result<T, Error> {
    codec::decode(plain).map_err(|_| damaged("a row can't be decoded"))
}

fn damaged(detail: &'static str) -> Error {
    Error::Corrupted(Damaged { part: VaultPart::Directory, accounts: Vec::new(), detail: detail.into() })
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
