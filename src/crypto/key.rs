//! The key of one account, or one derived from it: 32 bytes that wipe themselves, on the heap or in a stack frame that is wiped.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroize;

use super::aead::{self, NONCE_BYTES, OpenFailed, TAG_BYTES};
use super::derive::{self, KEY_BYTES, Label};
use super::rng;

/// A secret key. It is boxed, so that moving it copies a pointer and not the key, and wiped when dropped.
pub(crate) struct Key(Box<KeyBytes>);

/// The bytes of a key where they lie: in a [`Key`], or for a few steps in a stack frame. They are lent and never moved, and wiped when
/// dropped.
pub(crate) struct KeyBytes([u8; KEY_BYTES]);

impl Key {
    /// A new key, straight from the operating system.
    pub(crate) fn random() -> Self {
        Self::made_by(|key| rng::fill_secret(key))
    }

    /// A copy of `bytes`. What `bytes` are part of is the caller's to wipe.
    pub(crate) fn copy_of(bytes: &[u8; KEY_BYTES]) -> Self {
        Self::made_by(|key| key.copy_from_slice(bytes))
    }

    /// A key that is written into its place.
    pub(super) fn made_by(make: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        // Not zeros: the compiler would ask the allocator for memory that is zero, which glibc before 2.41 serves without its cache.
        let mut key = Box::new(KeyBytes([0xff; KEY_BYTES]));
        make(&mut key.0);
        Self(key)
    }

    /// The key for `label` and `context` from a key that is not a [`Key`].
    pub(super) fn derived_from(bytes: &[u8; KEY_BYTES], label: Label, context: &[&[u8]]) -> Key {
        Self::made_by(|key| derive::derive_into(bytes, label, context, key))
    }
}

impl KeyBytes {
    /// Lends a key that is written into this frame. Call it inside a stack frame that is wiped.
    pub(super) fn in_frame<R>(make: impl FnOnce(&mut [u8; KEY_BYTES]), work: impl FnOnce(&KeyBytes) -> R) -> R {
        let mut key = KeyBytes([0; KEY_BYTES]);
        make(&mut key.0);
        work(&key)
    }

    /// The key for one purpose and context, unrelated to this one and to those of all other purposes and contexts.
    pub(crate) fn derive(&self, label: Label, context: &[&[u8]]) -> Key {
        Key::derived_from(&self.0, label, context)
    }

    /// The keyed digest of `parts` for one purpose; how they are divided counts.
    pub(crate) fn mac(&self, label: Label, parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        derive::mac(&self.0, label, parts)
    }

    /// Encrypts `buffer` where it is under a fresh random nonce, and authenticates it together with `aad`. For formats of their
    /// own (session tokens); records go through [`envelope`](super::envelope).
    pub(crate) fn seal_in_place(&self, aad: &[u8], buffer: &mut [u8]) -> ([u8; NONCE_BYTES], [u8; TAG_BYTES]) {
        let mut nonce = [0; NONCE_BYTES];
        rng::fill(&mut nonce);
        (nonce, aead::seal(&self.0, &nonce, aad, buffer))
    }

    /// [`seal_in_place`](Self::seal_in_place) under a nonce that is given, for test vectors only.
    #[cfg(test)]
    #[allow(dead_code, reason = "for the vectors of the layers above")]
    pub(crate) fn seal_in_place_with(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
        aead::seal(&self.0, nonce, aad, buffer)
    }

    /// Decrypts `buffer` where it is if `tag` is right; if not, its content is lost and is nothing of the plaintext.
    ///
    /// # Errors
    /// [`OpenFailed`] when key, nonce, `aad`, `buffer` or `tag` is not the one of the sealing.
    pub(crate) fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), OpenFailed> {
        aead::open(&self.0, nonce, aad, buffer, tag)
    }

    /// The key itself. The only way to it outside this module, so that a search for this name finds every use.
    pub(crate) fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl Deref for Key {
    type Target = KeyBytes;

    fn deref(&self) -> &KeyBytes {
        &self.0
    }
}

impl Drop for KeyBytes {
    fn drop(&mut self) {
        // As a slice: an array is wiped element by element, with a barrier behind each.
        self.0[..].zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Key::copy_of(&[0xab; 32])), "Key(redacted)");
    }

    #[test]
    fn random_keys_differ_from_each_other_and_from_zero() {
        let (a, b) = (Key::random(), Key::random());
        assert_ne!(a.expose(), b.expose());
        assert_ne!(a.expose(), &[0; 32]);
    }

    #[test]
    fn a_buffer_opens_with_the_same_key_nonce_aad_and_tag_only() {
        let key = Key::random();
        let mut buffer = *b"forty-two bytes of something confidential.";
        let (nonce, tag) = key.seal_in_place(b"aad", &mut buffer);
        let sealed = buffer;
        assert_ne!(&sealed, b"forty-two bytes of something confidential.");

        let mut refused = |key: &Key, nonce: &[u8; 24], aad: &[u8], tag: &[u8; 16]| {
            buffer = sealed;
            assert_eq!(key.open_in_place(nonce, aad, &mut buffer, tag), Err(OpenFailed));
            let shown = buffer.iter().zip(b"forty-two bytes of something confidential.").filter(|(a, b)| a == b).count();
            assert!(shown < 8, "a refused buffer shows nothing of the plaintext");
        };
        refused(&Key::random(), &nonce, b"aad", &tag);
        refused(&key, &[0; 24], b"aad", &tag);
        refused(&key, &nonce, b"other", &tag);
        refused(&key, &nonce, b"aad", &[0; 16]);

        buffer = sealed;
        key.open_in_place(&nonce, b"aad", &mut buffer, &tag).unwrap();
        assert_eq!(&buffer, b"forty-two bytes of something confidential.");
    }
}
