//! Connections: adding, listing, changing and removing them. No plaintext of a credential leaves here.

use std::iter::Peekable;
use std::rc::Rc;
use std::vec::IntoIter;

use crate::domain::Plaintext;
use crate::domain::account::info::{ConnectionInfo, MAX_CONNECTIONS, MAX_LABEL_BYTES};
use crate::domain::account::records::{ConnectionRecord, RecordKey, RefreshRecord};
use crate::domain::account::state::{Damage, decode};
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::credential::{Credential, CredentialKind};
use crate::domain::error::{Error, Item};
use crate::domain::grants::Grant;
use crate::domain::grants::Permission;
use crate::domain::oauth::refresh::{RefreshState, Renewal};
use crate::domain::random_connection_id;
use crate::ids::{ConnectionId, ProviderName, check_text};
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Caller, Needs};
use crate::runtime::events::EventKind;
use crate::runtime::loading::scan_all;
use crate::runtime::refresh::{announce, phase, read_refresh};
use crate::storage::Row;

const NO_CONNECTION: Error = Error::NotFound { what: Item::Connection };

/// Adds a connection with its credential.
pub(crate) struct AddConnection {
    pub(crate) provider: ProviderName,
    pub(crate) label: String,
    pub(crate) credential: Box<Credential>,
}

