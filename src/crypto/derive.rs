//! The whole key derivation: keyed BLAKE2b-256 with one label per purpose.
//!
//! ```text
//! output  = BLAKE2b-256(key, message)
//! message = role(1) ‖ label length(1) ‖ label ‖ ( part length(8, little endian) ‖ part )*
//! role    = 'D' for a derived key, 'M' for a digest
//! ```
//!
//! A label can't run into a part nor one part into the next, and no digest is ever a key: the role sets them apart even where
//! label and parts are equal.

use orion::errors::UnknownCryptoError;
use orion::hazardous::mac::blake2b::{Blake2b, SecretKey};

use super::wipe::{PRIMITIVE_STACK, wiping_stack};

// orion wipes its key and cipher types only with its `zeroize` feature. `ChaCha20` has this trait with that feature and not
// without, so that a build which lost it does not compile.
const _: fn() = || {
    fn wiping<T: zeroize::Zeroize>() {}
    wiping::<orion::hazardous::stream::chacha20::ChaCha20>();
};

/// Size of every key and every digest.
pub(crate) const KEY_BYTES: usize = 32;

/// Every purpose that a key or a digest has in this crate. What two labels make from one key is unrelated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Label {
    /// From a root key: wraps account keys and token keys.
    Wrap,
    /// From a root key: seals the vault key in the header.
    VaultKeySeal,
    /// From the vault key: authenticates the header as a whole.
    Header,
    /// From the vault key: keyed hash of environment and the host's account id.
    Locator,
    /// From the vault key: seals the directory's rows.
    DirectorySeal,
    /// From the vault key: one row's contribution to its bucket's digest.
    DirectoryElement,
    /// From the vault key: authenticates a bucket's head.
    BucketHead,
    /// From the vault key: authenticates anchor files.
    Anchor,
    /// From the vault key: what is kept of an API key's secret.
    ApiKeyHash,
    /// From the vault key: the audit chain of an environment's API keys.
    ApiKeyChain,
    /// From the vault key: the mark of the whole vault that a host keeps elsewhere.
    VaultHead,
    /// From an account key: seals the account's records.
    AccountRecord,
    /// From an account key: seals or authenticates the account's head.
    AccountHead,
    /// From an account key: one record's contribution to the account's digest.
    AccountDigest,
    /// From an account's audit key: the account's audit chain.
    AuditChain,
    /// From an account key: seals session tokens.
    TokenKey,
    /// From an account's audit key: seals the segments of the audit.
    AuditRecord,
    /// From an account's token key: seals the state of connect flows.
    ConnectState,
    /// From an account's token key: the PKCE code verifiers of connect flows.
    ConnectVerifier,
}

impl Label {
    /// All labels, in the order of their numbers.
    pub(crate) const ALL: [Label; 19] = [
        Label::Wrap,
        Label::VaultKeySeal,
        Label::Header,
        Label::Locator,
        Label::DirectorySeal,
        Label::DirectoryElement,
        Label::BucketHead,
        Label::Anchor,
        Label::ApiKeyHash,
        Label::ApiKeyChain,
        Label::VaultHead,
        Label::AccountRecord,
        Label::AccountHead,
        Label::AccountDigest,
        Label::AuditChain,
        Label::TokenKey,
        Label::AuditRecord,
        Label::ConnectState,
        Label::ConnectVerifier,
    ];

    /// The text that is hashed. Part of the file format: never change one, add another.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Label::Wrap => "anchorhold/wrap",
            Label::VaultKeySeal => "anchorhold/vault-key-seal",
            Label::Header => "anchorhold/header",
            Label::Locator => "anchorhold/locator",
            Label::DirectorySeal => "anchorhold/directory-seal",
            Label::DirectoryElement => "anchorhold/directory-element",
            Label::BucketHead => "anchorhold/bucket-head",
            Label::Anchor => "anchorhold/anchor",
            Label::ApiKeyHash => "anchorhold/api-key-hash",
            Label::ApiKeyChain => "anchorhold/api-key-chain",
            Label::VaultHead => "anchorhold/vault-head",
            Label::AccountRecord => "anchorhold/account-record",
            Label::AccountHead => "anchorhold/account-head",
            Label::AccountDigest => "anchorhold/account-digest",
            Label::AuditChain => "anchorhold/audit-chain",
            Label::TokenKey => "anchorhold/token-key",
            Label::AuditRecord => "anchorhold/audit-record",
            Label::ConnectState => "anchorhold/connect-state",
            Label::ConnectVerifier => "anchorhold/connect-verifier",
        }
    }
}

