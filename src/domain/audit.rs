//! What happened to an account, as a chain of segments: the entries that came with one commit, as a rule. A segment's link is a keyed hash over
//! the link before it, so that no entry can be changed, left out or put elsewhere without breaking the chain at that place.
//!
//! ```text
//! segment = body ‖ link
//! body    = number of entries ‖ packed entries
//! link    = mac(chain key, link of the segment before; sequence of the first entry (8 bytes, big-endian); body)
//! ```
//!
//! Each segment is one sealed row, which opens as a whole or not at all, so a link for each entry would tell nothing that its segment's does
//! not. The chain's ends stand in the account's head.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::codec::{self, CodecError};
use crate::domain::denial::DenialReason;
use crate::domain::entries::Slice;
use crate::domain::oauth::refresh::{ReauthReason, RefreshFailure};
use crate::domain::packed::{Packer, Unpacker};
use crate::ids::{AccountHandle, ApiKeyId, ConnectionId, ProviderName, SessionTokenId};

/// The most entries of one segment: keeps a row well under what an engine takes.
pub(crate) const SEGMENT_ENTRIES: usize = 128;

/// One entry of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its number: 1 for the first entry of the chain, one more for each after it.
    pub sequence: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Who did it.
    pub actor: AuditActor,
    /// What was done.
    pub action: AuditAction,
    /// The connection that it was done to, if it was one.
    pub connection: Option<ConnectionId>,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AuditActor {
    /// The holder of an API key.
    ApiKey(ApiKeyId),
    /// The holder of a session token.
    Session {
        /// The token's id.
        id: SessionTokenId,
        /// The subject that the host gave the token, as it is.
        subject: Option<String>,
    },
    /// Somebody who presented a token or key that is not valid, so that nobody vouches for who it was.
    Unknown,
    /// The host's code that opened the vault.
    Host,
    /// The vault itself.
    Vault,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AuditAction {
    /// The account was created.
    AccountCreated,
    /// The account's metadata was changed.
    MetadataChanged,
    /// The account was disabled.
    AccountDisabled,
    /// The account was enabled again.
    AccountEnabled,
    /// The account's key was replaced and its records sealed anew.
    AccountKeyRotated,
    /// The account's keys were wrapped under a new root key.
    KeysRewrapped,
    /// A connection was added.
    ConnectionAdded,
    /// A connection's credential was replaced.
    CredentialReplaced,
    /// A connection's label was changed.
    ConnectionRelabelled,
    /// A connection was reported as refused by its provider.
    ConnectionFailed,
    /// A connection was removed.
    ConnectionRemoved,
    /// A credential was put into a request.
    CredentialUsed {
        /// The host that the request goes to.
        host: String,
    },
    /// A credential was shown to the host's code.
    SecretRevealed,
    /// A session token was minted.
    SessionMinted {
        /// The token's id.
        session: SessionTokenId,
        /// When it expires.
        expires: Timestamp,
    },
    /// A session token was revoked.
    SessionRevoked {
        /// The token's id.
        session: SessionTokenId,
    },
    /// A session token for single use was used.
    SessionUsedUp {
        /// The token's id.
        session: SessionTokenId,
    },
    /// All session tokens were revoked.
    AllSessionsRevoked,
    /// Older entries were removed, as the retention asks.
    Pruned {
        /// How many.
        entries: u64,
    },
    /// Somebody was refused.
    Denied {
        /// What was asked for.
        what: String,
        /// Why it was refused.
        reason: DenialReason,
        /// How often in a row.
        count: u64,
    },
    /// An account was deleted (in the API-key audit: the account's own is gone with it).
    AccountDeleted {
        /// The account's handle.
        account: AccountHandle,
    },
    /// An API key was created.
    ApiKeyCreated {
        /// The key's id.
        key: ApiKeyId,
    },
    /// An API key was rotated.
    ApiKeyRotated {
        /// The key that takes over.
        to: ApiKeyId,
        /// The key that ends.
        from: ApiKeyId,
    },
    /// An API key was revoked.
    ApiKeyRevoked {
        /// The key's id.
        key: ApiKeyId,
    },
    /// A provider's settings were stored.
    ProviderSet {
        /// The provider.
        provider: String,
    },
    /// A provider's settings were removed.
    ProviderRemoved {
        /// The provider.
        provider: String,
    },
    /// A connect flow was begun: the customer was sent to the provider.
    ConnectBegun {
        /// The provider.
        provider: String,
    },
    /// A connect flow ended without tokens; a connection that was to be renewed is as it was.
    ConnectFailed {
        /// The provider.
        provider: String,
        /// What was in the way.
        reason: String,
    },
    /// The provider gave new tokens.
    TokensRefreshed {
        /// Counts the connection's sets of tokens.
        generation: u64,
    },
    /// The provider gave no new tokens; noted when that begins or the reason changes.
    RefreshFailed {
        /// Why.
        reason: RefreshFailure,
    },
    /// The customer has to connect anew.
    ReauthRequired {
        /// Why.
        reason: ReauthReason,
    },
    /// The provider was asked to revoke the tokens of a connection that is being removed.
    ProviderRevocation {
        /// Whether it did.
        revoked: bool,
    },
    /// A connection was disabled.
    ConnectionDisabled,
    /// A connection was enabled again.
    ConnectionEnabled,
    /// The client that the host has at a provider was set.
    OAuthClientSet {
        /// The provider.
        provider: String,
    },
}

impl AuditAction {
    pub(crate) fn provider_set(provider: &ProviderName) -> Self {
        Self::ProviderSet { provider: provider.as_str().to_owned() }
    }

    pub(crate) fn provider_removed(provider: &ProviderName) -> Self {
        Self::ProviderRemoved { provider: provider.as_str().to_owned() }
    }
}

/// The chain is broken: the entries that were written together from this number on, or those before them, are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit chain is broken at entry {sequence}")]
pub struct BrokenLink {
    /// The first entry of the first segment whose link does not hold.
    pub sequence: u64,
}

/// An entry that has no number yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewEntry {
    pub(crate) at: Timestamp,
    pub(crate) actor: AuditActor,
    pub(crate) action: AuditAction,
    pub(crate) target: Option<ConnectionId>,
}

