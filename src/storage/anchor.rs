//! Anchor files: what a vault remembers of itself outside its databases, so that a database which lost a commit, or was
//! replaced by an older copy, is noticed.
//!
//! An anchor only ever remembers what is already durable in the database it speaks of; it may be behind, never ahead. There
//! is one per shard and one for the directory, which also remembers each shard's anchor. All integers are big-endian:
//!
//! ```text
//! magic            8   "AHANCHOR"
//! format           2   1
//! kind             1   1 = directory, 2 = shard
//! shard            4   its number; 0 for the directory
//! counter          8   grows by one with every write of this file
//! body                 by kind, below
//! mac             32   keyed digest of everything above, under the vault's anchor key
//!
//! directory body:
//!   marks          4   how many
//!     bucket       2   ascending
//!     sequence     8
//!     digest      32
//!   shards         4   how many; the numbers are 0, 1, 2, …
//!     counter      8   of that shard's anchor; 0 = none was written yet
//!     members      2   account trees in it
//!     generation   4   of its directory `shards/NNNN.G`
//!
//! shard body:
//!   generation     4
//!   accounts       2   how many
//!     handle      16   ascending
//!     sequence     8
//!     digest      32
//! ```

use std::collections::BTreeMap;

use super::{AnchorHead, AnchorSeal, Anchored};
use crate::ids::{AccountHandle, ShardId};

const MAGIC: &[u8; 8] = b"AHANCHOR";
const FORMAT: u16 = 1;
const KIND_DIRECTORY: u8 = 1;
const KIND_SHARD: u8 = 2;
pub(super) const MAC_BYTES: usize = 32;

/// The anchor of the directory: the memory of the whole vault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DirectoryAnchor {
    pub(super) counter: u64,
    pub(super) marks: BTreeMap<u16, Anchored>,
    /// By shard number.
    pub(super) shards: Vec<ShardMark>,
}

/// What the directory's anchor remembers of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShardMark {
    /// The counter of the shard's anchor; 0 when none was written yet.
    pub(super) counter: u64,
    pub(super) members: u16,
    pub(super) generation: u32,
}

/// The anchor of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardAnchor {
    pub(super) shard: ShardId,
    pub(super) generation: u32,
    pub(super) counter: u64,
    pub(super) accounts: BTreeMap<AccountHandle, Anchored>,
}

impl DirectoryAnchor {
    /// The file's bytes, and the head that stands for them.
    pub(super) fn encode(&self, seal: &dyn AnchorSeal) -> (Vec<u8>, AnchorHead) {
        let mut bytes = start(KIND_DIRECTORY, 0, self.counter);
        put_count(&mut bytes, self.marks.len());
        for (bucket, mark) in &self.marks {
            bytes.extend_from_slice(&bucket.to_be_bytes());
            put_mark(&mut bytes, mark);
        }
        put_count(&mut bytes, self.shards.len());
        for shard in &self.shards {
            bytes.extend_from_slice(&shard.counter.to_be_bytes());
            bytes.extend_from_slice(&shard.members.to_be_bytes());
            bytes.extend_from_slice(&shard.generation.to_be_bytes());
        }
        let digest = finish(&mut bytes, seal, &file_name(None));
        (bytes, AnchorHead { counter: self.counter, digest })
    }

    /// Reads the file's bytes; the error says what is wrong with them.
    pub(super) fn decode(bytes: &[u8], seal: &dyn AnchorSeal) -> Result<(Self, AnchorHead), &'static str> {
        let (mut body, counter, digest) = open(bytes, KIND_DIRECTORY, 0, seal, &file_name(None))?;
        let mut anchor = Self { counter, ..Self::default() };
        for _ in 0..body.u32()? {
            let bucket = body.u16()?;
            // Each content has one encoding.
            if anchor.marks.last_key_value().is_some_and(|(last, _)| *last >= bucket) {
                return Err("its buckets are out of order");
            }
            anchor.marks.insert(bucket, body.mark()?);
        }
        for _ in 0..body.u32()? {
            anchor.shards.push(ShardMark { counter: body.u64()?, members: body.u16()?, generation: body.u32()? });
        }
        body.end()?;
        Ok((anchor, AnchorHead { counter, digest }))
    }
}

impl ShardAnchor {
    /// The anchor of a shard that has no account yet.
    pub(super) fn empty(shard: ShardId, generation: u32) -> Self {
        Self { shard, generation, counter: 0, accounts: BTreeMap::new() }
    }

