//! A core dump of a process with an open vault.
#![allow(unsafe_code, reason = "the limit of core dumps of another process")]

use std::fs;

use crate::process;
use crate::suite::{Play, control_bytes_in};

#[test]
fn core_dump_holds_no_secret() {
    let mut play = Play::start("everything");
    while play.next_point().expect("it comes to the point") != "at work" {
        play.go_on();
    }
    play.learn();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let (dump, how) = match kernels_dump(&mut play, pattern.trim()) {
        Some(dump) => (dump, "written by the kernel"),
        None => (process::dump(play.child.id()), "put together from /proc, without what the kernel leaves out"),
    };
    println!("core dump of {} MiB, {how} (core_pattern {:?})", dump.len() >> 20, pattern.trim());
    for number in 0..3 {
        assert!(control_bytes_in(&play, number, &dump), "control {number} is not in the dump");
    }
    assert_eq!(play.finder.find(&dump, 0), []);
}

/// Ends the process so that the kernel writes a dump of it, if that goes to a file in its directory.
fn kernels_dump(play: &mut Play, pattern: &str) -> Option<Vec<u8>> {
    if pattern.is_empty() || pattern.contains(['|', '/']) {
        return None;
    }
    let no_limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    let pid = play.child.id().cast_signed();
    // SAFETY: reads the structure that it is given; the process is a child of this one that was not waited for.
    if unsafe { libc::prlimit(pid, libc::RLIMIT_CORE, &raw const no_limit, std::ptr::null_mut()) } != 0 {
        return None;
    }
    process::signal(play.child.id(), libc::SIGABRT);
    process::go_on(play.child.id());
    play.child.wait().unwrap();
    let mut files = fs::read_dir(play.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")))?;
    Some(fs::read(file).unwrap())
}
