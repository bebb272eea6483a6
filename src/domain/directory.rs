//! The rows of the directory: their keys, the bucket each falls into, and what each holds.
//!
//! A row key is bucket (2 bytes, big-endian) ‖ kind ‖ rest, so that a bucket is one range of keys.
//!
//! | kind | rest | row |
//! |---|---|---|
//! | 0 | – | the bucket's head: digest over every other row of the bucket |
//! | `a` | locator ‖ environment | an account, found by the keyed hash of its `linked_account_id`, and by its handle: see below |
//! | `n` | handle | an account that can't be read and that nobody names, after the directory was made anew |
//! | `k` | environment ‖ key id | an API key |
//! | `p` | environment ‖ locator of the name | a provider's settings |
//! | `c` | environment ‖ locator of the name | the client that the host has at a provider |
//! | `x` | handle | an account that is being shredded |
//! | `d` | slot of time (4 bytes, big-endian) ‖ handle | an account that the refresh wheel looks after then |
//! | `w` | – | how far the refresh wheel has come |
//! | `e` | environment | facts of the environment: whether its first API key was handed out, the ends of its audit chain |
//! | `j` | number | what happened to accounts lately and is not in their own audits yet; in a bucket of its own |
//! | `u` | first sequence | a segment of an environment's API-key audit; in a range of its own, covered by the chain |
//!
//! An account has one row. Its handle begins with the first four bytes of its locator, so whoever has the handle finds the row among the few,
//! nearly always none but it, whose locators begin so. With a row by the handle as well, a change of both was a change of two pages of the
//! engine, and the directory, what it takes to open it and what it takes of the cache were twice as large.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::domain::account::records::ChainEnds;
use crate::ids::{AccountHandle, ApiKeyId, Environment, ShardId};

/// Buckets for accounts: the first 12 bits of a locator or handle.
pub(crate) const ACCOUNT_BUCKETS: u16 = 4096;
/// The bucket of everything that there is little of: API keys, providers, environments, tombstones.
pub(crate) const CONTROL_BUCKET: u16 = ACCOUNT_BUCKETS;
/// The bucket of the journal.
pub(crate) const JOURNAL_BUCKET: u16 = ACCOUNT_BUCKETS + 1;
/// All buckets that have a head.
pub(crate) const BUCKETS: u16 = ACCOUNT_BUCKETS + 2;
/// Where the API-key audit's segments begin; one range per environment.
const AUDIT_RANGE: u16 = 0xf000;

/// The name of one row of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowName {
    BucketHead(u16),
    Account(Environment, [u8; 32]),
    Unnamed(AccountHandle),
    ApiKey(Environment, ApiKeyId),
    Provider(Environment, [u8; 32]),
    OAuthClient(Environment, [u8; 32]),
    Tombstone(AccountHandle),
    Due(u32, AccountHandle),
    WheelPosition,
    Environment(Environment),
    Journal(u64),
    AuditSegment(Environment, u64),
}

impl RowName {
    /// The bucket whose head covers the row; `None` for audit segments, which their chain covers.
    pub(crate) fn bucket(&self) -> Option<u16> {
        match self {
            RowName::BucketHead(bucket) => Some(*bucket),
            RowName::Account(_, locator) => Some(account_bucket(locator)),
            RowName::Unnamed(handle) => Some(handle_bucket(handle)),
            RowName::Due(slot, _) => Some(due_bucket(*slot)),
            RowName::ApiKey(..)
            | RowName::Provider(..)
            | RowName::OAuthClient(..)
            | RowName::Tombstone(_)
            | RowName::WheelPosition
            | RowName::Environment(_) => Some(CONTROL_BUCKET),
            RowName::Journal(_) => Some(JOURNAL_BUCKET),
            RowName::AuditSegment(..) => None,
        }
    }

