//! What a rebuilding of the directory found, and what it could not bring back.

use std::fmt;

use crate::domain::error::{Damaged, OpenError};
use crate::ids::{AccountHandle, Environment, ShardId};

/// What a rebuilding of the directory found in the shards and in the old directory, and what it can't bring back. Its `Display` says in
/// words what was lost and what to do about each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RebuildReport {
    /// How many accounts were read, proven, and entered into the new directory from what they say of themselves.
    pub accounts: u64,
    /// Accounts and shards that can't be read. The new directory keeps the accounts' entries, so that calls for them go on saying what is
    /// wrong.
    pub damaged: Vec<Damaged>,
    /// Deletions that had been decided; they are completed when the vault is opened.
    pub deletions: u64,
    /// API keys, providers with their clients, and the audits of API keys.
    pub settings: Carried,
    /// What accounts noted of mints, uses, reveals and refusals within the last half minute and had not in their own audits yet.
    pub journal: Carried,
    /// Whether `directory.anchor` could be read. Without it nothing says whether the shards are the newest ones: each account is whole
    /// in itself, and may be one of yesterday.
    pub anchor: Carried,
    /// *Lost*: accounts that can't be read and that the old directory does not name either. Nobody finds them by the host's id
    /// any more; should their shard come back from a backup, rebuild again.
    pub unnamed: Vec<AccountHandle>,
    /// *Lost*: shards that don't even tell which accounts they hold, while the part of the old directory that could have told is
    /// damaged too. What is lost with them is not known.
    pub unknown: Vec<ShardId>,
    /// *Given up*: account trees that are whole and belong to nobody: the directory that knew of them has disowned them, or a newer
    /// account has the same id. They were being deleted, and are shredded when the vault is opened.
    pub given_up: Vec<AccountHandle>,
    /// Environments whose API-key audit could be taken over in part only: `verify_api_key_audit` says where it breaks.
    pub broken_audits: Vec<Environment>,
    /// Where in the vault's directory the old one is kept; `None` when there was none, or nothing was changed. It holds sealed ids of
    /// customers and clients' secrets, those of deleted customers too, and no account key: remove it when the new one has proven
    /// itself.
    pub kept_aside: Option<String>,
}

/// What became of a part of the old directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Carried {
    /// It was proven to be the newest, and is there again.
    Proven,
    /// It is whole and is there again, and nothing says whether it is the newest.
    AsFound,
    /// It can't be proven whole, and is not there any more.
    Lost,
}

/// Why the directory was not rebuilt. The vault is as it was, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// Something can't be brought back, and the host has not accepted that. Nothing has changed.
    #[error("rebuilding would lose something, and nothing was changed: {0}")]
    WouldLose(Box<RebuildReport>),
    /// The vault can't be read, as when it is opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Putting the new directory in its place was interrupted. Call it again; what was lost by then is in this report, and the next one
    /// does not speak of it again.
    #[error("the rebuilt directory could not be put in its place ({source}): call rebuild_directory again")]
    Interrupted {
        /// What was found.
        report: Box<RebuildReport>,
        /// What interrupted it.
        source: Box<OpenError>,
    },
}

impl RebuildReport {
    pub(super) fn new(anchor: Carried) -> Self {
        Self {
            accounts: 0,
            damaged: Vec::new(),
            deletions: 0,
            settings: Carried::Lost,
            journal: Carried::Lost,
            anchor,
            unnamed: Vec::new(),
            unknown: Vec::new(),
            given_up: Vec::new(),
            broken_audits: Vec::new(),
            kept_aside: None,
        }
    }

    /// Whether the new directory lacks something that the old one had, or holds something that is not proven to be the newest.
    #[must_use]
    pub fn loses(&self) -> bool {
        [self.settings, self.journal, self.anchor].iter().any(|part| *part != Carried::Proven)
            || !(self.unnamed.is_empty() && self.unknown.is_empty() && self.given_up.is_empty() && self.broken_audits.is_empty())
    }
}

impl fmt::Display for RebuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} accounts are there", self.accounts)?;
        if self.anchor != Carried::Proven {
            f.write_str(
                "; directory.anchor can't be read, so accounts may be older than acknowledged: compare, and keep a new head",
            )?;
        }
        match self.settings {
            Carried::Proven => {}
            Carried::AsFound => f.write_str("; API keys, providers and clients may be older ones: revoke and set what changed since")?,
            Carried::Lost => f.write_str(
                "; API keys, providers, clients and the audit of API keys are lost: bootstrap both environments, create keys, set \
                 providers and clients",
            )?,
        }
        if self.journal == Carried::Lost {
            f.write_str("; the last half minute of uses, mints and refusals is missing from the accounts' audits")?;
        }
        if !self.damaged.is_empty() {
            write!(f, "; {} shards or accounts can't be read: put their shards back", self.damaged.len())?;
        }
        if !self.unnamed.is_empty() {
            write!(f, "; {} damaged accounts are found by their id no more", self.unnamed.len())?;
        }
        if !self.unknown.is_empty() {
            write!(f, "; {} shards hold accounts that nobody names: put these shards back, then rebuild", self.unknown.len())?;
        }
        if !self.given_up.is_empty() {
            write!(f, "; {} accounts that were being deleted will be shredded", self.given_up.len())?;
        }
        for environment in &self.broken_audits {
            write!(f, "; the API-key audit of the {environment} environment is broken")?;
        }
        Ok(())
    }
}
