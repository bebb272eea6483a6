//! What a vault must hold, by what its child process said; and the words in which it says it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Tasks of a child, and the accounts that each works on.
pub const TASKS: usize = 6;
pub const ACCOUNTS: usize = 4;
/// Few accounts to a shard: all of them together have at least eight.
pub const TREES_PER_SHARD: usize = 2;

/// A change that a child makes. Names have no spaces, so a change is a line of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Create {
        account: String,
        metadata: String,
    },
    SetMetadata {
        account: String,
        metadata: String,
    },
    Add {
        account: String,
        label: String,
        secret: String,
    },
    Replace {
        account: String,
        label: String,
        secret: String,
    },
    Remove {
        account: String,
        label: String,
    },
    Mint {
        account: String,
    },
    /// Mints a token for single use.
    MintOnce {
        account: String,
    },
    /// Uses up the token that has this text.
    UseUp {
        account: String,
        token: String,
    },
    /// Makes an OAuth connection; `secret` is the access token that the provider gives.
    Connect {
        account: String,
        label: String,
        secret: String,
    },
    /// Has an OAuth connection refreshed; `secret` is the new access token.
    Refresh {
        account: String,
        label: String,
        secret: String,
    },
    /// Revokes the token that has this text.
    Revoke {
        account: String,
        token: String,
    },
    RevokeAll {
        account: String,
    },
    RotateKey {
        account: String,
    },
    Delete {
        account: String,
    },
    /// Puts the vault under the root key of this number.
    RotateRoot {
        number: u8,
    },
}

/// What is known of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub metadata: String,
    /// Secrets by label.
    pub connections: BTreeMap<String, String>,
}

/// All that there must be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub accounts: BTreeMap<String, Account>,
    /// Tokens by their text: whose, and whether they are good.
    pub tokens: BTreeMap<String, (String, bool)>,
    /// Those of them that are for single use.
    pub once: BTreeSet<String>,
    pub root: u8,
}

impl Change {
    /// The account that it changes.
    pub fn account(&self) -> Option<&str> {
        match self {
            Self::Create { account, .. }
            | Self::SetMetadata { account, .. }
            | Self::Add { account, .. }
            | Self::Replace { account, .. }
            | Self::Remove { account, .. }
            | Self::Mint { account }
            | Self::MintOnce { account }
            | Self::UseUp { account, .. }
            | Self::Connect { account, .. }
            | Self::Refresh { account, .. }
            | Self::Revoke { account, .. }
            | Self::RevokeAll { account }
            | Self::RotateKey { account }
            | Self::Delete { account } => Some(account),
            Self::RotateRoot { .. } => None,
        }
    }
}

impl Change {
    /// Whether it mints a token, whose text is known once it was acknowledged.
    pub fn mints(&self) -> bool {
        matches!(self, Self::Mint { .. } | Self::MintOnce { .. })
    }
}

impl Model {
    /// The state after an acknowledged change. `answer` is the token that was minted.
    pub fn apply(&mut self, change: &Change, answer: Option<&str>) {
        match change {
            Change::Create { account, metadata } => {
                let new = Account { metadata: metadata.clone(), connections: BTreeMap::new() };
                assert!(self.accounts.insert(account.clone(), new).is_none(), "{account} was there and is created");
            }
            Change::SetMetadata { account, metadata } => self.of(account).metadata.clone_from(metadata),
            Change::Add { account, label, secret }
            | Change::Replace { account, label, secret }
            | Change::Connect { account, label, secret }
            | Change::Refresh { account, label, secret } => {
                self.of(account).connections.insert(label.clone(), secret.clone());
            }
            Change::Remove { account, label } => drop(self.of(account).connections.remove(label)),
            Change::Mint { account } | Change::MintOnce { account } => {
                let text = answer.expect("a token was minted").to_owned();
                if matches!(change, Change::MintOnce { .. }) {
                    self.once.insert(text.clone());
                }
                self.tokens.insert(text, (account.clone(), true));
            }
            Change::Revoke { token, .. } | Change::UseUp { token, .. } => {
                self.tokens.get_mut(token).expect("it was minted").1 = false;
            }
            Change::RevokeAll { account } | Change::RotateKey { account } => self.end_tokens(account),
            Change::Delete { account } => {
                assert!(self.accounts.remove(account).is_some(), "{account} was not there and is deleted");
                self.end_tokens(account);
            }
            Change::RotateRoot { number } => self.root = *number,
        }
    }

    fn of(&mut self, account: &str) -> &mut Account {
        self.accounts.get_mut(account).expect("the account is there")
    }

    fn end_tokens(&mut self, account: &str) {
        self.tokens.values_mut().filter(|(owner, _)| owner == account).for_each(|(_, good)| *good = false);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { account, metadata } => write!(f, "create {account} {metadata}"),
            Self::SetMetadata { account, metadata } => write!(f, "metadata {account} {metadata}"),
            Self::Add { account, label, secret } => write!(f, "add {account} {label} {secret}"),
            Self::Replace { account, label, secret } => write!(f, "replace {account} {label} {secret}"),
            Self::Remove { account, label } => write!(f, "remove {account} {label}"),
            Self::Mint { account } => write!(f, "mint {account}"),
            Self::MintOnce { account } => write!(f, "mint-once {account}"),
            Self::UseUp { account, token } => write!(f, "use-up {account} {token}"),
            Self::Connect { account, label, secret } => write!(f, "connect {account} {label} {secret}"),
            Self::Refresh { account, label, secret } => write!(f, "refresh {account} {label} {secret}"),
            Self::Revoke { account, token } => write!(f, "revoke {account} {token}"),
            Self::RevokeAll { account } => write!(f, "revoke-all {account}"),
            Self::RotateKey { account } => write!(f, "rotate-key {account}"),
            Self::Delete { account } => write!(f, "delete {account}"),
            Self::RotateRoot { number } => write!(f, "rotate-root {number}"),
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let change = match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["create", account, metadata] => Self::Create { account: (*account).into(), metadata: (*metadata).into() },
            ["metadata", account, metadata] => Self::SetMetadata { account: (*account).into(), metadata: (*metadata).into() },
            ["add", account, label, secret] => {
                Self::Add { account: (*account).into(), label: (*label).into(), secret: (*secret).into() }
            }
            ["replace", account, label, secret] => {
                Self::Replace { account: (*account).into(), label: (*label).into(), secret: (*secret).into() }
            }
            ["remove", account, label] => Self::Remove { account: (*account).into(), label: (*label).into() },
            ["mint", account] => Self::Mint { account: (*account).into() },
            ["mint-once", account] => Self::MintOnce { account: (*account).into() },
            ["use-up", account, token] => Self::UseUp { account: (*account).into(), token: (*token).into() },
            ["connect", account, label, secret] => {
                Self::Connect { account: (*account).into(), label: (*label).into(), secret: (*secret).into() }
            }
            ["refresh", account, label, secret] => {
                Self::Refresh { account: (*account).into(), label: (*label).into(), secret: (*secret).into() }
            }
            ["revoke", account, token] => Self::Revoke { account: (*account).into(), token: (*token).into() },
            ["revoke-all", account] => Self::RevokeAll { account: (*account).into() },
            ["rotate-key", account] => Self::RotateKey { account: (*account).into() },
            ["delete", account] => Self::Delete { account: (*account).into() },
            ["rotate-root", number] => Self::RotateRoot { number: number.parse().map_err(|_| text.to_owned())? },
            _ => return Err(text.to_owned()),
        };
        Ok(change)
    }
}

/// Chance that can be repeated (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