    /// The key in the directory's tree.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let range = match self {
            RowName::AuditSegment(environment, _) => AUDIT_RANGE + u16::from(environment.byte()),
            _ => self.bucket().unwrap_or(CONTROL_BUCKET),
        };
        let mut bytes = Vec::with_capacity(36);
        bytes.extend_from_slice(&range.to_be_bytes());
        match self {
            RowName::BucketHead(_) => bytes.push(0),
            RowName::Account(environment, locator) => {
                push(&mut bytes, b'a', None, &locator);
                bytes.push(environment.byte());
            }
            RowName::Unnamed(handle) => push(&mut bytes, b'n', None, handle.as_bytes()),
            RowName::ApiKey(environment, id) => push(&mut bytes, b'k', Some(environment), id.as_bytes()),
            RowName::Provider(environment, locator) => push(&mut bytes, b'p', Some(environment), &locator),
            RowName::OAuthClient(environment, locator) => push(&mut bytes, b'c', Some(environment), &locator),
            RowName::Tombstone(handle) => push(&mut bytes, b'x', None, handle.as_bytes()),
            RowName::Due(slot, handle) => {
                push(&mut bytes, b'd', None, &[&slot.to_be_bytes(), handle.as_bytes().as_slice()].concat());
            }
            RowName::WheelPosition => push(&mut bytes, b'w', None, &[]),
            RowName::Environment(environment) => push(&mut bytes, b'e', Some(environment), &[]),
            RowName::Journal(number) => push(&mut bytes, b'j', None, &number.to_be_bytes()),
            RowName::AuditSegment(_, first) => push(&mut bytes, b'u', None, &first.to_be_bytes()),
        }
        bytes
    }

    /// The name that a key stands for; `None` for a key that this version does not write, or in a bucket not its own.
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        let (range, rest) = key.split_first_chunk::<2>()?;
        let range = u16::from_be_bytes(*range);
        let (kind, rest) = rest.split_first()?;
        let name = match kind {
            0 if rest.is_empty() && range < BUCKETS => RowName::BucketHead(range),
            b'a' => {
                let (environment, locator) = rest.split_last()?;
                RowName::Account(Environment::from_byte(*environment)?, locator.try_into().ok()?)
            }
            b'n' => RowName::Unnamed(AccountHandle::from_bytes(rest.try_into().ok()?)),
            b'k' => with_environment(rest, |environment, id| RowName::ApiKey(environment, ApiKeyId::from_bytes(id)))?,
            b'p' => with_environment(rest, RowName::Provider)?,
            b'c' => with_environment(rest, RowName::OAuthClient)?,
            b'd' => {
                let (slot, handle) = rest.split_first_chunk::<4>()?;
                RowName::Due(u32::from_be_bytes(*slot), AccountHandle::from_bytes(handle.try_into().ok()?))
            }
            b'w' if rest.is_empty() => RowName::WheelPosition,
            b'j' => RowName::Journal(u64::from_be_bytes(rest.try_into().ok()?)),
            b'x' => RowName::Tombstone(AccountHandle::from_bytes(rest.try_into().ok()?)),
            b'e' => with_environment(rest, |environment, _: [u8; 0]| RowName::Environment(environment))?,
            b'u' => {
                let environment = Environment::from_byte(u8::try_from(range.checked_sub(AUDIT_RANGE)?).ok()?)?;
                RowName::AuditSegment(environment, u64::from_be_bytes(rest.try_into().ok()?))
            }
            _ => return None,
        };
        (name.to_bytes() == key).then_some(name)
    }

    /// The range of keys of one bucket, head included.
    pub(crate) fn bucket_range(bucket: u16) -> (Vec<u8>, Vec<u8>) {
        (bucket.to_be_bytes().to_vec(), (bucket + 1).to_be_bytes().to_vec())
    }

    /// The range of keys in which the row of the account with this handle is.
    pub(crate) fn beside(handle: &AccountHandle) -> (Vec<u8>, Vec<u8>) {
        let beginning = &handle.as_bytes()[..HANDLE_BEGINNING];
        let mut start = handle_bucket(handle).to_be_bytes().to_vec();
        push(&mut start, b'a', None, beginning);
        // Nothing that begins so is above it.
        let end = [start.as_slice(), &[0xff; 34]].concat();
        (start, end)
    }

    /// The range of keys of one environment's API-key audit.
    pub(crate) fn audit_range(environment: Environment) -> (Vec<u8>, Vec<u8>) {
        Self::bucket_range(AUDIT_RANGE + u16::from(environment.byte()))
    }
}

/// An account in the directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccountRow {
    pub(crate) linked_account_id: String,
    pub(crate) handle: AccountHandle,
    pub(crate) shard: ShardId,
    pub(crate) created: Timestamp,
}

/// An account that can't be read, and of which only the shard is known. It stands there so that its tree is not taken for what a creation left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnnamedRow {
    pub(crate) shard: ShardId,
}

/// What the directory says of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountPlace {
    pub(crate) environment: Environment,
    pub(crate) locator: [u8; 32],
    pub(crate) shard: ShardId,
}

impl AccountPlace {
    /// That of an account that nobody names: with what no account has.
    pub(crate) fn unnamed(row: UnnamedRow) -> Self {
        Self { environment: Environment::Test, locator: [0; 32], shard: row.shard }
    }
}

/// An account whose deletion is decided and whose bytes are not yet proven gone.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct TombstoneRow {
    pub(crate) environment: Environment,
    pub(crate) shard: ShardId,
}

