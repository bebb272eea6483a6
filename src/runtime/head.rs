//! The small token that a host keeps elsewhere, so that a whole vault restored from yesterday is noticed.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};

use crate::domain::error::{Damaged, OpenError, VaultPart};
use crate::domain::{Keyring, Label};
use crate::ids::{InvalidId, VaultId};
use crate::storage::AnchorHead;

const PREFIX: &str = "head_";
const BYTES: usize = 16 + 8 + 16 + 16;

/// How far a vault had come when it was asked for its head. Public: it tells nothing of the content.
///
/// Keep the newest one outside the vault's directory and give it to [`VaultBuilder::expect_head`](crate::VaultBuilder::expect_head)
/// at the next opening: it holds a vault to having come at least as far. As text: `head_` and 75 characters, which parse back.
///
/// ```
/// use anchorhold::VaultHead;
/// assert!("head_not_one".parse::<VaultHead>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VaultHead {
    vault: VaultId,
    counter: u64,
    digest: [u8; 16],
    mac: [u8; 16],
}

impl VaultHead {
    pub(crate) fn of(keyring: &Keyring, head: AnchorHead) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&head.digest[..16]);
        let mut this = Self { vault: keyring.vault_id(), counter: head.counter, digest: short, mac: [0; 16] };
        this.mac = this.expected_mac(keyring);
        this
    }

    /// Whether a vault that has now come to `now` has at least come here.
    ///
    /// # Errors
    /// `RolledBack` when it has not; `ForeignHead` when this is no head of that vault.
    pub(crate) fn check(&self, keyring: &Keyring, now: AnchorHead) -> Result<(), OpenError> {
        if self.vault != keyring.vault_id() || self.mac != self.expected_mac(keyring) {
            return Err(OpenError::ForeignHead);
        }
        if now.counter < self.counter || (now.counter == self.counter && now.digest[..16] != self.digest) {
            let detail = "the vault has not come as far as the expected head";
            return Err(OpenError::RolledBack(Damaged {
                part: VaultPart::Directory,
                accounts: Vec::new(),
                detail: detail.into(),
            }));
        }
        Ok(())
    }

    /// How far the vault had come.
    pub(crate) fn counter(&self) -> u64 {
        self.counter
    }

    fn expected_mac(&self, keyring: &Keyring) -> [u8; 16] {
        let full = keyring.mac(Label::VaultHead, &[self.vault.as_bytes(), &self.counter.to_be_bytes(), &self.digest]);
        let mut mac = [0; 16];
        mac.copy_from_slice(&full[..16]);
        mac
    }
}

impl fmt::Display for VaultHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: [&[u8]; 4] = [self.vault.as_bytes(), &self.counter.to_be_bytes(), &self.digest, &self.mac];
        write!(f, "{PREFIX}{}", Base64UrlUnpadded::encode_string(&parts.concat()))
    }
}

impl fmt::Debug for VaultHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultHead({self})")
    }
}

impl FromStr for VaultHead {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let malformed = InvalidId::Malformed { what: "a vault head", expected: "the text that VaultHead shows" };
        let encoded = text.strip_prefix(PREFIX).ok_or(malformed)?;
        let mut buffer = [0; BYTES];
        let bytes = Base64UrlUnpadded::decode(encoded, &mut buffer).map_err(|_| malformed)?;
        let (vault, rest) = bytes.split_first_chunk::<16>().ok_or(malformed)?;
        let (counter, rest) = rest.split_first_chunk::<8>().ok_or(malformed)?;
        let (digest, rest) = rest.split_first_chunk::<16>().ok_or(malformed)?;
        let mac = <[u8; 16]>::try_from(rest).map_err(|_| malformed)?;
        Ok(Self { vault: VaultId::from_bytes(*vault), counter: u64::from_be_bytes(*counter), digest: *digest, mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RawKey;
    use crate::vectors::Vector;

    #[test]
    fn documented_head_is_of_the_documented_vault() {
        let page = include_str!("../../docs/format.md");
        let root = RawKey::new(Vector::of(page, "derivation").array::<32>("root key"));
        let keyring = Keyring::open(&Vector::of(page, "header").bytes("content"), &[&root]).unwrap();
        let anchors = Vector::of(page, "anchors");
        let digest = *anchors.bytes("directory").last_chunk().unwrap();
        let head = VaultHead::of(&keyring, AnchorHead { counter: 2, digest });
        assert_eq!(head.to_string(), anchors.text("head"));
        assert_eq!(anchors.text("head").parse::<VaultHead>().unwrap(), head);
        assert!(head.check(&keyring, AnchorHead { counter: 3, digest: [0; 32] }).is_ok());
        let behind = head.check(&keyring, AnchorHead { counter: 1, digest });
        assert!(matches!(behind, Err(OpenError::RolledBack(_))));
        let other = head.check(&keyring, AnchorHead { counter: 2, digest: [0; 32] });
        assert!(matches!(other, Err(OpenError::RolledBack(_))));
    }
}
