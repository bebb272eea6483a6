//! Connecting: sending a customer to a provider, and making a connection of what comes back. Until the tokens are stored, a
//! connection that is to be renewed is as it was.

use std::rc::Rc;

use secrecy::SecretString;

use crate::clock::Timestamp;
use crate::domain::account::info::MAX_CONNECTIONS;
use crate::domain::account::records::{ConnectionRecord, RecordKey, RefreshRecord, Spent, SpentToken};
use crate::domain::account::state::Damage;
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::credential::{Credential, CredentialKind};
use crate::domain::denial::DenialReason;
use crate::domain::error::{Error, Item};
use crate::domain::grants::{Grant, Permission};
use crate::domain::oauth::client::OAuthClient;
use crate::domain::oauth::connect::{
    AuthorizationRequest, CallbackAnswer, ConnectCallback, ConnectError, ConnectRequest, FLOW_LIFETIME, Flow, FlowOwner,
};
use crate::domain::oauth::failure::TokenFailure;
use crate::domain::oauth::refresh::{RefreshFailure, RefreshState, Renewal};
use crate::domain::oauth::settings::OAuthSettings;
use crate::domain::provider::ProviderSettings;
use crate::domain::{Key, WrapPurpose, random_connection_id, random_flow_id};
use crate::ids::{ConnectionId, ProviderName};
use crate::oauth::limiter::Permit;
use crate::oauth::token_endpoint::{Authorization, TokenAnswer, TokenEndpoint, TokenKind};
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Caller, Needs, refuse};
use crate::runtime::events::EventKind;
use crate::runtime::ops::connections::{check_label, read_connection};
use crate::runtime::ops::credentials::open_secret;
use crate::runtime::ops::sessions::spend;
use crate::runtime::refresh::{announce, credential, phase, read_refresh};

const NO_CONNECTION: Error = Error::NotFound { what: Item::Connection };

/// Makes the address to send a customer to. Stores nothing but an audit entry.
pub(crate) struct BeginConnect(pub(crate) Box<ConnectRequest>);

impl Operation for BeginConnect {
    type Answer = Box<AuthorizationRequest>;
    const DOING: &'static str = "beginning a connect flow";
    const NEEDS: Needs = Needs::enabled(&[Permission::Connections]).or_session(Grant::Connect);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Box<AuthorizationRequest>, Error> {
        let request = *self.0;
        check_label(&request.label)?;
        let provider = Provider::of(account, caller.caller(), &request.provider).await?;
        if let Some(id) = request.connection {
            check_same_provider(account, id, &request.provider).await?;
        }
        let scopes = request.scopes.unwrap_or_else(|| provider.oauth.scopes().to_vec());
        let expires = account.now().plus(FLOW_LIFETIME);
        let flow = Flow {
            id: random_flow_id(),
            owner: flow_owner(caller.caller()).ok_or(Error::Internal { doing: Self::DOING })?,
            provider: request.provider.as_str().to_owned(),
            redirect_uri: request.redirect_uri,
            issuer: provider.oauth.issuer().map(str::to_owned),
            scopes,
            label: request.label,
            connection: request.connection,
            expires,
            epoch: account.with_state(|state| state.facts.epoch)?,
        };
        let (state, verifier) = with_token_key(account, |key| {
            let owner = account.owner();
            (flow.seal(key, &owner), flow.verifier(key, &owner))
        })?;
        let state = state.ok_or(Error::Internal { doing: Self::DOING })?;
        let authorization =
            Authorization { redirect_uri: &flow.redirect_uri, scopes: &flow.scopes, state: &state, verifier: &verifier };
        let url = authorization.url(&provider.oauth, &provider.client);
        let url = url.ok_or(ConnectError::Unsupported { what: "authorization endpoint" })?;
        account.note(caller.actor(), AuditAction::ConnectBegun { provider: flow.provider }, flow.connection).await?;
        Ok(Box::new(AuthorizationRequest { url, expires_at: expires }))
    }
}

/// Makes a connection of what a provider's page brought back.
pub(crate) struct CompleteConnect(pub(crate) Box<ConnectCallback>);

