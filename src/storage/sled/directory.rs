//! The directory's database: opening it, and its sections when they are first asked.

use std::sync::Arc;

use super::super::{Commit, Location, StorageError};
use super::anchors::DIRECTORY;
use super::core::{Core, failed};
use super::database::sections::{self, SECTIONS};
use super::database::{Database, Failure, SectionOptions};
use super::lane::{Job, Lane};
use super::shards;
use super::watchdog::Caller;

/// The name of the directory's only tree.
pub(super) const DIRECTORY_TREE: &[u8] = b"directory";

/// How much of the directory's cache is for what is in no section: it stays small where there are some.
const FIRST_STORES_SHARE: u64 = 8;

/// Opens the directory's database, with the sections that a crash left something for.
pub(super) fn open(core: &Core) -> Result<Database, StorageError> {
    let failed = |failure| failed(Location::Directory, "open a database", failure);
    let cache_bytes = core.options.directory_cache_bytes;
    let options = SectionOptions { cache_bytes: cache_bytes / u64::from(SECTIONS), from_bytes: core.options.section_from_bytes };
    let opened =
        Database::open_in_sections(&core.root.join(DIRECTORY), cache_bytes / FIRST_STORES_SHARE, options, &core.watchdog);
    let (database, repaired) = opened.map_err(failed)?;
    if let Some(detail) = repaired {
        core.note_repaired(Location::Directory, &detail);
    }
    if !database.has_tree(DIRECTORY_TREE) {
        database.create_tree(DIRECTORY_TREE).map_err(failed)?;
    }
    shards::catch_up(core, &database, None, 0).map_err(failed)?;
    Ok(database)
}

/// Opens the sections that a commit needs which a crash left in the commit log. They are compared with the anchor when all of it is applied.
pub(super) fn open_sections_for(core: &Core, database: &Database, commit: &Commit) -> Result<(), Failure> {
    for section in sections::of_commit(commit) {
        // Nothing has failed before.
        if database.is_section_closed(section).unwrap_or(false) {
            open_section(core, database, section)?;
        }
    }
    Ok(())
}

/// Compares with the anchor what is open of the directory's database. What is wrong with one section, or where one should be, keeps from the
/// vault only those who are in it.
pub(super) fn check_what_is_open(lane: &Lane, database: &Database) -> Result<(), StorageError> {
    check(lane, database, None)?;
    for section in 0..SECTIONS {
        if !database.is_section_closed(section)?
            && let Err(error) = check(lane, database, Some(section))
        {
            if !database.has_sections() {
                return Err(error);
            }
            tracing::warn!(section, %error, "a section of the directory can't be used");
            database.fail_section(section, error);
        }
    }
    Ok(())
}

fn check(lane: &Lane, database: &Database, section: Option<u8>) -> Result<(), StorageError> {
    let marks = database.bucket_marks(DIRECTORY_TREE, section).map_err(|failure| lane.read_error(None, failure))?;
    lane.core.anchors.check_directory(section, &marks)
}

fn open_section(core: &Core, database: &Database, section: u8) -> Result<(), Failure> {
    if let Some(detail) = database.open_section(section, &core.watchdog)? {
        core.note_repaired(Location::Directory, &detail);
    }
    Ok(())
}

impl Lane {
    /// Sees to it that these sections are open. On a committer if any has to be opened.
    pub(super) async fn open_sections(
        self: &Arc<Self>,
        wanted: impl Iterator<Item = u8> + Clone + Send + 'static,
    ) -> Result<(), StorageError> {
        if self.shard.is_some() {
            return Ok(());
        }
        if let Some(database) = self.opened()? {
            let mut closed = false;
            for section in wanted.clone() {
                closed |= database.is_section_closed(section)?;
            }
            if !closed {
                return Ok(());
            }
        }
        let (ticket, answer) = self.core.watchdog.ticket(Caller::Committer)?;
        self.submit(Job::Run(Box::new(move |lane| {
            ticket.answer(lane.open_now().and_then(|database| lane.open_sections_now(&database, wanted)));
        })))?;
        answer.wait().await
    }

    /// Opens sections that are closed, and compares them with the anchor. Only in this lane's turn.
    pub(super) fn open_sections_now(
        &self,
        database: &Database,
        mut wanted: impl Iterator<Item = u8>,
    ) -> Result<(), StorageError> {
        if self.shard.is_some() {
            return Ok(());
        }
        wanted.try_for_each(|section| self.open_section_now(database, section))
    }

    fn open_section_now(&self, database: &Database, section: u8) -> Result<(), StorageError> {
        if !database.is_section_closed(section)? {
            return Ok(());
        }
        let opened = open_section(&self.core, database, section)
            .map_err(|failure| failed(Location::Directory, "open a section of the directory", failure))
            .and_then(|()| check(self, database, Some(section)));
        // Damage does not go away by trying again, and each try would copy the section aside.
        if let Err(error @ (StorageError::Corrupted { .. } | StorageError::RolledBack { .. })) = &opened {
            database.fail_section(section, error.clone());
        }
        opened
    }
}
