//! The child process: where a scenario plays, and how it says that one may look.
//!
//! Secrets are worked out byte by byte from a number that both processes know, right into the buffer that is handed to the vault,
//! so that the child has no other copy. What the vault hands out goes to the parent by a bare `write` from the vault's own buffer.
#![allow(unsafe_code, reason = "a mapping for one of the controls, and bytes lent across threads")]

use std::cell::RefCell;
use std::fs::{self, File};
use std::future::Future;
use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anchorhold::{RawKey, RootKey, Vault, VaultBuilder};
use secrecy::SecretString;

pub const SCENARIO: &str = "ANCHORHOLD_MEMORY_SCENARIO";
pub const FOLDER: &str = "ANCHORHOLD_MEMORY_FOLDER";
pub const SEED: &str = "ANCHORHOLD_MEMORY_SEED";
pub const ROOT_KEY: &str = "ANCHORHOLD_MEMORY_ROOT_KEY";
/// Where the provider is.
pub const PORT: &str = "ANCHORHOLD_MEMORY_PORT";

/// Every text that a scenario may take for a secret of 64 letters, and every root key.
pub const TEXTS: [&str; 14] = [
    "api key",
    "user",
    "password",
    "custom",
    "next api key",
    "passphrase",
    "large",
    "imported refresh",
    "access",
    "refresh",
    "next access",
    "next refresh",
    "third refresh",
    "client secret",
];
/// Those that HTTP, JSON and OAuth code holds in plain strings while tokens are refreshed: tier 2 of the promise.
pub const OF_REFRESHING: [&str; 7] =
    ["imported refresh", "access", "refresh", "next access", "next refresh", "third refresh", "client secret"];
pub const ROOTS: [&str; 2] = ["root", "next root"];

/// The name of ranges that the host holds.
const HELD: &str = "held";

/// Length of each text but `large`.
const LETTERS: usize = 64;
const LARGE: usize = 20_000;

/// Where the controls lie that a scan must find, in the order of the files of their addresses.
pub const CONTROLS: [&str; 3] = ["control on the stack", "control on the heap", "control in a mapping"];

/// How long the vault is left alone before one looks: what wipes itself after its answer has done so, and with
/// `AuditPolicy::Strict` nothing is left to be written.
const SETTLING: Duration = Duration::from_millis(120);

/// The byte at a place of a secret. Not inlined, so that no two of them are ever in one register.
#[inline(never)]
pub fn byte(seed: u64, what: &str, at: usize) -> u8 {
    let mut state =
        what.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    state = state.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    black_box((state ^ (state >> 31)) as u8)
}

pub fn letter(seed: u64, what: &str, at: usize) -> u8 {
    b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte(seed, what, at) & 31)]
}

pub fn length(what: &str) -> usize {
    if what == "large" { LARGE } else { LETTERS }
}

