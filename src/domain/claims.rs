//! What a session token says, and its one encoding (`docs/token-format.md`).

use std::time::Duration;

use super::grants::{Grant, Grants};
use super::{origin, random};
use crate::clock::Timestamp;
use crate::ids::{InvalidId, ProviderName, SessionTokenId, check_text};

const MAX_PROVIDERS: usize = 16;
const MAX_ORIGINS: usize = 8;
const MAX_SUBJECT_BYTES: usize = 256;
const MIN_LIFETIME: Duration = Duration::from_secs(1);
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);

const FLAG_SINGLE_USE: u8 = 1;
const FLAG_SUBJECT: u8 = 2;

/// id, issued, expires, epoch, grants, flags, number of providers, number of origins.
const FIXED_BYTES: usize = 16 + 8 + 8 + 8 + 1 + 1 + 1 + 1;

/// The fewest and the most bytes that claims have.
pub(super) const MIN_CLAIMS_BYTES: usize = FIXED_BYTES;
pub(super) const MAX_CLAIMS_BYTES: usize =
    FIXED_BYTES + MAX_PROVIDERS * (1 + ProviderName::MAX_BYTES) + MAX_ORIGINS * (2 + 256) + 2 + MAX_SUBJECT_BYTES;

/// What a session token is to be.
///
/// # Limits
/// 16 providers, 8 origins of 256 bytes, a subject of 1 to 256 bytes without control characters, a lifetime of 1 second to
/// 24 hours.
///
/// ```
/// use anchorhold::{Grant, ProviderName, SessionOptions};
/// use std::time::Duration;
/// let options = SessionOptions::new()
///     .lifetime(Duration::from_secs(300))
///     .grants([Grant::ListConnections, Grant::Connect])
///     .providers([ProviderName::new("github")?])
///     .origins(["https://app.example.com"])
///     .subject("user 7");
/// # Ok::<(), anchorhold::InvalidId>(())
/// ```
#[derive(Clone, Debug)]
pub struct SessionOptions {
    lifetime: Duration,
    grants: Grants,
    providers: Vec<ProviderName>,
    origins: Vec<String>,
    single_use: bool,
    subject: Option<String>,
}

impl SessionOptions {
    /// A token for 15 minutes that may list connections, from any origin, as often as its bearer likes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lifetime: DEFAULT_LIFETIME,
            grants: Grant::ListConnections.into(),
            providers: Vec::new(),
            origins: Vec::new(),
            single_use: false,
            subject: None,
        }
    }

    /// How long it is good for: 1 second to 24 hours; fractions of a millisecond are cut off. The default is 15 minutes.
    #[must_use]
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// What it lets its bearer do, instead of listing connections.
    #[must_use]
    pub fn grants(mut self, grants: impl Into<Grants>) -> Self {
        self.grants = grants.into();
        self
    }

    /// Only for connections of these providers, at most 16. An empty list means all.
    #[must_use]
    pub fn providers(mut self, providers: impl IntoIterator<Item = ProviderName>) -> Self {
        self.providers = providers.into_iter().collect();
        self
    }

    /// Only from pages of these web origins (RFC 6454), at most 8: `https://app.example.com`, with a port if it is not 443;
    /// `http` only for loopback hosts. An empty list means any.
    #[must_use]
    pub fn origins<S: Into<String>>(mut self, origins: impl IntoIterator<Item = S>) -> Self {
        self.origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// For one use: the first check that succeeds uses it up, durably, before it returns.
    #[must_use]
    pub const fn single_use(mut self) -> Self {
        self.single_use = true;
        self
    }

    /// Who is behind the session, in your own words; it appears in the account's audit and nowhere else.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The claims of a new token with these options.
    pub(crate) fn claims(&self, now: Timestamp, epoch: u64) -> Result<SessionClaims, InvalidSessionOptions> {
        if !(MIN_LIFETIME..=MAX_LIFETIME).contains(&self.lifetime) {
            return Err(InvalidSessionOptions::Lifetime);
        }
        let mut origins = Vec::with_capacity(self.origins.len());
        for (index, origin) in self.origins.iter().enumerate() {
            origins.push(origin::canonical(origin).ok_or(InvalidSessionOptions::Origin { index })?);
        }
        if let Some(subject) = &self.subject {
            check_text("session subject", subject, MAX_SUBJECT_BYTES)?;
        }
        let (providers, origins) = (sorted(self.providers.clone()), sorted(origins));
        if providers.len() > MAX_PROVIDERS {
            return Err(InvalidSessionOptions::TooManyProviders { limit: MAX_PROVIDERS });
        }
        if origins.len() > MAX_ORIGINS {
            return Err(InvalidSessionOptions::TooManyOrigins { limit: MAX_ORIGINS });
        }
        Ok(SessionClaims {
            id: SessionTokenId::from_bytes(random()),
            issued: now,
            expires: now.plus(self.lifetime),
            epoch,
            grants: self.grants,
            single_use: self.single_use,
            providers,
            origins,
            subject: self.subject.clone(),
        })
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Why no session token was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSessionOptions {
    /// The lifetime is out of range.
    #[error("session lifetime: give 1 second to 24 hours")]
    Lifetime,
    /// An origin is not usable.
    #[error(
        "origin {index} (counted from 0): use https://host or https://host:port, http only for loopback, no path, no '/' at the end"
    )]
    Origin {
        /// Position of the origin, from 0.
        index: usize,
    },
    /// Too many origins.
    #[error("too many origins: the limit is {limit}")]
    TooManyOrigins {
        /// How many are allowed.
        limit: usize,
    },
    /// Too many providers.
    #[error("too many providers: the limit is {limit}")]
    TooManyProviders {
        /// How many are allowed.
        limit: usize,
    },
    /// The subject is not usable.
    #[error(transparent)]
    Subject(#[from] InvalidId),
}

/// What a session token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionClaims {
    pub(crate) id: SessionTokenId,
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
    /// The account's epoch when it was minted.
    pub(crate) epoch: u64,
    pub(crate) grants: Grants,
    pub(crate) single_use: bool,
    /// Sorted, each once; empty for all.
    pub(crate) providers: Vec<ProviderName>,
    /// In their one spelling, sorted, each once; empty for any.
    pub(crate) origins: Vec<String>,
    pub(crate) subject: Option<String>,
}

