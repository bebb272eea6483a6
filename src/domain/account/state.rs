//! What an account's actor holds: public facts, sequence and digest, and the stamp of every row. No key and no plaintext
//! of a credential.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::codec;
use crate::crypto::envelope;
use crate::domain::account::keys::{AccountKeys, MaskedKeys, RecordKeys, WrappedKeys};
use crate::domain::account::records::{ChainEnds, HeadRecord, InfoRecord, Owner, RecordKey, RefreshRecord, Spent, SpentToken};
use crate::domain::audit;
use crate::domain::head::Digest;
use crate::domain::{Key, KeyBytes, Keyring, OpenFailed, Plaintext};
use crate::ids::{ConnectionId, SessionTokenId};

/// Which version of a row is the current one: a row with another revision or tag is not what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) revision: u64,
    pub(crate) tag: [u8; 16],
    pub(crate) key_version: u32,
}

impl Stamp {
    pub(crate) fn of(sealed: &[u8]) -> Result<Self, Damage> {
        let header = envelope::header(sealed).map_err(|_| Damage("a row is not an envelope"))?;
        Ok(Self { revision: header.revision, tag: header.tag, key_version: header.key_version })
    }
}

/// An account's rows are not what was acknowledged. Says which rule they break; names no customer and holds no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(pub(crate) &'static str);

/// The facts of an account that every change carries forward.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) linked_account_id: Arc<str>,
    pub(crate) disabled: bool,
    pub(crate) epoch: u64,
    pub(crate) key_version: u32,
    /// The head's revision: one more with every commit.
    pub(crate) sequence: u64,
    pub(crate) digest: Digest,
    pub(crate) audit: ChainEnds,
    /// Up to which number the audit has the account's notes.
    pub(crate) noted: u64,
    pub(crate) wrapped: WrappedKeys,
}

/// The state of one account.
#[derive(Debug)]
pub(crate) struct AccountState {
    pub(crate) owner: Owner,
    pub(crate) facts: Facts,
    pub(crate) index: BTreeMap<RecordKey, Stamp>,
    /// Tokens that are revoked or used up, until they would have expired.
    pub(crate) spent: Arc<BTreeMap<SessionTokenId, SpentToken>>,
    /// When the wheel looks after each connection that it looks after.
    pub(crate) dues: BTreeMap<ConnectionId, Timestamp>,
}

