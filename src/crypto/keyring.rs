//! The keys of an open vault. They are in locked memory, and no method gives one out: a keyring wraps, seals and digests.
//!
//! ```text
//! root key ─┬─ VaultKeySeal ── seals the vault key in the header
//!           └─ Wrap ────────── wraps account keys and token keys
//! vault key (random) ── one subkey per label: Locator, DirectorySeal, Anchor, …
//! mask key (random, never stored) ── masks keys in this process's memory
//! ```
//!
//! Rotating the root key changes the first two and leaves the vault key, so that no row and no locator changes with it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::derive::{self, Label};
use super::envelope::{self, OpenFailed, Plaintext};
use super::header::{Header, HeaderError, Slot};
use super::key::{Key, KeyBytes};
use super::locked::{LockKind, LockedKeys};
use super::masked::MaskedKey;
use super::providers::{KeyProvider, MAX_PARAMETERS, RootKeyError};
use super::{rng, wipe};
use crate::ids::{AccountHandle, ApiKeyId, Environment, VaultId};
use crate::secret::RootKey;

/// Where the keys lie in their locked memory: first the vault's subkeys in the order of their labels, then these.
const VAULT_KEY: usize = Label::ALL.len();
/// Masks keys in this process's memory. Drawn at random for each opened vault, and kept when its root key is rotated.
const MASK_KEY: usize = VAULT_KEY + 1;
const FIRST_WRAP_KEY: usize = MASK_KEY + 1;

/// The vault key is never rotated; its envelopes carry this key version.
const VAULT_KEY_VERSION: u32 = 1;

/// The keys of one open vault. Shared by all its threads; each operation takes the generation that is current when it starts.
pub(crate) struct Keyring {
    vault: VaultId,
    ring: ArcSwap<Ring>,
}

/// A header that was prepared and is not in force yet: write it, then [`Keyring::apply`] it. Were it in force before it is
/// durable, a crash would leave keys that are wrapped under a root key which no header knows.
#[must_use = "write the header, then apply the change"]
pub(crate) struct HeaderChange {
    header: Vec<u8>,
    base: Arc<Ring>,
    next: Arc<Ring>,
}

/// What a wrapped key is for; one can't stand for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrapPurpose {
    AccountKey,
    /// Wrapped on its own, so that checking a token derives nothing.
    TokenKey,
    /// Apart from the account key, so that the audit stays one readable chain when that is rotated.
    AuditKey,
    /// The account key before, while a rotation is under way.
    PreviousAccountKey,
}

/// Why a keyring can't be made from a header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenKeyringError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the root key is not this vault's")]
    WrongRootKey,
    #[error("a rotation of the root key is unfinished: give the previous root key too")]
    PreviousRootKeyNeeded,
    #[error("a rotation of the root key is unfinished: give the new root key, and this one as the previous")]
    NewRootKeyNeeded,
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
}

/// Why a rotation can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RotationError {
    #[error("another rotation of the root key is unfinished")]
    Unfinished,
    #[error("no rotation of the root key has begun")]
    NotBegun,
    #[error("the header was changed meanwhile")]
    Stale,
    #[error("the root key can't be rotated more than 4 billion times")]
    Exhausted,
    #[error("a key provider gave {bytes} bytes of parameters: the limit is 512")]
    TooManyParameters { bytes: usize },
}

/// One state of the keys: what the header says, and the keys that follow from it.
struct Ring {
    header: Header,
    keys: LockedKeys,
}