/// An account that the refresh wheel looks after in the slot of the row's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DueRow {
    pub(crate) shard: ShardId,
}

/// The slot up to which everything that was due is taken care of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WheelRow {
    pub(crate) slot: u32,
}

/// The facts of one environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EnvironmentRow {
    pub(crate) bootstrapped: bool,
    pub(crate) audit: ChainEnds,
}

/// A bucket head's content; its revision is the bucket's sequence.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct BucketHeadRow {
    pub(crate) digest: [u8; 32],
}

/// How much of a handle is its account's locator. What is left, 96 bits, is random.
const HANDLE_BEGINNING: usize = 4;

/// A handle for the account with this locator.
pub(crate) fn handle_beside(locator: &[u8; 32], random: [u8; 16]) -> AccountHandle {
    let mut bytes = random;
    bytes[..HANDLE_BEGINNING].copy_from_slice(&locator[..HANDLE_BEGINNING]);
    AccountHandle::from_bytes(bytes)
}

/// The bucket that the row of the account with this handle falls into.
pub(crate) fn handle_bucket(handle: &AccountHandle) -> u16 {
    account_bucket(handle.as_bytes())
}

fn account_bucket(uniform: &[u8]) -> u16 {
    // Locators and handles are uniform and at least 16 bytes long, so 12 bits of them spread evenly.
    u16::from_be_bytes([uniform[0], uniform[1]]) >> 4
}

/// Slots of time go round the buckets of the accounts, so that the rows of one slot are one range of keys.
pub(crate) fn due_bucket(slot: u32) -> u16 {
    u16::try_from(slot % u32::from(ACCOUNT_BUCKETS)).unwrap_or(0)
}

fn push(bytes: &mut Vec<u8>, kind: u8, environment: Option<Environment>, rest: &[u8]) {
    bytes.push(kind);
    bytes.extend(environment.map(Environment::byte));
    bytes.extend_from_slice(rest);
}

fn with_environment<const N: usize>(rest: &[u8], name: impl FnOnce(Environment, [u8; N]) -> RowName) -> Option<RowName> {
    let (environment, rest) = rest.split_first()?;
    Some(name(Environment::from_byte(*environment)?, rest.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_handle_and_the_handle_is_random() {
        let ordinary: [u8; 32] = std::array::from_fn(|at| at as u8);
        for locator in [ordinary, [0; 32], [0xff; 32]] {
            for random in [[0; 16], [0xff; 16]] {
                let handle = handle_beside(&locator, random);
                assert_eq!(handle.as_bytes()[HANDLE_BEGINNING..], random[HANDLE_BEGINNING..]);
                let (start, end) = RowName::beside(&handle);
                for environment in Environment::ALL {
                    let key = RowName::Account(environment, locator).to_bytes();
                    assert!(start <= key && key < end);
                }
                let mut elsewhere = locator;
                elsewhere[HANDLE_BEGINNING - 1] ^= 1;
                let key = RowName::Account(Environment::Test, elsewhere).to_bytes();
                assert!(key < start || end <= key);
                let unnamed = RowName::Unnamed(handle).to_bytes();
                assert!(unnamed < start || end <= unnamed);
            }
        }
    }

    #[test]
    fn every_name_reads_back_and_lies_in_its_range() {
        let handle = AccountHandle::from_bytes([0xff; 16]);
        let names = [
            RowName::BucketHead(0),
            RowName::BucketHead(CONTROL_BUCKET),
            RowName::Account(Environment::Test, [0xff; 32]),
            RowName::Account(Environment::Production, [0; 32]),
            RowName::Unnamed(handle),
            RowName::ApiKey(Environment::Test, ApiKeyId::from_bytes([3; 12])),
            RowName::Provider(Environment::Test, [4; 32]),
            RowName::OAuthClient(Environment::Test, [5; 32]),
            RowName::Tombstone(handle),
            RowName::Due(u32::MAX, handle),
            RowName::WheelPosition,
            RowName::Environment(Environment::Production),
            RowName::Journal(78),
            RowName::AuditSegment(Environment::Production, 77),
        ];
        for name in names {
            let key = name.to_bytes();
            assert_eq!(RowName::parse(&key), Some(name));
            let (from, to) = match name {
                RowName::AuditSegment(environment, _) => RowName::audit_range(environment),
                _ => RowName::bucket_range(name.bucket().unwrap()),
            };
            assert!(from <= key && key < to);
            let mut elsewhere = key.clone();
            elsewhere[0] ^= 1;
            assert_ne!(RowName::parse(&elsewhere), Some(name));
        }
        assert_eq!(RowName::Account(Environment::Test, [0xff; 32]).bucket(), Some(4095));
    }
}
