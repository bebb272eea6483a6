//! The sealed form of every record and row on disk.
//!
//! ```text
//! envelope  = header(37) ‖ ciphertext ‖ tag(16)
//! header    = version(1) = 1 ‖ key version(4, big endian) ‖ revision(8, big endian) ‖ nonce(24)
//! plaintext = data length(4, little endian) ‖ data ‖ zeros up to the next multiple of 32
//! aad       = header ‖ ( part length(8, little endian) ‖ part )*
//! ```
//!
//! XChaCha20-Poly1305. The caller's aad parts say what the value is and where it belongs (vault, environment, account, record
//! key), so that a value which was moved, renamed or put back in an older revision does not open. The padding hides a secret's
//! exact length from who sees the disk.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroize;

use super::aead::{self, NONCE_BYTES, TAG_BYTES};
use super::key::KeyBytes;
use super::rng;
use crate::secret::{SecretBytes, zeros};

pub(crate) use super::aead::OpenFailed;

/// The most data that one envelope takes. The limits of what hosts store are checked earlier and are smaller.
pub(crate) const MAX_PLAINTEXT: usize = 80 * 1024;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 8 + NONCE_BYTES;
const LENGTH_BYTES: usize = 4;
const STEP: usize = 32;

/// What an envelope shows without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Which key sealed it, where keys have generations.
    pub(crate) key_version: u32,
    /// Which state of the value it is.
    pub(crate) revision: u64,
    /// Stands for the whole content in digests.
    pub(crate) tag: [u8; TAG_BYTES],
}

/// The data of an opened envelope, wiped when dropped.
pub(crate) struct Plaintext {
    buffer: SecretBytes,
    len: usize,
}

/// Seals `plaintext` under `key`. `aad` says what the value is and where it belongs.
///
/// # Panics
/// When `plaintext` has more than [`MAX_PLAINTEXT`] bytes: its own limit was not checked.
pub(crate) fn seal(key: &KeyBytes, key_version: u32, aad: &[&[u8]], revision: u64, plaintext: &[u8]) -> Vec<u8> {
    seal_under(key.expose(), key_version, aad, revision, plaintext)
}

/// Opens what [`seal`] made. `revision` is the one that the caller expects; `None` where it is checked by other means.
///
/// # Errors
/// [`OpenFailed`] unless key, aad, revision and every byte are those of the sealing.
pub(crate) fn open(key: &KeyBytes, aad: &[&[u8]], revision: Option<u64>, sealed: &[u8]) -> Result<Plaintext, OpenFailed> {
    open_under(key.expose(), aad, revision, sealed)
}

/// Reads what an envelope shows without a key. Nothing of it is authenticated before the envelope is opened.
///
/// # Errors
/// [`OpenFailed`] when `sealed` can't be an envelope.
pub(crate) fn header(sealed: &[u8]) -> Result<Header, OpenFailed> {
    let parts = Parts::of(sealed)?;
    Ok(Header { key_version: parts.key_version, revision: parts.revision, tag: *parts.tag })
}

/// [`seal`] under a key that is no [`KeyBytes`] because it stays in locked memory.
pub(super) fn seal_under(key: &[u8; 32], key_version: u32, aad: &[&[u8]], revision: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    rng::fill(&mut nonce);
    seal_with(key, key_version, aad, revision, plaintext, &nonce)
}

/// [`open`] under a key that is no [`KeyBytes`] because it stays in locked memory.
pub(super) fn open_under(key: &[u8; 32], aad: &[&[u8]], revision: Option<u64>, sealed: &[u8]) -> Result<Plaintext, OpenFailed> {
    let parts = Parts::of(sealed)?;
    if revision.is_some_and(|expected| expected != parts.revision) {
        return Err(OpenFailed);
    }
    let mut buffer = SecretBytes::zeroed(parts.ciphertext.len());
    buffer.expose_mut().copy_from_slice(parts.ciphertext);
    authenticated(parts.header, aad, |aad| aead::open(key, parts.nonce, aad, buffer.expose_mut(), parts.tag))?;
    let len = data_length(buffer.expose()).ok_or(OpenFailed)?;
    Ok(Plaintext { buffer, len })
}

