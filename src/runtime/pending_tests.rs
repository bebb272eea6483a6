use proptest::prelude::*;

use super::*;
use crate::domain::audit::AuditActor;
use crate::domain::denial::DenialReason;
use crate::ids::AccountHandle;

/// How something that is made durable ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    /// An error, and nothing was written.
    Failed,
    /// An error, and it was written all the same.
    InDoubt,
}

#[derive(Clone, Debug)]
enum Step {
    Reveal,
    Deny,
    /// A commit, while which so many refusals are noted.
    Commit(End, u8),
    /// The journal takes it, while which so many refusals are noted, and perhaps so many of the first entries are committed.
    Keep(End, u8, Option<usize>),
    /// The process is killed; what was durable is loaded.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![3 => Just(End::Done), 1 => Just(End::Failed), 1 => Just(End::InDoubt)];
    prop_oneof![
        3 => Just(Step::Reveal),
        3 => Just(Step::Deny),
        2 => (end.clone(), 0..3u8).prop_map(|(end, during)| Step::Commit(end, during)),
        3 => (end, 0..3u8, prop::option::of(0..4_usize)).prop_map(|(end, during, commits)| Step::Keep(end, during, commits)),
        1 => Just(Step::Kill),
    ]
}

/// An account's audit, the journal, and every note in order.
#[derive(Default)]
struct World {
    pending: Pending,
    audit: Vec<NewEntry>,
    noted: u64,
    journal: Vec<Noted>,
    /// A refusal is 0, a reveal its own number.
    happened: Vec<u64>,
    /// How many of them were acknowledged as durable.
    durable: usize,
}

const HANDLE: AccountHandle = AccountHandle::from_bytes([1; 16]);

impl World {
    fn note(&mut self, denied: bool) {
        let number = if denied { 0 } else { self.happened.len() as u64 + 1 };
        let action = if denied {
            AuditAction::Denied { what: "using".into(), reason: DenialReason::Revoked, count: 1 }
        } else {
            AuditAction::SecretRevealed
        };
        self.happened.push(number);
        self.pending.note(NewEntry { at: Timestamp::from_millis(number), actor: AuditActor::Vault, action, target: None });
    }

    fn commit(&mut self, end: End, during: u8, most: usize) {
        let mut entries = self.pending.hand_to_commit().decode().unwrap();
        entries.truncate(most);
        let count: u64 = entries.iter().map(notes).sum();
        if matches!(end, End::Done | End::InDoubt) {
            self.audit.extend_from_slice(&entries);
            self.noted += count;
        }
        (0..during).for_each(|_| self.note(true));
        match end {
            End::Done => {
                self.pending.committed(entries.len());
                self.durable = self.durable.max(usize::try_from(self.noted).unwrap());
            }
            // The account is loaded anew before anything else is done with it.
            End::Failed | End::InDoubt => self.pending.settle(self.noted),
        }
    }

    fn keep(&mut self, end: End, during: u8, commits: Option<usize>) {
        let mut noted = Vec::new();
        let take = |first, entries: Slice<'_>| noted.push(Noted { handle: HANDLE, first, entries: entries.decode().unwrap() });
        let handed = self.pending.hand_to_journal(take);
        // Every note is with the journal now, or was, or is in the audit.
        let journalled = handed.as_ref().map(|handed| handed.next).max(self.journal.last().map(Noted::next)).unwrap_or(1) - 1;
        let known = self.durable.max(usize::try_from(journalled.max(self.noted)).unwrap());
        assert_eq!(known, self.happened.len());
        let Some(handed) = handed else { return };
        if matches!(end, End::Done | End::InDoubt) {
            self.journal.append(&mut noted);
        }
        (0..during).for_each(|_| self.note(true));
        if let Some(most) = commits {
            self.commit(End::Done, 0, most);
        }
        if matches!(end, End::Done) {
            let committed = self.noted >= handed.next - 1;
            assert_eq!(self.pending.kept(&handed), committed && self.pending.used.is_empty());
            self.durable = self.durable.max(usize::try_from(handed.next - 1).unwrap());
        }
    }

    fn kill(&mut self) {
        self.pending = Pending::default();
        self.pending.settle(self.noted);
        self.pending.recover(self.journal.clone());
        let left = expanded(&self.audit).len() + expanded(&self.pending.entries.all().decode().unwrap()).len();
        assert!(left >= self.durable, "a note that was acknowledged as durable is gone");
        self.happened.truncate(left);
    }
}

fn expanded(entries: &[NewEntry]) -> Vec<u64> {
    let of = |entry: &NewEntry| match entry.action {
        AuditAction::Denied { count, .. } => vec![0; usize::try_from(count).unwrap()],
        _ => vec![entry.at.as_millis()],
    };
    entries.iter().flat_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_note_is_in_the_audit_once_and_in_order_whatever_fails(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        world.pending.settle(0);
        for step in steps {
            match step {
                Step::Reveal => world.note(false),
                Step::Deny => world.note(true),
                Step::Commit(end, during) => world.commit(end, during, usize::MAX),
                Step::Keep(end, during, commits) => world.keep(end, during, commits),
                Step::Kill => world.kill(),
            }
        }
        while !world.pending.is_empty() {
            world.commit(End::Done, 0, usize::MAX);
        }
        prop_assert_eq!(expanded(&world.audit), world.happened);
    }
}

#[test]
fn refusals_in_a_row_are_one_entry_and_a_flood_of_them_one_for_each_time_that_they_are_kept() {
    let mut world = World::default();
    world.pending.settle(0);
    for _ in 0..3 {
        (0..1_000).for_each(|_| world.note(true));
        world.keep(End::Done, 0, None);
    }
    assert_eq!(world.pending.len(), 3);
    assert_eq!(world.journal.iter().map(|noted| noted.entries.len()).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn more_than_fits_into_one_commit_goes_into_several() {
    let mut pending = Pending::default();
    pending.settle(7);
    for number in 0..1_000 {
        let action = AuditAction::CredentialUsed { host: "h".repeat(100) };
        pending.note(NewEntry { at: Timestamp::from_millis(number), actor: AuditActor::Vault, action, target: None });
    }
    assert!(pending.is_surplus());
    let mut found = Vec::new();
    while !pending.is_empty() {
        let entries = pending.hand_to_commit().decode().unwrap();
        assert!(crate::codec::encode(&entries).unwrap().len() < BYTES_PER_COMMIT);
        pending.committed(entries.len());
        found.extend(entries.iter().map(|entry| entry.at.as_millis()));
    }
    assert_eq!(found, (0..1_000).collect::<Vec<_>>());
}