impl Operation for AddConnection {
    type Answer = ConnectionId;
    const DOING: &'static str = "adding a connection";
    const NEEDS: Needs = Needs::backend(&[Permission::Connections]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<ConnectionId, Error> {
        check_label(&self.label)?;
        let turn = account.turn(caller).await?;
        if account.with_state(|state| state.connections().count())? >= MAX_CONNECTIONS {
            return Err(Error::TooMany { what: "connections", limit: MAX_CONNECTIONS });
        }
        let id = random_connection_id();
        let record = ConnectionRecord {
            expires_at: self.credential.expires_at(),
            scopes: self.credential.scopes().to_vec(),
            ..ConnectionRecord::new(&self.provider, self.label, self.credential.kind(), account.now())
        };
        let refresh = refresh_of(account, &self.provider, &self.credential, None).await?;
        announce(account, refresh.as_ref().and_then(|refresh| refresh.due)).await?;
        let entry = account.entry(caller.actor(), AuditAction::ConnectionAdded, Some(id));
        account
            .change(&turn, |draft| {
                draft.put_connection(id, &record)?;
                draft.put_bytes(RecordKey::Secret(id), self.credential.encode()?.expose());
                if let Some(refresh) = &refresh {
                    draft.put_refresh(id, refresh)?;
                }
                draft.audit([entry]);
                Ok(())
            })
            .await?;
        account.tell(EventKind::ConnectionAdded { connection: id, provider: self.provider })?;
        Ok(id)
    }
}

/// Lists the connections: all of them, or those of the providers that a session's token allows.
pub(crate) struct ListConnections;

impl Operation for ListConnections {
    type Answer = Vec<ConnectionInfo>;
    const DOING: &'static str = "listing connections";
    const NEEDS: Needs = Needs::backend(&[Permission::Connections]).or_session(Grant::ListConnections);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Vec<ConnectionInfo>, Error> {
        let turn = account.turn(caller).await?;
        let (mut rows, mut refreshes) = (Vec::new(), Vec::new());
        scan_all(account.tree()?.as_ref(), b"c", b"d", &mut rows).await?;
        scan_all(account.tree()?.as_ref(), b"f", b"g", &mut refreshes).await?;
        let mut rows = rows.into_iter().peekable();
        let mut refreshes = refreshes.into_iter().peekable();
        let records = account.with_record_keys(|state, keys| {
            let open = |key: RecordKey, rows: &mut Peekable<IntoIter<Row>>| {
                let sealed = rows.next_if(|(name, _)| *name == key.to_bytes()).map(|(_, sealed)| sealed);
                state.open(keys, key, sealed.as_deref()).map_err(|damage| account.damaged(damage))
            };
            // One row for each connection of the index, in the same order; anything else is damage.
            let mut records = Vec::new();
            for id in state.connections() {
                let record: ConnectionRecord = decoded(account, &open(RecordKey::Connection(id), &mut rows)?)?;
                let refresh = match state.stamp(RecordKey::Refresh(id)) {
                    Some(_) => Some(decoded::<RefreshRecord>(account, &open(RecordKey::Refresh(id), &mut refreshes)?)?),
                    None => None,
                };
                records.push((id, record, refresh));
            }
            match rows.next().or_else(|| refreshes.next()) {
                Some(_) => Err(account.damaged(Damage("there are connections that the account never had"))),
                None => Ok(records),
            }
        })?;
        drop(turn);
        let infos = records
            .into_iter()
            .map(|(id, record, refresh)| to_info(account, id, record, refresh.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(infos.into_iter().filter(|info| may_see(caller.caller(), &info.provider)).collect())
    }
}

/// Reads what is known of one connection.
pub(crate) struct ReadConnection(pub(crate) ConnectionId);

impl Operation for ReadConnection {
    type Answer = ConnectionInfo;
    const DOING: &'static str = "reading a connection";
    const NEEDS: Needs = Needs::backend(&[Permission::Connections]).or_session(Grant::ListConnections);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<ConnectionInfo, Error> {
        let record = read_connection(account, self.0).await?;
        let refresh = read_refresh(account, self.0).await?;
        let info = to_info(account, self.0, record, refresh.as_ref())?;
        if may_see(caller.caller(), &info.provider) { Ok(info) } else { Err(NO_CONNECTION) }
    }
}

/// Finds out whether the account has a connection.
pub(crate) struct FindConnection(pub(crate) ConnectionId);

impl Operation for FindConnection {
    type Answer = ();
    const DOING: &'static str = "looking up a connection";
    const NEEDS: Needs = Needs::backend(&[Permission::Connections, Permission::Use, Permission::Reveal]);

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<(), Error> {
        match account.with_state(|state| state.stamp(RecordKey::Connection(self.0)))? {
            Some(_) => Ok(()),
            None => Err(NO_CONNECTION),
        }
    }
}

/// What changes about a connection.
pub(crate) enum ConnectionChange {
    Credential(Box<Credential>),
    Label(String),
    Failed,
    Disabled(bool),
}

/// Changes a connection. A new credential makes a failed connection active again.
pub(crate) struct ChangeConnection(pub(crate) ConnectionId, pub(crate) ConnectionChange);

impl Operation for ChangeConnection {
    type Answer = ();
    const DOING: &'static str = "changing a connection";
    const NEEDS: Needs = Needs::backend(&[Permission::Connections]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let ChangeConnection(id, change) = self;
        if let ConnectionChange::Label(label) = &change {
            check_label(label)?;
        }
        let turn = account.turn(caller).await?;
        let mut record = read_connection(account, id).await?;
        record.updated = account.now();
        record.last_used = record.last_used.max(account.touched(id));
        let mut refresh = None;
        let (action, event, secret) = match change {
            ConnectionChange::Credential(credential) => {
                record.kind = credential.kind();
                record.expires_at = credential.expires_at();
                record.scopes = credential.scopes().to_vec();
                record.requested_scopes.clear();
                record.api_origin = None;
                record.failed = false;
                let before = read_refresh(account, id).await?;
                let provider = provider_of(account, &record)?;
                refresh = Some(refresh_of(account, &provider, &credential, before).await?);
                announce(account, refresh.as_ref().and_then(|refresh| refresh.as_ref()?.due)).await?;
                (AuditAction::CredentialReplaced, EventKind::ConnectionUpdated { connection: id }, Some(credential))
            }
            ConnectionChange::Label(label) => {
                record.label = label;
                (AuditAction::ConnectionRelabelled, EventKind::ConnectionUpdated { connection: id }, None)
            }
            ConnectionChange::Failed => {
                record.failed = true;
                (AuditAction::ConnectionFailed, EventKind::ConnectionFailed { connection: id }, None)
            }
            ConnectionChange::Disabled(disabled) if disabled == record.disabled => return Ok(()),
            ConnectionChange::Disabled(disabled) => {
                record.disabled = disabled;
                if disabled {
                    (AuditAction::ConnectionDisabled, EventKind::ConnectionDisabled { connection: id }, None)
                } else {
                    (AuditAction::ConnectionEnabled, EventKind::ConnectionEnabled { connection: id }, None)
                }
            }
        };
        let entry = account.entry(caller.actor(), action, Some(id));
        account
            .change(&turn, |draft| {
                draft.put_connection(id, &record)?;
                if let Some(credential) = &secret {
                    draft.put_bytes(RecordKey::Secret(id), credential.encode()?.expose());
                }
                match &refresh {
                    Some(Some(refresh)) => {
                        draft.remove(RecordKey::PreviousToken(id));
                        draft.put_refresh(id, refresh)?;
                    }
                    Some(None) => draft.remove_refresh(id),
                    None => {}
                }
                draft.audit([entry]);
                Ok(())
            })
            .await?;
        account.tell(event)
    }
}

/// Removes a connection and its credential.
pub(crate) struct RemoveConnection(pub(crate) ConnectionId);

impl Operation for RemoveConnection {
    type Answer = ();
    const DOING: &'static str = "removing a connection";
    const NEEDS: Needs = Needs::backend(&[Permission::Connections]).or_session(Grant::Disconnect);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let id = self.0;
        let turn = account.turn(caller).await?;
        let record = read_connection(account, id).await?;
        if !may_see(caller.caller(), &provider_of(account, &record)?) {
            return Err(NO_CONNECTION);
        }
        drop(turn);
        // Removed whatever the provider says; what this process does not come to say, nobody says.
        let revoked = crate::runtime::ops::connect::revoke_at_provider(account, id, &record).await;
        let turn = account.turn(caller).await?;
        read_connection(account, id).await?;
        let revocation =
            revoked.map(|revoked| account.entry(AuditActor::Vault, AuditAction::ProviderRevocation { revoked }, Some(id)));
        let entry = account.entry(caller.actor(), AuditAction::ConnectionRemoved, Some(id));
        account
            .change(&turn, |draft| {
                draft.remove(RecordKey::Connection(id));
                draft.remove(RecordKey::Secret(id));
                draft.remove_refresh(id);
                draft.audit(revocation);
                draft.audit([entry]);
                Ok(())
            })
            .await?;
        account.tell(EventKind::ConnectionRemoved { connection: id })
    }
}

/// Whether a caller may know of connections of that provider.
fn may_see(caller: &Caller, provider: &ProviderName) -> bool {
    match caller {
        Caller::Session(claims) => claims.allows_provider(provider),
        Caller::ApiKey(_) | Caller::Vault => true,
    }
}

fn decoded<T: serde::de::DeserializeOwned>(account: &Account, plain: &Plaintext) -> Result<T, Error> {
    decode(plain).map_err(|damage| account.damaged(damage))
}

pub(crate) async fn read_connection(account: &Account, id: ConnectionId) -> Result<ConnectionRecord, Error> {
    let plain = account.read(RecordKey::Connection(id)).await?.ok_or(NO_CONNECTION)?;
    decode(&plain).map_err(|damage| account.damaged(damage))
}

/// How the vault will refresh the tokens of a credential that was handed in, if it can.
async fn refresh_of(
    account: &Account,
    provider: &ProviderName,
    credential: &Credential,
    before: Option<RefreshRecord>,
) -> Result<Option<RefreshRecord>, Error> {
    if credential.kind() != CredentialKind::OAuth2 {
        return Ok(None);
    }
    let renewal = if credential.has_refresh_token() { Renewal::RefreshToken } else { Renewal::None };
    let mut state = RefreshState::new(renewal, account.now(), credential.expires_at());
    state.generation = before.map_or(1, |before| before.state.generation + 1);
    let settings = account.core.provider(account.owner().environment, provider).await?;
    let oauth = settings.as_ref().and_then(|settings| settings.oauth_settings());
    let due = oauth.and_then(|oauth| state.due_at(oauth.refresh_profile(), phase(account)));
    Ok(Some(RefreshRecord { state, due }))
}

fn provider_of(account: &Account, record: &ConnectionRecord) -> Result<ProviderName, Error> {
    ProviderName::new(&record.provider).map_err(|_| account.damaged(Damage("a connection's provider is none")))
}

fn to_info(
    account: &Account,
    id: ConnectionId,
    record: ConnectionRecord,
    refresh: Option<&RefreshRecord>,
) -> Result<ConnectionInfo, Error> {
    let refreshing = account.flights.get(id).is_some();
    let mut info = ConnectionInfo::of(id, record, refresh, refreshing, account.now())
        .ok_or_else(|| account.damaged(Damage("a connection's provider is none")))?;
    info.last_used = info.last_used.max(account.touched(id));
    Ok(info)
}

pub(crate) fn check_label(label: &str) -> Result<(), Error> {
    if label.is_empty() { Ok(()) } else { Ok(check_text("label", label, MAX_LABEL_BYTES)?) }
}
