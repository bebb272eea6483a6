//! What the library asks of the machine's memory: lines of it early, and large blocks of it back.
#![allow(unsafe_code, reason = "the instruction and the setting are behind unsafe functions")]

/// The size of a line on the processors that we know.
const LINE: usize = 64;

/// Has `bytes` from `at` on fetched, to be read or written soon, while the processor does something else. With ten thousand accounts at work
/// none of what one of them needs is in a cache, and each line takes about as long to come as the cipher takes for a token.
///
/// Nothing is read that the program sees: the memory may be anybody's or nobody's.
#[inline]
pub(crate) fn fetch(at: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        fetch_line(at.wrapping_add(line * LINE));
    }
}

#[inline]
fn fetch_line(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which does not fault whatever the address is.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Has the C library take blocks of 2 MiB and more from the system, and give them back when they are freed. Once for the process; does
/// nothing but on Linux with glibc.
///
/// sled asks for 6 MiB of zeros for each database that is opened and uses a few pages of them. Fresh from the system they cost nothing until
/// they are used. glibc moves its limit up whenever such a block is freed, so from the first database that is closed on it would take them from
/// what was used before and write all the zeros: three times as much memory as an open shard takes for itself.
pub(crate) fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    {
        const LARGE_BYTES: i32 = 2 << 20;
        // Nor may the end of the heap have so much. Told nothing, glibc would keep 128 KiB there once the other limit is fixed.
        const KEPT_BYTES: i32 = LARGE_BYTES;
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: takes two numbers and malloc's own lock. Values that it does not take leave everything as it was.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
                libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
            }
        });
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu", not(miri)))]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// How many pages of a buffer are there, by the system's account (`pagemap`: eight bytes for each page, the highest bit says so).
    fn pages(buffer: &[u8]) -> std::io::Result<usize> {
        const PAGE: usize = 4096;
        let first = buffer.as_ptr().addr() / PAGE;
        let mut entries = vec![0; buffer.len() / PAGE * 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first as u64 * 8)?;
        Ok(entries.chunks(8).filter(|entry| entry[7] & 0x80 != 0).count())
    }

    const RETURNED: &str = "ANCHORHOLD_TEST_BLOCKS_RETURNED";

    #[test]
    #[ignore = "started by the test below, in a process of its own: what others freed counts too"]
    fn zeros_take_no_memory() {
        if std::env::var_os(RETURNED).is_some() {
            return_large_blocks();
        }
        for _ in 0..3 {
            let mut buffer = vec![0_u8; 4 << 20];
            let untouched = pages(&buffer).unwrap();
            assert!(untouched < 100, "{untouched} pages");
            buffer.fill(1);
            assert!(pages(&buffer).unwrap() > 1000);
        }
    }

    #[test]
    fn zeros_that_nobody_touched_take_no_memory_after_others_were_freed() {
        let run = |returned: bool| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--ignored", "--exact", "memory::tests::zeros_take_no_memory"]);
            if returned {
                child.env(RETURNED, "1");
            }
            let output = child.output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (passed, told) = run(true);
        assert!(passed && told.contains("1 passed"), "{told}");
        let (passed, told) = run(false);
        assert!(!passed && told.contains("1024 pages"), "the control: {told}");
    }

    #[test]
    fn any_address_may_be_fetched() {
        for at in [0, 1, usize::MAX - 3] {
            fetch(std::ptr::without_provenance(at), 200);
        }
    }
}