/// [`seal`] under a nonce that is given, for test vectors only.
#[cfg(test)]
pub(crate) fn seal_with_nonce(
    key: &KeyBytes,
    key_version: u32,
    aad: &[&[u8]],
    revision: u64,
    plaintext: &[u8],
    nonce: &[u8; NONCE_BYTES],
) -> Vec<u8> {
    seal_with(key.expose(), key_version, aad, revision, plaintext, nonce)
}

fn seal_with(
    key: &[u8; 32],
    key_version: u32,
    aad: &[&[u8]],
    revision: u64,
    plaintext: &[u8],
    nonce: &[u8; NONCE_BYTES],
) -> Vec<u8> {
    assert!(plaintext.len() <= MAX_PLAINTEXT, "a value over the limit of an envelope");
    let padded = padded_length(plaintext.len());
    // Has its final size from the start: a buffer that grows leaves plaintext behind.
    let mut sealed = Unsealed(zeros(HEADER_BYTES + padded + TAG_BYTES));
    let (head, rest) = sealed.0.split_at_mut(HEADER_BYTES);
    let (body, tag) = rest.split_at_mut(padded);

    head[0] = VERSION;
    head[1..5].copy_from_slice(&key_version.to_be_bytes());
    head[5..13].copy_from_slice(&revision.to_be_bytes());
    head[13..].copy_from_slice(nonce);
    // At most 80 KiB, see above.
    #[expect(clippy::cast_possible_truncation, reason = "checked against MAX_PLAINTEXT")]
    body[..LENGTH_BYTES].copy_from_slice(&(plaintext.len() as u32).to_le_bytes());
    body[LENGTH_BYTES..LENGTH_BYTES + plaintext.len()].copy_from_slice(plaintext);

    tag.copy_from_slice(&authenticated(head, aad, |aad| aead::seal(key, nonce, aad, body)));
    sealed.finished()
}

/// An envelope that still holds plaintext: wiped if anything goes wrong before it is encrypted.
struct Unsealed(Vec<u8>);

impl Unsealed {
    fn finished(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Unsealed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// An envelope taken apart, its sizes checked.
struct Parts<'a> {
    header: &'a [u8; HEADER_BYTES],
    key_version: u32,
    revision: u64,
    nonce: &'a [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    fn of(sealed: &'a [u8]) -> Result<Self, OpenFailed> {
        let (header, rest) = sealed.split_first_chunk::<HEADER_BYTES>().ok_or(OpenFailed)?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(OpenFailed)?;
        let (version, fields) = header.split_first_chunk::<1>().ok_or(OpenFailed)?;
        let (key_version, fields) = fields.split_first_chunk().ok_or(OpenFailed)?;
        let (revision, fields) = fields.split_first_chunk().ok_or(OpenFailed)?;
        let nonce = fields.first_chunk().ok_or(OpenFailed)?;
        let whole_steps = !ciphertext.is_empty() && ciphertext.len() % STEP == 0;
        if version != &[VERSION] || !whole_steps || ciphertext.len() > padded_length(MAX_PLAINTEXT) {
            return Err(OpenFailed);
        }
        let (key_version, revision) = (u32::from_be_bytes(*key_version), u64::from_be_bytes(*revision));
        Ok(Self { header, key_version, revision, nonce, ciphertext, tag })
    }
}

impl Deref for Plaintext {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.expose()[LENGTH_BYTES..LENGTH_BYTES + self.len]
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes, redacted)", self.len)
    }
}

const fn padded_length(data: usize) -> usize {
    (LENGTH_BYTES + data).next_multiple_of(STEP)
}

/// The length of the data in a padded plaintext, if it is padded the one way that there is.
fn data_length(padded: &[u8]) -> Option<usize> {
    let (length, rest) = padded.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let canonical = len <= MAX_PLAINTEXT && padded_length(len) == padded.len() && rest.get(len..)?.iter().all(|&b| b == 0);
    canonical.then_some(len)
}

