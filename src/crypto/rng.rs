//! Random bytes: a generator of the thread for what is public once used (nonces, identifiers), and the operating system
//! for what stays secret (keys).

use std::cell::RefCell;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

use super::locked::fork_epoch;

/// After so many bytes a generator takes a new seed.
const RESEED_AFTER: usize = 1 << 20;

thread_local! {
    static GENERATOR: RefCell<Option<Generator>> = const { RefCell::new(None) };
}

/// Fills `out` with unpredictable bytes that will be public: nonces and identifiers. 25 times cheaper than a system call.
///
/// # Security
/// The generator is seeded by the operating system in each thread, again after 1 MiB, and again in a forked child, which
/// would otherwise repeat its parent's nonces.
pub(crate) fn fill(out: &mut [u8]) {
    let done = GENERATOR.try_with(|slot| match slot.try_borrow_mut() {
        Ok(mut slot) => {
            let epoch = fork_epoch();
            if slot.as_ref().is_none_or(|generator| generator.is_stale(epoch)) {
                *slot = Some(Generator::new(epoch));
            }
            slot.as_mut().is_some_and(|generator| generator.fill(out))
        }
        Err(_) => false,
    });
    // While a thread ends, its generator may be gone already.
    if !matches!(done, Ok(true)) {
        fill_secret(out);
    }
}

/// Fills `out` with bytes that stay secret (keys, the secret part of an API key) straight from the operating system.
///
/// # Panics
/// When the operating system has no randomness. Nothing can be sealed safely without, and no fallback would be honest.
pub(crate) fn fill_secret(out: &mut [u8]) {
    if let Err(error) = getrandom::fill(out) {
        panic!("the operating system gives no random bytes: {error}");
    }
}

struct Generator {
    stream: ChaCha20Rng,
    left: usize,
    epoch: u64,
}

impl Generator {
    fn new(epoch: u64) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        fill_secret(&mut *seed);
        Self { stream: ChaCha20Rng::from_seed(*seed), left: RESEED_AFTER, epoch }
    }

    fn is_stale(&self, epoch: u64) -> bool {
        self.left == 0 || self.epoch != epoch
    }

    fn fill(&mut self, out: &mut [u8]) -> bool {
        self.stream.fill_bytes(out);
        self.left = self.left.saturating_sub(out.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_fills_are_equal_within_and_across_threads() {
        let draw = || {
            (0..1000)
                .map(|_| {
                    let mut bytes = [0; 24];
                    fill(&mut bytes);
                    bytes
                })
                .collect::<Vec<_>>()
        };
        let handles: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let all: Vec<_> = handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4000);
    }

    #[test]
    fn a_generator_is_replaced_when_used_up_or_in_another_process() {
        let mut generator = Generator::new(1);
        assert!(!generator.is_stale(1));
        assert!(generator.is_stale(2), "a forked child must not repeat its parent's nonces");
        let mut block = vec![0; RESEED_AFTER];
        generator.fill(&mut block);
        assert!(generator.is_stale(1));
    }
}
