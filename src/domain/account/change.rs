//! A change of an account, put together in memory: rows, digest, audit entries and head become one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::codec;
use crate::crypto::envelope;
use crate::domain::account::keys::AccountKeys;
use crate::domain::account::records::{ConnectionRecord, HeadRecord, InfoRecord, RecordKey, RefreshRecord, SpentToken};
use crate::domain::account::state::{AccountState, Facts, Stamp};
use crate::domain::audit;
use crate::domain::entries::{Entries, Slice};
use crate::domain::error::Error;
use crate::domain::head::Digest;
use crate::domain::{Key, Label};
use crate::ids::{ConnectionId, SessionTokenId};

/// The most marks of tokens that one change drops: an engine takes few removals in one commit.
pub(crate) const MAX_FORGOTTEN: usize = 64;

/// A finished change: what to write, and what the state becomes when it is durable.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) puts: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) removes: Vec<Vec<u8>>,
    /// The sequence that the change was made on.
    pub(crate) before: u64,
    pub(crate) facts: Facts,
    pub(crate) stamps: BTreeMap<RecordKey, Option<Stamp>>,
    pub(crate) spent: Option<Arc<BTreeMap<SessionTokenId, SpentToken>>>,
    pub(crate) dues: BTreeMap<ConnectionId, Option<Timestamp>>,
    /// Connections whose facts are put, and whether each is disabled.
    pub(crate) disabled: BTreeMap<ConnectionId, bool>,
}

