//! Names and identifiers. Each is parsed once, where it enters the crate, and carried as a type from there on.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};

/// One of the two worlds of a vault. It is part of what finds an account, of what each sealed record of an account authenticates,
/// and of every API key and session token; nothing crosses it.
///
/// ```
/// use anchorhold::Environment;
/// assert_eq!(Environment::Production.label(), "live");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Environment {
    /// For development and tests: `ak_test_…`, `st_test_…`.
    Test,
    /// For real customers: `ak_live_…`, `st_live_…`.
    Production,
}

impl Environment {
    /// Both environments, in their order.
    pub const ALL: [Environment; 2] = [Environment::Test, Environment::Production];

    /// The word that stands in API keys and session tokens: `test` or `live`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Environment::Test => "test",
            Environment::Production => "live",
        }
    }

    /// The byte that stands for the environment in row keys and in everything that is authenticated.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Environment::Test => 1,
            Environment::Production => 2,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Environment::Test),
            2 => Some(Environment::Production),
            _ => None,
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text that can't be the identifier it was given as. Says what is wrong and never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// The text is empty.
    #[error("{what} is empty: give at least one character")]
    Empty {
        /// The kind of identifier.
        what: &'static str,
    },
    /// The text has more bytes than allowed.
    #[error("{what} has {bytes} bytes: shorten it to {limit}")]
    TooLong {
        /// The kind of identifier.
        what: &'static str,
        /// How many bytes were given.
        bytes: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A character is not allowed; `at` is its byte offset.
    #[error("{what} has a character that is not allowed at byte {at}: {allowed}")]
    Character {
        /// The kind of identifier.
        what: &'static str,
        /// Byte offset of the first such character.
        at: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The text is not what this kind of identifier looks like.
    #[error("not {what}: expected {expected}")]
    Malformed {
        /// The kind of identifier.
        what: &'static str,
        /// Its shape.
        expected: &'static str,
    },
}

/// The host's own name of one of its customers: 1 to 256 bytes of UTF-8 without control characters, compared byte for byte.
///
/// No normalisation takes place: two texts that look alike but differ in their bytes are two accounts. `Debug` does not show
/// the text, so that customer ids stay out of logs.
///
/// ```
/// use anchorhold::LinkedAccountId;
/// let id = LinkedAccountId::new("acme-42")?;
/// assert_eq!(id.as_str(), "acme-42");
/// assert!(LinkedAccountId::new("").is_err());
/// # Ok::<(), anchorhold::InvalidId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkedAccountId(Box<str>);

impl LinkedAccountId {
    /// The largest number of bytes.
    pub const MAX_BYTES: usize = 256;

    /// Checks and takes the text.
    ///
    /// # Errors
    /// [`InvalidId`] when it is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES), or has a control character.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
        let text = text.as_ref();
        check_text("linked account id", text, Self::MAX_BYTES)?;
        Ok(Self(text.into()))
    }

    /// The text as the host gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LinkedAccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkedAccountId(…)")
    }
}

impl FromStr for LinkedAccountId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

/// The name of a provider: 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, for example `github` or `salesforce-sandbox`.
///
/// ```
/// use anchorhold::ProviderName;
/// assert!(ProviderName::new("github").is_ok());
/// assert!(ProviderName::new("Git Hub").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderName(Box<str>);

impl ProviderName {
    /// The largest number of bytes.
    pub const MAX_BYTES: usize = 64;

