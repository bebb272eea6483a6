//! Maps and sets by the handles of accounts.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use crate::ids::AccountHandle;

/// A map whose hash is a part of the handle. For handles only that a vault drew at random, so that no caller can make them meet.
pub(crate) type HandleMap<T> = HashMap<AccountHandle, T, BuildHasherDefault<HandleHasher>>;

/// A set of what knows the handle of its account. It has a pointer for each and nothing else, so that more of it stays in the processor's
/// caches than of a map, which has the handles as well.
pub(crate) type HandleSet<T> = HashSet<ByHandle<T>, BuildHasherDefault<HandleHasher>>;

/// What knows the handle of its account, and is found by it.
pub(crate) trait OfAccount {
    fn handle(&self) -> &AccountHandle;
}

/// Is equal to what has the same handle.
#[derive(Debug)]
pub(crate) struct ByHandle<T>(pub(crate) Arc<T>);

impl<T: OfAccount> Borrow<AccountHandle> for ByHandle<T> {
    fn borrow(&self) -> &AccountHandle {
        self.0.handle()
    }
}

impl<T: OfAccount> Hash for ByHandle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.handle().hash(state);
    }
}

impl<T: OfAccount> PartialEq for ByHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.handle() == other.0.handle()
    }
}

impl<T: OfAccount> Eq for ByHandle<T> {}

/// Takes eight bytes of a handle for its hash.
#[derive(Default)]
pub(crate) struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    /// The length of a handle, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(AccountHandle, u8);

    impl OfAccount for Named {
        fn handle(&self) -> &AccountHandle {
            &self.0
        }
    }

    /// Handles that end alike have one hash.
    #[test]
    fn what_has_the_same_hash_is_told_apart_by_the_whole_handle() {
        let handle = |first: u8| AccountHandle::from_bytes(std::array::from_fn(|at| if at == 0 { first } else { 7 }));
        let mut set = HandleSet::default();
        assert!(set.insert(ByHandle(Arc::new(Named(handle(1), 1)))));
        assert!(set.insert(ByHandle(Arc::new(Named(handle(2), 2)))));
        assert!(!set.insert(ByHandle(Arc::new(Named(handle(2), 3)))), "one for each handle");
        let found = |set: &HandleSet<Named>, first| set.get(&handle(first)).map(|ByHandle(named)| named.1);
        assert_eq!([1, 2, 3].map(|first| found(&set, first)), [Some(1), Some(2), None]);
        assert!(set.remove(&handle(1)));
        assert_eq!([1, 2].map(|first| found(&set, first)), [None, Some(2)]);
    }
}
