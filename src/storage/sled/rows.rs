//! How rows lie in a sled tree.
//!
//! sled splits a leaf by the *number* of its entries (over 16), not by their size, and writes a leaf over a quarter of a
//! segment to a file of its own under `blobs/`, which it never syncs. So no entry may be large: a leaf has at most 20 entries
//! for a moment, and 20 × (4 KiB + 300 bytes) stay under 128 KiB. Larger values are cut into parts.
//!
//! ```text
//! 00 00                                       -> sequence 8 | digest 32              the account's mark
//! 00 01 | bucket 2                            -> sequence 8 | digest 32              a bucket's mark
//! 01 | key                                    -> 00 | value                          a row of up to 4 KiB
//! 01 | key                                    -> 01 | parts 2 | length 4 | crc32 4   a larger row
//! 01 | key                                    -> 02                                  in a section: none, whatever the directory's first database has
//! 02 | key length 2 | key | number of part 2  -> bytes                               its parts
//! ```
//!
//! The checksum is not there against damage, which sled's own and the seals above find, but against parts of two values.

use super::super::{Anchored, Mark, Row};
use super::database::sections::SECTIONS;

/// The largest entry of a tree.
pub(super) const PART_BYTES: usize = 4 * 1024;

const MARK: u8 = 0;
const ROW: u8 = 1;
const PART: u8 = 2;

const WHOLE: u8 = 0;
const IN_PARTS: u8 = 1;
const REMOVED: u8 = 2;

/// The entry under a row's own key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    Whole(&'a [u8]),
    InParts(Parts),
    /// There is no row, though an older store has one.
    Removed,
}

/// Where the rest of a larger row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) count: u16,
    length: u32,
    crc: u32,
}

impl Parts {
    /// Whether these are all bytes of the row, of one and the same commit.
    pub(super) fn complete(self, value: &[u8]) -> bool {
        value.len() == self.length as usize && crc32fast::hash(value) == self.crc
    }
}

/// The entries that make up a row.
pub(super) fn entries(key: &[u8], value: &[u8]) -> Vec<Row> {
    if value.len() < PART_BYTES {
        return vec![(row_key(key), [&[WHOLE], value].concat())];
    }
    let mut entries = vec![(row_key(key), Vec::new())];
    // A row has at most 96 KiB, hence 24 parts.
    let parts = (0_u16..).zip(value.chunks(PART_BYTES));
    entries.extend(parts.map(|(number, part)| (part_key(key, number), part.to_vec())));
    let count = u16::try_from(entries.len() - 1).unwrap_or(u16::MAX);
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let head = &mut entries[0].1;
    head.push(IN_PARTS);
    head.extend_from_slice(&count.to_be_bytes());
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(&crc32fast::hash(value).to_be_bytes());
    entries
}

/// Makes the one entry of a row under [`PART_BYTES`], in the place of what the two hold.
pub(super) fn put_whole(entry_key: &mut Vec<u8>, entry: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    entry_key.clear();
    entry_key.push(ROW);
    entry_key.extend_from_slice(key);
    entry.clear();
    entry.push(WHOLE);
    entry.extend_from_slice(value);
}

/// Reads the entry under a row's own key; `None` for one that this crate never wrote.
pub(super) fn parse(entry: &[u8]) -> Option<Entry<'_>> {
    let (kind, rest) = entry.split_first()?;
    match (*kind, rest.len()) {
        (WHOLE, _) => Some(Entry::Whole(rest)),
        (REMOVED, 0) => Some(Entry::Removed),
        (IN_PARTS, 10) => {
            let (count, rest) = rest.split_first_chunk()?;
            let (length, crc) = rest.split_first_chunk()?;
            Some(Entry::InParts(Parts {
                count: u16::from_be_bytes(*count),
                length: u32::from_be_bytes(*length),
                crc: u32::from_be_bytes(crc.try_into().ok()?),
            }))
        }
        _ => None,
    }
}

/// What stands for a row that was removed, where an older store has it.
pub(super) fn removed() -> Vec<u8> {
    vec![REMOVED]
}

pub(super) fn row_key(key: &[u8]) -> Vec<u8> {
    [&[ROW], key].concat()
}

/// The caller's key in the key of a row's entry.
pub(super) fn key_of(entry_key: &[u8]) -> Option<&[u8]> {
    entry_key.strip_prefix(&[ROW])
}

pub(super) fn part_key(key: &[u8], number: u16) -> Vec<u8> {
    // Keys have at most 256 bytes.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    [&[PART], length.to_be_bytes().as_slice(), key, &number.to_be_bytes()].concat()
}

