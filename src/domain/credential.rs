//! A credential on its way in ([`Credential`]) and, for the length of one call, on its way out ([`Revealed`]).
//!
//! Between the two it is one sealed record. Its layout is written by hand and read in place, because a general decoder leaves
//! pieces of what it read on the heap:
//!
//! ```text
//! kind u8 ‖ count u8 ‖ count × ( name length u8 ‖ name ‖ value length u32 LE ‖ value )
//! ```
//!
//! There is one encoding of every credential: kinds other than `Custom` have fixed fields in a fixed order, and bytes left over
//! are an error.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::crypto::envelope::Plaintext;
#[cfg(any(test, feature = "testing"))]
use crate::crypto::{envelope, key::Key};
use crate::secret::SecretBytes;

/// The largest number of bytes of one credential, names of its fields included.
pub(crate) const MAX_CREDENTIAL_BYTES: usize = 64 * 1024;

const MAX_FIELDS: usize = 32;
const MAX_FIELD_NAME_BYTES: usize = 64;
pub(crate) const MAX_SCOPES: usize = 64;
const MAX_SCOPE_BYTES: usize = 256;

const API_KEY: &str = "api_key";
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const ACCESS_TOKEN: &str = "access_token";
const REFRESH_TOKEN: &str = "refresh_token";
const TOKEN_TYPE: &str = "token_type";

/// What a credential consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CredentialKind {
    /// One secret text.
    ApiKey,
    /// User name and password (RFC 7617).
    Basic,
    /// Access token, perhaps with a refresh token (RFC 6749).
    OAuth2,
    /// Fields that the host named.
    Custom,
}

impl CredentialKind {
    const fn byte(self) -> u8 {
        match self {
            CredentialKind::ApiKey => 1,
            CredentialKind::Basic => 2,
            CredentialKind::OAuth2 => 3,
            CredentialKind::Custom => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(CredentialKind::ApiKey),
            2 => Some(CredentialKind::Basic),
            3 => Some(CredentialKind::OAuth2),
            4 => Some(CredentialKind::Custom),
            _ => None,
        }
    }
}

impl fmt::Display for CredentialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CredentialKind::ApiKey => "API key",
            CredentialKind::Basic => "basic",
            CredentialKind::OAuth2 => "OAuth2",
            CredentialKind::Custom => "custom",
        })
    }
}

/// Why a credential is not stored. Names fields by position, so that a value given as a name by mistake stays out of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCredential {
    /// The whole credential is over the limit.
    #[error("credential of {bytes} bytes: the limit is {limit}, names of fields included")]
    TooLarge {
        /// The largest number of bytes.
        limit: usize,
        /// How many there are.
        bytes: usize,
    },
    /// A value that must be there is empty.
    #[error("{what} is empty")]
    Empty {
        /// Which one.
        what: &'static str,
    },
    /// The user name can't be sent (RFC 7617 section 2).
    #[error("user name with a colon or a control character: basic authentication can't carry it")]
    UserName,
    /// A custom credential with no field, or with too many.
    #[error("custom credential with {count} fields: give 1 to {limit}")]
    FieldCount {
        /// How many were given.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A custom field's name is not usable.
    #[error("name of custom field {index} (counted from 0): use 1 to 64 of A-Z, a-z, 0-9, '_', '-' and '.'")]
    FieldName {
        /// Position of the field, from 0.
        index: usize,
    },
    /// Two custom fields have one name.
    #[error("custom field {index} (counted from 0) has the name of an earlier one")]
    RepeatedField {
        /// Position of the later field, from 0.
        index: usize,
    },
    /// The scopes are not a list of scope tokens (RFC 6749 section 3.3).
    #[error("scopes: give at most 64 of at most 256 visible ASCII characters each, without '\"' and '\\'")]
    Scopes,
}

