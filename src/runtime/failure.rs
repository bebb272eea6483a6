//! Storage errors in the words of the public ones.

use crate::domain::error::{Damaged, Error, OpenError, VaultPart};
use crate::storage::{Location, StorageError};

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupted { place, detail, accounts } => {
                Error::Corrupted(Damaged { part: part(place), accounts, detail: detail.into() })
            }
            StorageError::RolledBack { place, accounts } => {
                Error::RolledBack(Damaged { part: part(place), accounts, detail: "it is older than its anchor".into() })
            }
            StorageError::Poisoned(reason) => Error::Poisoned { reason: reason.into() },
            StorageError::Closed => Error::Closed,
            StorageError::Overloaded => Error::Overloaded,
            StorageError::TooLarge { bytes, limit } => Error::TooLarge { what: "stored record", limit, bytes },
            StorageError::Io { doing, source } => Error::Io { doing, source },
            StorageError::NoTree => Error::Internal { doing: "looking for an account's tree" },
            StorageError::Conflict { .. } => Error::Internal { doing: "committing a change (somebody else changed the account)" },
            StorageError::AlreadyOpen | StorageError::NotAVault => Error::Internal { doing: "using an open vault" },
        }
    }
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::AlreadyOpen => OpenError::AlreadyOpen,
            StorageError::NotAVault => OpenError::NotAVault,
            other => Error::from(other).into(),
        }
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        match error {
            Error::Corrupted(damaged) => OpenError::Corrupted(damaged),
            Error::RolledBack(damaged) => OpenError::RolledBack(damaged),
            Error::Io { doing, source } => OpenError::Io { doing, source },
            Error::Poisoned { reason } => OpenError::Poisoned { reason },
            Error::Internal { doing } => OpenError::Internal { doing },
            _ => OpenError::Internal { doing: "opening the vault" },
        }
    }
}

const fn part(location: Location) -> VaultPart {
    match location {
        Location::Header => VaultPart::Header,
        Location::Directory => VaultPart::Directory,
        Location::Shard(shard) => VaultPart::Shard(shard),
    }
}
