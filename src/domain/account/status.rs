//! Whether a connection can be used.

use crate::clock::Timestamp;
use crate::domain::account::records::{ConnectionRecord, RefreshRecord};
use crate::domain::oauth::profile::FailureClass;
use crate::domain::oauth::refresh::{ReauthReason, RefreshFailure};

/// Whether a connection can be used, and what is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionStatus {
    /// The credential is in place and nothing is known against it.
    Active,
    /// New tokens are being asked for at this moment.
    Refreshing,
    /// The last request for new tokens failed and will be repeated. The access token is used as long as it is good.
    Retrying {
        /// When.
        until: Timestamp,
        /// Why the last one failed.
        reason: RefreshFailure,
    },
    /// The customer has to connect anew. Nothing was deleted; a reconnect keeps the connection's id.
    ReauthRequired {
        /// Why.
        reason: ReauthReason,
    },
    /// The provider refuses the host's client or settings: correct them, then the next request for tokens works. The credential is
    /// untouched.
    Misconfigured {
        /// What the provider said.
        reason: RefreshFailure,
    },
    /// The host disabled the connection: its credential can't be used or revealed until it is enabled.
    Disabled,
}

impl ConnectionStatus {
    /// From what is stored, and whether a request for tokens is under way.
    pub(crate) fn of(record: &ConnectionRecord, refresh: Option<&RefreshRecord>, refreshing: bool, now: Timestamp) -> Self {
        if record.disabled {
            return Self::Disabled;
        }
        if record.failed {
            return Self::ReauthRequired { reason: ReauthReason::Reported };
        }
        let Some(RefreshRecord { state, .. }) = refresh else { return Self::Active };
        if let Some(reason) = state.ended {
            return Self::ReauthRequired { reason };
        }
        if refreshing {
            return Self::Refreshing;
        }
        match (&state.last_failure, state.retry_at) {
            (Some((FailureClass::ClientMisconfigured, reason)), _) => Self::Misconfigured { reason: reason.clone() },
            (Some((_, reason)), Some(until)) => Self::Retrying { until, reason: reason.clone() },
            _ if !state.can_renew() && state.expires_at.is_some_and(|expires| expires <= now) => {
                Self::ReauthRequired { reason: ReauthReason::Expired }
            }
            _ => Self::Active,
        }
    }
}
