//! Connections: adding, listing, changing and removing them. No plaintext of a credential leaves here.

use std::rc::Rc;

use crate::domain::account::info::{ConnectionInfo, MAX_CONNECTIONS, MAX_LABEL_BYTES};
use crate::domain::account::records::{ConnectionRecord, ConnectionStatus, RecordKey};
use crate::domain::account::state::{Damage, decode};
use crate::domain::audit::AuditAction;
use crate::domain::credential::Credential;
use crate::domain::error::{Error, Item};
use crate::domain::grants::Grant;
use crate::domain::grants::Permission;
use crate::domain::random_connection_id;
use crate::ids::{ConnectionId, ProviderName, check_text};
use crate::runtime::account::{Account, scan_all};
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Caller, Needs};
use crate::runtime::events::EventKind;

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
        let now = account.now();
        let record = ConnectionRecord {
            provider: self.provider.as_str().to_owned(),
            label: self.label,
            kind: self.credential.kind(),
            created: now,
            updated: now,
            last_used: None,
            expires_at: self.credential.expires_at(),
            scopes: self.credential.scopes().to_vec(),
            status: ConnectionStatus::Active,
        };
        let entry = account.entry(caller.actor(), AuditAction::ConnectionAdded, Some(id));
        account
            .change(&turn, |draft| {
                draft.put_connection(id, &record)?;
                draft.put_bytes(RecordKey::Secret(id), self.credential.encode()?.expose());
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
        let mut rows = Vec::new();
        scan_all(account.tree()?.as_ref(), b"c", b"d", &mut rows).await?;
        let mut rows = rows.into_iter().peekable();
        let records = account.with_keys(|state, keys| {
            // One row for each connection of the index, in the same order; anything else is damage.
            let records = state
                .connections()
                .map(|id| {
                    let key = RecordKey::Connection(id);
                    let sealed = rows.next_if(|(name, _)| *name == key.to_bytes()).map(|(_, sealed)| sealed);
                    let plain = state.open(keys, key, sealed.as_deref()).map_err(|damage| account.damaged(damage))?;
                    Ok((id, decode(&plain).map_err(|damage| account.damaged(damage))?))
                })
                .collect::<Result<Vec<(ConnectionId, ConnectionRecord)>, Error>>()?;
            match rows.next() {
                Some(_) => Err(account.damaged(Damage("there are connections that the account never had"))),
                None => Ok(records),
            }
        })?;
        drop(turn);
        let infos = records.into_iter().map(|(id, record)| to_info(account, id, record)).collect::<Result<Vec<_>, _>>()?;
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
        let info = to_info(account, self.0, record)?;
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
        let (action, event, secret) = match change {
            ConnectionChange::Credential(credential) => {
                record.kind = credential.kind();
                record.expires_at = credential.expires_at();
                record.scopes = credential.scopes().to_vec();
                record.status = ConnectionStatus::Active;
                (AuditAction::CredentialReplaced, EventKind::ConnectionUpdated { connection: id }, Some(credential))
            }
            ConnectionChange::Label(label) => {
                record.label = label;
                (AuditAction::ConnectionRelabelled, EventKind::ConnectionUpdated { connection: id }, None)
            }
            ConnectionChange::Failed => {
                record.status = ConnectionStatus::Failed;
                (AuditAction::ConnectionFailed, EventKind::ConnectionFailed { connection: id }, None)
            }
        };
        let entry = account.entry(caller.actor(), action, Some(id));
        account
            .change(&turn, |draft| {
                draft.put_connection(id, &record)?;
                if let Some(credential) = &secret {
                    draft.put_bytes(RecordKey::Secret(id), credential.encode()?.expose());
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
        let info = to_info(account, id, read_connection(account, id).await?)?;
        if !may_see(caller.caller(), &info.provider) {
            return Err(NO_CONNECTION);
        }
        let entry = account.entry(caller.actor(), AuditAction::ConnectionRemoved, Some(id));
        account
            .change(&turn, |draft| {
                draft.remove(RecordKey::Connection(id));
                draft.remove(RecordKey::Secret(id));
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

pub(crate) async fn read_connection(account: &Account, id: ConnectionId) -> Result<ConnectionRecord, Error> {
    let plain = account.read(RecordKey::Connection(id)).await?.ok_or(NO_CONNECTION)?;
    decode(&plain).map_err(|damage| account.damaged(damage))
}

fn to_info(account: &Account, id: ConnectionId, record: ConnectionRecord) -> Result<ConnectionInfo, Error> {
    let mut info = ConnectionInfo::of(id, record).ok_or_else(|| account.damaged(Damage("a connection's provider is none")))?;
    info.last_used = info.last_used.max(account.touched(id));
    Ok(info)
}

fn check_label(label: &str) -> Result<(), Error> {
    if label.is_empty() { Ok(()) } else { Ok(check_text("label", label, MAX_LABEL_BYTES)?) }
}
