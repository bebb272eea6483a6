//! The list of accounts whose notes the journal is to take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::runtime::desk::Desk;

/// Parts of the list, so that threads rarely meet at a lock.
const PARTS: usize = 16;

/// The accounts whose notes the journal is to take.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    parts: [Mutex<Vec<Arc<Desk>>>; PARTS],
    /// Whether somebody is going to take them.
    expected: AtomicBool,
}

impl Listed {
    /// Adds an account. True when nobody is going to take it yet: the caller sees to it.
    pub(crate) fn add(&self, desk: &Arc<Desk>) -> bool {
        // Read first, which is cheaper: whoever takes the list says so before it takes the notes, so that a note which comes too late
        // for that finds the account not listed.
        if desk.listed.load(Ordering::Acquire) || desk.listed.swap(true, Ordering::AcqRel) {
            return false;
        }
        let part = usize::from(desk.handle.as_bytes()[9]) % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(desk));
        // Read first here too. Whoever ends says so before it looks at this part, whose lock is between the two: if it did not find what was
        // pushed, what it said is seen here.
        !self.expected.load(Ordering::Acquire) && !self.expected.swap(true, Ordering::AcqRel)
    }

    /// Takes all; each is added anew by its next note.
    pub(crate) fn take(&self) -> Vec<Arc<Desk>> {
        let mut taken = Vec::new();
        for part in &self.parts {
            taken.append(&mut part.lock().unwrap_or_else(PoisonError::into_inner));
        }
        for desk in &taken {
            desk.listed.store(false, Ordering::Release);
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
    use crate::ids::{AccountHandle, ShardId};

    #[test]
    fn each_is_listed_once_until_taken_and_only_the_first_has_to_see_to_it() {
        let listed = Listed::default();
        let [one, two] = [1, 2].map(|byte| Arc::new(Desk::new(AccountHandle::from_bytes([byte; 16]), ShardId(0), [0; 32], 0)));
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
