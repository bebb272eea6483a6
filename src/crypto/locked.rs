//! Memory for the keys that live as long as a vault is open. `tests/layering.rs` lists the files
//! that may hold `unsafe` code; this is one.
//!
//! In order of preference:
//! 1. `memfd_secret` pages: taken out of the kernel's own map, so that no `/proc/self/mem`, core dump, swap or other process
//!    can read them. Linux 5.14 or newer (6.5 or newer without a boot parameter).
//! 2. ordinary pages that are locked against swapping and left out of core dumps. Any Unix; on Linux they also read as zeros
//!    in a forked child.
//! 3. ordinary memory, where the system allows neither. [`LockKind`] tells the operator.
//!
//! A page without any access lies on either side, so that an overrun faults instead of reading keys. The keys are overwritten
//! when dropped.
//!
//! **Fork.** A child that is forked off without `exec` has no use for an open vault (its threads don't exist there) and gets no
//! keys: secret pages are not inherited, other ones read as zeros (on Linux), and [`LockedKeys::keys`] panics instead of
//! touching either.
#![allow(unsafe_code, reason = "the operating system's memory calls; everything else builds on the safe types of this file")]

use std::fmt;

use zeroize::Zeroize;

use super::derive::KEY_BYTES;

/// How the memory that holds a vault's root subkeys is protected. Part of the vault's status.
///
/// ```
/// use anchorhold::LockKind;
/// assert_eq!(LockKind::Mlock.to_string(), "locked against swapping (mlock)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockKind {
    /// `memfd_secret`: not readable through `/proc/self/mem`, a core dump or the kernel's memory map, never swapped.
    MemfdSecret,
    /// `mlock`: never swapped and left out of core dumps, but readable for a debugger.
    Mlock,
    /// Ordinary memory, since the system allows neither: raise the limit of locked memory (`ulimit -l`), 64 KiB is enough.
    Unlocked,
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockKind::MemfdSecret => "secret memory (memfd_secret)",
            LockKind::Mlock => "locked against swapping (mlock)",
            LockKind::Unlocked => "ordinary memory: raise the limit of locked memory (ulimit -l)",
        })
    }
}

/// A fixed number of keys in protected memory, all zero at first.
pub(crate) struct LockedKeys {
    memory: Memory,
    count: usize,
    epoch: u64,
}

impl LockedKeys {
    /// Memory for `count` keys, protected as well as the system allows.
    pub(crate) fn zeroed(count: usize) -> Self {
        Self::within(count, LockKind::MemfdSecret)
    }

    /// How these keys are protected.
    pub(crate) fn kind(&self) -> LockKind {
        self.memory.kind()
    }

    /// The keys.
    ///
    /// # Panics
    /// In a forked child, which has none of them.
    pub(crate) fn keys(&self) -> &[[u8; KEY_BYTES]] {
        self.assert_here();
        self.memory.keys(self.count)
    }

    /// The keys, to be filled in.
    ///
    /// # Panics
    /// In a forked child, which has none of them.
    pub(crate) fn keys_mut(&mut self) -> &mut [[u8; KEY_BYTES]] {
        self.assert_here();
        self.memory.keys_mut(self.count)
    }

    /// With no better protection than `best`, so that tests can reach the fallbacks.
    fn within(count: usize, best: LockKind) -> Self {
        Self { memory: Memory::map(count, best), count, epoch: fork_epoch() }
    }

    fn is_here(&self) -> bool {
        self.epoch == fork_epoch()
    }

    fn assert_here(&self) {
        assert!(self.is_here(), "a forked child has no keys of its parent's vault: open it after the fork");
    }
}

impl Drop for LockedKeys {
    fn drop(&mut self) {
        // A forked child did not inherit secret pages: others may lie at their address by now.
        if self.is_here() || self.kind() != LockKind::MemfdSecret {
            self.memory.keys_mut(self.count).as_flattened_mut().zeroize();
            self.memory.unmap();
        }
    }
}

impl fmt::Debug for LockedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockedKeys({} keys, {:?}, redacted)", self.count, self.kind())
    }
}

#[cfg(unix)]
use self::mapped::Memory;
#[cfg(not(unix))]
use self::ordinary::Memory;

