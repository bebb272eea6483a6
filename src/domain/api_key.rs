//! API keys: their text, what is kept of them, and what they allow.
//!
//! ```text
//! text = "ak_test_" or "ak_live_" ‖ base64url( id(12) ‖ secret(32) ‖ checksum(4) )        72 characters
//! checksum = CRC-32 (ISO-HDLC), big endian, of "ak_test_" or "ak_live_" ‖ id ‖ secret
//! ```
//!
//! The checksum tells secret scanners a key from a look-alike; it protects nothing. The secret is random, so a keyed hash of it
//! is all that is kept.

use std::fmt;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};

use super::denial::DenialReason;
pub(crate) use super::grants::Permissions;
use super::random;
use crate::clock::Timestamp;
use crate::crypto::rng;
use crate::crypto::wipe::{self, PRIMITIVE_STACK, wiping_stack};
use crate::ids::{ApiKeyId, Environment, InvalidId, LinkedAccountId, check_text};
use crate::secret::{ApiKey, SecretBytes};

const PREFIX_BYTES: usize = 8;
const ID_BYTES: usize = 12;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const RAW_BYTES: usize = ID_BYTES + SECRET_BYTES + CHECKSUM_BYTES;
const TEXT_BYTES: usize = PREFIX_BYTES + RAW_BYTES / 3 * 4;
const MAX_LABEL_BYTES: usize = 128;
const MAX_ACCOUNTS: usize = 1000;

/// A text that can't be an API key. One reason for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedKey;

/// The parts of an API key's text. It is well-formed, no more: whether it is one of the vault's is for [`ApiKeyRecord::verify`].
#[derive(Debug)]
pub(crate) struct ApiKeyParts {
    pub(crate) environment: Environment,
    pub(crate) id: ApiKeyId,
    pub(crate) secret: SecretBytes,
}

impl ApiKeyParts {
    /// A new key: its id and 256 bits from the operating system.
    pub(crate) fn generate(environment: Environment) -> Self {
        let mut secret = SecretBytes::zeroed(SECRET_BYTES);
        rng::fill_secret(secret.expose_mut());
        Self { environment, id: ApiKeyId::from_bytes(random()), secret }
    }

    /// Takes a key's text apart.
    ///
    /// # Security
    /// Base64 is decoded without branches or look-ups that depend on the text; what the checksum says is no secret.
    pub(crate) fn parse(key: &ApiKey) -> Result<Self, MalformedKey> {
        // Decoding and checksum leave pieces of the secret on the stack.
        wiping_stack::<PRIMITIVE_STACK, _>(|| Self::read(key.expose_secret()))
    }

    /// The text to show once.
    pub(crate) fn text(&self) -> ApiKey {
        wiping_stack::<PRIMITIVE_STACK, _>(|| self.write())
    }

    fn read(text: &str) -> Result<Self, MalformedKey> {
        if text.len() != TEXT_BYTES {
            return Err(MalformedKey);
        }
        let environment =
            Environment::ALL.into_iter().find(|&environment| text.starts_with(prefix(environment))).ok_or(MalformedKey)?;
        let body = text.get(PREFIX_BYTES..).ok_or(MalformedKey)?;
        let mut raw = SecretBytes::zeroed(RAW_BYTES);
        Base64UrlUnpadded::decode(body, raw.expose_mut()).map_err(|_| MalformedKey)?;
        let (signed, crc) = raw.expose().split_last_chunk::<CHECKSUM_BYTES>().ok_or(MalformedKey)?;
        let (id, secret) = signed.split_first_chunk::<ID_BYTES>().ok_or(MalformedKey)?;
        if *crc != checksum(environment, id, secret) {
            return Err(MalformedKey);
        }
        Ok(Self { environment, id: ApiKeyId::from_bytes(*id), secret: SecretBytes::concat(&[secret]) })
    }

    fn write(&self) -> ApiKey {
        let secret = self.secret.expose();
        let raw = SecretBytes::concat(&[self.id.as_bytes(), secret, &checksum(self.environment, self.id.as_bytes(), secret)]);
        let mut text = SecretBytes::concat(&[prefix(self.environment).as_bytes(), &[0; TEXT_BYTES - PREFIX_BYTES]]);
        let body = text.expose_mut().get_mut(PREFIX_BYTES..).unwrap_or_default();
        let written = Base64UrlUnpadded::encode(raw.expose(), body).is_ok();
        // 48 bytes are 64 characters, all of them ASCII.
        debug_assert!(written && text.expose().is_ascii());
        ApiKey::from(std::str::from_utf8(text.expose()).unwrap_or_default())
    }
}

const fn prefix(environment: Environment) -> &'static str {
    match environment {
        Environment::Test => "ak_test_",
        Environment::Production => "ak_live_",
    }
}