/// A credential as the host hands it in. It is checked when it is stored; `Debug` shows its kind only.
///
/// Secrets come as [`SecretString`], which wipes itself when dropped. A `String` with spare capacity is copied when it becomes
/// a `SecretString` and the old bytes stay behind: make it from a boxed `str`, or read the secret into one.
///
/// # Limits
/// 64 KiB in all. Custom credentials have 1 to 32 fields, their names 1 to 64 of `A-Z a-z 0-9 _ - .`, each once.
///
/// ```
/// use anchorhold::{Credential, CredentialKind};
/// let key = Credential::api_key("sk-123".into());
/// assert_eq!(key.kind(), CredentialKind::ApiKey);
/// assert_eq!(format!("{key:?}"), "Credential(API key, redacted)");
///
/// let pair = Credential::custom([("client_id", "abc".into()), ("client_secret", "xyz".into())]);
/// assert_eq!(pair.kind(), CredentialKind::Custom);
/// ```
#[derive(Clone)]
pub struct Credential {
    kind: CredentialKind,
    fields: Vec<(Cow<'static, str>, SecretString)>,
    expires_at: Option<Timestamp>,
    scopes: Vec<String>,
}

impl Credential {
    /// One secret text, such as an API key or a personal access token. Not empty.
    #[must_use]
    pub fn api_key(key: SecretString) -> Self {
        Self::fixed(CredentialKind::ApiKey, vec![(API_KEY.into(), key)])
    }

    /// User name and password (RFC 7617). The user name has no colon and no control character; the password may be empty.
    #[must_use]
    pub fn basic(user_name: impl Into<String>, password: SecretString) -> Self {
        let user_name = SecretString::from(user_name.into());
        Self::fixed(CredentialKind::Basic, vec![(USERNAME.into(), user_name), (PASSWORD.into(), password)])
    }

    /// What a token endpoint answered (RFC 6749 section 5.1).
    #[must_use]
    pub fn oauth2(tokens: OAuth2Tokens) -> Self {
        let mut fields = vec![(ACCESS_TOKEN.into(), tokens.access)];
        fields.extend(tokens.refresh.map(|refresh| (REFRESH_TOKEN.into(), refresh)));
        fields.push((TOKEN_TYPE.into(), SecretString::from(tokens.token_type)));
        Self { kind: CredentialKind::OAuth2, fields, expires_at: tokens.expires_at, scopes: tokens.scopes }
    }

    /// Named fields, in the order given.
    #[must_use]
    pub fn custom<N: Into<String>>(fields: impl IntoIterator<Item = (N, SecretString)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (Cow::Owned(name.into()), value)).collect();
        Self::fixed(CredentialKind::Custom, fields)
    }

    /// What it consists of.
    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// When the access token expires, if that is known. Not part of the sealed layout: it is no secret and decisions need it.
    pub(crate) const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// What the access token is good for. Not part of the sealed layout, like [`expires_at`](Self::expires_at).
    pub(crate) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Whether it has a refresh token.
    pub(crate) fn has_refresh_token(&self) -> bool {
        self.fields.iter().any(|(name, _)| self.kind == CredentialKind::OAuth2 && name == REFRESH_TOKEN)
    }

    /// Checks the credential and writes its layout into one buffer that is wiped when dropped.
    #[expect(clippy::cast_possible_truncation, reason = "lengths and count are bounded, see below")]
    pub(crate) fn encode(&self) -> Result<SecretBytes, InvalidCredential> {
        self.check()?;
        let bytes = 2 + self.fields.iter().map(|(name, value)| 5 + name.len() + value.expose_secret().len()).sum::<usize>();
        if bytes > MAX_CREDENTIAL_BYTES {
            return Err(InvalidCredential::TooLarge { limit: MAX_CREDENTIAL_BYTES, bytes });
        }
        let mut buffer = SecretBytes::zeroed(bytes);
        let mut rest = buffer.expose_mut();
        // The lengths fit their types: `check` bounds count and names, the limit above bounds every value.
        put(&mut rest, &[self.kind.byte(), self.fields.len() as u8]);
        for (name, value) in &self.fields {
            let value = value.expose_secret().as_bytes();
            put(&mut rest, &[name.len() as u8]);
            put(&mut rest, name.as_bytes());
            put(&mut rest, &(value.len() as u32).to_le_bytes());
            put(&mut rest, value);
        }
        Ok(buffer)
    }

