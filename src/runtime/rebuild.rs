//! Making the directory anew from the shards, when the host asks for it.
//!
//! An account says of itself who it is, and when its tokens are due: its rows in the directory follow from its own records, which
//! prove themselves. What only the directory knows is taken over where the old one proves it; else it is lost. Of rows that can't be
//! proven, only what does no harm when it is old is used: that an account is being deleted, and which id an account has that can't
//! be read. Nothing is changed before everything was looked at, nor without the host's word if anything is lost.

mod report;
mod survey;

use std::sync::Arc;

use futures_channel::oneshot;

use crate::clock::Clock;
use crate::domain::directory::{AccountRow, BUCKETS, DueRow, RowName, UnnamedRow, WheelRow};
use crate::domain::error::{Error, OpenError};
use crate::domain::{KeyProvider, Keyring, Plaintext};
use crate::ids::Environment;
use crate::runtime::boot::{PlaceOptions, Seal, open_keyring};
use crate::runtime::directory::Directory;
use crate::runtime::head::VaultHead;
use crate::runtime::wheel::{LATER, slot_of};
use crate::storage::{AnchorHead, Mark, Place, Rebuilding};
pub use report::{Carried, RebuildError, RebuildReport};
use survey::{Entry, Survey};

/// Accounts entered in one commit: at most five rows each, and as many heads, of some 600 bytes with the longest id.
const ACCOUNTS_PER_COMMIT: usize = 48;

/// Other rows' bytes in one commit; the largest row by itself stays under the engine's limit with it.
const BYTES_PER_COMMIT: usize = 32 * 1024;

