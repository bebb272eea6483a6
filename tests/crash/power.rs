//! Power loss on a real disk. Every change that a process makes to the files of its vault is recorded at the system call, in order and
//! together with what was acknowledged. From the record the disks are put together that a power cut could have left: what was synced is
//! there; of the writes, truncations, renames and removals that were not, the first so many; of the last write perhaps only a half.
//! Each disk must open with all that was acknowledged by then.
//!
//! `ANCHORHOLD_POWER_DISKS` says how many of them are looked at, evenly spread; 0 for all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::from_env;
use crate::model::{Chance, Change};
use crate::rounds::{Counts, Run, Told, When};
use crate::syscalls;

/// One entry of the record.
struct Event {
    what: What,
    path: PathBuf,
    number: u64,
    data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    MakeDirectory,
    Create,
    /// What the process said.
    Mark,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    /// The content of this number.
    File(usize),
}

/// A disk that a power cut could have left.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// So many events have happened.
    after: usize,
    /// So many of those that were not synced have arrived.
    arrived: usize,
    /// And a half of the next one, which writes.
    torn: bool,
}

/// What was recorded, and which content each write belongs to.
struct Record {
    events: Vec<Event>,
    contents: Vec<Option<usize>>,
    /// For each event the one that made it durable.
    durable_at: Vec<usize>,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

#[test]
fn power_loss_at_any_write_loses_nothing_that_was_acknowledged() {
    let started = Instant::now();
    let mut run = Run::new();
    let tools = tempfile::tempdir().unwrap();
    let log = tools.path().join("log");
    let root = run.path().canonicalize().unwrap();
    let before = crate::common::files(&root).into_iter().collect();
    run.preload =
        vec![("LD_PRELOAD", syscalls::build(tools.path())), (syscalls::UNDER, root.clone()), (syscalls::LOG, log.clone())];
    let (mut chance, mut counts) = (Chance(from_env("ANCHORHOLD_CRASH_SEED", u64::from(std::process::id()))), Counts::default());
    let length = Duration::from_millis(from_env("ANCHORHOLD_POWER_MILLIS", 250));
    run.life_of_one(When::Working(0, length), Some(2), false, &mut chance, &mut Counts::default());

    let record = Record::new(read(&fs::read(log).unwrap()), before, &root);
    let cuts = record.cuts();
    let wanted = from_env("ANCHORHOLD_POWER_DISKS", 40) as usize;
    let step = if wanted == 0 { 1 } else { cuts.len().div_ceil(wanted).max(1) };
    // Not always the first of each group.
    let offset = chance.below(step as u64) as usize;
    let (mut looked_at, mut torn, mut behind) = (0, 0, 0);
    for cut in cuts.iter().skip(offset).step_by(step) {
        let told = record.told(cut.after);
        let disk = Run::on(&run, |path| record.restore(cut, &root, path), told.acknowledged);
        disk.check_after(told.under_way, &format!("{cut:?} of {} events", record.events.len()), &mut counts);
        looked_at += 1;
        torn += usize::from(cut.torn);
        behind += usize::from(cut.arrived < record.open_at(cut.after).len());
    }
    println!(
        "{} events, {} disks that a power cut could have left, {looked_at} looked at ({torn} with a torn write, {behind} with a \
         write missing) in {:?}",
        record.events.len(),
        cuts.len(),
        started.elapsed()
    );
    assert!(looked_at >= 20 && torn > 0 && behind > 0);
    // The control: with a synced write undone something is missed.
    let last = Cut { after: record.events.len(), arrived: usize::MAX, torn: false };
    let forged = Record { durable_at: vec![usize::MAX; record.events.len()], ..record };
    let told = forged.told(last.after);
    let nothing = Cut { arrived: 0, ..last };
    let mut disk = Run::on(&run, |path| forged.restore(&nothing, &root, path), told.acknowledged);
    let check = std::panic::AssertUnwindSafe(|| disk.check(told.under_way, &mut Counts::default()));
    assert!(std::panic::catch_unwind(check).is_err(), "a disk that lost everything passes");
}

impl Record {
    fn new(events: Vec<Event>, before: BTreeMap<PathBuf, Vec<u8>>, root: &Path) -> Self {
        // Which content a path stood for at each moment, when everything arrives.
        let mut names = Names::of(&before, root);
        let mut next = before.len();
        let mut contents = Vec::with_capacity(events.len());
        for event in &events {
            if event.what == What::Create {
                // An existing file that is emptied keeps its content's number.
                let known = names.file(&event.path);
                contents.push(Some(known.unwrap_or(next)));
                next += usize::from(known.is_none());
            } else {
                contents.push(names.file(&event.path));
            }
            names.apply(event, *contents.last().expect("it was just pushed"));
        }
        let mut durable_at = vec![usize::MAX; events.len()];
        for (at, event) in events.iter().enumerate() {
            let is_synced_by = |sync: usize| match event.what {
                What::Write | What::Truncate => contents[sync].is_some() && contents[sync] == contents[at],
                What::Create | What::Remove | What::MakeDirectory => event.path.parent() == Some(&*events[sync].path),
                What::Rename => event.target().parent() == Some(&*events[sync].path),
                What::Sync | What::Mark => false,
            };
            let sync = (at..events.len()).find(|sync| events[*sync].what == What::Sync && is_synced_by(*sync));
            durable_at[at] = sync.unwrap_or(usize::MAX);
        }
        Self { events, contents, durable_at, before }
    }

