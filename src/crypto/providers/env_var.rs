//! A root key in an environment variable.

use zeroize::Zeroizing;

use super::text::{self, BASE64_CHARS};
use super::{KeyProvider, RootKeyError};
use crate::secret::RootKey;

/// A root key in an environment variable.
///
/// # Use case
/// A container platform that hands secrets over as variables.
///
/// # About
/// The value is 64 hexadecimal digits or 43 characters of base64url without padding, and nothing else.
///
/// # Parameters
/// - `name`: the variable. It is read when the vault is opened.
///
/// # Errors
/// When the vault is opened: [`RootKeyError::NotSet`], [`Malformed`](RootKeyError::Malformed).
///
/// # Security
/// The process keeps its environment for as long as it lives, child processes inherit it, and `/proc` shows it to the same user:
/// the vault wipes its own copy and can't wipe those. Prefer [`KeyFile`](super::KeyFile) where you can.
///
/// # Example
/// ```no_run
/// use anchorhold::{EnvVar, KeyProvider, RootKey};
/// let provider = EnvVar::new("VAULT_ROOT_KEY");
/// let key: RootKey = provider.root_key(&[])?; // what opening a vault does
/// # Ok::<(), anchorhold::RootKeyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct EnvVar {
    name: String,
}

impl EnvVar {
    /// The root key in the variable `name`, which is read when a vault is opened.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

impl KeyProvider for EnvVar {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        let Some(value) = std::env::var_os(&self.name) else {
            return Err(RootKeyError::NotSet { name: self.name.clone() });
        };
        parse(&Zeroizing::new(value.into_encoded_bytes())).ok_or_else(|| RootKeyError::Malformed {
            source_name: format!("the environment variable {}", self.name),
            expected: "64 hexadecimal digits or 43 characters of base64url",
        })
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
