//! Looks for secrets in this process's own memory, after the code that used them has returned.
//!
//! Each case runs in a child process of its own. It first takes note of its secrets, masked, so that the note is not what is
//! found. Then a thread does the work under test and nothing after it, for anything that it called would overwrite the stack
//! and hide what was left there. While that thread spins, the main thread reads all memory that is readable and writable through
//! `/proc/self/mem` and compares at every byte. A secret counts as found with any 8 bytes in a row, since the allocator
//! overwrites the head of what is freed. Each child also leaves a secret on the heap and one on the worker's stack on purpose,
//! and both must be found.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::hint::{black_box, spin_loop};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use zeroize::Zeroize;

use super::derive::Label;
use super::envelope;
use super::key::Key;
use super::keyring::{Keyring, WrapPurpose};
use super::providers::{EnvVar, KeyProvider, Passphrase, RawKey, hex_digits, key_of_digits};
use super::rng;
use super::wipe::wiping_stack;
use crate::ids::{AccountHandle, Environment};
use crate::secret::{RootKey, SecretBytes};

const CHUNK: usize = 8;
const CASE: &str = "ANCHORHOLD_SCAN_CASE";
const ROOT_KEY: &str = "ANCHORHOLD_SCAN_ROOT_KEY";
const ROOT_KEY_DIGITS: &str = "8d1f27a6c0b94e5378e2d16fa3905bc472e9163d0fa8b57c4d60e1f7398b2ac5";
const NONCE: [u8; 24] = [9; 24];
const HANDLE: AccountHandle = AccountHandle::from_bytes([1; 16]);

/// Takes note of the secrets and returns the work that must not leave them in memory.
type Case = fn(&mut Notes) -> Work;

type Work = Box<dyn FnOnce() + Send>;

const CASES: &[(&str, Case)] = &[
    ("derive", derive),
    ("mac", mac),
    ("seal", seal),
    ("open", open),
    ("open_refused", open_refused),
    ("in_place", in_place),
    ("wrap", wrap),
    ("unwrap", unwrap),
    ("masked", masked),
    ("keyring_open", keyring_open),
    ("keyring_rows", keyring_rows),
    ("rotation", rotation),
    ("panic", panic_with_key),
    ("environment", environment),
    ("key_file", key_file),
    ("passphrase", passphrase),
];

