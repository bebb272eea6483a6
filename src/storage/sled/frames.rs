//! Files of the commit log, to the byte. All integers are big-endian:
//!
//! ```text
//! magic      8   "AHCOMMIT"
//! format     2   1
//! number     8   of the file; it is also its name, in sixteen digits
//! mac       32   keyed digest of everything above, under the vault's anchor key
//! frames         one after the other
//!
//! frame:
//!   magic    4   "AHCF"
//!   length   4   of the body
//!   crc32    4   of the file's number and the body
//!   body
//!
//! body:
//!   kind     1   1 = a commit, 2 = a commit that makes its tree, 3 = everything above of this database lies in it
//!   shard    4   ffffffff = the directory
//!   generation 4 of the shard's files; 0 for the directory
//!   (a commit:)
//!   tree     1 | bytes           its name
//!   marks    2   how many
//!     mark   3   00 00 00 = the account's, 01 | bucket 2
//!     sequence 8 | digest 32     where it goes
//!   removes  2   how many
//!     key    2 | bytes
//!   puts     2   how many
//!     key    2 | bytes
//!     value  4 | bytes
//!   passing  2   how many, like puts
//! ```
//!
//! What the values are is not looked at here: they are sealed, and heads and anchors tell which of them are missing or old. The
//! checksum finds where a file was torn, and what the disk has damaged.

use super::super::anchor::MAC_BYTES;
use super::super::{AnchorSeal, Anchored, Commit, Mark, MarkStep, Row};
use crate::ids::ShardId;

const FILE_MAGIC: &[u8; 8] = b"AHCOMMIT";
const FRAME_MAGIC: &[u8; 4] = b"AHCF";
const FORMAT: u16 = 1;
const MAC_NAME: &[u8] = b"commits";

pub(super) const HEADER_BYTES: usize = 8 + 2 + 8 + MAC_BYTES;
const PREFIX_BYTES: usize = 4 + 4 + 4;

const COMMIT: u8 = 1;
const CREATION: u8 = 2;
const SETTLED: u8 = 3;

const DIRECTORY: u32 = u32::MAX;

/// A database as frames name it: a generation of a shard, or the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `None` for the directory.
    pub(super) shard: Option<ShardId>,
    pub(super) generation: u32,
}

/// A commit read back.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) target: Target,
    pub(super) tree: Vec<u8>,
    pub(super) create: bool,
    /// Its marks have no expected sequence.
    pub(super) commit: Commit,
}

/// What a frame says.
#[derive(Debug)]
pub(super) enum Frame {
    Commit(Logged),
    /// Everything before it that is of this database has been made durable in it.
    Settled(Target),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) frames: Vec<Frame>,
    /// Stretches that can't be read, with frames after them. A torn end is none.
    pub(super) damaged: usize,
}

/// The beginning of a file.
pub(super) fn header(number: u64, seal: &dyn AnchorSeal) -> Vec<u8> {
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    let mac = seal.mac(MAC_NAME, &bytes);
    bytes.extend_from_slice(&mac);
    bytes
}

/// Adds a commit to what is written to a file.
pub(super) fn put_commit(bytes: &mut Vec<u8>, number: u64, target: Target, tree: &[u8], create: bool, commit: &Commit) {
    put_frame(bytes, number, if create { CREATION } else { COMMIT }, target, |bytes| {
        // Names are a handle or a word, and the limits of a commit keep everything else below its field's largest number.
        bytes.push(u8::try_from(tree.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(tree);
        put_length(bytes, commit.marks.len());
        for step in &commit.marks {
            match step.mark {
                Mark::Account => bytes.extend_from_slice(&[0; 3]),
                Mark::Bucket(bucket) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&bucket.to_be_bytes());
                }
            }
            bytes.extend_from_slice(&step.next.sequence.to_be_bytes());
            bytes.extend_from_slice(&step.next.digest);
        }
        put_length(bytes, commit.removes.len());
        for key in &commit.removes {
            put_length(bytes, key.len());
            bytes.extend_from_slice(key);
        }
        put_rows(bytes, &commit.puts);
        put_rows(bytes, &commit.passing);
    });
}

/// Adds that everything before is durable in a database.
pub(super) fn put_settled(bytes: &mut Vec<u8>, number: u64, target: Target) {
    put_frame(bytes, number, SETTLED, target, |_| ());
}

fn put_frame(bytes: &mut Vec<u8>, number: u64, kind: u8, target: Target, rest: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(FRAME_MAGIC);
    let prefix = bytes.len();
    bytes.extend_from_slice(&[0; PREFIX_BYTES - 4]);
    let body = bytes.len();
    bytes.push(kind);
    bytes.extend_from_slice(&target.shard.map_or(DIRECTORY, |shard| shard.0).to_be_bytes());
    bytes.extend_from_slice(&target.generation.to_be_bytes());
    rest(bytes);
    let length = u32::try_from(bytes.len() - body).unwrap_or(u32::MAX);
    let crc = checksum(number, &bytes[body..]);
    bytes[prefix..prefix + 4].copy_from_slice(&length.to_be_bytes());
    bytes[prefix + 4..body].copy_from_slice(&crc.to_be_bytes());
}

