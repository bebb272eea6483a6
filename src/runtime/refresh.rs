//! The refresher: sees to it that a connection has a good access token, by the protocol of `domain/oauth/refresh.rs`. One request
//! for tokens per connection at a time; whoever comes meanwhile waits for its result.

use std::rc::Rc;
use std::time::Duration;

use secrecy::SecretString;

use crate::domain::account::records::{RecordKey, RefreshRecord};
use crate::domain::account::state::{Damage, decode};
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::credential::{Credential, OAuth2Tokens};
use crate::domain::error::Error;
use crate::domain::oauth::failure::TokenFailure;
use crate::domain::oauth::profile::FailureClass;
use crate::domain::oauth::refresh::{Decision, Intent, Renewal, Trigger, Which};
use crate::domain::oauth::settings::OAuthSettings;
use crate::domain::provider::ProviderSettings;
use crate::ids::{ConnectionId, ShardId};
use crate::oauth::token_endpoint::{TokenAnswer, TokenEndpoint};
use crate::runtime::account::{Account, Turn};
use crate::runtime::events::EventKind;
use crate::runtime::ops::connections::read_connection;
use crate::runtime::ops::credentials::open_secret;

/// How long a caller waits for its turn at a provider that is asked as often as it allows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long the wheel waits for the same; then it comes again later, so that a provider that hangs does not hold up the others.
const WHEEL_PATIENCE: Duration = Duration::from_secs(5);

/// How often storing tokens is tried while the engine has too much to do. The provider may have ended the old ones.
const STORE_ATTEMPTS: u32 = 100;

/// A connection and where its tokens come from.
pub(crate) struct Source<'a> {
    pub(crate) connection: ConnectionId,
    pub(crate) provider: &'a ProviderSettings,
    pub(crate) settings: &'a OAuthSettings,
}

/// Waits until the connection has a good access token, asking the provider for a new one if need be. Answers its generation; `None`
/// for a connection without tokens that the vault looks after. Must not be called while the account's turn is held.
pub(crate) async fn ensure(account: &Rc<Account>, source: &Source<'_>, mut trigger: Trigger) -> Result<Option<u64>, Error> {
    let profile = source.settings.refresh_profile();
    loop {
        let Some(record) = read_refresh(account, source.connection).await? else { return Ok(None) };
        if let Some(flight) = account.flights.get(source.connection) {
            flight.listen().await;
            if trigger == Trigger::Forced {
                trigger = Trigger::Use;
            }
            continue;
        }
        match record.state.decide(profile, account.now(), trigger) {
            Decision::Use => return Ok(Some(record.state.generation)),
            Decision::Refuse(reason) => return Err(Error::ReauthRequired { reason }),
            Decision::Wait { class: FailureClass::ClientMisconfigured, failure, .. } => {
                return Err(Error::Misconfigured { reason: failure });
            }
            Decision::Wait { until, failure, .. } => return Err(Error::RefreshFailed { until, reason: failure }),
            Decision::Settle => settle(account, source, trigger).await?,
            Decision::Refresh(_) => {
                // Nobody else began one since the look above: there was no await in between.
                let Some(flight) = account.flights.begin(source.connection) else { continue };
                let asked = attempt(account, source, trigger).await;
                drop(flight);
                match asked? {
                    Asked::Done if trigger == Trigger::Forced => trigger = Trigger::Use,
                    Asked::Done => {}
                    Asked::NotNow(error) => return Err(error),
                }
            }
        }
    }
}

/// How the tokens of a connection are refreshed, if the vault does that.
pub(crate) async fn read_refresh(account: &Account, id: ConnectionId) -> Result<Option<RefreshRecord>, Error> {
    let plain = account.read(RecordKey::Refresh(id)).await?;
    plain.map(|plain| decode(&plain).map_err(|damage| account.damaged(damage))).transpose()
}

