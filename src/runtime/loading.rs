//! Reads an account from its tree and proves it, whoever asks: its actor, or the rebuilding of the directory.

use std::sync::Arc;

use crate::domain::Keyring;
use crate::domain::account::keys::MaskedKeys;
use crate::domain::account::records::{Owner, RecordKey};
use crate::domain::account::state::{AccountState, Damage};
use crate::domain::error::{Damaged, Error, VaultPart};
use crate::ids::{AccountHandle, ShardId};
use crate::storage::{Mark, Row, Storage, StorageError, Tree};

/// What is told of keys that were wrapped for another account, or by another root key.
pub(crate) const KEYS: Damage = Damage("the account's keys do not open");

/// Rows read in one step of a scan.
const SCAN_STEP: usize = 256;

/// Reads an account's rows and proves that they are the ones last acknowledged; its keys come with it, masked.
pub(crate) async fn load_proven(
    storage: &dyn Storage,
    keyring: &Keyring,
    shard: ShardId,
    owner: Owner,
) -> Result<(Arc<dyn Tree>, AccountState, MaskedKeys), Error> {
    let damaged = |damage| damaged(shard, owner.handle, damage);
    let tree = match storage.tree(shard, owner.handle).await {
        Ok(tree) => tree,
        // The directory proved that the account exists.
        Err(StorageError::NoTree) => return Err(Error::Corrupted(damaged(Damage("the account's tree is missing")))),
        Err(error) => return Err(error.into()),
    };
    let mut rows = Vec::new();
    for (start, end) in RecordKey::covered_ranges() {
        scan_all(tree.as_ref(), start, end, &mut rows).await?;
    }
    let (state, keys) = AccountState::load(keyring, owner, &rows).map_err(|damage| Error::Corrupted(damaged(damage)))?;
    if tree.anchored(Mark::Account).is_some_and(|anchored| state.facts.sequence < anchored.sequence) {
        return Err(Error::RolledBack(damaged(Damage("the account is older than its anchor"))));
    }
    let last = state.facts.audit.last_segment;
    if last != 0 {
        let sealed = tree.load(&RecordKey::Audit(last).to_bytes()).await?;
        state.prove_last_segment(&keys.unmask(keyring), sealed.as_deref()).map_err(|damage| Error::Corrupted(damaged(damage)))?;
    }
    Ok((tree, state, keys))
}

/// What is told of damage to one account's rows.
pub(crate) fn damaged(shard: ShardId, handle: AccountHandle, damage: Damage) -> Damaged {
    Damaged { part: VaultPart::Shard(shard), accounts: vec![handle], detail: damage.0.into() }
}

/// Reads a whole range in steps.
pub(crate) async fn scan_all(tree: &dyn Tree, start: &[u8], end: &[u8], rows: &mut Vec<Row>) -> Result<(), Error> {
    let mut start = start.to_vec();
    loop {
        let step = tree.scan(&start, end, SCAN_STEP).await?;
        let last = step.len() < SCAN_STEP;
        if let Some((key, _)) = step.last() {
            start = [key.as_slice(), &[0]].concat();
        }
        rows.extend(step);
        if last {
            return Ok(());
        }
    }
}