impl Keyring {
    /// Keys for a new vault, and the header to store. `parameters` are those that the provider made for `root`.
    ///
    /// # Errors
    /// [`RootKeyError::TooManyParameters`].
    pub(crate) fn create(root: &RootKey, parameters: &[u8]) -> Result<(Self, Vec<u8>), RootKeyError> {
        if parameters.len() > MAX_PARAMETERS {
            return Err(RootKeyError::TooManyParameters { bytes: parameters.len() });
        }
        let mut vault = [0; 16];
        rng::fill(&mut vault);
        let vault = VaultId::from_bytes(vault);
        let mut keys = LockedKeys::zeroed(FIRST_WRAP_KEY + 1);
        rng::fill_secret(&mut keys.keys_mut()[VAULT_KEY]);
        rng::fill_secret(&mut keys.keys_mut()[MASK_KEY]);
        let slot = Slot::seal(root, vault, 1, parameters, &keys.keys()[VAULT_KEY]);
        derive_subkeys(&mut keys);
        derive_wrap_key(&mut keys, FIRST_WRAP_KEY, root, vault, 1);
        let ring = Ring { header: Header { vault, slots: vec![slot] }, keys };
        let header = ring.header_bytes();
        Ok((Self { vault, ring: ArcSwap::from_pointee(ring) }, header))
    }

    /// Opens the keys of a vault. Each slot of the header needs a provider whose root key fits: normally there is one slot, and
    /// two while a rotation is unfinished. The order of `providers` does not matter.
    ///
    /// # Errors
    /// [`OpenKeyringError`]; a provider's own error only if no other provider opened the slot.
    pub(crate) fn open(header: &[u8], providers: &[&dyn KeyProvider]) -> Result<Self, OpenKeyringError> {
        let (parsed, mac) = Header::parse(header)?;
        let mut keys = LockedKeys::zeroed(FIRST_WRAP_KEY + parsed.slots.len());
        let mut opened = Vec::with_capacity(parsed.slots.len());
        let mut refused = None;
        for (number, slot) in parsed.slots.iter().enumerate() {
            let vault_key = unlock(slot, parsed.vault, providers, &mut refused);
            opened.push(vault_key.is_some());
            if let Some((root, vault_key)) = vault_key {
                // An envelope of this size holds 29 to 60 bytes.
                let vault_key = <&[u8; 32]>::try_from(&*vault_key).map_err(|_| HeaderError::Malformed)?;
                keys.keys_mut()[VAULT_KEY].copy_from_slice(vault_key);
                derive_wrap_key(&mut keys, FIRST_WRAP_KEY + number, &root, parsed.vault, slot.generation);
            }
        }
        match opened[..] {
            [true] | [true, true] => {}
            // The key that was given is fine; another one is missing, or its provider failed.
            [false, true] => return Err(refused.map_or(OpenKeyringError::PreviousRootKeyNeeded, OpenKeyringError::RootKey)),
            [true, false] => return Err(refused.map_or(OpenKeyringError::NewRootKeyNeeded, OpenKeyringError::RootKey)),
            _ => return Err(refused.map_or(OpenKeyringError::WrongRootKey, OpenKeyringError::RootKey)),
        }
        derive_subkeys(&mut keys);
        rng::fill_secret(&mut keys.keys_mut()[MASK_KEY]);
        let ring = Ring { header: parsed, keys };
        if !wipe::eq(&ring.header_mac(), mac) {
            return Err(HeaderError::Malformed.into());
        }
        Ok(Self { vault: ring.header.vault, ring: ArcSwap::from_pointee(ring) })
    }

    /// The identity of the vault, bound into everything that is sealed.
    pub(crate) fn vault_id(&self) -> VaultId {
        self.vault
    }

    /// The generation of the root key that new wrappings use.
    pub(crate) fn generation(&self) -> u32 {
        self.ring.load().current().generation
    }

    /// Whether a rotation of the root key has begun and is not finished.
    pub(crate) fn is_rotating(&self) -> bool {
        self.ring.load().header.slots.len() > 1
    }

    /// Whether a provider gives the root key that new wrappings use: while a rotation is unfinished, the new one.
    ///
    /// # Errors
    /// The provider's own.
    pub(crate) fn is_current(&self, provider: &dyn KeyProvider) -> Result<bool, RootKeyError> {
        let ring = self.ring.load();
        let mut refused = None;
        let opened = unlock(ring.current(), self.vault, &[provider], &mut refused).is_some();
        refused.map_or(Ok(opened), Err)
    }

