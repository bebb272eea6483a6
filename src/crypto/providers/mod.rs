//! Where the root key comes from.

mod env_var;
mod key_file;
mod passphrase;
mod raw_key;
mod text;

use std::error::Error;
use std::io;
use std::path::PathBuf;

pub use env_var::EnvVar;
pub use key_file::KeyFile;
pub use passphrase::Passphrase;
pub use raw_key::RawKey;
#[cfg(all(test, target_os = "linux"))]
pub(super) use text::{from_hex as key_of_digits, to_hex as hex_digits};

use crate::secret::RootKey;

/// The most bytes of parameters that a vault's header takes.
pub(crate) const MAX_PARAMETERS: usize = 512;

/// Gives a vault its root key, the 32 bytes that wrap all others.
///
/// # Use case
/// Built in are [`KeyFile`], [`EnvVar`], [`Passphrase`] and [`RawKey`]. Implement the trait to ask a key management service or a
/// hardware module.
///
/// # About
/// A vault asks for the key once when it is opened (while a rotation is unfinished, for each of the two root keys) and once when its
/// root key is rotated, and keeps only subkeys of it, in locked memory. Both methods are called where blocking is allowed: they may
/// take as long as an HTTP request or a key derivation takes.
///
/// # Security
/// - The key must have been drawn at random or come from a password-based key derivation; nothing slows down guessing it.
/// - A [`RootKey`] lies on the heap from where the provider makes it until its subkeys are derived, and is wiped then.
///
/// # Example
/// ```
/// use anchorhold::{KeyProvider, RootKey, RootKeyError};
///
/// /// The root key lies encrypted in the vault's header; only the service can decrypt it.
/// struct Kms {
///     client: Client,
/// }
///
/// impl KeyProvider for Kms {
///     fn parameters(&self) -> Result<Vec<u8>, RootKeyError> {
///         self.client.new_data_key().map_err(RootKeyError::other)
///     }
///
///     fn root_key(&self, parameters: &[u8]) -> Result<RootKey, RootKeyError> {
///         let mut key = self.client.decrypt(parameters).map_err(RootKeyError::other)?;
///         Ok(RootKey::from_bytes(&mut key))
///     }
/// }
/// # struct Client;
/// # impl Client {
/// #     fn new_data_key(&self) -> std::io::Result<Vec<u8>> { Ok(vec![1; 64]) }
/// #     fn decrypt(&self, _: &[u8]) -> std::io::Result<[u8; 32]> { Ok([7; 32]) }
/// # }
/// # let kms = Kms { client: Client };
/// # assert_eq!(kms.root_key(&kms.parameters()?)?.expose_secret(), &[7; 32]);
/// # Ok::<(), RootKeyError>(())
/// ```
pub trait KeyProvider: Send + Sync {
    /// What the provider will need, besides what it holds itself, to give the same key again: a salt, costs, a key id, a wrapped
    /// key. Asked for when a vault is created or a root key rotated in; the vault keeps it in its header.
    ///
    /// Public: anyone who sees the vault's files can read it. At most 512 bytes; none by default.
    ///
    /// # Errors
    /// [`RootKeyError`] when the provider can't give them; the vault is not created.
    fn parameters(&self) -> Result<Vec<u8>, RootKeyError> {
        Ok(Vec::new())
    }

    /// The root key, given what [`parameters`](Self::parameters) returned when the vault was created.
    ///
    /// While a root key is being rotated a provider may be asked with the other provider's parameters: it may then answer with
    /// [`RootKeyError::ForeignParameters`] or with any key, which the vault will find not to fit.
    ///
    /// # Errors
    /// [`RootKeyError`] when the provider can't give it; the vault is not opened.
    fn root_key(&self, parameters: &[u8]) -> Result<RootKey, RootKeyError>;
}

/// Why a key provider gives no root key. Each message says what to do next; none holds a part of a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootKeyError {
    /// The key file can't be read.
    #[error("can't read the key file {}: {source}; `RootKey::generate_file` makes a new one", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file can't be created. A file that exists is never overwritten.
    #[error("can't create the key file {}: {source}", path.display())]
    NotCreated {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner can read or change the key file.
    #[error("others have access to the key file {} (mode {mode:03o}): run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is a directory, a device or a pipe.
    #[error("the key file {} is not a regular file", path.display())]
    NotAFile {
        /// What is no file.
        path: PathBuf,
    },
    /// What was found has not the form of a root key.
    #[error("{source_name} holds no root key: expected {expected}")]
    Malformed {
        /// The file or the environment variable.
        source_name: String,
        /// The form.
        expected: &'static str,
    },
    /// The environment variable is not set.
    #[error("the environment variable {name} is not set: set it to the root key, 64 hexadecimal digits")]
    NotSet {
        /// The variable.
        name: String,
    },
    /// Another provider has read the environment variable before, and its value is overwritten.
    #[error("the environment variable {name} was read before and is overwritten: keep a clone of the provider that read it")]
    AlreadyRead {
        /// The variable.
        name: String,
    },
    /// The passphrase is too short to withstand guessing.
    #[error("the passphrase has {bytes} bytes: use at least {least}")]
    TooShort {
        /// How many bytes it has.
        bytes: usize,
        /// How many it needs.
        least: usize,
    },
    /// The costs of the key derivation are out of bounds.
    #[error("Argon2id with {memory_mib} MiB and {passes} passes is out of bounds: use 8 to 1024 MiB and 1 to 64 passes")]
    Costs {
        /// Memory in MiB.
        memory_mib: u32,
        /// Number of passes.
        passes: u32,
    },
    /// The vault's parameters were made by a provider of another kind.
    #[error("the vault's root key is not of this provider: open the vault with the kind of provider that it was created with")]
    ForeignParameters,
    /// A provider gave more parameters than a vault's header takes.
    #[error("a key provider gave {bytes} bytes of parameters: the limit is 512")]
    TooManyParameters {
        /// How many bytes it gave.
        bytes: usize,
    },
    /// A provider of the host's own failed.
    #[error("the key provider failed: {0}")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

impl RootKeyError {
    /// The error of a provider of the host's own.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }
}
