//! A root key that the host has already.

use std::fmt;

use zeroize::Zeroizing;

use super::{KeyProvider, RootKeyError};
use crate::crypto::locked::LockedKeys;
use crate::secret::RootKey;

/// A root key that the host holds already, for example decrypted by a key management service.
///
/// # Use case
/// Hosts that fetch the key themselves, and tests. To fetch it only when it is needed, implement [`KeyProvider`].
///
/// # About
/// The key is kept in locked memory until the provider is dropped.
///
/// # Parameters
/// - `key`: a [`RootKey`], or 32 bytes.
///
/// # Security
/// A `[u8; 32]` that is passed by value leaves copies on the caller's stack; [`RootKey::from_bytes`] wipes the array that it is
/// given.
///
/// # Example
/// ```
/// use anchorhold::{RawKey, RootKey};
/// let mut bytes = [7; 32]; // from a key management service
/// let provider = RawKey::new(RootKey::from_bytes(&mut bytes));
/// assert_eq!(bytes, [0; 32]);
/// ```
pub struct RawKey(LockedKeys);

impl RawKey {
    /// Moves the key into locked memory.
    #[must_use]
    pub fn new(key: impl Into<RootKey>) -> Self {
        let key = key.into();
        let mut keys = LockedKeys::zeroed(1);
        keys.keys_mut()[0].copy_from_slice(key.expose_secret());
        Self(keys)
    }
}

impl KeyProvider for RawKey {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        let mut copy = Zeroizing::new([0; 32]);
        copy.copy_from_slice(&self.0.keys()[0]);
        Ok(RootKey::from_bytes(&mut copy))
    }
}

impl fmt::Debug for RawKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawKey(redacted)")
    }
}

impl From<[u8; 32]> for RootKey {
    /// Takes the key and wipes the array that was moved in; copies that the caller made stay.
    fn from(mut bytes: [u8; 32]) -> Self {
        Self::from_bytes(&mut bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_key_again_and_again_and_shows_none() {
        let provider = RawKey::new([0x2a; 32]);
        for _ in 0..2 {
            assert_eq!(provider.root_key(b"ignored").unwrap().expose_secret(), &[0x2a; 32]);
        }
        assert_eq!(format!("{provider:?}"), "RawKey(redacted)");
    }
}