    /// How the memory that holds the keys is protected.
    pub(crate) fn lock_kind(&self) -> LockKind {
        self.ring.load().keys.kind()
    }

    /// Prepares a header that a second root key opens too. Once applied, new wrappings use it, and what the old one wrapped is
    /// still unwrapped.
    ///
    /// # Errors
    /// [`RotationError::Unfinished`] while there are two root keys already; `TooManyParameters`.
    pub(crate) fn begin_rotation(&self, root: &RootKey, parameters: &[u8]) -> Result<HeaderChange, RotationError> {
        let base = self.ring.load_full();
        if parameters.len() > MAX_PARAMETERS {
            return Err(RotationError::TooManyParameters { bytes: parameters.len() });
        }
        let [old] = &base.header.slots[..] else {
            return Err(RotationError::Unfinished);
        };
        let generation = old.generation.checked_add(1).ok_or(RotationError::Exhausted)?;
        let mut keys = LockedKeys::zeroed(FIRST_WRAP_KEY + 2);
        keys.keys_mut()[..=FIRST_WRAP_KEY].copy_from_slice(base.keys.keys());
        derive_wrap_key(&mut keys, FIRST_WRAP_KEY + 1, root, self.vault, generation);
        let new = Slot::seal(root, self.vault, generation, parameters, &keys.keys()[VAULT_KEY]);
        let slots = vec![old.clone(), new];
        Ok(HeaderChange::new(base, Ring { header: Header { vault: self.vault, slots }, keys }))
    }

    /// Prepares a header that only the new root key opens. Everything must have been wrapped anew: once applied, what the old one
    /// wrapped is lost.
    ///
    /// # Errors
    /// [`RotationError::NotBegun`] while there is one root key only.
    pub(crate) fn finish_rotation(&self) -> Result<HeaderChange, RotationError> {
        let base = self.ring.load_full();
        let [_, new] = &base.header.slots[..] else {
            return Err(RotationError::NotBegun);
        };
        let mut keys = LockedKeys::zeroed(FIRST_WRAP_KEY + 1);
        keys.keys_mut()[..FIRST_WRAP_KEY].copy_from_slice(&base.keys.keys()[..FIRST_WRAP_KEY]);
        keys.keys_mut()[FIRST_WRAP_KEY].copy_from_slice(&base.keys.keys()[FIRST_WRAP_KEY + 1]);
        let header = Header { vault: self.vault, slots: vec![new.clone()] };
        Ok(HeaderChange::new(base, Ring { header, keys }))
    }

    /// Puts a prepared header in force, once it is stored durably.
    ///
    /// # Errors
    /// [`RotationError::Stale`] when another change was applied since it was prepared.
    pub(crate) fn apply(&self, change: HeaderChange) -> Result<(), RotationError> {
        let found = self.ring.compare_and_swap(&change.base, change.next);
        if Arc::ptr_eq(&found, &change.base) { Ok(()) } else { Err(RotationError::Stale) }
    }

    /// Wipes all keys, now and not when the last handle of a closed vault is dropped. What is sealed from here on is lost and
    /// nothing opens any more: the vault has stopped serving before. Random keys take their place and not zeros, which would
    /// open for everybody what a straggler seals, and for a straggler what anybody forged.
    pub(crate) fn forget(&self) {
        let ring = self.ring.load_full();
        let mut keys = LockedKeys::zeroed(FIRST_WRAP_KEY + ring.header.slots.len());
        rng::fill_secret(keys.keys_mut().as_flattened_mut());
        self.ring.store(Arc::new(Ring { header: ring.header.clone(), keys }));
    }

