//! A vault's directory before the vault is unlocked.
//!
//! ```text
//! vault.lock            empty; locked while a vault is open
//! header.a  header.b    see header.rs
//! directory/            a sled database
//! directory/sections/S/ a sled database each, in a large vault; see database/sections.rs
//! directory.anchor      see ../anchor.rs
//! shards/NNNN.G/        a sled database each, with its anchor as the file `anchor`
//! commits/              see commit_log.rs
//! *.aside-N             a copy of a damaged database, made before it was repaired; the directory that was rebuilt
//! directory.rebuilding/ directory.rebuilt/      see rebuild.rs
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{AnchorSeal, BoxFuture, Location, MAX_TREES_PER_SHARD, Place, Rebuilding, Storage, StorageError};
use super::SledOptions;
use super::anchors::{self, Anchors, DIRECTORY, DIRECTORY_ANCHOR};
use super::commit_log::COMMITS;
use super::core::{Core, io_error};
use super::engine::SledStorage;
use super::files;
use super::header::{self, Header};
use super::keeper::Keeper;
use super::lane::Lane;
use super::rebuild;
use super::shards::{self, Room, SHARDS};

const LOCK: &str = "vault.lock";

/// A vault's directory, exclusively held.
pub(crate) struct SledPlace {
    root: PathBuf,
    options: SledOptions,
    lock: Lock,
}

/// The lock on a vault's directory, let go of when dropped.
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing the file would not do: a child process that another thread is just starting has it too, until its `exec`, and would
    /// keep the lock for so long.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the lock on the vault's directory is let go of only as its file closes");
        }
    }
}

impl SledPlace {
    /// Takes a vault's directory, and makes it when it is not there.
    ///
    /// # Errors
    /// `AlreadyOpen` when another vault, of this or another process, has it: not one byte is touched then. `NotAVault` when
    /// there is something else.
    pub(crate) fn acquire(path: &Path, options: SledOptions) -> Result<Self, StorageError> {
        let opening = |error| io_error("open the vault's directory", error);
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => return Err(StorageError::NotAVault),
            Ok(_) => check_content(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => files::create_private_dir(path).map_err(opening)?,
            Err(error) => return Err(opening(error)),
        }
        let root = path.canonicalize().map_err(opening)?;
        let lock = files::private_file().create(true).truncate(false).open(root.join(LOCK)).map_err(opening)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, options, lock: Lock(lock) }),
            Err(TryLockError::WouldBlock) => Err(StorageError::AlreadyOpen),
            Err(TryLockError::Error(error)) => Err(io_error("lock the vault's directory", error)),
        }
    }
}

impl Place for SledPlace {
    fn header(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let damaged = |detail: &str| {
            Err(StorageError::Corrupted { place: Location::Header, detail: detail.to_owned(), accounts: Vec::new() })
        };
        match header::read(&self.root).map_err(|error| io_error("read the vault header", error))? {
            Header::Whole(content) => Ok(Some(content)),
            Header::Damaged => damaged("neither header.a nor header.b is whole"),
            // A new header would make everything that is here unreadable for good.
            Header::Absent if has_data(&self.root) => damaged("header.a and header.b are missing"),
            Header::Absent => Ok(None),
        }
    }

    fn write_header(&self, header: &[u8]) -> Result<(), StorageError> {
        header::write(&self.root, header).map_err(|error| io_error("write the vault header", error))
    }

    fn start(self: Box<Self>, seal: Arc<dyn AnchorSeal>) -> BoxFuture<'static, Result<Arc<dyn Storage>, StorageError>> {
        Box::pin(async move {
            let starting = |error| io_error("start the storage engine", error);
            let Self { root, mut options, lock } = *self;
            options.trees_per_shard = options.trees_per_shard.clamp(1, MAX_TREES_PER_SHARD);
            let (mut directory, head) = anchors::read_directory_anchor(&root, &*seal)?;
            files::create_private_dir(&root.join(SHARDS)).map_err(starting)?;
            shards::find_unanchored(&root, &mut directory.shards);
            let room = Room::new(shards::remembered_counts(&directory.shards), options.trees_per_shard);
            let core = Core::new(root, options, seal, Anchors::new(directory, head), room)?;
            let core = Arc::new(core);
            let lane = Lane::new(core.clone(), None);
            Keeper::start(core.clone(), lane.clone(), Some(lock)).map_err(starting)?;
            let storage = SledStorage::new(core, lane);
            let opened = match storage.catch_up(true).await {
                Ok(()) => storage.open_directory().await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(()) => Ok(Arc::new(storage) as Arc<dyn Storage>),
                Err(error) => {
                    // Whoever opens again at once must not meet the lock. What closing says is less than the error.
                    let _ = storage.close().await;
                    Err(error)
                }
            }
        })
    }

    fn rebuild(self: Box<Self>, seal: Arc<dyn AnchorSeal>) -> BoxFuture<'static, Result<Box<dyn Rebuilding>, StorageError>> {
        Box::pin(async move { rebuild::begin(self.root, self.options, seal, self.lock).await })
    }
}

/// Refuses a directory with content that is not a vault's. Looks only.
fn check_content(path: &Path) -> Result<(), StorageError> {
    let opening = |error| io_error("open the vault's directory", error);
    let mut strange = false;
    for entry in fs::read_dir(path).map_err(opening)? {
        let name = entry.map_err(opening)?.file_name();
        match name.to_str() {
            // With a header it is a vault, whatever else someone put there.
            Some("header.a" | "header.b") => return Ok(()),
            Some(name) if is_known(name) => {}
            _ => strange = true,
        }
    }
    if strange { Err(StorageError::NotAVault) } else { Ok(()) }
}

fn is_known(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    [LOCK, "header.a", "header.b", DIRECTORY, DIRECTORY_ANCHOR, SHARDS, COMMITS].contains(&name)
        || name.strip_prefix(DIRECTORY).is_some_and(|rest| rest.starts_with(".aside-"))
}

fn has_data(root: &Path) -> bool {
    [DIRECTORY, DIRECTORY_ANCHOR, SHARDS].iter().any(|name| root.join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_process_that_is_just_starting_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let acquire = || SledPlace::acquire(dir.path(), SledOptions::default());
        let place = acquire().unwrap();
        // What `fork` gives the child.
        let inherited = place.lock.0.try_clone().unwrap();
        assert!(matches!(acquire(), Err(StorageError::AlreadyOpen)));
        drop(place);
        acquire().unwrap();
        drop(inherited);
    }
}