fn put_rows(bytes: &mut Vec<u8>, rows: &[Row]) {
    put_length(bytes, rows.len());
    for (key, value) in rows {
        put_length(bytes, key.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(value);
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}

fn checksum(number: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Reads a file; `None` when it does not begin as this vault's file of that number does.
pub(super) fn read(bytes: &[u8], number: u64, seal: &dyn AnchorSeal) -> Option<Read> {
    let mut rest = bytes.strip_prefix(header(number, seal).as_slice())?;
    let (mut read, mut unread) = (Read::default(), false);
    while !rest.is_empty() {
        match frame(rest, number) {
            Some((frame, after)) => {
                read.damaged += usize::from(std::mem::take(&mut unread));
                read.frames.push(frame);
                rest = after;
            }
            None => {
                unread = true;
                let next = rest[1..].windows(FRAME_MAGIC.len()).position(|window| window == FRAME_MAGIC);
                rest = next.map_or(&[], |at| &rest[at + 1..]);
            }
        }
    }
    Some(read)
}

/// The frame at the beginning, and what follows it.
fn frame(bytes: &[u8], number: u64) -> Option<(Frame, &[u8])> {
    let mut prefix = Body(bytes.strip_prefix(FRAME_MAGIC)?);
    let (length, crc) = (prefix.u32()?, prefix.u32()?);
    let (body, after) = prefix.0.split_at_checked(usize::try_from(length).ok()?)?;
    if checksum(number, body) != crc {
        return None;
    }
    Some((Body(body).frame()?, after))
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn frame(mut self) -> Option<Frame> {
        let [kind] = self.array()?;
        let shard = Some(self.u32()?).filter(|shard| *shard != DIRECTORY).map(ShardId);
        let target = Target { shard, generation: self.u32()? };
        let frame = match kind {
            COMMIT | CREATION => {
                let [length] = self.array()?;
                let tree = self.bytes(usize::from(length))?.to_vec();
                Frame::Commit(Logged { target, tree, create: kind == CREATION, commit: self.commit()? })
            }
            SETTLED => Frame::Settled(target),
            _ => return None,
        };
        self.0.is_empty().then_some(frame)
    }

    fn commit(&mut self) -> Option<Commit> {
        let mut commit = Commit::default();
        for _ in 0..self.u16()? {
            let mark = match self.array()? {
                [0, 0, 0] => Mark::Account,
                [1, high, low] => Mark::Bucket(u16::from_be_bytes([high, low])),
                _ => return None,
            };
            let next = Anchored { sequence: u64::from_be_bytes(self.array()?), digest: self.array()? };
            commit.marks.push(MarkStep { mark, expected: 0, next });
        }
        for _ in 0..self.u16()? {
            let key = self.key()?;
            commit.removes.push(key);
        }
        commit.puts = self.rows()?;
        commit.passing = self.rows()?;
        Some(commit)
    }

    fn rows(&mut self) -> Option<Vec<Row>> {
        let mut rows = Vec::new();
        for _ in 0..self.u16()? {
            let key = self.key()?;
            let length = usize::try_from(self.u32()?).ok()?;
            rows.push((key, self.bytes(length)?.to_vec()));
        }
        Some(rows)
    }

    fn key(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(self.u16()?);
        Some(self.bytes(length)?.to_vec())
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::tests::TestSeal;
    use super::*;
    use crate::vectors::Vector;

    fn commit() -> Commit {
        Commit {
            puts: vec![(b"key".to_vec(), b"value".to_vec()), (Vec::new(), vec![7; 70_000])],
            removes: vec![b"gone".to_vec()],
            marks: vec![
                MarkStep { mark: Mark::Account, expected: 4, next: Anchored { sequence: 5, digest: [9; 32] } },
                MarkStep { mark: Mark::Bucket(4097), expected: 0, next: Anchored { sequence: 1, digest: [0; 32] } },
            ],
            passing: vec![(b"soon gone".to_vec(), b"value".to_vec())],
        }
    }

    fn file(number: u64, frames: &[(Target, u8)]) -> Vec<u8> {
        let mut bytes = header(number, &TestSeal);
        for (target, kind) in frames {
            match *kind {
                SETTLED => put_settled(&mut bytes, number, *target),
                kind => put_commit(&mut bytes, number, *target, b"tree", kind == CREATION, &commit()),
            }
        }
        bytes
    }

    const FRAMES: [(Target, u8); 3] = [
        (Target { shard: Some(ShardId(3)), generation: 2 }, CREATION),
        (Target { shard: None, generation: 0 }, COMMIT),
        (Target { shard: Some(ShardId(3)), generation: 2 }, SETTLED),
    ];

    #[test]
    fn round_trip() {
        let read = read(&file(12, &FRAMES), 12, &TestSeal).unwrap();
        assert_eq!(read.damaged, 0);
        let [Frame::Commit(first), Frame::Commit(second), Frame::Settled(third)] = &read.frames[..] else {
            panic!("{:?}", read.frames)
        };
        assert_eq!([first.target, second.target, *third], FRAMES.map(|(target, _)| target));
        assert!(first.create && !second.create);
        for logged in [first, second] {
            assert_eq!(logged.tree, b"tree");
            assert_eq!((&logged.commit.puts, &logged.commit.removes), (&commit().puts, &commit().removes));
            assert_eq!(logged.commit.passing, commit().passing);
            let marks = |commit: &Commit| commit.marks.iter().map(|step| (step.mark, step.next)).collect::<Vec<_>>();
            assert_eq!(marks(&logged.commit), marks(&commit()));
        }
    }

    /// Knows the seal of the page's file and no key: that it is the vault's, a test of the layer with the key says.
    struct Published([u8; 32]);

    impl AnchorSeal for Published {
        fn mac(&self, _: &[u8], _: &[u8]) -> [u8; 32] {
            self.0
        }
    }

    #[test]
    fn documented_frames_are_read_and_written_the_same() {
        let page = include_str!("../../../docs/format.md");
        let vector = Vector::of(page, "commit log");
        let begin = vector.bytes("header");
        let seal = Published(*begin.last_chunk().unwrap());
        assert_eq!(header(1, &seal), begin);
        let file = [begin, vector.bytes("creation"), vector.bytes("change"), vector.bytes("settled")].concat();
        let read = read(&file, 1, &seal).unwrap();
        let [Frame::Commit(creation), Frame::Commit(change), Frame::Settled(settled)] = &read.frames[..] else {
            panic!("{:?}", read.frames)
        };
        let shard = Target { shard: Some(ShardId(0)), generation: 0 };
        assert_eq!((creation.target, creation.create, *settled), (shard, true, shard));
        assert_eq!(creation.tree, Vector::of(page, "account").bytes("handle"));
        assert_eq!(creation.commit.puts, [(b"k".to_vec(), b"value".to_vec())]);
        assert_eq!((change.target, change.create, change.tree.as_slice()), (FRAMES[1].0, false, b"directory".as_slice()));
        assert_eq!((change.commit.marks[0].mark, change.commit.marks[0].next.sequence), (Mark::Bucket(0x303), 2));
        assert_eq!(change.commit.removes, [b"gone".to_vec()]);
        assert_eq!(change.commit.passing, [(b"soon".to_vec(), b"gone".to_vec())]);
        let mut written = header(1, &seal);
        for logged in [creation, change] {
            put_commit(&mut written, 1, logged.target, &logged.tree, logged.create, &logged.commit);
        }
        put_settled(&mut written, 1, *settled);
        assert_eq!(written, file);
    }

    #[test]
    fn a_file_stands_only_for_itself() {
        assert!(read(&file(12, &FRAMES), 13, &TestSeal).is_none());
        let mut moved = header(13, &TestSeal);
        moved.extend_from_slice(&file(12, &FRAMES)[HEADER_BYTES..]);
        assert!(read(&moved, 13, &TestSeal).unwrap().frames.is_empty());
    }

    proptest! {
        #[test]
        fn a_torn_end_costs_only_what_was_torn(cut in 0_usize..140_000) {
            let whole = file(12, &FRAMES);
            let cut = HEADER_BYTES + cut % (whole.len() - HEADER_BYTES);
            let read = read(&whole[..cut], 12, &TestSeal).unwrap();
            let ends: Vec<_> = (0..=3).map(|frames| file(12, &FRAMES[..frames]).len()).collect();
            prop_assert_eq!(read.frames.len(), ends.iter().rposition(|end| *end <= cut).unwrap());
            prop_assert_eq!(read.damaged, 0);
        }

        #[test]
        fn a_flipped_bit_costs_one_frame_and_is_told(at in 0_usize..140_000, bit in 0_u8..8) {
            let mut bytes = file(12, &FRAMES);
            let first_two = file(12, &FRAMES[..2]).len() - HEADER_BYTES;
            let at = HEADER_BYTES + at % first_two;
            bytes[at] ^= 1 << bit;
            let read = read(&bytes, 12, &TestSeal).unwrap();
            prop_assert_eq!((read.frames.len(), read.damaged), (2, 1));
        }

        #[test]
        fn no_bytes_make_it_panic(noise in prop::collection::vec(any::<u8>(), 0..300), number in 0_u64..3) {
            let mut bytes = header(number, &TestSeal);
            bytes.extend_from_slice(FRAME_MAGIC);
            bytes.extend_from_slice(&noise);
            let _ = read(&bytes, number, &TestSeal);
            let mut body = Body(&noise);
            let _ = body.commit();
        }
    }
}
