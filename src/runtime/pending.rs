//! What happened to one account and is not in its audit yet. It goes there with the account's next commit; until then the vault's
//! journal keeps it durable.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::domain::audit::{self, AuditAction, NewEntry};
use crate::domain::journal::{Noted, notes, weight};
use crate::ids::{AccountHandle, ConnectionId};

/// How many bytes of entries that waited go into one commit: they fit beside the largest credential.
const BYTES_PER_COMMIT: usize = 38_400;

/// Entries in the order in which they happened, and when credentials were used.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: Vec<NewEntry>,
    /// The number of the first note in `entries`.
    first: u64,
    /// How many of the entries the journal has, and the number of the note after them.
    kept: usize,
    kept_next: u64,
    /// No refusal is counted into an entry before this one: it was handed to a commit or to the journal as it is.
    handed: usize,
    used: BTreeMap<ConnectionId, Timestamp>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.used.is_empty()
    }

    /// How many entries wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry, and remembers the use if it tells of one.
    pub(crate) fn note(&mut self, entry: NewEntry) {
        self.used.extend(use_of(&entry));
        if self.handed < self.entries.len() { audit::append(&mut self.entries, entry) } else { self.entries.push(entry) }
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
    pub(crate) fn has_bare_use(&self) -> bool {
        self.used.keys().any(|used| !self.entries.iter().any(|entry| entry.target == Some(*used)))
    }

    /// The account was loaded: its audit has the notes up to this number, some of which may wait here because it was not known
    /// whether the commit that brought them had succeeded.
    pub(crate) fn settle(&mut self, noted: u64) {
        let mut known = 0;
        let mut next = self.first;
        for entry in &self.entries {
            if next + notes(entry) > noted + 1 {
                break;
            }
            next += notes(entry);
            known += 1;
        }
        self.remove(known);
        if self.entries.is_empty() {
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
                    self.entries.push(entry);
                }
                number += count;
            }
        }
        self.kept = self.entries.len();
        self.handed = self.kept;
    }

    /// The entries for the next commit, oldest first: as many as fit into one beside whatever else it brings.
    pub(crate) fn hand_to_commit(&mut self) -> &[NewEntry] {
        let mut bytes = 0;
        let fitting = self.entries.iter().take_while(|entry| {
            bytes += weight(entry);
            bytes <= BYTES_PER_COMMIT
        });
        let count = fitting.count();
        self.handed = self.handed.max(count);
        &self.entries[..count]
    }

    /// Whether the entries need more than one commit.
    pub(crate) fn is_surplus(&self) -> bool {
        self.entries.iter().map(weight).sum::<usize>() > BYTES_PER_COMMIT
    }

    /// The first so many entries are in the audit.
    pub(crate) fn committed(&mut self, count: usize) {
        self.remove(count);
    }

    /// What the journal does not have yet.
    pub(crate) fn hand_to_journal(&mut self, handle: AccountHandle) -> Option<Noted> {
        let entries = self.entries.get(self.kept..).filter(|entries| !entries.is_empty())?.to_vec();
        self.handed = self.entries.len();
        Some(Noted { handle, first: self.kept_next, entries })
    }

    /// The journal has every note before this number. True when it is no longer needed for them.
    pub(crate) fn kept(&mut self, next: u64) -> bool {
        while self.kept_next < next
            && let Some(entry) = self.entries.get(self.kept)
        {
            self.kept_next += notes(entry);
            self.kept += 1;
        }
        self.first >= next && self.used.is_empty()
    }

    fn remove(&mut self, count: usize) {
        self.first += self.entries.drain(..count).map(|entry| notes(&entry)).sum::<u64>();
        self.kept = self.kept.saturating_sub(count);
        self.kept_next = self.kept_next.max(self.first);
        self.handed = self.handed.saturating_sub(count);
    }
}

/// The connection whose credential was used, and when, if that is what an entry tells.
fn use_of(entry: &NewEntry) -> Option<(ConnectionId, Timestamp)> {
    let used = matches!(entry.action, AuditAction::SecretRevealed | AuditAction::CredentialUsed { .. });
    entry.target.filter(|_| used).map(|connection| (connection, entry.at))
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
