//! Reads on the calling thread meet what a committer has applied and not synced yet. They wait until it is durable, so that
//! nothing is ever shown, or decided on, that a power cut could take back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::core::locked;
use super::watchdog::Ticket;

/// Lets a reader wait until what it may have read is durable.
#[derive(Default)]
pub(super) struct Settling {
    applying: AtomicBool,
    readers: Mutex<Vec<Ticket<()>>>,
}

impl Settling {
    /// From now on reads may meet what is not durable.
    pub(super) fn begin(&self) {
        self.applying.store(true, Ordering::SeqCst);
    }

    /// Whether a read that ends now may have met what is not durable.
    pub(super) fn is_applying(&self) -> bool {
        self.applying.load(Ordering::SeqCst)
    }

    /// Leaves a ticket that is answered when what is being applied now is durable.
    pub(super) fn wait(&self, ticket: Ticket<()>) {
        let mut readers = locked(&self.readers);
        // Checked again under the lock that `settle` takes, so that no ticket is left behind.
        if self.applying.load(Ordering::SeqCst) {
            readers.push(ticket);
        } else {
            ticket.answer(Ok(()));
        }
    }

    /// Everything that was applied is durable.
    pub(super) fn settle(&self) {
        let readers = {
            let mut readers = locked(&self.readers);
            self.applying.store(false, Ordering::SeqCst);
            std::mem::take(&mut *readers)
        };
        readers.into_iter().for_each(|ticket| ticket.answer(Ok(())));
    }
}
