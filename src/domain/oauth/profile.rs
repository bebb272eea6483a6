//! How a provider treats refresh tokens.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshRate {
    /// This many requests, at least 1 …
    pub requests: u32,
    /// … in this time.
    pub per: Duration,
}

/// How a provider treats refresh tokens, and how to treat the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}
