//! The plain-map model of a vault: what each step must give, worked out without keys, files or actors.

use std::collections::{BTreeMap, BTreeSet};

use anchorhold::{Environment, Grant, Grants, Item, Permission, Permissions};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::steps::{
    ConnectionAction, Existing, Forgery, IDS, KeyAction, MintOptions, Owner, SessionAction, Step, Through, any_step, pick,
};

/// What came of a step, in words that the model and the vault have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The step picks from nothing and is left out.
    Skipped,
    Done,
    NotFound(Item),
    AccountDisabled,
    InvalidToken,
    InvalidApiKey,
    PermissionDenied(Permission),
    NotGranted(Grant),
    Id(Owner),
    Secret(String),
    Connection(Listed),
    Connections(BTreeSet<Listed>),
    Account(Facts),
    Accounts(BTreeSet<(usize, Facts)>),
    /// How many connections the account's audit tells of.
    Audit {
        added: usize,
    },
    /// Keys by number, and whether each is good.
    Keys(BTreeSet<(usize, bool)>),
    Verified {
        accounts: usize,
    },
}

const NO_ACCOUNT: Outcome = Outcome::NotFound(Item::LinkedAccount);
const NO_CONNECTION: Outcome = Outcome::NotFound(Item::Connection);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facts {
    pub metadata: String,
    pub disabled: bool,
    pub connections: usize,
}

/// A connection as a list shows it; `number` counts all connections ever made in the case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub number: usize,
    pub provider: usize,
    pub label: String,
    pub failed: bool,
}

#[derive(Clone, Debug)]
pub struct World {
    pub minute: u64,
    pub accounts: BTreeMap<Owner, AccountModel>,
    pub connections: Vec<ConnectionModel>,
    pub tokens: Vec<TokenModel>,
    pub keys: Vec<KeyModel>,
    /// Sessions opened since the last restart, by token.
    pub held_sessions: Vec<usize>,
    /// Account handles kept since the last restart: owner and birth.
    pub held_accounts: Vec<(Owner, u64)>,
    /// Connections with a smaller number, and keys likewise, were made before the last restart: their handles are gone.
    pub handles_from: (usize, usize),
    providers: BTreeSet<(Environment, usize)>,
    births: u64,
    secrets: u64,
    /// What the step that led here must give.
    pub expected: Outcome,
}

#[derive(Clone, Debug)]
pub struct AccountModel {
    /// Tells a re-created account from its predecessor.
    pub birth: u64,
    pub metadata: String,
    pub disabled: bool,
    /// Raised by what ends all session tokens.
    epoch: u64,
}

#[derive(Clone, Debug)]
pub struct ConnectionModel {
    pub owner: Owner,
    pub birth: u64,
    pub provider: usize,
    pub secret: String,
    label: String,
    failed: bool,
    removed: bool,
}

#[derive(Clone, Debug)]
pub struct TokenModel {
    pub owner: Owner,
    pub birth: u64,
    epoch: u64,
    expires: u64,
    options: MintOptions,
    consumed: bool,
    revoked: bool,
}

#[derive(Clone, Debug)]
pub struct KeyModel {
    pub environment: Environment,
    ids: Option<u8>,
    permissions: Permissions,
    ends: Option<u64>,
}

pub fn metadata_text(number: u8) -> String {
    format!("plan {number}")
}

pub fn label_text(number: u8) -> String {
    format!("label {number}")
}

pub fn grants(bits: u8) -> Grants {
    Grant::ALL.iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0).map(|(_, grant)| *grant).collect()
}

pub fn permissions(bits: u8) -> Permissions {
    Permission::ALL.iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0).map(|(_, permission)| *permission).collect()
}

impl World {
    fn new() -> Self {
        Self {
            minute: 0,
            accounts: BTreeMap::new(),
            connections: Vec::new(),
            tokens: Vec::new(),
            keys: Vec::new(),
            held_sessions: Vec::new(),
            held_accounts: Vec::new(),
            handles_from: (0, 0),
            providers: Environment::ALL.into_iter().flat_map(|environment| [0, 1, 2].map(|n| (environment, n))).collect(),
            births: 0,
            secrets: 0,
            expected: Outcome::Done,
        }
    }

