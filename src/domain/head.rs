//! A digest over a set of rows that is updated with each change at a cost which does not depend on how many rows there are.
//!
//! It is the exclusive or of one keyed hash per row: MSet-XOR-Hash of Clarke, Devadas, van Dijk, Gassend and Suh (Incremental
//! Multiset Hash Functions and Their Application to Memory Integrity Checking, ASIACRYPT 2003), for sets, where it is secure as
//! long as the hash key and the digests are secret: their changes give away the hashes of rows, and from the hashes of some 256
//! rows a set with any digest that is wanted can be put together. A row is in the set or not: its name occurs once. So a digest
//! is stored sealed; where something must stand in the clear that pins it down, that is its [mark](Digest::mark).

use crate::crypto::derive::Label;
use crate::crypto::key::Key;
use crate::crypto::keyring::Keyring;

/// The digest of a set of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// The digest of no row.
    pub(crate) const EMPTY: Digest = Digest([0; 32]);

    /// Adds a sealed record, or takes it out again. The tag stands for the whole content: it authenticates it.
    pub(crate) fn toggle(&mut self, key: &Key, record_key: &[u8], revision: u64, tag: &[u8; 16]) {
        self.toggle_element(&key.mac(Label::AccountDigest, &[record_key, &revision.to_be_bytes(), tag]));
    }

    /// Adds the keyed hash of a row, or takes it out again.
    pub(crate) fn toggle_element(&mut self, element: &[u8; 32]) {
        for (byte, other) in self.0.iter_mut().zip(element) {
            *byte ^= other;
        }
    }

    /// The digest's bytes, to be sealed.
    pub(crate) const fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// What may stand in the clear for the digest that a bucket of the directory has at a sequence.
    pub(crate) fn mark(&self, keyring: &Keyring, bucket: u16, sequence: u64) -> [u8; 32] {
        keyring.mac(Label::BucketHead, &[&bucket.to_be_bytes(), &sequence.to_be_bytes(), &self.0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_of_rows_does_not_matter_and_every_row_does(
            rows in proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 1..20), (any::<u64>(), any::<[u8; 16]>()), 1..12),
            left_out in any::<prop::sample::Index>(),
        ) {
            let key = Key::random();
            let digest = |rows: &mut dyn Iterator<Item = (&Vec<u8>, &(u64, [u8; 16]))>| {
                let mut digest = Digest::EMPTY;
                rows.for_each(|(name, (revision, tag))| digest.toggle(&key, name, *revision, tag));
                digest
            };
            let forward = digest(&mut rows.iter());
            prop_assert_eq!(forward, digest(&mut rows.iter().rev()));
            let missing = left_out.index(rows.len());
            prop_assert_ne!(forward, digest(&mut rows.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, row)| row)));
            let (name, (revision, tag)) = rows.iter().nth(missing).unwrap();
            let mut moved = forward;
            moved.toggle(&key, name, *revision, tag);
            moved.toggle(&key, name, revision.wrapping_add(1), tag);
            prop_assert_ne!(forward, moved);
        }
    }
}