/// Sees to it that the directory has a row for no later time than `due`, before a change of the account says so. A row for an
/// earlier time will do: the wheel moves it on.
pub(crate) async fn announce(account: &Account, due: Option<crate::clock::Timestamp>) -> Result<(), Error> {
    let Some(due) = due else { return Ok(()) };
    let first = account.with_state(|state| state.dues.values().min().copied())?;
    // Where something is overdue the wheel has postponed it, and its row may be later than `due`.
    if first.is_some_and(|first| account.now() < first && first <= due) {
        return Ok(());
    }
    account.core.register_due(account.handle(), account.shard(), due).await
}

/// The phase in which the wheel looks after an account's tokens. Accounts of one shard have one phase, so that what it costs to open
/// a shard and to sync it is paid once for many; shards that follow each other lie far apart.
pub(crate) fn phase(account: &Account) -> u16 {
    let ShardId(number) = account.shard();
    // Multiplicative hashing by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    (number.wrapping_mul(0x9e37_79b9) >> 16) as u16
}

enum Asked {
    /// There was an answer, or somebody else was faster. What it means stands in the record.
    Done,
    /// The provider was not asked.
    NotNow(Error),
}

/// One request for tokens.
async fn attempt(account: &Rc<Account>, source: &Source<'_>, trigger: Trigger) -> Result<Asked, Error> {
    let core = &account.core;
    let environment = account.owner().environment;
    let Some(client) = core.oauth_client(environment, source.provider.name()).await? else {
        return Ok(Asked::NotNow(Error::NotConfigured { what: "OAuth client" }));
    };
    let patience = if trigger == Trigger::Due { WHEEL_PATIENCE } else { PATIENCE };
    let permit = core.limits.acquire(environment, source.provider.name(), source.settings.refresh_profile(), patience).await;
    let Some(permit) = permit else { return Ok(Asked::NotNow(Error::Overloaded)) };
    let Some(begun) = begin(account, source, trigger).await? else { return Ok(Asked::Done) };
    let endpoint = TokenEndpoint { http: &*core.http, clock: &*core.clock, settings: source.settings, client: &client };
    let answer = match &begun.refresh_token {
        Some(token) => endpoint.refresh(token).await,
        None => endpoint.client_credentials(&begun.scopes).await,
    };
    drop((permit, client));
    store(account, source, trigger, begun.intent, answer).await?;
    Ok(Asked::Done)
}

/// What is needed for the request, after its intent is durable.
struct Begun {
    intent: Intent,
    refresh_token: Option<SecretString>,
    scopes: Vec<String>,
}

/// Makes the intent durable, if new tokens are still wanted.
async fn begin(account: &Account, source: &Source<'_>, trigger: Trigger) -> Result<Option<Begun>, Error> {
    let id = source.connection;
    let turn = account.own_turn().await?;
    let Some(mut record) = read_refresh(account, id).await? else { return Ok(None) };
    let Decision::Refresh(intent) = record.state.decide(source.settings.refresh_profile(), account.now(), trigger) else {
        return Ok(None);
    };
    let refresh_token = match (record.state.renewal, intent.which) {
        (Renewal::RefreshToken, Which::Current) => {
            let secret = open_secret(account, id).await?;
            let token = secret.refresh_token().ok_or_else(|| account.damaged(Damage("a refresh token is missing")))?;
            Some(SecretString::from(token))
        }
        (Renewal::RefreshToken, Which::Previous) => Some(previous_token(account, id).await?),
        _ => None,
    };
    let scopes = match refresh_token {
        Some(_) => Vec::new(),
        None => read_connection(account, id).await?.requested_scopes,
    };
    record.state.begin(intent);
    account.change(&turn, |draft| draft.put_refresh(id, &record)).await?;
    Ok(Some(Begun { intent, refresh_token, scopes }))
}