impl AccountState {
    /// Reads an account from all rows that its head covers, and proves that they are the ones last acknowledged. The keys come with it,
    /// masked.
    ///
    /// # Errors
    /// [`Damage`] when a row is missing, surplus, replaced, or does not open.
    pub(crate) fn load(keyring: &Keyring, owner: Owner, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(Self, MaskedKeys), Damage> {
        let mut index = BTreeMap::new();
        let mut values = BTreeMap::new();
        for (key, value) in rows {
            let key = RecordKey::parse(key).ok_or(Damage("a row has a name that no record has"))?;
            index.insert(key, Stamp::of(value)?);
            values.insert(key, value.as_slice());
        }
        let row = |key| values.get(&key).copied();
        let need = |key| row(key).ok_or(Damage("a row that every account has is missing"));
        let wrapped = WrappedKeys {
            account: need(RecordKey::AccountKey)?.into(),
            token: need(RecordKey::TokenKey)?.into(),
            audit: need(RecordKey::AuditKey)?.into(),
            previous_account: row(RecordKey::PreviousAccountKey).map(Into::into),
        };
        let keys = AccountKeys::unwrap(keyring, &owner, &wrapped).map_err(|_| Damage("the account's keys do not open"))?;

        let head_stamp = index.remove(&RecordKey::Head).ok_or(Damage("the head is missing"))?;
        let head: HeadRecord = owner
            .with_aad(RecordKey::Head, |aad| {
                envelope::open(&keys.head, aad, None, need(RecordKey::Head)?).map_err(|_| Damage("the head does not open"))
            })
            .and_then(|plain| codec::decode(&plain).map_err(|_| Damage("the head can't be decoded")))?;
        let mut digest = Digest::EMPTY;
        for (key, stamp) in &index {
            digest.toggle(&keys.digest, &key.to_bytes(), stamp.revision, &stamp.tag);
        }
        if digest.bytes() != head.digest {
            return Err(Damage("the rows are not those that the head covers"));
        }

        let unseal = |key: &RecordKey, stamp: &Stamp| {
            let info_version = None;
            open_record(&keys.records, &owner, *key, *stamp, info_version, values[key])
        };
        let info_stamp = index.get(&RecordKey::Info).ok_or(Damage("the account's own record is missing"))?;
        let info: InfoRecord = decode(&unseal(&RecordKey::Info, info_stamp)?)?;
        let mut spent = BTreeMap::new();
        let mut dues = BTreeMap::new();
        for (key, stamp) in &index {
            match key {
                RecordKey::SpentToken(id) => {
                    spent.insert(*id, decode::<SpentToken>(&unseal(key, stamp)?)?);
                }
                RecordKey::Refresh(id) => dues.extend(decode::<RefreshRecord>(&unseal(key, stamp)?)?.due.map(|due| (*id, due))),
                _ => {}
            }
        }
        let masked = MaskedKeys::mask(keyring, &owner, &wrapped, &keys);
        let facts = Facts {
            linked_account_id: info.linked_account_id.into(),
            disabled: info.disabled,
            epoch: info.epoch,
            key_version: info.key_version,
            sequence: head_stamp.revision,
            digest,
            audit: head.audit,
            noted: head.noted,
            wrapped,
        };
        Ok((Self { owner, facts, index, spent: Arc::new(spent), dues }, masked))
    }

    /// The stamp that the current version of a row has; `None` when the account has no such row.
    pub(crate) fn stamp(&self, key: RecordKey) -> Option<Stamp> {
        self.index.get(&key).copied()
    }

    /// Opens a row that was read from the tree, if it is the current version of that name.
    ///
    /// # Errors
    /// [`Damage`] when the row is missing or is not the one that was acknowledged last.
    pub(crate) fn open(&self, keys: &RecordKeys, key: RecordKey, sealed: Option<&[u8]>) -> Result<Plaintext, Damage> {
        let stamp = self.stamp(key).ok_or(Damage("a row is not in the account's index"))?;
        let sealed = sealed.ok_or(Damage("a row is missing"))?;
        if Stamp::of(sealed)? != stamp {
            return Err(Damage("a row is not the version that was acknowledged"));
        }
        open_record(keys, &self.owner, key, stamp, Some(self.facts.key_version), sealed)
    }

    /// Opens a segment of the audit.
    pub(crate) fn open_segment(&self, keys: &AccountKeys, first: u64, sealed: &[u8]) -> Result<Plaintext, Damage> {
        self.owner
            .with_aad(RecordKey::Audit(first), |aad| envelope::open(&keys.audit.record, aad, Some(first), sealed))
            .map_err(|_| Damage("a segment of the audit does not open"))
    }

    /// Proves that the audit's last segment is there and is the one that the head covers.
    pub(crate) fn prove_last_segment(&self, keys: &AccountKeys, sealed: Option<&[u8]>) -> Result<(), Damage> {
        let ends = &self.facts.audit;
        let plain = self.open_segment(keys, ends.last_segment, sealed.ok_or(Damage("the audit's last segment is missing"))?)?;
        match audit::segment_end(&plain) {
            Ok((count, link)) if ends.last_segment + count == ends.next_sequence && link == ends.last_link => Ok(()),
            _ => Err(Damage("the audit's last segment is not the one that the head covers")),
        }
    }

    /// Takes over what a commit made durable.
    pub(crate) fn apply(
        &mut self,
        facts: Facts,
        stamps: &BTreeMap<RecordKey, Option<Stamp>>,
        spent: Option<Arc<BTreeMap<SessionTokenId, SpentToken>>>,
        dues: BTreeMap<ConnectionId, Option<Timestamp>>,
    ) {
        self.facts = facts;
        for (connection, due) in dues {
            match due {
                Some(due) => self.dues.insert(connection, due),
                None => self.dues.remove(&connection),
            };
        }
        for (key, stamp) in stamps {
            match stamp {
                Some(stamp) => self.index.insert(*key, *stamp),
                None => self.index.remove(key),
            };
        }
        if let Some(spent) = spent {
            self.spent = spent;
        }
    }

    /// Why the token may not be used although it is genuine and in its lifetime, if so.
    pub(crate) fn spent(&self, id: &SessionTokenId) -> Option<Spent> {
        self.spent.get(id).map(|token| token.spent)
    }

    /// The connections' ids, in the order of their rows.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.index.keys().filter_map(|key| if let RecordKey::Connection(id) = key { Some(*id) } else { None })
    }
}

/// Decodes a record that was just opened.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(plain: &Plaintext) -> Result<T, Damage> {
    codec::decode(plain).map_err(|_| Damage("a record can't be decoded"))
}

/// Opens a record under the key of its version. While a rotation is under way two versions are alive.
fn open_record(
    keys: &RecordKeys,
    owner: &Owner,
    key: RecordKey,
    stamp: Stamp,
    current: Option<u32>,
    sealed: &[u8],
) -> Result<Plaintext, Damage> {
    let candidates: [Option<&Key>; 2] = match current {
        Some(version) if stamp.key_version == version => [Some(&keys.current), None],
        Some(_) => [keys.previous.as_ref(), None],
        // At load the current version is not known yet: it stands in a record.
        None => [Some(&keys.current), keys.previous.as_ref()],
    };
    owner.with_aad(key, |aad| {
        candidates
            .into_iter()
            .flatten()
            .find_map(|record_key| envelope::open(record_key, aad, Some(stamp.revision), sealed).ok())
            .ok_or(Damage("a record does not open"))
    })
}

/// Opens a record of the current key version that is known to be the acknowledged one.
pub(crate) fn open_current(
    record_key: &KeyBytes,
    owner: &Owner,
    key: RecordKey,
    stamp: Stamp,
    sealed: &[u8],
) -> Result<Plaintext, OpenFailed> {
    owner.with_aad(key, |aad| envelope::open(record_key, aad, Some(stamp.revision), sealed))
}