impl SessionClaims {
    /// Whether the token reaches connections of the provider.
    pub(crate) fn allows_provider(&self, provider: &ProviderName) -> bool {
        self.providers.is_empty() || self.providers.binary_search(provider).is_ok()
    }

    /// Whether a request that names this origin may use the token. A token with origins is not for requests that name none.
    pub(crate) fn allows_origin(&self, origin: Option<&str>) -> bool {
        self.origins.is_empty()
            || origin.and_then(origin::canonical).is_some_and(|spelling| self.origins.binary_search(&spelling).is_ok())
    }

    #[cfg(feature = "testing")]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.encoded_len()];
        self.encode(&mut bytes);
        bytes
    }

    pub(super) fn encoded_len(&self) -> usize {
        FIXED_BYTES
            + self.providers.iter().map(|provider| 1 + provider.as_str().len()).sum::<usize>()
            + self.origins.iter().map(|origin| 2 + origin.len()).sum::<usize>()
            + self.subject.as_ref().map_or(0, |subject| 2 + subject.len())
    }

    /// Writes the encoding into `out`, which has [`encoded_len`](Self::encoded_len) bytes.
    #[expect(clippy::cast_possible_truncation, reason = "counts and lengths are bounded, see below")]
    pub(super) fn encode(&self, out: &mut [u8]) {
        let mut out = Writer(out);
        out.put(self.id.as_bytes());
        out.put(&self.issued.as_millis().to_be_bytes());
        out.put(&self.expires.as_millis().to_be_bytes());
        out.put(&self.epoch.to_be_bytes());
        let single_use = if self.single_use { FLAG_SINGLE_USE } else { 0 };
        let subject = if self.subject.is_some() { FLAG_SUBJECT } else { 0 };
        // Counts and lengths fit their fields: all are bounded where the claims are made.
        out.put(&[self.grants.bits(), single_use | subject, self.providers.len() as u8, self.origins.len() as u8]);
        for provider in &self.providers {
            out.put(&[provider.as_str().len() as u8]);
            out.put(provider.as_str().as_bytes());
        }
        for text in self.origins.iter().chain(&self.subject) {
            out.put(&(text.len() as u16).to_be_bytes());
            out.put(text.as_bytes());
        }
    }

    /// Reads an encoding; `None` for bytes that [`encode`](Self::encode) does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let id = SessionTokenId::from_bytes(from.array()?);
        let issued = Timestamp::from_millis(u64::from_be_bytes(from.array()?));
        let expires = Timestamp::from_millis(u64::from_be_bytes(from.array()?));
        let epoch = u64::from_be_bytes(from.array()?);
        let [grants, flags, providers, origins] = from.array()?;
        let (providers, origins) = (usize::from(providers), usize::from(origins));
        let in_range = (MIN_LIFETIME..=MAX_LIFETIME).contains(&expires.since(issued))
            && flags & !(FLAG_SINGLE_USE | FLAG_SUBJECT) == 0
            && providers <= MAX_PROVIDERS
            && origins <= MAX_ORIGINS;
        if !in_range {
            return None;
        }
        let providers = (0..providers)
            .map(|_| {
                let [len] = from.array()?;
                ProviderName::new(from.text(usize::from(len))?).ok()
            })
            .collect::<Option<Vec<_>>>()?;
        let origins = (0..origins)
            .map(|_| {
                let len = u16::from_be_bytes(from.array()?);
                let origin = from.text(usize::from(len))?;
                origin::canonical(origin).filter(|spelling| spelling == origin)
            })
            .collect::<Option<Vec<_>>>()?;
        let subject = if flags & FLAG_SUBJECT == 0 {
            None
        } else {
            let len = u16::from_be_bytes(from.array()?);
            let subject = from.text(usize::from(len))?;
            check_text("session subject", subject, MAX_SUBJECT_BYTES).ok()?;
            Some(subject.to_owned())
        };
        let complete = from.0.is_empty() && is_ascending(&providers) && is_ascending(&origins);
        complete.then_some(Self {
            id,
            issued,
            expires,
            epoch,
            grants: Grants::from_bits(grants)?,
            single_use: flags & FLAG_SINGLE_USE != 0,
            providers,
            origins,
            subject,
        })
    }
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values.dedup();
    values
}

/// One order and no repetition: one encoding.
fn is_ascending<T: Ord>(values: &[T]) -> bool {
    values.is_sorted_by(|a, b| a < b)
}

struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (front, back) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        self.0 = back;
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, back) = self.0.split_first_chunk()?;
        self.0 = back;
        Some(*front)
    }

    fn text(&mut self, len: usize) -> Option<&'a str> {
        let (front, back) = self.0.split_at_checked(len)?;
        self.0 = back;
        std::str::from_utf8(front).ok()
    }
}