async fn previous_token(account: &Account, id: ConnectionId) -> Result<SecretString, Error> {
    let missing = || account.damaged(Damage("the refresh token before is missing"));
    let plain = account.read(RecordKey::PreviousToken(id)).await?.ok_or_else(missing)?;
    Ok(SecretString::from(std::str::from_utf8(&plain).map_err(|_| missing())?))
}

/// Makes the answer durable, unless the connection was removed or connected anew meanwhile.
async fn store(
    account: &Rc<Account>,
    source: &Source<'_>,
    trigger: Trigger,
    intent: Intent,
    answer: Result<Box<TokenAnswer>, TokenFailure>,
) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        let turn = account.own_turn().await?;
        let stored = match &answer {
            Ok(tokens) => store_tokens(account, source, trigger, &turn, intent, tokens).await,
            Err(failure) => store_failure(account, source, trigger, &turn, intent, failure).await,
        };
        drop(turn);
        attempts += 1;
        match stored {
            Err(error) if error.is_retryable() && attempts < STORE_ATTEMPTS => {
                actix::clock::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
            Ok(None) => return Ok(()),
            Ok(Some(event)) => return account.tell(event),
        }
    }
}

/// How the tokens are refreshed, unless the connection was removed or connected anew since the request was begun.
async fn still_wanted(account: &Account, id: ConnectionId, intent: Intent) -> Result<Option<RefreshRecord>, Error> {
    Ok(read_refresh(account, id).await?.filter(|refresh| refresh.state.intent == Some(intent)))
}

/// Says when the wheel is to come next. An answer is stored whatever keeps the directory from knowing: then the tokens are refreshed
/// when they are used.
async fn plan(account: &Account, source: &Source<'_>, trigger: Trigger, refresh: &mut RefreshRecord) {
    refresh.due = refresh.state.due_at(source.settings.refresh_profile(), phase(account));
    // The wheel came by a row that is earlier still, and moves it on when it hears of this time.
    if trigger == Trigger::Due {
        return;
    }
    if let Err(error) = announce(account, refresh.due).await {
        tracing::warn!(account = %account.handle(), connection = %source.connection, %error, "tokens are refreshed only when they are used");
        refresh.due = None;
    }
}

async fn store_tokens(
    account: &Account,
    source: &Source<'_>,
    trigger: Trigger,
    turn: &Turn<'_>,
    intent: Intent,
    tokens: &TokenAnswer,
) -> Result<Option<EventKind>, Error> {
    let id = source.connection;
    let Some(mut refresh) = still_wanted(account, id, intent).await? else { return Ok(None) };
    let mut record = read_connection(account, id).await?;
    // The token that was sent, which stays the refresh token unless another one came (RFC 6749 section 6).
    let sent = match (refresh.state.renewal, intent.which) {
        (Renewal::RefreshToken, Which::Current) => open_secret(account, id).await?.refresh_token().map(SecretString::from),
        (Renewal::RefreshToken, Which::Previous) => Some(previous_token(account, id).await?),
        _ => None,
    };
    let rotated = sent.is_some() && tokens.refresh_token.is_some();
    refresh.state.succeed(source.settings.refresh_profile(), tokens.expires_in, rotated, crate::domain::random_byte());
    plan(account, source, trigger, &mut refresh).await;
    record.expires_at = refresh.state.expires_at;
    if let Some(scopes) = &tokens.scopes {
        record.scopes.clone_from(scopes);
    }
    let origin = tokens.api_host.as_deref().and_then(|address| source.provider.api_origin(address));
    record.api_origin = origin.or(record.api_origin);
    record.updated = account.now();
    record.last_used = record.last_used.max(account.touched(id));
    record.failed = false;
    let credential = credential(tokens, sent.as_ref());
    let action = AuditAction::TokensRefreshed { generation: refresh.state.generation };
    let entry = account.entry(AuditActor::Vault, action, Some(id));
    account
        .change(turn, |draft| {
            draft.put_connection(id, &record)?;
            draft.put_bytes(RecordKey::Secret(id), credential.encode()?.expose());
            match (&sent, refresh.state.previous_until) {
                (Some(sent), Some(_)) => {
                    draft.put_bytes(RecordKey::PreviousToken(id), secrecy::ExposeSecret::expose_secret(sent).as_bytes());
                }
                _ => draft.remove(RecordKey::PreviousToken(id)),
            }
            draft.put_refresh(id, &refresh)?;
            draft.audit([entry]);
            Ok(())
        })
        .await?;
    Ok(Some(EventKind::ConnectionRefreshed { connection: id }))
}

