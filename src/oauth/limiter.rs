//! How often and how many at once one provider is asked. Times are arguments; whoever waits brings the timer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};

use crate::domain::oauth::profile::RefreshRate;

/// The limits of one provider: at most `concurrency` permits at a time, and at most `rate.requests` in any `rate.per` (a bucket that
/// refills evenly and begins full; so up to twice the number can fall into one such time, once).
#[derive(Debug)]
pub(crate) struct Limiter {
    concurrency: u16,
    rate: Option<RefreshRate>,
    state: Mutex<State>,
    released: Event,
}

#[derive(Debug)]
struct State {
    taken: u16,
    /// When the bucket would be empty of what was taken, in the sense of the generic cell rate algorithm.
    debt_until: Option<Instant>,
}

/// The right to make one request. Given back on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Limiter>);

impl Limiter {
    pub(crate) fn new(concurrency: u16, rate: Option<RefreshRate>) -> Arc<Self> {
        Arc::new(Self { concurrency, rate, state: Mutex::new(State { taken: 0, debt_until: None }), released: Event::new() })
    }

    /// Whether it has these limits.
    pub(crate) fn is_for(&self, concurrency: u16, rate: Option<RefreshRate>) -> bool {
        self.concurrency == concurrency && self.rate == rate
    }

    /// Hears of the next permit that is given back.
    pub(crate) fn released(&self) -> EventListener {
        self.released.listen()
    }

    /// A permit, or after how long to try again; `None` there means when one was [`released`](Self::released).
    pub(crate) fn try_acquire(self: &Arc<Self>, now: Instant) -> Result<Permit, Option<Duration>> {
        let mut state = self.lock();
        if state.taken >= self.concurrency {
            return Err(None);
        }
        if let Some(rate) = self.rate {
            let each = rate.per / rate.requests.max(1);
            let debt_until = state.debt_until.filter(|until| *until > now).unwrap_or(now) + each;
            let wait = debt_until.saturating_duration_since(now + rate.per);
            if !wait.is_zero() {
                return Err(Some(wait));
            }
            state.debt_until = Some(debt_until);
        }
        state.taken += 1;
        Ok(Permit(Arc::clone(self)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        self.0.released.notify(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_at_once_than_allowed() {
        let limiter = Limiter::new(2, None);
        let now = Instant::now();
        let first = limiter.try_acquire(now).unwrap();
        let _second = limiter.try_acquire(now).unwrap();
        assert_eq!(limiter.try_acquire(now).unwrap_err(), None);
        let released = limiter.released();
        drop(first);
        futures_lite::future::block_on(released);
        limiter.try_acquire(now).unwrap();
    }

    #[test]
    fn no_more_in_a_time_than_allowed() {
        let rate = RefreshRate { requests: 10, per: Duration::from_secs(600) };
        let limiter = Limiter::new(100, Some(rate));
        let start = Instant::now();
        // The bucket is full at first, then one comes free each minute.
        let mut given = 0;
        for second in 0..3_600 {
            while limiter.try_acquire(start + Duration::from_secs(second)).is_ok() {
                given += 1;
            }
        }
        assert_eq!(given, 10 + 59);
        let wait = limiter.try_acquire(start + Duration::from_secs(3_599)).unwrap_err().unwrap();
        assert_eq!(wait, Duration::from_secs(1));
    }
}
