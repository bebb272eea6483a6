//! The wheel of refreshes: every 16 seconds it takes the accounts that are due from the directory and has each look after its
//! tokens. Accounts that are not due cost nothing, resident or not.
//!
//! A row stands for one account and lies in the bucket of its slot of time. For each time that an account's records name there is a
//! row of that time or an earlier one: rows are durable before records that need them, and one is removed in the commit that puts the
//! next. So a crash leaves a row too many, never one too few.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::{Either, Fuse, FusedFuture as _, FutureExt as _, select};
use futures_util::stream::{Stream, StreamExt as _};

use crate::clock::Timestamp;
use crate::domain::directory::{ACCOUNT_BUCKETS, DueRow, RowName, WheelRow, due_bucket};
use crate::domain::error::Error;
use crate::ids::{AccountHandle, ShardId};
use crate::runtime::core::Core;
use crate::runtime::ops::refresh::RefreshDue;

/// A slot is 2^14 milliseconds.
const SLOT_BITS: u32 = 14;

/// How many accounts look after their tokens at the same time on the wheel's behalf.
const AT_ONCE: usize = 256;

/// How many slots the position may be ahead of what is durable: 17 minutes, so that a vault without OAuth hardly writes.
const SLOTS_PER_STORE: u32 = 64;

/// How many rows move in one commit at most: an engine removes few in one.
const MOVES: usize = 80;

/// When an account that could not be asked, or a connection that could not be helped, is asked again.
pub(crate) const LATER: Duration = Duration::from_secs(5 * 60);

/// How far the wheel has come.
#[derive(Debug, Default)]
pub(crate) struct Wheel {
    /// No row is put into this slot or one before it.
    position: AtomicU32,
    /// Everything up to this slot is taken care of.
    done: AtomicU32,
    /// What of it is durable.
    stored: AtomicU32,
    /// Held while it advances.
    advancing: async_lock::Mutex<()>,
}

/// A row that the wheel took.
struct Taken {
    slot: u32,
    handle: AccountHandle,
    shard: ShardId,
}

/// A row that the wheel took, and when its account wants to be looked after next.
type Answered = (Taken, Result<Option<Timestamp>, Error>);

impl Wheel {
    fn position(&self) -> u32 {
        self.position.load(Ordering::SeqCst)
    }
}

impl Core {
    /// Sees to it that the wheel looks after an account at `due`. Durable when this returns.
    pub(crate) async fn register_due(&self, handle: AccountHandle, shard: ShardId, due: Timestamp) -> Result<(), Error> {
        loop {
            let slot = slot_of(due).max(self.wheel.position().saturating_add(1));
            let name = RowName::Due(slot, handle);
            let mut change = self.directory.change(&[name]).await?;
            // The wheel comes to a slot before it takes the lock of its bucket, so that no row is put behind it.
            if slot <= self.wheel.position() {
                continue;
            }
            change.put(name, &DueRow { shard }).await?;
            return change.commit().await;
        }
    }

    /// Reads how far the wheel had come when the vault was closed.
    pub(crate) async fn load_wheel(&self) -> Result<(), Error> {
        let row: Option<WheelRow> = self.directory.get(RowName::WheelPosition).await?;
        let slot = match row {
            Some(row) => row.slot,
            // A vault without a position is new and has no rows.
            None => {
                let slot = slot_of(self.clock.now());
                self.store_position(slot).await?;
                slot
            }
        };
        self.wheel.position.store(slot, Ordering::SeqCst);
        self.wheel.done.store(slot, Ordering::SeqCst);
        self.wheel.stored.store(slot, Ordering::SeqCst);
        Ok(())
    }

    /// Turns the wheel until the vault closes.
    pub(crate) async fn turn_wheel(self: Arc<Self>) {
        while !self.is_closing() {
            if let Err(error) = self.advance_wheel().await
                && !self.is_closing()
            {
                tracing::warn!(%error, "due refreshes could not be looked after; they are tried again");
            }
            self.sleep_until_closing(Duration::from_millis(1 << SLOT_BITS)).await;
        }
    }

    /// Looks after everything that is due by now.
    pub(crate) async fn advance_wheel(self: &Arc<Self>) -> Result<(), Error> {
        let _advancing = self.wheel.advancing.lock().await;
        let from = self.wheel.done.load(Ordering::SeqCst);
        // The slot that now lies in is not over.
        let to = slot_of(self.clock.now()).saturating_sub(1);
        if to <= from {
            return Ok(());
        }
        self.wheel.position.fetch_max(to, Ordering::SeqCst);
        let moved = self.look_after(from, to).await?;
        self.wheel.done.store(to, Ordering::SeqCst);
        let stored = self.wheel.stored.load(Ordering::SeqCst);
        if moved || to.saturating_sub(stored) >= SLOTS_PER_STORE { self.store_position(to).await } else { Ok(()) }
    }

    async fn store_position(&self, slot: u32) -> Result<(), Error> {
        let mut change = self.directory.change(&[RowName::WheelPosition]).await?;
        change.put(RowName::WheelPosition, &WheelRow { slot }).await?;
        change.commit().await?;
        self.wheel.stored.store(slot, Ordering::SeqCst);
        Ok(())
    }

