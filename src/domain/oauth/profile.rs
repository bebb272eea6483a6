//! How a provider treats refresh tokens.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::invalid::InvalidOAuth;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const MAX_CONCURRENCY: u16 = 1024;
const MAX_CODES: usize = 32;
const MAX_CODE_BYTES: usize = 64;

/// What a failed token request means for the credential (RFC 6749 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureClass {
    /// It may work later: the request is repeated with growing pauses, and the credential is untouched.
    Transient,
    /// The host's client or settings are wrong: the credential is untouched, and works again when they are corrected.
    ClientMisconfigured,
    /// The provider no longer takes the refresh token: it is never sent again, and the customer has to connect anew.
    Revoked,
}

/// How often a provider's token endpoint may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRate {
    /// This many requests, at least 1 …
    pub requests: u32,
    /// … in this time, from 1 second to 1 day.
    pub per: Duration,
}

/// How a provider treats refresh tokens, and how to treat the provider. Times count in whole milliseconds.
///
/// What is not said is assumed cautiously: refresh tokens may rotate, and a replaced one is never sent again.
///
/// ```
/// use std::time::Duration;
/// use anchorhold::{FailureClass, RefreshProfile, RefreshRate};
/// let profile = RefreshProfile::new()
///     .with_grace(Duration::from_secs(30 * 60))?
///     .with_keep_alive(Duration::from_secs(50 * 24 * 60 * 60))?
///     .with_rate(RefreshRate { requests: 10, per: Duration::from_secs(600) })?
///     .with_error("BAD_REFRESH_TOKEN", FailureClass::Revoked)?;
/// assert!(profile.rotates());
/// # Ok::<(), anchorhold::InvalidOAuth>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshProfile {
    /// Whether each refresh gives a new refresh token and ends the old one (RFC 9700 section 4.14.2).
    pub(crate) rotates: bool,
    /// How long the provider takes a refresh token that it has replaced; zero when it documents no such time.
    pub(crate) grace: Duration,
    /// How long before its expiry an access token is refreshed; else 10 % of its lifetime, at most 5 minutes.
    pub(crate) margin: Option<Duration>,
    /// Refresh at least this often, because a refresh token that is not used dies.
    pub(crate) keep_alive: Option<Duration>,
    /// The most requests that the vault makes in a time.
    pub(crate) rate: Option<RefreshRate>,
    /// The most requests that the vault makes at once.
    pub(crate) concurrency: u16,
    /// What error codes of the provider's own mean, beside those of RFC 6749.
    pub(crate) errors: Vec<(String, FailureClass)>,
}

impl RefreshProfile {
    /// A provider of which nothing is known: it may rotate and documents no grace.
    pub(crate) const DEFAULT: RefreshProfile = RefreshProfile {
        rotates: true,
        grace: Duration::ZERO,
        margin: None,
        keep_alive: None,
        rate: None,
        concurrency: 64,
        errors: Vec::new(),
    };

    /// The profile of a provider of which nothing is known: it may rotate refresh tokens, takes no replaced one, gets at most 64
    /// requests at once.
    #[must_use]
    pub const fn new() -> Self {
        Self::DEFAULT
    }

    /// Says whether each refresh gives a new refresh token and ends the old one (RFC 9700 section 4.14.2). Say `false` only of a
    /// provider that documents that refresh tokens stay valid: after a crash in the middle of a refresh such a token is sent once
    /// more, and a provider that rotates would take that for theft.
    #[must_use]
    pub const fn with_rotation(mut self, rotates: bool) -> Self {
        self.rotates = rotates;
        self
    }

    /// For how long the provider takes a refresh token that it has replaced: at most 30 days, zero for not at all.
    ///
    /// # Errors
    /// [`InvalidOAuth::Time`].
    pub fn with_grace(mut self, grace: Duration) -> Result<Self, InvalidOAuth> {
        self.grace = time("the grace", grace, Duration::ZERO..=MAX_GRACE)?;
        Ok(self)
    }

    /// How long before its expiry an access token is refreshed: at most 1 day. Else it is 10 % of the token's lifetime, at most 5
    /// minutes.
    ///
    /// # Errors
    /// [`InvalidOAuth::Time`].
    pub fn with_margin(mut self, margin: Duration) -> Result<Self, InvalidOAuth> {
        self.margin = Some(time("the margin", margin, Duration::ZERO..=DAY)?);
        Ok(self)
    }

    /// How often a connection is refreshed even when nobody uses it, because an unused refresh token dies: from 1 hour to 1 year.
    ///
    /// # Errors
    /// [`InvalidOAuth::Time`].
    pub fn with_keep_alive(mut self, keep_alive: Duration) -> Result<Self, InvalidOAuth> {
        self.keep_alive = Some(time("the time between keep-alive refreshes", keep_alive, HOUR..=YEAR)?);
        Ok(self)
    }

    /// The most token requests in a time, over all connections of the provider.
    ///
    /// # Errors
    /// [`InvalidOAuth::Number`] when it is no request, `Time` when it is not from 1 second to 1 day.
    pub fn with_rate(mut self, rate: RefreshRate) -> Result<Self, InvalidOAuth> {
        if rate.requests == 0 {
            return Err(InvalidOAuth::Number { what: "the number of requests", least: 1, most: u32::MAX });
        }
        let per = time("the time of the rate", rate.per, Duration::from_secs(1)..=DAY)?;
        self.rate = Some(RefreshRate { per, ..rate });
        Ok(self)
    }