#[cfg(target_os = "linux")]
pub(crate) use self::epoch::fork_epoch;

/// A number that is another one in a forked child. Here the process id, which costs a system call.
#[cfg(not(target_os = "linux"))]
pub(crate) fn fork_epoch() -> u64 {
    u64::from(std::process::id())
}

#[cfg(unix)]
mod mapped {
    use std::ptr::{self, NonNull};

    use super::{KEY_BYTES, LockKind, ordinary};

    /// Whole pages between two that can't be accessed, or ordinary memory when nothing can be mapped.
    pub(super) enum Memory {
        Pages { kind: LockKind, base: NonNull<u8>, page: usize, len: usize },
        Ordinary(ordinary::Memory),
    }

    // SAFETY: `Memory` owns its mapping, nothing else points into it, and it hands out references bound to `&self` and
    // `&mut self` only.
    unsafe impl Send for Memory {}
    // SAFETY: as above; `&Memory` allows reads only.
    unsafe impl Sync for Memory {}

    impl Memory {
        pub(super) fn map(count: usize, best: LockKind) -> Self {
            let page = page_size();
            let len = (count * KEY_BYTES).next_multiple_of(page);
            let secret = if best == LockKind::MemfdSecret { Self::secret(page, len) } else { None };
            secret
                .or_else(|| Self::private(page, len, best != LockKind::Unlocked))
                .unwrap_or_else(|| Self::Ordinary(ordinary::Memory::map(count, best)))
        }

        pub(super) fn kind(&self) -> LockKind {
            match self {
                Self::Pages { kind, .. } => *kind,
                Self::Ordinary(memory) => memory.kind(),
            }
        }

        pub(super) fn keys(&self, count: usize) -> &[[u8; KEY_BYTES]] {
            match self {
                Self::Pages { base, page, len, .. } => {
                    assert!(count * KEY_BYTES <= *len);
                    // SAFETY: the `len` bytes after the first page are mapped readable and writable from `map` to `unmap`, zeroed
                    // by the system, aligned for bytes, and `count` keys fit. No `&mut` to them exists while `self` is borrowed.
                    unsafe { std::slice::from_raw_parts(base.as_ptr().add(*page).cast(), count) }
                }
                Self::Ordinary(memory) => memory.keys(count),
            }
        }

        pub(super) fn keys_mut(&mut self, count: usize) -> &mut [[u8; KEY_BYTES]] {
            match self {
                Self::Pages { base, page, len, .. } => {
                    assert!(count * KEY_BYTES <= *len);
                    // SAFETY: as in `keys`; `self` is borrowed mutably, so no other reference into the mapping exists.
                    unsafe { std::slice::from_raw_parts_mut(base.as_ptr().add(*page).cast(), count) }
                }
                Self::Ordinary(memory) => memory.keys_mut(count),
            }
        }

        /// Gives the pages back. Called once, by the owner's `drop`.
        pub(super) fn unmap(&mut self) {
            if let Self::Pages { base, page, len, .. } = self {
                // SAFETY: exactly the range that `mmap` returned to `guarded`; the owner is being dropped, so no reference is left.
                unsafe { libc::munmap(base.as_ptr().cast(), *len + 2 * *page) };
            }
        }

        /// Pages that nothing but this process's own code can read.
        #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
        fn secret(page: usize, len: usize) -> Option<Self> {
            use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

            // SAFETY: takes a flag and returns a new descriptor or -1; touches no memory of ours.
            let descriptor = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
            let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
            // SAFETY: just returned to us, so it is open and nobody else owns it.
            let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
            let size = libc::off_t::try_from(len + 2 * page).ok()?;
            // SAFETY: a plain call on a descriptor that we own.
            if unsafe { libc::ftruncate(file.as_raw_fd(), size) } != 0 {
                return None;
            }
            let base = guarded(page, len, libc::MAP_SHARED, file.as_raw_fd())?;
            // A shared mapping would be one memory with a forked child, which could then wipe its parent's keys.
            // SAFETY: exactly the range that `guarded` mapped.
            unsafe { libc::madvise(base.as_ptr().cast(), len + 2 * page, libc::MADV_DONTFORK) };
            Some(Self::Pages { kind: LockKind::MemfdSecret, base, page, len })
        }

