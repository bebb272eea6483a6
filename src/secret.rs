//! Secrets as types: on the heap, redacted in `Debug`, without `Display` or `Serialize`, wiped when dropped.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use zeroize::{Zeroize, Zeroizing};

/// Plaintext bytes of one request: a heap buffer of fixed size, wiped when dropped. It never grows, so it leaves no copy.
#[derive(Clone)]
pub(crate) struct SecretBytes(Zeroizing<Box<[u8]>>);

impl SecretBytes {
    /// A buffer of `len` zero bytes, to be filled in place.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(Zeroizing::new(zeros(len).into_boxed_slice()))
    }

    /// All parts, one after the other.
    pub(crate) fn concat(parts: &[&[u8]]) -> Self {
        let mut whole = Self::zeroed(parts.iter().map(|part| part.len()).sum());
        let mut rest = whole.expose_mut();
        for part in parts {
            let (front, back) = rest.split_at_mut(part.len());
            front.copy_from_slice(part);
            rest = back;
        }
        whole
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A buffer of `len` zero bytes that exactly fits. `vec![0; len]` asks the allocator for memory that is zero, for which glibc before 2.41 goes
/// around the thread's cache of small blocks: that takes twice as long.
pub(crate) fn zeros(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    // Or the compiler makes `vec![0; len]` of it.
    std::hint::black_box(&mut bytes);
    bytes.resize(len, 0);
    bytes
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes, redacted)", self.0.len())
    }
}

/// Defines a credential text that authorises its bearer.
macro_rules! bearer_text {
    ($(#[$meta:meta])* $name:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl $name {
            /// The text itself. The only way to it, so that a search for this name finds every use.
            #[must_use]
            pub fn expose_secret(&self) -> &str {
                self.0.expose_secret()
            }
        }

        impl From<String> for $name {
            /// Takes the text as the client sent it; it is checked where it is used.
            fn from(text: String) -> Self {
                // `into_boxed_str` would copy a string with spare capacity and leave the old bytes behind.
                if text.len() == text.capacity() {
                    return Self(SecretString::from(text));
                }
                Self::from(Zeroizing::new(text).as_str())
            }
        }

        impl From<&str> for $name {
            /// Copies the text as the client sent it; it is checked where it is used.
            fn from(text: &str) -> Self {
                Self(SecretString::from(Box::<str>::from(text)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}

bearer_text!(
    /// Authorises one browser session of ONE linked account: `st_test_…` or `st_live_…`, sent as `Authorization: Bearer`
    /// (RFC 6750). Short-lived. `Debug` is redacted, the text is wiped on drop.
    ///
    /// ```
    /// use anchorhold::SessionToken;
    /// let token = SessionToken::from("st_test_from_a_request_header");
    /// assert_eq!(format!("{token:?}"), "SessionToken(redacted)");
    /// ```
    SessionToken, "session token"
);
bearer_text!(
    /// Authorises the host's whole backend for one environment: `ak_test_…` or `ak_live_…`, sent as `x-api-key`. It never
    /// leaves the server. Shown once, when it is made; `Debug` is redacted, the text is wiped on drop.
    ///
    /// ```
    /// use anchorhold::ApiKey;
    /// let key = ApiKey::from("ak_test_from_a_secrets_manager");
    /// assert_eq!(format!("{key:?}"), "ApiKey(redacted)");
    /// ```
    ApiKey, "API key"
);

/// The 32 bytes that wrap everything in a vault. Handed over by a key provider, moved into locked memory, wiped on drop.
pub struct RootKey(Box<[u8; 32]>);

impl RootKey {
    /// Copies the key out of `bytes` and wipes `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &mut [u8; 32]) -> Self {
        let mut key = Box::new([0; 32]);
        key.copy_from_slice(bytes);
        bytes.zeroize();
        Self(key)
    }

    /// The key itself. The only way to it, so that a search for this name finds every use.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for RootKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(redacted)")
    }
}