/// Writes the key for `label` and `context` into `out`.
pub(super) fn derive_into(key: &[u8; KEY_BYTES], label: Label, context: &[&[u8]], out: &mut [u8; KEY_BYTES]) {
    keyed_hash(key, b'D', label, context, out);
}

/// The digest of `parts` for `label`. Public: it may be stored and compared (with [`eq`](super::wipe::eq)).
pub(super) fn mac(key: &[u8; KEY_BYTES], label: Label, parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut out = [0; KEY_BYTES];
    keyed_hash(key, b'M', label, parts, &mut out);
    out
}

fn keyed_hash(key: &[u8; KEY_BYTES], role: u8, label: Label, parts: &[&[u8]], out: &mut [u8; KEY_BYTES]) {
    // BLAKE2b keeps the padded key in its message block, which stays on the stack.
    let done = wiping_stack::<PRIMITIVE_STACK, _>(|| hash(key, role, label.text().as_bytes(), parts, out));
    // The key has a length that BLAKE2b takes, so has the digest, and each state is finalised once.
    #[expect(clippy::expect_used, reason = "fixed sizes, see above")]
    done.expect("BLAKE2b takes a key of 32 bytes");
}

fn begin(key: &[u8; KEY_BYTES], role: u8, label: &[u8]) -> Result<Blake2b, UnknownCryptoError> {
    let mut state = Blake2b::new(&SecretKey::try_from(key)?, KEY_BYTES)?;
    // The longest label has 28 bytes; a test holds them under 128.
    #[expect(clippy::cast_possible_truncation, reason = "labels are short, see above")]
    state.update(&[role, label.len() as u8])?;
    state.update(label)?;
    Ok(state)
}

fn hash(key: &[u8; 32], role: u8, label: &[u8], parts: &[&[u8]], out: &mut [u8; 32]) -> Result<(), UnknownCryptoError> {
    let mut state = begin(key, role, label)?;
    for part in parts {
        state.update(&(part.len() as u64).to_le_bytes())?;
        state.update(part)?;
    }
    out.copy_from_slice(state.finalize()?.unprotected_as_ref());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::hex;
    use super::*;

    fn derived(key: &[u8; 32], label: Label, context: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        derive_into(key, label, context, &mut out);
        out
    }

    /// Computed independently with Python's `hashlib.blake2b`.
    #[test]
    fn known_answers() {
        let key = std::array::from_fn(|i| i as u8);
        assert_eq!(
            hex(&derived(&key, Label::Wrap, &[b"context", b""])),
            "d76c9398465d39d036c5d8e09f9aa055fd984d6e246c5e39b6ba646971a7061f"
        );
        assert_eq!(
            hex(&mac(&key, Label::Locator, &[&[2], b"acme-42"])),
            "6db04bdcd28f04ab0243a7458547f4acb23ee8c98a4e626320ec7f8509104408"
        );
    }

    #[test]
    fn labels_are_numbered_in_order_short_and_distinct() {
        for (number, label) in Label::ALL.into_iter().enumerate() {
            assert_eq!(label as usize, number);
            assert!(label.text().len() < 128);
        }
        assert_eq!(Label::ALL.iter().map(|label| label.text()).collect::<HashSet<_>>().len(), Label::ALL.len());
    }

    #[test]
    fn every_label_and_role_makes_another_key() {
        let key = [7; 32];
        let mut all: HashSet<[u8; 32]> = Label::ALL.iter().map(|&label| derived(&key, label, &[b"x"])).collect();
        all.extend(Label::ALL.iter().map(|&label| mac(&key, label, &[b"x"])));
        assert_eq!(all.len(), 2 * Label::ALL.len());
    }

    proptest! {
        #[test]
        fn parts_with_other_boundaries_never_meet(
            a in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..6), 0..5),
            b in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..6), 0..5),
        ) {
            fn of(parts: &[Vec<u8>]) -> [u8; 32] {
                mac(&[1; 32], Label::Locator, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            prop_assert_eq!(a == b, of(&a) == of(&b));
            // The same bytes, cut at another place.
            let joined: Vec<u8> = a.concat();
            for cut in 0..=joined.len() {
                let halves = vec![joined[..cut].to_vec(), joined[cut..].to_vec()];
                prop_assert_eq!(halves == a, of(&halves) == of(&a));
            }
        }
    }
}