    pub fn facts(&self, owner: Owner) -> Option<Facts> {
        let account = self.accounts.get(&owner)?;
        let connections = self.listed(owner, None).len();
        Some(Facts { metadata: account.metadata.clone(), disabled: account.disabled, connections })
    }

    /// The connections that the account has, as a list shows them.
    pub fn listed(&self, owner: Owner, provider: Option<usize>) -> BTreeSet<Listed> {
        (0..self.connections.len())
            .filter(|number| self.own(owner, *number))
            .map(|number| self.as_listed(number))
            .filter(|listed| provider.is_none_or(|only| only == listed.provider))
            .collect()
    }

    #[expect(clippy::too_many_lines, reason = "one arm per kind of step")]
    fn step(&mut self, step: &Step) -> Result<Outcome, Outcome> {
        use Outcome::{Done, InvalidApiKey, InvalidToken, Skipped};
        match *step {
            Step::Create { owner, metadata } => {
                self.create(owner, metadata.map(metadata_text).unwrap_or_default());
                Ok(Done)
            }
            Step::SetMetadata { owner, metadata } => self.account_mut(owner).map(|account| {
                account.metadata = metadata_text(metadata);
                Done
            }),
            Step::Disable { owner } => self.account_mut(owner).map(|account| {
                account.disabled = true;
                Done
            }),
            Step::Enable { owner } => self.account_mut(owner).map(|account| {
                account.disabled = false;
                Done
            }),
            Step::Delete { owner } => self.accounts.remove(&owner).map(|_| Done).ok_or(NO_ACCOUNT),
            // A new account key comes with a new token key: no token survives it.
            Step::RotateKey { owner } | Step::RevokeAllTokens { owner } => self.account_mut(owner).map(|account| {
                account.epoch += 1;
                Done
            }),
            Step::Describe { owner } => self.facts(owner).map(Outcome::Account).ok_or(NO_ACCOUNT),
            Step::ReadAudit { owner } => {
                let birth = self.accounts.get(&owner).ok_or(NO_ACCOUNT)?.birth;
                let added = self.connections.iter().filter(|made| (made.owner, made.birth) == (owner, birth)).count();
                Ok(Outcome::Audit { added })
            }
            Step::HoldAccount { owner } => {
                let birth = self.accounts.get(&owner).ok_or(NO_ACCOUNT)?.birth;
                self.held_accounts.push((owner, birth));
                Ok(Done)
            }
            Step::UseHeldAccount { account, connection } => {
                let (owner, birth) = self.held_accounts[pick(&self.held_accounts, account).ok_or(Skipped)?];
                self.alive(owner, birth)?;
                let connection = self.found(owner, connection)?;
                self.enabled(owner)?;
                Ok(self.secret(connection))
            }

            Step::Connect { owner, provider, label } => {
                let birth = self.accounts.get(&owner).ok_or(NO_ACCOUNT)?.birth;
                let (secret, label) = (self.next_secret(owner), label_text(label));
                self.connections.push(ConnectionModel { owner, birth, provider, label, secret, failed: false, removed: false });
                Ok(Done)
            }
            Step::OnConnection { owner, connection, through: Through::Held, action } => match self.held_connection(connection) {
                Some(number) => {
                    let ConnectionModel { owner, birth, .. } = self.connections[number];
                    self.alive(owner, birth)?;
                    self.on_connection(owner, number, action)
                }
                None => self.on_found(owner, connection, action),
            },
            Step::OnConnection { owner, connection, through: Through::Fresh, action } => self.on_found(owner, connection, action),

            Step::Mint { owner, options } => self.mint(owner, options),
            Step::Present { token, forgery, origin, action } => {
                let number = pick(&self.tokens, token).ok_or(Skipped)?;
                let token = &self.tokens[number];
                let genuine = match forgery {
                    Forgery::None => true,
                    // The handle of another token of the same account is the same handle.
                    Forgery::HandleOf(other) => {
                        let other = &self.tokens[pick(&self.tokens, other).ok_or(Skipped)?];
                        (other.owner, other.birth) == (token.owner, token.birth)
                    }
                    Forgery::OtherEnvironment | Forgery::ChangedCharacter(_) | Forgery::Shortened(_) => false,
                };
                let origin_fits = !token.options.origin || origin == Some(0);
                if !genuine || !origin_fits || token.consumed || !self.stands(token) {
                    return Err(InvalidToken);
                }
                self.tokens[number].consumed = token.options.single_use;
                self.held_sessions.push(number);
                self.in_session(number, action)
            }
            Step::UseHeldSession { session, action } => {
                let number = self.held_sessions[pick(&self.held_sessions, session).ok_or(Skipped)?];
                if !self.stands(&self.tokens[number]) {
                    return Err(InvalidToken);
                }
                self.in_session(number, action)
            }
            Step::RevokeToken { owner, token } => {
                let number = pick(&self.tokens, token).ok_or(Skipped)?;
                let birth = self.accounts.get(&owner).ok_or(NO_ACCOUNT)?.birth;
                let token = &mut self.tokens[number];
                // Revoking is the account's own affair: the id of another's token revokes nothing.
                token.revoked |= (token.owner, token.birth) == (owner, birth);
                Ok(Done)
            }

            Step::ListAccounts { environment } => {
                let owners = (0..IDS.len()).map(|id| Owner { environment, id });
                Ok(Outcome::Accounts(owners.filter_map(|owner| self.facts(owner).map(|facts| (owner.id, facts))).collect()))
            }
            Step::SetProvider { environment, provider } => {
                self.providers.insert((environment, provider));
                Ok(Done)
            }
            Step::RemoveProvider { environment, provider } => {
                let was_there = self.providers.remove(&(environment, provider));
                if was_there { Ok(Done) } else { Err(Outcome::NotFound(Item::Provider)) }
            }
            Step::NewKey { environment, ids, permissions: bits } => {
                self.keys.push(KeyModel { environment, ids, permissions: permissions(bits), ends: None });
                Ok(Done)
            }
            Step::RevokeKey { key } => {
                let key = pick(&self.keys, key).ok_or(Skipped)?;
                self.keys[key].ends = Some(0);
                Ok(Done)
            }
            Step::RotateApiKey { key, grace_minutes } => {
                let number = pick(&self.keys, key).ok_or(Skipped)?;
                if !self.is_good(&self.keys[number]) {
                    return Err(Outcome::NotFound(Item::ApiKey));
                }
                let mut successor = self.keys[number].clone();
                successor.ends = None;
                self.keys.push(successor);
                let end = self.minute + u64::from(grace_minutes);
                let key = &mut self.keys[number];
                key.ends = Some(key.ends.map_or(end, |earlier| earlier.min(end)));
                Ok(Done)
            }
            Step::ListKeys { environment } => {
                let keys = self.keys.iter().enumerate().filter(|(_, key)| key.environment == environment);
                Ok(Outcome::Keys(keys.map(|(number, key)| (number, self.is_good(key))).collect()))
            }
            Step::ActWithKey { key, id, connection, action, .. } => {
                let key = self.keys[pick(&self.keys, key).ok_or(Skipped)?].clone();
                if !self.is_good(&key) {
                    return Err(InvalidApiKey);
                }
                self.with_key(&key, Owner { environment: key.environment, id }, connection, action)
            }

            Step::RotateRootKey => Ok(Done),
            Step::Verify => Ok(Outcome::Verified { accounts: self.accounts.len() }),
            Step::Wait { minutes } => {
                self.minute += u64::from(minutes);
                Ok(Done)
            }
            Step::Restart(_) => {
                self.held_sessions.clear();
                self.held_accounts.clear();
                self.handles_from = (self.connections.len(), self.keys.len());
                Ok(Done)
            }
        }
    }

