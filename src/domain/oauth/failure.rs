//! Why a token request failed: facts that are no secret, and the class that follows from them.

use std::time::Duration;

use super::profile::{FailureClass, RefreshProfile};

/// What came back from a token endpoint, when it was no tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFailure {
    pub(crate) kind: FailureKind,
    /// The HTTP status, if there was an answer.
    pub(crate) status: Option<u16>,
    /// What `Retry-After` asks (RFC 9110 section 10.2.3).
    pub(crate) retry_after: Option<Duration>,
}

/// The kinds of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No connection, or it broke.
    Unreachable,
    /// No whole answer in time.
    TimedOut,
    /// The answer is longer than any token answer.
    TooLarge,
    /// A redirect: tokens are asked for at the configured address and nowhere else.
    Redirected,
    /// An answer that is not what RFC 6749 section 5 describes; says in which way, without a byte of it.
    Malformed(&'static str),
    /// An error code (RFC 6749 section 5.2): at most 64 visible ASCII characters, others replaced.
    Refused(Box<str>),
}

impl TokenFailure {
    /// What the failure means for the credential.
    pub(crate) fn class(&self, profile: &RefreshProfile) -> FailureClass {
        let FailureKind::Refused(code) = &self.kind else { return FailureClass::Transient };
        if let Some((_, class)) = profile.errors.iter().find(|(known, _)| known.eq_ignore_ascii_case(code)) {
            return *class;
        }
        // What a server says about itself is no word on the credential.
        if matches!(self.status, Some(429 | 500..)) {
            return FailureClass::Transient;
        }
        match &**code {
            "invalid_grant" => FailureClass::Revoked,
            "invalid_client" | "unauthorized_client" | "unsupported_grant_type" | "invalid_scope" | "invalid_request" => {
                FailureClass::ClientMisconfigured
            }
            _ => FailureClass::Transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: &str, status: u16) -> FailureClass {
        let errors = vec![("BAD_REFRESH_TOKEN".to_owned(), FailureClass::Revoked)];
        let profile = RefreshProfile { errors, ..RefreshProfile::DEFAULT };
        TokenFailure { kind: FailureKind::Refused(code.into()), status: Some(status), retry_after: None }.class(&profile)
    }

    #[test]
    fn only_the_provider_s_word_on_the_grant_ends_it() {
        assert_eq!(class("invalid_grant", 400), FailureClass::Revoked);
        assert_eq!(class("bad_refresh_token", 400), FailureClass::Revoked);
        assert_eq!(class("invalid_client", 401), FailureClass::ClientMisconfigured);
        assert_eq!(class("invalid_grant", 503), FailureClass::Transient);
        assert_eq!(class("temporarily_unavailable", 400), FailureClass::Transient);
        let silent = TokenFailure { kind: FailureKind::Malformed("not JSON"), status: Some(400), retry_after: None };
        assert_eq!(silent.class(&RefreshProfile::DEFAULT), FailureClass::Transient);
    }
}
