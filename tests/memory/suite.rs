//! The parent: starts a scenario in a child process, and at each point where it stops looks for every secret, from outside.
//!
//! While the child stands still, its whole memory is read through `/proc/PID/mem` (heap, stacks, all mappings that can be written),
//! its environment, and every file of the vault; in the end what it printed. Looked for are the texts and root keys that it was
//! given, the API keys and tokens that the vault made, and every key of the vault, which this side works out from the files by the
//! documented format. Any eight bytes of one in a row count. Locked pages are passed over, and must be left out of core dumps and,
//! where the system has `memfd_secret`, unreadable.
//!
//! The controls are three needles that the child leaves on a stack, on the heap and in a mapping: each must be found at its place
//! in every look, or the look is worth nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anchorhold::{KeyProvider as _, LockKind, Passphrase};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::SecretString;

use crate::finder::{Finder, Hit};
use crate::stage::{CONTROLS, FOLDER, OF_REFRESHING, PORT, ROOT_KEY, ROOTS, SCENARIO, SEED, TEXTS, byte, length, letter};
use crate::{keys, process};

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })*
    };
}

// Each is described in `scenarios.rs` under its name.
scenarios! {
    open_with_raw_key open_with_key_file open_with_environment_variable open_with_passphrase
    put reveal authorize mint_and_check wrong_token damaged_record dropped_future handler_panic
    passivation batched_audit api_keys rotation_of_account_key rotation_of_root_key deletion closing
    refresh_over_http
}

/// A child process with a scenario, and what is known of its secrets.
pub struct Play {
    pub name: &'static str,
    pub child: Child,
    pub folder: tempfile::TempDir,
    pub finder: Finder,
    seed: u64,
    points: usize,
}

fn play(name: &'static str) {
    let mut play = Play::start(name);
    while let Some(point) = play.next_point() {
        play.look(&point);
        play.go_on();
    }
    play.end();
}