    fn fixed(kind: CredentialKind, fields: Vec<(Cow<'static, str>, SecretString)>) -> Self {
        Self { kind, fields, expires_at: None, scopes: Vec::new() }
    }

    fn check(&self) -> Result<(), InvalidCredential> {
        if self.kind == CredentialKind::Custom {
            self.check_custom_names()?;
        }
        for (name, value) in &self.fields {
            check_value(self.kind, name, value.expose_secret())?;
        }
        if self.scopes.len() > MAX_SCOPES || !self.scopes.iter().all(|scope| is_scope(scope)) {
            return Err(InvalidCredential::Scopes);
        }
        Ok(())
    }

    fn check_custom_names(&self) -> Result<(), InvalidCredential> {
        let count = self.fields.len();
        if !(1..=MAX_FIELDS).contains(&count) {
            return Err(InvalidCredential::FieldCount { count, limit: MAX_FIELDS });
        }
        for (index, (name, _)) in self.fields.iter().enumerate() {
            if !is_field_name(name) {
                return Err(InvalidCredential::FieldName { index });
            }
            if self.fields.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(InvalidCredential::RepeatedField { index });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, redacted)", self.kind)
    }
}

/// What a token endpoint answered (RFC 6749 section 5.1). `Debug` shows no token.
///
/// ```
/// use anchorhold::{Credential, OAuth2Tokens, Timestamp};
/// let tokens = OAuth2Tokens::new("access".into())
///     .refresh_token("refresh".into())
///     .expires_at(Timestamp::from_millis(1_800_000_000_000))
///     .scopes(["repo", "read:user"]);
/// let credential = Credential::oauth2(tokens);
/// ```
#[derive(Clone)]
pub struct OAuth2Tokens {
    access: SecretString,
    refresh: Option<SecretString>,
    token_type: String,
    expires_at: Option<Timestamp>,
    scopes: Vec<String>,
}

impl OAuth2Tokens {
    /// An access token of type `Bearer` (RFC 6750), without refresh token, expiry and scopes. Not empty.
    #[must_use]
    pub fn new(access_token: SecretString) -> Self {
        Self { access: access_token, refresh: None, token_type: "Bearer".to_owned(), expires_at: None, scopes: Vec::new() }
    }

    /// With a refresh token. Not empty.
    #[must_use]
    pub fn refresh_token(mut self, refresh_token: SecretString) -> Self {
        self.refresh = Some(refresh_token);
        self
    }

    /// With the `token_type` that the token endpoint named (RFC 6749 section 7.1). Not empty.
    #[must_use]
    pub fn token_type(mut self, token_type: impl Into<String>) -> Self {
        self.token_type = token_type.into();
        self
    }

    /// With the moment at which the access token expires (now + `expires_in`).
    #[must_use]
    pub fn expires_at(mut self, expires_at: Timestamp) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// With the scopes that were granted: at most 64 scope tokens of at most 256 bytes (RFC 6749 section 3.3).
    #[must_use]
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }
}

impl fmt::Debug for OAuth2Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2Tokens")
            .field("refresh_token", &self.refresh.is_some())
            .field("expires_at", &self.expires_at)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// A credential in the clear, lent to one closure. The buffer behind it is wiped when the closure returns; copy nothing out of
/// it that you do not wipe yourself. `Debug` shows the kind only.
///
/// ```no_run
/// # fn with(revealed: &anchorhold::Revealed) {
/// if let Some((user_name, password)) = revealed.basic() {
///     // hand both to a client that needs them
/// }
/// let client_id = revealed.field("client_id");
/// # }
/// ```
pub struct Revealed {
    bytes: Plaintext,
    kind: CredentialKind,
    fields: Vec<Field>,
}

/// Where name and value of one field are in the layout.
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

impl Revealed {
    /// Reads the layout in place. `None` for anything that [`Credential::encode`] does not write.
    pub(crate) fn parse(bytes: Plaintext) -> Option<Self> {
        let (kind, fields) = parse_layout(&bytes)?;
        Some(Self { bytes, kind, fields })
    }