    /// Wraps a key of an account under the current root key.
    pub(crate) fn wrap(
        &self,
        purpose: WrapPurpose,
        environment: Environment,
        handle: &AccountHandle,
        revision: u64,
        key: &KeyBytes,
    ) -> Vec<u8> {
        let ring = self.ring.load();
        let environment = [environment.byte()];
        let aad = wrap_aad(&self.vault, &environment, handle, purpose);
        envelope::seal_under(ring.current_wrap_key(), ring.current().generation, &aad, revision, key.expose())
    }

    /// Unwraps what [`wrap`](Self::wrap) made, under whichever root key of the header it was.
    ///
    /// # Errors
    /// [`OpenFailed`] when it is not what was wrapped for this purpose, environment and account, or its root key is gone.
    pub(crate) fn unwrap(
        &self,
        purpose: WrapPurpose,
        environment: Environment,
        handle: &AccountHandle,
        wrapped: &[u8],
    ) -> Result<Key, OpenFailed> {
        let ring = self.ring.load();
        let wrap_key = ring.wrap_key(Self::wrapped_generation(wrapped)?).ok_or(OpenFailed)?;
        let environment = [environment.byte()];
        let aad = wrap_aad(&self.vault, &environment, handle, purpose);
        let key = envelope::open_under(wrap_key, &aad, None, wrapped)?;
        <&[u8; 32]>::try_from(&*key).map(Key::copy_of).map_err(|_| OpenFailed)
    }

    /// Masks a key that stays in this process's memory.
    pub(crate) fn mask(&self, key: &KeyBytes) -> MaskedKey {
        MaskedKey::mask(&self.ring.load().keys.keys()[MASK_KEY], key)
    }

    /// The key that [`mask`](Self::mask) masked, on the heap. Call it inside a stack frame that is wiped.
    pub(crate) fn unmask(&self, masked: &MaskedKey) -> Key {
        masked.unmask(&self.ring.load().keys.keys()[MASK_KEY])
    }

    /// Lends the key that [`mask`](Self::mask) masked. Call it inside a stack frame that is wiped.
    pub(crate) fn with_unmasked<R>(&self, masked: &MaskedKey, work: impl FnOnce(&KeyBytes) -> R) -> R {
        masked.with(&self.ring.load().keys.keys()[MASK_KEY], work)
    }

    /// The generation of the root key under which a key is wrapped.
    ///
    /// # Errors
    /// [`OpenFailed`] when it can't be a wrapped key.
    pub(crate) fn wrapped_generation(wrapped: &[u8]) -> Result<u32, OpenFailed> {
        Ok(envelope::header(wrapped)?.key_version)
    }

    /// What stands for a linked account in the directory. It tells nothing of the id to who has not the vault key.
    pub(crate) fn locator(&self, environment: Environment, id: &str) -> [u8; 32] {
        self.mac(Label::Locator, &[&[environment.byte()], id.as_bytes()])
    }

    /// What is kept of an API key's secret. Compare it with [`wipe::eq`].
    pub(crate) fn api_key_hash(&self, environment: Environment, id: &ApiKeyId, secret: &[u8]) -> [u8; 32] {
        self.mac(Label::ApiKeyHash, &[&[environment.byte()], id.as_bytes(), secret])
    }

    /// The digest of `parts` under the vault's subkey for `label`.
    pub(crate) fn mac(&self, label: Label, parts: &[&[u8]]) -> [u8; 32] {
        self.ring.load().mac(label, parts)
    }

    /// Seals a row of the directory.
    pub(crate) fn seal_row(&self, row_key: &[u8], revision: u64, plaintext: &[u8]) -> Vec<u8> {
        let ring = self.ring.load();
        let aad = [self.vault.as_bytes(), row_key];
        envelope::seal_under(ring.subkey(Label::DirectorySeal), VAULT_KEY_VERSION, &aad, revision, plaintext)
    }