    /// The most token requests at once, over all connections of the provider: 1 to 1024.
    ///
    /// # Errors
    /// [`InvalidOAuth::Number`].
    pub fn with_concurrency(mut self, concurrency: u16) -> Result<Self, InvalidOAuth> {
        if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
            return Err(InvalidOAuth::Number { what: "the number of requests at once", least: 1, most: MAX_CONCURRENCY.into() });
        }
        self.concurrency = concurrency;
        Ok(self)
    }

    /// What an error code of the provider's means (`error` of RFC 6749 section 5.2, compared without case). It goes before what the
    /// RFC says of that code; said again, the later meaning counts.
    ///
    /// # Errors
    /// [`InvalidOAuth::ErrorCode`] when it is not 1 to 64 visible ASCII characters, `TooManyErrorCodes` past 32.
    pub fn with_error(mut self, code: impl Into<String>, class: FailureClass) -> Result<Self, InvalidOAuth> {
        let code = code.into();
        if !(1..=MAX_CODE_BYTES).contains(&code.len()) || !code.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidOAuth::ErrorCode);
        }
        if let Some((_, known)) = self.errors.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&code)) {
            *known = class;
        } else if self.errors.len() == MAX_CODES {
            return Err(InvalidOAuth::TooManyErrorCodes { limit: MAX_CODES });
        } else {
            self.errors.push((code, class));
        }
        Ok(self)
    }

    /// Whether each refresh gives a new refresh token and ends the old one.
    #[must_use]
    pub const fn rotates(&self) -> bool {
        self.rotates
    }

    /// For how long the provider takes a refresh token that it has replaced.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// How long before its expiry an access token is refreshed, if that was said.
    #[must_use]
    pub const fn margin(&self) -> Option<Duration> {
        self.margin
    }

    /// How often an unused connection is refreshed, if that was said.
    #[must_use]
    pub const fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// The most token requests in a time, if that was said.
    #[must_use]
    pub const fn rate(&self) -> Option<RefreshRate> {
        self.rate
    }

    /// The most token requests at once.
    #[must_use]
    pub const fn concurrency(&self) -> u16 {
        self.concurrency
    }

    /// What error codes of the provider's own mean.
    pub fn errors(&self) -> impl Iterator<Item = (&str, FailureClass)> {
        self.errors.iter().map(|(code, class)| (code.as_str(), *class))
    }
}

impl Default for RefreshProfile {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The time in whole milliseconds, as it is stored.
fn time(what: &'static str, value: Duration, allowed: RangeInclusive<Duration>) -> Result<Duration, InvalidOAuth> {
    if !allowed.contains(&value) {
        return Err(InvalidOAuth::Time { what, least: *allowed.start(), most: *allowed.end() });
    }
    Ok(Duration::new(value.as_secs(), value.subsec_millis() * 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_docs() {
        let new = RefreshProfile::new;
        let just_over = Duration::from_millis(1);
        assert!(new().with_grace(MAX_GRACE).is_ok() && new().with_grace(MAX_GRACE + just_over).is_err());
        assert!(new().with_margin(DAY).is_ok() && new().with_margin(DAY + just_over).is_err());
        assert!(new().with_keep_alive(HOUR).is_ok() && new().with_keep_alive(HOUR.saturating_sub(just_over)).is_err());
        assert!(new().with_keep_alive(YEAR).is_ok() && new().with_keep_alive(YEAR + just_over).is_err());
        for (concurrency, fits) in [(0, false), (1, true), (1024, true), (1025, false)] {
            assert_eq!(new().with_concurrency(concurrency).is_ok(), fits, "{concurrency}");
        }
        for (requests, per, fits) in [(0, 1, false), (1, 1, true), (1, 0, false), (1, 86_400, true), (1, 86_401, false)] {
            let rate = RefreshRate { requests, per: Duration::from_secs(per) };
            assert_eq!(new().with_rate(rate).is_ok(), fits, "{rate:?}");
        }
    }

    #[test]
    fn error_codes_are_few_short_and_visible_and_the_last_meaning_counts() {
        for code in ["", "a b", "a\n", "ä", &"x".repeat(65)] {
            let refused = RefreshProfile::new().with_error(code, FailureClass::Revoked);
            assert_eq!(refused.unwrap_err(), InvalidOAuth::ErrorCode, "{code:?}");
        }
        let mut full = RefreshProfile::new();
        for n in 0..MAX_CODES {
            full = full.with_error(format!("e{n}"), FailureClass::Transient).unwrap();
        }
        full = full.with_error("E0", FailureClass::Revoked).unwrap();
        assert_eq!(full.errors().next(), Some(("e0", FailureClass::Revoked)));
        assert!(matches!(full.with_error("more", FailureClass::Revoked), Err(InvalidOAuth::TooManyErrorCodes { .. })));
    }

    #[test]
    fn times_are_whole_milliseconds() {
        assert_eq!(
            RefreshProfile::new().with_margin(Duration::from_micros(1999)).unwrap().margin,
            Some(Duration::from_millis(1))
        );
    }
}