    /// What it consists of.
    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// The value of one field: of a custom credential by the name that the host gave it, of other kinds `api_key`,
    /// `username`, `password`, `access_token`, `refresh_token` or `token_type`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// Names and values in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().filter_map(|field| Some((self.text(&field.name)?, self.text(&field.value)?)))
    }

    /// The secret text of kind [`CredentialKind::ApiKey`].
    #[must_use]
    pub fn api_key(&self) -> Option<&str> {
        self.of_kind(CredentialKind::ApiKey, API_KEY)
    }

    /// User name and password of kind [`CredentialKind::Basic`].
    #[must_use]
    pub fn basic(&self) -> Option<(&str, &str)> {
        Some((self.of_kind(CredentialKind::Basic, USERNAME)?, self.of_kind(CredentialKind::Basic, PASSWORD)?))
    }

    /// The access token of kind [`CredentialKind::OAuth2`].
    #[must_use]
    pub fn access_token(&self) -> Option<&str> {
        self.of_kind(CredentialKind::OAuth2, ACCESS_TOKEN)
    }

    /// The refresh token of kind [`CredentialKind::OAuth2`], if it has one.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&str> {
        self.of_kind(CredentialKind::OAuth2, REFRESH_TOKEN)
    }

    /// The token type of kind [`CredentialKind::OAuth2`], as the token endpoint wrote it; usually `Bearer`.
    #[must_use]
    pub fn token_type(&self) -> Option<&str> {
        self.of_kind(CredentialKind::OAuth2, TOKEN_TYPE)
    }

    /// As if `layout` came out of a record, for tests of what reads it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn parse_bytes(layout: &[u8]) -> Option<Self> {
        if layout.len() > envelope::MAX_PLAINTEXT {
            return None;
        }
        let key = Key::copy_of(&[0; 32]);
        Self::parse(envelope::open(&key, &[], None, &envelope::seal(&key, 1, &[], 1, layout)).ok()?)
    }

    /// The credential that was stored, but for what is not in the layout.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn rebuild(&self) -> Credential {
        let fields = self.fields().map(|(name, value)| (Cow::Owned(name.to_owned()), value.into()));
        Credential::fixed(self.kind, fields.collect())
    }

    /// A custom credential may have a field of the same name, which is not this kind's.
    fn of_kind(&self, kind: CredentialKind, field: &str) -> Option<&str> {
        (self.kind == kind).then(|| self.field(field)).flatten()
    }

    fn text(&self, range: &Range<usize>) -> Option<&str> {
        std::str::from_utf8(self.bytes.get(range.clone())?).ok()
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revealed({}, redacted)", self.kind)
    }
}

fn parse_layout(bytes: &[u8]) -> Option<(CredentialKind, Vec<Field>)> {
    if bytes.len() > MAX_CREDENTIAL_BYTES {
        return None;
    }
    let kind = CredentialKind::from_byte(*bytes.first()?)?;
    let count = usize::from(*bytes.get(1)?);
    if !(1..=MAX_FIELDS).contains(&count) {
        return None;
    }
    let mut at = 2;
    let mut fields = Vec::<Field>::with_capacity(count);
    for index in 0..count {
        let name_len = usize::from(*bytes.get(at)?);
        let name = at + 1..at + 1 + name_len;
        let value_len = u32::from_le_bytes(bytes.get(name.end..name.end + 4)?.try_into().ok()?);
        let value = name.end + 4..(name.end + 4).checked_add(usize::try_from(value_len).ok()?)?;
        let name_text = std::str::from_utf8(bytes.get(name.clone())?).ok()?;
        let value_text = std::str::from_utf8(bytes.get(value.clone())?).ok()?;
        let repeated = fields.iter().any(|earlier| bytes.get(earlier.name.clone()) == Some(name_text.as_bytes()));
        if repeated || !has_place(kind, count, index, name_text) || check_value(kind, name_text, value_text).is_err() {
            return None;
        }
        at = value.end;
        fields.push(Field { name, value });
    }
    (at == bytes.len()).then_some((kind, fields))
}

/// Whether a field of this name stands at this place of a credential of this kind.
fn has_place(kind: CredentialKind, count: usize, index: usize, name: &str) -> bool {
    let expected: &[&str] = match (kind, count) {
        (CredentialKind::ApiKey, 1) => &[API_KEY],
        (CredentialKind::Basic, 2) => &[USERNAME, PASSWORD],
        (CredentialKind::OAuth2, 2) => &[ACCESS_TOKEN, TOKEN_TYPE],
        (CredentialKind::OAuth2, 3) => &[ACCESS_TOKEN, REFRESH_TOKEN, TOKEN_TYPE],
        (CredentialKind::Custom, _) => return is_field_name(name),
        _ => return false,
    };
    expected.get(index) == Some(&name)
}

