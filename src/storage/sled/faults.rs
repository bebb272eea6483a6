//! Failures of the disk that a test asks for. Outside tests this is empty and costs nothing.

use std::io;
#[cfg(any(test, feature = "testing"))]
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Lets a chosen write of a vault to the disk fail or hang. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct StorageFaults {
    #[cfg(any(test, feature = "testing"))]
    plan: Arc<Mutex<Plan>>,
}

#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Default)]
struct Plan {
    flushes: u64,
    fail_flush_at: Option<u64>,
    settlings: u64,
    fail_settling_at: Option<u64>,
    syncs: u64,
    fail_at: Option<u64>,
    stall_at: Option<(u64, Duration)>,
    stall_anchor: Option<Duration>,
    /// The step of a shard's rewriting after which it stops as if the process had died.
    stop_rewriting_after: Option<u8>,
    /// The same for rebuilding the directory.
    stop_rebuilding_after: Option<u8>,
}

impl StorageFaults {
    /// Called before the commit log is synced.
    pub(super) fn before_sync(&self) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.syncs += 1;
            let now = plan.syncs;
            let stall = plan.stall_at.take_if(|(at, _)| *at == now);
            let fail = plan.fail_at.take_if(|at| *at == now);
            drop(plan);
            if let Some((_, duration)) = stall {
                std::thread::sleep(duration);
            }
            if fail.is_some() {
                return Err(io::Error::other("a failed sync that a test asked for"));
            }
        }
        Ok(())
    }

    /// Called before a database is synced that follows the commit log.
    pub(super) fn before_settling(&self) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.settlings += 1;
            let now = plan.settlings;
            if plan.fail_settling_at.take_if(|at| *at == now).is_some() {
                return Err(io::Error::other("a failed sync that a test asked for"));
            }
        }
        Ok(())
    }

    /// Called before a committer flushes a database.
    pub(super) fn before_flush(&self) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.flushes += 1;
            let now = plan.flushes;
            if plan.fail_flush_at.take_if(|at| *at == now).is_some() {
                return Err(io::Error::other("a failed flush that a test asked for"));
            }
        }
        Ok(())
    }

    /// Called before an anchor file is written.
    pub(super) fn before_anchor(&self) {
        #[cfg(any(test, feature = "testing"))]
        {
            let stall = self.plan.lock().unwrap_or_else(PoisonError::into_inner).stall_anchor.take();
            if let Some(duration) = stall {
                std::thread::sleep(duration);
            }
        }
    }

    /// Called after each step of a shard's rewriting; an error is where the process is to have died.
    pub(super) fn after_rewriting_step(&self, step: u8) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        {
            let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            if plan.stop_rewriting_after == Some(step) {
                return Err(io::Error::other("a stop that a test asked for"));
            }
        }
        let _ = step;
        Ok(())
    }

    /// Called after each step of putting a rebuilt directory in its place; an error is where the process is to have died.
    pub(super) fn after_rebuilding_step(&self, step: u8) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        {
            let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            if plan.stop_rebuilding_after == Some(step) {
                return Err(io::Error::other("a stop that a test asked for"));
            }
        }
        let _ = step;
        Ok(())
    }
}

#[cfg(any(test, feature = "testing"))]
impl StorageFaults {
    /// Lets the `nth` sync of the commit log from now fail (1 = the next one).
    pub fn fail_nth_sync(&self, nth: u64) {
        self.change(|plan| plan.fail_at = Some(plan.syncs.saturating_add(nth)));
    }

    /// Lets the `nth` sync of a database that follows the commit log fail, from now on (1 = the next one).
    pub fn fail_nth_settling(&self, nth: u64) {
        self.change(|plan| plan.fail_settling_at = Some(plan.settlings.saturating_add(nth)));
    }

    /// Lets the `nth` flush of a database by a committer from now fail (1 = the next one).
    pub fn fail_nth_flush(&self, nth: u64) {
        self.change(|plan| plan.fail_flush_at = Some(plan.flushes.saturating_add(nth)));
    }

    /// Lets the `nth` sync of the commit log from now hang for a while (1 = the next one).
    pub fn stall_nth_sync(&self, nth: u64, duration: Duration) {
        self.change(|plan| plan.stall_at = Some((plan.syncs.saturating_add(nth), duration)));
    }

    /// Lets the next writing of an anchor hang for a while.
    pub fn stall_next_anchor(&self, duration: Duration) {
        self.change(|plan| plan.stall_anchor = Some(duration));
    }

    /// How many times the commit log was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).syncs
    }

    /// Stops the rebuilding of a directory after this step (0 to 3) as if the process had died.
    pub fn stop_rebuilding_after(&self, step: Option<u8>) {
        self.change(|plan| plan.stop_rebuilding_after = step);
    }

    #[cfg(test)]
    pub(super) fn stop_rewriting_after(&self, step: Option<u8>) {
        self.change(|plan| plan.stop_rewriting_after = step);
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
