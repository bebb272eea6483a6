//! XChaCha20-Poly1305 over a buffer in place, leaving nothing on the stack.

use orion::errors::UnknownCryptoError;
use orion::hazardous::aead::xchacha20poly1305::{Nonce, SecretKey, Tag, XChaCha20Poly1305};

use super::derive::KEY_BYTES;
use super::wipe::{PRIMITIVE_STACK, wiping_stack};

/// Size of a nonce: large enough to be drawn at random for ever.
pub(crate) const NONCE_BYTES: usize = 24;

/// Size of an authentication tag.
pub(crate) const TAG_BYTES: usize = 16;

// orion wipes its key and cipher types only with its `zeroize` feature. `ChaCha20` has this trait with that feature and not
// without, so that a build which lost it does not compile.
const _: fn() = || {
    fn wiping<T: zeroize::Zeroize>() {}
    wiping::<orion::hazardous::stream::chacha20::ChaCha20>();
};

/// A sealed value that can't be opened. It does not say why: damaged, moved, replaced and sealed under another key look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value can't be opened")]
pub(crate) struct OpenFailed;

/// Encrypts `buffer` where it is and returns the tag over it and `aad`. A nonce must never be used twice with one key.
pub(super) fn seal(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    let done = wiping_stack::<PRIMITIVE_STACK, _>(|| -> Result<(), UnknownCryptoError> {
        let sealed = XChaCha20Poly1305::seal_inplace(&SecretKey::try_from(key)?, &Nonce::from(*nonce), Some(aad), buffer)?;
        tag.copy_from_slice(sealed.unprotected_as_ref());
        Ok(())
    });
    // Key and nonce have their sizes by type, and no buffer in memory reaches the cipher's limit of 256 GiB.
    #[expect(clippy::expect_used, reason = "fixed sizes, see above")]
    done.expect("XChaCha20-Poly1305 takes a key of 32 bytes and a buffer under 256 GiB");
    tag
}

/// Decrypts `buffer` where it is if `tag` is right; otherwise leaves it as it was.
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), OpenFailed> {
    wiping_stack::<PRIMITIVE_STACK, _>(|| {
        let key = SecretKey::try_from(key)?;
        XChaCha20Poly1305::open_inplace(&key, &Nonce::from(*nonce), &Tag::from(*tag), Some(aad), buffer)
    })
    .map_err(|_| OpenFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// draft-irtf-cfrg-xchacha-03, A.3.1.
    #[test]
    fn published_vector() {
        let key = std::array::from_fn(|i| 0x80 + i as u8);
        let nonce = std::array::from_fn(|i| 0x40 + i as u8);
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plaintext = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                          sunscreen would be it.";
        let mut buffer = *plaintext;
        let tag = seal(&key, &nonce, &aad, &mut buffer);
        assert_eq!(
            buffer[..16],
            [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b, 0x95, 0x76, 0x57, 0x94, 0x93, 0xc0, 0xe9, 0x39]
        );
        assert_eq!(tag, [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49]);
        open(&key, &nonce, &aad, &mut buffer, &tag).unwrap();
        assert_eq!(&buffer, plaintext);
    }
}