impl NewEntry {
    /// Counts a refusal into this entry, if this is the same refusal. Whether it is.
    pub(crate) fn counts(&mut self, other: &NewEntry) -> bool {
        let AuditAction::Denied { what: other_what, reason: other_reason, count: more } = &other.action else { return false };
        let AuditAction::Denied { what, reason, count } = &mut self.action else { return false };
        let same = self.actor == other.actor && self.target == other.target && what == other_what && reason == other_reason;
        if same {
            *count += more;
            self.at = other.at;
        }
        same
    }
}

#[cfg(feature = "testing")]
impl From<AuditEntry> for NewEntry {
    fn from(entry: AuditEntry) -> Self {
        Self { at: entry.at, actor: entry.actor, action: entry.action, target: entry.connection }
    }
}

/// A segment, opened and taken apart.
struct Segment<'a> {
    entries: Vec<NewEntry>,
    body: &'a [u8],
    link: &'a [u8; 32],
}

impl<'a> Segment<'a> {
    fn decode(plain: &'a [u8]) -> Result<Self, CodecError> {
        let (body, link) = plain.split_last_chunk().ok_or(CodecError::of("a segment without its link"))?;
        let mut from = codec::Reader::of(body)?;
        let count = from.number()?;
        let mut unpacker = Unpacker::default();
        // Each entry takes a byte at least, so that a wrong number ends soon.
        let entries = (0..count).map(|_| unpacker.next(&mut from)).collect::<Result<Vec<_>, _>>()?;
        from.finish()?;
        if entries.is_empty() {
            return Err(CodecError::of("a segment without entries"));
        }
        Ok(Self { entries, body, link })
    }
}

