//! When to ask the token endpoint for new tokens, and what its answer, or a crash before the answer was stored, does to a
//! connection. Pure: state, profile and `now` in, a decision or the next state out.
//!
//! ```text
//!             decide ── Refresh ──► begin (durable) ──► request ──► succeed (durable) ──► hand out
//!                │                                        └──────► fail    (durable)
//!                ├── Use, Wait, Refuse
//!                └── Settle ──► settle (durable): an attempt whose answer was lost can't be repeated
//! ```
//!
//! An intent that is in the state when nothing is under way was left by a crash: the provider may have answered or not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::{FailureKind, TokenFailure};
use super::profile::{FailureClass, RefreshProfile};
use crate::clock::Timestamp;

/// The first pause after a failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause between attempts, unless the provider asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause that a provider can ask for. A time to retry that is later than this from now was set before the clock went back.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// The most that an access token is refreshed ahead of its expiry, unless the profile says otherwise.
const MOST_MARGIN: Duration = Duration::from_secs(5 * 60);
/// A token that a provider's API refuses although it is this young won't be helped by a newer one.
const YOUNG: Duration = Duration::from_secs(10);
/// How far the clock may stand before the moment at which the tokens were obtained, until their expiry is no longer believed.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2 * 60);

/// How a connection gets new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Renewal {
    /// It doesn't: there is no refresh token.
    None,
    /// With its refresh token (RFC 6749 section 6).
    RefreshToken,
    /// With the host's own client (RFC 6749 section 4.4).
    ClientCredentials,
}

/// Which refresh token is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Which {
    Current,
    /// The one before, within the provider's grace.
    Previous,
}

/// That a request is about to be made. Durable before it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// The generation of the tokens that it is to replace.
    pub(crate) generation: u64,
    /// Counts the requests for this generation.
    pub(crate) attempt: u32,
    pub(crate) at: Timestamp,
    pub(crate) which: Which,
}

/// Why a customer has to connect anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ReauthReason {
    /// The provider no longer takes the refresh token: the customer or an administrator withdrew it, or it died unused.
    Revoked,
    /// The process ended after the provider was asked and before its answer was stored; the provider replaces refresh tokens and
    /// documents no time in which it still takes the old one.
    InDoubt,
    /// The access token has expired, and the provider gave no refresh token.
    Expired,
    /// The host reported that the provider refuses the credential.
    Reported,
}

/// Why the last request for tokens failed: no secret, and no text of the provider but its error code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefreshFailure {
    /// The token endpoint could not be reached, or the connection broke.
    Unreachable,
    /// It did not answer in time.
    TimedOut,
    /// It answered with something that is no token answer; the HTTP status, if there was one.
    BadAnswer {
        /// The HTTP status.
        status: Option<u16>,
    },
    /// It refused, with this error code (RFC 6749 section 5.2): at most 64 visible ASCII characters.
    Refused {
        /// The error code.
        code: String,
    },
}

/// What is remembered of a connection's tokens beside the tokens themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefreshState {
    pub(crate) renewal: Renewal,
    /// Counts the sets of tokens: one more with each that was stored.
    pub(crate) generation: u64,
    /// When the request that brought the access token was made.
    pub(crate) obtained: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    /// The current refresh token must not be sent again.
    pub(crate) dead: bool,
    /// Until when the refresh token before the current one may be sent.
    pub(crate) previous_until: Option<Timestamp>,
    pub(crate) intent: Option<Intent>,
    /// Since when the outcome of a request is unknown, while it may still be repeated.
    pub(crate) doubt: Option<Timestamp>,
    /// Failures in a row.
    pub(crate) failures: u32,
    pub(crate) retry_at: Option<Timestamp>,
    pub(crate) last_failure: Option<(FailureClass, RefreshFailure)>,
    pub(crate) last_refresh: Option<Timestamp>,
    pub(crate) ended: Option<ReauthReason>,
}