pub(super) fn mark_key(mark: Mark) -> Vec<u8> {
    match mark {
        Mark::Account => vec![MARK, 0],
        Mark::Bucket(bucket) => [&[MARK, 1], bucket.to_be_bytes().as_slice()].concat(),
    }
}

/// The keys of the marks of a section's buckets, or of those that are in none, as a range.
pub(super) fn bucket_marks(section: Option<u8>) -> std::ops::Range<Vec<u8>> {
    match section {
        Some(section) => vec![MARK, 1, section]..vec![MARK, 1, section + 1],
        None => vec![MARK, 1, SECTIONS]..vec![MARK, 2],
    }
}

/// The bucket in the key of a bucket's mark.
pub(super) fn bucket_of(mark_key: &[u8]) -> Option<u16> {
    mark_key.strip_prefix(&[MARK, 1])?.try_into().ok().map(u16::from_be_bytes)
}

pub(super) fn mark_value(mark: &Anchored) -> Vec<u8> {
    [mark.sequence.to_be_bytes().as_slice(), &mark.digest].concat()
}

pub(super) fn parse_mark(value: &[u8]) -> Option<Anchored> {
    let (sequence, digest) = value.split_first_chunk()?;
    Some(Anchored { sequence: u64::from_be_bytes(*sequence), digest: digest.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::super::super::{MAX_KEY_BYTES, MAX_ROW_BYTES};
    use super::super::database::sections::of_mark;
    use super::*;
    use crate::vectors::{Vector, from_hex};

    #[test]
    fn rows_of_every_size_come_back_whole_and_their_entries_are_small() {
        for length in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, MAX_ROW_BYTES] {
            let value: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let entries = entries(b"key", &value);
            assert!(entries.iter().all(|(_, entry)| entry.len() <= PART_BYTES));
            assert_eq!(entries[0].0, row_key(b"key"));
            if length < PART_BYTES {
                let (mut entry_key, mut entry) = (vec![9; 5], vec![9; 5]);
                put_whole(&mut entry_key, &mut entry, b"key", &value);
                assert_eq!(entries, [(entry_key, entry)]);
            }
            match parse(&entries[0].1).unwrap() {
                Entry::Whole(found) => assert_eq!(found, value),
                Entry::InParts(parts) => {
                    let joined: Vec<u8> = entries[1..].iter().flat_map(|(_, part)| part.clone()).collect();
                    assert_eq!(usize::from(parts.count), entries.len() - 1);
                    assert!(parts.complete(&joined));
                    assert!(!parts.complete(&joined[1..]));
                    assert_eq!(joined, value);
                }
                Entry::Removed => panic!("a row that is there"),
            }
        }
    }

    #[test]
    fn a_full_leaf_stays_out_of_the_blob_directory() {
        let entry = PART_BYTES + part_key(&[0; MAX_KEY_BYTES], 0).len() + 16;
        assert!(20 * entry < 512 * 1024 / 4 - 52);
    }

    #[test]
    fn parts_of_one_row_never_stand_under_another() {
        assert_ne!(part_key(b"a", 0x0062), part_key(b"a\0", 0x0062));
        assert_ne!(part_key(b"a", 0), row_key(b"a"));
        assert_eq!(key_of(&row_key(b"a")), Some(b"a".as_slice()));
        assert_eq!(bucket_of(&mark_key(Mark::Bucket(513))), Some(513));
        for bucket in [0, 0x0fff, 0x1000, u16::MAX] {
            let sections = (0..SECTIONS).map(Some).chain([None]);
            let found: Vec<_> =
                sections.filter(|section| bucket_marks(*section).contains(&mark_key(Mark::Bucket(bucket)))).collect();
            assert_eq!(found, [of_mark(Mark::Bucket(bucket))]);
        }
        assert!(!bucket_marks(None).contains(&mark_key(Mark::Account)));
        assert_eq!(parse(&removed()), Some(Entry::Removed));
    }

    #[test]
    fn documented_entries_of_a_large_row_hold() {
        let vector = Vector::of(include_str!("../../../docs/format.md"), "large row");
        let value: Vec<u8> = (0..4196).map(|at| (at % 251) as u8).collect();
        let entries = entries(&vector.bytes("row key"), &value);
        let keys: Vec<_> = entries.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, vector.all("entry").into_iter().map(from_hex).collect::<Vec<_>>());
        assert_eq!(entries[0].1, vector.bytes("holds"));
        assert_eq!([entries[1].1.as_slice(), &entries[2].1].concat(), value);
    }
}