    /// [`advance_wheel`](Self::advance_wheel) on the vault's own threads, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) async fn refresh_what_is_due(self: &Arc<Self>) -> Result<(), Error> {
        let core = Arc::clone(self);
        self.run("refreshing what is due", async move { core.advance_wheel().await }).await
    }

    /// Says whether there was anything.
    async fn look_after(self: &Arc<Self>, from: u32, to: u32) -> Result<bool, Error> {
        let mut moved = false;
        let buckets = if to - from >= u32::from(ACCOUNT_BUCKETS) {
            (0..ACCOUNT_BUCKETS).collect::<Vec<_>>()
        } else {
            (from + 1..=to).map(due_bucket).collect()
        };
        for bucket in buckets {
            // Whoever was putting a row into this bucket has done so when its lock is free.
            drop(self.directory.change(&[RowName::BucketHead(bucket)]).await?);
            let due = |name: &RowName| matches!(name, RowName::Due(slot, _) if *slot <= to);
            let rows = self.directory.list::<DueRow>(bucket, due).await?;
            let mut taken: Vec<_> = rows
                .into_iter()
                .filter_map(|(name, row)| match name {
                    RowName::Due(slot, handle) => Some(Taken { slot, handle, shard: row.shard }),
                    _ => None,
                })
                .collect();
            // One opening of a shard serves all that is due in it.
            taken.sort_by_key(|taken| taken.shard.0);
            let asked = futures_util::stream::iter(taken).map(|taken| async move {
                let next = self.ask_aside(taken.handle, RefreshDue).await;
                (taken, next)
            });
            moved |= self.move_as_answered(asked.buffer_unordered(AT_ONCE)).await?;
        }
        Ok(moved)
    }

    /// Moves the rows of accounts that have answered while others are still asked. Says whether there were any.
    async fn move_as_answered(&self, answers: impl Stream<Item = Answered>) -> Result<bool, Error> {
        let mut answers = std::pin::pin!(answers);
        let mut moving = std::pin::pin!(Fuse::terminated());
        let mut waiting = Vec::new();
        let (mut moved, mut ended) = (false, false);
        loop {
            if self.is_closing() {
                // A commit that is under way is not left behind: what the directory holds in memory must be what it stored.
                if !moving.is_terminated() {
                    moving.as_mut().await?;
                }
                return Err(Error::Closed);
            }
            if moving.is_terminated() && !waiting.is_empty() {
                moved = true;
                let batch: Vec<_> = waiting.drain(..waiting.len().min(MOVES)).collect();
                moving.set(self.move_rows(batch).fuse());
            }
            if ended {
                if moving.is_terminated() {
                    return Ok(moved);
                }
                moving.as_mut().await?;
                continue;
            }
            match select(moving.as_mut(), answers.next()).await {
                Either::Left((done, _)) => done?,
                Either::Right((Some(answered), _)) => waiting.push(answered),
                Either::Right((None, _)) => ended = true,
            }
        }
    }

    /// Moves rows to where their accounts are due next.
    async fn move_rows(&self, answered: Vec<Answered>) -> Result<(), Error> {
        let after = self.wheel.position().saturating_add(1);
        let later = self.clock.now().plus(LATER);
        let moves: Vec<_> = answered
            .into_iter()
            .filter_map(|(taken, next)| {
                let next = match next {
                    Ok(next) => next,
                    // The account is gone, and its row goes too.
                    Err(Error::NotFound { .. }) => None,
                    Err(Error::Closed) => return None,
                    Err(error) => {
                        tracing::warn!(account = %taken.handle, %error, "an account could not look after its tokens");
                        Some(later)
                    }
                };
                let next = next.map(|due| RowName::Due(slot_of(due).max(after), taken.handle));
                Some((RowName::Due(taken.slot, taken.handle), next, DueRow { shard: taken.shard }))
            })
            .collect();
        // An account may have had several rows; they become one.
        let placed: BTreeMap<_, _> = moves.iter().filter_map(|(_, new, row)| Some(((*new)?, *row))).collect();
        let names: Vec<_> = moves.iter().map(|(old, ..)| *old).chain(placed.keys().copied()).collect();
        let mut change = self.directory.change(&names).await?;
        for (old, ..) in moves {
            change.remove(old).await?;
        }
        for (new, row) in placed {
            change.put(new, &row).await?;
        }
        change.commit().await
    }
}

/// The slot of time that a time lies in.
pub(crate) fn slot_of(time: Timestamp) -> u32 {
    u32::try_from(time.as_millis() >> SLOT_BITS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_sixteen_seconds_and_slots_never_end() {
        assert_eq!(slot_of(Timestamp::from_millis(0)), 0);
        assert_eq!(slot_of(Timestamp::from_millis(16_384)), 1);
        assert_eq!(slot_of(Timestamp::from_millis(u64::MAX)), u32::MAX);
    }
}