fn check_value(kind: CredentialKind, name: &str, value: &str) -> Result<(), InvalidCredential> {
    if kind == CredentialKind::Custom {
        return Ok(());
    }
    let what = match name {
        API_KEY => "the API key",
        USERNAME if value.contains(|c: char| c == ':' || c.is_control()) => return Err(InvalidCredential::UserName),
        ACCESS_TOKEN => "the access token",
        REFRESH_TOKEN => "the refresh token",
        TOKEN_TYPE => "the token type",
        _ => return Ok(()),
    };
    if value.is_empty() { Err(InvalidCredential::Empty { what }) } else { Ok(()) }
}

/// `scope-token` of RFC 6749 section 3.3.
pub(crate) fn is_scope(scope: &str) -> bool {
    (1..=MAX_SCOPE_BYTES).contains(&scope.len()) && scope.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

pub(super) fn is_field_name(name: &str) -> bool {
    (1..=MAX_FIELD_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Copies `bytes` to the front of `rest` and moves it past them. The caller sized the buffer for exactly what it puts.
fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (front, back) = std::mem::take(rest).split_at_mut(bytes.len());
    front.copy_from_slice(bytes);
    *rest = back;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revealed(credential: &Credential) -> Revealed {
        Revealed::parse_bytes(credential.encode().unwrap().expose()).unwrap()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let credential = Credential::custom([("a", "xy".into()), ("b-2", "".into())]);
        assert_eq!(credential.encode().unwrap().expose(), b"\x04\x02\x01a\x02\0\0\0xy\x03b-2\0\0\0\0");
    }

    #[test]
    fn each_kind_gives_its_own_values_only() {
        let key = revealed(&Credential::api_key("k".into()));
        assert_eq!((key.api_key(), key.basic(), key.access_token()), (Some("k"), None, None));

        let basic = revealed(&Credential::basic("ann", "".into()));
        assert_eq!((basic.basic(), basic.api_key()), (Some(("ann", "")), None));

        let tokens = OAuth2Tokens::new("at".into()).token_type("bot");
        let oauth = revealed(&Credential::oauth2(tokens.clone()));
        assert_eq!((oauth.access_token(), oauth.refresh_token(), oauth.token_type()), (Some("at"), None, Some("bot")));
        let oauth = revealed(&Credential::oauth2(tokens.refresh_token("rt".into())));
        assert_eq!((oauth.access_token(), oauth.refresh_token()), (Some("at"), Some("rt")));

        let custom = revealed(&Credential::custom([("api_key", "v".into())]));
        assert_eq!((custom.field("api_key"), custom.api_key(), custom.field("other")), (Some("v"), None, None));
    }

    #[test]
    fn unusable_credentials_are_refused_with_their_reason() {
        let refused = |credential: Credential| credential.encode().unwrap_err();
        assert!(matches!(refused(Credential::api_key("".into())), InvalidCredential::Empty { .. }));
        assert_eq!(refused(Credential::basic("a:b", "p".into())), InvalidCredential::UserName);
        assert_eq!(refused(Credential::basic("a\n", "p".into())), InvalidCredential::UserName);
        let tokens = || OAuth2Tokens::new("at".into());
        assert!(matches!(
            refused(Credential::oauth2(tokens().refresh_token("".into()))),
            InvalidCredential::Empty { what: "the refresh token" }
        ));
        assert_eq!(refused(Credential::oauth2(tokens().scopes(["a b"]))), InvalidCredential::Scopes);
        assert_eq!(refused(Credential::oauth2(tokens().scopes(vec!["s"; 65]))), InvalidCredential::Scopes);
        let none: [(&str, SecretString); 0] = [];
        assert!(matches!(refused(Credential::custom(none)), InvalidCredential::FieldCount { count: 0, .. }));
        let many = (0..33).map(|n| (format!("f{n}"), SecretString::from("")));
        assert!(matches!(refused(Credential::custom(many)), InvalidCredential::FieldCount { count: 33, .. }));
        assert_eq!(refused(Credential::custom([("a b", "".into())])), InvalidCredential::FieldName { index: 0 });
        assert_eq!(refused(Credential::custom([("", "".into())])), InvalidCredential::FieldName { index: 0 });
        let twice = Credential::custom([("a", "1".into()), ("a", "2".into())]);
        assert_eq!(refused(twice), InvalidCredential::RepeatedField { index: 1 });
    }

    #[test]
    fn the_limit_counts_every_byte() {
        let overhead = 2 + 5 + "api_key".len();
        let fits = Credential::api_key("x".repeat(MAX_CREDENTIAL_BYTES - overhead).into());
        assert_eq!(fits.encode().unwrap().expose().len(), MAX_CREDENTIAL_BYTES);
        let over = Credential::api_key("x".repeat(MAX_CREDENTIAL_BYTES - overhead + 1).into());
        assert_eq!(over.encode().unwrap_err(), InvalidCredential::TooLarge { limit: 65_536, bytes: 65_537 });
    }

    #[test]
    fn debug_shows_no_value() {
        let tokens = OAuth2Tokens::new("needle".into()).refresh_token("needle".into());
        let credential = Credential::oauth2(tokens.clone());
        let shown = format!("{tokens:?} {credential:?} {:?} {:?}", revealed(&credential), credential.encode());
        assert!(!shown.contains("needle"), "{shown}");
    }

    #[test]
    fn layouts_that_no_credential_has_are_refused() {
        let fields = |kind: u8, names: &[&str]| {
            let mut bytes = vec![kind, names.len() as u8];
            for name in names {
                bytes.push(name.len() as u8);
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(b"\x01\0\0\0v");
            }
            bytes
        };
        assert!(Revealed::parse_bytes(&fields(1, &["api_key"])).is_some());
        for (kind, names) in [
            (0, &["api_key"][..]),
            (5, &["a"]),
            (1, &["username"]),
            (1, &["api_key", "api_key"]),
            (2, &["password", "username"]),
            (3, &["access_token"]),
            (3, &["access_token", "token_type", "refresh_token"]),
            (4, &["a", "a"]),
            (4, &["a b"]),
            (4, &[]),
        ] {
            assert!(Revealed::parse_bytes(&fields(kind, names)).is_none(), "kind {kind} with {names:?}");
        }
        assert!(Revealed::parse_bytes(b"\x04\x01\x01a\xff\xff\xff\xffv").is_none(), "length beyond the end");
        assert!(Revealed::parse_bytes(b"\x04\x01\x01a\x01\0\0\0\xff").is_none(), "not UTF-8");
        assert!(Revealed::parse_bytes(b"\x01\x01\x07api_key\0\0\0\0").is_none(), "empty key");
    }

    fn any_credential() -> impl Strategy<Value = Credential> {
        let secret = || ".{0,40}".prop_map(SecretString::from);
        let full = || ".{1,40}".prop_map(SecretString::from);
        prop_oneof![
            full().prop_map(Credential::api_key),
            ("[^:\\p{Cc}]{0,20}", secret()).prop_map(|(user, password)| Credential::basic(user, password)),
            (full(), proptest::option::of(full()), "[a-zA-Z]{1,8}").prop_map(|(access, refresh, kind)| {
                let tokens = OAuth2Tokens::new(access).token_type(kind);
                Credential::oauth2(match refresh {
                    Some(refresh) => tokens.refresh_token(refresh),
                    None => tokens,
                })
            }),
            proptest::collection::btree_map("[A-Za-z0-9_.-]{1,64}", secret(), 1..=32).prop_map(Credential::custom),
        ]
    }

    proptest! {
        #[test]
        fn what_went_in_comes_out(credential in any_credential()) {
            let out = revealed(&credential);
            prop_assert_eq!(out.kind(), credential.kind());
            let put: Vec<_> = credential.fields.iter().map(|(name, value)| (name.as_ref(), value.expose_secret())).collect();
            prop_assert_eq!(out.fields().collect::<Vec<_>>(), put);
        }

        #[test]
        fn cut_and_lengthened_layouts_are_refused(credential in any_credential(), cut in any::<proptest::sample::Index>()) {
            let bytes = credential.encode().unwrap().expose().to_vec();
            prop_assert!(Revealed::parse_bytes(&bytes[..cut.index(bytes.len())]).is_none());
            prop_assert!(Revealed::parse_bytes(&[bytes.as_slice(), &[0]].concat()).is_none());
        }

        #[test]
        fn what_parses_is_what_would_be_written(credential in any_credential(), at in any::<proptest::sample::Index>(), byte: u8) {
            let mut bytes = credential.encode().unwrap().expose().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(out) = Revealed::parse_bytes(&bytes) {
                let again = out.rebuild().encode().unwrap();
                prop_assert_eq!(again.expose(), bytes);
            }
        }
    }
}
