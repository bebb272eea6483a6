//! The host's registration at a provider.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::invalid::InvalidOAuth;
use crate::secret::SecretBytes;

const MAX_ID_BYTES: usize = 1024;
const MAX_SECRET_BYTES: usize = 4096;

/// First byte of the layout.
const LAYOUT: u8 = 1;

/// The host's registration at a provider in one environment: client id and, unless the client is a public one, client secret (RFC
/// 6749 section 2.2 and 2.3.1). `Debug` shows the id only.
///
/// # Limits
/// The id 1 to 1024 visible ASCII characters, the secret 1 to 4096 visible ASCII characters and spaces.
///
/// ```
/// use anchorhold::OAuthClient;
/// let client = OAuthClient::new("Iv1.8a61f9b3a7aba766")?.with_secret("s3cret".into())?;
/// assert_eq!(format!("{client:?}"), r#"OAuthClient { id: "Iv1.8a61f9b3a7aba766", secret: true }"#);
/// # Ok::<(), anchorhold::InvalidOAuth>(())
/// ```
#[derive(Clone)]
pub struct OAuthClient {
    id: String,
    secret: Option<SecretString>,
}

impl OAuthClient {
    /// A public client: it has an id and no secret.
    ///
    /// # Errors
    /// [`InvalidOAuth::ClientId`].
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidOAuth> {
        let id = id.into();
        if !(1..=MAX_ID_BYTES).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidOAuth::ClientId);
        }
        Ok(Self { id, secret: None })
    }

    /// A confidential client, with the secret that the provider gave it.
    ///
    /// # Errors
    /// [`InvalidOAuth::ClientSecret`].
    pub fn with_secret(mut self, secret: SecretString) -> Result<Self, InvalidOAuth> {
        if !is_secret(secret.expose_secret()) {
            return Err(InvalidOAuth::ClientSecret);
        }
        self.secret = Some(secret);
        Ok(self)
    }

    /// The client id, which is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is a confidential client.
    #[must_use]
    pub const fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// The client secret, for the token endpoint only.
    pub(crate) const fn secret(&self) -> Option<&SecretString> {
        self.secret.as_ref()
    }

    /// Writes the layout into one buffer that is wiped when dropped:
    /// `1 ‖ length of the id u16 LE ‖ id ‖ secret`, the last empty for a public client.
    #[expect(clippy::cast_possible_truncation, reason = "the id's length is bounded by the constructor")]
    pub(crate) fn encode(&self) -> SecretBytes {
        let secret = self.secret.as_ref().map_or("", |secret| secret.expose_secret());
        SecretBytes::concat(&[&[LAYOUT], &(self.id.len() as u16).to_le_bytes(), self.id.as_bytes(), secret.as_bytes()])
    }

    /// Reads what [`encode`](Self::encode) wrote, with the same checks that the host's own client went through.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[LAYOUT, low, high], rest) = bytes.split_first_chunk()? else { return None };
        let (id, secret) = rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
        let client = Self::new(std::str::from_utf8(id).ok()?).ok()?;
        if secret.is_empty() {
            return Some(client);
        }
        // A boxed text of exactly its length: nothing grows and nothing is left behind.
        client.with_secret(SecretString::from(Box::<str>::from(std::str::from_utf8(secret).ok()?))).ok()
    }
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient").field("id", &self.id).field("secret", &self.secret.is_some()).finish()
    }
}

/// `VSCHAR` of RFC 6749 appendix A.
fn is_secret(text: &str) -> bool {
    (1..=MAX_SECRET_BYTES).contains(&text.len()) && text.bytes().all(|b| matches!(b, 0x20..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unusable_clients_are_refused() {
        for id in ["", "a b", "a\n", "ä", &"x".repeat(1025)] {
            assert_eq!(OAuthClient::new(id).unwrap_err(), InvalidOAuth::ClientId, "{id:?}");
        }
        for secret in ["", "abc\n", "\tabc", "ä", &"x".repeat(4097)] {
            let refused = OAuthClient::new("id").unwrap().with_secret(secret.into());
            assert_eq!(refused.unwrap_err(), InvalidOAuth::ClientSecret, "{secret:?}");
        }
        let longest = OAuthClient::new("x".repeat(1024)).unwrap().with_secret("x".repeat(4096).into()).unwrap();
        assert!(OAuthClient::decode(longest.encode().expose()).is_some());
    }

    #[test]
    fn debug_shows_no_secret() {
        let client = OAuthClient::new("id").unwrap().with_secret("hidden".into()).unwrap();
        assert!(!format!("{client:?}").contains("hidden"));
    }

    proptest! {
        #[test]
        fn a_client_reads_back_from_its_layout(id in "[!-~]{1,300}", secret in proptest::option::of("[ -~]{1,300}")) {
            let mut client = OAuthClient::new(id.clone()).unwrap();
            if let Some(secret) = &secret {
                client = client.with_secret(secret.as_str().into()).unwrap();
            }
            let read = OAuthClient::decode(client.encode().expose()).unwrap();
            prop_assert_eq!(read.id(), id);
            prop_assert_eq!(read.secret().map(|secret| secret.expose_secret().to_owned()), secret);
        }

        #[test]
        fn every_layout_that_is_read_is_the_one_that_is_written(bytes in proptest::collection::vec(any::<u8>(), 0..12), id in "[!-~]{0,4}") {
            let layout = [&[LAYOUT, id.len() as u8, 0], id.as_bytes(), &bytes].concat();
            for bytes in [bytes, layout] {
                if let Some(client) = OAuthClient::decode(&bytes) {
                    let written = client.encode();
                    prop_assert_eq!(written.expose(), bytes);
                }
            }
        }
    }
}
