//! What a case consists of: the steps, and how they are drawn.

use anchorhold::Environment;
use proptest::prelude::*;

/// Three ids in each environment, six accounts: a prefix of another, one with a separator, and one that only looks the same (its
/// first letter is Cyrillic).
pub const IDS: [&str; 3] = ["acme", "acme/eu", "\u{430}cme"];

/// The provider says what its credential is and how it is used: a key in a header, a bearer token, a password.
pub const PROVIDERS: [&str; 3] = ["keyed", "bearer", "basic"];

pub const ORIGINS: [&str; 2] = ["https://app.example.com", "https://evil.example.com"];

/// Names an account; whether it exists is another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub environment: Environment,
    pub id: usize,
}

/// One step. Numbers pick from what exists (modulo its count), so that every step stays possible while a case is shrunk, and so
/// that a step of one account often names a thing of another.
#[derive(Clone, Debug)]
pub enum Step {
    Create { owner: Owner, metadata: Option<u8> },
    SetMetadata { owner: Owner, metadata: u8 },
    Disable { owner: Owner },
    Enable { owner: Owner },
    Delete { owner: Owner },
    RotateKey { owner: Owner },
    Describe { owner: Owner },
    ReadAudit { owner: Owner },
    Connect { owner: Owner, provider: usize, label: u8 },
    OnConnection { owner: Owner, connection: u8, through: Through, action: ConnectionAction },
    Mint { owner: Owner, options: MintOptions },
    Present { token: u8, forgery: Forgery, origin: Option<usize>, action: SessionAction },
    UseHeldSession { session: u8, action: SessionAction },
    RevokeToken { owner: Owner, token: u8 },
    RevokeAllTokens { owner: Owner },
    HoldAccount { owner: Owner },
    UseHeldAccount { account: u8, connection: u8 },
    ListAccounts { environment: Environment },
    SetProvider { environment: Environment, provider: usize },
    RemoveProvider { environment: Environment, provider: usize },
    NewKey { environment: Environment, ids: Option<u8>, permissions: u8 },
    RevokeKey { key: u8 },
    RotateApiKey { key: u8, grace_minutes: u8 },
    ListKeys { environment: Environment },
    ActWithKey { key: u8, through: Through, id: usize, connection: u8, action: KeyAction },
    RotateRootKey,
    Verify,
    Wait { minutes: u8 },
    Restart(Ending),
}

/// Whether a handle is looked up for the step, or is the one kept since the thing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Fresh,
    Held,
}

#[derive(Clone, Copy, Debug)]
pub enum ConnectionAction {
    Describe,
    Reveal,
    Authorize,
    Replace,
    Relabel(u8),
    ReportFailed,
    Remove,
}

/// What is done with an API key that may have only some of the permissions.
#[derive(Clone, Copy, Debug)]
pub enum KeyAction {
    Create,
    Describe,
    List,
    Reveal,
    Authorize,
    Relabel(u8),
    Mint,
    RevokeAllTokens,
    RotateKey,
}

#[derive(Clone, Copy, Debug)]
pub struct MintOptions {
    pub grants: u8,
    pub provider: Option<usize>,
    pub origin: bool,
    pub single_use: bool,
    pub minutes: u8,
}

/// What is done to a token's text before it is presented.
#[derive(Clone, Copy, Debug)]
pub enum Forgery {
    None,
    OtherEnvironment,
    ChangedCharacter(u16),
    Shortened(u8),
    HandleOf(u8),
}

#[derive(Clone, Copy, Debug)]
pub enum SessionAction {
    WhoAmI,
    List,
    Disconnect(u8),
}

/// How a vault comes to its end before it is opened again.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    Close,
    /// The last handle goes; nobody called `close`.
    Drop,
    /// The power fails. On an engine that can't have that, the same as `Drop`.
    Crash,
}

impl Step {
    /// The step's name, for counting.
    pub fn name(&self) -> String {
        let shown = match self {
            Step::OnConnection { action, .. } => format!("{action:?}"),
            Step::ActWithKey { action, .. } => format!("With key {action:?}"),
            Step::Present { forgery, .. } => format!("Present forged {forgery:?}"),
            Step::UseHeldSession { action, .. } => format!("Held session {action:?}"),
            other => format!("{other:?}"),
        };
        let words = shown.split([' ', '(', ')']).take_while(|word| word.starts_with(char::is_alphabetic));
        words.collect::<Vec<_>>().join(" ")
    }
}

