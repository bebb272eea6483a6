//! Reads on the calling thread meet what a committer has applied and not synced yet. They wait until it is durable, so that
//! nothing is ever shown, or decided on, that a power cut could take back.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::core::locked;
use super::watchdog::Ticket;

/// Lets a reader wait until what it may have read is durable. Who reads another tree than those that are being written does not wait.
#[derive(Default)]
pub(super) struct Settling {
    applying: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    trees: BTreeSet<Vec<u8>>,
    readers: Vec<Ticket<()>>,
}

impl Settling {
    /// From now on reads of these trees may meet what is not durable.
    pub(super) fn begin(&self, trees: impl Iterator<Item = Vec<u8>>) {
        let mut state = locked(&self.state);
        state.trees.extend(trees);
        self.applying.store(true, Ordering::SeqCst);
    }

    /// Whether a read of a tree, or of any if none is named, that ends now may have met what is not durable.
    pub(super) fn is_applying(&self, tree: Option<&[u8]>) -> bool {
        self.applying.load(Ordering::SeqCst) && concerns(&locked(&self.state), tree)
    }

    /// Leaves a ticket that is answered when what is being applied to the tree now is durable.
    pub(super) fn wait(&self, tree: Option<&[u8]>, ticket: Ticket<()>) {
        let mut state = locked(&self.state);
        // Checked again under the lock that `settle` takes, so that no ticket is left behind.
        if concerns(&state, tree) {
            state.readers.push(ticket);
        } else {
            drop(state);
            ticket.answer(Ok(()));
        }
    }

    /// Everything that was applied is durable.
    pub(super) fn settle(&self) {
        let readers = {
            let mut state = locked(&self.state);
            self.applying.store(false, Ordering::SeqCst);
            state.trees.clear();
            std::mem::take(&mut state.readers)
        };
        readers.into_iter().for_each(|ticket| ticket.answer(Ok(())));
    }
}

fn concerns(state: &State, tree: Option<&[u8]>) -> bool {
    tree.map_or(!state.trees.is_empty(), |tree| state.trees.contains(tree))
}
