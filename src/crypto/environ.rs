//! Overwrites the value of an environment variable where the process keeps it, so that neither `/proc` nor a child shows it.
#![allow(unsafe_code, reason = "the C library hands out the place of a variable as a pointer; what is around it is safe")]

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU8, Ordering};

use super::wipe;

/// Writes `filler` over every byte of the variable's value, if that is `value`; whether it was.
///
/// The variable stays, its length too, and no pointer changes: who reads the environment at the same moment sees old bytes, new ones,
/// or some of each, and nothing worse. What must not happen at the same moment is what `std::env::set_var` forbids anyway: another
/// thread that sets variables.
pub(super) fn overwrite(name: &str, value: &[u8], filler: u8) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: a C string; nobody sets variables meanwhile, see above.
    let place = unsafe { libc::getenv(name.as_ptr()) };
    if place.is_null() {
        return false;
    }
    // SAFETY: what `getenv` returns ends with a zero byte and stays where it is as long as nobody sets variables.
    if !wipe::eq(unsafe { CStr::from_ptr(place) }.to_bytes(), value) {
        return false;
    }
    for at in 0..value.len() {
        // SAFETY: within the string, whose length is that of `value`; the environment is writable memory. Atomic, since other
        // threads may read it.
        unsafe { AtomicU8::from_ptr(place.cast::<u8>().add(at)) }.store(filler, Ordering::Relaxed);
    }
    true
}
