//! Counts who is inside and closes behind the last one: the bound of a mailbox, and the door that passivation shuts.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use event_listener::{Event, listener};

const CLOSED: usize = 1 << (usize::BITS - 1);

/// A counted door. `word` holds the number inside and, in its highest bit, whether the door is closed to newcomers.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Gate {
    word: AtomicUsize,
    empty: Event,
    gone: AtomicBool,
    left: Event,
}

/// Why a gate lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many as allowed are inside.
    Full,
    /// It is closed for good; wait until what is behind it is gone.
    Closed,
}

/// What has a gate: a pass keeps all of it.
pub(crate) trait Gated {
    fn gate(&self) -> &Gate;
}

impl Gated for Gate {
    fn gate(&self) -> &Gate {
        self
    }
}

/// One place inside, given back on drop.
#[derive(Debug)]
pub(crate) struct Pass<G: Gated = Gate>(Arc<G>);

impl<G: Gated> Pass<G> {
    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn enter(inside: &Arc<G>, limit: usize) -> Result<Self, Refused> {
        let entered = inside
            .gate()
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word & CLOSED == 0 && word < limit).then_some(word + 1));
        match entered {
            Ok(_) => Ok(Self(Arc::clone(inside))),
            Err(word) if word & CLOSED == 0 => Err(Refused::Full),
            Err(_) => Err(Refused::Closed),
        }
    }
}

impl<G: Gated> Pass<G> {
    /// What the place is in.
    pub(crate) fn all(&self) -> &Arc<G> {
        &self.0
    }
}

impl Gate {
    /// Closes the gate if nobody is inside.
    pub(crate) fn close_if_empty(&self) -> bool {
        self.word.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Closes the gate to newcomers and waits until everybody has left.
    pub(crate) async fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
        while self.word.load(Ordering::Acquire) != CLOSED {
            listener!(self.empty => leaving);
            if self.word.load(Ordering::Acquire) == CLOSED {
                return;
            }
            leaving.await;
        }
    }

    /// Says that what was behind the gate is gone, and wakes those who wait for it.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.left.notify(usize::MAX);
    }

    /// Waits for [`set_gone`](Self::set_gone).
    pub(crate) async fn wait_gone(&self) {
        while !self.gone.load(Ordering::Acquire) {
            listener!(self.left => left);
            if self.gone.load(Ordering::Acquire) {
                return;
            }
            left.await;
        }
    }
}

impl<G: Gated> Deref for Pass<G> {
    type Target = G;

    fn deref(&self) -> &G {
        &self.0
    }
}

impl<G: Gated> Drop for Pass<G> {
    fn drop(&mut self) {
        let gate = self.0.gate();
        if gate.word.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            gate.empty.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts_refuses_and_closes() {
        let gate = Arc::new(Gate::default());
        let first = Pass::enter(&gate, 2).unwrap();
        let second = Pass::enter(&gate, 2).unwrap();
        assert_eq!(Pass::enter(&gate, 2).unwrap_err(), Refused::Full);
        assert!(!gate.close_if_empty());
        drop(first);
        let closing = {
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || futures_lite::future::block_on(gate.close()))
        };
        while Pass::enter(&gate, 9).map(drop).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(Pass::enter(&gate, 9).unwrap_err(), Refused::Closed);
        assert!(!closing.is_finished());
        drop(second);
        closing.join().unwrap();
        assert!(!gate.close_if_empty(), "it is closed already");
    }
}
