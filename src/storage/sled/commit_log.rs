//! The commit log: where a commit becomes durable. One write and one sync serve every database that a committer has commits for at the
//! time, and the databases, which sled writes in many small pieces, follow in memory and are made durable later, each by itself
//! and seldom: when a file of the log is full, before a database is closed, and when a deletion must leave nothing behind.
//!
//! ```text
//! commits/0000000000000001      see frames.rs; there is none in a vault that was closed
//! ```
//!
//! A file goes when everything in it is durable in its database. What a crash leaves is applied when the vault opens (`shards.rs`),
//! before anything is compared with an anchor. A database that can't be opened then keeps its commits in the log: they are carried into
//! each new file until it opens again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::{AnchorSeal, Commit, Row, StorageError};
use super::core::{Core, io_error, locked};
use super::files;
use super::frames::{self, Frame, HEADER_BYTES, Logged, Target};
use super::lane::Lane;
use super::watchdog::{Caller, Ticket};
use crate::ids::ShardId;

pub(super) const COMMITS: &str = "commits";

/// How many files back a passing row may be before it is written again. Those of the audit's journal go much sooner, unless nothing is
/// written but by whoever notes nothing.
const KEPT_FILES: u64 = 16;

const WRITING: &str = "writing the commit log";

/// A database of the vault: a shard, or the directory if `None`.
type Place = Option<ShardId>;

pub(super) struct CommitLog {
    dir: PathBuf,
    seal: Arc<dyn AnchorSeal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The file that is written; made with the first commit.
    file: Option<Arc<File>>,
    /// Its number.
    number: u64,
    bytes: u64,
    /// The oldest file that is there.
    first: u64,
    /// The databases that the log is ahead of.
    ahead_of: BTreeMap<Place, Ahead>,
    /// What a crash left, until its database is opened.
    left: BTreeMap<Place, Vec<Logged>>,
    /// Who waits until all files up to a number are gone.
    waiting: Vec<(u64, Ticket<()>)>,
}

struct Ahead {
    lane: Arc<Lane>,
    /// The first file with something that the database may not have.
    since: u64,
    /// The same without rows that are passing, which it is not to get; `None` when there is nothing else.
    lacks: Option<u64>,
    /// The database can't be used any more, so that it will not get it before the vault is opened again.
    stuck: bool,
}

/// How much it presses that a database is given what it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// There is time until nothing else waits.
    None,
    /// It lacks something of a file before the last two, or somebody waits for a file of it to go: it has its turn with the others.
    Some,
    /// It lacks something of a file before the last four: its commits wait until it has that, so that the log and what is in memory of it don't
    /// grow.
    Much,
}

/// A place in the log, for one write of some lanes.
pub(super) struct Page {
    file: Arc<File>,
    pub(super) number: u64,
}

impl CommitLog {
    /// Reads what a crash left. Changes nothing but to set a file aside that is not one of this vault's.
    pub(super) fn load(root: &Path, seal: Arc<dyn AnchorSeal>) -> Result<(Self, Vec<String>), StorageError> {
        let dir = root.join(COMMITS);
        let loading = |error| io_error("read the commit log", error);
        let mut notes = Vec::new();
        let mut state = State { number: 0, first: 1, ..State::default() };
        let numbers = numbers(&dir).map_err(loading)?;
        for number in numbers {
            let path = dir.join(name(number));
            let bytes = fs::read(&path).map_err(loading)?;
            state.number = number;
            match frames::read(&bytes, number, &*seal) {
                Some(read) => {
                    if read.damaged > 0 {
                        notes.push(format!("{COMMITS}/{}: {} damaged stretches were passed over", name(number), read.damaged));
                    }
                    read.frames.into_iter().for_each(|frame| state.leave(frame));
                }
                // What making it was interrupted at: nothing was ever written behind its beginning.
                None if bytes.len() <= HEADER_BYTES => {}
                None => {
                    fs::rename(&path, files::with_suffix(&path, ".aside")).map_err(loading)?;
                    notes.push(format!("{COMMITS}/{}: not a file of this vault's commit log; it was set aside", name(number)));
                }
            }
        }
        Ok((Self { dir, seal, state: Mutex::new(state) }, notes))
    }

    /// The databases of which a crash left something.
    pub(super) fn places_left(&self) -> Vec<Place> {
        locked(&self.state).left.keys().copied().collect()
    }

    /// Takes what a crash left of a database, to be applied to it.
    pub(super) fn take_left(&self, place: Place) -> Vec<Logged> {
        locked(&self.state).left.remove(&place).unwrap_or_default()
    }