/// Why one asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Somebody wants to use the tokens.
    Use,
    /// The wheel says that they are due.
    Due,
    /// The provider's API answered 401 to the tokens of this generation.
    Rejected { generation: u64 },
    /// The host wants new ones now, whatever pause was agreed on.
    Forced,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The access token is good.
    Use,
    /// Make the intent durable, then ask the token endpoint.
    Refresh(Intent),
    /// Make it durable that the outcome of the last request will never be known, then decide again.
    Settle,
    /// There is no good access token, and none is asked for before then.
    Wait { until: Timestamp, class: FailureClass, failure: RefreshFailure },
    /// There is no good access token and there will be none.
    Refuse(ReauthReason),
}

impl RefreshState {
    /// The state of tokens that were just obtained or handed in.
    pub(crate) fn new(renewal: Renewal, now: Timestamp, expires_at: Option<Timestamp>) -> Self {
        Self {
            renewal,
            generation: 1,
            obtained: now,
            expires_at,
            dead: false,
            previous_until: None,
            intent: None,
            doubt: None,
            failures: 0,
            retry_at: None,
            last_failure: None,
            last_refresh: None,
            ended: None,
        }
    }

    /// What to do now, when no request is under way.
    pub(crate) fn decide(&self, profile: &RefreshProfile, now: Timestamp, trigger: Trigger) -> Decision {
        let good = self.is_good(now, trigger);
        match self.want(profile, now, trigger) {
            true => self.renew(profile, now, trigger, good),
            false if good => Decision::Use,
            false => Decision::Refuse(self.ended.unwrap_or(ReauthReason::Expired)),
        }
    }

    /// Whether the access token may be handed out.
    fn is_good(&self, now: Timestamp, trigger: Trigger) -> bool {
        let refused_by_api = matches!(trigger, Trigger::Rejected { generation } if generation >= self.generation);
        let ended = matches!(self.ended, Some(ReauthReason::Revoked | ReauthReason::Reported));
        let expired = self.expires_at.is_some_and(|expires| expires <= now);
        !ended && !expired && !refused_by_api && !self.clock_went_back(now)
    }

    /// Whether new tokens are wanted.
    fn want(&self, profile: &RefreshProfile, now: Timestamp, trigger: Trigger) -> bool {
        match trigger {
            Trigger::Forced => true,
            Trigger::Rejected { generation } if generation >= self.generation => {
                now.since(self.obtained) >= YOUNG || self.refresh_at(profile).is_some_and(|at| at <= now)
            }
            Trigger::Due if self.keep_alive_at(profile).is_some_and(|at| at <= now) => true,
            _ => self.clock_went_back(now) || self.refresh_at(profile).is_some_and(|at| at <= now),
        }
    }

    fn renew(&self, profile: &RefreshProfile, now: Timestamp, trigger: Trigger, good: bool) -> Decision {
        let without = |reason| if good { Decision::Use } else { Decision::Refuse(reason) };
        if let Some(reason) = self.ended {
            return without(reason);
        }
        let which = match self.renewal {
            Renewal::None => return without(ReauthReason::Expired),
            Renewal::ClientCredentials => Which::Current,
            Renewal::RefreshToken if !self.dead => Which::Current,
            Renewal::RefreshToken if self.previous_until.is_some_and(|until| now < until) => Which::Previous,
            Renewal::RefreshToken => return Decision::Settle,
        };
        if let Some(since) = self.doubt_since()
            && !self.may_repeat(profile, since, now)
        {
            return Decision::Settle;
        }
        if let (Some(retry_at), Some((class, failure))) = (self.retry_at, &self.last_failure)
            && trigger != Trigger::Forced
            && now < retry_at
            && retry_at.since(now) <= LONGEST_RETRY_AFTER
        {
            let failure = failure.clone();
            return if good { Decision::Use } else { Decision::Wait { until: retry_at, class: *class, failure } };
        }
        let attempt = self.failures.saturating_add(u32::from(self.intent.is_some())).saturating_add(1);
        Decision::Refresh(Intent { generation: self.generation, attempt, at: now, which })
    }

