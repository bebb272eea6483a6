//! The journal: keeps durable what happened to accounts until their own audits have it.
//!
//! A mint or a use is no change of its account, and a commit for each would cost some hundred times as much as the mint. So what all
//! accounts noted within [`AUDIT_DELAY`] becomes a row of the directory, whatever the number of accounts, and goes into each account's
//! audit with its next commit. An account that has none by itself is asked for one after [`MERGE_AFTER`], before
//! it is passivated, or when the journal gets long; a row goes when every account in it has done so.
//!
//! Notes are numbered (`domain/journal.rs`), so a note that both the journal and the audit have counts once, whenever the vault
//! stopped between the two.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::domain::directory::{JOURNAL_BUCKET, RowName};
use crate::domain::error::Error;
use crate::domain::journal::{EncodedRow, JournalRow, Noted, ROW_BYTES, Rows};
use crate::ids::{AccountHandle, ShardId};
use crate::memory;
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs};
use crate::runtime::core::{AUDIT_DELAY, Core};
use crate::runtime::desk::Desk;
use crate::runtime::handles::HandleMap;
use crate::runtime::pending::Handed;
use crate::storage::MAX_COMMIT_BYTES;

/// How long a note may stand in the journal alone.
const MERGE_AFTER: Duration = Duration::from_secs(30);

/// How often it is looked for notes that stood in it for longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// About how many bytes the journal's rows have at most; half of it stays when the oldest are merged. Bounds what opening reads and
/// what the notes that wait take of memory. Less has accounts at work merge more often, with a commit each.
const MAX_BYTES: usize = 64 * 1024 * 1024;

const UNREADABLE: Error = Error::Internal { doing: "encoding or decoding a row of the journal" };

/// How many accounts merge at the same time.
const AT_ONCE: usize = 64;

/// How many desks ahead memory is fetched: an account takes about as long as a line of memory.
const FETCHED_AHEAD: usize = 4;

/// How many rows are put in one commit: as many as fit into it.
const ROWS_AT_ONCE: usize = 3;
const _: () = assert!(ROWS_AT_ONCE * (ROW_BYTES + 1024) <= MAX_COMMIT_BYTES);

/// How many rows are removed in one commit.
const REMOVED_AT_ONCE: usize = 64;

/// What the journal holds.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// The number of the next row.
    next: u64,
    rows: BTreeMap<u64, Written>,
    bytes: usize,
    accounts: HandleMap<Waiting>,
    /// What was read when the vault was opened, for accounts that were not resident since.
    recovered: HandleMap<Vec<Noted>>,
    /// Whether the next merge begins with the last shard.
    backwards: bool,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    /// Milliseconds since the vault was opened.
    at: u64,
    bytes: usize,
}

/// An account whose audit may not have all that the journal has of it.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    shard: ShardId,
    /// Its notes are in this row and later ones.
    first_row: u64,
    /// The number of the note after its last one.
    next: u64,
}

impl Journal {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account's audit has its notes up to this number.
    pub(crate) fn merged(&self, handle: &AccountHandle, noted: u64) {
        let mut index = self.index();
        if index.accounts.get(handle).is_some_and(|waiting| waiting.next <= noted + 1) {
            index.accounts.remove(handle);
        }
    }

    /// The account is deleted: nobody will merge its notes.
    pub(crate) fn forget(&self, handle: &AccountHandle) {
        let mut index = self.index();
        index.accounts.remove(handle);
        index.recovered.remove(handle);
    }

    /// Rows, and accounts with notes in them.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn len(&self) -> (usize, usize) {
        let index = self.index();
        (index.rows.len(), index.accounts.len())
    }
}

impl Index {
    /// Numbers for so many rows. They are taken while the bucket is locked: whoever locks it next may come before the rows are added here.
    fn take_numbers(&mut self, count: usize) -> u64 {
        let first = self.next;
        self.next += count as u64;
        first
    }

    fn add(&mut self, number: u64, written: Written, accounts: impl Iterator<Item = (AccountHandle, ShardId, u64)>) {
        self.rows.insert(number, written);
        self.bytes += written.bytes;
        self.next = self.next.max(number + 1);
        for (handle, shard, next) in accounts {
            let waiting = self.accounts.entry(handle).or_insert(Waiting { shard, first_row: number, next });
            waiting.next = waiting.next.max(next);
        }
    }

    /// The last row that is old enough to be merged, or must be for the journal not to get too long.
    fn last_to_merge(&self, now: u64, after: Duration) -> Option<u64> {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let mut surplus = if self.bytes > MAX_BYTES { self.bytes - MAX_BYTES / 2 } else { 0 };
        let mut last = None;
        for (number, row) in &self.rows {
            if surplus == 0 && now.saturating_sub(row.at) < after {
                break;
            }
            surplus = surplus.saturating_sub(row.bytes);
            last = Some(*number);
        }
        last
    }