    fn create(&mut self, owner: Owner, metadata: String) {
        if !self.accounts.contains_key(&owner) {
            self.births += 1;
            self.accounts.insert(owner, AccountModel { birth: self.births, metadata, disabled: false, epoch: 0 });
        }
    }

    fn mint(&mut self, owner: Owner, options: MintOptions) -> Result<Outcome, Outcome> {
        let account = self.enabled(owner)?;
        let (birth, epoch, expires) = (account.birth, account.epoch, self.minute + u64::from(options.minutes));
        self.tokens.push(TokenModel { owner, birth, epoch, expires, options, consumed: false, revoked: false });
        Ok(Outcome::Done)
    }

    fn on_found(&mut self, owner: Owner, connection: u8, action: ConnectionAction) -> Result<Outcome, Outcome> {
        let number = self.found(owner, connection)?;
        self.on_connection(owner, number, action)
    }

    /// Through a handle of a connection of an account that is there.
    fn on_connection(&mut self, owner: Owner, number: usize, action: ConnectionAction) -> Result<Outcome, Outcome> {
        if matches!(action, ConnectionAction::Reveal | ConnectionAction::Authorize) {
            self.enabled(owner)?;
        }
        if !self.own(owner, number) {
            return Err(NO_CONNECTION);
        }
        match action {
            ConnectionAction::Describe => return Ok(Outcome::Connection(self.as_listed(number))),
            ConnectionAction::Reveal => return Ok(self.secret(number)),
            ConnectionAction::Authorize => return self.authorized(number),
            ConnectionAction::Replace => {
                let secret = self.next_secret(owner);
                let connection = &mut self.connections[number];
                (connection.secret, connection.failed) = (secret, false);
            }
            ConnectionAction::Relabel(label) => self.connections[number].label = label_text(label),
            ConnectionAction::ReportFailed => self.connections[number].failed = true,
            ConnectionAction::Remove => self.connections[number].removed = true,
        }
        Ok(Outcome::Done)
    }