    /// Shows every key that is held, for the memory scan to look for.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn each_key(&self, look: impl FnMut(&[u8; 32])) {
        self.ring.load().keys.keys().iter().for_each(look);
    }

    /// Opens a row of the directory. Whether its revision is the latest is for the bucket's digest to tell.
    ///
    /// # Errors
    /// [`OpenFailed`] when it is not what was sealed for `row_key`.
    pub(crate) fn open_row(&self, row_key: &[u8], sealed: &[u8]) -> Result<Plaintext, OpenFailed> {
        let ring = self.ring.load();
        let aad = [self.vault.as_bytes(), row_key];
        envelope::open_under(ring.subkey(Label::DirectorySeal), &aad, None, sealed)
    }
}

impl HeaderChange {
    /// The header to store durably before the change is applied.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    fn new(base: Arc<Ring>, next: Ring) -> Self {
        Self { header: next.header_bytes(), base, next: Arc::new(next) }
    }
}

impl Ring {
    /// The slot of the current root key, the last one: there is always one.
    fn current(&self) -> &Slot {
        &self.header.slots[self.header.slots.len() - 1]
    }

    fn current_wrap_key(&self) -> &[u8; 32] {
        &self.keys.keys()[FIRST_WRAP_KEY + self.header.slots.len() - 1]
    }

    fn wrap_key(&self, generation: u32) -> Option<&[u8; 32]> {
        let number = self.header.slots.iter().position(|slot| slot.generation == generation)?;
        Some(&self.keys.keys()[FIRST_WRAP_KEY + number])
    }

    fn subkey(&self, label: Label) -> &[u8; 32] {
        &self.keys.keys()[label as usize]
    }

    fn mac(&self, label: Label, parts: &[&[u8]]) -> [u8; 32] {
        derive::mac(self.subkey(label), label, parts)
    }

    fn header_mac(&self) -> [u8; 32] {
        self.mac(Label::Header, &[&self.header.content()])
    }

    fn header_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.content();
        bytes.extend_from_slice(&self.header_mac());
        bytes
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({}, redacted)", self.vault)
    }
}

impl fmt::Debug for HeaderChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeaderChange({} bytes)", self.header.len())
    }
}

/// The root key and the vault key, from the first provider that opens the slot. The first failure of a provider is kept in
/// `refused`; that a provider is of another kind than the slot is no failure.
fn unlock(
    slot: &Slot,
    vault: VaultId,
    providers: &[&dyn KeyProvider],
    refused: &mut Option<RootKeyError>,
) -> Option<(RootKey, Plaintext)> {
    providers.iter().find_map(|provider| match provider.root_key(&slot.parameters) {
        Ok(root) => slot.open(&root, vault).ok().map(|vault_key| (root, vault_key)),
        Err(RootKeyError::ForeignParameters) => None,
        Err(error) => {
            refused.get_or_insert(error);
            None
        }
    })
}

fn derive_subkeys(keys: &mut LockedKeys) {
    let (subkeys, others) = keys.keys_mut().split_at_mut(VAULT_KEY);
    for (label, subkey) in Label::ALL.into_iter().zip(subkeys) {
        derive::derive_into(&others[0], label, &[], subkey);
    }
}

fn derive_wrap_key(keys: &mut LockedKeys, place: usize, root: &RootKey, vault: VaultId, generation: u32) {
    let context: [&[u8]; 2] = [vault.as_bytes(), &generation.to_be_bytes()];
    derive::derive_into(root.expose_secret(), Label::Wrap, &context, &mut keys.keys_mut()[place]);
}

fn wrap_aad<'a>(vault: &'a VaultId, environment: &'a [u8; 1], handle: &'a AccountHandle, purpose: WrapPurpose) -> [&'a [u8]; 4] {
    let purpose: &[u8] = match purpose {
        WrapPurpose::AccountKey => b"account-key",
        WrapPurpose::TokenKey => b"token-key",
        WrapPurpose::AuditKey => b"audit-key",
        WrapPurpose::PreviousAccountKey => b"previous-account-key",
    };
    [vault.as_bytes(), environment, handle.as_bytes(), purpose]
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
