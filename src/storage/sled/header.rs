//! The vault header on disk: two copies, each with a checksum, so that damage to one costs nothing.
//!
//! `header.a` and `header.b` have the same layout, integers big-endian:
//!
//! ```text
//! magic       8   "AHHEADER"
//! revision    8   which write this is; the copy with the higher one wins
//! length      4   of the content
//! content     *   made and understood by the layers above
//! crc32       4   of everything above
//! ```
//!
//! The checksum finds accidents. The content authenticates itself.

use std::io;
use std::path::Path;

use super::super::{Location, StorageError};
use super::files;

const MAGIC: &[u8; 8] = b"AHHEADER";
const COPIES: [&str; 2] = ["header.a", "header.b"];

/// What the two copies say.
pub(super) enum Header {
    /// Neither file is there.
    Absent,
    /// The content of the newer whole copy.
    Whole(Vec<u8>),
    /// At least one file is there and none is whole.
    Damaged,
}

/// Reads the header and repairs a copy that is missing, damaged or older than the other.
pub(super) fn read(root: &Path) -> io::Result<Header> {
    let mut copies = Vec::with_capacity(COPIES.len());
    for name in COPIES {
        copies.push(files::read_optional(&root.join(name))?);
    }
    if copies.iter().all(Option::is_none) {
        return Ok(Header::Absent);
    }
    let whole = copies.iter().flatten().filter_map(|bytes| parse(bytes).map(|(revision, content)| (revision, content, bytes)));
    let Some((_, content, newest)) = whole.max_by_key(|(revision, ..)| *revision) else {
        return Ok(Header::Damaged);
    };
    for (name, copy) in COPIES.iter().zip(&copies) {
        if copy.as_ref() != Some(newest) {
            tracing::warn!(copy = name, "a copy of the vault header was missing, damaged or old and is written anew");
            files::replace(&root.join(name), newest)?;
        }
    }
    Ok(Header::Whole(content.to_vec()))
}

/// The copies that are not whole, while the vault is open.
pub(super) fn check(root: &Path) -> io::Result<Vec<StorageError>> {
    let mut found = Vec::new();
    for name in COPIES {
        let what = match files::read_optional(&root.join(name))? {
            Some(bytes) if parse(&bytes).is_some() => continue,
            Some(_) => "damaged",
            None => "missing",
        };
        let detail = format!("{name}: {what}; it is written anew from the other copy when the vault is opened");
        found.push(StorageError::Corrupted { place: Location::Header, detail, accounts: Vec::new() });
    }
    Ok(found)
}

/// Writes both copies, one after the other, so that at every moment one is whole.
pub(super) fn write(root: &Path, content: &[u8]) -> io::Result<()> {
    let mut revision = 0;
    for name in COPIES {
        if let Some(bytes) = files::read_optional(&root.join(name))? {
            revision = revision.max(parse(&bytes).map_or(0, |(found, _)| found));
        }
    }
    let bytes = encode(revision + 1, content)?;
    COPIES.iter().try_for_each(|name| files::replace(&root.join(name), &bytes))
}

fn encode(revision: u64, content: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&revision.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(content);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (length, content) = rest.split_first_chunk::<4>()?;
    (content.len() == u32::from_be_bytes(*length) as usize).then_some((u64::from_be_bytes(*revision), content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(root: &Path) -> Option<Vec<u8>> {
        match read(root).unwrap() {
            Header::Whole(content) => Some(content),
            Header::Absent | Header::Damaged => None,
        }
    }

    #[test]
    fn one_damaged_copy_costs_nothing_and_two_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Header::Absent));
        write(dir.path(), b"first").unwrap();
        write(dir.path(), b"second").unwrap();
        let whole = std::fs::read(dir.path().join("header.a")).unwrap();
        for name in COPIES {
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x10;
                std::fs::write(dir.path().join(name), &damaged).unwrap();
                assert_eq!(content(dir.path()).as_deref(), Some(b"second".as_slice()), "byte {at} of {name}");
                assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), whole, "{name} was not repaired");
            }
            std::fs::remove_file(dir.path().join(name)).unwrap();
            assert_eq!(content(dir.path()).as_deref(), Some(b"second".as_slice()));
        }
        for name in COPIES {
            std::fs::write(dir.path().join(name), &whole[1..]).unwrap();
        }
        assert!(matches!(read(dir.path()).unwrap(), Header::Damaged));
    }

    #[test]
    fn a_crash_between_the_copies_leaves_the_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), b"first").unwrap();
        let old = std::fs::read(dir.path().join("header.b")).unwrap();
        write(dir.path(), b"second").unwrap();
        std::fs::write(dir.path().join("header.b"), old).unwrap();
        assert_eq!(content(dir.path()).as_deref(), Some(b"second".as_slice()));
    }
}
