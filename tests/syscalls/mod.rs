//! A library that stands between a child process and the kernel: built by the test that uses it.
#![allow(unsafe_code, reason = "the library's own functions")]
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const UNDER: &str = "ANCHORHOLD_PRELOAD_UNDER";
pub const LOG: &str = "ANCHORHOLD_PRELOAD_LOG";

/// Compiles the library into `folder`.
pub fn build(folder: &Path) -> PathBuf {
    let library = folder.join("preload.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/syscalls/preload.c");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&library).arg(source);
    let built = compiler.status().expect("a C compiler builds the library");
    assert!(built.success());
    library
}

/// The system calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Write = 0,
    /// `fsync` and `fdatasync`.
    Sync = 1,
    Rename = 2,
    /// The write that ends one of sled's segments.
    SegmentEnd = 3,
}

/// Lets the `nth` call of a kind on files of the vault fail (1 = the next one), and all later ones too if it `stays`.
pub fn arm(call: Call, nth: i64, error: i32, stays: bool) {
    // SAFETY: the function has this type in the library, which stays loaded.
    let arm: extern "C" fn(i32, i64, i32, i32) = unsafe { std::mem::transmute(symbol(c"anchorhold_arm")) };
    arm(call as i32, nth, error, i32::from(stays));
}

pub fn disarm() {
    [Call::Write, Call::Sync, Call::Rename, Call::SegmentEnd].into_iter().for_each(|call| arm(call, 0, 0, false));
}

/// Lets a write that fails take so long, while others go on.
pub fn fail_late(after: std::time::Duration) {
    // SAFETY: the function has this type in the library, which stays loaded.
    let late: extern "C" fn(u32) = unsafe { std::mem::transmute(symbol(c"anchorhold_late")) };
    late(u32::try_from(after.as_micros()).expect("a short while"));
}

/// How many calls have failed since one was armed.
pub fn happened() -> i64 {
    // SAFETY: the function has this type in the library, which stays loaded.
    let happened: extern "C" fn() -> i64 = unsafe { std::mem::transmute(symbol(c"anchorhold_happened")) };
    happened()
}

fn symbol(name: &std::ffi::CStr) -> *mut c_void {
    // SAFETY: looks a name up.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null(), "the library is not loaded into this process");
    found
}