    /// Checks and takes the text.
    ///
    /// # Errors
    /// [`InvalidId`] when it is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES), or has a character outside the set.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
        let text = text.as_ref();
        let what = "provider name";
        check_length(what, text, Self::MAX_BYTES)?;
        match text.bytes().position(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')) {
            Some(at) => Err(InvalidId::Character { what, at, allowed: "use a-z, 0-9, '-', '_' and '.'" }),
            None => Ok(Self(text.into())),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderName({})", self.0)
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProviderName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

/// Defines a random identifier that is shown as `prefix` + base64url and parsed from the same text only.
macro_rules! random_id {
    ($(#[$meta:meta])* $vis:vis $name:ident, $bytes:literal, $prefix:literal, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        $vis struct $name([u8; $bytes]);

        #[allow(dead_code, reason = "not every identifier is built both ways")]
        impl $name {
            pub(crate) const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            pub(crate) const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), Base64UrlUnpadded::encode_string(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let malformed = InvalidId::Malformed {
                    what: $what,
                    expected: concat!("'", $prefix, "' and base64url of ", stringify!($bytes), " bytes"),
                };
                let encoded = text.strip_prefix($prefix).ok_or(malformed)?;
                if encoded.len() != usize::div_ceil($bytes * 4, 3) {
                    return Err(malformed);
                }
                let mut bytes = [0; $bytes];
                match Base64UrlUnpadded::decode(encoded, &mut bytes) {
                    Ok(decoded) if decoded.len() == $bytes => Ok(Self(bytes)),
                    _ => Err(malformed),
                }
            }
        }
    };
}

random_id!(
    /// Names one connection of one linked account: `cn_…`. Random, so it tells nothing; it opens nothing outside its account.
    pub ConnectionId, 16, "cn_", "a connection id"
);
random_id!(
    /// Names one session token, for revoking it and in the audit: `sid_…`. It is not the token and authorises nothing.
    pub SessionTokenId, 16, "sid_", "a session token id"
);
random_id!(
    /// Names one API key, for rotating and revoking it and in the audit: `akid_…`. It is not the key and authorises nothing.
    pub ApiKeyId, 12, "akid_", "an API key id"
);
random_id!(
    /// The random name of an account inside the vault: it names the tree and stands in session tokens, so that neither disk
    /// nor token shows the host's customer ids. Damage reports name accounts by it.
    pub AccountHandle, 16, "ah_", "an account handle"
);
random_id!(
    /// The random identity of a vault, bound into everything that it seals.
    pub VaultId, 16, "vault_", "a vault id"
);

/// The number of one shard, the small database that holds at most 128 account trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub(crate) u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// Checks a free text of the host: length and control characters (Unicode category Cc).
pub(crate) fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), InvalidId> {
    check_length(what, text, limit)?;
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(InvalidId::Character { what, at, allowed: "leave out control characters" }),
        None => Ok(()),
    }
}

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), InvalidId> {
    match text.len() {
        0 => Err(InvalidId::Empty { what }),
        bytes if bytes > limit => Err(InvalidId::TooLong { what, bytes, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_ids_keep_their_bytes_and_refuse_control_characters() {
        assert_eq!(LinkedAccountId::new("a/b:c").unwrap().as_str(), "a/b:c");
        assert_ne!(LinkedAccountId::new("e\u{301}").unwrap(), LinkedAccountId::new("é").unwrap());
        assert!(LinkedAccountId::new("x".repeat(256)).is_ok());
        assert!(matches!(LinkedAccountId::new("x".repeat(257)), Err(InvalidId::TooLong { bytes: 257, .. })));
        assert!(matches!(LinkedAccountId::new("a\nb"), Err(InvalidId::Character { at: 1, .. })));
        assert!(matches!(LinkedAccountId::new("a\u{85}"), Err(InvalidId::Character { .. })));
        assert!(matches!(LinkedAccountId::new(""), Err(InvalidId::Empty { .. })));
    }

    #[test]
    fn random_ids_have_one_text_each() {
        let id = ConnectionId::from_bytes([0xa5; 16]);
        let text = id.to_string();
        assert_eq!(text.parse::<ConnectionId>().unwrap(), id);
        assert!(text.to_uppercase().parse::<ConnectionId>().is_err());
        assert!(format!("{text}=").parse::<ConnectionId>().is_err());
        // The last character of 22 carries 4 bits that must be zero; another one would be a second text of the same id.
        let mut other = text.into_bytes();
        *other.last_mut().unwrap() = b'R';
        assert!(String::from_utf8(other).unwrap().parse::<ConnectionId>().is_err());
    }
}