fn checksum(environment: Environment, id: &[u8; ID_BYTES], secret: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(prefix(environment).as_bytes());
    crc.update(id);
    crc.update(secret);
    crc.finalize().to_be_bytes()
}

/// What an API key is to be: a label for people, permissions, and perhaps a list of the only linked accounts it reaches.
///
/// # Limits
/// The label has 1 to 128 bytes without control characters; the list at most 1,000 accounts.
///
/// ```
/// use anchorhold::{LinkedAccountId, NewApiKey, Permission};
/// let for_the_importer = NewApiKey::new("importer")
///     .permissions([Permission::Connections, Permission::Use])
///     .accounts([LinkedAccountId::new("acme-42")?]);
/// # Ok::<(), anchorhold::InvalidId>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub(crate) label: String,
    pub(crate) permissions: Permissions,
    pub(crate) accounts: Option<Vec<LinkedAccountId>>,
}

impl NewApiKey {
    /// A key without permissions that reaches every linked account of its environment.
    #[must_use]
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), permissions: Permissions::NONE, accounts: None }
    }

    /// With these permissions and no others.
    #[must_use]
    pub fn permissions(mut self, permissions: impl Into<Permissions>) -> Self {
        self.permissions = permissions.into();
        self
    }

    /// Only for these linked accounts; an empty list reaches none.
    #[must_use]
    pub fn accounts(mut self, accounts: impl IntoIterator<Item = LinkedAccountId>) -> Self {
        self.accounts = Some(accounts.into_iter().collect());
        self
    }

    /// Checks label and list.
    pub(crate) fn check(&self) -> Result<(), InvalidApiKeyOptions> {
        check_text("API key label", &self.label, MAX_LABEL_BYTES)?;
        match self.accounts.as_ref().map(Vec::len) {
            Some(count) if count > MAX_ACCOUNTS => Err(InvalidApiKeyOptions::TooManyAccounts { count, limit: MAX_ACCOUNTS }),
            _ => Ok(()),
        }
    }
}

/// Why no API key was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidApiKeyOptions {
    /// The label is not usable.
    #[error(transparent)]
    Label(#[from] InvalidId),
    /// The list of accounts is too long.
    #[error("{count} linked accounts on one API key: the limit is {limit}")]
    TooManyAccounts {
        /// How many were given.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
}

/// What the vault keeps of an API key, sealed in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiKeyRecord {
    pub(crate) id: ApiKeyId,
    pub(crate) environment: Environment,
    pub(crate) label: String,
    /// Keyed hash of the secret.
    pub(crate) hash: [u8; 32],
    pub(crate) permissions: Permissions,
    /// Locators of the only accounts it reaches, sorted; `None` for all.
    pub(crate) accounts: Option<Vec<[u8; 32]>>,
    pub(crate) created: Timestamp,
    pub(crate) last_used: Option<Timestamp>,
    /// End of the overlap after a rotation.
    pub(crate) expires: Option<Timestamp>,
    pub(crate) revoked: Option<Timestamp>,
    /// The key that took over.
    pub(crate) rotated_to: Option<ApiKeyId>,
}

impl ApiKeyRecord {
    /// A new key's record. `accounts` are locators, in any order.
    pub(crate) fn new(
        parts: &ApiKeyParts,
        hash: [u8; 32],
        label: String,
        permissions: Permissions,
        mut accounts: Option<Vec<[u8; 32]>>,
        now: Timestamp,
    ) -> Self {
        if let Some(locators) = &mut accounts {
            locators.sort_unstable();
            locators.dedup();
        }
        Self {
            id: parts.id,
            environment: parts.environment,
            label,
            hash,
            permissions,
            accounts,
            created: now,
            last_used: None,
            expires: None,
            revoked: None,
            rotated_to: None,
        }
    }

    /// Whether a presented key is this one and valid now. `hash` is the keyed hash of the secret that was presented.
    pub(crate) fn verify(&self, environment: Environment, hash: &[u8; 32], now: Timestamp) -> Result<(), DenialReason> {
        // Compared first: a caller without the secret must not learn whether the key is revoked.
        if !wipe::eq(&self.hash, hash) || self.environment != environment {
            return Err(DenialReason::Forged);
        }
        self.check_valid(now)
    }

    /// Whether the key is still valid: asked again at each call of a handle that was made from it.
    pub(crate) fn check_valid(&self, now: Timestamp) -> Result<(), DenialReason> {
        if self.revoked.is_some() {
            return Err(DenialReason::Revoked);
        }
        if self.expires.is_some_and(|end| now >= end) {
            return Err(DenialReason::Expired);
        }
        Ok(())
    }