    /// The events that have happened and are not durable yet.
    fn open_at(&self, after: usize) -> Vec<usize> {
        let changes = |at: &usize| !matches!(self.events[*at].what, What::Sync | What::Mark);
        (0..after).filter(changes).filter(|at| self.durable_at[*at] >= after).collect()
    }

    /// Every prefix of what was not synced, and every torn last write, at every moment.
    fn cuts(&self) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for after in 0..=self.events.len() {
            // Between two marks or syncs nothing can be lost that could not be lost before.
            if after > 0 && matches!(self.events[after - 1].what, What::Mark) {
                continue;
            }
            let open = self.open_at(after);
            for arrived in 0..=open.len() {
                cuts.push(Cut { after, arrived, torn: false });
                if open.get(arrived).is_some_and(|at| self.events[*at].what == What::Write && self.events[*at].data.len() > 1) {
                    cuts.push(Cut { after, arrived, torn: true });
                }
            }
        }
        cuts
    }

    /// Writes a disk into `path`.
    fn restore(&self, cut: &Cut, root: &Path, path: &Path) {
        let mut contents: BTreeMap<usize, Vec<u8>> = self.before.values().cloned().enumerate().collect();
        let mut names = Names::of(&self.before, root);
        let open = self.open_at(cut.after);
        for at in 0..cut.after {
            let event = &self.events[at];
            let place = open.iter().position(|open| *open == at);
            let arrives = place.is_none_or(|place| place < cut.arrived);
            let is_torn = cut.torn && place == Some(cut.arrived);
            if !arrives && !is_torn {
                continue;
            }
            if let Some(number) = self.contents[at] {
                let content = contents.entry(number).or_default();
                match event.what {
                    What::Write => {
                        let data = if is_torn { &event.data[..event.data.len() / 2] } else { &event.data };
                        let (start, end) = (event.number as usize, event.number as usize + data.len());
                        content.resize(content.len().max(end), 0);
                        content[start..end].copy_from_slice(data);
                    }
                    What::Truncate => content.resize(event.number as usize, 0),
                    What::Create => content.clear(),
                    _ => {}
                }
            }
            names.apply(event, self.contents[at]);
        }
        fs::create_dir_all(path).unwrap();
        for (name, node) in &names.0 {
            let target = path.join(name.strip_prefix(root).unwrap());
            match node {
                Node::Directory => fs::create_dir_all(target).unwrap(),
                Node::File(number) => {
                    fs::create_dir_all(target.parent().unwrap()).unwrap();
                    fs::write(target, contents.get(number).map_or(&[][..], Vec::as_slice)).unwrap();
                }
            }
        }
    }

    /// What the process had said.
    fn told(&self, after: usize) -> Told {
        let said: Vec<u8> =
            self.events[..after].iter().filter(|event| event.what == What::Mark).flat_map(|event| event.data.clone()).collect();
        let said = String::from_utf8(said).unwrap();
        let (mut told, mut pending) = (Told::default(), BTreeMap::<usize, Change>::new());
        said.lines().for_each(|line| told.take_in(line, &mut pending));
        told.under_way = pending.into_values().collect();
        told
    }
}