    /// It could not be applied: it stays in the log.
    pub(super) fn put_back(&self, place: Place, logged: Vec<Logged>) {
        locked(&self.state).left.insert(place, logged);
    }

    /// Everything that could be applied has been; begins anew with what could not. `lane` gives the lane of a place.
    pub(super) fn restart(&self, core: &Core, lane: impl Fn(Place) -> Arc<Lane>) -> Result<(), StorageError> {
        let restarting = |error| io_error("write the commit log", error);
        let left = std::mem::take(&mut locked(&self.state).left);
        let mut state = locked(&self.state);
        let old = state.number;
        if !left.is_empty() {
            let since = old + 1;
            self.make_file(core, &mut state, left.values().flatten()).map_err(restarting)?;
            for place in left.into_keys() {
                state.ahead_of.insert(place, Ahead { lane: lane(place), since, lacks: None, stuck: true });
            }
        }
        drop(state);
        for number in numbers(&self.dir).map_err(restarting)?.into_iter().filter(|number| *number <= old) {
            fs::remove_file(self.dir.join(name(number))).map_err(restarting)?;
        }
        let mut state = locked(&self.state);
        state.first = old + 1;
        Ok(())
    }

    /// Where these lanes' commits are to be written. Makes a new file when the last one is full, and has the databases follow.
    pub(super) fn page<'a>(&self, core: &Arc<Core>, lanes: impl Iterator<Item = &'a Arc<Lane>>) -> io::Result<Page> {
        let mut state = locked(&self.state);
        if state.file.is_none() || state.bytes >= core.options.commit_log_bytes {
            self.next_file(core, &mut state)?;
        }
        let number = state.number;
        for lane in lanes {
            let new = || Ahead { lane: lane.clone(), since: number, lacks: None, stuck: false };
            state.ahead_of.entry(lane.log_place()).or_insert_with(new).lacks.get_or_insert(number);
        }
        let file = state.file.clone().ok_or_else(|| io::Error::other("there is no file"))?;
        Ok(Page { file, number })
    }

    /// Writes at the end of the file. Durable when it returns, if `sync` says so.
    pub(super) fn append(&self, core: &Core, page: &Page, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.write(core, page, bytes, sync)?;
        locked(&self.state).bytes += bytes.len() as u64;
        Ok(())
    }

    /// The same for what makes the file no fuller.
    fn write(&self, core: &Core, page: &Page, bytes: &[u8], sync: bool) -> io::Result<()> {
        core.watchdog.call(Caller::Committer, WRITING, || {
            // One write at the end, whoever else writes.
            (&*page.file).write_all(bytes)?;
            if !sync {
                return Ok(());
            }
            core.options.faults.before_sync()?;
            page.file.sync_data()?;
            // A file that was removed takes writes and syncs like any other, and nothing of them is there afterwards.
            #[cfg(unix)]
            if std::os::unix::fs::MetadataExt::nlink(&page.file.metadata()?) == 0 {
                return Err(io::Error::other("the commit log was removed from the vault's directory"));
            }
            Ok(())
        })
    }

    /// Whether the log has something that the database may not have.
    pub(super) fn is_ahead_of(&self, place: Place) -> bool {
        locked(&self.state).ahead_of.get(&place).is_some_and(|ahead| !ahead.stuck)
    }

    /// How much it presses that the database is given what it lacks.
    pub(super) fn pressure(&self, place: Place) -> Pressure {
        let state = locked(&self.state);
        state.ahead_of.get(&place).filter(|ahead| !ahead.stuck).map_or(Pressure::None, |ahead| state.pressure(ahead))
    }

    /// The number of the file that is written.
    pub(super) fn number(&self) -> u64 {
        locked(&self.state).number
    }

    /// The database has everything of it now, durably.
    pub(super) fn settled(&self, place: Place) -> io::Result<()> {
        let mut state = locked(&self.state);
        let ahead = state.ahead_of.remove(&place);
        let ended = self.remove_old(state)?;
        // Not under the lock: either may be the last of what it belongs to.
        drop(ahead);
        ended.into_iter().for_each(|ticket| ticket.answer(Ok(())));
        Ok(())
    }

    /// Says so in the log, so that after a crash the database is not opened to be given it again. Not synced: if a power cut takes this back,
    /// what is applied changes nothing.
    pub(super) fn note_settled(&self, core: &Core, target: Target) -> io::Result<()> {
        let page = self.last_page()?;
        let mut bytes = Vec::new();
        frames::put_settled(&mut bytes, page.number, target);
        self.append(core, &page, &bytes, false)
    }

    /// The database has everything of it but what is in these files and later ones: of one passing rows, of the other anything else.
    pub(super) fn settled_since(&self, place: Place, passing: Option<u64>, lacks: Option<u64>) -> io::Result<()> {
        let mut state = locked(&self.state);
        if let Some(ahead) = state.ahead_of.get_mut(&place) {
            ahead.since = [passing, lacks].into_iter().flatten().min().unwrap_or(ahead.since);
            ahead.lacks = lacks;
        }
        let ended = self.remove_old(state)?;
        ended.into_iter().for_each(|ticket| ticket.answer(Ok(())));
        Ok(())
    }

    /// Whether a file may stay for passing rows in it.
    pub(super) fn keeps(&self, file: u64) -> bool {
        let state = locked(&self.state);
        file + KEPT_FILES >= state.number && state.waiting.iter().all(|(number, _)| *number < file)
    }

    /// Writes passing rows at the end, so that older files can go; returns the number of the file.
    pub(super) fn write_again(&self, core: &Core, target: Target, passing: Vec<(Vec<u8>, Vec<Row>)>) -> io::Result<u64> {
        const AT_ONCE: usize = 1024 * 1024;
        let page = self.last_page()?;
        let mut bytes = Vec::new();
        for (tree, rows) in passing {
            for row in rows {
                let commit = Commit { passing: vec![row], ..Commit::default() };
                frames::put_commit(&mut bytes, page.number, target, &tree, false, &commit);
                if bytes.len() >= AT_ONCE {
                    self.write(core, &page, &bytes, false)?;
                    bytes.clear();
                }
            }
        }
        self.write(core, &page, &bytes, true)?;
        Ok(page.number)
    }

    fn last_page(&self) -> io::Result<Page> {
        let state = locked(&self.state);
        let file = state.file.clone().ok_or_else(|| io::Error::other("there is no file"))?;
        Ok(Page { file, number: state.number })
    }

    /// The database can't be used any more. Nobody who waits for the log to be emptied waits for it.
    pub(super) fn stuck(&self, core: &Arc<Core>, place: Place) -> io::Result<()> {
        let mut state = locked(&self.state);
        let Some(ahead) = state.ahead_of.get_mut(&place) else { return Ok(()) };
        ahead.stuck = true;
        if state.waiting.is_empty() {
            return Ok(());
        }
        self.next_file(core, &mut state)?;
        let ended = self.remove_old(state)?;
        ended.into_iter().for_each(|ticket| ticket.answer(Ok(())));
        Ok(())
    }

    /// Answers the ticket when nothing that was written so far is in the log any more.
    pub(super) fn empty(&self, core: &Arc<Core>, ticket: Ticket<()>) -> io::Result<()> {
        let mut state = locked(&self.state);
        if state.file.is_none() {
            drop(state);
            ticket.answer(Ok(()));
            return Ok(());
        }
        let old = state.number;
        state.waiting.push((old, ticket));
        self.next_file(core, &mut state)?;
        let ended = self.remove_old(state)?;
        ended.into_iter().for_each(|ticket| ticket.answer(Ok(())));
        Ok(())
    }

    /// All databases are closed: removes the log, unless it has something that a database lacks.
    pub(super) fn close(&self) -> io::Result<()> {
        let mut state = locked(&self.state);
        let all = std::mem::take(&mut *state);
        state.number = all.number;
        drop(state);
        if all.ahead_of.is_empty() && all.left.is_empty() && all.file.is_some() {
            for number in numbers(&self.dir)? {
                fs::remove_file(self.dir.join(name(number)))?;
            }
            files::sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// Lets go of everything and leaves the files as they are.
    pub(super) fn abandon(&self) {
        let all = std::mem::take(&mut *locked(&self.state));
        drop(all);
    }

    /// Goes on in a new file, and has the databases follow that the old ones are ahead of.
    fn next_file(&self, core: &Arc<Core>, state: &mut State) -> io::Result<()> {
        let mut carried = Vec::new();
        if state.ahead_of.values().any(|ahead| ahead.stuck) {
            let mut old = State::default();
            for number in state.first..=state.number {
                let bytes = files::read_optional(&self.dir.join(name(number)))?.unwrap_or_default();
                let read = frames::read(&bytes, number, &*self.seal).unwrap_or_default();
                read.frames.into_iter().for_each(|frame| old.leave(frame));
            }
            let stuck = |place: &Place| state.ahead_of.get(place).is_some_and(|ahead| ahead.stuck);
            let left = old.left.into_iter().filter(|(place, _)| stuck(place)).flat_map(|(_, logged)| logged);
            // What was written to an older generation of a shard was in it before it was rewritten, or is deleted.
            carried.extend(left.filter(|logged| core.generation(logged.target.shard) == logged.target.generation));
        }
        self.make_file(core, state, carried.iter())?;
        let number = state.number;
        state.ahead_of.values_mut().filter(|ahead| ahead.stuck).for_each(|ahead| ahead.since = number);
        for ahead in state.ahead_of.values().filter(|ahead| !ahead.stuck) {
            ahead.lane.follow(state.pressure(ahead));
        }
        Ok(())
    }

    fn make_file<'a>(&self, core: &Core, state: &mut State, carried: impl Iterator<Item = &'a Logged>) -> io::Result<()> {
        let number = state.number + 1;
        let mut bytes = frames::header(number, &*self.seal);
        for logged in carried {
            frames::put_commit(&mut bytes, number, logged.target, &logged.tree, logged.create, &logged.commit);
        }
        let file = core.watchdog.call(Caller::Committer, WRITING, || {
            if !self.dir.exists() {
                files::create_private_dir(&self.dir)?;
            }
            let path = self.dir.join(name(number));
            let mut file = files::private_file().write(false).append(true).create_new(true).open(path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            files::sync_dir(&self.dir)?;
            io::Result::Ok(file)
        })?;
        (state.file, state.number, state.bytes) = (Some(Arc::new(file)), number, bytes.len() as u64);
        Ok(())
    }

    /// Removes the files that nothing needs, and returns who waited for it.
    fn remove_old(&self, mut state: std::sync::MutexGuard<'_, State>) -> io::Result<Vec<Ticket<()>>> {
        let needed = state.ahead_of.values().map(|ahead| ahead.since).min().unwrap_or(state.number).min(state.number);
        let gone = state.first..needed;
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        for number in gone {
            fs::remove_file(self.dir.join(name(number)))?;
        }
        files::sync_dir(&self.dir)?;
        state.first = needed;
        let (ended, waiting) = std::mem::take(&mut state.waiting).into_iter().partition(|(number, _)| *number < needed);
        state.waiting = waiting;
        drop(state);
        let ended: Vec<(u64, Ticket<()>)> = ended;
        Ok(ended.into_iter().map(|(_, ticket)| ticket).collect())
    }
}

impl State {
    fn pressure(&self, ahead: &Ahead) -> Pressure {
        let behind = ahead.lacks.map_or(0, |lacks| self.number.saturating_sub(lacks));
        let waited_for = self.waiting.iter().any(|(number, _)| ahead.since <= *number);
        match behind {
            4.. => Pressure::Much,
            2.. => Pressure::Some,
            _ if waited_for => Pressure::Some,
            _ => Pressure::None,
        }
    }

    /// Adds what a frame says to what was left.
    fn leave(&mut self, frame: Frame) {
        match frame {
            Frame::Commit(logged) => self.left.entry(logged.target.shard).or_default().push(logged),
            Frame::Settled(target) => {
                if let Some(logged) = self.left.get_mut(&target.shard) {
                    logged.retain(|logged| logged.target.generation > target.generation);
                    if logged.is_empty() {
                        self.left.remove(&target.shard);
                    }
                }
            }
        }
    }
}

/// The directory of a vault is replaced: what the log has for the old one goes with it, as a copy, and is not applied to the new one.
/// Only while no vault has the directory open.
pub(super) fn forget_directory(root: &Path, old: &Path, seal: &dyn AnchorSeal) -> io::Result<()> {
    let dir = root.join(COMMITS);
    for number in numbers(&dir)? {
        let path = dir.join(name(number));
        let bytes = fs::read(&path)?;
        let mut kept = frames::header(number, seal);
        for frame in frames::read(&bytes, number, seal).unwrap_or_default().frames {
            match frame {
                Frame::Commit(logged) if logged.target.shard.is_some() => {
                    frames::put_commit(&mut kept, number, logged.target, &logged.tree, logged.create, &logged.commit);
                }
                Frame::Settled(target) if target.shard.is_some() => frames::put_settled(&mut kept, number, target),
                _ => {}
            }
        }
        if old.exists() {
            fs::copy(&path, old.join(format!("{COMMITS}-{}", name(number))))?;
        }
        files::replace(&path, &kept)?;
    }
    Ok(())
}

/// The numbers of the files that are there, ascending.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        let Some(file) = file.to_str() else { continue };
        numbers.extend(file.parse().ok().filter(|number| name(*number) == file));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn name(number: u64) -> String {
    format!("{number:016}")
}