    /// Whether the key reaches the account of this locator.
    pub(crate) fn check_account(&self, locator: &[u8; 32]) -> Result<(), DenialReason> {
        match &self.accounts {
            Some(locators) if locators.binary_search(locator).is_err() => Err(DenialReason::AccountNotListed),
            _ => Ok(()),
        }
    }

    /// The record of the key that takes over with the same rights, and this one's last moment set to `now` + `grace`. A key that
    /// ends earlier already keeps its end.
    pub(crate) fn rotate(&mut self, parts: &ApiKeyParts, hash: [u8; 32], now: Timestamp, grace: Duration) -> ApiKeyRecord {
        let end = now.plus(grace);
        self.expires = Some(self.expires.map_or(end, |earlier| earlier.min(end)));
        self.rotated_to = Some(parts.id);
        Self::new(parts, hash, self.label.clone(), self.permissions, self.accounts.clone(), now)
    }

    /// Ends the key at once; the moment of the first revocation stays.
    pub(crate) fn revoke(&mut self, now: Timestamp) {
        self.revoked.get_or_insert(now);
    }

    pub(crate) fn info(&self) -> ApiKeyInfo {
        ApiKeyInfo {
            id: self.id,
            environment: self.environment,
            label: self.label.clone(),
            permissions: self.permissions,
            account_limit: self.accounts.as_ref().map(Vec::len),
            created: self.created,
            last_used: self.last_used,
            expires_at: self.expires,
            revoked_at: self.revoked,
            rotated_to: self.rotated_to,
        }
    }
}

/// What there is to know of an API key once its text was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKeyInfo {
    /// Names it, for rotating and revoking.
    pub id: ApiKeyId,
    /// The one environment that it opens.
    pub environment: Environment,
    /// For people.
    pub label: String,
    /// What it allows.
    pub permissions: Permissions,
    /// How many linked accounts are on its list; `None` when it reaches all of its environment.
    pub account_limit: Option<usize>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used; may lag behind by some minutes.
    pub last_used: Option<Timestamp>,
    /// When it ends, set by a rotation.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The key that took over.
    pub rotated_to: Option<ApiKeyId>,
}

impl ApiKeyInfo {
    /// Whether it opens the vault at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A new API key: the only time that its text is there to be read.
pub struct CreatedApiKey {
    /// The key itself. Put it where your backend reads its secrets.
    pub key: ApiKey,
    /// What stays known of it.
    pub info: ApiKeyInfo,
}

impl fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedApiKey").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::grants::Permission;
    use super::*;

    fn parts(environment: Environment, id: [u8; 12], secret: [u8; 32]) -> ApiKeyParts {
        ApiKeyParts { environment, id: ApiKeyId::from_bytes(id), secret: SecretBytes::concat(&[&secret]) }
    }

    fn record(now: u64) -> ApiKeyRecord {
        let key = parts(Environment::Test, [1; 12], [2; 32]);
        ApiKeyRecord::new(&key, [3; 32], "label".into(), Permission::Use.into(), None, Timestamp::from_millis(now))
    }

    /// The checksums were computed with Python's `zlib.crc32`.
    #[test]
    fn known_texts() {
        let text = |environment| parts(environment, [0; 12], [0xff; 32]).text().expose_secret().to_owned();
        assert_eq!(text(Environment::Test), "ak_test_AAAAAAAAAAAAAAAA__________________________________________-R_yRL");
        assert_eq!(text(Environment::Production), "ak_live_AAAAAAAAAAAAAAAA__________________________________________-R5l3u");
    }

    #[test]
    fn two_keys_share_nothing() {
        let (a, b) = (ApiKeyParts::generate(Environment::Test), ApiKeyParts::generate(Environment::Test));
        assert_ne!(a.id, b.id);
        assert_ne!(a.secret.expose(), b.secret.expose());
        assert_ne!(a.secret.expose(), [0; 32]);
    }

    #[test]
    fn a_key_is_checked_before_its_state_is_told() {
        let now = Timestamp::from_millis(1000);
        let mut key = record(0);
        assert_eq!(key.verify(Environment::Test, &[3; 32], now), Ok(()));
        assert_eq!(key.verify(Environment::Production, &[3; 32], now), Err(DenialReason::Forged));
        key.revoke(now);
        assert_eq!(key.verify(Environment::Test, &[3; 32], now), Err(DenialReason::Revoked));
        assert_eq!(key.verify(Environment::Test, &[4; 32], now), Err(DenialReason::Forged));
    }

