//! What was acknowledged is there, whatever failed and whenever. A script runs on the model engine, which counts its operations;
//! for every N the Nth fails, or the machine stops there, and after reopening the state is the acknowledged one, audit included.
//! Only the step that was under way may be there or not, and then as a whole.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorhold::testing::{ManualClock, ModelDisk, ModelTree};
use anchorhold::{
    Account, AccountStatus, ApiKey, AuditEntry, AuditPolicy, Backend, Connection, ConnectionStatus, Credential, Environment,
    Error, MintedToken, NewApiKey, OpenError, PageRequest, Permissions, SessionOptions, Vault,
};
use common::{api_key_connection, block_on, builder, header_provider, id, new_clock, provider, revealed, secret};

#[derive(Clone, Copy, Debug)]
enum Step {
    Create(&'static str),
    SetMetadata(&'static str, &'static str),
    Connect(&'static str, &'static str, &'static str),
    Replace(&'static str, &'static str, &'static str),
    Relabel(&'static str, &'static str, &'static str),
    ReportFailed(&'static str, &'static str),
    Remove(&'static str, &'static str),
    RotateKey(&'static str),
    Disable(&'static str),
    Enable(&'static str),
    Reveal(&'static str, &'static str),
    Mint(&'static str),
    /// Uses the Nth minted token, which is good for one use.
    Consume(usize),
    /// Revokes the Nth minted token.
    Revoke(usize),
    RevokeAll(&'static str),
    NewKey(&'static str),
    /// Rotates the API key of the label; the old one stays good for an hour.
    RotateApiKey(&'static str),
    /// Revokes the newest API key of the label.
    RevokeKey(&'static str),
    SetProvider(&'static str),
    RemoveProvider(&'static str),
    Delete(&'static str),
}

use Step::{
    Connect, Consume, Create, Delete, Disable, Enable, Mint, NewKey, Relabel, Remove, RemoveProvider, Replace, ReportFailed,
    Reveal, Revoke, RevokeAll, RevokeKey, RotateApiKey, RotateKey, SetMetadata, SetProvider,
};

const SCRIPT: &[Step] = &[
    Create("a"),
    SetProvider("crm"),
    Connect("a", "first", "secret 1"),
    Connect("a", "second", "secret 2"),
    Mint("a"),
    Create("b"),
    SetMetadata("b", "plan: gold"),
    Connect("b", "first", "secret 3"),
    Replace("a", "first", "secret 4"),
    RotateKey("a"),
    Mint("a"),
    Mint("a"),
    Consume(1),
    NewKey("ci"),
    Relabel("a", "second", "third"),
    ReportFailed("b", "first"),
    Reveal("a", "third"),
    Remove("a", "third"),
    Disable("b"),
    RotateApiKey("ci"),
    Enable("b"),
    Mint("b"),
    Revoke(2),
    Mint("a"),
    RevokeAll("a"),
    Mint("a"),
    RevokeKey("ci"),
    Delete("b"),
    RemoveProvider("crm"),
    Create("b"),
    Connect("b", "again", "secret 5"),
    SetMetadata("a", "last"),
];

/// What a reader of the vault can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    accounts: BTreeMap<String, AccountState>,
    providers: Vec<String>,
    /// Labels of API keys that are not revoked, in the order of labels.
    keys: Vec<String>,
    /// The actions in the API-key audit.
    audit: Vec<String>,
    /// By the order of minting: can it still be used?
    tokens: Vec<bool>,
    /// By the order of handing out: does it open a backend?
    handed_out: Vec<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AccountState {
    metadata: String,
    disabled: bool,
    connections: BTreeMap<String, ConnectionState>,
    /// The actions in the account's audit.
    audit: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ConnectionState {
    secret: String,
    failed: bool,
}

impl State {
    /// What there is after the first API key was handed out.
    fn first() -> Self {
        Self { audit: vec!["ApiKeyCreated".to_owned()], ..Self::default() }
    }

    fn after(mut self, step: Step, owners: &mut Vec<&'static str>) -> Self {
        match step {
            Create(name) => {
                self.accounts.entry(name.to_owned()).or_default();
                self.note(name, "AccountCreated");
            }
            SetMetadata(name, text) => {
                self.of(name).metadata = text.to_owned();
                self.note(name, "MetadataChanged");
            }
            Connect(name, label, text) => {
                self.of(name).connections.insert(label.to_owned(), whole(text));
                self.note(name, "ConnectionAdded");
            }
            Replace(name, label, text) => {
                self.of(name).connections.insert(label.to_owned(), whole(text));
                self.note(name, "CredentialReplaced");
            }
            Relabel(name, from, to) => {
                let connection = self.of(name).connections.remove(from).unwrap();
                self.of(name).connections.insert(to.to_owned(), connection);
                self.note(name, "ConnectionRelabelled");
            }
            ReportFailed(name, label) => {
                self.of(name).connections.get_mut(label).unwrap().failed = true;
                self.note(name, "ConnectionFailed");
            }
            Remove(name, label) => {
                self.of(name).connections.remove(label);
                self.note(name, "ConnectionRemoved");
            }
            RotateKey(name) => {
                self.end_tokens_of(name, owners);
                self.note(name, "AccountKeyRotated");
            }
            Disable(name) => {
                self.of(name).disabled = true;
                self.note(name, "AccountDisabled");
            }
            Enable(name) => {
                self.of(name).disabled = false;
                self.note(name, "AccountEnabled");
            }
            Reveal(name, _) => self.note(name, "SecretRevealed"),
            Mint(name) => {
                self.tokens.push(true);
                owners.push(name);
                self.note(name, "SessionMinted");
            }
            Consume(number) => {
                self.tokens[number] = false;
                self.note(owners[number], "SessionUsedUp");
            }
            Revoke(number) => {
                self.tokens[number] = false;
                self.note(owners[number], "SessionRevoked");
            }
            RevokeAll(name) => {
                self.end_tokens_of(name, owners);
                self.note(name, "AllSessionsRevoked");
            }
            NewKey(label) => {
                self.keys.push(label.to_owned());
                self.handed_out.push(true);
                self.audit.push("ApiKeyCreated".to_owned());
            }
            RotateApiKey(label) => {
                self.keys.push(label.to_owned());
                self.handed_out.push(true);
                self.audit.push("ApiKeyRotated".to_owned());
            }
            RevokeKey(label) => {
                let newest = self.keys.iter().rposition(|key| key == label).unwrap();
                self.keys.remove(newest);
                *self.handed_out.last_mut().unwrap() = false;
                self.audit.push("ApiKeyRevoked".to_owned());
            }
            SetProvider(name) => {
                self.providers.push(name.to_owned());
                self.audit.push("ProviderSet".to_owned());
            }
            RemoveProvider(name) => {
                self.providers.retain(|other| other != name);
                self.audit.push("ProviderRemoved".to_owned());
            }
            Delete(name) => {
                self.accounts.remove(name);
                self.end_tokens_of(name, owners);
                self.audit.push("AccountDeleted".to_owned());
            }
        }
        self
    }

    fn of(&mut self, name: &str) -> &mut AccountState {
        self.accounts.get_mut(name).unwrap()
    }

    fn note(&mut self, name: &str, action: &str) {
        self.of(name).audit.push(action.to_owned());
    }

    fn end_tokens_of(&mut self, name: &str, owners: &[&'static str]) {
        for (alive, owner) in self.tokens.iter_mut().zip(owners) {
            *alive &= *owner != name;
        }
    }
}

fn whole(secret: &str) -> ConnectionState {
    ConnectionState { secret: secret.to_owned(), failed: false }
}

/// One run of the script on one disk.
struct Run {
    disk: ModelDisk,
    clock: Arc<ManualClock>,
    key: ApiKey,
    tokens: Vec<(&'static str, MintedToken)>,
    handed_out: Vec<ApiKey>,
}

impl Run {
    async fn start() -> (Self, Vault) {
        let disk = ModelDisk::new();
        let clock = new_clock();
        let vault = open(&disk, &clock).await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        (Self { disk, clock, key, tokens: Vec::new(), handed_out: Vec::new() }, vault)
    }

    /// Runs the script up to the first error. Returns how many steps were acknowledged.
    async fn script(&mut self, vault: &Vault) -> (usize, Option<Error>) {
        for (done, step) in SCRIPT.iter().enumerate() {
            if let Err(error) = self.step(vault, *step).await {
                return (done, Some(error));
            }
        }
        (SCRIPT.len(), None)
    }

    async fn step(&mut self, vault: &Vault, step: Step) -> Result<(), Error> {
        let backend = vault.backend(&self.key).await?;
        let account = |name: &'static str| {
            let backend = backend.clone();
            async move { backend.account(&id(name)).await }
        };
        match step {
            Create(name) => drop(backend.create_account(&id(name)).await?),
            SetMetadata(name, text) => account(name).await?.set_metadata(text).await?,
            Connect(name, label, text) => {
                account(name).await?.add_connection(api_key_connection("crm", text).label(label)).await?;
            }
            Replace(name, label, text) => {
                labelled(&account(name).await?, label).await?.replace_credential(Credential::api_key(secret(text))).await?;
            }
            Relabel(name, from, to) => labelled(&account(name).await?, from).await?.set_label(to).await?,
            ReportFailed(name, label) => labelled(&account(name).await?, label).await?.report_failed().await?,
            Remove(name, label) => labelled(&account(name).await?, label).await?.remove().await?,
            RotateKey(name) => account(name).await?.rotate_key().await?,
            Disable(name) => account(name).await?.disable().await?,
            Enable(name) => account(name).await?.enable().await?,
            Reveal(name, label) => drop(revealed(&labelled(&account(name).await?, label).await?).await?),
            Mint(name) => {
                let minted = account(name).await?.mint_session_token(SessionOptions::new().single_use()).await?;
                self.tokens.push((name, minted));
            }
            Consume(number) => drop(vault.session(&self.tokens[number].1.token).await?),
            Revoke(number) => {
                let (owner, minted) = &self.tokens[number];
                account(owner).await?.revoke_session_token(&minted.id).await?;
            }
            RevokeAll(name) => account(name).await?.revoke_all_session_tokens().await?,
            NewKey(label) => {
                let created = backend.create_api_key(NewApiKey::new(label).permissions(Permissions::ALL)).await?;
                self.handed_out.push(created.key);
            }
            RotateApiKey(label) => {
                let id = newest_key(&backend, label).await?;
                self.handed_out.push(backend.rotate_api_key(&id, Duration::from_secs(3_600)).await?.key);
            }
            RevokeKey(label) => backend.revoke_api_key(&newest_key(&backend, label).await?).await?,
            SetProvider(name) => backend.set_provider(header_provider(name)).await?,
            RemoveProvider(name) => backend.remove_provider(&provider(name)).await?,
            Delete(name) => account(name).await?.delete().await?,
        }
        Ok(())
    }

    /// All that a reader of the vault can tell; uses up the tokens, which ends the run.
    async fn read(&self, vault: &Vault) -> State {
        let backend: Backend = vault.backend(&self.key).await.unwrap();
        let mut state = State { audit: api_key_audit(&backend).await, ..State::default() };
        assert!(backend.verify_api_key_audit().await.unwrap().is_intact());
        for info in backend.accounts(PageRequest::first(100)).await.unwrap().items {
            let account = backend.account(&info.id).await.unwrap();
            let disabled = info.status == AccountStatus::Disabled;
            let audit = actions(account.audit(PageRequest::first(1_000)).await.unwrap().items);
            assert!(account.verify_audit().await.unwrap().is_intact());
            if disabled {
                // A disabled account's secrets are read once it is enabled again.
                account.enable().await.unwrap();
            }
            let mut connections = BTreeMap::new();
            for connection in account.connections().await.unwrap() {
                let secret = revealed(&account.connection(&connection.id).await.unwrap()).await.unwrap();
                let failed = matches!(connection.status, ConnectionStatus::ReauthRequired { .. });
                connections.insert(connection.label, ConnectionState { secret, failed });
            }
            if disabled {
                account.disable().await.unwrap();
            }
            let of_account = AccountState { metadata: info.metadata, disabled, connections, audit };
            state.accounts.insert(info.id.as_str().to_owned(), of_account);
        }
        state.providers = backend.providers().await.unwrap().iter().map(|settings| settings.name().to_string()).collect();
        for key in backend.api_keys().await.unwrap() {
            if key.revoked_at.is_none() && key.label != "bootstrap" {
                state.keys.push(key.label);
            }
        }
        for key in &self.handed_out {
            state.handed_out.push(match vault.backend(key).await {
                Ok(_) => true,
                Err(Error::InvalidApiKey) => false,
                Err(other) => panic!("a key is good or it is not: {other:?}"),
            });
        }
        for (_, minted) in &self.tokens {
            state.tokens.push(match vault.session(&minted.token).await {
                Ok(_) => true,
                Err(Error::InvalidToken) => false,
                Err(other) => panic!("a token is good or it is not: {other:?}"),
            });
        }
        state
    }
}

async fn open(disk: &ModelDisk, clock: &Arc<ManualClock>) -> Result<Vault, OpenError> {
    builder(Path::new("unused"))
        .threads(1)
        .model_disk(disk.clone())
        .clock(clock.clone())
        .audit_policy(AuditPolicy::Strict)
        .open()
        .await
}

async fn labelled(account: &Account, label: &str) -> Result<Connection, Error> {
    let infos = account.connections().await?;
    let info = infos.iter().find(|info| info.label == label).expect("the script names what is there");
    account.connection(&info.id).await
}

async fn newest_key(backend: &Backend, label: &str) -> Result<anchorhold::ApiKeyId, Error> {
    let keys = backend.api_keys().await?;
    let of_label = keys.iter().filter(|key| key.label == label && key.revoked_at.is_none());
    // A key that was rotated points to the one that took over.
    Ok(of_label.filter(|key| key.rotated_to.is_none()).map(|key| key.id).next().expect("the script names what is there"))
}

async fn api_key_audit(backend: &Backend) -> Vec<String> {
    actions(backend.api_key_audit(PageRequest::first(1_000)).await.unwrap().items)
}

/// The names of the actions, which must be numbered without a gap.
fn actions(entries: Vec<AuditEntry>) -> Vec<String> {
    let numbers: Vec<u64> = entries.iter().map(|entry| entry.sequence).collect();
    assert_eq!(numbers, (1..=entries.len() as u64).collect::<Vec<_>>());
    let name = |entry: &AuditEntry| {
        let text = format!("{:?}", entry.action);
        text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    entries.iter().map(name).collect()
}

/// The states before each step and after the last.
fn states() -> Vec<State> {
    let mut owners = Vec::new();
    let mut states = vec![State::first()];
    for step in SCRIPT {
        let next = states.last().unwrap().clone().after(*step, &mut owners);
        states.push(next);
    }
    states
}

/// The state is that of the acknowledged steps, or of one more as a whole.
fn check(seen: &State, acknowledged: usize, states: &[State], what: &str) {
    let exactly = &states[acknowledged];
    let mut one_more = states.get(acknowledged + 1).unwrap_or(exactly).clone();
    // The text of a token or key that was not acknowledged is known to nobody.
    one_more.tokens.truncate(seen.tokens.len());
    one_more.handed_out.truncate(seen.handed_out.len());
    assert!(
        seen == exactly || *seen == one_more,
        "{what}: {acknowledged} steps acknowledged, next {:?}\nseen     {seen:?}\nexpected {exactly:?}\nor       {one_more:?}",
        SCRIPT.get(acknowledged)
    );
}

/// A failed operation is reported as what it is: never as an answer about accounts, tokens or keys.
fn is_failure(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Poisoned { .. }) && !error.is_retryable()
}

#[test]
fn script_runs_as_the_model_says() {
    block_on(async {
        let (mut run, vault) = Run::start().await;
        let (acknowledged, error) = run.script(&vault).await;
        assert!(error.is_none(), "step {acknowledged}: {error:?}");
        vault.close().await.unwrap();
        let vault = open(&run.disk, &run.clock).await.unwrap();
        assert_eq!(run.read(&vault).await, *states().last().unwrap());
    });
}

/// What stops the run at the Nth operation.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    /// The operation fails; the process goes on and is ended in order.
    Error,
    /// The operation fails, and power is lost before anything else is written.
    ErrorThenCrash,
    /// The operation takes effect, and then fails all the same: nobody can know.
    InDoubt,
    /// The operation takes effect, and power is lost before anybody hears of it.
    InDoubtThenCrash,
}

#[test]
fn after_an_error_at_any_operation_the_acknowledged_state_is_there() {
    for_every_operation(Stop::Error);
}

#[test]
fn after_an_error_and_power_loss_at_any_operation_the_acknowledged_state_is_there() {
    for_every_operation(Stop::ErrorThenCrash);
}

#[test]
fn after_an_operation_whose_outcome_is_unknown_the_acknowledged_state_is_there() {
    for_every_operation(Stop::InDoubt);
}

#[test]
fn after_power_loss_behind_any_operation_the_acknowledged_state_is_there() {
    for_every_operation(Stop::InDoubtThenCrash);
}

fn for_every_operation(stop: Stop) {
    let started = Instant::now();
    let states = states();
    let mut stopped_at = vec![0; SCRIPT.len() + 1];
    let mut served_on = 0;
    let mut nth = 1;
    loop {
        let finished = block_on(async {
            let what = format!("{stop:?} at operation {nth}");
            let (mut run, vault) = Run::start().await;
            match stop {
                Stop::Error | Stop::ErrorThenCrash => run.disk.fail_nth(nth),
                Stop::InDoubt | Stop::InDoubtThenCrash => run.disk.fail_nth_in_doubt(nth),
            }
            let (acknowledged, error) = run.script(&vault).await;
            assert!(error.as_ref().is_none_or(is_failure), "{what} is taken for an answer: {error:?}");
            stopped_at[acknowledged] += 1;
            if run.disk.disarm() {
                // Nothing had failed when the script was through.
                return true;
            }
            match stop {
                Stop::ErrorThenCrash | Stop::InDoubtThenCrash => run.disk.crash(),
                // A failed read poisons nothing: the same vault, what it keeps in memory included, goes on as if it had not been.
                Stop::Error | Stop::InDoubt if vault.status().poisoned.is_none() => {
                    check(&run.read(&vault).await, acknowledged, &states, &format!("{what}, without reopening"));
                    served_on += 1;
                    return false;
                }
                Stop::Error | Stop::InDoubt => drop(vault.close().await),
            }
            drop(vault);
            let vault = open(&run.disk, &run.clock).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let seen = run.read(&vault).await;
            check(&seen, acknowledged, &states, &what);
            no_orphans(&run.disk, &seen, &what);
            false
        });
        if finished {
            break;
        }
        nth += 1;
        assert!(nth < 5_000, "the script never ran to its end");
    }
    println!(
        "{stop:?}: {nth} operations in {:?}, served on after {served_on}; stopped at each step: {stopped_at:?}",
        started.elapsed()
    );
    // The controls: there was something to fail in every step, and both kinds of operation were met.
    assert!(stopped_at.iter().all(|times| *times > 0), "a step without an operation: {stopped_at:?}");
    assert_eq!(served_on > 0, matches!(stop, Stop::Error | Stop::InDoubt));
}

/// A creation that was interrupted leaves no tree behind once its shard was used.
fn no_orphans(disk: &ModelDisk, seen: &State, what: &str) {
    let trees = disk.trees().into_iter().filter(|tree| matches!(tree, ModelTree::Account(..)) && !disk.rows(*tree).is_empty());
    let trees = trees.count();
    if !seen.accounts.is_empty() {
        assert_eq!(trees, seen.accounts.len(), "{what}: trees without an account");
    }
}

#[test]
fn opening_interrupted_anywhere_loses_nothing() {
    let started = Instant::now();
    let mut run = interrupted_deletion();
    let image = run.disk.image();
    let account = AccountState {
        audit: vec!["AccountCreated".to_owned(), "ConnectionAdded".to_owned()],
        connections: [("first".to_owned(), whole("secret 1"))].into(),
        ..AccountState::default()
    };
    let expected = State {
        accounts: [("a".to_owned(), account)].into(),
        audit: vec!["ApiKeyCreated".to_owned(), "AccountDeleted".to_owned()],
        tokens: vec![false],
        ..State::default()
    };
    for crash in [false, true] {
        let (mut failed, mut nth) = (true, 1);
        while failed {
            let what = format!("opening, operation {nth} fails, power loss: {crash}");
            run.disk = ModelDisk::new();
            run.disk.restore(&image);
            block_on(async {
                if crash {
                    run.disk.fail_nth_in_doubt(nth);
                } else {
                    run.disk.fail_nth(nth);
                }
                match open(&run.disk, &run.clock).await {
                    Ok(vault) => drop(vault),
                    Err(OpenError::Io { .. } | OpenError::Poisoned { .. }) => {}
                    Err(other) => panic!("{what}: {other:?}"),
                }
                failed = !run.disk.disarm();
                if crash {
                    run.disk.crash();
                }
                let vault = open(&run.disk, &run.clock).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert_eq!(run.read(&vault).await, expected, "{what}");
                no_orphans(&run.disk, &expected, &what);
                assert!(!has_tombstone(&run.disk), "{what}: the deletion was not completed");
            });
            nth += 1;
        }
        println!("opening and closing have {} operations; {:?}", nth - 2, started.elapsed());
        assert!(nth > 8, "opening that does so little completes no deletion");
    }
}

/// A disk on which a deletion was decided and not carried out.
fn interrupted_deletion() -> Run {
    for nth in 1.. {
        let run = block_on(async {
            let (mut run, vault) = Run::start().await;
            for step in [Create("a"), Connect("a", "first", "secret 1"), Create("b"), Mint("b")] {
                run.step(&vault, step).await.unwrap();
            }
            run.disk.fail_nth(nth);
            run.step(&vault, Delete("b")).await.expect_err("it was through, and the tombstone was never seen alone");
            run.disk.crash();
            run
        });
        if has_tombstone(&run.disk) {
            return run;
        }
    }
    unreachable!("the loop has no end")
}

fn has_tombstone(disk: &ModelDisk) -> bool {
    disk.rows(ModelTree::Directory).iter().any(|(key, _)| key.get(2) == Some(&b'x'))
}

#[test]
fn creating_a_vault_interrupted_anywhere_can_be_repeated() {
    for in_doubt in [false, true] {
        let (mut failed, mut nth) = (true, 1);
        while failed {
            let what = format!("creating, operation {nth} fails, in doubt: {in_doubt}");
            block_on(async {
                let (disk, clock) = (ModelDisk::new(), new_clock());
                if in_doubt {
                    disk.fail_nth_in_doubt(nth);
                } else {
                    disk.fail_nth(nth);
                }
                let first = match open(&disk, &clock).await {
                    Ok(vault) => vault.bootstrap_api_key(Environment::Test).await.ok(),
                    Err(OpenError::Io { .. } | OpenError::Poisoned { .. }) => None,
                    Err(other) => panic!("{what}: {other:?}"),
                };
                failed = !disk.disarm();
                disk.crash();
                let vault = open(&disk, &clock).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                match (first, vault.bootstrap_api_key(Environment::Test).await) {
                    (Some(key), Err(Error::AlreadyBootstrapped { .. })) | (None, Ok(key)) => {
                        vault.backend(&key).await.unwrap();
                    }
                    // It took effect and nobody heard of it: the key is nobody's.
                    (None, Err(Error::AlreadyBootstrapped { .. })) if in_doubt => {}
                    (first, second) => panic!("{what}: {first:?}, then {second:?}"),
                }
                vault.bootstrap_api_key(Environment::Production).await.unwrap();
            });
            nth += 1;
        }
        assert!(nth > 5);
    }
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_until_reopened_and_what_was_is_served() {
    // Operations that read come first; each of them fails its own caller only.
    let reads = (1..50).take_while(|nth| block_on(operation_fails_for_eight_callers(*nth)) == Failed::Read).count();
    assert!((1..49).contains(&reads), "replacing a credential reads, and then it writes; {reads} reads");
}

#[derive(Debug, PartialEq)]
enum Failed {
    Read,
    Write,
}

async fn operation_fails_for_eight_callers(nth: u64) -> Failed {
    let (disk, clock) = (ModelDisk::new(), new_clock());
    // Entries of reveals may wait, so that reveals go on where nothing can be written.
    let batched = || builder(Path::new("unused")).model_disk(disk.clone()).clock(clock.clone()).open();
    let vault = batched().await.unwrap();
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    let backend = vault.backend(&key).await.unwrap();
    let (account, connection) = common::customer(&backend, "a", "old secret").await;
    disk.fail_nth(nth);
    let calls = (0..8).map(|n| {
        let connection = connection.clone();
        async move { connection.replace_credential(Credential::api_key(secret(&format!("lost {n}")))).await }
    });
    let outcomes = futures_util::future::join_all(calls).await;
    assert!(!disk.disarm());
    if vault.status().poisoned.is_none() {
        let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(matches!(failed[..], [Error::Io { .. }]), "operation {nth}: {failed:?}");
        assert!(revealed(&connection).await.unwrap().starts_with("lost "), "the others were served");
        return Failed::Read;
    }
    // Whoever waited for the write that failed gets an error, and so does whoever comes later.
    for outcome in outcomes {
        assert!(outcome.as_ref().is_err_and(is_failure), "operation {nth}: {outcome:?}");
    }
    let later = account.set_metadata("later").await;
    assert!(matches!(later, Err(Error::Poisoned { .. })), "{later:?}");
    assert!(matches!(backend.create_account(&id("b")).await, Err(Error::Poisoned { .. })));
    assert!(matches!(account.delete().await, Err(Error::Poisoned { .. })));
    assert_eq!(revealed(&connection).await.unwrap(), "old secret", "what was acknowledged is usable meanwhile");
    assert!(vault.close().await.is_err(), "what could not be written is reported");
    drop((vault, backend, account, connection));

    let vault = batched().await.unwrap();
    let backend = vault.backend(&key).await.unwrap();
    assert!(matches!(backend.account(&id("b")).await, Err(Error::NotFound { .. })));
    let account = backend.account(&id("a")).await.unwrap();
    account.set_metadata("works again").await.unwrap();
    assert_eq!(account.info().await.unwrap().metadata, "works again");
    let connection = labelled(&account, "main").await.unwrap();
    assert_eq!(revealed(&connection).await.unwrap(), "old secret");
    Failed::Write
}
