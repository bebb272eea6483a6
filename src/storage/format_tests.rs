//! `docs/format.md` against this layer: the files around the databases, and the entries in them.

use super::anchor::{DirectoryAnchor, ShardAnchor, ShardMark};
use super::*;
use crate::vectors::Vector;

const PAGE: &str = include_str!("../../docs/format.md");

/// Knows the seals of the page's anchors and no key: that they are the vault's, a test of the layer with the key says.
struct Published([u8; 32]);

impl AnchorSeal for Published {
    fn mac(&self, _: &[u8], _: &[u8]) -> [u8; 32] {
        self.0
    }
}

fn anchor(name: &str) -> (Vec<u8>, Published) {
    let bytes = Vector::of(PAGE, "anchors").bytes(name);
    let seal = Published(*bytes.last_chunk().unwrap());
    (bytes, seal)
}

#[test]
fn documented_anchors_are_read_and_written_the_same() {
    let handle = AccountHandle::from_bytes(Vector::of(PAGE, "account").array("handle"));
    let (bytes, seal) = anchor("shard");
    let read = ShardAnchor::decode(&bytes, ShardId(0), &seal).unwrap();
    let accounts = [(handle, Anchored { sequence: 1, digest: [0; 32] })].into();
    assert_eq!(read, ShardAnchor { shard: ShardId(0), generation: 0, counter: 1, accounts });
    assert_eq!(read.encode(&seal), bytes);

    let (bytes, seal) = anchor("directory");
    let (read, head) = DirectoryAnchor::decode(&bytes, &seal).unwrap();
    assert_eq!((read.counter, &*read.shards), (2, &[ShardMark { counter: 1, members: 1, generation: 0 }][..]));
    assert_eq!(read.marks.keys().copied().collect::<Vec<_>>(), [0x303, 0xce4]);
    assert!(read.marks.values().all(|mark| mark.sequence == 1));
    assert_eq!(head, AnchorHead { counter: 2, digest: seal.0 });
    assert_eq!(read.encode(&seal), (bytes, head));
}

#[test]
fn documented_header_file_is_read_and_written_the_same() {
    let vector = Vector::of(PAGE, "header");
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        max_open_shards: 1,
        stall_timeout: Duration::from_secs(10),
        trees_per_shard: TREES_PER_SHARD,
        commit_log_bytes: COMMIT_LOG_BYTES,
        section_from_bytes: SECTION_FROM_BYTES,
        faults: StorageFaults::default(),
    };
    let place = acquire(&folder.path().join("vault"), options).unwrap();
    place.write_header(&vector.bytes("content")).unwrap();
    for copy in ["header.a", "header.b"] {
        assert_eq!(std::fs::read(folder.path().join("vault").join(copy)).unwrap(), vector.bytes("header.a"), "{copy}");
    }
    assert_eq!(place.header().unwrap(), Some(vector.bytes("content")));
}

#[test]
fn documented_limits_are_those_of_the_code() {
    for (what, limit) in [
        ("bytes of key and value in one row", MAX_ROW_BYTES),
        ("bytes in one key", MAX_KEY_BYTES),
        ("bytes of rows in one commit", MAX_COMMIT_BYTES),
        ("account trees in one shard", MAX_TREES_PER_SHARD),
    ] {
        assert!(PAGE.contains(&format!("| {what} | {limit} |")), "{what}: {limit}");
    }
}
