//! What the host may read of an account and its connections: never a secret.

use crate::clock::Timestamp;
use crate::domain::account::records::{ConnectionRecord, RefreshRecord};
use crate::domain::account::status::ConnectionStatus;
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
    /// Its stored records are damaged or too old, so that a listing can tell its id and when it was created and nothing else:
    /// metadata and connections are empty. Calls for this account answer [`Error::Corrupted`](crate::Error::Corrupted) or
    /// [`Error::RolledBack`](crate::Error::RolledBack), which say what is wrong.
    Damaged,
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
    /// The scopes that the provider granted; those that were asked for when it did not say.
    pub scopes: Vec<String>,
    /// The scopes that were asked for; empty for tokens that the host handed in.
    pub requested_scopes: Vec<String>,
    /// Where the provider says that this customer's API is, for example `https://acme.my.salesforce.com`; only of providers whose
    /// settings name the member that tells, and only if their credentials may go there.
    pub api_origin: Option<String>,
    /// When tokens were obtained from the provider last by a refresh.
    pub last_refresh: Option<Timestamp>,
    /// When the vault will refresh the tokens by itself.
    pub next_refresh: Option<Timestamp>,
    /// How many requests for tokens failed since the last that did not.
    pub failures_in_a_row: u32,
    /// Whether the connection can be used.
    pub status: ConnectionStatus,
}

impl ConnectionInfo {
    /// `None` when the record's provider is no provider name, which no stored record has.
    pub(crate) fn of(
        id: ConnectionId,
        record: ConnectionRecord,
        refresh: Option<&RefreshRecord>,
        refreshing: bool,
        now: Timestamp,
    ) -> Option<Self> {
        Some(Self {
            status: ConnectionStatus::of(&record, refresh, refreshing, now),
            last_refresh: refresh.and_then(|refresh| refresh.state.last_refresh),
            next_refresh: refresh.and_then(|refresh| refresh.due),
            failures_in_a_row: refresh.map_or(0, |refresh| refresh.state.failures),
            requested_scopes: record.requested_scopes,
            api_origin: record.api_origin,
            id,
            provider: ProviderName::new(&record.provider).ok()?,
            label: record.label,
            kind: record.kind,
            created: record.created,
            updated: record.updated,
            last_used: record.last_used,
            expires_at: record.expires_at,
            scopes: record.scopes,
        })
    }

    /// The scopes that were asked for and not granted (RFC 6749 section 3.3 lets a provider grant fewer): what the customer unticked.
    #[must_use]
    pub fn missing_scopes(&self) -> Vec<&str> {
        self.requested_scopes.iter().filter(|scope| !self.scopes.contains(scope)).map(String::as_str).collect()
    }
}
