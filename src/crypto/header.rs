//! The vault's header: what must be known before any key is, and the vault key, sealed under the root key.
//!
//! ```text
//! header = magic(11) = "ANCHORHOLD\0" ‖ format(2) = 1 ‖ vault id(16) ‖ slot count(1) = 1 or 2 ‖ slot* ‖ mac(32)
//! slot   = generation(4) ‖ parameters length(2) ‖ parameters ‖ sealed vault key(117)
//! ```
//!
//! Numbers are big endian. There is one slot per root key that can open the vault, the older one first: a second one exists only
//! while the root key is being rotated. The sealed vault key is an [`envelope`] with the generation as key version, revision 0
//! and the parts magic and format, vault id, parameters. The mac covers everything before it, under the vault key: it can be
//! checked once a slot was opened, and holds the slots together.

use std::fmt;

use super::derive::Label;
use super::envelope::{self, OpenFailed, Plaintext};
use super::key::Key;
use super::providers::MAX_PARAMETERS;
use crate::ids::VaultId;
use crate::secret::RootKey;

/// The newest format of a vault that this version reads and the one that it writes.
pub(crate) const FORMAT: u16 = 1;

const MAGIC: &[u8; 11] = b"ANCHORHOLD\0";
const MAC_BYTES: usize = 32;
/// An envelope of 32 bytes.
const SEALED_KEY_BYTES: usize = 117;
/// Old and new while the root key is being rotated.
const MAX_SLOTS: usize = 2;

/// Bytes that are not the header of a vault that this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("this is not an Anchorhold vault")]
    NotAVault,
    #[error("the vault has format {found}, this version reads up to {supported}: upgrade the library")]
    NewerFormat { found: u16, supported: u16 },
    #[error("the vault's header is damaged")]
    Malformed,
}

/// A header taken apart and written again, for fuzzing.
#[cfg(feature = "testing")]
pub(crate) fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, mac) = Header::parse(bytes).ok()?;
    Some([header.content().as_slice(), mac].concat())
}

/// A header without its mac.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) vault: VaultId,
    /// One or two, the older first.
    pub(super) slots: Vec<Slot>,
}

/// One root key that can open the vault.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// Counts root keys from 1.
    pub(super) generation: u32,
    /// What the key provider wants to be given back.
    pub(super) parameters: Vec<u8>,
    sealed_vault_key: Vec<u8>,
}

impl Header {
    /// Takes a header apart: content and the mac that it must have.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, &[u8; MAC_BYTES]), HeaderError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(HeaderError::NotAVault)?;
        let (format, rest) = rest.split_first_chunk().ok_or(HeaderError::Malformed)?;
        // Before anything else: a newer format may have any shape from here on.
        match u16::from_be_bytes(*format) {
            FORMAT => {}
            0 => return Err(HeaderError::Malformed),
            found => return Err(HeaderError::NewerFormat { found, supported: FORMAT }),
        }
        Self::parse_fields(rest).ok_or(HeaderError::Malformed)
    }

    /// All of the header but its mac.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut bytes = prefix().to_vec();
        bytes.extend_from_slice(self.vault.as_bytes());
        // At most two slots and 512 bytes of parameters, by construction and by `parse`.
        #[expect(clippy::cast_possible_truncation, reason = "bounded, see above")]
        bytes.push(self.slots.len() as u8);
        for slot in &self.slots {
            bytes.extend_from_slice(&slot.generation.to_be_bytes());
            #[expect(clippy::cast_possible_truncation, reason = "bounded, see above")]
            bytes.extend_from_slice(&(slot.parameters.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&slot.parameters);
            bytes.extend_from_slice(&slot.sealed_vault_key);
        }
        bytes
    }

    fn parse_fields(fields: &[u8]) -> Option<(Self, &[u8; MAC_BYTES])> {
        let (vault, rest) = fields.split_first_chunk()?;
        let (count, mut rest) = rest.split_first()?;
        let mut slots: Vec<Slot> = Vec::with_capacity(MAX_SLOTS);
        for _ in 0..*count {
            let (slot, after) = Slot::parse(rest)?;
            if slots.len() == MAX_SLOTS || slots.last().is_some_and(|before| before.generation >= slot.generation) {
                return None;
            }
            slots.push(slot);
            rest = after;
        }
        let mac = rest.try_into().ok()?;
        (!slots.is_empty()).then(|| (Self { vault: VaultId::from_bytes(*vault), slots }, mac))
    }
}

impl Slot {
    /// Seals the vault key for the holder of `root`. `parameters` have been checked to be at most [`MAX_PARAMETERS`].
    pub(super) fn seal(root: &RootKey, vault: VaultId, generation: u32, parameters: &[u8], vault_key: &[u8; 32]) -> Self {
        let key = sealing_key(root, vault);
        let aad: [&[u8]; 3] = [&prefix(), vault.as_bytes(), parameters];
        let sealed_vault_key = envelope::seal(&key, generation, &aad, 0, vault_key);
        Self { generation, parameters: parameters.to_vec(), sealed_vault_key }
    }

