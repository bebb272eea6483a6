//! What happened to one account and is not in its audit yet. It goes there with the account's next commit; until then the vault's
//! journal keeps it durable.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::domain::audit::{AuditAction, NewEntry};
use crate::domain::entries::{Entries, Place, Slice};
use crate::domain::journal::{Noted, notes};
use crate::ids::ConnectionId;

/// How many bytes of entries that waited go into one commit: they fit beside the largest credential.
const BYTES_PER_COMMIT: usize = 38_400;

/// An entry's share of what its segment has.
const MORE_BYTES: usize = 7;

/// Entries in the order in which they happened, and when credentials were used.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: Entries,
    /// The last one, if it is a refusal into which others may be counted: as long as it was handed to nobody.
    refusal: Option<Box<NewEntry>>,
    /// The number of the first note in `entries`.
    first: u64,
    /// Up to where the journal has the entries, and the number of the note after them.
    kept: Place,
    kept_next: u64,
    used: BTreeMap<ConnectionId, Timestamp>,
}

/// What was handed to the journal.
#[derive(Debug)]
pub(crate) struct Handed {
    /// The number of the note after it.
    pub(crate) next: u64,
    /// Where it ended, as long as the first entry is still the one of this note.
    end: Place,
    first: u64,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.used.is_empty()
    }

    /// How many entries wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() + usize::from(self.refusal.is_some())
    }

    /// Adds an entry, and remembers the use if it tells of one.
    pub(crate) fn note(&mut self, entry: NewEntry) {
        self.used.extend(use_of(&entry));
        if self.refusal.as_mut().is_some_and(|last| last.counts(&entry)) {
            return;
        }
        self.freeze();
        match entry.action {
            AuditAction::Denied { .. } => self.refusal = Some(Box::new(entry)),
            _ => self.entries.push(&entry),
        }
    }

    /// Nothing is counted into any entry any more.
    fn freeze(&mut self) {
        if let Some(entry) = self.refusal.take() {
            self.entries.push(&entry);
        }
    }

    /// When the connection was last used, if its record may not say so yet.
    pub(crate) fn touched(&self, connection: ConnectionId) -> Option<Timestamp> {
        self.used.get(&connection).copied()
    }

    /// The uses that connections' records may not tell of yet.
    pub(crate) fn uses(&self) -> &BTreeMap<ConnectionId, Timestamp> {
        &self.used
    }

    /// These uses stand in their connections' records.
    pub(crate) fn uses_written(&mut self, uses: &BTreeMap<ConnectionId, Timestamp>) {
        self.used.retain(|connection, at| uses.get(connection) != Some(at));
    }

    /// Whether a use is known to nothing but the audit and this: its entry is committed, and its connection's record is not.
    pub(crate) fn has_bare_use(&mut self) -> bool {
        if self.used.is_empty() {
            return false;
        }
        // What was encoded here decodes; were it otherwise, the use would be written once too often.
        let entries = self.entries.all().decode().unwrap_or_default();
        self.used.keys().any(|used| !entries.iter().any(|entry| entry.target == Some(*used)))
    }

    /// The account was loaded: its audit has the notes up to this number, some of which may wait here because it was not known
    /// whether the commit that brought them had succeeded.
    pub(crate) fn settle(&mut self, noted: u64) {
        let mut known = 0;
        let mut next = self.first;
        for (_, notes) in self.entries.all().iter() {
            if next + notes > noted + 1 {
                break;
            }
            next += notes;
            known += 1;
        }
        self.remove(known);
        if self.entries.is_empty() && self.refusal.is_none() {
            self.first = noted + 1;
            self.kept_next = noted + 1;
        }
    }

    /// Takes over what the journal kept from before, in order; of notes that the audit has only the uses. Called after [`settle`](Self::settle) on an account that was not
    /// resident, before anything else is noted.
    pub(crate) fn recover(&mut self, kept: impl IntoIterator<Item = Noted>) {
        for noted in kept {
            let mut number = noted.first;
            for entry in noted.entries {
                let count = notes(&entry);
                self.used.extend(use_of(&entry));
                if number == self.kept_next {
                    self.kept_next += count;
                    self.entries.push(&entry);
                }
                number += count;
            }
        }
        self.kept = self.entries.end();
    }

    /// The entries for the next commit, oldest first: as many as fit into one beside whatever else it brings.
    pub(crate) fn hand_to_commit(&mut self) -> Slice<'_> {
        self.freeze();
        let all = self.entries.all();
        all.split_at(fitting(all)).0
    }

    /// Whether the entries need more than one commit.
    pub(crate) fn is_surplus(&mut self) -> bool {
        self.freeze();
        let all = self.entries.all();
        fitting(all) < all.len()
    }

    /// The first so many entries are in the audit.
    pub(crate) fn committed(&mut self, count: usize) {
        self.remove(count);
    }

    /// Lends the entries that the journal does not have yet, with the number of their first note.
    pub(crate) fn hand_to_journal(&mut self, take: impl FnOnce(u64, Slice<'_>)) -> Option<Handed> {
        self.freeze();
        let entries = self.entries.since(self.kept);
        if entries.is_empty() {
            return None;
        }
        take(self.kept_next, entries);
        Some(Handed { next: self.kept_next + entries.notes(), end: self.entries.end(), first: self.first })
    }

    /// The journal has what was handed to it. True when it is no longer needed for that.
    pub(crate) fn kept(&mut self, handed: &Handed) -> bool {
        if self.first == handed.first {
            if self.kept_next < handed.next {
                (self.kept, self.kept_next) = (handed.end, handed.next);
            }
        } else {
            // Some went into the audit meanwhile, so the rest is counted.
            let (since, mut count) = (self.entries.since(self.kept), 0);
            for (_, notes) in since.iter() {
                if self.kept_next >= handed.next {
                    break;
                }
                self.kept_next += notes;
                count += 1;
            }
            self.kept = self.kept.behind(since.split_at(count).0);
        }
        self.first >= handed.next && self.used.is_empty()
    }

    fn remove(&mut self, count: usize) {
        let (notes, beginning) = self.entries.remove_first(count);
        self.first += notes;
        self.kept = self.kept.counted_from(beginning);
        self.kept_next = self.kept_next.max(self.first);
    }
}

/// How many of the first ones fit into one commit.
fn fitting(entries: Slice<'_>) -> usize {
    entries.fitting(BYTES_PER_COMMIT, MORE_BYTES)
}

/// The connection whose credential was used, and when, if that is what an entry tells.
fn use_of(entry: &NewEntry) -> Option<(ConnectionId, Timestamp)> {
    let used = matches!(entry.action, AuditAction::SecretRevealed | AuditAction::CredentialUsed { .. });
    entry.target.filter(|_| used).map(|connection| (connection, entry.at))
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