        #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))))]
        fn secret(_: usize, _: usize) -> Option<Self> {
            None
        }

        /// Pages of ordinary memory, locked if `lock` and if the system allows it.
        fn private(page: usize, len: usize, lock: bool) -> Option<Self> {
            let base = guarded(page, len, libc::MAP_PRIVATE | libc::MAP_ANON, -1)?;
            // SAFETY: one page into a mapping of `len` + 2 pages.
            let keys = unsafe { base.as_ptr().add(page) }.cast();
            // SAFETY: the `len` bytes from `keys` are mapped.
            let locked = lock && unsafe { libc::mlock(keys, len) } == 0;
            #[cfg(target_os = "linux")]
            // SAFETY: the `len` bytes from `keys` are mapped; both only mark the range.
            unsafe {
                libc::madvise(keys, len, libc::MADV_DONTDUMP);
                libc::madvise(keys, len, libc::MADV_WIPEONFORK);
            }
            let kind = if locked { LockKind::Mlock } else { LockKind::Unlocked };
            Some(Self::Pages { kind, base, page, len })
        }
    }

    /// Maps `len` bytes with an inaccessible page before and after, and returns the start of the first of these.
    fn guarded(page: usize, len: usize, flags: libc::c_int, file: libc::c_int) -> Option<NonNull<u8>> {
        let whole = len + 2 * page;
        // SAFETY: the system chooses a free range, so no memory in use is touched.
        let start = unsafe { libc::mmap(ptr::null_mut(), whole, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let base = NonNull::new(start.cast::<u8>())?;
        // SAFETY: the first and the last page of the mapping just made, which nothing points into yet.
        unsafe {
            libc::mprotect(base.as_ptr().cast(), page, libc::PROT_NONE);
            libc::mprotect(base.as_ptr().add(page + len).cast(), page, libc::PROT_NONE);
        }
        Some(base)
    }

    pub(super) fn page_size() -> usize {
        // SAFETY: reads a constant of the system.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
    }
}

/// The last resort, and all there is where the system is no Unix: heap memory, wiped like the rest.
mod ordinary {
    use super::{KEY_BYTES, LockKind};

    pub(super) struct Memory(Box<[[u8; KEY_BYTES]]>);

    impl Memory {
        pub(super) fn map(count: usize, _: LockKind) -> Self {
            Self(vec![[0; KEY_BYTES]; count].into_boxed_slice())
        }

        pub(super) fn kind(&self) -> LockKind {
            LockKind::Unlocked
        }

        pub(super) fn keys(&self, count: usize) -> &[[u8; KEY_BYTES]] {
            &self.0[..count]
        }

        pub(super) fn keys_mut(&mut self, count: usize) -> &mut [[u8; KEY_BYTES]] {
            &mut self.0[..count]
        }

        /// The allocator takes it back.
        #[cfg_attr(unix, allow(dead_code, reason = "only pages have to be unmapped"))]
        pub(super) fn unmap(&mut self) {}
    }
}

#[cfg(target_os = "linux")]
mod epoch {
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::rng;

    /// Lies in a page that the kernel clears in a forked child: read without a system call, other than the process id.
    static CELL: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();

    /// A number that is another one in a forked child, and stays the same in one process.
    pub(crate) fn fork_epoch() -> u64 {
        let Some(cell) = CELL.get_or_init(cleared_on_fork) else {
            return u64::from(std::process::id());
        };
        match cell.load(Ordering::Relaxed) {
            0 => new_epoch(cell),
            epoch => epoch,
        }
    }

    /// Drawn at random, not counted: a counter in the cleared page would count from the same number in every child.
    #[cold]
    fn new_epoch(cell: &AtomicU64) -> u64 {
        let mut bytes = [0; 8];
        rng::fill_secret(&mut bytes);
        let fresh = u64::from_ne_bytes(bytes) | 1;
        match cell.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(set_meanwhile) => set_meanwhile,
        }
    }

    fn cleared_on_fork() -> Option<&'static AtomicU64> {
        let page = super::mapped::page_size();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the system chooses a free range, so no memory in use is touched.
        let start = unsafe { libc::mmap(ptr::null_mut(), page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: exactly the page that was just mapped.
        if unsafe { libc::madvise(start, page, libc::MADV_WIPEONFORK) } != 0 {
            // SAFETY: as above, and nothing points into it.
            unsafe { libc::munmap(start, page) };
            return None;
        }
        // SAFETY: a page of zeros that is never unmapped, aligned to a page, and from now on only used as this atomic.
        Some(unsafe { AtomicU64::from_ptr(start.cast()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [LockKind; 3] = [LockKind::MemfdSecret, LockKind::Mlock, LockKind::Unlocked];

    #[test]
    fn every_kind_starts_zeroed_and_keeps_what_is_written() {
        for best in KINDS {
            // More than a page, so that several are mapped.
            let mut keys = LockedKeys::within(200, best);
            assert_eq!(keys.keys(), [[0; 32]; 200]);
            for (number, key) in keys.keys_mut().iter_mut().enumerate() {
                key.fill(number as u8);
            }
            assert!(keys.keys().iter().enumerate().all(|(number, key)| key == &[number as u8; 32]));
        }
    }

    #[test]
    fn a_fallback_reports_what_it_is() {
        assert_eq!(LockedKeys::within(1, LockKind::Unlocked).kind(), LockKind::Unlocked);
        assert_ne!(LockedKeys::within(1, LockKind::Mlock).kind(), LockKind::MemfdSecret);
    }

    #[test]
    fn debug_shows_no_key() {
        let mut keys = LockedKeys::within(1, LockKind::Unlocked);
        keys.keys_mut()[0].fill(0x2a);
        assert_eq!(format!("{keys:?}"), "LockedKeys(1 keys, Unlocked, redacted)");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn secret_pages_cannot_be_read_through_proc() {
        use std::fs::File;
        use std::os::unix::fs::FileExt;

        let memory = File::open("/proc/self/mem").unwrap();
        let read = |keys: &LockedKeys| {
            let mut out = [0; 32];
            memory.read_exact_at(&mut out, keys.keys()[0].as_ptr() as u64).map(|()| out)
        };
        let filled = |best| {
            let mut keys = LockedKeys::within(1, best);
            keys.keys_mut()[0].fill(0x2a);
            keys
        };
        assert_eq!(read(&filled(LockKind::Unlocked)).unwrap(), [0x2a; 32], "the control: ordinary memory is readable");
        let secret = filled(LockKind::MemfdSecret);
        if secret.kind() == LockKind::MemfdSecret {
            assert!(read(&secret).is_err());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_around_the_keys_cannot_be_accessed() {
        let maps = |address: usize| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines()
                .find_map(|line| {
                    let (range, rest) = line.split_once(' ')?;
                    let (start, end) = range.split_once('-')?;
                    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
                    (start..end).contains(&address).then(|| rest[..3].to_owned())
                })
                .unwrap()
        };
        for best in KINDS {
            let keys = LockedKeys::within(1, best);
            let address = keys.keys().as_ptr() as usize;
            assert_eq!(maps(address), "rw-");
            assert_eq!(maps(address - 1), "---");
            assert_eq!(maps(address + mapped::page_size()), "---");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_forked_child_has_no_keys_and_another_epoch() {
        let mut all: Vec<_> = KINDS.into_iter().map(|best| LockedKeys::within(1, best)).collect();
        all.iter_mut().for_each(|keys| keys.keys_mut()[0].fill(0x2a));
        let before = fork_epoch();
        assert_eq!(before, fork_epoch());
        // SAFETY: the child only reads memory, makes system calls and leaves through `_exit`: nothing that could wait for a lock
        // which another thread held at the time of the fork.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let other_epoch = fork_epoch() != before;
            let none_here = all.iter().all(|keys| !keys.is_here());
            // Must neither wipe what the parent shares nor fault on what was not inherited.
            for keys in &mut all {
                // SAFETY: the child leaves without running destructors, so nothing is dropped twice.
                unsafe { std::ptr::drop_in_place(keys) };
            }
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!(other_epoch && none_here))) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made and writes its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
        assert!(all.iter().all(|keys| keys.keys()[0] == [0x2a; 32]), "the child changed its parent's keys");
        assert_eq!(before, fork_epoch());
    }
}