/// What there is, by path.
struct Names(BTreeMap<PathBuf, Node>);

impl Names {
    fn of(before: &BTreeMap<PathBuf, Vec<u8>>, root: &Path) -> Self {
        let mut names = BTreeMap::from([(root.to_owned(), Node::Directory)]);
        for (number, path) in before.keys().enumerate() {
            names.insert(path.clone(), Node::File(number));
            let parents = path.ancestors().skip(1).take_while(|parent| parent.starts_with(root));
            names.extend(parents.map(|parent| (parent.to_owned(), Node::Directory)));
        }
        Self(names)
    }

    fn file(&self, path: &Path) -> Option<usize> {
        match self.0.get(path) {
            Some(Node::File(number)) => Some(*number),
            _ => None,
        }
    }

    fn apply(&mut self, event: &Event, content: Option<usize>) {
        match (event.what, content) {
            (What::Create, Some(number)) => drop(self.0.insert(event.path.clone(), Node::File(number))),
            (What::MakeDirectory, _) => drop(self.0.insert(event.path.clone(), Node::Directory)),
            (What::Remove, _) => drop(self.0.remove(&event.path)),
            (What::Rename, _) => {
                let moved: Vec<_> = self.0.keys().filter(|path| path.starts_with(&event.path)).cloned().collect();
                for path in moved {
                    let node = self.0.remove(&path).expect("it was just found");
                    let rest = path.strip_prefix(&event.path).expect("it starts so");
                    // Joining nothing would add a slash.
                    let target = if rest.as_os_str().is_empty() { event.target() } else { event.target().join(rest) };
                    self.0.insert(target, node);
                }
            }
            _ => {}
        }
    }
}

impl Event {
    /// Where a rename goes.
    fn target(&self) -> PathBuf {
        PathBuf::from(String::from_utf8(self.data.clone()).expect("paths of tests are text"))
    }
}

/// Reads the record; see `preload.c`. A last entry that was cut short did not happen.
fn read(mut log: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = read_one(&mut log) {
        events.push(event);
    }
    events
}

fn read_one(log: &mut &[u8]) -> Option<Event> {
    let mut take = |length: usize| log.split_off(..length);
    let what = match take(1)?[0] {
        b'W' => What::Write,
        b'T' => What::Truncate,
        b'S' => What::Sync,
        b'R' => What::Rename,
        b'U' => What::Remove,
        b'D' => What::MakeDirectory,
        b'C' => What::Create,
        b'M' => What::Mark,
        other => panic!("{other:#x} is no event"),
    };
    let path_length = u32::from_le_bytes(take(4)?.try_into().unwrap()) as usize;
    let path = PathBuf::from(String::from_utf8(take(path_length)?.to_vec()).unwrap());
    let number = u64::from_le_bytes(take(8)?.try_into().unwrap());
    let length = u32::from_le_bytes(take(4)?.try_into().unwrap()) as usize;
    Some(Event { what, path, number, data: take(length)?.to_vec() })
}

impl Run {
    /// A vault like another one's at another place, where `restore` puts the files and these changes were acknowledged.
    fn on(other: &Run, restore: impl FnOnce(&Path), acknowledged: Vec<(Change, Option<String>)>) -> Self {
        let mut disk = Self::beside(other);
        restore(&disk.path());
        for (change, answer) in &acknowledged {
            disk.model.apply(change, answer.as_deref());
        }
        disk
    }

    fn check_after(mut self, under_way: Vec<Change>, what: &str, counts: &mut Counts) {
        let rotating = under_way.iter().find_map(|change| match change {
            Change::RotateRoot { number } => Some(*number),
            _ => None,
        });
        self.next_root = rotating;
        let check = std::panic::AssertUnwindSafe(|| self.check(under_way, counts));
        if let Err(panic) = std::panic::catch_unwind(check) {
            let kept = self.folder.keep();
            eprintln!("{what}: the disk is kept in {}", kept.display());
            std::panic::resume_unwind(panic);
        }
    }
}
