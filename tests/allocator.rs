//! No block goes back to the system with anything in it. Under this whole test binary, the threads of a vault included, lies an
//! allocator that looks at each block which is given back; above it, the one that wipes.
#![allow(unsafe_code, reason = "an allocator that looks into freed blocks")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use anchorhold::{SessionOptions, ZeroizingAllocator};
use common::{Host, block_on, revealed};
use proptest::prelude::*;

#[global_allocator]
static WIPING: ZeroizingAllocator<Inspector> = ZeroizingAllocator::wrapping(Inspector);

static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);
static WITH_CONTENT: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which looks at what it gets back.
struct Inspector;

// SAFETY: everything is passed on to `System` as it came; blocks are only read before, while they are still whole.
unsafe impl GlobalAlloc for Inspector {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller. Filled, so that a block which was never written to counts as one with content.
        unsafe {
            let block = System.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0xa5, layout.size());
            }
            block
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `alloc` and `alloc_zeroed` initialise every byte.
        let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
        GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
        if bytes.iter().any(|byte| *byte != 0) {
            WITH_CONTENT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, _: *mut u8, _: Layout, _: usize) -> *mut u8 {
        unreachable!("the system's own realloc would leave the old block as it was")
    }
}

fn nothing_was_left() {
    assert_eq!(WITH_CONTENT.load(Ordering::Relaxed), 0, "of {} blocks", GIVEN_BACK.load(Ordering::Relaxed));
}

/// The control: what is not wiped is noticed. It looks at a block of its own, so that the count of the others stays zero.
#[test]
fn block_that_is_not_wiped_would_be_noticed() {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let layout = Layout::from_size_align(64, 8).unwrap();
    // SAFETY: a block of this layout, initialised by `alloc`, given back once.
    unsafe {
        let block = Inspector.alloc(layout);
        let bytes = std::slice::from_raw_parts(block, 64);
        SEEN.store(bytes.iter().filter(|byte| **byte != 0).count(), Ordering::Relaxed);
        System.dealloc(block, layout);
    }
    assert_eq!(SEEN.load(Ordering::Relaxed), 64);
}

#[test]
fn collections_of_every_size_and_alignment_leave_nothing() {
    #[repr(align(64))]
    struct Wide(#[expect(dead_code, reason = "it is there to be wiped")] [u8; 100]);
    #[repr(align(8192))]
    struct Page(#[expect(dead_code, reason = "it is there to be wiped")] u8);

    let before = GIVEN_BACK.load(Ordering::Relaxed);
    // Types without a size never reach an allocator.
    drop(vec![(); 1_000]);
    drop(Box::new([0u64; 0]));
    let mut growing = String::new();
    for letter in ('a'..='z').cycle().take(100_000) {
        growing.push(letter);
    }
    growing.truncate(10);
    growing.shrink_to_fit();
    assert_eq!(growing, "abcdefghij");
    drop((0..100).map(|_| Wide([7; 100])).collect::<Vec<_>>());
    drop((0..3).map(|_| Box::new(Page(7))).collect::<Vec<_>>());
    drop(growing);
    assert!(GIVEN_BACK.load(Ordering::Relaxed) > before + 20);
    nothing_was_left();
}

#[test]
fn a_vault_at_work_leaves_nothing() {
    let before = GIVEN_BACK.load(Ordering::Relaxed);
    block_on(async {
        let host = Host::new().await;
        let (account, connection) = host.customer("acme", "secret of acme").await;
        assert_eq!(revealed(&connection).await.unwrap(), "secret of acme");
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        host.vault.session(&minted.token).await.unwrap();
        host.vault.close().await.unwrap();
    });
    assert!(GIVEN_BACK.load(Ordering::Relaxed) > before + 1_000);
    nothing_was_left();
}

/// One thing that is asked of an allocator.
#[derive(Clone, Debug)]
enum Ask {
    Alloc { size: usize, align: usize, zeroed: bool },
    Realloc { which: usize, size: usize },
    Dealloc { which: usize },
}

/// A block, and what the model says is in it.
struct Block {
    at: *mut u8,
    layout: Layout,
    expected: Vec<u8>,
}

impl Block {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: a block of this layout that nobody else has, initialised by the allocator below or by `fill`.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.layout.size()) }
    }

    fn fill(&mut self, with: u8) {
        self.bytes().fill(with);
        self.expected = vec![with; self.layout.size()];
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    let size = prop_oneof![1usize..64, 1usize..5_000, Just(200_000usize)];
    prop_oneof![
        (size.clone(), 0u32..14, any::<bool>()).prop_map(|(size, align, zeroed)| Ask::Alloc { size, align: 1 << align, zeroed }),
        (any::<usize>(), size).prop_map(|(which, size)| Ask::Realloc { which, size }),
        any::<usize>().prop_map(|which| Ask::Dealloc { which }),
    ]
}

proptest! {
    #[test]
    fn blocks_hold_what_a_model_says_and_are_zero_when_given_back(asks in proptest::collection::vec(ask(), 1..60)) {
        let mut blocks: Vec<Block> = Vec::new();
        for (number, ask) in asks.into_iter().enumerate() {
            let with = number as u8 | 1;
            match ask {
                Ask::Alloc { size, align, zeroed } => {
                    let layout = Layout::from_size_align(size, align).unwrap();
                    // SAFETY: the size is not zero.
                    let at = unsafe { if zeroed { WIPING.alloc_zeroed(layout) } else { WIPING.alloc(layout) } };
                    prop_assert!(!at.is_null() && at.addr().is_multiple_of(align));
                    let mut block = Block { at, layout, expected: Vec::new() };
                    prop_assert!(!zeroed || block.bytes().iter().all(|byte| *byte == 0));
                    block.fill(with);
                    blocks.push(block);
                }
                Ask::Realloc { which, size } if !blocks.is_empty() => {
                    let which = which % blocks.len();
                    let block = &mut blocks[which];
                    // SAFETY: a block of this layout, and a size that is not zero.
                    block.at = unsafe { WIPING.realloc(block.at, block.layout, size) };
                    block.layout = Layout::from_size_align(size, block.layout.align()).unwrap();
                    prop_assert!(!block.at.is_null() && block.at.addr().is_multiple_of(block.layout.align()));
                    let kept = block.expected.len().min(size);
                    let expected = block.expected[..kept].to_vec();
                    prop_assert_eq!(&block.bytes()[..kept], &expected[..]);
                    block.fill(with);
                }
                Ask::Dealloc { which } if !blocks.is_empty() => {
                    let which = which % blocks.len();
                    give_back(blocks.swap_remove(which))?;
                }
                Ask::Realloc { .. } | Ask::Dealloc { .. } => {}
            }
        }
        for block in blocks {
            give_back(block)?;
        }
        nothing_was_left();
    }
}

fn give_back(mut block: Block) -> Result<(), TestCaseError> {
    let expected = std::mem::take(&mut block.expected);
    prop_assert_eq!(block.bytes(), &expected[..], "blocks overlap");
    // SAFETY: the block is given back once, with its layout.
    unsafe { WIPING.dealloc(block.at, block.layout) };
    Ok(())
}