    fn in_session(&mut self, number: usize, action: SessionAction) -> Result<Outcome, Outcome> {
        let TokenModel { owner, options, .. } = self.tokens[number];
        let granted = |grant| if grants(options.grants).contains(grant) { Ok(()) } else { Err(Outcome::NotGranted(grant)) };
        match action {
            SessionAction::WhoAmI => Ok(Outcome::Id(owner)),
            SessionAction::List => {
                granted(Grant::ListConnections)?;
                Ok(Outcome::Connections(self.listed(owner, options.provider)))
            }
            SessionAction::Disconnect(connection) => {
                granted(Grant::Disconnect)?;
                let number = self.found(owner, connection)?;
                let connection = &mut self.connections[number];
                if options.provider.is_some_and(|only| only != connection.provider) {
                    return Err(NO_CONNECTION);
                }
                connection.removed = true;
                Ok(Outcome::Done)
            }
        }
    }

    fn with_key(&mut self, key: &KeyModel, owner: Owner, connection: u8, action: KeyAction) -> Result<Outcome, Outcome> {
        let needs = |any_of: &[Permission]| {
            let allowed = any_of.iter().any(|permission| key.permissions.contains(*permission));
            if allowed { Ok(()) } else { Err(Outcome::PermissionDenied(any_of[0])) }
        };
        if let KeyAction::Create = action {
            needs(&[Permission::Accounts])?;
        }
        if key.ids.is_some_and(|ids| ids & (1 << owner.id) == 0) {
            return Err(NO_ACCOUNT);
        }
        if let KeyAction::Create = action {
            self.create(owner, String::new());
            return Ok(Outcome::Done);
        }
        if !self.accounts.contains_key(&owner) {
            return Err(NO_ACCOUNT);
        }
        // Before these comes the look-up of the connection, which any of three permissions allows.
        let found = || {
            needs(&[Permission::Connections, Permission::Use, Permission::Reveal])?;
            self.found(owner, connection)
        };
        match action {
            KeyAction::Create => unreachable!("handled above"),
            KeyAction::Describe => {
                needs(&[Permission::Accounts])?;
                Ok(Outcome::Account(self.facts(owner).expect("it is there")))
            }
            KeyAction::List => {
                needs(&[Permission::Connections])?;
                Ok(Outcome::Connections(self.listed(owner, None)))
            }
            KeyAction::Reveal => {
                let number = found()?;
                needs(&[Permission::Reveal])?;
                self.on_connection(owner, number, ConnectionAction::Reveal)
            }
            KeyAction::Authorize => {
                let number = found()?;
                needs(&[Permission::Use])?;
                self.on_connection(owner, number, ConnectionAction::Authorize)
            }
            KeyAction::Relabel(label) => {
                let number = found()?;
                needs(&[Permission::Connections])?;
                self.on_connection(owner, number, ConnectionAction::Relabel(label))
            }
            KeyAction::Mint => {
                needs(&[Permission::Sessions])?;
                self.mint(owner, KEY_MINTS)
            }
            KeyAction::RevokeAllTokens => {
                needs(&[Permission::Sessions])?;
                self.step(&Step::RevokeAllTokens { owner })
            }
            KeyAction::RotateKey => {
                needs(&[Permission::Keys])?;
                self.step(&Step::RotateKey { owner })
            }
        }
    }

