//! Maps by the handles of accounts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::ids::AccountHandle;

/// A map whose hash is a part of the handle. For handles only that a vault drew at random, so that no caller can make them meet.
pub(crate) type HandleMap<T> = HashMap<AccountHandle, T, BuildHasherDefault<HandleHasher>>;

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