#[test]
fn no_secret_stays_in_memory_after_use() {
    let failed: Vec<String> = CASES
        .iter()
        .filter_map(|(name, _)| {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["crypto::scan::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
                .env(CASE, name)
                .env(ROOT_KEY, ROOT_KEY_DIGITS)
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
            let passed = child.status.success() && told.contains("1 passed");
            (!passed).then(|| format!("{name}:\n{told}"))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Not a test by itself: what runs in the child process.
#[test]
#[ignore = "started by no_secret_stays_in_memory_after_use"]
fn child() {
    let Ok(name) = std::env::var(CASE) else { return };
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    let mut notes = Notes::new();
    // Below what the work uses, and above: the scan must see all of the stack.
    let on_stack = notes.key("control on the stack");
    let on_heap = notes.key("control on the heap");
    black_box(on_heap.expose().to_vec().leak());
    let work = case(&mut notes);

    let finished = Arc::new(AtomicBool::new(false));
    let scanned = Arc::new(AtomicBool::new(false));
    let worker = {
        let (finished, scanned) = (Arc::clone(&finished), Arc::clone(&scanned));
        thread::spawn(move || {
            leave_on_stack(&on_stack);
            work();
            finished.store(true, Ordering::Release);
            while !scanned.load(Ordering::Acquire) {
                spin_loop();
            }
        })
    };
    while !finished.load(Ordering::Acquire) {
        assert!(!worker.is_finished(), "the work panicked");
        thread::yield_now();
    }
    let found = notes.found();
    scanned.store(true, Ordering::Release);
    worker.join().unwrap();

    for control in ["control on the stack", "control on the heap"] {
        assert!(found.iter().any(|what| what.starts_with(control)), "the scan does not find the {control}");
    }
    let leaked: Vec<_> = found.iter().filter(|what| !what.starts_with("control")).collect();
    assert!(leaked.is_empty(), "left in memory: {leaked:#?}");
}

/// Leaves a copy of `key` deep in the stack, where no later work comes.
#[inline(never)]
fn leave_on_stack(key: &Key) {
    let mut deep = [0; 128 * 1024];
    deep[..32].copy_from_slice(key.expose());
    black_box(&mut deep);
}

fn derive(notes: &mut Notes) -> Work {
    let key = notes.key("key");
    let child = key.derive(Label::AccountRecord, &[b"context"]);
    notes.take("derived key", child.expose());
    Box::new(move || {
        black_box(key.derive(Label::AccountRecord, &[b"context"]));
    })
}

fn mac(notes: &mut Notes) -> Work {
    let key = notes.key("key");
    Box::new(move || {
        black_box(key.mac(Label::AccountDigest, &[b"row", &[0; 8], &[0; 300]]));
    })
}

fn seal(notes: &mut Notes) -> Work {
    let (key, data) = (notes.key("key"), notes.data(500));
    notes.cipher_state(key.expose());
    Box::new(move || {
        black_box(envelope::seal_with_nonce(&key, 1, &[b"part"], 1, data.expose(), &NONCE));
    })
}

fn open(notes: &mut Notes) -> Work {
    let (key, sealed) = sealed(notes);
    Box::new(move || {
        black_box(envelope::open(&key, &[b"part"], Some(1), &sealed).unwrap());
    })
}

fn open_refused(notes: &mut Notes) -> Work {
    let (key, sealed) = sealed(notes);
    Box::new(move || {
        assert!(envelope::open(&key, &[b"other"], Some(1), &sealed).is_err());
    })
}

fn sealed(notes: &mut Notes) -> (Key, Vec<u8>) {
    let (key, data) = (notes.key("key"), notes.data(500));
    notes.cipher_state(key.expose());
    let sealed = envelope::seal_with_nonce(&key, 1, &[b"part"], 1, data.expose(), &NONCE);
    (key, sealed)
}

fn in_place(notes: &mut Notes) -> Work {
    let (key, mut buffer) = (notes.key("key"), notes.data(200));
    Box::new(move || {
        let (nonce, tag) = key.seal_in_place(b"aad", buffer.expose_mut());
        key.open_in_place(&nonce, b"aad", buffer.expose_mut(), &tag).unwrap();
    })
}

fn wrap(notes: &mut Notes) -> Work {
    let keyring = keyring(notes);
    let key = notes.key("account key");
    Box::new(move || {
        black_box(keyring.wrap(WrapPurpose::AccountKey, Environment::Test, &HANDLE, 1, &key));
    })
}

fn unwrap(notes: &mut Notes) -> Work {
    let keyring = keyring(notes);
    let key = notes.key("account key");
    let wrapped = keyring.wrap(WrapPurpose::AccountKey, Environment::Test, &HANDLE, 1, &key);
    Box::new(move || {
        black_box(keyring.unwrap(WrapPurpose::AccountKey, Environment::Test, &HANDLE, &wrapped).unwrap());
    })
}

fn masked(notes: &mut Notes) -> Work {
    let keyring = keyring(notes);
    let key = notes.key("key that is masked");
    Box::new(move || {
        let masked = Box::new(keyring.mask(&key));
        drop(key);
        wiping_stack::<{ 64 * 1024 }, _>(|| keyring.with_unmasked(Box::leak(masked), |key| black_box(key).expose()[0] == 0));
    })
}

fn keyring_rows(notes: &mut Notes) -> Work {
    let keyring = keyring(notes);
    let data = notes.data(100);
    Box::new(move || {
        let row = keyring.seal_row(b"row", 1, data.expose());
        black_box(keyring.open_row(b"row", &row).unwrap());
        black_box(keyring.locator(Environment::Test, "acme"));
    })
}

fn keyring_open(notes: &mut Notes) -> Work {
    let root = notes.root();
    let (keyring, header) = Keyring::create(&root, b"").unwrap();
    keyring.each_key(|key| notes.take("key of the keyring", key));
    drop(keyring);
    let provider = RawKey::new(root);
    Box::new(move || {
        let keyring = Keyring::open(&header, &[&provider]).unwrap();
        // An open vault's keys are where the scan can't read; where the system has no such memory, only a closed one's are gone.
        if keyring.lock_kind() == super::LockKind::MemfdSecret {
            Box::leak(Box::new(keyring));
        }
    })
}

fn rotation(notes: &mut Notes) -> Work {
    let keyring = keyring(notes);
    let new = notes.root();
    Box::new(move || {
        let change = keyring.begin_rotation(&new, b"").unwrap();
        keyring.apply(change).unwrap();
        let change = keyring.finish_rotation().unwrap();
        keyring.apply(change).unwrap();
    })
}

fn keyring(notes: &mut Notes) -> Keyring {
    let (keyring, _) = Keyring::create(&notes.root(), b"").unwrap();
    keyring.each_key(|key| notes.take("key of the keyring", key));
    keyring
}

fn panic_with_key(notes: &mut Notes) -> Work {
    let key = notes.key("key");
    Box::new(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wiping_stack::<8192, ()>(|| {
                let mut copy = [0; 32];
                copy.copy_from_slice(key.expose());
                black_box(&mut copy);
                std::panic::resume_unwind(Box::new("on purpose"));
            });
        }));
        assert!(outcome.is_err());
    })
}