    /// The vault key, if `root` is the root key of this slot.
    pub(super) fn open(&self, root: &RootKey, vault: VaultId) -> Result<Plaintext, OpenFailed> {
        if envelope::header(&self.sealed_vault_key)?.key_version != self.generation {
            return Err(OpenFailed);
        }
        let aad: [&[u8]; 3] = [&prefix(), vault.as_bytes(), &self.parameters];
        envelope::open(&sealing_key(root, vault), &aad, Some(0), &self.sealed_vault_key)
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (generation, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_PARAMETERS {
            return None;
        }
        let (parameters, rest) = rest.split_at_checked(length)?;
        let (sealed, rest) = rest.split_at_checked(SEALED_KEY_BYTES)?;
        let generation = u32::from_be_bytes(*generation);
        let slot = Self { generation, parameters: parameters.to_vec(), sealed_vault_key: sealed.to_vec() };
        Some((slot, rest))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot(generation {}, {} bytes of parameters)", self.generation, self.parameters.len())
    }
}

fn sealing_key(root: &RootKey, vault: VaultId) -> Key {
    Key::derived_from(root.expose_secret(), Label::VaultKeySeal, &[vault.as_bytes()])
}

fn prefix() -> [u8; 13] {
    let mut bytes = [0; 13];
    bytes[..11].copy_from_slice(MAGIC);
    bytes[11..].copy_from_slice(&FORMAT.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root(byte: u8) -> RootKey {
        RootKey::from_bytes(&mut [byte; 32])
    }

    fn vault() -> VaultId {
        VaultId::from_bytes([0xa5; 16])
    }

    fn bytes_of(slots: Vec<Slot>) -> Vec<u8> {
        let mut bytes = Header { vault: vault(), slots }.content();
        bytes.extend_from_slice(&[0xcc; 32]);
        bytes
    }

    fn one_slot() -> Vec<u8> {
        bytes_of(vec![Slot::seal(&root(1), vault(), 1, b"parameters", &[2; 32])])
    }

    #[test]
    fn a_slot_opens_with_its_root_key_vault_and_parameters_only() {
        let slot = Slot::seal(&root(1), vault(), 3, b"parameters", &[2; 32]);
        assert_eq!(&*slot.open(&root(1), vault()).unwrap(), &[2; 32]);
        assert!(slot.open(&root(9), vault()).is_err());
        assert!(slot.open(&root(1), VaultId::from_bytes([0; 16])).is_err());
        assert!(Slot { parameters: b"parameterz".to_vec(), ..slot.clone() }.open(&root(1), vault()).is_err());
        assert!(Slot { generation: 4, ..slot }.open(&root(1), vault()).is_err());
    }

    #[test]
    fn what_is_no_header_is_told_apart_from_a_newer_and_a_damaged_one() {
        let good = one_slot();
        assert!(Header::parse(&good).is_ok());
        let parse = |bytes: &[u8]| Header::parse(bytes).unwrap_err();
        assert_eq!(parse(b""), HeaderError::NotAVault);
        assert_eq!(parse(b"SQLite format 3\0"), HeaderError::NotAVault);
        assert_eq!(parse(b"ANCHORHOLD\0"), HeaderError::Malformed);
        assert_eq!(parse(b"ANCHORHOLD\0\0\x02"), HeaderError::NewerFormat { found: 2, supported: 1 });
        assert_eq!(parse(b"ANCHORHOLD\0\xff\xffanything"), HeaderError::NewerFormat { found: 0xffff, supported: 1 });
        assert_eq!(parse(b"ANCHORHOLD\0\0\0anything"), HeaderError::Malformed);
        for len in 11..good.len() {
            assert_eq!(parse(&good[..len]), HeaderError::Malformed, "{len} bytes");
        }
        assert_eq!(parse(&[&good[..], &[0]].concat()), HeaderError::Malformed);
    }

    #[test]
    fn slots_are_one_or_two_in_order() {
        let slot = |generation| Slot::seal(&root(1), vault(), generation, b"", &[2; 32]);
        assert!(Header::parse(&bytes_of(vec![slot(1)])).is_ok());
        assert!(Header::parse(&bytes_of(vec![slot(1), slot(2)])).is_ok());
        for slots in [vec![], vec![slot(2), slot(1)], vec![slot(1), slot(1)], vec![slot(1), slot(2), slot(3)]] {
            assert_eq!(Header::parse(&bytes_of(slots)).unwrap_err(), HeaderError::Malformed);
        }
    }

    #[test]
    fn parameters_have_a_limit() {
        let with = |len| bytes_of(vec![Slot::seal(&root(1), vault(), 1, &vec![7; len], &[2; 32])]);
        assert!(Header::parse(&with(MAX_PARAMETERS)).is_ok());
        assert_eq!(Header::parse(&with(MAX_PARAMETERS + 1)).unwrap_err(), HeaderError::Malformed);
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same(at in 0usize..400, value: u8) {
            let slots = [(1, &b"parameters"[..]), (2, b"")].map(|(n, p)| Slot::seal(&root(1), vault(), n, p, &[2; 32]));
            let mut bytes = bytes_of(slots.to_vec());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            if let Ok((header, mac)) = Header::parse(&bytes) {
                let mut again = header.content();
                again.extend_from_slice(mac);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Header::parse(&tail);
            let _ = Header::parse(&[&b"ANCHORHOLD\0\0\x01"[..], &tail].concat());
        }
    }
}