    fn account_mut(&mut self, owner: Owner) -> Result<&mut AccountModel, Outcome> {
        self.accounts.get_mut(&owner).ok_or(NO_ACCOUNT)
    }

    /// The account, for steps that a disabled one refuses.
    fn enabled(&self, owner: Owner) -> Result<&AccountModel, Outcome> {
        match self.accounts.get(&owner) {
            None => Err(NO_ACCOUNT),
            Some(account) if account.disabled => Err(Outcome::AccountDisabled),
            Some(account) => Ok(account),
        }
    }

    /// An account handle is of one birth.
    fn alive(&self, owner: Owner, birth: u64) -> Result<(), Outcome> {
        let same = self.accounts.get(&owner).is_some_and(|account| account.birth == birth);
        if same { Ok(()) } else { Err(NO_ACCOUNT) }
    }

    /// Looks a connection up in an account, by its id.
    fn found(&self, owner: Owner, connection: u8) -> Result<usize, Outcome> {
        if !self.accounts.contains_key(&owner) {
            return Err(NO_ACCOUNT);
        }
        pick(&self.connections, connection).filter(|number| self.own(owner, *number)).ok_or(NO_CONNECTION)
    }

    /// The connection that is picked, if its handle was kept since it was made.
    pub fn held_connection(&self, connection: u8) -> Option<usize> {
        pick(&self.connections, connection).filter(|number| *number >= self.handles_from.0)
    }

    /// Whether a connection is one of this very account.
    fn own(&self, owner: Owner, number: usize) -> bool {
        let connection = &self.connections[number];
        connection.owner == owner && !connection.removed && self.alive(owner, connection.birth).is_ok()
    }

    fn as_listed(&self, number: usize) -> Listed {
        let ConnectionModel { provider, label, failed, .. } = &self.connections[number];
        Listed { number, provider: *provider, label: label.clone(), failed: *failed }
    }

    fn secret(&self, number: usize) -> Outcome {
        Outcome::Secret(self.connections[number].secret.clone())
    }

    fn authorized(&self, number: usize) -> Result<Outcome, Outcome> {
        let ConnectionModel { owner, provider, .. } = self.connections[number];
        // The settings are those of the account's own environment.
        let known = self.providers.contains(&(owner.environment, provider));
        if known { Ok(self.secret(number)) } else { Err(Outcome::NotFound(Item::Provider)) }
    }

    /// The token opens something now, leaving aside whether it is used up.
    fn stands(&self, token: &TokenModel) -> bool {
        let lives = self.minute < token.expires && !token.revoked;
        lives
            && self
                .accounts
                .get(&token.owner)
                .is_some_and(|account| account.birth == token.birth && account.epoch == token.epoch && !account.disabled)
    }

    fn is_good(&self, key: &KeyModel) -> bool {
        key.ends.is_none_or(|end| self.minute < end)
    }

    fn next_secret(&mut self, owner: Owner) -> String {
        self.secrets += 1;
        format!("secret {} of {} in {}", self.secrets, owner.id, owner.environment)
    }
}

/// What an API key with few permissions mints.
pub const KEY_MINTS: MintOptions = MintOptions { grants: u8::MAX, provider: None, origin: false, single_use: false, minutes: 15 };

impl ReferenceStateMachine for World {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(World::new()).boxed()
    }

    fn transitions(world: &Self) -> BoxedStrategy<Step> {
        any_step(&Existing {
            accounts: world.accounts.keys().copied().collect(),
            connections: world.connections.iter().map(|connection| connection.owner).collect(),
            tokens: world.tokens.iter().map(|token| token.owner).collect(),
            keys: world.keys.len(),
            sessions: world.held_sessions.len(),
            held_accounts: world.held_accounts.len(),
        })
    }

    fn apply(mut world: Self, step: &Step) -> Self {
        world.expected = world.step(step).unwrap_or_else(|refusal| refusal);
        world
    }
}