pub fn pick<T>(items: &[T], number: u8) -> Option<usize> {
    (!items.is_empty()).then(|| usize::from(number) % items.len())
}

/// What a case has so far, so that steps name it more often than chance would; each also names what is not there or is another's.
pub struct Existing {
    pub accounts: Vec<Owner>,
    /// Of each connection and token ever made: whose it is.
    pub connections: Vec<Owner>,
    pub tokens: Vec<Owner>,
    pub keys: usize,
    pub sessions: usize,
    pub held_accounts: usize,
}

pub fn any_step(existing: &Existing) -> BoxedStrategy<Step> {
    let any = any::<u8>;
    let create = (any_owner(), prop::option::of(any())).prop_map(|(owner, metadata)| Step::Create { owner, metadata });
    if existing.accounts.is_empty() {
        return prop_oneof![6 => create, 1 => whole_vault(), 1 => environment_wide(existing)].boxed();
    }
    let owner = || owner(existing);
    let account = prop_oneof![
        6 => create,
        2 => (owner(), any()).prop_map(|(owner, metadata)| Step::SetMetadata { owner, metadata }),
        3 => owner().prop_map(|owner| Step::Disable { owner }),
        4 => owner().prop_map(|owner| Step::Enable { owner }),
        3 => owner().prop_map(|owner| Step::Delete { owner }),
        2 => owner().prop_map(|owner| Step::RotateKey { owner }),
        2 => owner().prop_map(|owner| Step::Describe { owner }),
        2 => owner().prop_map(|owner| Step::ReadAudit { owner }),
        2 => owner().prop_map(|owner| Step::HoldAccount { owner }),
        if existing.held_accounts == 0 { 0 } else { 6 } =>
            (any(), any()).prop_map(|(account, connection)| Step::UseHeldAccount { account, connection }),
    ];
    let connection = prop_oneof![
        2 => (owner(), 0..PROVIDERS.len(), any()).prop_map(|(owner, provider, label)| Step::Connect { owner, provider, label }),
        3 => (with_owner(existing, &existing.connections), through(), connection_action())
            .prop_map(|((owner, connection), through, action)| Step::OnConnection { owner, connection, through, action }),
    ];
    let mint = (owner(), mint_options()).prop_map(|(owner, options)| Step::Mint { owner, options });
    let present = (any(), forgery(), origin(), session_action()).prop_map(|(token, forgery, origin, action)| Step::Present {
        token,
        forgery,
        origin,
        action,
    });
    let session = prop_oneof![
        5 => mint,
        if existing.tokens.is_empty() { 0 } else { 8 } => present,
        if existing.sessions == 0 { 0 } else { 6 } =>
            (any(), session_action()).prop_map(|(session, action)| Step::UseHeldSession { session, action }),
        if existing.tokens.is_empty() { 0 } else { 2 } =>
            with_owner(existing, &existing.tokens).prop_map(|(owner, token)| Step::RevokeToken { owner, token }),
        1 => owner().prop_map(|owner| Step::RevokeAllTokens { owner }),
    ];
    prop_oneof![24 => account, 28 => connection, 24 => session, 18 => environment_wide(existing), 6 => whole_vault()].boxed()
}

fn environment_wide(existing: &Existing) -> BoxedStrategy<Step> {
    let any = any::<u8>;
    let with_key = (any(), through(), with_owner(existing, &existing.connections), key_action()).prop_map(
        |(key, through, (Owner { id, .. }, connection), action)| Step::ActWithKey { key, through, id, connection, action },
    );
    let with_keys = u32::from(existing.keys > 0);
    prop_oneof![
        2 => environment().prop_map(|environment| Step::ListAccounts { environment }),
        1 => (environment(), 0..PROVIDERS.len())
            .prop_map(|(environment, provider)| Step::RemoveProvider { environment, provider }),
        2 => (environment(), 0..PROVIDERS.len()).prop_map(|(environment, provider)| Step::SetProvider { environment, provider }),
        5 => (environment(), prop::option::of(0u8..8), permissions())
            .prop_map(|(environment, ids, permissions)| Step::NewKey { environment, ids, permissions }),
        1 => environment().prop_map(|environment| Step::ListKeys { environment }),
        with_keys => any().prop_map(|key| Step::RevokeKey { key }),
        with_keys => (any(), 0u8..30).prop_map(|(key, grace_minutes)| Step::RotateApiKey { key, grace_minutes }),
        16 * with_keys => with_key,
    ]
    .boxed()
}

