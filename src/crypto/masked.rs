//! A key that an open vault needs at every request, as it lies in ordinary memory in between.
//!
//! ```text
//! masked = key XOR HChaCha12(mask key, salt)        salt: 16 random bytes, one for each masking
//! ```
//!
//! The mask key is drawn when the vault is opened, lies in locked memory with the keys that wrap, and is never stored, so that neither a dump
//! of ordinary memory nor the disk tells the key. What is stored is wrapped and authenticated (`keyring.rs`); this costs a third of
//! unwrapping it, since nobody but the process itself has to be convinced.

use std::fmt;

use zeroize::Zeroize;

use super::aead::{self, HCHACHA_BYTES};
use super::derive::KEY_BYTES;
use super::key::{Key, KeyBytes};
use super::rng;
use super::wipe::{MASK_STACK, wiping_stack};

/// A masked key. Only the [`Keyring`](super::keyring::Keyring) that masked it gives the key back.
#[derive(Clone)]
pub(crate) struct MaskedKey {
    salt: [u8; HCHACHA_BYTES],
    masked: [u8; KEY_BYTES],
}

impl MaskedKey {
    pub(super) fn mask(mask_key: &[u8; KEY_BYTES], key: &KeyBytes) -> Self {
        let mut salt = [0; HCHACHA_BYTES];
        rng::fill(&mut salt);
        let mut masked = [0; KEY_BYTES];
        wiping_stack::<MASK_STACK, _>(|| xor(mask_key, &salt, key.expose(), &mut masked));
        Self { salt, masked }
    }

    /// The key on the heap. Call it inside a stack frame that is wiped.
    pub(super) fn unmask(&self, mask_key: &[u8; KEY_BYTES]) -> Key {
        Key::made_by(|key| self.write(mask_key, key))
    }

    /// Lends the key. Call it inside a stack frame that is wiped.
    pub(super) fn with<R>(&self, mask_key: &[u8; KEY_BYTES], work: impl FnOnce(&KeyBytes) -> R) -> R {
        KeyBytes::in_frame(|key| self.write(mask_key, key), work)
    }

    fn write(&self, mask_key: &[u8; KEY_BYTES], key: &mut [u8; KEY_BYTES]) {
        wiping_stack::<MASK_STACK, _>(|| xor(mask_key, &self.salt, &self.masked, key));
    }
}

impl Drop for MaskedKey {
    /// The mask key outlives the account's: what was masked before a rotation or a deletion is gone with it.
    fn drop(&mut self) {
        // As a slice, like a key.
        self.masked[..].zeroize();
    }
}

fn xor(mask_key: &[u8; KEY_BYTES], salt: &[u8; HCHACHA_BYTES], from: &[u8; KEY_BYTES], to: &mut [u8; KEY_BYTES]) {
    let mut mask = aead::hchacha12(mask_key, salt);
    for ((to, from), mask) in to.iter_mut().zip(from).zip(&mask) {
        *to = from ^ mask;
    }
    mask[..].zeroize();
}

impl fmt::Debug for MaskedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskedKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;

    #[test]
    fn a_key_comes_back_under_its_mask_key_and_no_two_maskings_are_alike() {
        let (mask_key, key) = ([7; 32], Key::random());
        let (one, two) = (MaskedKey::mask(&mask_key, &key), MaskedKey::mask(&mask_key, &key));
        let is_key = |masked: &MaskedKey, mask_key| masked.with(mask_key, |found| found.expose() == key.expose());
        assert!(is_key(&one, &mask_key) && is_key(&two, &mask_key));
        assert_ne!(one.masked, two.masked);
        assert_ne!(&one.masked, key.expose());
        assert!(!is_key(&one, &[8; 32]));
        assert_eq!(format!("{one:?}"), "MaskedKey(redacted)");
    }
}
