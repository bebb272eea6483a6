//! A root key that is derived from a passphrase.

use std::fmt;

use orion::errors::UnknownCryptoError;
use orion::hazardous::kdf::argon2::{Argon2, CostParams, ID, Sequential};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{KeyProvider, RootKeyError};
use crate::crypto::rng;
use crate::crypto::wipe::wiping_stack;
use crate::secret::RootKey;

/// The fewest bytes of a passphrase.
const MIN_BYTES: usize = 12;

/// RFC 9106, section 4, the second recommended option: 64 MiB, 3 passes. One lane, since orion computes lanes one by one.
const DEFAULT_COSTS: Costs = Costs { memory_kib: 64 * 1024, passes: 3 };

const MIN_MEMORY_KIB: u32 = 8 * 1024;
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 64;

/// Kind and version of these parameters, so that another provider's are never taken for them.
const MAGIC: &[u8; 8] = b"argon2id";
const SALT_BYTES: usize = 16;

/// Argon2id keeps three blocks of 1 KiB on the stack besides the hash that it starts with.
const STACK: usize = 64 * 1024;

/// A root key that is derived from a passphrase with Argon2id.
///
/// # Use case
/// A vault that a person unlocks. For unattended hosts use [`KeyFile`](super::KeyFile): opening takes a fraction of a second and
/// 64 MiB of memory here.
///
/// # About
/// Argon2id (RFC 9106) with 64 MiB, 3 passes, one lane and a random salt of 16 bytes. Salt and costs are kept in the vault's
/// header, so that other defaults in later versions still open it.
///
/// # Parameters
/// - `passphrase`: at least 12 bytes of UTF-8; compared byte for byte, nothing is trimmed or normalised.
///
/// # Errors
/// When the vault is created or opened: [`RootKeyError::TooShort`]; [`Costs`](RootKeyError::Costs) when the header asks for more
/// than 1 GiB or 64 passes, so that a changed header can't exhaust the machine.
///
/// # Security
/// Whoever has the vault's files can guess passphrases offline; only length and randomness stop that. Six random words are good.
///
/// # Example
/// ```
/// use anchorhold::{KeyProvider, Passphrase};
/// use secrecy::SecretString;
///
/// let passphrase = SecretString::from("correct horse battery staple");
/// let provider = Passphrase::new(passphrase).with_costs(8, 1)?; // far too cheap for anything but an example
/// let parameters = provider.parameters()?; // kept in the vault's header
/// let key = provider.root_key(&parameters)?;
/// # assert_eq!(provider.root_key(&parameters)?.expose_secret(), key.expose_secret());
/// # Ok::<(), anchorhold::RootKeyError>(())
/// ```
pub struct Passphrase {
    passphrase: SecretString,
    costs: Costs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Costs {
    memory_kib: u32,
    passes: u32,
}

impl Passphrase {
    /// The root key that `passphrase` leads to; it is derived when a vault is opened.
    #[must_use]
    pub fn new(passphrase: SecretString) -> Self {
        Self { passphrase, costs: DEFAULT_COSTS }
    }

    /// Other costs for vaults that are created, and root keys that are rotated in, from now on.
    ///
    /// # Parameters
    /// - `memory_mib`: 8 to 1024 MiB of memory.
    /// - `passes`: 1 to 64 passes over it.
    ///
    /// # Errors
    /// [`RootKeyError::Costs`] when one is out of bounds.
    pub fn with_costs(self, memory_mib: u32, passes: u32) -> Result<Self, RootKeyError> {
        let costs = Costs { memory_kib: memory_mib.saturating_mul(1024), passes };
        costs.check()?;
        Ok(Self { costs, ..self })
    }

    fn checked(&self) -> Result<&[u8], RootKeyError> {
        match self.passphrase.expose_secret().as_bytes() {
            bytes if bytes.len() < MIN_BYTES => Err(RootKeyError::TooShort { bytes: bytes.len(), least: MIN_BYTES }),
            bytes => Ok(bytes),
        }
    }
}

impl KeyProvider for Passphrase {
    fn parameters(&self) -> Result<Vec<u8>, RootKeyError> {
        self.checked()?;
        let mut salt = [0; SALT_BYTES];
        rng::fill(&mut salt);
        Ok(encode(self.costs, &salt))
    }

