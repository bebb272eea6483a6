//! Keys and sealing. The only place that names orion, ring and chacha20; of its files, `locked.rs`, `environ.rs` and `registers.rs` hold
//! `unsafe`.
//!
//! Keys form a tree. A root key wraps the account keys and seals the vault key; from the vault key come the subkeys of the
//! directory, from an account key those of the account. Each step down is one call of [`mod@derive`], each sealed value an
//! [`envelope`].

mod aead;
pub(crate) mod derive;
pub(crate) mod envelope;
#[cfg(unix)]
mod environ;
#[cfg(test)]
mod format_tests;
pub(crate) mod header;
pub(crate) mod key;
pub(crate) mod keyring;
mod locked;
pub(crate) mod masked;
pub(crate) mod providers;
mod registers;
pub(crate) mod rng;
pub(crate) mod wipe;

pub use locked::LockKind;
pub use providers::{EnvVar, KeyFile, KeyProvider, Passphrase, RawKey, RootKeyError};

#[cfg(test)]
mod scan;

/// Lower-case hexadecimal, for test vectors.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
