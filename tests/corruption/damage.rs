//! Bytes are flipped and files are cut and removed, at places spread over every file of a vault.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anchorhold::{Error, VaultPart};

use crate::common::{block_on, files, from_env, id, vault_path};
use crate::fixture::{Fixture, Outcome, TREES_PER_SHARD, Verdict, fill, options};

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Truncate(usize),
    Remove,
}

struct Case<'a> {
    /// Inside the vault.
    file: &'a Path,
    damage: Damage,
    snapshots: bool,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshots = if self.snapshots { "with" } else { "without" };
        write!(f, "{:?} in {}, {snapshots} snapshots", self.damage, self.file.display())
    }
}

impl Damage {
    fn apply(self, file: &Path) {
        match self {
            Damage::Flip(at) => {
                let mut bytes = std::fs::read(file).unwrap();
                bytes[at] ^= 1 << (at % 8);
                std::fs::write(file, bytes).unwrap();
            }
            Damage::Truncate(to) => {
                std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(to as u64).unwrap();
            }
            Damage::Remove => std::fs::remove_file(file).unwrap(),
        }
    }
}

/// Places spread over a file, both ends included: half of them over all of it, half over the part that holds something.
fn places(bytes: &[u8], count: usize) -> Vec<usize> {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut places = Vec::new();
    for (length, count) in [(bytes.len(), count / 2), (used, count.div_ceil(2))] {
        // At odd distances, so that they fall on all kinds of bytes.
        places.extend((0..count).map(|n| n * length / count + (n * 37) % (length / count).max(1)));
    }
    places.extend([0, bytes.len() - 1]);
    places.retain(|place| *place < bytes.len());
    places.sort_unstable();
    places.dedup();
    places
}

#[test]
fn damage_anywhere_is_intact_or_an_error_and_stays_in_its_shard() {
    sample(false);
}

#[test]
fn damage_anywhere_beside_snapshots_is_intact_or_an_error_and_stays_in_its_shard() {
    sample(true);
}

fn sample(snapshots: bool) {
    // The one with snapshots has sections of its directory as well.
    let fixture = if snapshots { Fixture::in_sections(3 * TREES_PER_SHARD) } else { Fixture::new(3 * TREES_PER_SHARD) };
    let mut sections = Vec::new();
    if snapshots {
        fixture.open_once_more();
        sections = fixture.sections();
        assert!(sections.len() > 2, "{sections:?}");
    }
    let one_of_many = |file: &Path| {
        let section = sections.iter().position(|section| fixture.path().join(file).starts_with(section));
        section.is_some_and(|number| number > 0) || shard_of(file).is_some_and(|shard| !shard.starts_with("0000"))
    };
    let all: Vec<(PathBuf, Vec<u8>)> = files(&fixture.path())
        .into_iter()
        .map(|(path, bytes)| (path.strip_prefix(fixture.path()).unwrap().to_path_buf(), bytes))
        .collect();
    assert_eq!(all.iter().any(|(path, _)| is_snapshot(path)), snapshots);
    let per_file = usize::try_from(from_env("ANCHORHOLD_OFFSETS", 12)).unwrap();
    let mut tally = Tally::default();
    let mut number = 0;
    for (file, bytes) in &all {
        // The log gets the most places, and other shards and sections than the first few: they are like it.
        let share = match file.file_name().and_then(|name| name.to_str()) {
            _ if one_of_many(file) => 2,
            Some("db") => 2 * per_file,
            _ => per_file,
        };
        let mut cases = vec![Damage::Remove];
        if !bytes.is_empty() {
            cases.extend(places(bytes, share).into_iter().map(Damage::Flip));
            cases.extend(places(bytes, share / 2).into_iter().map(Damage::Truncate));
        }
        for damage in cases {
            let case = Case { file, damage, snapshots };
            let copy = fixture.copy();
            let path = vault_path(&copy);
            damage.apply(&path.join(file));
            let verdict = fixture.classify(&path, &case);
            names_its_place(&fixture, &case, &verdict);
            number += 1;
            if number % 4 == 0 {
                goes_on(&fixture, &path, &case, &verdict);
            }
            tally.count(file, &verdict);
        }
    }
    tally.print();
    // The controls: undamaged, all is intact; and the damage did reach what is acknowledged.
    let Verdict::Opened(all) = fixture.classify(&vault_path(&fixture.copy()), &"undamaged") else {
        panic!("undamaged, yet refused")
    };
    assert!(all.values().all(|outcome| matches!(outcome, Outcome::Intact)));
    let logs = tally.0.iter().filter(|(file, _)| file.ends_with("db"));
    assert!(logs.map(|(_, counts)| counts.corrupted + counts.rolled_back).sum::<usize>() > 0, "no flip hit a record");
}