    /// Rows that every account has merged.
    fn done(&self) -> Vec<u64> {
        let first = self.accounts.values().map(|waiting| waiting.first_row).min().unwrap_or(self.next);
        self.rows.range(..first).map(|(number, _)| *number).collect()
    }
}

impl Core {
    /// Reads what the journal held when the vault was closed.
    pub(crate) async fn load_journal(&self) -> Result<(), Error> {
        let rows = self.directory.list_bytes(JOURNAL_BUCKET, |name| matches!(name, RowName::Journal(_))).await?;
        let mut index = self.journal.index();
        for (name, plain) in rows {
            let RowName::Journal(number) = name else { continue };
            let row = JournalRow::decode(&plain).map_err(|_| UNREADABLE)?;
            let written = Written { at: self.uptime_millis(), bytes: plain.len() };
            // Which shard is only asked for the order in which accounts are loaded.
            index.add(number, written, row.accounts.iter().map(|noted| (noted.handle, ShardId(0), noted.next())));
            for noted in row.accounts {
                index.recovered.entry(noted.handle).or_default().push(noted);
            }
        }
        Ok(())
    }

    /// What the journal has of an account, notes among it that its audit has already.
    pub(crate) async fn kept_in_journal(&self, handle: &AccountHandle) -> Result<Vec<Noted>, Error> {
        let (mut number, end) = {
            let mut index = self.journal.index();
            let Some(waiting) = index.accounts.get(handle).copied() else { return Ok(Vec::new()) };
            let recovered = index.recovered.remove(handle);
            if let Some(recovered) = recovered {
                return Ok(recovered);
            }
            (waiting.first_row, index.next)
        };
        // Its actor ended without merging what it had: the rows still have it.
        let mut kept = Vec::new();
        while number < end {
            if let Some(plain) = self.directory.get_bytes(RowName::Journal(number)).await? {
                let row = JournalRow::decode(&plain).map_err(|_| UNREADABLE)?;
                kept.extend(row.accounts.into_iter().filter(|noted| noted.handle == *handle));
            }
            number += 1;
        }
        Ok(kept)
    }