impl Play {
    pub fn start(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("published")).unwrap();
        let seed = u64::from(std::process::id()) << 32
            ^ name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["stage::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        child.current_dir(folder.path());
        child.env(SCENARIO, name).env(FOLDER, folder.path()).env(SEED, seed.to_string());
        match name {
            "open_with_key_file" => {
                let path = folder.path().join("root.key");
                fs::write(&path, digits(seed)).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            "open_with_environment_variable" => {
                child.env(ROOT_KEY, digits(seed));
            }
            "refresh_over_http" => {
                child.env(PORT, crate::provider::serve(seed).to_string());
            }
            _ => {}
        }
        let output = |name| Stdio::from(fs::File::create(folder.path().join(name)).unwrap());
        let child = child.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr")).spawn().unwrap();
        let mut finder = Finder::default();
        for what in TEXTS {
            finder.add(what, &text(seed, what));
        }
        for what in ROOTS {
            finder.add(what, &root(seed, what));
        }
        finder.add("digits of the root key", digits(seed).as_bytes());
        let pair = [text(seed, "user"), b":".to_vec(), text(seed, "password")].concat();
        finder.add("user and password in base64", STANDARD.encode(pair).as_bytes());
        Self { name, child, folder, finder, seed, points: 0 }
    }

    pub fn vault(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    /// Waits until the scenario has come to its next point, and stops the process there.
    pub fn next_point(&mut self) -> Option<String> {
        let file = self.folder.path().join(format!("point.{}", self.points + 1));
        let started = Instant::now();
        while !file.exists() {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{}: {status}\n{}{}", self.name, self.printed("stdout"), self.printed("stderr"));
                return None;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{} does not go on:\n{}", self.name, self.printed("stderr"));
            std::thread::sleep(Duration::from_millis(2));
        }
        self.points += 1;
        process::stop(self.child.id());
        Some(fs::read_to_string(file).unwrap())
    }

    pub fn go_on(&mut self) {
        fs::write(self.folder.path().join(format!("seen.{}", self.points)), b"").unwrap();
        process::go_on(self.child.id());
    }

    fn look(&mut self, point: &str) {
        let what = format!("{}, {point}", self.name);
        self.learn();
        let mut finder = self.finder.clone();
        for control in CONTROLS {
            finder.add(control, &control_bytes(self.seed, control));
        }
        let started = Instant::now();
        let seen = process::look(self.child.id(), &finder);
        println!("{what}: {} secrets in {} MiB, {:?}", finder.len(), seen.bytes >> 20, started.elapsed());

        for control in CONTROLS {
            let place: u64 = self.published(control)[0].1.parse().unwrap();
            let found = seen.hits.iter().any(|(hit, _)| hit.name == control && hit.address == place && hit.bytes == 64);
            assert!(found, "{what}: the {control} is not found");
        }
        let held: Vec<(u64, u64)> = self.published("held").iter().map(|(_, range)| parse_range(range)).collect();
        let is_held = |hit: &Hit| held.iter().any(|(start, len)| *start <= hit.address && hit.address + hit.bytes <= start + len);
        // Without the allocator, what other libraries hold of tokens is found once they are refreshed.
        let is_tier_2 = self.name == "refresh_over_http" && !matches!(point, "bootstrapped" | "client set");
        let passed_over = |hit: &Hit| is_tier_2 && !crate::WIPING_ALLOCATOR && OF_REFRESHING.contains(&&*hit.name);
        let left: Vec<_> =
            seen.hits.iter().filter(|(hit, _)| !CONTROLS.contains(&&*hit.name) && !is_held(hit) && !passed_over(hit)).collect();
        let of_others = seen.hits.iter().filter(|(hit, _)| passed_over(hit)).count();
        if of_others > 0 {
            println!("{what}: {of_others} pieces of tokens in what other libraries freed");
        }
        assert!(left.is_empty(), "{what}: left in memory: {left:#x?}");
        let holds = self.name == "authorize" && !crate::WIPING_ALLOCATOR;
        assert!(!holds || seen.hits.iter().any(|(hit, _)| is_held(hit)), "{what}: what the host holds is not found");

        // An open vault has locked pages, and nobody can read them.
        let is_open = !matches!(point, "all gone" | "damage" | "opening dropped");
        assert_eq!(!seen.locked.is_empty(), is_open, "{what}: {:?}", seen.locked);
        assert!(seen.locked.iter().all(|mapping| mapping.undumped), "{what}: dumped with a core: {:?}", seen.locked);
        if lock_kind() == LockKind::MemfdSecret {
            assert!(seen.readable_locked.is_empty(), "{what}: readable: {:?}", seen.readable_locked);
        }

        let environment = process::environment(self.child.id());
        assert_eq!(finder.find(&environment, 0), [], "{what}: in the environment");
        assert!(crate::common::contains(&environment, SCENARIO.as_bytes()));
        self.look_at_files(&what);
        if point == "damage" {
            keys::damage_credentials(&self.vault());
        }
    }

    /// No secret in any file of the vault. The control: its identity is found, in the header.
    fn look_at_files(&self, what: &str) {
        let vault_id = fs::read(self.vault().join("header.a")).unwrap()[33..49].to_vec();
        let mut finder = self.finder.clone();
        finder.add("vault id", &vault_id);
        let mut controls = 0;
        for (path, bytes) in crate::common::files(&self.vault()) {
            let (ids, secrets): (Vec<_>, Vec<_>) = finder.find(&bytes, 0).into_iter().partition(|hit| hit.name == "vault id");
            controls += ids.len();
            assert_eq!(secrets, [], "{what}: in {}", path.display());
        }
        assert!(controls >= 2, "{what}: there are two copies of the header");
    }

    /// Nothing in what the child printed, panic messages included.
    pub fn end(self) {
        assert!(self.points > 0);
        let printed = self.printed("stdout") + &self.printed("stderr");
        assert!(printed.contains("1 passed"), "{printed}");
        assert_eq!(self.finder.find(printed.as_bytes(), 0), [], "{}: printed\n{printed}", self.name);
        if self.name == "handler_panic" {
            assert!(printed.contains("panicked at"), "the control: panics are seen in what is printed");
        }
    }

    fn printed(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn published(&self, what: &str) -> Vec<(String, String)> {
        let files = fs::read_dir(self.folder.path().join("published")).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| name_of(path).rsplit_once(' ').is_some_and(|(name, _)| name == what));
        let mut found: Vec<_> = files.map(|path| (name_of(&path), fs::read_to_string(path).unwrap())).collect();
        found.sort();
        found
    }

    /// Adds what the vault has made since: API keys, tokens, keys.
    pub fn learn(&mut self) {
        for (name, text) in self.published("key") {
            if !self.finder.knows(&name) {
                // Behind the prefix and the id, which are no secrets; and the secret as bytes.
                self.finder.add(&name, &text.as_bytes()[24..]);
                self.finder.add(&format!("{name}, decoded"), &URL_SAFE_NO_PAD.decode(&text[8..]).unwrap()[12..44]);
            }
        }
        for (name, text) in self.published("token") {
            if !self.finder.knows(&name) {
                // Behind the prefix, the version and the handle; as bytes also behind the nonce, which says nothing.
                self.finder.add(&name, &text.as_bytes()[32..]);
                self.finder.add(&format!("{name}, decoded"), &URL_SAFE_NO_PAD.decode(&text[8..]).unwrap()[41..]);
            }
        }
        let mut roots: Vec<[u8; 32]> = ROOTS.iter().map(|what| root(self.seed, what)).collect();
        if self.name == "open_with_passphrase" {
            let parameters = keys::parameters(&self.vault());
            let text = String::from_utf8(text(self.seed, "passphrase")).unwrap();
            let root = Passphrase::new(SecretString::from(text)).root_key(&parameters).unwrap();
            roots.push(*root.expose_secret());
            if !self.finder.knows("root key of the passphrase") {
                self.finder.add("root key of the passphrase", root.expose_secret());
            }
        }
        for (name, key) in keys::of_vault(&self.vault(), &roots) {
            if !self.finder.knows(&name) {
                self.finder.add(&name, &key);
            }
        }
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        // After a failed look: the child may be standing still.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn control_bytes(seed: u64, control: &str) -> Vec<u8> {
    (0..64).map(|at| byte(seed, control, at)).collect()
}

/// Whether a control is somewhere in `bytes`.
pub fn control_bytes_in(play: &Play, number: usize, bytes: &[u8]) -> bool {
    let mut finder = Finder::default();
    finder.add(CONTROLS[number], &control_bytes(play.seed, CONTROLS[number]));
    finder.find(bytes, 0).iter().any(|hit| hit.bytes == 64)
}

/// What this machine can do, as a vault of this process finds it.
pub fn lock_kind() -> LockKind {
    let folder = tempfile::tempdir().unwrap();
    crate::stage::block_on(async {
        let vault = crate::common::open(&folder.path().join("vault")).await;
        let kind = vault.status().lock_kind;
        vault.close().await.unwrap();
        kind
    })
}

fn text(seed: u64, what: &str) -> Vec<u8> {
    (0..length(what)).map(|at| letter(seed, what, at)).collect()
}

fn root(seed: u64, what: &str) -> [u8; 32] {
    std::array::from_fn(|at| byte(seed, what, at))
}

fn digits(seed: u64) -> String {
    root(seed, "root").iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn parse_range(text: &str) -> (u64, u64) {
    let (start, len) = text.split_once(' ').unwrap();
    (start.parse().unwrap(), len.parse().unwrap())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
