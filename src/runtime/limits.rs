//! How often and how many at once each provider is asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::select;

use crate::domain::oauth::profile::RefreshProfile;
use crate::ids::{Environment, ProviderName};
use crate::oauth::limiter::{Limiter, Permit};

/// The limiters of one vault.
#[derive(Default)]
pub(crate) struct Limits {
    limiters: Mutex<HashMap<(Environment, ProviderName), Arc<Limiter>>>,
}

impl Limits {
    /// Waits for a place among those that ask the provider at once; `None` when there is none within `patience`, or when the rate
    /// allows none within it.
    pub(crate) async fn acquire(
        &self,
        environment: Environment,
        provider: &ProviderName,
        profile: &RefreshProfile,
        patience: Duration,
    ) -> Option<Permit> {
        let limiter = self.limiter(environment, provider, profile);
        let until = Instant::now() + patience;
        loop {
            let released = limiter.released();
            let now = Instant::now();
            match limiter.try_acquire(now) {
                Ok(permit) => return Some(permit),
                Err(wait) => {
                    let left = until.saturating_duration_since(now);
                    if left.is_zero() || wait.is_some_and(|wait| wait > left) {
                        return None;
                    }
                    drop(select(Box::pin(actix::clock::sleep(wait.unwrap_or(left).min(left))), released).await);
                }
            }
        }
    }

    fn limiter(&self, environment: Environment, provider: &ProviderName, profile: &RefreshProfile) -> Arc<Limiter> {
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = limiters.entry((environment, provider.clone()));
        let make = || Limiter::new(profile.concurrency(), profile.rate());
        let limiter = entry.or_insert_with(make);
        // The settings may have changed since.
        if !limiter.is_for(profile.concurrency(), profile.rate()) {
            *limiter = make();
        }
        Arc::clone(limiter)
    }
}