fn environment(notes: &mut Notes) -> Work {
    // From the text of the program, which is not writable and not scanned.
    notes.take("root key", key_of_digits(ROOT_KEY_DIGITS.as_bytes()).unwrap().expose_secret());
    notes.take("digits of the root key", ROOT_KEY_DIGITS.as_bytes());
    let provider = EnvVar::new(ROOT_KEY);
    Box::new(move || {
        black_box(provider.root_key(&[]).unwrap());
    })
}

fn key_file(notes: &mut Notes) -> Work {
    let folder = tempfile::tempdir().unwrap();
    let provider = RootKey::generate_file(folder.path().join("root.key")).unwrap();
    let key = provider.root_key(&[]).unwrap();
    notes.take("root key", key.expose_secret());
    let mut digits = Box::new([0; 64]);
    hex_digits(&key, &mut digits);
    notes.take("digits of the root key", &*digits);
    digits.zeroize();
    Box::new(move || {
        black_box(provider.root_key(&[]).unwrap());
        drop(folder);
    })
}

fn passphrase(notes: &mut Notes) -> Work {
    let mut text = SecretBytes::zeroed(24);
    rng::fill(text.expose_mut());
    text.expose_mut().iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
    notes.take("passphrase", text.expose());
    let text: Box<str> = std::str::from_utf8(text.expose()).unwrap().into();
    let provider = Passphrase::new(text.into()).with_costs(8, 1).unwrap();
    let parameters = provider.parameters().unwrap();
    notes.take("root key", provider.root_key(&parameters).unwrap().expose_secret());
    Box::new(move || {
        black_box(provider.root_key(&parameters).unwrap());
    })
}

/// The secrets to look for, masked.
struct Notes {
    mask: u64,
    chunks: Vec<(u64, &'static str)>,
}

impl Notes {
    fn new() -> Self {
        let mut mask = [0; 8];
        rng::fill(&mut mask);
        Self { mask: u64::from_ne_bytes(mask), chunks: Vec::new() }
    }

    /// Takes note of every 8 bytes of `secret`.
    fn take(&mut self, what: &'static str, secret: &[u8]) {
        wiping_stack::<4096, _>(|| {
            for chunk in secret.chunks_exact(CHUNK) {
                let chunk = u64::from_ne_bytes(chunk.try_into().unwrap()) ^ self.mask;
                if chunk != self.mask {
                    self.chunks.push((chunk, what));
                }
            }
        });
    }

    fn key(&mut self, what: &'static str) -> Key {
        let key = Key::random();
        self.take(what, key.expose());
        key
    }

    fn root(&mut self) -> RootKey {
        let root = RootKey::generate();
        self.take("root key", root.expose_secret());
        root
    }

