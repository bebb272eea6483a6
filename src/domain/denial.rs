//! Why something was refused. The audit tells it to the host; outside, refusals look alike.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an attempt was refused, as the audit names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DenialReason {
    /// Not made by this vault for this account or environment, or altered.
    Forged,
    /// Past its end.
    Expired,
    /// Issued in the future by more than 60 seconds of clock skew.
    NotYetValid,
    /// Revoked by itself.
    Revoked,
    /// Revoked together with all session tokens of the account.
    OldEpoch,
    /// A session token for single use that was used before.
    AlreadyUsed,
    /// The linked account is disabled.
    AccountDisabled,
    /// The request's origin is not among those of the session token.
    OriginNotAllowed,
    /// The session token does not grant it.
    NotGranted,
    /// The API key lacks the permission.
    PermissionMissing,
    /// The linked account is not on the API key's list.
    AccountNotListed,
    /// The request does not go to a host that the provider's settings allow.
    TargetNotAllowed,
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DenialReason::Forged => "forged or altered",
            DenialReason::Expired => "expired",
            DenialReason::NotYetValid => "issued in the future",
            DenialReason::Revoked => "revoked",
            DenialReason::OldEpoch => "revoked with all session tokens",
            DenialReason::AlreadyUsed => "already used",
            DenialReason::AccountDisabled => "account disabled",
            DenialReason::OriginNotAllowed => "origin not allowed",
            DenialReason::NotGranted => "not granted",
            DenialReason::PermissionMissing => "permission missing",
            DenialReason::AccountNotListed => "account not on the API key's list",
            DenialReason::TargetNotAllowed => "target not allowed",
        })
    }
}
