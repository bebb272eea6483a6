//! Why OAuth settings are refused.

use std::time::Duration;

/// Why a provider's OAuth settings are not usable. Names settings and limits, never a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOAuth {
    /// An endpoint or issuer is no URL that tokens may travel to.
    #[error(
        "{what}: use https and a host name, at most 2048 visible ASCII characters, no user information and no fragment; plain http \
         only toward this machine (localhost, 127.0.0.0/8, [::1])"
    )]
    Endpoint {
        /// Which one.
        what: &'static str,
    },
    /// The issuer has a query (RFC 8414 section 2).
    #[error("issuer: it has a query, which RFC 8414 does not allow; give the URL without it")]
    IssuerQuery,
    /// The issuer is to be checked in each answer, and none is set.
    #[error("an answer's issuer can't be required while none is set: set the issuer first")]
    IssuerMissing,
    /// A scope is none (RFC 6749 section 3.3), or has the separator in it.
    #[error(
        "scopes: give at most 64 of at most 256 visible ASCII characters each, without '\"', '\\' and the character that separates them"
    )]
    Scopes,
    /// The character can't separate scopes.
    #[error("scope separator: use a space or one of ',', ';', '+' and '|'")]
    ScopeSeparator,
    /// An extra parameter's name or value is not usable.
    #[error(
        "extra parameter: use a name of 1 to 64 and a value of at most 256 bytes, the name visible ASCII, no control characters"
    )]
    Parameter,
    /// An extra parameter would override one that the protocol sets.
    #[error("extra parameter '{name}': it is set by the protocol and can't be overridden")]
    ReservedParameter {
        /// Which one.
        name: &'static str,
    },
    /// Too many extra parameters.
    #[error("too many extra parameters: the limit is {limit} for each request")]
    TooManyParameters {
        /// How many are allowed.
        limit: usize,
    },
    /// The name of the answer's member that has the API host is not usable.
    #[error("member with the API host: use a name of 1 to 64 of A-Z, a-z, 0-9, '_', '-' and '.'")]
    ApiHostMember,
    /// A time of the refresh profile is out of its bounds.
    #[error("refresh profile: {what} must be from {least:?} to {most:?}")]
    Time {
        /// Which one.
        what: &'static str,
        /// The shortest time.
        least: Duration,
        /// The longest time.
        most: Duration,
    },
    /// A number of the refresh profile is out of its bounds.
    #[error("refresh profile: {what} must be from {least} to {most}")]
    Number {
        /// Which one.
        what: &'static str,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
    /// An error code is not usable.
    #[error("error code of the provider: use 1 to 64 visible ASCII characters")]
    ErrorCode,
    /// Too many error codes.
    #[error("too many error codes: the limit is {limit}")]
    TooManyErrorCodes {
        /// How many are allowed.
        limit: usize,
    },
    /// The client id is not usable (RFC 6749 appendix A.1).
    #[error("client id: use 1 to 1024 visible ASCII characters, and look for a space or line end that was copied with it")]
    ClientId,
    /// The client secret is not usable (RFC 6749 appendix A.2).
    #[error("client secret: use 1 to 4096 visible ASCII characters and spaces, and look for a line end that was copied with it")]
    ClientSecret,
}
