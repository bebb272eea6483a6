//! Leaving nothing behind: the stack that secret work used, and comparisons that take the same time wherever bytes differ.
//!
//! Keys live on the heap or in locked pages and wipe themselves; what a cipher or a hash spills onto the stack while it works
//! does not. Everything in this crate that hands a key to a primitive does so inside [`wiping_stack`].

use zeroize::zeroize_stack;

use super::registers;

/// How much stack one call into a primitive may use, twice over: in release builds the scan in `scan.rs` still finds keys of ring when 2 KiB
/// are wiped, and none from 2.5 KiB on (without optimisation and before ring: 3 and 4 KiB). Wiping 4 KiB takes 40 ns.
pub(crate) const PRIMITIVE_STACK: usize = if cfg!(debug_assertions) { 16 * 1024 } else { 5 * 1024 };

/// The same for [`HChaCha20`](super::aead::hchacha) alone.
pub(super) const MASK_STACK: usize = PRIMITIVE_STACK / 4;

/// Runs `work` in a stack frame of its own and overwrites `BYTES` of the stack below this call afterwards, also when `work`
/// panics.
///
/// # Security
/// - Inside other work it wipes all the same. Were that left to the end of the other work, values that are made meanwhile would lie where a
///   primitive was before, and carry what it left to the heap in the bytes that they don't use (`tests/memory.rs` found pieces of an audit
///   key there).
/// - `BYTES` must cover what `work` uses; deeper frames stay as they are.
/// - A secret must leave through a heap buffer that `work` was given, never inline in `R`.
/// - Vector registers are cleared too: a thread that goes to sleep keeps them, and a core dump shows them. General ones are not;
///   they are reused within nanoseconds.
pub(crate) fn wiping_stack<const BYTES: usize, R>(work: impl FnOnce() -> R) -> R {
    let _wiper = Wiper::<BYTES>;
    own_frame(work)
}

/// Inlined into the caller, `work` would use the caller's own frame, above what is wiped.
#[inline(never)]
fn own_frame<R>(work: impl FnOnce() -> R) -> R {
    work()
}

struct Wiper<const BYTES: usize>;

impl<const BYTES: usize> Drop for Wiper<BYTES> {
    // A frame between here and the wiped buffer would leave that many bytes of the finished work untouched.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "an additional frame would shift the wiped range")]
    fn drop(&mut self) {
        zeroize_stack::<BYTES>();
        registers::clear();
    }
}

/// Compares in constant time. Different lengths are different at once: a length is not a secret here.
pub(crate) fn eq(a: &[u8], b: &[u8]) -> bool {
    orion::util::secure_cmp(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_the_work_returns() {
        assert_eq!(wiping_stack::<1024, _>(|| 7), 7);
    }

    #[test]
    fn a_panic_passes_through() {
        let outcome = std::panic::catch_unwind(|| wiping_stack::<1024, ()>(|| panic!("on purpose")));
        assert!(outcome.is_err());
    }

    /// Leaves a needle on the stack in work inside other work; answers whether it is there when the inner work is done, and when the outer.
    #[inline(never)]
    fn left<const OUTER: usize, const INNER: usize>() -> (bool, bool) {
        let mut place = 0;
        let inner = wiping_stack::<OUTER, _>(|| {
            wiping_stack::<INNER, _>(|| place = leave());
            is_left(place)
        });
        (inner, is_left(place))
    }

    const NEEDLE: [u8; 16] = *b"left on a stack!";

    #[inline(never)]
    fn leave() -> usize {
        let mut deep = [0_u8; 16 * 1024];
        deep[..16].copy_from_slice(&NEEDLE);
        std::ptr::from_ref(std::hint::black_box(&deep)).addr()
    }

    #[cfg(target_os = "linux")]
    fn is_left(place: usize) -> bool {
        use std::os::unix::fs::FileExt as _;

        let mut found = [0; 16];
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut found, place as u64).unwrap();
        found == NEEDLE
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn work_inside_other_work_is_wiped_when_it_ends() {
        const PAGES: usize = 64 * 1024;
        assert_eq!(left::<{ 4 * PAGES }, PAGES>(), (false, false));
        assert_eq!(left::<1024, PAGES>(), (false, false));
        assert_eq!(
            left::<PAGES, 1024>(),
            (true, false),
            "the control: what is deeper than the inner one wipes is the outer one's"
        );
    }

    #[test]
    fn equality_is_of_all_bytes_and_of_the_length() {
        assert!(eq(b"same", b"same"));
        assert!(!eq(b"same", b"sama"));
        assert!(!eq(b"same", b"same "));
        assert!(eq(b"", b""));
    }
}