    #[test]
    fn rotation_overlaps_and_never_lengthens() {
        let mut old = record(0);
        old.accounts = Some(vec![[9; 32]]);
        let new = ApiKeyParts::generate(Environment::Test);
        let next = old.rotate(&new, [5; 32], Timestamp::from_millis(1000), Duration::from_secs(10));
        assert_eq!((next.permissions, &next.accounts, &next.label), (old.permissions, &old.accounts, &old.label));
        assert_eq!(old.rotated_to, Some(next.id));
        assert_eq!(old.check_valid(Timestamp::from_millis(10_999)), Ok(()));
        assert_eq!(old.check_valid(Timestamp::from_millis(11_000)), Err(DenialReason::Expired));
        assert_eq!(next.check_valid(Timestamp::from_millis(u64::MAX)), Ok(()));
        old.rotate(&new, [6; 32], Timestamp::from_millis(2000), Duration::from_secs(100));
        assert_eq!(old.expires, Some(Timestamp::from_millis(11_000)));
        assert!(old.info().is_valid(Timestamp::from_millis(10_999)) && !old.info().is_valid(Timestamp::from_millis(11_000)));
    }

    #[test]
    fn a_list_of_accounts_reaches_those_only() {
        let key = parts(Environment::Test, [1; 12], [2; 32]);
        let reach =
            |accounts| ApiKeyRecord::new(&key, [3; 32], "l".into(), Permissions::ALL, accounts, Timestamp::from_millis(0));
        assert_eq!(reach(None).check_account(&[7; 32]), Ok(()));
        let listed = reach(Some(vec![[9; 32], [7; 32], [9; 32]]));
        assert_eq!(listed.check_account(&[7; 32]), Ok(()));
        assert_eq!(listed.check_account(&[9; 32]), Ok(()));
        assert_eq!(listed.check_account(&[8; 32]), Err(DenialReason::AccountNotListed));
        assert_eq!(listed.info().account_limit, Some(2));
        assert_eq!(reach(Some(vec![])).check_account(&[7; 32]), Err(DenialReason::AccountNotListed));
    }

    #[test]
    fn requests_are_checked() {
        assert!(NewApiKey::new("importer").check().is_ok());
        assert!(matches!(NewApiKey::new("").check(), Err(InvalidApiKeyOptions::Label(_))));
        assert!(matches!(NewApiKey::new("x".repeat(129)).check(), Err(InvalidApiKeyOptions::Label(_))));
        let many = vec![LinkedAccountId::new("a").unwrap(); 1001];
        let refused = NewApiKey::new("importer").accounts(many).check();
        assert!(matches!(refused, Err(InvalidApiKeyOptions::TooManyAccounts { count: 1001, .. })));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = ApiKeyParts::generate(Environment::Test);
        let created = CreatedApiKey { key: key.text(), info: record(0).info() };
        let shown = format!("{key:?} {created:?} {:?}", created.key);
        let text = created.key.expose_secret();
        assert!(!shown.contains(&text[8..40]) && !shown.contains(&text[40..]), "{shown}");
    }

    fn environments() -> impl Strategy<Value = Environment> {
        prop_oneof![Just(Environment::Test), Just(Environment::Production)]
    }

    proptest! {
        #[test]
        fn a_key_reads_back_from_its_text(environment in environments(), id: [u8; 12], secret: [u8; 32]) {
            let key = parts(environment, id, secret);
            let text = key.text();
            prop_assert_eq!(text.expose_secret().len(), TEXT_BYTES);
            let read = ApiKeyParts::parse(&text).unwrap();
            prop_assert_eq!((read.environment, read.id, read.secret.expose()), (environment, key.id, key.secret.expose()));
        }

        #[test]
        fn any_other_character_anywhere_is_refused(environment in environments(), secret: [u8; 32], at in 0..TEXT_BYTES, c: char) {
            let text = parts(environment, [5; 12], secret).text().expose_secret().to_owned();
            let other: String = text.chars().enumerate().map(|(i, old)| if i == at { c } else { old }).collect();
            prop_assume!(other != text);
            prop_assert!(ApiKeyParts::parse(&ApiKey::from(other)).is_err());
        }

        #[test]
        fn other_lengths_are_refused(environment in environments(), secret: [u8; 32], cut in 0..TEXT_BYTES, more in "[A-Za-z0-9_=-]{1,4}") {
            let text = parts(environment, [5; 12], secret).text().expose_secret().to_owned();
            prop_assert!(ApiKeyParts::parse(&ApiKey::from(&text[..cut])).is_err());
            prop_assert!(ApiKeyParts::parse(&ApiKey::from(text + &more)).is_err());
        }

        #[test]
        fn any_text_is_refused_or_written_the_same_again(text in "ak_(test|live)_[A-Za-z0-9_-]{64}") {
            if let Ok(key) = ApiKeyParts::parse(&ApiKey::from(text.as_str())) {
                let again = key.text();
                prop_assert_eq!(again.expose_secret(), text);
            }
        }
    }
}
