//! The rows of an account tree: their keys, what each holds, and what is authenticated with it.
//!
//! | key | row | sealed under |
//! |---|---|---|
//! | `h` | head: digest over every row below but audit segments, last link of the audit | account key, head subkey |
//! | `k` `t` `a` | account key, token key, audit key | root wrap subkey |
//! | `o` | the account key before, while a rotation is under way | root wrap subkey |
//! | `i` | the account itself: the host's id, metadata, state | account key, record subkey |
//! | `c` + id | one connection's facts | account key, record subkey |
//! | `s` + id | one connection's credential | account key, record subkey |
//! | `f` + id | when and how one connection's tokens are refreshed | account key, record subkey |
//! | `p` + id | the refresh token that was replaced last, within its provider's grace | account key, record subkey |
//! | `r` + id | a session token that is revoked or used up, until it would have expired | account key, record subkey |
//! | `u` + first sequence | a segment of the audit chain | audit key, record subkey |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::domain::credential::CredentialKind;
use crate::domain::oauth::refresh::RefreshState;
pub(crate) use crate::domain::session_token::Spent;
use crate::ids::{AccountHandle, ConnectionId, Environment, ProviderName, SessionTokenId, VaultId};

/// The name of one row of an account tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RecordKey {
    Head,
    AccountKey,
    TokenKey,
    AuditKey,
    PreviousAccountKey,
    Info,
    Connection(ConnectionId),
    Secret(ConnectionId),
    Refresh(ConnectionId),
    PreviousToken(ConnectionId),
    SpentToken(SessionTokenId),
    Audit(u64),
}

impl RecordKey {
    /// The rows that hold keys.
    pub(crate) const KEYS: [Self; 4] = [Self::AccountKey, Self::TokenKey, Self::AuditKey, Self::PreviousAccountKey];

    /// The key in the tree.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let (kind, id): (u8, &[u8]) = match &self {
            RecordKey::Head => (b'h', &[]),
            RecordKey::AccountKey => (b'k', &[]),
            RecordKey::TokenKey => (b't', &[]),
            RecordKey::AuditKey => (b'a', &[]),
            RecordKey::PreviousAccountKey => (b'o', &[]),
            RecordKey::Info => (b'i', &[]),
            RecordKey::Connection(id) => (b'c', id.as_bytes()),
            RecordKey::Secret(id) => (b's', id.as_bytes()),
            RecordKey::Refresh(id) => (b'f', id.as_bytes()),
            RecordKey::PreviousToken(id) => (b'p', id.as_bytes()),
            RecordKey::SpentToken(id) => (b'r', id.as_bytes()),
            RecordKey::Audit(first) => (b'u', &first.to_be_bytes()),
        };
        let mut bytes = Vec::with_capacity(1 + id.len());
        bytes.push(kind);
        bytes.extend_from_slice(id);
        bytes
    }

    /// The name that a key in the tree stands for; `None` for a key that this version does not write.
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let id16 = || <[u8; 16]>::try_from(id).ok();
        match (kind, id.is_empty()) {
            (b'h', true) => Some(RecordKey::Head),
            (b'k', true) => Some(RecordKey::AccountKey),
            (b't', true) => Some(RecordKey::TokenKey),
            (b'a', true) => Some(RecordKey::AuditKey),
            (b'o', true) => Some(RecordKey::PreviousAccountKey),
            (b'i', true) => Some(RecordKey::Info),
            (b'c', false) => id16().map(|id| RecordKey::Connection(ConnectionId::from_bytes(id))),
            (b's', false) => id16().map(|id| RecordKey::Secret(ConnectionId::from_bytes(id))),
            (b'f', false) => id16().map(|id| RecordKey::Refresh(ConnectionId::from_bytes(id))),
            (b'p', false) => id16().map(|id| RecordKey::PreviousToken(ConnectionId::from_bytes(id))),
            (b'r', false) => id16().map(|id| RecordKey::SpentToken(SessionTokenId::from_bytes(id))),
            (b'u', false) => <[u8; 8]>::try_from(id).ok().map(|id| RecordKey::Audit(u64::from_be_bytes(id))),
            _ => None,
        }
    }

    /// The ranges of keys that the head's digest covers, in order: everything but audit segments and the head itself.
    pub(crate) fn covered_ranges() -> [(&'static [u8], &'static [u8]); 2] {
        [(b"", b"u"), (b"v", b"\xff")]
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Head => f.write_str("the head"),
            RecordKey::AccountKey => f.write_str("the account key"),
            RecordKey::TokenKey => f.write_str("the token key"),
            RecordKey::AuditKey => f.write_str("the audit key"),
            RecordKey::PreviousAccountKey => f.write_str("the account key before"),
            RecordKey::Info => f.write_str("the account's own record"),
            RecordKey::Connection(id) => write!(f, "the facts of connection {id}"),
            RecordKey::Secret(id) => write!(f, "the credential of connection {id}"),
            RecordKey::Refresh(id) => write!(f, "the refresh record of connection {id}"),
            RecordKey::PreviousToken(id) => write!(f, "the former refresh token of connection {id}"),
            RecordKey::SpentToken(id) => write!(f, "the revocation of session token {id}"),
            RecordKey::Audit(first) => write!(f, "the audit from entry {first} on"),
        }
    }
}

