//! XChaCha20-Poly1305 over a buffer in place, leaving nothing on the stack.
//!
//! ```text
//! subkey = HChaCha20(key, nonce[0..16])
//! sealed = ChaCha20-Poly1305(subkey, 0^4 ‖ nonce[16..24], aad, plaintext)      (draft-irtf-cfrg-xchacha-03 on RFC 8439)
//! ```
//!
//! The second line is ring's, in assembly with vectors: 1 KiB takes 0.3 of what portable code takes, a token 0.7. Neither crate wipes what it leaves on the
//! stack, so nothing here is called outside [`wiping_stack`]. orion, which does it all in portable Rust, gives the tests a second opinion.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::error::Unspecified;

use super::derive::KEY_BYTES;
use super::wipe::{PRIMITIVE_STACK, wiping_stack};

/// Size of a nonce: large enough to be drawn at random for ever.
pub(crate) const NONCE_BYTES: usize = 24;

/// Size of an authentication tag.
pub(crate) const TAG_BYTES: usize = 16;

/// Bytes that [`hchacha`] takes beside a key.
pub(super) const HCHACHA_BYTES: usize = 16;

/// A sealed value that can't be opened. It does not say why: damaged, moved, replaced and sealed under another key look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value can't be opened")]
pub(crate) struct OpenFailed;

/// Encrypts `buffer` where it is and returns the tag over it and `aad`. A nonce must never be used twice with one key.
pub(super) fn seal(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    let done = wiping_stack::<PRIMITIVE_STACK, _>(|| -> Result<(), Unspecified> {
        let (cipher, nonce) = cipher(key, nonce)?;
        tag.copy_from_slice(cipher.seal_in_place_separate_tag(nonce, Aad::from(aad), buffer)?.as_ref());
        Ok(())
    });
    // Key and nonce have their sizes by type, and no buffer in memory reaches the cipher's limit of 256 GiB.
    #[expect(clippy::expect_used, reason = "fixed sizes, see above")]
    done.expect("XChaCha20-Poly1305 takes a key of 32 bytes and a buffer under 256 GiB");
    tag
}

/// Decrypts `buffer` where it is if `tag` is right; otherwise its content is lost, and is nothing of the plaintext.
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), OpenFailed> {
    wiping_stack::<PRIMITIVE_STACK, _>(|| {
        let (cipher, nonce) = cipher(key, nonce)?;
        cipher.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), buffer, 0..).map(drop)
    })
    .map_err(|Unspecified| OpenFailed)
}

/// `HChaCha20`: a key for one value of `input`, unrelated to those for others. Call it inside a stack frame that is wiped.
pub(super) fn hchacha(key: &[u8; KEY_BYTES], input: &[u8; HCHACHA_BYTES]) -> [u8; KEY_BYTES] {
    chacha20::hchacha::<chacha20::R20>(key.into(), input.into()).into()
}

/// What [`masked`](super::masked) is made with: 12 of 20 rounds, of which the best attacks that are published break 7 (Aumasson, Too Much
/// Crypto, 2019). What it hides lies in this process's memory and nowhere else. Call it inside a stack frame that is wiped.
pub(super) fn hchacha12(key: &[u8; KEY_BYTES], input: &[u8; HCHACHA_BYTES]) -> [u8; KEY_BYTES] {
    chacha20::hchacha::<chacha20::R12>(key.into(), input.into()).into()
}

/// The cipher and the nonce for one message.
fn cipher(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES]) -> Result<(LessSafeKey, Nonce), Unspecified> {
    let (first, last) = nonce.split_first_chunk().ok_or(Unspecified)?;
    let subkey = UnboundKey::new(&CHACHA20_POLY1305, &hchacha(key, first))?;
    let mut short = [0; 12];
    short[4..].copy_from_slice(last);
    Ok((LessSafeKey::new(subkey), Nonce::assume_unique_for_key(short)))
}

#[cfg(test)]
mod tests {
    use orion::hazardous::aead::xchacha20poly1305::{self as other, XChaCha20Poly1305};
    use proptest::prelude::*;

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

    /// draft-irtf-cfrg-xchacha-03, 2.2.1.
    #[test]
    fn published_vector_of_hchacha() {
        let key = std::array::from_fn(|i| i as u8);
        let input = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0, 0x31, 0x41, 0x59, 0x27];
        let subkey = hchacha(&key, &input);
        assert_eq!(super::super::hex(&subkey), "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc");
    }

    proptest! {
        #[test]
        fn another_implementation_agrees_on_every_byte(
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; 24]>(),
            aad in prop::collection::vec(any::<u8>(), 0..200),
            plaintext in prop::collection::vec(any::<u8>(), 0..3000),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut ours = plaintext.clone();
            let tag = seal(&key, &nonce, &aad, &mut ours);
            let mut theirs = plaintext.clone();
            let (other_key, other_nonce) = (other::SecretKey::try_from(&key).unwrap(), other::Nonce::from(nonce));
            let their_tag = XChaCha20Poly1305::seal_inplace(&other_key, &other_nonce, Some(&aad), &mut theirs).unwrap();
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(&tag[..], their_tag.unprotected_as_ref());

            let mut damaged = [&ours[..], &tag].concat();
            damaged[flip.index(ours.len() + 16)] ^= 1;
            let (body, damaged_tag) = damaged.split_last_chunk_mut().unwrap();
            prop_assert_eq!(open(&key, &nonce, &aad, body, damaged_tag), Err(OpenFailed));
            open(&key, &nonce, &aad, &mut ours, &tag).unwrap();
            prop_assert_eq!(ours, plaintext);
        }
    }
}