impl Operation for CompleteConnect {
    type Answer = ConnectionId;
    const DOING: &'static str = "completing a connect flow";
    const NEEDS: Needs = Needs::enabled(&[Permission::Connections]).or_session(Grant::Connect);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<ConnectionId, Error> {
        let ConnectCallback { state, answer, iss } = *self.0;
        let owner = account.owner();
        let opened = with_token_key(account, |key| {
            let flow = Flow::open(&state, key, &owner)?;
            let verifier = flow.verifier(key, &owner);
            Some((flow, verifier))
        })?;
        let Some((flow, verifier)) = opened else {
            return Err(invalid(account, caller.actor(), DenialReason::Forged).await);
        };
        if let Err(reason) = check_flow(account, caller.caller(), &flow)? {
            return Err(invalid(account, caller.actor(), reason).await);
        }
        let name = ProviderName::new(&flow.provider).map_err(|_| Error::Internal { doing: Self::DOING })?;
        let provider = Provider::of(account, caller.caller(), &name).await?;
        use_up(account, caller, &flow).await?;
        let mixed_up = match (&iss, provider.oauth.issuer()) {
            (Some(iss), Some(issuer)) => iss != issuer,
            (None, Some(_)) => provider.oauth.iss_required(),
            (_, None) => false,
        };
        // The settings may have been changed to another issuer while the customer was away.
        if mixed_up || flow.issuer.as_deref() != provider.oauth.issuer() {
            return Err(failed(account, caller, &flow, ConnectError::WrongIssuer).await);
        }
        let code = match answer {
            CallbackAnswer::Code(code) => code,
            CallbackAnswer::Error(code) => return Err(failed(account, caller, &flow, ConnectError::Refused { code }).await),
        };
        let asked = account.now();
        let permit = provider.permit(account).await.ok_or(Error::Overloaded)?;
        let answer = provider.endpoint(account).exchange_code(&code, &flow.redirect_uri, &verifier).await;
        drop((permit, code, verifier));
        match answer {
            Ok(tokens) => {
                let renewal = if tokens.refresh_token.is_some() { Renewal::RefreshToken } else { Renewal::None };
                let new = New { provider: &provider, scopes: flow.scopes, label: flow.label, connection: flow.connection };
                store(account, caller, new, &tokens, renewal, asked).await
            }
            Err(failure) => Err(failed(account, caller, &flow, no_tokens(&failure)).await),
        }
    }
}

/// Connects with the host's own client, without a customer's consent (RFC 6749 section 4.4).
pub(crate) struct ConnectClient {
    pub(crate) provider: ProviderName,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) label: String,
}

impl Operation for ConnectClient {
    type Answer = ConnectionId;
    const DOING: &'static str = "connecting with client credentials";
    const NEEDS: Needs = Needs::enabled(&[Permission::Connections]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<ConnectionId, Error> {
        check_label(&self.label)?;
        let provider = Provider::of(account, caller.caller(), &self.provider).await?;
        let scopes = self.scopes.unwrap_or_else(|| provider.oauth.scopes().to_vec());
        let asked = account.now();
        let permit = provider.permit(account).await.ok_or(Error::Overloaded)?;
        let answer = provider.endpoint(account).client_credentials(&scopes).await;
        drop(permit);
        let tokens = answer.map_err(|failure| no_tokens(&failure))?;
        let new = New { provider: &provider, scopes, label: self.label, connection: None };
        store(account, caller, new, &tokens, Renewal::ClientCredentials, asked).await
    }
}

/// Makes a connection of a refresh token that the host got elsewhere, by using it.
pub(crate) struct ImportRefreshToken {
    pub(crate) provider: ProviderName,
    pub(crate) label: String,
    pub(crate) token: Box<SecretString>,
}

impl Operation for ImportRefreshToken {
    type Answer = ConnectionId;
    const DOING: &'static str = "importing a refresh token";
    const NEEDS: Needs = Needs::enabled(&[Permission::Connections]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<ConnectionId, Error> {
        check_label(&self.label)?;
        let provider = Provider::of(account, caller.caller(), &self.provider).await?;
        let asked = account.now();
        let permit = provider.permit(account).await.ok_or(Error::Overloaded)?;
        let answer = provider.endpoint(account).refresh(&self.token).await;
        drop(permit);
        let mut tokens = answer.map_err(|failure| no_tokens(&failure))?;
        tokens.refresh_token.get_or_insert_with(|| (*self.token).clone());
        let scopes = tokens.scopes.clone().unwrap_or_default();
        let new = New { provider: &provider, scopes, label: self.label, connection: None };
        store(account, caller, new, &tokens, Renewal::RefreshToken, asked).await
    }
}

/// A credential that the customer enters directly: an API key, user name and password, or named fields.
pub(crate) struct EnterCredential {
    pub(crate) provider: ProviderName,
    pub(crate) label: String,
    pub(crate) credential: Box<Credential>,
}

impl Operation for EnterCredential {
    type Answer = ConnectionId;
    const DOING: &'static str = "entering a credential";
    const NEEDS: Needs = Needs::any_session_with(Grant::Connect);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<ConnectionId, Error> {
        if self.credential.kind() == CredentialKind::OAuth2 {
            return Err(ConnectError::Unsupported { what: "direct entry of tokens" }.into());
        }
        check_allowed(caller.caller(), &self.provider)?;
        // A provider without settings is none that this environment offers.
        let environment = account.owner().environment;
        account.core.provider(environment, &self.provider).await?.ok_or(Error::NotFound { what: Item::Provider })?;
        let add = crate::runtime::ops::connections::AddConnection {
            provider: self.provider,
            label: self.label,
            credential: self.credential,
        };
        add.run(account, caller).await
    }
}

/// A provider that can be connected to, with the host's client at it.
struct Provider {
    settings: ProviderSettings,
    oauth: OAuthSettings,
    client: Box<OAuthClient>,
}

impl Provider {
    async fn of(account: &Account, caller: &Caller, name: &ProviderName) -> Result<Self, Error> {
        check_allowed(caller, name)?;
        let environment = account.owner().environment;
        let settings: ProviderSettings =
            account.core.provider(environment, name).await?.ok_or(Error::NotFound { what: Item::Provider })?;
        let oauth = settings.oauth_settings().cloned().ok_or(Error::NotConfigured { what: "OAuth settings" })?;
        let client = account.core.oauth_client(environment, name).await?.ok_or(Error::NotConfigured { what: "OAuth client" })?;
        Ok(Self { settings, oauth, client })
    }