/// What rebuilding needs beside the place.
pub(crate) struct Wanted {
    pub(crate) root_key: Box<dyn KeyProvider>,
    pub(crate) previous_root_key: Option<Box<dyn KeyProvider>>,
    pub(crate) expected_head: Option<VaultHead>,
    pub(crate) accept_losses: bool,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Rebuilds the directory on a thread of its own, to its end even if the caller drops the future.
pub(crate) async fn rebuild_on_own_thread(place: PlaceOptions, wanted: Wanted) -> Result<RebuildReport, RebuildError> {
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("anchorhold-rebuild".into())
        .spawn(move || {
            let place = place.acquire().map_err(RebuildError::from);
            let outcome = place.and_then(|place| futures_lite::future::block_on(rebuild(place, &wanted)));
            // Whoever asked may have dropped its future.
            let _ = reply.send(outcome);
        })
        .map_err(|source| OpenError::Io { doing: "starting a thread", source: Arc::new(source) })?;
    answer.await.unwrap_or(Err(OpenError::Internal { doing: "rebuilding the directory" }.into()))
}

async fn rebuild(place: Box<dyn Place>, wanted: &Wanted) -> Result<RebuildReport, RebuildError> {
    // An empty directory has nothing to rebuild, and does not become a vault here.
    if place.header().map_err(OpenError::from)?.is_none() {
        return Err(OpenError::NotAVault.into());
    }
    let keyring = open_keyring(place.as_ref(), wanted.root_key.as_ref(), wanted.previous_root_key.as_deref())?;
    let keyring = Arc::new(keyring);
    let rebuilding = place.rebuild(Arc::new(Seal(Arc::clone(&keyring)))).await.map_err(OpenError::from)?;
    let made = make(rebuilding.as_ref(), &keyring, wanted).await;
    let done = match made {
        Ok((mut report, above)) => match rebuilding.finish(above).await {
            Ok(kept_aside) => {
                report.kept_aside = kept_aside;
                tracing::warn!(%report, "the directory was rebuilt");
                Ok(report)
            }
            Err(error) => Err(RebuildError::Interrupted { report: Box::new(report), source: Box::new(error.into()) }),
        },
        Err(error) => {
            if let Err(error) = rebuilding.abandon().await {
                tracing::warn!(%error, "after a directory that was not rebuilt");
            }
            Err(error)
        }
    };
    keyring.forget();
    done
}

/// Makes the new directory, where it replaces nothing yet; says which counter its anchor must be above.
async fn make(
    rebuilding: &dyn Rebuilding,
    keyring: &Arc<Keyring>,
    wanted: &Wanted,
) -> Result<(RebuildReport, u64), RebuildError> {
    let remembered = rebuilding.remembered();
    let above = match (wanted.expected_head, &remembered) {
        (Some(expected), Ok(head)) => {
            expected.check(keyring, *head)?;
            0
        }
        // Nothing to compare with but whose head it is; what is made from here on is above it.
        (Some(expected), Err(_)) => {
            expected.check(keyring, AnchorHead { counter: u64::MAX, digest: [0; 32] })?;
            expected.counter()
        }
        (None, _) => 0,
    };
    if let Err(reason) = &remembered {
        tracing::warn!(reason, "nothing remembers how far the shards had come");
    }
    let survey = Survey::of(rebuilding, keyring, remembered.is_ok()).await?;
    if survey.report.loses() && !wanted.accept_losses {
        return Err(RebuildError::WouldLose(Box::new(survey.report)));
    }
    let report = write(rebuilding, keyring, survey, wanted.clock.as_ref()).await.map_err(OpenError::from)?;
    Ok((report, above))
}

async fn write(
    rebuilding: &dyn Rebuilding,
    keyring: &Arc<Keyring>,
    survey: Survey,
    clock: &dyn Clock,
) -> Result<RebuildReport, Error> {
    let fresh = Directory::new(rebuilding.fresh().directory(), Arc::clone(keyring));
    let old = rebuilding.present().directory();
    // The new buckets go on from where the anchor remembers the old ones.
    let begins: Vec<_> = (0..BUCKETS)
        .filter_map(|bucket| old.anchored(Mark::Bucket(bucket)).map(|anchored| (bucket, anchored.sequence.saturating_add(1))))
        .collect();
    fresh.begin_at(&begins).await?;

    let position = slot_of(clock.now());
    let mut change = fresh.change(&[RowName::WheelPosition]).await?;
    change.put(RowName::WheelPosition, &WheelRow { slot: position }).await?;
    change.commit().await?;

    let Survey { report, old, entries, tombstones, carried, audits } = survey;
    let entries: Vec<_> = entries.into_iter().collect();
    for some in entries.chunks(ACCOUNTS_PER_COMMIT) {
        let due = |entry: &Entry| match entry {
            Entry::Whole(account) => account.due,
            // Nobody knows; the wheel asks and is put off.
            Entry::Damaged { .. } => Some(clock.now().plus(LATER)),
        };
        let slot = |entry: &Entry| due(entry).map(|due| slot_of(due).max(position.saturating_add(1)));
        let mut names = Vec::new();
        for (handle, entry) in some {
            names.push(entry.name(*handle));
            names.extend(slot(entry).map(|slot| RowName::Due(slot, *handle)));
        }
        let mut change = fresh.change(&names).await?;
        for (handle, entry) in some {
            let shard = entry.shard();
            let name = entry.name(*handle);
            match entry.id() {
                Some((id, created)) => {
                    let row = AccountRow { linked_account_id: id.to_owned(), handle: *handle, shard, created };
                    change.put(name, &row).await?;
                }
                None => change.put(name, &UnnamedRow { shard }).await?,
            }
            if let Some(slot) = slot(entry) {
                change.put(RowName::Due(slot, *handle), &DueRow { shard }).await?;
            }
        }
        change.commit().await?;
    }

    let tombstones: Vec<_> = tombstones.into_iter().collect();
    for some in tombstones.chunks(ACCOUNTS_PER_COMMIT) {
        let names: Vec<_> = some.iter().map(|(handle, _)| RowName::Tombstone(*handle)).collect();
        let mut change = fresh.change(&names).await?;
        for (handle, tombstone) in some {
            change.put(RowName::Tombstone(*handle), tombstone).await?;
        }
        change.commit().await?;
    }
    let mut batch = Batch { directory: &fresh, rows: Vec::new(), bytes: 0 };
    for (name, plain) in carried {
        batch.add(name, plain).await?;
    }
    if let (Some(old), true) = (&old, audits) {
        for environment in Environment::ALL {
            let (mut start, end) = RowName::audit_range(environment);
            loop {
                let rows = old.salvage(&mut start, &end, 16).await;
                if rows.is_empty() {
                    break;
                }
                for (name, plain) in rows {
                    batch.add(name, plain).await?;
                }
            }
        }
    }
    batch.write().await?;
    Ok(report)
}

/// Rows that go into the new directory as they are, several in a commit.
struct Batch<'a> {
    directory: &'a Directory,
    rows: Vec<(RowName, Plaintext)>,
    bytes: usize,
}

impl Batch<'_> {
    async fn add(&mut self, name: RowName, plain: Plaintext) -> Result<(), Error> {
        if !self.rows.is_empty() && self.bytes + plain.len() > BYTES_PER_COMMIT {
            self.write().await?;
        }
        self.bytes += plain.len();
        self.rows.push((name, plain));
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
        let mut change = self.directory.change(&names).await?;
        for (name, plain) in &rows {
            change.put_bytes(*name, plain).await?;
        }
        change.commit().await
    }
}