    /// Makes rows durable, with notes of these accounts in this order.
    async fn write_journal(&self, rows: Vec<EncodedRow>, desks: &[Arc<Desk>]) -> Result<(), Error> {
        let mut places = desks.iter();
        let mut place = places.next();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            // One writer at a time, and in order: the lock of the bucket.
            let mut change = self.directory.change(&[RowName::BucketHead(JOURNAL_BUCKET)]).await?;
            let first = self.journal.index().take_numbers(rows.len());
            for (number, row) in (first..).zip(rows) {
                change.put_passing(RowName::Journal(number), &row.plain).await?;
            }
            change.commit().await?;
            let at = self.uptime_millis();
            let mut index = self.journal.index();
            for (number, row) in (first..).zip(rows) {
                let accounts = row.accounts.iter().map(|(handle, next)| {
                    while place.is_some_and(|desk| desk.handle != *handle) {
                        place = places.next();
                    }
                    (*handle, place.map_or(ShardId(0), |desk| desk.shard), *next)
                });
                index.add(number, Written { at, bytes: row.plain.len() }, accounts);
            }
        }
        Ok(())
    }

    /// Has accounts merge what stands in the journal for long, until the vault closes.
    pub(crate) async fn keep_journal_short(self: Arc<Self>) {
        while !self.is_closing() {
            self.sleep_until_closing(LOOK_EVERY).await;
            match self.merge_journal(MERGE_AFTER).await {
                Ok(()) | Err(Error::Closed) => {}
                Err(error) => tracing::warn!(%error, "the audit's journal could not be shortened; it is tried again"),
            }
        }
    }

    /// Has accounts merge what stands in the journal for so long.
    pub(crate) async fn merge_journal(self: &Arc<Self>, after: Duration) -> Result<(), Error> {
        let (mut waiting, begun_at, backwards) = {
            let mut index = self.journal.index();
            let Some(last) = index.last_to_merge(self.uptime_millis(), after) else { return Ok(()) };
            let waiting: Vec<_> =
                index.accounts.iter().filter(|(_, at)| at.first_row <= last).map(|(handle, at)| (at.shard.0, *handle)).collect();
            index.backwards = !index.backwards;
            (waiting, index.next, index.backwards)
        };
        // One opening of a shard serves all that wait in it, and those that the merge before left open are the first.
        waiting.sort_unstable();
        if backwards {
            waiting.reverse();
        }
        let merged = futures_util::stream::iter(waiting).map(|(_, handle)| async move {
            let merged = self.ask_aside(handle, Merge).await;
            (handle, merged)
        });
        let mut merged = std::pin::pin!(merged.buffer_unordered(AT_ONCE));
        while let Some((handle, merged)) = merged.next().await {
            if self.is_closing() {
                return Err(Error::Closed);
            }
            match merged {
                Ok(noted) => {
                    self.journal.merged(&handle, noted);
                    if let Some(waiting) = self.journal.index().accounts.get_mut(&handle) {
                        // What was noted since is in later rows.
                        waiting.first_row = waiting.first_row.max(begun_at);
                    }
                }
                Err(Error::NotFound { .. }) => self.journal.forget(&handle),
                Err(error) => tracing::warn!(account = %handle, %error, "an account could not take its notes from the journal"),
            }
        }
        let done = self.journal.index().done();
        for numbers in done.chunks(REMOVED_AT_ONCE) {
            self.remove_rows(numbers).await?;
        }
        Ok(())
    }

    /// [`merge_journal`](Self::merge_journal) of everything, on the vault's own threads, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) async fn merge_journal_now(self: &Arc<Self>) -> Result<(), Error> {
        let core = Arc::clone(self);
        self.run("shortening the journal", async move { core.merge_journal(Duration::ZERO).await }).await
    }

    async fn remove_rows(&self, numbers: &[u64]) -> Result<(), Error> {
        let mut change = self.directory.change(&[RowName::BucketHead(JOURNAL_BUCKET)]).await?;
        for number in numbers {
            change.remove(RowName::Journal(*number)).await?;
        }
        change.commit().await?;
        let mut index = self.journal.index();
        for number in numbers {
            if let Some(row) = index.rows.remove(number) {
                index.bytes -= row.bytes;
            }
        }
        Ok(())
    }

    /// Sees to it that the journal takes an account's notes within [`AUDIT_DELAY`].
    pub(crate) fn list_notes(self: &Arc<Self>, desk: &Arc<Desk>) {
        if self.listed.add(desk) {
            self.arbiters.spawn(Arc::clone(self).keep_what_is_listed());
        }
    }

    async fn keep_what_is_listed(self: Arc<Self>) {
        loop {
            actix::clock::sleep(AUDIT_DELAY).await;
            match self.keep_notes(self.listed.take()).await {
                Ok(()) if self.listed.end() => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "audit entries could not be written");
                    if !error.is_retryable() {
                        // They go with the account's next commit, if there will be one.
                        self.listed.take();
                        if self.listed.end() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Has the journal take everything that was noted. For closing, when nothing is noted any more.
    pub(crate) async fn keep_all_notes(self: &Arc<Self>) -> Result<(), Error> {
        self.keep_notes(self.listed.take()).await
    }

    /// Asks an account for a commit of what waits.
    fn complete_soon(self: &Arc<Self>, handle: AccountHandle) {
        let core = Arc::clone(self);
        self.arbiters.spawn(async move {
            match core.ask_aside(handle, Merge).await {
                // Closing does it, or there is nothing left to do it for.
                Ok(_) | Err(Error::Closed | Error::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(account = %handle, %error, "a use could not be written; it is with the account's next");
                }
            }
        });
    }

    /// Has the journal take what these accounts noted and it does not have yet. After an error they are on the list again.
    pub(crate) async fn keep_notes(self: &Arc<Self>, all: Vec<Arc<Desk>>) -> Result<(), Error> {
        let mut rows = Rows::default();
        let hand = |desk: &Arc<Desk>| desk.pending().hand_to_journal(|first, entries| rows.add(desk.handle, first, entries));
        let handed: Vec<Option<Handed>> = fetching(&all).map(hand).collect();
        let written = self.write_journal(rows.finish(), &all).await;
        for (desk, handed) in fetching(&all).zip(handed) {
            match (&written, handed) {
                (Err(_), _) => {
                    self.listed.add(desk);
                }
                // A change took the entry along before its time had come, and not the use.
                (Ok(()), None) if desk.pending().has_bare_use() => self.complete_soon(desk.handle),
                (Ok(()), None) => {}
                (Ok(()), Some(handed)) => {
                    // What went into the account's audit meanwhile is not waited for.
                    let merged = desk.pending().kept(&handed);
                    if merged {
                        self.journal.merged(&desk.handle, handed.next - 1);
                    }
                }
            }
        }
        written
    }
}

/// Desks one after the other, each fetched while those before it are looked at.
fn fetching(desks: &[Arc<Desk>]) -> impl Iterator<Item = &Arc<Desk>> {
    let ahead = desks.iter().skip(FETCHED_AHEAD).map(Some).chain(std::iter::repeat(None));
    desks.iter().zip(ahead).map(|(desk, ahead)| {
        if let Some(ahead) = ahead {
            memory::fetch(Arc::as_ptr(ahead).cast(), Desk::FOR_TOKENS);
        }
        desk
    })
}

/// Writes what waits into the account's audit; answers up to which number the audit has its notes.
struct Merge;

impl Operation for Merge {
    type Answer = u64;
    const DOING: &'static str = "completing an account's audit";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<u64, Error> {
        account.flush().await?;
        account.with_state(|state| state.facts.noted)
    }
}