pub struct Stage {
    folder: PathBuf,
    seed: u64,
    /// How many points the scenario has come to, and how many the parent has seen.
    reached: AtomicUsize,
    seen: AtomicUsize,
    names: Mutex<Vec<&'static str>>,
    /// What the scenario's thread asks the main thread to publish: address and length of a text that it holds still.
    to_publish: Mutex<Option<(&'static str, usize, usize)>>,
}

impl Stage {
    pub fn vault_path(&self) -> PathBuf {
        self.folder.join("vault")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn builder(&self) -> VaultBuilder {
        self.plain_builder().root_key(self.root("root"))
    }

    pub fn plain_builder(&self) -> VaultBuilder {
        Vault::builder(self.vault_path()).threads(2).audit_policy(anchorhold::AuditPolicy::Strict)
    }

    pub fn root(&self, what: &str) -> RawKey {
        let mut bytes = Box::new([0; 32]);
        for (at, place) in bytes.iter_mut().enumerate() {
            *place = byte(self.seed, what, at);
        }
        RawKey::new(RootKey::from_bytes(&mut bytes))
    }

    pub fn text(&self, what: &str) -> SecretString {
        assert!(TEXTS.contains(&what), "{what} is not looked for");
        let mut bytes = vec![0; length(what)];
        for (at, place) in bytes.iter_mut().enumerate() {
            *place = letter(self.seed, what, at);
        }
        // Neither step copies: the buffer has no room to spare.
        SecretString::from(String::from_utf8(bytes).unwrap().into_boxed_str())
    }

    /// Whether `shown` is the secret; looks at one byte at a time.
    pub fn is(&self, what: &str, shown: &str) -> bool {
        shown.len() == length(what) && shown.bytes().enumerate().all(|(at, byte)| byte == letter(self.seed, what, at))
    }

    /// Tells the parent of a secret that the vault made. The main thread does it: this thread's stack is to stay as the vault's
    /// call left it.
    pub fn publish(&self, what: &'static str, text: &str) {
        self.ask_main(what, text.as_bytes());
    }

    /// Bytes that the host holds on purpose, and that a scan passes over.
    pub fn hold(&self, bytes: &[u8]) {
        self.ask_main(HELD, bytes);
    }

    fn ask_main(&self, what: &'static str, bytes: &[u8]) {
        *self.to_publish.lock().unwrap() = Some((what, bytes.as_ptr().expose_provenance(), bytes.len()));
        while self.to_publish.lock().unwrap().is_some() {
            thread::park();
        }
    }

    /// The main thread's part of [`publish`](Self::publish) and [`hold`](Self::hold).
    fn serve(&self, host: &thread::Thread) {
        let mut asked = self.to_publish.lock().unwrap();
        let Some((what, address, length)) = *asked else { return };
        if what == HELD {
            self.write(what, format!("{address} {length}").as_bytes());
        } else {
            // SAFETY: the asking thread waits until the request is taken away, and so do the bytes.
            self.write(what, unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), length) });
        }
        *asked = None;
        host.unpark();
    }

    fn write(&self, what: &str, bytes: &[u8]) {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{what} {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        File::create(self.folder.join("published").join(name)).unwrap().write_all(bytes).unwrap();
    }

    /// Lets the parent look.
    pub fn point(&self, name: &'static str) {
        self.names.lock().unwrap().push(name);
        let reached = self.reached.fetch_add(1, Ordering::AcqRel) + 1;
        // This thread's stack stays as it is while one looks.
        while self.seen.load(Ordering::Acquire) < reached {
            thread::park();
        }
    }
}

thread_local! {
    /// Keeps what a scenario must not drop before one has looked.
    static KEPT: RefCell<Vec<Box<dyn std::any::Any>>> = RefCell::default();
}

pub fn keep(what: impl std::any::Any) {
    KEPT.with_borrow_mut(|kept| kept.push(Box::new(what)));
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures_lite::future::block_on(future)
}

/// Not a test by itself: what runs in the child process.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let scenario = crate::scenarios::find(&std::env::var(SCENARIO).unwrap());
    let stage = Arc::new(Stage {
        folder: folder.into(),
        seed,
        reached: AtomicUsize::new(0),
        seen: AtomicUsize::new(0),
        names: Mutex::default(),
        to_publish: Mutex::default(),
    });
    on_the_heap(&stage);
    in_a_mapping(&stage);
    let worker = {
        let stage = Arc::clone(&stage);
        thread::Builder::new().name("host".into()).spawn(move || {
            on_the_stack(&stage);
            scenario(&stage);
        })
    };
    let worker = worker.unwrap();
    let mut served = 0;
    while !worker.is_finished() {
        thread::sleep(Duration::from_millis(1));
        stage.serve(worker.thread());
        if stage.reached.load(Ordering::Acquire) > served {
            thread::sleep(SETTLING);
            let name = stage.names.lock().unwrap()[served];
            served += 1;
            fs::write(stage.folder.join(format!("new.{served}")), name).unwrap();
            fs::rename(stage.folder.join(format!("new.{served}")), stage.folder.join(format!("point.{served}"))).unwrap();
            while !stage.folder.join(format!("seen.{served}")).exists() {
                thread::sleep(Duration::from_millis(2));
            }
            stage.seen.store(served, Ordering::Release);
            worker.thread().unpark();
        }
    }
    worker.join().unwrap();
}

fn control(stage: &Stage, number: usize, place: &mut [u8]) {
    for (at, place) in place.iter_mut().enumerate() {
        *place = byte(stage.seed, CONTROLS[number], at);
    }
    stage.write(CONTROLS[number], black_box(place).as_ptr().addr().to_string().as_bytes());
}

/// Deep below, where no later work comes.
#[inline(never)]
fn on_the_stack(stage: &Stage) {
    let mut deep = [0; 256 * 1024];
    control(stage, 0, &mut deep[..64]);
    black_box(&mut deep);
}

fn on_the_heap(stage: &Stage) {
    control(stage, 1, Box::leak(vec![0; 64].into_boxed_slice()));
}

fn in_a_mapping(stage: &Stage) {
    // SAFETY: a new mapping of one page, which nothing else knows and which stays.
    let place = unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        std::slice::from_raw_parts_mut(page.cast::<u8>(), 64)
    };
    control(stage, 2, place);
}