/// The credential that an answer makes, with the refresh token that was sent when none came back.
pub(crate) fn credential(tokens: &TokenAnswer, sent: Option<&SecretString>) -> Credential {
    let access = OAuth2Tokens::new(tokens.access_token.clone()).token_type(tokens.token_type.clone());
    Credential::oauth2(match tokens.refresh_token.as_ref().or(sent) {
        Some(refresh) => access.refresh_token(refresh.clone()),
        None => access,
    })
}

async fn store_failure(
    account: &Account,
    source: &Source<'_>,
    trigger: Trigger,
    turn: &Turn<'_>,
    intent: Intent,
    failure: &TokenFailure,
) -> Result<Option<EventKind>, Error> {
    let id = source.connection;
    let Some(mut refresh) = still_wanted(account, id, intent).await? else { return Ok(None) };
    let before = refresh.state.last_failure.clone();
    let jitter = crate::domain::random_byte();
    refresh.state.fail(source.settings.refresh_profile(), failure, account.now(), jitter);
    let state = &refresh.state;
    let told = match (&state.ended, &state.last_failure) {
        (Some(reason), _) => {
            Some((AuditAction::ReauthRequired { reason: *reason }, EventKind::ReauthRequired { connection: id, reason: *reason }))
        }
        // Told once, not with every attempt.
        (None, now) if *now == before => None,
        (None, Some((class, reason))) => {
            let event = match (class, state.retry_at) {
                (FailureClass::ClientMisconfigured, _) => {
                    EventKind::ConnectionMisconfigured { connection: id, reason: reason.clone() }
                }
                (_, until) => EventKind::ConnectionRetrying {
                    connection: id,
                    until: until.unwrap_or_else(|| account.now()),
                    reason: reason.clone(),
                },
            };
            Some((AuditAction::RefreshFailed { reason: reason.clone() }, event))
        }
        (None, None) => None,
    };
    plan(account, source, trigger, &mut refresh).await;
    let (entry, event) = told.unzip();
    let entry = entry.map(|action| account.entry(AuditActor::Vault, action, Some(id)));
    account
        .change(turn, |draft| {
            draft.put_refresh(id, &refresh)?;
            draft.audit(entry);
            Ok(())
        })
        .await?;
    Ok(event)
}

/// Makes it durable that the refresh token can't be sent any more.
async fn settle(account: &Rc<Account>, source: &Source<'_>, trigger: Trigger) -> Result<(), Error> {
    let id = source.connection;
    let turn = account.own_turn().await?;
    let Some(mut refresh) = read_refresh(account, id).await? else { return Ok(()) };
    if refresh.state.decide(source.settings.refresh_profile(), account.now(), trigger) != Decision::Settle {
        return Ok(());
    }
    refresh.state.settle();
    refresh.due = None;
    let Some(reason) = refresh.state.ended else { return Ok(()) };
    tracing::warn!(account = %account.handle(), connection = %id, %reason, "the customer has to connect again");
    let entry = account.entry(AuditActor::Vault, AuditAction::ReauthRequired { reason }, Some(id));
    account
        .change(&turn, |draft| {
            draft.put_refresh(id, &refresh)?;
            draft.audit([entry]);
            Ok(())
        })
        .await?;
    drop(turn);
    account.tell(EventKind::ReauthRequired { connection: id, reason })
}
