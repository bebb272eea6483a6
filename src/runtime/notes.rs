//! One account's notes that its audit does not have yet, shared by its actor and by those who note something on threads of their
//! own; and the list of accounts whose notes the journal is to take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::audit::NewEntry;
use crate::ids::{AccountHandle, ShardId};
use crate::runtime::pending::Pending;

/// Parts of the list, so that threads rarely meet at a lock.
const PARTS: usize = 16;

/// One account's notes.
#[derive(Debug)]
pub(crate) struct Notes {
    pub(crate) handle: AccountHandle,
    pub(crate) shard: ShardId,
    pending: Mutex<Pending>,
    /// On the list of those whose notes the journal is to take.
    listed: AtomicBool,
}

impl Notes {
    pub(crate) fn new(handle: AccountHandle, shard: ShardId) -> Arc<Self> {
        Arc::new(Self { handle, shard, pending: Mutex::default(), listed: AtomicBool::new(false) })
    }

    /// What waits. Held for a few steps only, never over an `await`.
    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry; answers how many wait.
    pub(crate) fn note(&self, entry: NewEntry) -> usize {
        let mut pending = self.pending();
        pending.note(entry);
        pending.len()
    }
}

/// The accounts whose notes the journal is to take.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    parts: [Mutex<Vec<Arc<Notes>>>; PARTS],
    /// Whether somebody is going to take them.
    expected: AtomicBool,
}

impl Listed {
    /// Adds an account. True when nobody is going to take it yet: the caller sees to it.
    pub(crate) fn add(&self, notes: &Arc<Notes>) -> bool {
        // Read first, which is cheaper: whoever takes the list says so before it takes the notes, so that a note which comes too late
        // for that finds the account not listed.
        if notes.listed.load(Ordering::Acquire) || notes.listed.swap(true, Ordering::AcqRel) {
            return false;
        }
        let part = usize::from(notes.handle.as_bytes()[9]) % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(notes));
        !self.expected.swap(true, Ordering::AcqRel)
    }

    /// Takes all; each is added anew by its next note.
    pub(crate) fn take(&self) -> Vec<Arc<Notes>> {
        let mut taken = Vec::new();
        for part in &self.parts {
            taken.append(&mut part.lock().unwrap_or_else(PoisonError::into_inner));
        }
        for notes in &taken {
            notes.listed.store(false, Ordering::Release);
        }
        taken
    }

    /// Says that nobody is going to take more. False when some were added meanwhile: the caller goes on.
    pub(crate) fn end(&self) -> bool {
        self.expected.store(false, Ordering::Release);
        let empty = self.parts.iter().all(|part| part.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        empty || self.expected.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_listed_once_until_taken_and_only_the_first_has_to_see_to_it() {
        let listed = Listed::default();
        let [one, two] = [1, 2].map(|byte| Notes::new(AccountHandle::from_bytes([byte; 16]), ShardId(0)));
        assert!(listed.add(&one));
        assert!(!listed.add(&one) && !listed.add(&two));
        assert_eq!(listed.take().len(), 2);
        assert!(!listed.add(&one), "whoever took them goes on until the end");
        assert!(!listed.end(), "there is one more");
        assert_eq!(listed.take().len(), 1);
        assert!(listed.end());
        assert!(listed.add(&two));
    }
}