    /// Since when it is unknown whether the provider has replaced the refresh token.
    fn doubt_since(&self) -> Option<Timestamp> {
        match (self.doubt, self.intent) {
            (Some(since), _) => Some(since),
            (None, Some(intent)) => Some(intent.at),
            (None, None) => None,
        }
    }

    /// Whether the refresh token may be sent once more although it may have been replaced. `since` is durable, and a clock that
    /// went behind it tells nothing about the grace.
    fn may_repeat(&self, profile: &RefreshProfile, since: Timestamp, now: Timestamp) -> bool {
        self.renewal == Renewal::ClientCredentials
            || !profile.rotates
            || since <= now.plus(CLOCK_TOLERANCE) && now.since(since) < profile.grace
    }

    /// The request is about to be made: durable first.
    pub(crate) fn begin(&mut self, intent: Intent) {
        // An intent that is there already was left by a crash.
        self.doubt = self.doubt_since();
        self.intent = Some(intent);
    }

    /// The tokens that the request brought are stored in the same commit. `expires_in` counts from the request. An access token
    /// that is expired as it comes is kept like any other, and the next request waits as after a failure.
    pub(crate) fn succeed(
        &mut self,
        profile: &RefreshProfile,
        expires_in: Option<Duration>,
        new_refresh_token: bool,
        spread: u8,
    ) {
        let Some(intent) = self.intent.take() else { return };
        self.generation += 1;
        self.obtained = intent.at;
        self.last_refresh = Some(intent.at);
        self.expires_at = expires_in.map(|lifetime| intent.at.plus(lifetime));
        // The token that was sent becomes the previous one, when another one takes its place.
        let keeps = new_refresh_token && profile.rotates && !profile.grace.is_zero();
        self.previous_until = keeps.then(|| intent.at.plus(profile.grace));
        self.dead = false;
        self.doubt = None;
        self.ended = None;
        if expires_in == Some(Duration::ZERO) {
            self.failures = self.failures.saturating_add(1);
            self.last_failure = Some((FailureClass::Transient, RefreshFailure::BadAnswer { status: None }));
            self.retry_at = Some(intent.at.plus(pause(self.failures, spread)));
        } else {
            self.failures = 0;
            self.retry_at = None;
            self.last_failure = None;
        }
    }

    /// The request failed. `spread` in 0..=255 varies the pause, so that connections that failed together don't come back together.
    pub(crate) fn fail(&mut self, profile: &RefreshProfile, failure: &TokenFailure, now: Timestamp, spread: u8) {
        let Some(intent) = self.intent.take() else { return };
        let mut class = failure.class(profile);
        if self.renewal == Renewal::ClientCredentials && class == FailureClass::Revoked {
            class = FailureClass::ClientMisconfigured;
        }
        let in_doubt = self.doubt.is_some();
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some((class, RefreshFailure::of(failure)));
        match class {
            FailureClass::Revoked => {
                self.retry_at = None;
                self.doubt = None;
                let has_previous = self.previous_until.is_some_and(|until| now < until);
                if intent.which == Which::Current && has_previous {
                    self.dead = true;
                } else {
                    self.end(if in_doubt { ReauthReason::InDoubt } else { ReauthReason::Revoked });
                }
            }
            FailureClass::Transient | FailureClass::ClientMisconfigured => {
                let pause = pause(self.failures, spread).max(failure.retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER));
                self.retry_at = Some(now.plus(pause));
            }
        }
    }

    /// The outcome of the last request will never be known, or no refresh token is left that may be sent.
    pub(crate) fn settle(&mut self) {
        let reason = if self.doubt_since().is_some() { ReauthReason::InDoubt } else { ReauthReason::Revoked };
        self.end(reason);
    }

    /// No refresh token is sent any more.
    pub(crate) fn end(&mut self, reason: ReauthReason) {
        self.ended = Some(reason);
        self.dead = true;
        self.intent = None;
        self.doubt = None;
        self.previous_until = None;
        self.retry_at = None;
    }

    /// Whether there is a way to new tokens.
    pub(crate) fn can_renew(&self) -> bool {
        self.renewal != Renewal::None && self.ended.is_none()
    }

    /// From when on the access token is refreshed when it is used.
    pub(crate) fn refresh_at(&self, profile: &RefreshProfile) -> Option<Timestamp> {
        let expires = self.expires_at?;
        let lifetime = expires.since(self.obtained);
        // Never more than half of it: each use would be a refresh.
        let margin = profile.margin.unwrap_or_else(|| (lifetime / 10).min(MOST_MARGIN)).min(lifetime / 2);
        Some(Timestamp::from_millis(expires.as_millis().saturating_sub(millis(margin))))
    }

    /// When the wheel is to look after the connection next: in the first half of its margin, together with the others of its `phase`.
    pub(crate) fn due_at(&self, profile: &RefreshProfile, phase: u16) -> Option<Timestamp> {
        if self.ended.is_some() || self.renewal == Renewal::None {
            return None;
        }
        let in_margin = match (self.refresh_at(profile), self.expires_at) {
            (Some(at), Some(expires)) => Some(aligned(at, expires.since(at) / 2, phase)),
            _ => None,
        };
        let due = [in_margin, self.keep_alive_at(profile)].into_iter().flatten().min()?;
        Some(self.retry_at.map_or(due, |retry_at| due.max(retry_at)))
    }

    /// When the refresh token is used for the sake of its own life.
    fn keep_alive_at(&self, profile: &RefreshProfile) -> Option<Timestamp> {
        (self.renewal == Renewal::RefreshToken).then(|| profile.keep_alive.map(|period| self.obtained.plus(period)))?
    }

    /// The clock stands before the moment when the tokens were obtained, so that their expiry says nothing.
    fn clock_went_back(&self, now: Timestamp) -> bool {
        self.expires_at.is_some() && self.obtained.since(now) > CLOCK_TOLERANCE
    }
}

