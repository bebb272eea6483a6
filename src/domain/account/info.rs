//! What the host may read of an account and its connections: never a secret.

use crate::clock::Timestamp;
use crate::domain::account::records::{ConnectionRecord, ConnectionStatus};
use crate::domain::credential::CredentialKind;
use crate::ids::{ConnectionId, LinkedAccountId, ProviderName};

/// The largest metadata of an account, in bytes.
pub(crate) const MAX_METADATA_BYTES: usize = 4 * 1024;
/// The largest label of a connection, in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 256;
/// The most connections of one account.
pub(crate) const MAX_CONNECTIONS: usize = 1_000;

/// What the vault knows of a linked account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountInfo {
    /// The host's own id of the account. It is not shown by `Debug`.
    pub id: LinkedAccountId,
    /// What the host stored with the account: up to 4 KiB of text, empty if nothing. Sealed like everything else, but not
    /// treated as a secret in memory: keep no credential here.
    pub metadata: String,
    /// When the account was created.
    pub created: Timestamp,
    /// When the metadata or the status was changed last.
    pub updated: Timestamp,
    /// Whether the account is served.
    pub status: AccountStatus,
    /// How many connections it has.
    pub connections: usize,
}

/// Whether a linked account is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AccountStatus {
    /// It is.
    Enabled,
    /// Its credentials can't be used and its sessions are refused, until it is enabled again.
    Disabled,
}

/// What the vault knows of a connection beside its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's id.
    pub id: ConnectionId,
    /// The provider that the credential is for.
    pub provider: ProviderName,
    /// The host's or customer's name for it; empty if none was given.
    pub label: String,
    /// What the credential consists of.
    pub kind: CredentialKind,
    /// When the connection was added.
    pub created: Timestamp,
    /// When its credential, label or status was changed last.
    pub updated: Timestamp,
    /// When its credential was used or revealed last.
    pub last_used: Option<Timestamp>,
    /// When the access token expires, if the provider said so.
    pub expires_at: Option<Timestamp>,
    /// The scopes that the provider granted.
    pub scopes: Vec<String>,
    /// Whether the connection can be used.
    pub status: ConnectionStatus,
}

impl ConnectionInfo {
    /// `None` when the record's provider is no provider name, which no stored record has.
    pub(crate) fn of(id: ConnectionId, record: ConnectionRecord) -> Option<Self> {
        Some(Self {
            id,
            provider: ProviderName::new(&record.provider).ok()?,
            label: record.label,
            kind: record.kind,
            created: record.created,
            updated: record.updated,
            last_used: record.last_used,
            expires_at: record.expires_at,
            scopes: record.scopes,
            status: record.status,
        })
    }
}
