//! What happened to accounts and is not in their own audit yet, as the directory keeps it.
//!
//! Every note of an account has a number: 1 for the first one ever, one more for each after it, whether it went into the audit with
//! others or alone. The account's head says up to which number the audit has them, so that what stands in the journal as well is
//! told from what only the journal has.

use serde::{Deserialize, Serialize};

use crate::domain::audit::{AuditAction, AuditActor, NewEntry};
use crate::ids::AccountHandle;

/// About how many bytes one row of the journal has: well under what an engine takes.
const ROW_BYTES: usize = 40 * 1024;

/// A row of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalRow {
    pub(crate) accounts: Vec<Noted>,
}

/// Consecutive notes of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) handle: AccountHandle,
    /// The number of the first one.
    pub(crate) first: u64,
    pub(crate) entries: Vec<NewEntry>,
}

impl Noted {
    /// The number of the note that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.iter().map(notes).sum::<u64>()
    }
}

/// How many notes became this entry: refusals of one kind in a row are counted, everything else stands for itself.
pub(crate) fn notes(entry: &NewEntry) -> u64 {
    match entry.action {
        AuditAction::Denied { count, .. } => count,
        _ => 1,
    }
}

/// No fewer bytes than the entry and its link have when they are encoded.
pub(crate) fn weight(entry: &NewEntry) -> usize {
    /// Link, time, ids, tags and lengths.
    const FIXED: usize = 112;
    let actor = match &entry.actor {
        AuditActor::Session { subject: Some(subject), .. } => subject.len(),
        _ => 0,
    };
    let action = match &entry.action {
        AuditAction::CredentialUsed { host } => host.len(),
        AuditAction::Denied { what, .. } => what.len(),
        AuditAction::ConnectFailed { provider, reason } => provider.len() + reason.len(),
        AuditAction::ConnectBegun { provider }
        | AuditAction::ProviderSet { provider }
        | AuditAction::ProviderRemoved { provider }
        | AuditAction::OAuthClientSet { provider } => provider.len(),
        // No text is longer than what a provider may send as the name of its error.
        AuditAction::RefreshFailed { .. } => 256,
        _ => 0,
    };
    FIXED + actor + action
}

/// Puts notes into rows, in order.
pub(crate) fn rows(noted: impl IntoIterator<Item = Noted>) -> Vec<JournalRow> {
    let mut rows = Vec::new();
    let mut row = JournalRow { accounts: Vec::new() };
    let mut bytes = 0;
    for noted in noted {
        let mut part = Noted { handle: noted.handle, first: noted.first, entries: Vec::new() };
        for entry in noted.entries {
            let weight = weight(&entry);
            if bytes > 0 && bytes + weight > ROW_BYTES {
                let next = Noted { handle: part.handle, first: part.next(), entries: Vec::new() };
                row.accounts.extend(Some(std::mem::replace(&mut part, next)).filter(|part| !part.entries.is_empty()));
                rows.push(std::mem::replace(&mut row, JournalRow { accounts: Vec::new() }));
                bytes = 0;
            }
            bytes += weight;
            part.entries.push(entry);
        }
        row.accounts.extend(Some(part).filter(|part| !part.entries.is_empty()));
    }
    rows.extend(Some(row).filter(|row| !row.accounts.is_empty()));
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::codec;
    use crate::domain::denial::DenialReason;

    fn entry(kind: u8, length: usize) -> NewEntry {
        let action = match kind {
            0 => AuditAction::SecretRevealed,
            1 => AuditAction::Denied { what: "w".repeat(length), reason: DenialReason::Forged, count: 1 + length as u64 },
            _ => AuditAction::CredentialUsed { host: "h".repeat(length) },
        };
        NewEntry { at: Timestamp::from_millis(u64::MAX), actor: AuditActor::Vault, action, target: None }
    }

    proptest! {
        #[test]
        fn rows_hold_every_note_once_and_in_order_and_none_is_too_large(
            accounts in prop::collection::vec((any::<[u8; 16]>(), 1..99u64, prop::collection::vec((0..3u8, 0..300usize), 0..400)), 0..6),
        ) {
            let given: Vec<_> = accounts
                .iter()
                .map(|(handle, first, entries)| Noted {
                    handle: AccountHandle::from_bytes(*handle),
                    first: *first,
                    entries: entries.iter().map(|(kind, length)| entry(*kind, *length)).collect(),
                })
                .collect();
            let rows = rows(given.clone());
            let mut found: Vec<Noted> = Vec::new();
            for row in &rows {
                prop_assert!(codec::encode(row).unwrap().len() <= 48 * 1024);
                for part in &row.accounts {
                    prop_assert!(!part.entries.is_empty());
                    match found.last_mut() {
                        Some(last) if last.handle == part.handle => {
                            prop_assert_eq!(last.next(), part.first);
                            last.entries.extend(part.entries.iter().cloned());
                        }
                        _ => found.push(part.clone()),
                    }
                }
            }
            prop_assert_eq!(found, given.into_iter().filter(|noted| !noted.entries.is_empty()).collect::<Vec<_>>());
        }
    }
}
