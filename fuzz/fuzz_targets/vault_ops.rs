//! Any order of operations, restarts, crashes and storage faults gives what a plain map gives: what was acknowledged is there
//! exactly, and what failed happened wholly or not at all.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anchorhold::testing::{ManualClock, ModelDisk};
use anchorhold::{
    Account, AccountStatus, ApiKey, Backend, Clock, ConnectionId, Credential, Environment, Error, Grant, LinkedAccountId,
    NewConnection, ProviderName, RawKey, SessionOptions, SessionToken, SessionTokenId, Timestamp, Vault,
};
use libfuzzer_sys::fuzz_target;

/// Longer inputs find nothing that these do not.
const MAX_STEPS: usize = 48;

/// One step, four bytes of the input: kind, account, and two more. Numbers pick from what exists, so that a step of one account
/// often names a thing of another.
#[derive(Clone, Debug)]
enum Step {
    Create {
        who: Who,
        metadata: u8,
    },
    SetMetadata {
        who: Who,
        metadata: u8,
    },
    SetDisabled {
        who: Who,
        disabled: bool,
    },
    Delete {
        who: Who,
    },
    RotateKey {
        who: Who,
    },
    Connect {
        who: Who,
        padding: u16,
    },
    Replace {
        who: Who,
        connection: u8,
        padding: u16,
    },
    Remove {
        who: Who,
        connection: u8,
    },
    Reveal {
        who: Who,
        connection: u8,
    },
    Mint {
        who: Who,
        single_use: bool,
        minutes: u8,
    },
    Present {
        token: u8,
        changed_at: Option<u16>,
    },
    Revoke {
        token: u8,
    },
    RevokeAll {
        who: Who,
    },
    Wait {
        minutes: u8,
    },
    RotateRootKey,
    Restart,
    Crash,
    /// One of the next operations on the disk fails; what it should do is done all the same or not.
    Fault {
        nth: u8,
        done: bool,
    },
}

/// Two ids in both environments, one the other's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    production: bool,
    longer: bool,
}

const EVERYBODY: [Who; 4] = [
    Who { production: false, longer: false },
    Who { production: false, longer: true },
    Who { production: true, longer: false },
    Who { production: true, longer: true },
];

impl Step {
    fn read(bytes: [u8; 4]) -> Self {
        let [kind, account, a, b] = bytes;
        // Half of all steps are of one account, so that they meet.
        let who = EVERYBODY[usize::from((account % 8).saturating_sub(4))];
        let padding = u16::from_be_bytes([a, b]);
        match kind % 24 {
            0 | 1 => Step::Create { who, metadata: a },
            2 => Step::SetMetadata { who, metadata: a },
            3 => Step::SetDisabled { who, disabled: a % 2 == 1 },
            4 => Step::Delete { who },
            5 => Step::RotateKey { who },
            6 | 7 => Step::Connect { who, padding },
            8 => Step::Replace { who, connection: account >> 3, padding },
            9 => Step::Remove { who, connection: a },
            10 | 11 => Step::Reveal { who, connection: a },
            12 | 13 => Step::Mint { who, single_use: a % 2 == 1, minutes: b },
            14..=16 => Step::Present { token: account, changed_at: (a % 4 == 0).then_some(u16::from(b)) },
            17 => Step::Revoke { token: account },
            18 => Step::RevokeAll { who },
            19 => Step::Wait { minutes: a },
            20 => Step::RotateRootKey,
            21 => Step::Restart,
            22 => Step::Crash,
            _ => Step::Fault { nth: a, done: b % 2 == 1 },
        }
    }
}