    fn root_key(&self, parameters: &[u8]) -> Result<RootKey, RootKeyError> {
        let passphrase = self.checked()?;
        let (costs, salt) = decode(parameters).ok_or(RootKeyError::ForeignParameters)?;
        costs.check()?;
        let mut key = Zeroizing::new([0; 32]);
        wiping_stack::<STACK, _>(|| derive(passphrase, salt, costs, &mut key))
            .map_err(|UnknownCryptoError| RootKeyError::ForeignParameters)?;
        Ok(RootKey::from_bytes(&mut key))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passphrase(redacted, {:?})", self.costs)
    }
}

impl Costs {
    fn check(self) -> Result<(), RootKeyError> {
        if (MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&self.memory_kib) && (1..=MAX_PASSES).contains(&self.passes) {
            return Ok(());
        }
        Err(RootKeyError::Costs { memory_mib: self.memory_kib / 1024, passes: self.passes })
    }
}

fn derive(passphrase: &[u8], salt: &[u8], costs: Costs, out: &mut [u8; 32]) -> Result<(), UnknownCryptoError> {
    let costs = CostParams::new(costs.passes, costs.memory_kib, 1)?;
    Argon2::<ID, Sequential>::derive_key(passphrase, salt, &costs, None, None, out)
}

fn encode(costs: Costs, salt: &[u8; SALT_BYTES]) -> Vec<u8> {
    [&MAGIC[..], &costs.memory_kib.to_be_bytes(), &costs.passes.to_be_bytes(), salt].concat()
}

fn decode(parameters: &[u8]) -> Option<(Costs, &[u8; SALT_BYTES])> {
    let fields = parameters.strip_prefix(MAGIC)?;
    let (memory_kib, fields) = fields.split_first_chunk()?;
    let (passes, salt) = fields.split_first_chunk()?;
    let costs = Costs { memory_kib: u32::from_be_bytes(*memory_kib), passes: u32::from_be_bytes(*passes) };
    Some((costs, salt.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::super::hex;
    use super::*;

    fn cheap(passphrase: &str) -> Passphrase {
        Passphrase::new(SecretString::from(passphrase)).with_costs(8, 1).unwrap()
    }

    /// Computed independently with `argon2-cffi` (the reference implementation in C).
    #[test]
    fn known_answer() {
        let parameters = encode(Costs { memory_kib: 8192, passes: 2 }, b"sixteen byte slt");
        let key = cheap("correct horse battery staple").root_key(&parameters).unwrap();
        assert_eq!(hex(key.expose_secret()), "2663896741213cc8e3f3741bf3adc552ae5c4dba1ab2759ac9fc6784e095c446");
    }

    #[test]
    fn parameters_have_their_size_and_a_new_salt_each_time() {
        let provider = cheap("twelve bytes");
        let (a, b) = (provider.parameters().unwrap(), provider.parameters().unwrap());
        assert_eq!(a.len(), MAGIC.len() + 4 + 4 + SALT_BYTES);
        assert_eq!(decode(&a).unwrap().0, provider.costs);
        assert_ne!(a, b);
        assert_ne!(provider.root_key(&a).unwrap().expose_secret(), provider.root_key(&b).unwrap().expose_secret());
    }

    #[test]
    fn another_passphrase_or_other_costs_give_another_key() {
        let parameters = encode(Costs { memory_kib: 8192, passes: 1 }, &[1; 16]);
        let key = cheap("twelve bytes").root_key(&parameters).unwrap();
        assert_ne!(cheap("twelve byteS").root_key(&parameters).unwrap().expose_secret(), key.expose_secret());
        let other = encode(Costs { memory_kib: 8192, passes: 2 }, &[1; 16]);
        assert_ne!(cheap("twelve bytes").root_key(&other).unwrap().expose_secret(), key.expose_secret());
    }

    #[test]
    fn a_short_passphrase_is_refused() {
        let provider = cheap("eleven byte");
        assert!(matches!(provider.parameters(), Err(RootKeyError::TooShort { bytes: 11, least: 12 })));
        let parameters = cheap("twelve bytes").parameters().unwrap();
        assert!(matches!(provider.root_key(&parameters), Err(RootKeyError::TooShort { .. })));
    }

    #[test]
    fn costs_are_bounded_when_given_and_when_read_back() {
        let give = |memory, passes| Passphrase::new(SecretString::from("twelve bytes")).with_costs(memory, passes);
        assert!(give(8, 1).is_ok() && give(1024, 64).is_ok());
        for (memory, passes) in [(7, 1), (1025, 1), (8, 0), (8, 65), (u32::MAX, 1)] {
            assert!(matches!(give(memory, passes), Err(RootKeyError::Costs { .. })), "{memory} {passes}");
        }
        for (memory_kib, passes) in [(8191, 1), (1024 * 1024 + 1, 1), (8192, 0), (8192, 65), (u32::MAX, u32::MAX)] {
            let parameters = encode(Costs { memory_kib, passes }, &[1; 16]);
            assert!(matches!(cheap("twelve bytes").root_key(&parameters), Err(RootKeyError::Costs { .. })));
        }
    }

    #[test]
    fn parameters_of_another_kind_are_refused() {
        let good = cheap("twelve bytes").parameters().unwrap();
        let longer = [&good[..], &[0]].concat();
        for bad in [&[][..], &good[1..], &good[..good.len() - 1], &longer] {
            assert!(matches!(cheap("twelve bytes").root_key(bad), Err(RootKeyError::ForeignParameters)));
        }
    }

    #[test]
    fn debug_shows_no_passphrase() {
        assert!(!format!("{:?}", cheap("twelve bytes")).contains("twelve"));
    }
}