/// Appends an entry; one more refusal of the same kind in a row only raises the count, so that a flood of bad tokens can't flood
/// the audit.
pub(crate) fn append(entries: &mut Vec<NewEntry>, entry: NewEntry) {
    if entries.last_mut().is_none_or(|last| !last.counts(&entry)) {
        entries.push(entry);
    }
}

/// Puts consecutive entries into one segment behind the one with the link `before`; answers it and its link. `mac` is the chain's keyed hash.
pub(crate) fn encode_segment(
    mac: impl Fn(&[&[u8]]) -> [u8; 32],
    first: u64,
    before: &[u8; 32],
    entries: Slice<'_>,
) -> (Vec<u8>, [u8; 32]) {
    const MORE: usize = 48;
    let mut packer = Packer::with_capacity(entries.bytes());
    entries.iter().for_each(|(entry, _)| packer.push(entry));
    let mut segment = codec::Parts::with_capacity(packer.len() + MORE);
    segment.number(entries.len() as u64);
    segment.bytes(&packer.finish());
    let mut segment = segment.finish();
    let link = link(mac, before, first, &segment);
    segment.extend_from_slice(&link);
    (segment, link)
}

fn link(mac: impl Fn(&[&[u8]]) -> [u8; 32], before: &[u8; 32], first: u64, body: &[u8]) -> [u8; 32] {
    mac(&[before, &first.to_be_bytes(), body])
}

/// Reads a segment's entries; the chain is checked by a [`ChainCheck`].
pub(crate) fn decode_segment(first: u64, plain: &[u8]) -> Result<Vec<AuditEntry>, CodecError> {
    let segment = Segment::decode(plain)?;
    Ok((first..)
        .zip(segment.entries)
        .map(|(sequence, entry)| AuditEntry {
            sequence,
            at: entry.at,
            actor: entry.actor,
            action: entry.action,
            connection: entry.target,
        })
        .collect())
}

/// The number of entries of a segment and its link.
pub(crate) fn segment_end(plain: &[u8]) -> Result<(u64, [u8; 32]), CodecError> {
    let segment = Segment::decode(plain)?;
    Ok((segment.entries.len() as u64, *segment.link))
}

/// Walks a chain from its first kept entry.
pub(crate) struct ChainCheck<M> {
    mac: M,
    next: u64,
    link: [u8; 32],
}

impl<M: Fn(&[&[u8]]) -> [u8; 32]> ChainCheck<M> {
    /// `first` is the number of the first kept entry, `link` the link of the entry before it.
    pub(crate) fn new(mac: M, first: u64, link: [u8; 32]) -> Self {
        Self { mac, next: first, link }
    }

    /// Checks the next segment.
    pub(crate) fn segment(&mut self, first: u64, plain: &[u8]) -> Result<(), BrokenLink> {
        let broken = BrokenLink { sequence: self.next };
        if first != self.next {
            return Err(broken);
        }
        let segment = Segment::decode(plain).map_err(|_| broken)?;
        let link = link(&self.mac, &self.link, first, segment.body);
        if link != *segment.link {
            return Err(broken);
        }
        self.link = link;
        self.next += segment.entries.len() as u64;
        Ok(())
    }

    /// The number of the entry that would come next, and the link of the one before it: where a walk in steps goes on.
    pub(crate) fn position(&self) -> (u64, [u8; 32]) {
        (self.next, self.link)
    }

