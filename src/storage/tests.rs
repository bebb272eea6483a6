//! One suite for all engines.

use super::AnchorSeal;

/// A seal without a key, for tests.
pub(super) struct TestSeal;

impl AnchorSeal for TestSeal {
    fn mac(&self, file: &[u8], content: &[u8]) -> [u8; 32] {
        let mut mac = [0; 32];
        for (salt, chunk) in mac.chunks_mut(4).enumerate() {
            let mut hasher = crc32fast::Hasher::new_with_initial(salt as u32 + 1);
            hasher.update(file);
            hasher.update(content);
            chunk.copy_from_slice(&hasher.finalize().to_be_bytes());
        }
        mac
    }
}