/// Header and parts as one string that can be read in one way only. On the stack as long as it is short, which it is for keys and
/// records; nothing of it is secret.
fn authenticated<R>(header: &[u8], parts: &[&[u8]], then: impl FnOnce(&[u8]) -> R) -> R {
    const SHORT: usize = 160;
    let len = header.len() + parts.iter().map(|part| 8 + part.len()).sum::<usize>();
    let (mut short, mut long) = ([0; SHORT], Vec::new());
    let place = if let Some(place) = short.get_mut(..len) {
        place
    } else {
        long.resize(len, 0);
        &mut long[..]
    };
    let mut rest = &mut *place;
    let mut put = |bytes: &[u8]| {
        let (here, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        rest = after;
    };
    put(header);
    for part in parts {
        put(&(part.len() as u64).to_le_bytes());
        put(part);
    }
    then(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hex;
    use super::super::key::Key;
    use super::*;

    fn key(byte: u8) -> Key {
        Key::copy_of(&[byte; 32])
    }

    /// Computed independently, with another implementation of XChaCha20-Poly1305.
    #[test]
    fn known_answer() {
        let key = Key::copy_of(&std::array::from_fn(|i| i as u8));
        let nonce = std::array::from_fn(|i| 0xa0 + i as u8);
        let sealed = seal_with_nonce(&key, 7, &[b"vault", b"record"], 0x0102_0304_0506_0708, b"a secret of 24 bytes....", &nonce);
        assert_eq!(
            hex(&sealed),
            "01000000070102030405060708a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b75dec0a1dd67dd7c9021d48fd515fc5e0\
             099ebf4ed372afaa336ea5c9e7a3fe366d39ce2560379e09d62e515d6e9a0079"
        );
        assert_eq!(&*open(&key, &[b"vault", b"record"], None, &sealed).unwrap(), b"a secret of 24 bytes....");
    }

    #[test]
    fn sizes_grow_in_steps_of_32() {
        for (data, sealed) in [(0, 85), (28, 85), (29, 117), (32, 117), (60, 117), (61, 149)] {
            assert_eq!(seal(&key(1), 1, &[], 1, &vec![0; data]).len(), sealed);
        }
    }

    #[test]
    fn the_largest_plaintext_passes_and_one_more_byte_does_not() {
        let largest = vec![0x5a; MAX_PLAINTEXT];
        let sealed = seal(&key(1), 1, &[], 1, &largest);
        assert_eq!(*open(&key(1), &[], Some(1), &sealed).unwrap(), *largest);
        let over = std::panic::catch_unwind(|| seal(&key(1), 1, &[], 1, &vec![0; MAX_PLAINTEXT + 1]));
        assert!(over.is_err());
    }

    #[test]
    fn two_sealings_of_one_value_have_nothing_in_common() {
        let (a, b) = (seal(&key(1), 1, &[], 1, b"value"), seal(&key(1), 1, &[], 1, b"value"));
        assert_ne!(a[13..37], b[13..37]);
        assert_ne!(a[37..], b[37..]);
    }

    #[test]
    fn only_the_one_padding_is_accepted() {
        let sealed_raw = |padded: &[u8]| {
            let mut bytes = seal_with_nonce(&key(1), 1, &[], 1, &vec![0; padded.len() - 4], &[9; 24]);
            let (head, rest) = bytes.split_at_mut(HEADER_BYTES);
            let (body, tag) = rest.split_at_mut(padded.len());
            body.copy_from_slice(padded);
            tag.copy_from_slice(&aead::seal(&[1; 32], &[9; 24], head, body));
            bytes
        };
        let mut padded = [0; 64];
        padded[0] = 40;
        assert_eq!(open(&key(1), &[], Some(1), &sealed_raw(&padded)).unwrap().len(), 40);
        padded[63] = 1;
        assert_eq!(open(&key(1), &[], Some(1), &sealed_raw(&padded)).unwrap_err(), OpenFailed, "padding that is not zero");
        padded[63] = 0;
        padded[0] = 28;
        assert_eq!(open(&key(1), &[], Some(1), &sealed_raw(&padded)).unwrap_err(), OpenFailed, "a step too many");
        padded[0] = 61;
        assert_eq!(open(&key(1), &[], Some(1), &sealed_raw(&padded)).unwrap_err(), OpenFailed, "longer than the envelope");
        padded[..4].copy_from_slice(&[0xff; 4]);
        assert_eq!(open(&key(1), &[], Some(1), &sealed_raw(&padded)).unwrap_err(), OpenFailed, "longer than any envelope");
    }

    #[test]
    fn debug_shows_no_data() {
        let sealed = seal(&key(1), 1, &[], 1, b"value");
        assert_eq!(format!("{:?}", open(&key(1), &[], None, &sealed).unwrap()), "Plaintext(5 bytes, redacted)");
    }

    fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(0u8..3, 0..5), 0..4)
    }

    fn slices(parts: &[Vec<u8>]) -> Vec<&[u8]> {
        parts.iter().map(Vec::as_slice).collect()
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            parts in parts(), key_version: u32, revision: u64,
        ) {
            let sealed = seal(&key(1), key_version, &slices(&parts), revision, &data);
            let head = header(&sealed).unwrap();
            prop_assert_eq!((head.key_version, head.revision), (key_version, revision));
            prop_assert_eq!(&head.tag[..], &sealed[sealed.len() - 16..]);
            prop_assert_eq!(&*open(&key(1), &slices(&parts), Some(revision), &sealed).unwrap(), &data[..]);
            prop_assert_eq!(&*open(&key(1), &slices(&parts), None, &sealed).unwrap(), &data[..]);
        }

        #[test]
        fn any_flipped_bit_fails_to_open(data in proptest::collection::vec(any::<u8>(), 0..80), revision: u64) {
            let sealed = seal(&key(1), 3, &[b"part"], revision, &data);
            for bit in 0..sealed.len() * 8 {
                let mut other = sealed.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(open(&key(1), &[b"part"], None, &other).is_err(), "bit {} of {}", bit, sealed.len() * 8);
            }
        }

        #[test]
        fn any_other_length_fails_to_open(data in proptest::collection::vec(any::<u8>(), 0..80), more in 1usize..80) {
            let sealed = seal(&key(1), 3, &[b"part"], 5, &data);
            for len in 0..sealed.len() {
                prop_assert!(open(&key(1), &[b"part"], None, &sealed[..len]).is_err());
            }
            let mut longer = sealed;
            longer.extend(std::iter::repeat_n(0, more));
            prop_assert!(open(&key(1), &[b"part"], None, &longer).is_err());
        }

        #[test]
        fn any_other_key_or_revision_fails_to_open(other_key: [u8; 32], revision: u64, other_revision: u64) {
            prop_assume!(other_key != [1; 32] && revision != other_revision);
            let sealed = seal(&key(1), 3, &[b"part"], revision, b"data");
            prop_assert!(open(&Key::copy_of(&other_key), &[b"part"], Some(revision), &sealed).is_err());
            prop_assert!(open(&key(1), &[b"part"], Some(other_revision), &sealed).is_err());
        }

        #[test]
        fn aad_parts_open_only_as_they_were_divided(sealed_with in parts(), opened_with in parts()) {
            let sealed = seal(&key(1), 3, &slices(&sealed_with), 5, b"data");
            prop_assert_eq!(open(&key(1), &slices(&opened_with), None, &sealed).is_ok(), sealed_with == opened_with);
            let joined = sealed_with.concat();
            for cut in 0..=joined.len() {
                let halves = [joined[..cut].to_vec(), joined[cut..].to_vec()];
                prop_assert_eq!(open(&key(1), &slices(&halves), None, &sealed).is_ok(), sealed_with == halves);
            }
        }

        #[test]
        fn arbitrary_bytes_never_open_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = header(&bytes);
            prop_assert!(open(&key(1), &[], None, &bytes).is_err());
        }
    }
}