/// Damage in a shard's file hurts no account of another shard, does not keep the vault from opening, and is reported as that shard's,
/// with the accounts that are hurt.
fn names_its_place(fixture: &Fixture, case: &Case<'_>, verdict: &Verdict) {
    let shard = shard_of(case.file);
    match verdict {
        Verdict::NotOpened(damaged) => {
            assert!(shard.is_none(), "{case}: one shard keeps the whole vault from opening");
            assert!(matches!(damaged.part, VaultPart::Header | VaultPart::Directory), "{case}: {damaged}");
        }
        Verdict::Opened(outcomes) => {
            let mut hurt = 0;
            for (name, outcome) in outcomes {
                let (Outcome::Corrupted(damaged) | Outcome::RolledBack(damaged)) = outcome else { continue };
                hurt += 1;
                match (damaged.part, &shard) {
                    (VaultPart::Shard(named), Some(shard)) => {
                        assert!(shard.starts_with(&format!("{named}.")), "{case}: {name}: {damaged}");
                        assert!(!damaged.accounts.is_empty(), "{case}: {name}: no account is named: {damaged}");
                        assert!(damaged.accounts.len() <= TREES_PER_SHARD, "{case}: {name}: {damaged:?}");
                    }
                    (VaultPart::Directory, None) => {}
                    _ => panic!("{case}: {name} is reported as {damaged}"),
                }
            }
            assert_eq!(outcomes.len(), fixture.names.len());
            assert!(shard.is_none() || hurt <= TREES_PER_SHARD, "{case}: {hurt} accounts hurt by one shard of {TREES_PER_SHARD}");
        }
    }
}

/// A vault with damage serves what is whole, takes new customers, and says in `verify` what it says to callers.
fn goes_on(fixture: &Fixture, path: &Path, case: &Case<'_>, verdict: &Verdict) {
    let Verdict::Opened(before) = verdict else { return };
    block_on(async {
        let vault = options(path).open().await.unwrap_or_else(|error| panic!("{case}: opened once, and now {error:?}"));
        let Verdict::Opened(after) = fixture.read_all(&vault, case).await else { unreachable!("it is open") };
        for (name, outcome) in &after {
            let was_whole = matches!(before[name], Outcome::Intact);
            assert_eq!(matches!(outcome, Outcome::Intact), was_whole, "{case}: {name}: {:?}, and then {outcome:?}", before[name]);
        }
        let hurt = after.values().filter(|outcome| !matches!(outcome, Outcome::Intact)).count();
        let report = vault.verify().await.unwrap();
        assert_eq!(report.damaged.is_empty(), hurt == 0, "{case}: {hurt} are hurt, and verify says {report:?}");
        assert!(report.intact <= (fixture.names.len() - hurt) as u64, "{case}: {hurt} are hurt, and verify says {report:?}");

        let backend = vault.backend(&fixture.key).await.unwrap();
        match backend.create_account(&id("new")).await {
            Ok(_) => fill(&backend, "new").await,
            // The new customer's own part of the directory may be what is damaged.
            Err(Error::Corrupted(damaged) | Error::RolledBack(damaged)) if damaged.part == VaultPart::Directory => {
                assert!(shard_of(case.file).is_none(), "{case}: {damaged}");
            }
            Err(other) => panic!("{case}: a new customer got {other:?}"),
        }
        assert!(vault.status().poisoned.is_none(), "{case}: {:?}", vault.status());
        vault.close().await.unwrap();
    });
    // What was whole is whole, and what was damaged was not made to look whole.
    let Verdict::Opened(last) = fixture.classify(path, case) else { panic!("{case}: not opened after it was used") };
    for (name, outcome) in &last {
        let was_whole = matches!(before[name], Outcome::Intact);
        assert_eq!(matches!(outcome, Outcome::Intact), was_whole, "{case}: {name}, at last: {outcome:?}");
    }
}

fn shard_of(file: &Path) -> Option<String> {
    let in_shards = file.strip_prefix("shards").ok()?;
    Some(in_shards.components().next()?.as_os_str().to_str()?.to_owned())
}

fn is_snapshot(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."))
}

#[derive(Default)]
struct Tally(BTreeMap<String, Counts>);

#[derive(Default)]
struct Counts {
    cases: usize,
    refused: usize,
    intact: usize,
    corrupted: usize,
    rolled_back: usize,
}

impl Tally {
    fn count(&mut self, file: &Path, verdict: &Verdict) {
        let kind =
            file.parent().unwrap_or(file).join(if is_snapshot(file) { "snap".as_ref() } else { file.file_name().unwrap() });
        let kind = kind.to_string_lossy().replace(|c: char| c.is_ascii_digit(), "#");
        let counts = self.0.entry(kind).or_default();
        counts.cases += 1;
        match verdict {
            Verdict::NotOpened(_) => counts.refused += 1,
            Verdict::Opened(outcomes) => {
                for outcome in outcomes.values() {
                    match outcome {
                        Outcome::Intact => counts.intact += 1,
                        Outcome::Corrupted(_) => counts.corrupted += 1,
                        Outcome::RolledBack(_) => counts.rolled_back += 1,
                    }
                }
            }
        }
    }

    fn print(&self) {
        println!("{:<44} {:>6} {:>12} {:>8} {:>9} {:>11}", "file", "cases", "not opened", "intact", "corrupted", "rolled back");
        for (file, c) in &self.0 {
            println!("{file:<44} {:>6} {:>12} {:>8} {:>9} {:>11}", c.cases, c.refused, c.intact, c.corrupted, c.rolled_back);
        }
    }
}