/// A change in the making.
pub(crate) struct Draft<'a> {
    state: &'a AccountState,
    keys: &'a AccountKeys,
    facts: Facts,
    rows: BTreeMap<RecordKey, Option<Vec<u8>>>,
    spent: Option<BTreeMap<SessionTokenId, SpentToken>>,
    dues: BTreeMap<ConnectionId, Option<Timestamp>>,
    disabled: BTreeMap<ConnectionId, bool>,
    entries: Entries,
    pruned: Vec<u64>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(state: &'a AccountState, keys: &'a AccountKeys) -> Self {
        let mut facts = state.facts.clone();
        facts.sequence += 1;
        Self {
            state,
            keys,
            facts,
            rows: BTreeMap::new(),
            spent: None,
            dues: BTreeMap::new(),
            disabled: BTreeMap::new(),
            entries: Entries::default(),
            pruned: Vec::new(),
        }
    }

    /// A change that is the first under other keys: the digest is made anew, and `keys` seal what the change puts.
    pub(crate) fn rekeyed(state: &'a AccountState, keys: &'a AccountKeys) -> Self {
        let mut draft = Self::new(state, keys);
        draft.facts.digest = Digest::EMPTY;
        for (key, stamp) in &state.index {
            draft.facts.digest.toggle(&keys.digest, &key.to_bytes(), stamp.revision, &stamp.tag);
        }
        draft
    }

    /// The facts as they will be; the sequence is the new one already.
    pub(crate) fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// Sets a record whose content is not secret.
    pub(crate) fn put<T: Serialize>(&mut self, key: RecordKey, record: &T) -> Result<(), Error> {
        let plain = codec::encode(record).map_err(|_| Error::Internal { doing: "encoding a record" })?;
        self.put_bytes(key, &plain);
        Ok(())
    }

    /// Sets a record to bytes that are laid out already; secrets come this way, from a buffer that wipes itself.
    pub(crate) fn put_bytes(&mut self, key: RecordKey, plain: &[u8]) {
        let sealed = seal_record(&self.keys.records.current, &self.facts, self.state, key, plain);
        self.rows.insert(key, Some(sealed));
    }

    /// Sets a row that is an envelope already: a wrapped key.
    pub(crate) fn put_sealed(&mut self, key: RecordKey, sealed: Vec<u8>) {
        self.rows.insert(key, Some(sealed));
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, key: RecordKey) {
        self.rows.insert(key, None);
    }

    /// Sets the account's own record and the facts that mirror it.
    pub(crate) fn put_info(&mut self, info: &InfoRecord) -> Result<(), Error> {
        self.facts.disabled = info.disabled;
        self.facts.epoch = info.epoch;
        self.facts.key_version = info.key_version;
        self.put(RecordKey::Info, info)
    }

    pub(crate) fn put_connection(&mut self, id: ConnectionId, record: &ConnectionRecord) -> Result<(), Error> {
        self.disabled.insert(id, record.disabled);
        self.put(RecordKey::Connection(id), record)
    }

    /// Sets how a connection's tokens are refreshed; the caller has seen to it that the directory knows of the time.
    pub(crate) fn put_refresh(&mut self, id: ConnectionId, record: &RefreshRecord) -> Result<(), Error> {
        self.dues.insert(id, record.due);
        self.put(RecordKey::Refresh(id), record)
    }

    /// Removes how a connection's tokens were refreshed, and the refresh token that was replaced.
    pub(crate) fn remove_refresh(&mut self, id: ConnectionId) {
        self.dues.insert(id, None);
        self.remove(RecordKey::Refresh(id));
        self.remove(RecordKey::PreviousToken(id));
    }

    /// Marks a token as no longer good, and drops some marks of tokens that are expired by now.
    pub(crate) fn spend(&mut self, id: SessionTokenId, token: SpentToken, now: Timestamp) -> Result<(), Error> {
        let expired: Vec<_> =
            self.state.spent.iter().filter(|(_, token)| token.until <= now).map(|(id, _)| *id).take(MAX_FORGOTTEN).collect();
        self.forget(&expired);
        self.spent_mut().insert(id, token);
        self.put(RecordKey::SpentToken(id), &token)
    }

    /// Drops marks that say nothing any more, at most [`MAX_FORGOTTEN`] in one change.
    pub(crate) fn forget(&mut self, tokens: &[SessionTokenId]) {
        for id in tokens {
            self.rows.insert(RecordKey::SpentToken(*id), None);
            self.spent_mut().remove(id);
        }
    }

    fn spent_mut(&mut self) -> &mut BTreeMap<SessionTokenId, SpentToken> {
        self.spent.get_or_insert_with(|| (*self.state.spent).clone())
    }

    /// Adds entries to the audit, in order.
    pub(crate) fn audit(&mut self, entries: impl IntoIterator<Item = audit::NewEntry>) {
        for entry in entries {
            self.entries.push(&entry);
        }
    }

    /// Adds entries that were noted before, and so have numbers.
    pub(crate) fn audit_noted(&mut self, entries: Slice<'_>) {
        self.facts.noted += entries.notes();
        self.entries.extend(entries);
    }

    /// Removes the segment of the audit that begins with this sequence. The caller sets the chain's first end.
    pub(crate) fn remove_segment(&mut self, first: u64) {
        self.pruned.push(first);
    }

    /// Seals the audit entries and the head, and hands out the commit.
    pub(crate) fn finish(mut self) -> Result<Change, Error> {
        let mut puts = Vec::new();
        let mut removes = Vec::new();
        let mut stamps = BTreeMap::new();
        for (key, row) in std::mem::take(&mut self.rows) {
            if let Some(old) = self.state.stamp(key) {
                self.facts.digest.toggle(&self.keys.digest, &key.to_bytes(), old.revision, &old.tag);
            }
            match row {
                Some(sealed) => {
                    let stamp = Stamp::of(&sealed).map_err(|_| Error::Internal { doing: "sealing a record" })?;
                    self.facts.digest.toggle(&self.keys.digest, &key.to_bytes(), stamp.revision, &stamp.tag);
                    stamps.insert(key, Some(stamp));
                    puts.push((key.to_bytes(), sealed));
                }
                None if self.state.stamp(key).is_some() => {
                    stamps.insert(key, None);
                    removes.push(key.to_bytes());
                }
                None => {}
            }
        }
        removes.extend(self.pruned.iter().map(|first| RecordKey::Audit(*first).to_bytes()));
        self.seal_entries(&mut puts);
        puts.push((RecordKey::Head.to_bytes(), self.seal_head()?));
        Ok(Change {
            puts,
            removes,
            before: self.state.facts.sequence,
            facts: self.facts,
            stamps,
            spent: self.spent.map(Arc::new),
            dues: self.dues,
            disabled: self.disabled,
        })
    }

    fn seal_entries(&mut self, puts: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        for entries in std::mem::take(&mut self.entries).all().chunks(audit::SEGMENT_ENTRIES) {
            let chain = &mut self.facts.audit;
            let first = chain.next_sequence;
            let mac = |parts: &[&[u8]]| self.keys.audit.chain.mac(Label::AuditChain, parts);
            let (plain, link) = audit::encode_segment(mac, first, &chain.last_link, entries);
            chain.last_link = link;
            chain.last_segment = first;
            chain.next_sequence += entries.len() as u64;
            let key = RecordKey::Audit(first);
            let sealed = self.state.owner.with_aad(key, |aad| envelope::seal(&self.keys.audit.record, 1, aad, first, &plain));
            puts.push((key.to_bytes(), sealed));
        }
    }

    fn seal_head(&self) -> Result<Vec<u8>, Error> {
        let head = HeadRecord { digest: self.facts.digest.bytes(), audit: self.facts.audit.clone(), noted: self.facts.noted };
        let plain = codec::encode(&head).map_err(|_| Error::Internal { doing: "encoding the head" })?;
        Ok(self.state.owner.with_aad(RecordKey::Head, |aad| {
            envelope::seal(&self.keys.head, self.facts.key_version, aad, self.facts.sequence, &plain)
        }))
    }
}

/// Seals one record under the account's record subkey; its revision is the sequence of the commit that writes it.
fn seal_record(key: &Key, facts: &Facts, state: &AccountState, name: RecordKey, plain: &[u8]) -> Vec<u8> {
    state.owner.with_aad(name, |aad| envelope::seal(key, facts.key_version, aad, facts.sequence, plain))
}
