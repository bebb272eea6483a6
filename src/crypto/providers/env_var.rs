//! A root key in an environment variable.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::raw_key::RawKey;
use super::text::{self, BASE64_CHARS};
use super::{KeyProvider, RootKeyError};
use crate::secret::RootKey;

/// What stands in the place of a key that was read.
const FILLER: u8 = b'*';

/// A root key in an environment variable.
///
/// # Use case
/// A container platform that hands secrets over as variables.
///
/// # About
/// The value is 64 hexadecimal digits or 43 characters of base64url without padding, and nothing else. It is read once, when a vault
/// is first opened with the provider. The key is then kept in locked memory for as long as the provider or a clone of it lives, and
/// on Unix the variable's value is overwritten with `*` where the process keeps it: `/proc/PID/environ` shows it no longer, and child
/// processes don't inherit it. To open a vault again in the same process, keep a clone.
///
/// # Parameters
/// - `name`: the variable.
///
/// # Errors
/// When the vault is opened: [`RootKeyError::NotSet`], [`Malformed`](RootKeyError::Malformed), and
/// [`AlreadyRead`](RootKeyError::AlreadyRead) when another provider has read the variable before.
///
/// # Security
/// What read the environment before has the key: a child process, a crash reporter, the platform. Prefer
/// [`KeyFile`](super::KeyFile) where you can. As for every reading of the environment, no other thread may be setting variables
/// ([`std::env::set_var`]). A malformed value is not touched.
///
/// # Example
/// ```no_run
/// use anchorhold::{EnvVar, KeyProvider, RootKey};
/// let provider = EnvVar::new("VAULT_ROOT_KEY");
/// let key: RootKey = provider.root_key(&[])?; // what opening a vault does
/// # Ok::<(), anchorhold::RootKeyError>(())
/// ```
#[derive(Clone)]
pub struct EnvVar {
    name: String,
    read: Arc<Mutex<Option<RawKey>>>,
}

impl EnvVar {
    /// The root key in the variable `name`, which is read when a vault is opened.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), read: Arc::default() }
    }

    fn read(&self) -> Result<RootKey, RootKeyError> {
        let Some(value) = std::env::var_os(&self.name) else {
            return Err(RootKeyError::NotSet { name: self.name.clone() });
        };
        let value = Zeroizing::new(value.into_encoded_bytes());
        if matches!(value.len(), BASE64_CHARS | text::HEX_DIGITS) && value.iter().all(|byte| *byte == FILLER) {
            return Err(RootKeyError::AlreadyRead { name: self.name.clone() });
        }
        let key = parse(&value).ok_or_else(|| RootKeyError::Malformed {
            source_name: format!("the environment variable {}", self.name),
            expected: "64 hexadecimal digits or 43 characters of base64url",
        })?;
        #[cfg(unix)]
        if !crate::crypto::environ::overwrite(&self.name, &value, FILLER) {
            tracing::warn!(variable = %self.name, "the root key's variable was changed while it was read; it is not overwritten");
        }
        Ok(key)
    }
}

impl KeyProvider for EnvVar {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let key = match read.take() {
            Some(key) => key,
            None => RawKey::new(self.read()?),
        };
        read.insert(key).root_key(&[])
    }
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnvVar({:?}, redacted)", self.name)
    }
}

fn parse(value: &[u8]) -> Option<RootKey> {
    if value.len() == BASE64_CHARS { text::from_base64(value) } else { text::from_hex(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parse("2a".repeat(32).as_bytes()).unwrap().expose_secret(), &[0x2a; 32]);
        assert_eq!(parse(b"KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio").unwrap().expose_secret(), &[0x2a; 32]);
        for bad in ["", "2a", "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKi", "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio="] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    /// In a process of its own, since a variable belongs to the whole process.
    #[test]
    fn a_variable_is_read_once_overwritten_and_remembered_by_clones() {
        const CHILD: &str = "ANCHORHOLD_ENV_VAR_TEST";
        if std::env::var_os(CHILD).is_none() {
            let name = "crypto::providers::env_var::tests::a_variable_is_read_once_overwritten_and_remembered_by_clones";
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(CHILD, "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio")
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&child.stderr));
            return;
        }
        let provider = EnvVar::new(CHILD);
        let clone = provider.clone();
        for provider in [&provider, &clone, &provider] {
            assert_eq!(provider.root_key(&[]).unwrap().expose_secret(), &[0x2a; 32]);
        }
        if cfg!(unix) {
            assert_eq!(std::env::var(CHILD).unwrap(), "*".repeat(43));
            let error = EnvVar::new(CHILD).root_key(&[]).unwrap_err();
            assert!(matches!(&error, RootKeyError::AlreadyRead { name } if name == CHILD), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_or_no_key_is_named_and_not_shown() {
        let error = EnvVar::new("ANCHORHOLD_NO_SUCH_VARIABLE").root_key(&[]).unwrap_err();
        assert!(matches!(&error, RootKeyError::NotSet { name } if name == "ANCHORHOLD_NO_SUCH_VARIABLE"), "{error}");
        // Cargo sets this one.
        let error = EnvVar::new("CARGO_PKG_NAME").root_key(&[]).unwrap_err();
        assert!(matches!(error, RootKeyError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("CARGO_PKG_NAME") && !error.to_string().contains("anchorhold"), "{error}");
    }
}