fn whole_vault() -> BoxedStrategy<Step> {
    let ending = prop::sample::select(vec![Ending::Close, Ending::Drop, Ending::Crash]);
    prop_oneof![
        1 => Just(Step::RotateRootKey),
        1 => Just(Step::Verify),
        3 => (1u8..40).prop_map(|minutes| Step::Wait { minutes }),
        4 => ending.prop_map(Step::Restart),
    ]
    .boxed()
}

fn environment() -> impl Strategy<Value = Environment> + Clone {
    prop::sample::select(Environment::ALL.to_vec())
}

fn any_owner() -> BoxedStrategy<Owner> {
    (environment(), 0..IDS.len()).prop_map(|(environment, id)| Owner { environment, id }).boxed()
}

fn owner(existing: &Existing) -> BoxedStrategy<Owner> {
    prop_oneof![4 => prop::sample::select(existing.accounts.clone()), 1 => any_owner()].boxed()
}

/// Two thirds of the time a thing with the account that it is of, else a thing and an account, whichever.
fn with_owner(existing: &Existing, owners: &[Owner]) -> BoxedStrategy<(Owner, u8)> {
    if existing.accounts.is_empty() {
        return (any_owner(), any::<u8>()).boxed();
    }
    if owners.is_empty() {
        return (owner(existing), any::<u8>()).boxed();
    }
    let number = (0..owners.len().min(256)).prop_map(|number| u8::try_from(number).unwrap());
    let owners = owners.to_vec();
    let own = number.prop_map(move |number| (owners[usize::from(number)], number));
    prop_oneof![2 => own, 1 => (owner(existing), any::<u8>())].boxed()
}

fn through() -> impl Strategy<Value = Through> {
    prop_oneof![2 => Just(Through::Fresh), 1 => Just(Through::Held)]
}

/// All of them often, else any of the six.
fn permissions() -> impl Strategy<Value = u8> {
    prop_oneof![Just(u8::MAX), any::<u8>()]
}

fn connection_action() -> impl Strategy<Value = ConnectionAction> {
    use ConnectionAction::{Authorize, Describe, Relabel, Remove, Replace, ReportFailed, Reveal};
    prop_oneof![
        1 => Just(Describe),
        4 => Just(Reveal),
        4 => Just(Authorize),
        2 => Just(Replace),
        1 => any::<u8>().prop_map(Relabel),
        1 => Just(ReportFailed),
        1 => Just(Remove),
    ]
}

fn key_action() -> impl Strategy<Value = KeyAction> {
    use KeyAction::{Authorize, Create, Describe, List, Mint, Relabel, Reveal, RevokeAllTokens, RotateKey};
    prop_oneof![
        1 => Just(Create),
        1 => Just(Describe),
        2 => Just(List),
        4 => Just(Reveal),
        2 => Just(Authorize),
        1 => any::<u8>().prop_map(Relabel),
        2 => Just(Mint),
        1 => Just(RevokeAllTokens),
        1 => Just(RotateKey),
    ]
}

fn mint_options() -> impl Strategy<Value = MintOptions> {
    let provider = prop::option::weighted(0.3, 0..PROVIDERS.len());
    (0u8..8, provider, prop::bool::weighted(0.3), any::<bool>(), 1u8..60)
        .prop_map(|(grants, provider, origin, single_use, minutes)| MintOptions { grants, provider, origin, single_use, minutes })
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        8 => Just(Forgery::None),
        1 => Just(Forgery::OtherEnvironment),
        1 => any::<u16>().prop_map(Forgery::ChangedCharacter),
        1 => (1u8..40).prop_map(Forgery::Shortened),
        1 => any::<u8>().prop_map(Forgery::HandleOf),
    ]
}

/// Mostly the allowed one.
fn origin() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![4 => Just(Some(0)), 1 => Just(None), 1 => Just(Some(1))]
}

fn session_action() -> impl Strategy<Value = SessionAction> {
    prop_oneof![Just(SessionAction::WhoAmI), Just(SessionAction::List), any::<u8>().prop_map(SessionAction::Disconnect)]
}