    /// The file's bytes.
    pub(super) fn encode(&self, seal: &dyn AnchorSeal) -> Vec<u8> {
        let mut bytes = start(KIND_SHARD, self.shard.0, self.counter);
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        // A shard holds at most 128 accounts, so the count fits.
        bytes.extend_from_slice(&u16::try_from(self.accounts.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (handle, mark) in &self.accounts {
            bytes.extend_from_slice(handle.as_bytes());
            put_mark(&mut bytes, mark);
        }
        finish(&mut bytes, seal, &file_name(Some(self.shard)));
        bytes
    }

    /// Reads the file's bytes; the error says what is wrong with them.
    pub(super) fn decode(bytes: &[u8], shard: ShardId, seal: &dyn AnchorSeal) -> Result<Self, &'static str> {
        let (mut body, counter, _) = open(bytes, KIND_SHARD, shard.0, seal, &file_name(Some(shard)))?;
        let mut anchor = Self { shard, generation: body.u32()?, counter, accounts: BTreeMap::new() };
        for _ in 0..body.u16()? {
            let handle = AccountHandle::from_bytes(body.take()?);
            if anchor.accounts.last_key_value().is_some_and(|(last, _)| *last >= handle) {
                return Err("its accounts are out of order");
            }
            anchor.accounts.insert(handle, body.mark()?);
        }
        body.end()?;
        Ok(anchor)
    }
}

/// An anchor taken apart and written again, for fuzzing.
#[cfg(feature = "testing")]
pub(crate) fn rewritten(bytes: &[u8], shard: Option<ShardId>, seal: &dyn AnchorSeal) -> Option<Vec<u8>> {
    Some(match shard {
        None => DirectoryAnchor::decode(bytes, seal).ok()?.0.encode(seal).0,
        Some(shard) => ShardAnchor::decode(bytes, shard, seal).ok()?.encode(seal),
    })
}

/// What the seal is told of the file, so that no anchor can stand for another.
pub(crate) fn file_name(shard: Option<ShardId>) -> Vec<u8> {
    match shard {
        None => b"directory.anchor".to_vec(),
        Some(shard) => [b"shard.anchor".as_slice(), &shard.0.to_be_bytes()].concat(),
    }
}

fn start(kind: u8, shard: u32, counter: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&shard.to_be_bytes());
    bytes.extend_from_slice(&counter.to_be_bytes());
    bytes
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    // Buckets are 16-bit numbers and shards 32-bit ones, so the count fits.
    bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_mark(bytes: &mut Vec<u8>, mark: &Anchored) {
    bytes.extend_from_slice(&mark.sequence.to_be_bytes());
    bytes.extend_from_slice(&mark.digest);
}

fn finish(bytes: &mut Vec<u8>, seal: &dyn AnchorSeal, name: &[u8]) -> [u8; MAC_BYTES] {
    let mac = seal.mac(name, bytes);
    bytes.extend_from_slice(&mac);
    mac
}

fn open<'a>(
    bytes: &'a [u8],
    kind: u8,
    shard: u32,
    seal: &dyn AnchorSeal,
    name: &[u8],
) -> Result<(Body<'a>, u64, [u8; MAC_BYTES]), &'static str> {
    let mut body = Body(bytes);
    if body.take::<8>()? != *MAGIC {
        return Err("not an anchor file");
    }
    if body.u16()? != FORMAT {
        return Err("an anchor of another format version");
    }
    let (content, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(CUT_SHORT)?;
    // Not secret and not an oracle for anything: who can write the file can also read it.
    if seal.mac(name, content) != *mac {
        return Err("its seal does not match its content");
    }
    body.0 = body.0.strip_suffix(mac).ok_or(CUT_SHORT)?;
    if body.take::<1>()? != [kind] || body.u32()? != shard {
        return Err("the anchor of something else");
    }
    let counter = body.u64()?;
    Ok((body, counter, *mac))
}

const CUT_SHORT: &str = "cut short";

struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.take().map(u64::from_be_bytes)
    }

    fn mark(&mut self) -> Result<Anchored, &'static str> {
        Ok(Anchored { sequence: self.u64()?, digest: self.take()? })
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes left over") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::TestSeal;
    use super::*;

    fn anchored(sequence: u64) -> Anchored {
        Anchored { sequence, digest: [sequence as u8; 32] }
    }

    fn directory() -> DirectoryAnchor {
        DirectoryAnchor {
            counter: 7,
            marks: [(0, anchored(3)), (4097, anchored(9))].into(),
            shards: vec![ShardMark { counter: 5, members: 128, generation: 2 }, ShardMark::default()],
        }
    }

    fn shard() -> ShardAnchor {
        let accounts = [(AccountHandle::from_bytes([1; 16]), anchored(4)), (AccountHandle::from_bytes([2; 16]), anchored(1))];
        ShardAnchor { shard: ShardId(3), generation: 1, counter: 12, accounts: accounts.into() }
    }

    #[test]
    fn round_trip() {
        let (bytes, head) = directory().encode(&TestSeal);
        assert_eq!(DirectoryAnchor::decode(&bytes, &TestSeal).unwrap(), (directory(), head));
        assert_eq!(ShardAnchor::decode(&shard().encode(&TestSeal), ShardId(3), &TestSeal).unwrap(), shard());
    }

    #[test]
    fn one_anchor_never_stands_for_another() {
        let bytes = shard().encode(&TestSeal);
        assert!(ShardAnchor::decode(&bytes, ShardId(4), &TestSeal).is_err());
        assert!(DirectoryAnchor::decode(&bytes, &TestSeal).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for bytes in [directory().encode(&TestSeal).0, shard().encode(&TestSeal)] {
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                let cut = &bytes[..at];
                assert!(
                    DirectoryAnchor::decode(&flipped, &TestSeal).is_err() && DirectoryAnchor::decode(cut, &TestSeal).is_err()
                );
                assert!(ShardAnchor::decode(&flipped, ShardId(3), &TestSeal).is_err());
                assert!(ShardAnchor::decode(cut, ShardId(3), &TestSeal).is_err());
            }
        }
    }
}