    /// Checks that the chain ends where its head says; returns the number of the entry that would come next.
    pub(crate) fn finish(self, next: u64, link: &[u8; 32]) -> Result<u64, BrokenLink> {
        if self.next != next || self.link != *link {
            return Err(BrokenLink { sequence: self.next });
        }
        Ok(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::derive::Label;
    use crate::crypto::key::Key;
    use crate::domain::entries::Entries;

    fn entry(at: u64, action: AuditAction) -> NewEntry {
        NewEntry { at: Timestamp::from_millis(at), actor: AuditActor::Host, action, target: None }
    }

    fn denied(count: u64) -> AuditAction {
        AuditAction::Denied { what: "revealing".into(), reason: DenialReason::PermissionMissing, count }
    }

    #[test]
    fn repeated_refusals_are_counted_and_other_entries_are_not_merged() {
        let mut entries = Vec::new();
        for _ in 0..1000 {
            append(&mut entries, entry(1, denied(1)));
        }
        append(&mut entries, entry(2, AuditAction::SecretRevealed));
        append(&mut entries, entry(3, AuditAction::SecretRevealed));
        append(&mut entries, entry(4, denied(1)));
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[0].action, denied(1000));
    }

    #[test]
    fn a_chain_names_the_first_broken_link() {
        let key = Key::random();
        let mac = |parts: &[&[u8]]| key.mac(Label::AuditChain, parts);
        let entries: Vec<_> = (0..6).map(|at| entry(at, AuditAction::SecretRevealed)).collect();
        let mut encoded = Entries::of(&entries);
        let (first, others) = encoded.all().split_at(2);
        let (one, link) = encode_segment(mac, 1, &[0; 32], first);
        let (two, end) = encode_segment(mac, 3, &link, others);
        let check = |segments: &[(u64, &[u8])]| {
            let mut check = ChainCheck::new(mac, 1, [0; 32]);
            segments.iter().try_for_each(|(first, plain)| check.segment(*first, plain))?;
            check.finish(7, &end)
        };
        assert_eq!(check(&[(1, &one), (3, &two)]), Ok(7));
        assert_eq!(check(&[(1, &one)]), Err(BrokenLink { sequence: 3 }));
        assert_eq!(check(&[(3, &two)]), Err(BrokenLink { sequence: 1 }));
        assert_eq!(check(&[(1, &one), (5, &two)]), Err(BrokenLink { sequence: 3 }));
        // Entry 5 written with another time, in a segment that the same link follows.
        let mut forged = entries.clone();
        forged[4].at = Timestamp::from_millis(99);
        let (forged, _) = encode_segment(mac, 3, &link, Entries::of(&forged).all().split_at(2).1);
        let forged = [&forged[..forged.len() - 32], &end].concat();
        assert_eq!(decode_segment(3, &forged).unwrap()[2].at, Timestamp::from_millis(99));
        assert_eq!(check(&[(1, &one), (3, &forged)]), Err(BrokenLink { sequence: 3 }));
        // Nothing but the link is wrong.
        let mut end_changed = two.clone();
        *end_changed.last_mut().unwrap() ^= 1;
        assert_eq!(check(&[(1, &one), (3, &end_changed)]), Err(BrokenLink { sequence: 3 }));
        // The same entries behind another link, and under another number.
        let (elsewhere, _) = encode_segment(mac, 3, &[7; 32], others);
        assert_eq!(check(&[(1, &one), (3, &elsewhere)]), Err(BrokenLink { sequence: 3 }));
        let (renumbered, _) = encode_segment(mac, 4, &link, others);
        assert_eq!(check(&[(1, &one), (3, &renumbered)]), Err(BrokenLink { sequence: 3 }));
        // What follows is whole, and the end is not the head's.
        assert_eq!(ChainCheck::new(mac, 1, [0; 32]).finish(7, &end), Err(BrokenLink { sequence: 1 }));
        let of_another_key = |parts: &[&[u8]]| Key::random().mac(Label::AuditChain, parts);
        let (other, _) = encode_segment(of_another_key, 3, &link, others);
        assert_eq!(check(&[(1, &one), (3, &other)]), Err(BrokenLink { sequence: 3 }));
    }
}
