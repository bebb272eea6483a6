//! The parent: starts the process, kills it, and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anchorhold::{ApiKey, Environment, Error, PageRequest, Revealed, SessionToken, Vault, VaultHead};

use crate::child;
use crate::common::{block_on, from_env, id, root_key_of};
use crate::model::{Account, Chance, Change, Model, TASKS};
use crate::provider;

/// When the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// So long after it began to open the vault.
    Opening(Duration),
    /// So long after the vault was open and so many changes were acknowledged: as many on a slow machine as on a fast one.
    Working(u64, Duration),
    /// So long after it began to delete an account.
    Deleting(Duration),
    /// So long after it began to rotate the root key.
    RotatingRoot(Duration),
}

/// What was counted.
#[derive(Default)]
pub struct Counts {
    killed: BTreeMap<&'static str, u64>,
    acknowledged: u64,
    /// Refreshes of tokens among them, and tokens for single use that were used.
    refreshed: u64,
    used_up: u64,
    /// Changes under way, by what became of them.
    kept: u64,
    undone: u64,
    unseen: u64,
}

/// What a process said before it died.
#[derive(Default)]
pub struct Told {
    opened: bool,
    /// Acknowledged changes in their order, with the answer.
    pub acknowledged: Vec<(Change, Option<String>)>,
    pub under_way: Vec<Change>,
}

#[test]
fn killed_processes_lose_nothing_that_was_acknowledged() {
    let rounds = from_env("ANCHORHOLD_CRASH_ROUNDS", 20);
    let seed = from_env("ANCHORHOLD_CRASH_SEED", u64::from(std::process::id()));
    println!("ANCHORHOLD_CRASH_SEED={seed}");
    let (started, mut chance, mut counts) = (Instant::now(), Chance(seed), Counts::default());
    let mut round = 0;
    while round < rounds {
        // A new vault now and then: young ones are made, old ones are long.
        let mut run = Run::new();
        for _ in 0..(rounds - round).min(100) {
            run.round(round, &mut chance, &mut counts);
            round += 1;
        }
    }
    println!(
        "{round} rounds in {:?}; killed while {:?}; {} changes acknowledged ({} refreshes, {} \
         single uses), none lost; of those under way {} were there, {} were \
         not, {} change nothing that can be seen",
        started.elapsed(),
        counts.killed,
        counts.acknowledged,
        counts.refreshed,
        counts.used_up,
        counts.kept,
        counts.undone,
        counts.unseen,
    );
    // The controls: there was something to lose, and every moment was met.
    assert!(counts.acknowledged > 10 * rounds && counts.kept + counts.undone > 0);
    assert!(rounds < 100 || (counts.refreshed > 0 && counts.used_up > 0));
    assert!(rounds < 20 || counts.killed.len() == 4, "{:?}", counts.killed);
}

pub struct Run {
    pub folder: tempfile::TempDir,
    key: ApiKey,
    pub model: Model,
    head: Option<VaultHead>,
    /// The root key that a killed rotation was going to.
    pub next_root: Option<u8>,
    /// More variables for the process.
    pub preload: Vec<(&'static str, PathBuf)>,
}

impl Run {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Model { root: 1, ..Model::default() };
        let key = block_on(async {
            let vault = child::open(&crate::common::vault_path(&folder), model.root, None).await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            provider::set_up(&vault.backend(&key).await.unwrap()).await;
            vault.close().await.unwrap();
            key
        });
        Self { folder, key, model, head: None, next_root: None, preload: Vec::new() }
    }

