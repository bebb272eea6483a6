//! Another process seen from outside: its mappings, its memory, its environment; stopping it while one looks.
#![allow(unsafe_code, reason = "signals")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use crate::finder::{Finder, Hit};

/// One mapping of a process.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub name: String,
    pub writable: bool,
    /// Locked against swapping.
    pub locked: bool,
    /// Left out of core dumps.
    pub undumped: bool,
}

/// What a look at a whole process gave.
#[derive(Default)]
pub struct Seen {
    pub hits: Vec<(Hit, String)>,
    pub bytes: u64,
    pub locked: Vec<Mapping>,
    /// Locked mappings that could be read all the same.
    pub readable_locked: Vec<Mapping>,
}

pub fn mappings(pid: u32) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let last = found.last_mut().unwrap();
            let has = |flag| flags.split_whitespace().any(|word| word == flag);
            (last.locked, last.undumped) = (has("lo"), has("dd"));
            continue;
        }
        let mut fields = line.split_whitespace();
        let Some((start, end)) = fields.next().and_then(|range| range.split_once('-')) else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let writable = fields.next().is_some_and(|mode| mode.starts_with("rw"));
        let name = fields.skip(3).collect::<Vec<_>>().join(" ");
        found.push(Mapping { start, end, name, writable, locked: false, undumped: false });
    }
    found
}

/// Looks through all memory of a stopped process that can be read and written. Locked pages are told apart.
pub fn look(pid: u32, finder: &Finder) -> Seen {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut seen = Seen::default();
    let mut buffer = vec![0; 1 << 20];
    for mapping in mappings(pid).into_iter().filter(|mapping| mapping.writable) {
        if mapping.locked {
            if memory.read_exact_at(&mut buffer[..1], mapping.start).is_ok() {
                seen.readable_locked.push(mapping.clone());
            }
            seen.locked.push(mapping);
            continue;
        }
        let mut at = mapping.start;
        while at < mapping.end {
            let len = usize::try_from(mapping.end - at).unwrap().min(buffer.len());
            // A device's memory, for one, can't be read so.
            if memory.read_exact_at(&mut buffer[..len], at).is_ok() {
                seen.bytes += len as u64;
                let name = if mapping.name.is_empty() { "anonymous memory" } else { &mapping.name };
                seen.hits.extend(finder.find(&buffer[..len], at).into_iter().map(|hit| (hit, name.to_owned())));
            }
            // What lies across the border of two reads is seen by the second.
            at += if len == buffer.len() { len as u64 - 64 } else { len as u64 };
        }
    }
    seen
}

/// What the kernel would put into a core dump of a stopped process: all that can be written and is not left out by `madvise`.
pub fn dump(pid: u32) -> Vec<u8> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut dump = Vec::new();
    for mapping in mappings(pid).into_iter().filter(|mapping| mapping.writable && !mapping.undumped) {
        let mut bytes = vec![0; usize::try_from(mapping.end - mapping.start).unwrap()];
        if memory.read_exact_at(&mut bytes, mapping.start).is_ok() {
            dump.append(&mut bytes);
        }
    }
    dump
}

pub fn environment(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap()
}

/// Stops a process and waits until all its threads stand still.
pub fn stop(pid: u32) {
    signal(pid, libc::SIGSTOP);
    let started = Instant::now();
    while !threads(pid).iter().all(|state| *state == 'T') {
        assert!(started.elapsed() < Duration::from_secs(10), "the process does not stop: {:?}", threads(pid));
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn go_on(pid: u32) {
    signal(pid, libc::SIGCONT);
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: a plain system call; the process is a child of this one that was not waited for yet, so the number is its own.
    let sent = unsafe { libc::kill(pid.cast_signed(), signal) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

/// The state of each thread.
fn threads(pid: u32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).ok()?;
            // After the name, which is in parentheses and may hold anything.
            stat[stat.rfind(')')? + 1..].split_whitespace().next()?.chars().next()
        })
        .collect()
}
