//! Leaving nothing behind: the stack that secret work used, and comparisons that take the same time wherever bytes differ.
//!
//! Keys live on the heap or in locked pages and wipe themselves; what a cipher or a hash spills onto the stack while it works
//! does not. Everything in this crate that hands a key to a primitive does so inside [`wiping_stack`].

use std::cell::Cell;

use zeroize::zeroize_stack;

use super::registers;

/// How much stack one call into a primitive may use, with room to spare: the scan in `scan.rs` still finds keys when 1.5 KiB are
/// wiped (3 KiB without optimisation), and none from 2 KiB (4 KiB) on. Wiping 4 KiB takes 40 ns.
pub(crate) const PRIMITIVE_STACK: usize = if cfg!(debug_assertions) { 16 * 1024 } else { 4 * 1024 };

thread_local! {
    /// The stack that is going to be wiped when the work under way ends.
    static EXPECTED: Cell<Range> = const { Cell::new(Range { bottom: 0, top: 0 }) };
}

/// Addresses of a piece of stack.
#[derive(Clone, Copy)]
struct Range {
    bottom: usize,
    top: usize,
}

impl Range {
    /// What [`zeroize_stack`] is taken to leave of its range: its own return address and saved registers, twice over.
    const SLACK: usize = 256;

    fn holds(self, other: Self) -> bool {
        self.bottom + Self::SLACK <= other.bottom && other.top <= self.top
    }
}

/// Runs `work` in a stack frame of its own and overwrites `BYTES` of the stack below this call afterwards, also when `work`
/// panics. Inside other work whose wiping covers the same stack, that is left to the end of the other work.
///
/// # Security
/// - `BYTES` must cover what `work` uses; deeper frames stay as they are.
/// - A secret must leave through a heap buffer that `work` was given, never inline in `R`.
/// - Vector registers are cleared too: a thread that goes to sleep keeps them, and a core dump shows them. General ones are not;
///   they are reused within nanoseconds.
pub(crate) fn wiping_stack<const BYTES: usize, R>(work: impl FnOnce() -> R) -> R {
    let top = stack_pointer();
    let range = Range { bottom: top.saturating_sub(BYTES), top };
    // Without thread-local storage, while a thread ends, everything wipes for itself.
    let outer = EXPECTED.try_with(Cell::get).unwrap_or(Range { bottom: 0, top: 0 });
    if outer.holds(range) {
        return own_frame(work);
    }
    let _expected = EXPECTED.try_with(|expected| expected.set(range));
    let _wiper = Wiper::<BYTES> { outer };
    own_frame(work)
}

/// About where the caller's frame ends: an address right below it.
#[inline(never)]
fn stack_pointer() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(std::hint::black_box(&here)).addr()
}

/// Inlined into the caller, `work` would use the caller's own frame, above what is wiped.
#[inline(never)]
fn own_frame<R>(work: impl FnOnce() -> R) -> R {
    work()
}

struct Wiper<const BYTES: usize> {
    outer: Range,
}

impl<const BYTES: usize> Drop for Wiper<BYTES> {
    // A frame between here and the wiped buffer would leave that many bytes of the finished work untouched.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "an additional frame would shift the wiped range")]
    fn drop(&mut self) {
        let _restored = EXPECTED.try_with(|expected| expected.set(self.outer));
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
    fn work_inside_other_work_is_wiped_by_the_outer_one_if_that_reaches_so_far_down_and_by_itself_if_not() {
        const PAGES: usize = 64 * 1024;
        assert_eq!(left::<{ 4 * PAGES }, PAGES>(), (true, false));
        assert_eq!(left::<1024, PAGES>(), (false, false));
        assert_eq!(left::<PAGES, PAGES>(), (false, false), "as much in a deeper frame reaches further down");
    }

    #[test]
    fn equality_is_of_all_bytes_and_of_the_length() {
        assert!(eq(b"same", b"same"));
        assert!(!eq(b"same", b"sama"));
        assert!(!eq(b"same", b"same "));
        assert!(eq(b"", b""));
    }
}