    /// One with the same key and model, and no files.
    pub fn beside(other: &Self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, model) = (other.key.clone(), other.model.clone());
        Self { folder, key, model, head: None, next_root: None, preload: Vec::new() }
    }

    pub fn path(&self) -> PathBuf {
        crate::common::vault_path(&self.folder)
    }

    /// One process lives and dies; sometimes another one dies while it opens what that left.
    fn round(&mut self, turn: u64, chance: &mut Chance, counts: &mut Counts) {
        let micros = |chance: &mut Chance, limit| Duration::from_micros(chance.below(limit));
        let when = match turn % 5 {
            0 => When::Opening(micros(chance, 25_000)),
            1 => When::Deleting(micros(chance, 30_000)),
            2 => When::RotatingRoot(micros(chance, 40_000)),
            _ => When::Working(chance.below(60), micros(chance, 20_000)),
        };
        let rotates = matches!(when, When::RotatingRoot(_)) || chance.below(8) == 0;
        let next = rotates.then_some(self.model.root + 1);
        let told = self.life_of_one(when, next, false, chance, counts);
        for (change, answer) in &told.acknowledged {
            self.model.apply(change, answer.as_deref());
            counts.acknowledged += 1;
            counts.refreshed += u64::from(matches!(change, Change::Refresh { .. }));
            counts.used_up += u64::from(matches!(change, Change::UseUp { .. }));
        }
        let rotating = told.under_way.iter().any(|change| matches!(change, Change::RotateRoot { .. }));
        self.next_root = next.filter(|_| rotating);
        if chance.below(3) == 0 {
            // Another one dies while it opens what the first has left.
            let again = When::Opening(Duration::from_micros(chance.below(25_000)));
            let told = self.life_of_one(again, self.next_root, true, chance, counts);
            assert!(told.acknowledged.is_empty() && told.under_way.is_empty());
        }
        self.check(told.under_way, counts);
    }

    pub fn life_of_one(&self, when: When, next: Option<u8>, only_opens: bool, chance: &mut Chance, counts: &mut Counts) -> Told {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["child::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        process.env(child::PATH, self.path()).env(child::KEY, self.key.expose_secret());
        process.env(child::SEED, chance.next().to_string()).env(child::ROOT, self.model.root.to_string());
        if let Some(next) = next {
            process.env(child::NEXT_ROOT, next.to_string());
        }
        process.envs(self.preload.iter().map(|(name, value)| (name, value)));
        if only_opens {
            process.env(child::ONLY_OPENS, "1");
        }
        let mut process = process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(&mut process);
        let (mut told, mut pending) = (Told::default(), BTreeMap::new());
        let mut deadline: Option<Instant> = None;
        let mut killed = false;
        loop {
            let patience =
                deadline.map_or(Duration::from_secs(30), |deadline| deadline.saturating_duration_since(Instant::now()));
            match lines.recv_timeout(if killed { Duration::from_secs(30) } else { patience }) {
                Ok(line) => {
                    let begins = |word: &str| line.starts_with("> ") && line.split(' ').nth(2) == Some(word);
                    let acknowledged = told.acknowledged.len() as u64 + u64::from(line.starts_with("< "));
                    let after = match when {
                        When::Opening(after) if line == "opening" => Some(after),
                        When::Working(changes, after) if line == "open" && changes == 0 => Some(after),
                        When::Working(changes, after) if told.opened && acknowledged >= changes => Some(after),
                        When::Deleting(after) if begins("delete") => Some(after),
                        When::RotatingRoot(after) if begins("rotate-root") => Some(after),
                        _ => None,
                    };
                    if let Some(after) = after.filter(|_| deadline.is_none()) {
                        deadline = Some(Instant::now() + after);
                    }
                    if line.is_empty() {
                        // A panic begins with an empty line.
                        let said: Vec<_> = std::iter::from_fn(|| lines.recv_timeout(Duration::from_secs(2)).ok()).collect();
                        panic!("the process panicked: {}; under way: {pending:?}", said.join("\n"));
                    }
                    told.take_in(&line, &mut pending);
                }
                Err(RecvTimeoutError::Timeout) if !killed => {
                    assert!(deadline.is_some(), "the process does nothing: {when:?}, {pending:?}");
                    process.kill().unwrap();
                    killed = true;
                }
                Err(RecvTimeoutError::Timeout) => panic!("the pipe of a killed process stays open"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = process.wait().unwrap();
        assert!(killed, "the process ended by itself: {status}");
        let moment = match when {
            When::Opening(_) if !told.opened => "opening",
            When::Opening(_) | When::Working(..) => "working",
            When::Deleting(_) => "deleting",
            When::RotatingRoot(_) => "rotating the root key",
        };
        *counts.killed.entry(moment).or_default() += 1;
        told.under_way = pending.into_values().collect();
        told
    }

    /// Opens the vault and compares. What was under way is taken over as it is found.
    pub fn check(&mut self, under_way: Vec<Change>, counts: &mut Counts) {
        block_on(async {
            let what = format!("under way: {}", under_way.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
            let vault = self.open_again(&what).await;
            let backend = vault.backend(&self.key).await.unwrap();
            let seen = read(&vault, &self.key).await;
            let changing = under_way.iter().filter_map(Change::account);
            let names: BTreeSet<&str> =
                seen.keys().chain(self.model.accounts.keys()).map(String::as_str).chain(changing).collect();
            for name in names {
                let expected = self.model.accounts.get(name);
                let found = seen.get(name);
                let change = under_way.iter().find(|change| change.account() == Some(name));
                let Some(change) = change else {
                    assert_eq!(found, expected, "{name}; {what}");
                    continue;
                };
                let mut after = self.model.clone();
                if !change.mints() {
                    after.apply(change, None);
                }
                let as_a_whole = after.accounts.get(name);
                assert!(
                    found == expected || found == as_a_whole,
                    "{name}: {found:?} is neither {expected:?} nor {as_a_whole:?}; {what}"
                );
                match (expected == as_a_whole, found == as_a_whole) {
                    (true, _) => counts.unseen += 1,
                    (false, true) => counts.kept += 1,
                    (false, false) => counts.undone += 1,
                }
            }
            self.check_tokens(&vault, &under_way, &what).await;
            for name in seen.keys() {
                assert!(backend.account(&id(name)).await.unwrap().verify_audit().await.unwrap().is_intact(), "{name}; {what}");
            }
            assert!(backend.verify_api_key_audit().await.unwrap().is_intact());
            let report = vault.verify().await.unwrap();
            assert!(report.damaged.is_empty(), "{:?}; {what}", report.damaged);
            assert!(seen.len() < 18 || vault.status().shards >= 8, "{} shards", vault.status().shards);
            self.head = Some(vault.head().await.unwrap());
            vault.close().await.unwrap();
            self.model.accounts = seen;
        });
    }

    async fn open_again(&mut self, what: &str) -> Vault {
        if let Some(next) = self.next_root.take() {
            let vault = child::open(&self.path(), self.model.root, Some(next)).await;
            let vault = vault.unwrap_or_else(|error| panic!("{error:?}; {what}"));
            // Completed if it had begun, or made now: either way it is the root key from here on.
            vault.rotate_root_key(root_key_of(next)).await.unwrap_or_else(|error| panic!("{error:?}; {what}"));
            vault.close().await.unwrap();
            self.model.root = next;
        }
        let builder = crate::common::builder(&self.path())
            .trees_per_shard(crate::model::TREES_PER_SHARD)
            .commit_log_bytes(128 * 1024)
            .section_from_bytes(0);
        let builder = builder.root_key(root_key_of(self.model.root));
        let builder = match self.head {
            Some(head) => builder.expect_head(head),
            None => builder,
        };
        builder.open().await.unwrap_or_else(|error| panic!("{error:?}; {what}"))
    }

    async fn check_tokens(&mut self, vault: &Vault, under_way: &[Change], what: &str) {
        let mut after = self.model.clone();
        for change in under_way.iter().filter(|change| !change.mints()) {
            after.apply(change, None);
        }
        for (text, (owner, good)) in &mut self.model.tokens {
            let found = match vault.session(&SessionToken::from(text.as_str())).await {
                Ok(_) => true,
                Err(Error::InvalidToken) => false,
                Err(error) => panic!("a token of {owner}: {error:?}; {what}"),
            };
            assert!(found == *good || found == after.tokens[text].1, "a token of {owner} is good: {found}; {what}");
            *good = found;
            if found && self.model.once.contains(text) {
                let again = vault.session(&SessionToken::from(text.as_str())).await;
                assert!(matches!(again, Err(Error::InvalidToken)), "a token of {owner} opens two sessions; {what}");
                *good = false;
            }
        }
        // Enough of them are kept to check.
        while self.model.tokens.len() > 60 {
            self.model.tokens.pop_first();
        }
    }
}

/// All accounts with what they hold.
async fn read(vault: &Vault, key: &ApiKey) -> BTreeMap<String, Account> {
    let backend = vault.backend(key).await.unwrap();
    let mut seen = BTreeMap::new();
    for info in backend.accounts(PageRequest::first(1_000)).await.unwrap().items {
        let account = backend.account(&info.id).await.unwrap();
        let mut connections = BTreeMap::new();
        for connection in account.connections().await.unwrap() {
            let shown = account.connection(&connection.id).await.unwrap();
            let text = |shown: &Revealed| shown.api_key().or(shown.access_token()).unwrap().to_owned();
            let secret = shown.reveal(text).await.unwrap();
            connections.insert(connection.label, secret);
        }
        seen.insert(info.id.as_str().to_owned(), Account { metadata: info.metadata, connections });
    }
    seen
}

fn lines_of(process: &mut Child) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    let pipe = BufReader::new(process.stderr.take().unwrap());
    std::thread::spawn(move || {
        // A last line that was cut short was not written, so what it tells of had not happened or not been told.
        for line in pipe.split(b'\n').map_while(Result::ok) {
            let _ = send.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    receive
}

impl Told {
    pub fn take_in(&mut self, line: &str, pending: &mut BTreeMap<usize, Change>) {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words[..] {
            ["opening"] => {}
            ["open"] => self.opened = true,
            [">", task, change] => {
                let change = change.parse().unwrap_or_else(|change| panic!("the process said: {change}"));
                assert!(pending.insert(number(task), change).is_none(), "{line}");
            }
            ["<", task, ref answer @ ..] => {
                let change = pending.remove(&number(task)).unwrap_or_else(|| panic!("{line}"));
                self.acknowledged.push((change, answer.first().map(|text| (*text).to_owned())));
            }
            _ => panic!("the process said: {line}"),
        }
    }
}

fn number(task: &str) -> usize {
    let number = task.parse().unwrap();
    assert!(number <= TASKS);
    number
}

#[test]
fn a_state_that_is_neither_old_nor_new_would_be_noticed() {
    let mut run = Run::new();
    let mut counts = Counts::default();
    let create = Change::Create { account: "customer-0-0".into(), metadata: "m".into() };
    // The vault is empty, and the model says that the account was acknowledged.
    run.model.apply(&create, None);
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check(Vec::new(), &mut counts)));
    assert!(noticed.is_err());
    // Under way it may be missing.
    run.model.accounts.clear();
    run.check(vec![create], &mut counts);
    assert_eq!((counts.kept, counts.undone), (0, 1));
}

#[test]
fn changes_are_read_as_they_are_written() {
    let account = || "customer-1-2".to_owned();
    for change in [
        Change::Create { account: account(), metadata: "m".into() },
        Change::Add { account: account(), label: "l".into(), secret: "s".into() },
        Change::Revoke { account: account(), token: "st_test_x".into() },
        Change::Delete { account: account() },
        Change::MintOnce { account: account() },
        Change::UseUp { account: account(), token: "st_test_y".into() },
        Change::Connect { account: account(), label: "o".into(), secret: "s".into() },
        Change::Refresh { account: account(), label: "o".into(), secret: "t".into() },
        Change::RotateRoot { number: 7 },
    ] {
        assert_eq!(change.to_string().parse::<Change>(), Ok(change));
    }
}