/// Whose row it is; with the row's key this is what every envelope of the account authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) vault: VaultId,
    pub(crate) environment: Environment,
    pub(crate) handle: AccountHandle,
}

impl Owner {
    /// Calls `with` with the parts that are authenticated beside a row of this account.
    pub(crate) fn with_aad<R>(&self, key: RecordKey, with: impl FnOnce(&[&[u8]]) -> R) -> R {
        with(&[
            self.vault.as_bytes().as_slice(),
            &[self.environment.byte()],
            self.handle.as_bytes().as_slice(),
            key.to_bytes().as_slice(),
        ])
    }
}

/// The account's own record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InfoRecord {
    pub(crate) linked_account_id: String,
    pub(crate) metadata: String,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) disabled: bool,
    /// Session tokens of an earlier epoch are revoked.
    pub(crate) epoch: u64,
    /// The version of the account key that seals new rows.
    pub(crate) key_version: u32,
}

/// What is known of a connection beside its credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionRecord {
    pub(crate) provider: String,
    pub(crate) label: String,
    pub(crate) kind: CredentialKind,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) last_used: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    /// What the provider granted, as far as it said.
    pub(crate) scopes: Vec<String>,
    /// What was asked for.
    pub(crate) requested_scopes: Vec<String>,
    /// The host reported that the provider refuses the credential.
    pub(crate) failed: bool,
    pub(crate) disabled: bool,
    /// Where the provider says that this customer's API is.
    pub(crate) api_origin: Option<String>,
}

impl ConnectionRecord {
    /// A connection that is made now.
    pub(crate) fn new(provider: &ProviderName, label: String, kind: CredentialKind, now: Timestamp) -> Self {
        Self {
            provider: provider.as_str().to_owned(),
            label,
            kind,
            created: now,
            updated: now,
            last_used: None,
            expires_at: None,
            scopes: Vec::new(),
            requested_scopes: Vec::new(),
            failed: false,
            disabled: false,
            api_origin: None,
        }
    }
}

/// How one connection's tokens are refreshed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefreshRecord {
    pub(crate) state: RefreshState,
    /// When the wheel looks after the connection next: for no later time there is a row in the directory.
    pub(crate) due: Option<Timestamp>,
}

/// The row of a token that is no longer good.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct SpentToken {
    pub(crate) spent: Spent,
    /// From here on the token is expired anyway and the row may go.
    pub(crate) until: Timestamp,
}

/// The head's content; its revision is the account's sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadRecord {
    pub(crate) digest: [u8; 32],
    pub(crate) audit: ChainEnds,
    /// Up to which number the audit has the account's notes (`domain/journal.rs`).
    pub(crate) noted: u64,
}

/// The two ends of an audit chain: what was pruned before the first kept entry, and the last link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainEnds {
    pub(crate) first_sequence: u64,
    pub(crate) first_link: [u8; 32],
    pub(crate) next_sequence: u64,
    pub(crate) last_link: [u8; 32],
    /// First sequence of the last segment, so that a start can prove that the segment is there.
    pub(crate) last_segment: u64,
}

impl ChainEnds {
    /// A chain without entries; the first entry gets sequence 1.
    pub(crate) const EMPTY: ChainEnds =
        ChainEnds { first_sequence: 1, first_link: [0; 32], next_sequence: 1, last_link: [0; 32], last_segment: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_and_no_other_text_does() {
        let id = ConnectionId::from_bytes([7; 16]);
        let keys = [
            RecordKey::Head,
            RecordKey::AccountKey,
            RecordKey::TokenKey,
            RecordKey::AuditKey,
            RecordKey::PreviousAccountKey,
            RecordKey::Info,
            RecordKey::Connection(id),
            RecordKey::Secret(id),
            RecordKey::Refresh(id),
            RecordKey::PreviousToken(id),
            RecordKey::SpentToken(SessionTokenId::from_bytes([8; 16])),
            RecordKey::Audit(u64::MAX),
        ];
        for key in keys {
            assert_eq!(RecordKey::parse(&key.to_bytes()), Some(key));
            let covered =
                RecordKey::covered_ranges().iter().any(|(from, to)| *from <= &key.to_bytes()[..] && &key.to_bytes()[..] < *to);
            assert_eq!(covered, !matches!(key, RecordKey::Audit(_)));
        }
        for stray in [&b""[..], b"hx", b"c", b"c123", b"z", b"u1"] {
            assert_eq!(RecordKey::parse(stray), None);
        }
    }
}
