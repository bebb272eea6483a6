//! Why something was refused. The audit tells it to the host; outside, refusals look alike.

/// Why an attempt was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Not made by this vault for this account or environment, or altered.
    Forged,
    Expired,
    /// Issued in the future by more than the clock skew that is allowed.
    NotYetValid,
    Revoked,
    /// Revoked together with all session tokens of the account.
    OldEpoch,
    /// A session token for single use that was used before.
    AlreadyUsed,
    AccountDisabled,
    OriginNotAllowed,
    /// The API key lacks the permission.
    PermissionMissing,
    /// The linked account is not on the API key's list.
    AccountNotListed,
}

impl Denied {
    /// As the audit names it.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Denied::Forged => "forged or altered",
            Denied::Expired => "expired",
            Denied::NotYetValid => "issued in the future",
            Denied::Revoked => "revoked",
            Denied::OldEpoch => "revoked with all session tokens",
            Denied::AlreadyUsed => "already used",
            Denied::AccountDisabled => "account disabled",
            Denied::OriginNotAllowed => "origin not allowed",
            Denied::PermissionMissing => "permission missing",
            Denied::AccountNotListed => "account not on the API key's list",
        }
    }
}