impl Who {
    fn id(self) -> LinkedAccountId {
        LinkedAccountId::new(if self.longer { "acme/eu" } else { "acme" }).expect("an id")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AccountModel {
    metadata: String,
    disabled: bool,
    connections: BTreeMap<ConnectionId, String>,
    /// Tokens of another one are dead.
    era: u64,
}

#[derive(Clone)]
struct TokenModel {
    token: SessionToken,
    id: SessionTokenId,
    who: Who,
    era: u64,
    expires: Timestamp,
    single_use: bool,
    spent: bool,
}

/// What a step was to do to its account, for when it is in doubt whether it did.
type After = Option<AccountModel>;

struct World {
    disk: ModelDisk,
    clock: Arc<ManualClock>,
    root_key: u8,
    api_keys: [ApiKey; 2],
    vault: Vault,
    backends: [Backend; 2],
    accounts: BTreeMap<Who, AccountModel>,
    tokens: Vec<TokenModel>,
    made: u64,
    fault_armed: bool,
}

fuzz_target!(|data: &[u8]| {
    futures_lite::future::block_on(async {
        let mut world = World::new().await;
        for bytes in data.as_chunks().0.iter().take(MAX_STEPS) {
            world.step(Step::read(*bytes)).await;
        }
        world.disk.disarm();
        world.reopen().await;
        world.expect_all().await;
        for who in world.accounts.keys() {
            let report = world.account(*who).await.expect("it is there").verify_audit().await.expect("a report");
            assert!(report.is_intact(), "{report:?}");
        }
    });
});

impl World {
    async fn new() -> Self {
        let disk = ModelDisk::new();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
        let vault = open(&disk, &clock, 0).await;
        let mut keys = Vec::new();
        for environment in Environment::ALL {
            keys.push(vault.bootstrap_api_key(environment).await.expect("the first key"));
        }
        let api_keys: [ApiKey; 2] = keys.try_into().expect("two environments");
        let backends = enter(&vault, &api_keys).await;
        let (accounts, tokens) = (BTreeMap::new(), Vec::new());
        Self { disk, clock, root_key: 0, api_keys, vault, backends, accounts, tokens, made: 0, fault_armed: false }
    }

    /// Does one step in the vault and in the model, and compares.
    async fn step(&mut self, step: Step) {
        match step {
            Step::Wait { minutes } => self.clock.advance(Duration::from_secs(60 * u64::from(minutes))),
            Step::Restart => self.restart().await,
            Step::Crash => {
                self.disk.crash();
                self.reopen().await;
                self.expect_all().await;
            }
            Step::Fault { nth, done } => {
                let nth = u64::from(nth % 8) + 1;
                if done {
                    self.disk.fail_nth_in_doubt(nth)
                } else {
                    self.disk.fail_nth(nth)
                }
                self.fault_armed = true;
            }
            Step::RotateRootKey if self.fault_armed => {}
            Step::RotateRootKey => {
                self.root_key = self.root_key.wrapping_add(1);
                self.vault.rotate_root_key(RawKey::new([self.root_key; 32])).await.expect("rotated");
            }
            Step::Create { who, metadata } => self.create(who, metadata).await,
            Step::Mint { who, single_use, minutes } => self.mint(who, single_use, minutes).await,
            Step::Present { token, changed_at } => self.present(token, changed_at).await,
            Step::Revoke { token } => self.revoke(token).await,
            Step::SetMetadata { who, .. }
            | Step::SetDisabled { who, .. }
            | Step::Delete { who }
            | Step::RotateKey { who }
            | Step::Connect { who, .. }
            | Step::Replace { who, .. }
            | Step::Remove { who, .. }
            | Step::Reveal { who, .. }
            | Step::RevokeAll { who } => self.change(who, step).await,
        }
    }

    async fn create(&mut self, who: Who, metadata: u8) {
        let text = metadata.to_string();
        let created = self.backend(who).create_account_with(&who.id(), &text).await.map(drop);
        let era = self.next();
        // Idempotent: what is there stays as it is.
        let after = self.accounts.get(&who).cloned().unwrap_or(AccountModel { metadata: text, era, ..Default::default() });
        self.settle(who, Some(after), created).await;
    }

    async fn change(&mut self, who: Who, step: Step) {
        let account = match self.account(who).await {
            Ok(account) => account,
            Err(Error::NotFound { .. }) => return assert!(!self.accounts.contains_key(&who), "{who:?} is lost"),
            Err(error) => {
                let same = self.accounts.get(&who).cloned();
                return self.fault(who, error, same).await;
            }
        };
        let before = self.accounts.get(&who).unwrap_or_else(|| panic!("{who:?} was never created, or deleted")).clone();
        let mut after = before.clone();
        let done = match step {
            Step::SetMetadata { metadata, .. } => {
                after.metadata = metadata.to_string();
                account.set_metadata(&after.metadata).await
            }
            Step::SetDisabled { disabled, .. } => {
                after.disabled = disabled;
                if disabled { account.disable().await } else { account.enable().await }
            }
            Step::Delete { .. } => {
                let deleted = account.delete().await;
                return self.settle(who, None, deleted).await;
            }
            Step::RotateKey { .. } => {
                after.era = self.next();
                account.rotate_key().await
            }
            Step::RevokeAll { .. } => {
                after.era = self.next();
                account.revoke_all_session_tokens().await
            }
            Step::Connect { padding, .. } => {
                let secret = self.secret(padding);
                let connection = NewConnection::new(ProviderName::new("crm").expect("a name"), key(&secret));
                let added = account.add_connection(connection).await;
                // When it fails nobody knows the id that it would have; any will do to compare.
                let id = added.as_ref().map_or(ANY_CONNECTION.parse().expect("an id"), |connection| connection.id());
                after.connections.insert(id, secret);
                added.map(drop)
            }
            Step::Replace { connection, padding, .. } => {
                let secret = self.secret(padding);
                let Some((id, mine)) = self.pick(who, connection) else { return };
                if mine {
                    after.connections.insert(id, secret.clone());
                }
                match account.connection(&id).await {
                    Ok(_) if !mine => panic!("an account has another's connection"),
                    Ok(connection) => connection.replace_credential(key(&secret)).await,
                    Err(error) => expect_foreign(error, mine),
                }
            }
            Step::Remove { connection, .. } => {
                let Some((id, mine)) = self.pick(who, connection) else { return };
                after.connections.remove(&id);
                match account.connection(&id).await {
                    Ok(_) if !mine => panic!("an account has another's connection"),
                    Ok(connection) => connection.remove().await,
                    Err(error) => expect_foreign(error, mine),
                }
            }
            Step::Reveal { connection, .. } => {
                let Some((id, mine)) = self.pick(who, connection) else { return };
                match account.connection(&id).await {
                    Ok(_) if !mine => panic!("an account has another's connection"),
                    Ok(connection) => match connection.reveal(|secret| secret.api_key().map(str::to_owned)).await {
                        Ok(secret) => {
                            assert!(!before.disabled, "a disabled account shows its secrets");
                            assert_eq!(secret.as_ref(), before.connections.get(&id), "another secret");
                            Ok(())
                        }
                        Err(Error::AccountDisabled) if before.disabled => Ok(()),
                        Err(error) => Err(error),
                    },
                    Err(error) => expect_foreign(error, mine),
                }
            }
            _ => unreachable!("not a change of an account"),
        };
        self.settle(who, Some(after), done).await;
    }

    async fn mint(&mut self, who: Who, single_use: bool, minutes: u8) {
        let account = match self.account(who).await {
            Ok(account) => account,
            Err(Error::NotFound { .. }) => return assert!(!self.accounts.contains_key(&who), "{who:?} is lost"),
            Err(error) => {
                let same = self.accounts.get(&who).cloned();
                return self.fault(who, error, same).await;
            }
        };
        let lifetime = Duration::from_secs(60 * (u64::from(minutes) + 1));
        let options = SessionOptions::new().lifetime(lifetime).grants([Grant::ListConnections]);
        let minted = account.mint_session_token(if single_use { options.single_use() } else { options }).await;
        let model = &self.accounts[&who];
        match minted {
            Ok(minted) => {
                assert!(!model.disabled, "a token of a disabled account");
                let (token, id, expires) = (minted.token, minted.id, minted.expires_at);
                self.tokens.push(TokenModel { token, id, who, era: model.era, expires, single_use, spent: false });
            }
            Err(Error::AccountDisabled) if model.disabled => {}
            Err(error) => {
                let same = Some(model.clone());
                self.fault(who, error, same).await;
            }
        }
    }

    async fn present(&mut self, token: u8, changed_at: Option<u16>) {
        if self.tokens.is_empty() {
            return;
        }
        let at = usize::from(token) % self.tokens.len();
        let TokenModel { token, who, era, expires, single_use, spent, .. } = self.tokens[at].clone();
        let mut text = token.expose_secret().to_owned().into_bytes();
        if let Some(place) = changed_at {
            let place = usize::from(place) % text.len();
            text[place] = if text[place] == b'A' { b'B' } else { b'A' };
        }
        let text = SessionToken::from(String::from_utf8(text).expect("ASCII"));
        let good = changed_at.is_none()
            && !spent
            && self.clock.now() < expires
            && self.accounts.get(&who).is_some_and(|account| account.era == era && !account.disabled);
        let outcome = match self.vault.session(&text).await {
            Ok(session) => {
                assert!(good, "a token that is not good opens a session");
                self.tokens[at].spent = single_use;
                let listed = match session.linked_account_id().await {
                    Ok(id) => {
                        assert_eq!(id, who.id());
                        session.connections().await
                    }
                    Err(error) => Err(error),
                };
                listed.map(|listed| {
                    let ids: Vec<_> = listed.iter().map(|info| info.id).collect();
                    assert!(ids.iter().eq(self.accounts[&who].connections.keys()), "a session sees other connections");
                })
            }
            Err(Error::InvalidToken) => return assert!(!good, "a good token is refused"),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let same = self.accounts.get(&who).cloned();
            self.fault(who, error, same).await;
        }
    }

    async fn revoke(&mut self, token: u8) {
        if self.tokens.is_empty() {
            return;
        }
        let at = usize::from(token) % self.tokens.len();
        let (who, id) = (self.tokens[at].who, self.tokens[at].id);
        let revoked = match self.account(who).await {
            Ok(account) => account.revoke_session_token(&id).await,
            Err(Error::NotFound { .. }) if !self.accounts.contains_key(&who) => return,
            Err(error) => Err(error),
        };
        // Of another account under the same id when the token's own was deleted; then the token is dead anyway.
        self.tokens[at].spent = true;
        let same = self.accounts.get(&who).cloned();
        self.settle(who, same, revoked).await;
    }

    /// Takes over what an acknowledged step did; finds out what one did that failed.
    async fn settle(&mut self, who: Who, after: After, done: Result<(), Error>) {
        match (done, after) {
            (Ok(()), Some(after)) => drop(self.accounts.insert(who, after)),
            (Ok(()), None) => drop(self.accounts.remove(&who)),
            (Err(error), after) => self.fault(who, error, after).await,
        }
    }

    /// After a failed step: opens the vault again and accepts the account as it was before the step or as it was to be after.
    async fn fault(&mut self, who: Who, error: Error, after: After) {
        assert!(self.fault_armed, "{error} without a fault");
        assert!(matches!(error, Error::Io { .. } | Error::Poisoned { .. }), "a fault is reported as {error:?}");
        self.reopen().await;
        let found = self.observe(who).await;
        let before = self.accounts.remove(&who);
        let is = |wanted: &After| match (wanted, &found) {
            (None, None) => true,
            (Some(wanted), Some(found)) => {
                let secrets = |account: &AccountModel| account.connections.values().cloned().collect::<BTreeSet<_>>();
                (&wanted.metadata, wanted.disabled, secrets(wanted)) == (&found.metadata, found.disabled, secrets(found))
            }
            _ => false,
        };
        assert!(is(&before) || is(&after), "neither {before:?} nor {after:?} but {found:?}");
        if let Some(mut found) = found {
            found.era = self.next();
            self.accounts.insert(who, found);
        }
        // Whether its tokens were revoked or used is in doubt, so nothing is expected of them.
        self.tokens.retain(|token| token.who != who);
        self.expect_all().await;
    }

    async fn restart(&mut self) {
        let closed = self.vault.close().await;
        assert!(closed.is_ok() || self.fault_armed, "{closed:?}");
        self.reopen().await;
        self.expect_all().await;
    }

    async fn reopen(&mut self) {
        self.disk.disarm();
        self.fault_armed = false;
        let _ = self.vault.close().await;
        self.vault = open(&self.disk, &self.clock, self.root_key).await;
        self.backends = enter(&self.vault, &self.api_keys).await;
    }

    async fn expect_all(&self) {
        for who in EVERYBODY {
            let mut found = self.observe(who).await;
            let wanted = self.accounts.get(&who);
            if let (Some(found), Some(wanted)) = (&mut found, wanted) {
                found.era = wanted.era;
            }
            assert_eq!(found.as_ref(), wanted, "{who:?}");
        }
    }

    /// What the vault has of an account, secrets included. A disabled one is enabled for the look.
    async fn observe(&self, who: Who) -> After {
        let account = match self.account(who).await {
            Ok(account) => account,
            Err(Error::NotFound { .. }) => return None,
            Err(error) => panic!("{who:?} can't be found: {error}"),
        };
        let info = account.info().await.expect("infos");
        let disabled = info.status == AccountStatus::Disabled;
        if disabled {
            account.enable().await.expect("enabled");
        }
        let mut connections = BTreeMap::new();
        for listed in account.connections().await.expect("a list") {
            let connection = account.connection(&listed.id).await.expect("listed");
            let secret = connection.reveal(|secret| secret.api_key().map(str::to_owned)).await.expect("revealed");
            connections.insert(listed.id, secret.expect("an API key"));
        }
        assert_eq!(info.connections, connections.len());
        if disabled {
            account.disable().await.expect("disabled");
        }
        Some(AccountModel { metadata: info.metadata, disabled, connections, era: 0 })
    }

    async fn account(&self, who: Who) -> Result<Account, Error> {
        self.backend(who).account(&who.id()).await
    }

    fn backend(&self, who: Who) -> &Backend {
        &self.backends[usize::from(who.production)]
    }

    /// Any connection of anybody, and whether it is of this account.
    fn pick(&self, who: Who, connection: u8) -> Option<(ConnectionId, bool)> {
        let all: Vec<_> =
            self.accounts.iter().flat_map(|(owner, account)| account.connections.keys().map(|id| (*owner, *id))).collect();
        let (owner, id) = *all.get(usize::from(connection) % all.len().max(1))?;
        Some((id, owner == who))
    }

    fn secret(&mut self, padding: u16) -> String {
        format!("secret {} {}", self.next(), "x".repeat(usize::from(padding % 2048)))
    }

    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

const ANY_CONNECTION: &str = "cn_AAAAAAAAAAAAAAAAAAAAAA";

/// A connection of another account is one that never was.
fn expect_foreign(error: Error, mine: bool) -> Result<(), Error> {
    match error {
        Error::NotFound { .. } if !mine => Ok(()),
        error => Err(error),
    }
}

fn key(secret: &str) -> Credential {
    Credential::api_key(secret.into())
}

async fn open(disk: &ModelDisk, clock: &Arc<ManualClock>, root_key: u8) -> Vault {
    let builder = Vault::builder("unused").root_key(RawKey::new([root_key; 32])).threads(1);
    builder.model_disk(disk.clone()).clock(clock.clone()).open().await.expect("the vault opens again")
}

async fn enter(vault: &Vault, api_keys: &[ApiKey; 2]) -> [Backend; 2] {
    [vault.backend(&api_keys[0]).await.expect("test"), vault.backend(&api_keys[1]).await.expect("production")]
}
