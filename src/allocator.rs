//! A global allocator that wipes what is given back. Unsafe by its trait; nothing else in the crate depends on it.
#![allow(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait, and wiping a block needs its pointer")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// A global allocator that overwrites every block with zeros before it gives it back: no secret outlives its buffer on the heap.
///
/// # Use case
/// The vault wipes its own copies of a secret whatever the allocator is. HTTP, TLS, JSON and string code does not: a request body,
/// a growing `String`, a parsed answer leave theirs in freed blocks. Installed in the host's binary, this allocator clears those too,
/// in every library of the process that allocates through Rust.
///
/// # About
/// Each block is wiped by a write that the compiler may not remove, over the whole size that was asked for. A block that changes
/// its size is allocated anew, copied and wiped, whether it grows or shrinks, so that neither a moved block nor a cut tail stays
/// behind. The stack, and what C libraries allocate for themselves, are out of its reach.
///
/// **Cost**: one `memset` for each block that is freed, and growing in place is lost: a `realloc` always copies, and holds both
/// blocks for that moment. `cargo bench --bench parts -- allocator` prints what a block costs with and without.
///
/// # Parameters
/// `A` is the allocator underneath, [`System`] unless [`wrapping`](Self::wrapping) says another.
///
/// # Security
/// Wiped is what is freed. A block that is leaked, or still in use, stays as it is.
///
/// # Example
/// ```
/// use anchorhold::ZeroizingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: ZeroizingAllocator = ZeroizingAllocator::new();
///
/// let answer = String::from("access_token=…");
/// drop(answer); // and gone
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroizingAllocator<A = System>(A);

impl ZeroizingAllocator {
    /// On top of the system's allocator.
    #[must_use]
    pub const fn new() -> Self {
        Self(System)
    }
}

impl<A> ZeroizingAllocator<A> {
    /// On top of another allocator.
    ///
    /// ```
    /// use std::alloc::System;
    ///
    /// use anchorhold::ZeroizingAllocator;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: ZeroizingAllocator<System> = ZeroizingAllocator::wrapping(System); // or jemalloc, mimalloc, …
    /// ```
    #[must_use]
    pub const fn wrapping(inner: A) -> Self {
        Self(inner)
    }
}

// SAFETY: blocks come from `A` and go back to it with the layouts that they were asked for; `realloc` does what the trait says, by
// means of the other two. Nothing here unwinds or allocates for itself.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ZeroizingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one that `A` asks for.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up a block of this layout, so its bytes may be written and nobody else looks at them; `A` gets
        // back what it gave.
        unsafe {
            wipe(block, layout.size());
            self.0.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, is a size that a layout may have.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the caller promises that `new_size` is not zero.
        let new = unsafe { self.0.alloc(new_layout) };
        // Out of memory: the old block stays what it was, as the trait asks.
        if !new.is_null() {
            // SAFETY: `new` is a block of its own with `new_size` bytes, `block` has `layout.size()`; after the copy nobody needs
            // the old one, which goes back the way it would have from the caller.
            unsafe {
                ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        new
    }
}

/// Overwrites `size` bytes with zeros.
///
/// # Safety
/// `block` is valid for writes of `size` bytes, and nothing else refers to them.
unsafe fn wipe(block: *mut u8, size: usize) {
    // SAFETY: as this function asks; once written, the bytes are initialised and may be seen as a slice.
    let wiped = unsafe {
        ptr::write_bytes(block, 0, size);
        std::slice::from_raw_parts(block, size)
    };
    // A write that only a `free` follows would be removed; this makes the compiler take it for read.
    zeroize::optimization_barrier(wiped);
}

/// What `scripts/sanitize.sh` must find in this binary: a tool that does not is no witness for the other tests.
#[cfg(test)]
mod controls {
    use std::hint::black_box;

    use super::*;

    const LAYOUT: Layout = Layout::new::<[u64; 8]>();

    #[test]
    #[ignore = "wrong on purpose"]
    fn a_block_is_read_after_it_was_given_back() {
        let allocator = ZeroizingAllocator::new();
        // SAFETY: there is none; the read of a block that was given back is what is to be found.
        unsafe {
            let block = black_box(allocator.alloc(LAYOUT));
            allocator.dealloc(block, LAYOUT);
            black_box(block.add(5).read_volatile());
        }
    }

    #[test]
    #[ignore = "wrong on purpose"]
    fn a_block_is_lost() {
        // SAFETY: the layout is not empty.
        black_box(unsafe { ZeroizingAllocator::new().alloc(LAYOUT) }.addr());
    }
}