    fn endpoint<'a>(&'a self, account: &'a Account) -> TokenEndpoint<'a> {
        let core = &account.core;
        TokenEndpoint { http: &*core.http, clock: &*core.clock, settings: &self.oauth, client: &self.client }
    }

    async fn permit(&self, account: &Account) -> Option<Permit> {
        let (environment, profile) = (account.owner().environment, self.oauth.refresh_profile());
        account.core.limits.acquire(environment, self.settings.name(), profile, crate::runtime::refresh::PATIENCE).await
    }
}

/// Asks the provider to end a connection's tokens (RFC 7009), if it has a way to; says whether it did.
pub(crate) async fn revoke_at_provider(account: &Account, id: ConnectionId, record: &ConnectionRecord) -> Option<bool> {
    if record.kind != CredentialKind::OAuth2 {
        return None;
    }
    let name = ProviderName::new(&record.provider).ok()?;
    let provider = Provider::of(account, &Caller::Vault, &name).await.ok()?;
    provider.oauth.revocation_endpoint()?;
    let secret = open_secret(account, id).await.ok()?;
    // Ending the refresh token ends what was made with it (RFC 7009 section 2.1).
    let (token, kind) = match secret.refresh_token() {
        Some(token) => (SecretString::from(token), TokenKind::Refresh),
        None => (SecretString::from(secret.access_token()?), TokenKind::Access),
    };
    drop(secret);
    let revoked = provider.endpoint(account).revoke(&token, kind).await;
    if let Err(failure) = &revoked {
        tracing::warn!(account = %account.handle(), connection = %id, ?failure, "the provider did not revoke the tokens");
    }
    Some(revoked.is_ok())
}

/// What a connection is to become.
struct New<'a> {
    provider: &'a Provider,
    scopes: Vec<String>,
    label: String,
    connection: Option<ConnectionId>,
}

/// Stores tokens as a new connection, or in the place of another's.
async fn store(
    account: &Rc<Account>,
    caller: &Admitted<'_>,
    new: New<'_>,
    tokens: &TokenAnswer,
    renewal: Renewal,
    asked: Timestamp,
) -> Result<ConnectionId, Error> {
    // The caller is checked again: what was revoked while the provider was asked stays without effect.
    let turn = account.turn(caller).await?;
    let now = account.now();
    let granted = tokens.scopes.clone().unwrap_or_else(|| new.scopes.clone());
    let expires_at = tokens.expires_in.map(|lifetime| asked.plus(lifetime));
    let mut state = RefreshState::new(renewal, asked, expires_at);
    let (id, record) = match new.connection {
        Some(id) => {
            let before = read_connection(account, id).await?;
            if before.provider != new.provider.settings.name().as_str() {
                return Err(NO_CONNECTION);
            }
            state.generation = read_refresh(account, id).await?.map_or(1, |refresh| refresh.state.generation + 1);
            let last_used = before.last_used.max(account.touched(id));
            (id, ConnectionRecord { kind: CredentialKind::OAuth2, updated: now, last_used, failed: false, ..before })
        }
        None => {
            if account.with_state(|state| state.connections().count())? >= MAX_CONNECTIONS {
                return Err(Error::TooMany { what: "connections", limit: MAX_CONNECTIONS });
            }
            let provider = new.provider.settings.name();
            let record = ConnectionRecord::new(provider, new.label, CredentialKind::OAuth2, now);
            (random_connection_id(), record)
        }
    };
    let api_origin = tokens.api_host.as_deref().and_then(|address| new.provider.settings.api_origin(address));
    let record = ConnectionRecord { expires_at, api_origin, scopes: granted, requested_scopes: new.scopes, ..record };
    let due = state.due_at(new.provider.oauth.refresh_profile(), phase(account));
    announce(account, due).await?;
    let refresh = RefreshRecord { state, due };
    let credential = credential(tokens, None);
    let (action, event) = match new.connection {
        Some(_) => (AuditAction::CredentialReplaced, EventKind::ConnectionUpdated { connection: id }),
        None => (
            AuditAction::ConnectionAdded,
            EventKind::ConnectionAdded { connection: id, provider: new.provider.settings.name().clone() },
        ),
    };
    let entry = account.entry(caller.actor(), action, Some(id));
    account
        .change(&turn, |draft| {
            draft.put_connection(id, &record)?;
            draft.put_bytes(RecordKey::Secret(id), credential.encode()?.expose());
            draft.remove(RecordKey::PreviousToken(id));
            draft.put_refresh(id, &refresh)?;
            draft.audit([entry]);
            Ok(())
        })
        .await?;
    drop(turn);
    account.tell(event)?;
    Ok(id)
}

/// Whether the flow is one that this caller began, is not over, and was not used up. The reason is for the audit only.
fn check_flow(account: &Account, caller: &Caller, flow: &Flow) -> Result<Result<(), DenialReason>, Error> {
    let (epoch, spent) = account.with_state(|state| (state.facts.epoch, state.spent(&flow.id)))?;
    let same_kind = match (flow.owner, caller) {
        (FlowOwner::Session(id), Caller::Session(claims)) => id == claims.id,
        (FlowOwner::Backend(_), Caller::ApiKey(_)) => true,
        _ => false,
    };
    Ok(if account.now() >= flow.expires {
        Err(DenialReason::Expired)
    } else if flow.epoch != epoch {
        Err(DenialReason::OldEpoch)
    } else if !same_kind {
        Err(DenialReason::NotGranted)
    } else if spent.is_some() {
        Err(DenialReason::AlreadyUsed)
    } else {
        Ok(())
    })
}

/// Marks the flow as used up, durably. Of two callers with one state one succeeds.
async fn use_up(account: &Rc<Account>, caller: &Admitted<'_>, flow: &Flow) -> Result<(), Error> {
    let turn = account.turn(caller).await?;
    if let Err(reason) = check_flow(account, caller.caller(), flow)? {
        drop(turn);
        return Err(invalid(account, caller.actor(), reason).await);
    }
    let mark = SpentToken { spent: Spent::UsedUp, until: flow.expires };
    spend(account, &turn, caller.actor(), flow.id, mark, None).await
}

/// Notes a refused callback; every reason sounds the same outside.
async fn invalid(account: &Rc<Account>, actor: AuditActor, reason: DenialReason) -> Error {
    match refuse(account, actor, CompleteConnect::DOING, reason).await {
        Ok(()) => ConnectError::InvalidState.into(),
        Err(error) => error,
    }
}

/// Notes that a flow ended without tokens.
async fn failed(account: &Rc<Account>, caller: &Admitted<'_>, flow: &Flow, error: ConnectError) -> Error {
    let action = AuditAction::ConnectFailed { provider: flow.provider.clone(), reason: error.to_string() };
    match account.note(caller.actor(), action, flow.connection).await {
        Ok(()) => error.into(),
        Err(error) => error,
    }
}

fn no_tokens(failure: &TokenFailure) -> ConnectError {
    ConnectError::NoTokens { reason: RefreshFailure::of(failure) }
}

fn flow_owner(caller: &Caller) -> Option<FlowOwner> {
    match caller {
        Caller::ApiKey(key) => Some(FlowOwner::Backend(key.id())),
        Caller::Session(claims) => Some(FlowOwner::Session(claims.id)),
        Caller::Vault => None,
    }
}

/// A session that may not know of a provider hears that there is none.
fn check_allowed(caller: &Caller, provider: &ProviderName) -> Result<(), Error> {
    match caller {
        Caller::Session(claims) if !claims.allows_provider(provider) => Err(Error::NotFound { what: Item::Provider }),
        _ => Ok(()),
    }
}

async fn check_same_provider(account: &Account, id: ConnectionId, provider: &ProviderName) -> Result<(), Error> {
    let record = read_connection(account, id).await?;
    if record.provider == provider.as_str() { Ok(()) } else { Err(NO_CONNECTION) }
}

fn with_token_key<R>(account: &Account, work: impl FnOnce(&Key) -> R) -> Result<R, Error> {
    account.with_state(|state| {
        let owner = &state.owner;
        let key = account
            .core
            .keyring
            .unwrap(WrapPurpose::TokenKey, owner.environment, &owner.handle, &state.facts.wrapped.token)
            .map_err(|_| account.damaged(Damage("the account's token key does not open")))?;
        Ok(work(&key))
    })?
}