impl RefreshFailure {
    pub(crate) fn of(failure: &TokenFailure) -> Self {
        match &failure.kind {
            FailureKind::Unreachable => Self::Unreachable,
            FailureKind::TimedOut => Self::TimedOut,
            FailureKind::TooLarge | FailureKind::Redirected | FailureKind::Malformed(_) => {
                Self::BadAnswer { status: failure.status }
            }
            FailureKind::Refused(code) => Self::Refused { code: code.to_string() },
        }
    }
}

impl std::fmt::Display for RefreshFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the token endpoint can't be reached"),
            Self::TimedOut => f.write_str("the token endpoint did not answer in time"),
            Self::BadAnswer { status: Some(status) } => {
                write!(f, "the token endpoint gave no token answer (HTTP status {status})")
            }
            Self::BadAnswer { status: None } => f.write_str("the token endpoint gave no token answer"),
            Self::Refused { code } => write!(f, "the token endpoint refused ({code})"),
        }
    }
}

impl std::fmt::Display for ReauthReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the provider no longer takes the refresh token",
            Self::InDoubt => "the answer to the last refresh was lost, and the provider may have replaced the refresh token",
            Self::Expired => "the access token has expired and there is no refresh token",
            Self::Reported => "the provider was reported to refuse the credential",
        })
    }
}

/// The first moment of a phase that is not before `at`, and less than `within` after it. The moments of a phase come round after the
/// power of two of milliseconds that fits into `within`, so that what is due in a while of that length and has one phase is due
/// at once, whatever the time at which each became so; the phases divide that while evenly.
fn aligned(at: Timestamp, within: Duration, phase: u16) -> Timestamp {
    let Some(bits) = millis(within).checked_ilog2() else { return at };
    let period = 1_u64 << bits;
    // As many of the upper bits as fit: no lifetime has more than 39 bits of milliseconds.
    let place = (u64::from(phase) << bits.min(48)) >> 16;
    at.plus(Duration::from_millis(place.wrapping_sub(at.as_millis()) & (period - 1)))
}

/// Between a half and the whole of a time that doubles with each failure.
fn pause(failures: u32, spread: u8) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    whole / 2 + whole / 2 * u32::from(spread) / 255
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