    fn data(&mut self, len: usize) -> SecretBytes {
        let mut data = SecretBytes::zeroed(len);
        rng::fill_secret(data.expose_mut());
        self.take("data", data.expose());
        data
    }

    /// What the cipher works with under [`NONCE`]: the key of the message and the one-time key of its tag.
    fn cipher_state(&mut self, key: &[u8; 32]) {
        wiping_stack::<16384, _>(|| {
            let mut state = SecretBytes::zeroed(64);
            let mut message_key = SecretBytes::zeroed(32);
            initial(key, &NONCE[..16], state.expose_mut());
            rounds(state.expose_mut());
            message_key.expose_mut()[..16].copy_from_slice(&state.expose()[..16]);
            message_key.expose_mut()[16..].copy_from_slice(&state.expose()[48..]);
            self.take("message key", message_key.expose());

            let mut start = SecretBytes::zeroed(64);
            initial(message_key.expose(), &[&[0; 8], &NONCE[16..]].concat(), start.expose_mut());
            state.expose_mut().copy_from_slice(start.expose());
            rounds(state.expose_mut());
            for at in 0..16 {
                let sum = word(state.expose(), at).wrapping_add(word(start.expose(), at));
                set_word(state.expose_mut(), at, sum);
            }
            self.take("one-time key", &state.expose()[..32]);
        });
    }

    /// What is in memory of the noted secrets.
    fn found(&self) -> Vec<String> {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut buffer = vec![0; (1 << 20) + CHUNK];
        let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
        let mut wanted = vec![false; 1 << 16];
        self.chunks.iter().for_each(|(chunk, _)| wanted[(chunk & 0xffff) as usize] = true);
        let mut found = Vec::new();
        for (start, end, name) in writable() {
            let mut at = start;
            while at < end {
                if own.contains(&at) {
                    at = own.end;
                    continue;
                }
                let limit = if at < own.start { end.min(own.start) } else { end };
                let len = usize::try_from(limit - at).unwrap().min(buffer.len());
                // Secret pages and pages that went away meanwhile can't be read.
                if memory.read_exact_at(&mut buffer[..len], at).is_ok() {
                    for (offset, window) in buffer[..len].windows(CHUNK).enumerate() {
                        let chunk = u64::from_ne_bytes(window.try_into().unwrap()) ^ self.mask;
                        if wanted[(chunk & 0xffff) as usize] {
                            let hits = self.chunks.iter().filter(|(noted, _)| *noted == chunk);
                            found.extend(hits.map(|(_, what)| format!("{what} at {:#x} in {name}", at + offset as u64)));
                        }
                    }
                }
                // Chunks across the border of two reads are seen by the second.
                at += if len == buffer.len() { (len - CHUNK) as u64 } else { len as u64 };
            }
        }
        found
    }
}

/// All mappings that can be read and written: start, end and name.
fn writable() -> Vec<(u64, u64, String)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (range, mode) = (fields.next()?, fields.next()?);
            let (start, end) = range.split_once('-')?;
            let name = fields.nth(3).unwrap_or("anonymous memory").to_owned();
            let range = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            mode.starts_with("rw").then_some((range.0, range.1, name))
        })
        .collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap())
}

fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
}

fn initial(key: &[u8], nonce: &[u8], state: &mut [u8]) {
    state[..16].copy_from_slice(b"expand 32-byte k");
    state[16..48].copy_from_slice(key);
    state[48..].copy_from_slice(nonce);
}

/// The 20 rounds of ChaCha20 (RFC 8439, 2.3).
fn rounds(state: &mut [u8]) {
    const QUARTERS: [[usize; 4]; 8] = [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
        [0, 5, 10, 15],
        [1, 6, 11, 12],
        [2, 7, 8, 13],
        [3, 4, 9, 14],
    ];
    for _ in 0..10 {
        for [a, b, c, d] in QUARTERS {
            for (x, y, z, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                set_word(state, x, word(state, x).wrapping_add(word(state, y)));
                set_word(state, z, (word(state, z) ^ word(state, x)).rotate_left(turn));
            }
        }
    }
}
