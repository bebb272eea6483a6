//! What happened to accounts and is not in their own audit yet, as the directory keeps it.
//!
//! Every note of an account has a number: 1 for the first one ever, one more for each after it, whether it went into the audit with
//! others or alone. The account's head says up to which number the audit has them, so that what stands in the journal as well is
//! told from what only the journal has.

use crate::codec::{self, CodecError};
use crate::domain::audit::{AuditAction, NewEntry};
use crate::domain::entries::Slice;
use crate::domain::packed::{Packer, Unpacker};
use crate::ids::AccountHandle;

/// About how many bytes one row of the journal has: well under what an engine takes.
pub(crate) const ROW_BYTES: usize = 40 * 1024;

/// No fewer than the bytes of a part beside its entries: handle, number and length.
const MORE_BYTES: usize = 48;

/// A row of the journal.
///
/// ```text
/// row  = number of parts ‖ parts
/// part = handle(16) ‖ number of the first note ‖ number of entries ‖ packed entries
/// ```
///
/// What packed entries have in common, all entries of a row have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalRow {
    pub(crate) accounts: Vec<Noted>,
}

impl JournalRow {
    /// Reads a row.
    pub(crate) fn decode(plain: &[u8]) -> Result<Self, CodecError> {
        let mut from = codec::Reader::of(plain)?;
        let mut unpacker = Unpacker::default();
        let parts = from.number()?;
        let part = |_| {
            let (handle, first, count) = (AccountHandle::from_bytes(*from.array()?), from.number()?, from.number()?);
            // Each entry takes a byte at least, so that a wrong number ends soon.
            let entries = (0..count).map(|_| unpacker.next(&mut from)).collect::<Result<Vec<_>, _>>()?;
            // So that nobody who counts on from here goes beyond the last number.
            let next = entries.iter().map(notes).try_fold(first, u64::checked_add);
            next.ok_or(CodecError::of("notes beyond the last number"))?;
            Ok(Noted { handle, first, entries })
        };
        let accounts = (0..parts).map(part).collect::<Result<_, CodecError>>()?;
        from.finish()?;
        Ok(Self { accounts })
    }
}

/// Consecutive notes of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// An encoded [`JournalRow`], and the accounts in it, each with the number of its next note.
#[derive(Debug)]
pub(crate) struct EncodedRow {
    pub(crate) plain: Vec<u8>,
    pub(crate) accounts: Vec<(AccountHandle, u64)>,
}

/// A row in the making.
#[derive(Default)]
struct Row {
    packer: Packer,
    parts: Vec<u8>,
    accounts: Vec<(AccountHandle, u64)>,
}

impl Row {
    /// Adds as many of the entries as there is room for; answers how many. A row without any takes one, whatever its size.
    fn add(&mut self, handle: AccountHandle, first: u64, entries: Slice<'_>) -> usize {
        if self.accounts.is_empty() {
            self.parts.reserve(ROW_BYTES);
        }
        let room = ROW_BYTES.saturating_sub(self.parts.len() + MORE_BYTES);
        let (mut count, mut next) = (0, first);
        for (entry, notes) in entries.iter() {
            let fits = self.packer.len() + entry.most_bytes() <= room;
            // No entry has more than a few hundred bytes.
            let is_first = self.accounts.is_empty() && count == 0;
            if !fits && !is_first {
                break;
            }
            self.packer.push(entry);
            count += 1;
            next += notes;
        }
        if count > 0 {
            self.parts.extend_from_slice(handle.as_bytes());
            codec::put_number(first, &mut self.parts);
            codec::put_number(count as u64, &mut self.parts);
            self.packer.move_to(&mut self.parts);
            self.accounts.push((handle, next));
        }
        count
    }

    fn finish(self) -> EncodedRow {
        let mut row = codec::Parts::with_capacity(MORE_BYTES + self.parts.len());
        row.number(self.accounts.len() as u64);
        row.bytes(&self.parts);
        EncodedRow { plain: row.finish(), accounts: self.accounts }
    }
}

/// Puts notes into rows, in order.
#[derive(Default)]
pub(crate) struct Rows {
    full: Vec<EncodedRow>,
    row: Row,
}

impl Rows {
    /// Adds consecutive notes of one account, the first of which has this number.
    pub(crate) fn add(&mut self, handle: AccountHandle, mut first: u64, entries: Slice<'_>) {
        let mut rest = entries;
        while !rest.is_empty() {
            let (here, others) = rest.split_at(self.row.add(handle, first, rest));
            first += here.notes();
            rest = others;
            if !rest.is_empty() {
                self.full.push(std::mem::take(&mut self.row).finish());
            }
        }
    }

    pub(crate) fn finish(mut self) -> Vec<EncodedRow> {
        if !self.row.accounts.is_empty() {
            self.full.push(self.row.finish());
        }
        self.full
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::domain::audit::AuditActor;
    use crate::domain::denial::DenialReason;
    use crate::domain::entries::Entries;

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
            let mut rows = Rows::default();
            given.iter().for_each(|noted| rows.add(noted.handle, noted.first, Entries::of(&noted.entries).all()));
            let rows = rows.finish();
            let mut found: Vec<Noted> = Vec::new();
            for row in &rows {
                prop_assert!(row.plain.len() <= ROW_BYTES + MORE_BYTES);
                let read = JournalRow::decode(&row.plain).unwrap();
                let accounts: Vec<_> = read.accounts.iter().map(|part| (part.handle, part.next())).collect();
                prop_assert_eq!(&accounts, &row.accounts);
                for part in &read.accounts {
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
