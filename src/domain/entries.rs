//! Audit entries as they are encoded: once, when they are noted. The journal's row, the link in the chain and the audit's segment take
//! these bytes as they are.

use std::ops::Range;

use crate::codec::{self, CodecError};
use crate::domain::audit::NewEntry;
use crate::domain::journal::notes;

/// Encoded entries, one after the other in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

/// Where an entry ends, and how many notes it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    end: usize,
    notes: u64,
}

/// Some consecutive ones of [`Entries`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice<'a> {
    whole: &'a [u8],
    /// Where the first one begins.
    begin: usize,
    marks: &'a [Mark],
}

impl Entries {
    /// Encodes entries.
    pub(crate) fn of(entries: &[NewEntry]) -> Self {
        let mut encoded = Self::default();
        entries.iter().for_each(|entry| encoded.push(entry));
        encoded
    }

    /// Encodes an entry and adds it.
    pub(crate) fn push(&mut self, entry: &NewEntry) {
        // Every type in an entry says how it is encoded, and a buffer in memory takes what it is given.
        #[expect(clippy::expect_used, reason = "cannot fail, see above")]
        entry.encode_into(&mut self.bytes).expect("an audit entry can be encoded");
        self.marks.push(Mark { end: self.bytes.len(), notes: notes(entry) });
    }

    /// Adds copies of entries that are encoded already.
    pub(crate) fn extend(&mut self, entries: Slice<'_>) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(entries.bytes());
        self.marks.extend(entries.marks.iter().map(|mark| Mark { end: mark.end - entries.begin + before, ..*mark }));
    }

    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Those at these places; fewer when there are not so many.
    pub(crate) fn slice(&self, places: Range<usize>) -> Slice<'_> {
        let start = places.start.min(self.len());
        let begin = start.checked_sub(1).map_or(0, |before| self.marks[before].end);
        Slice { whole: &self.bytes, begin, marks: &self.marks[start..places.end.clamp(start, self.len())] }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Slice<'_> {
        self.slice(0..self.len())
    }

    /// Removes the first ones; answers how many notes they stood for.
    pub(crate) fn remove_first(&mut self, count: usize) -> u64 {
        let end = count.checked_sub(1).map_or(0, |last| self.marks[last].end);
        self.bytes.drain(..end);
        let notes = self.marks.drain(..count).map(|mark| mark.notes).sum();
        self.marks.iter_mut().for_each(|mark| mark.end -= end);
        notes
    }
}

impl<'a> Slice<'a> {
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// How many notes they stand for.
    pub(crate) fn notes(&self) -> u64 {
        self.marks.iter().map(|mark| mark.notes).sum()
    }

    /// The encodings, one after the other.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        &self.whole[self.begin..self.marks.last().map_or(self.begin, |mark| mark.end)]
    }

    /// Each one's encoding, and how many notes it stands for.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a [u8], u64)> {
        let mut begin = self.begin;
        self.marks.iter().map(move |mark| {
            let encoded = &self.whole[begin..mark.end];
            begin = mark.end;
            (encoded, mark.notes)
        })
    }

    /// How many of the first ones have no more than so many bytes together, if each has so many more than its encoding.
    pub(crate) fn fitting(self, bytes: usize, more: usize) -> usize {
        self.marks.iter().zip(1..).take_while(|(mark, count)| mark.end - self.begin + more * count <= bytes).count()
    }

    /// The first ones, and the others.
    pub(crate) fn split_at(self, count: usize) -> (Self, Self) {
        let (first, others) = self.marks.split_at(count);
        let begin = first.last().map_or(self.begin, |mark| mark.end);
        (Self { marks: first, ..self }, Self { begin, marks: others, ..self })
    }

    /// Parts of so many, the last one of what is left.
    pub(crate) fn chunks(self, count: usize) -> impl Iterator<Item = Self> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let (first, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            (!first.is_empty()).then_some(first)
        })
    }

    /// The entries themselves.
    pub(crate) fn decode(self) -> Result<Vec<NewEntry>, CodecError> {
        self.iter().map(|(encoded, _)| codec::decode(encoded)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::domain::audit::{AuditAction, AuditActor};
    use crate::domain::denial::DenialReason;

    fn entries() -> Vec<NewEntry> {
        let actions = [
            AuditAction::SecretRevealed,
            AuditAction::Denied { what: "using".into(), reason: DenialReason::Revoked, count: 7 },
            AuditAction::CredentialUsed { host: "api.example.com".into() },
            AuditAction::AccountCreated,
            AuditAction::Pruned { entries: 3 },
        ];
        let entry = |(at, action)| NewEntry { at: Timestamp::from_millis(at), actor: AuditActor::Host, action, target: None };
        (1..).zip(actions).map(entry).collect()
    }

    #[test]
    fn what_was_pushed_comes_back_wherever_it_is_cut_and_moved() {
        let given = entries();
        for cut in 0..=given.len() {
            let mut encoded = Entries::of(&given);
            let (first, others) = encoded.all().split_at(cut);
            assert_eq!(first.decode().unwrap(), given[..cut]);
            assert_eq!(others.decode().unwrap(), given[cut..]);
            assert_eq!(encoded.slice(cut..99).decode().unwrap(), given[cut..]);
            let mut joined = Entries::of(&given[..2]);
            joined.extend(others);
            assert_eq!(joined.all().decode().unwrap(), [&given[..2], &given[cut..]].concat());
            assert_eq!(encoded.remove_first(cut), given[..cut].iter().map(notes).sum::<u64>());
            assert_eq!(encoded, Entries::of(&given[cut..]));
        }
        let encoded = Entries::of(&given);
        assert_eq!(encoded.all().notes(), 11);
        let parts: Vec<_> = encoded.all().chunks(2).map(|part| part.decode().unwrap()).collect();
        assert_eq!(parts, [&given[..2], &given[2..4], &given[4..]]);
        let two = encoded.slice(0..2).bytes().len();
        assert_eq!([two + 19, two + 20].map(|bytes| encoded.all().fitting(bytes, 10)), [1, 2]);
    }
}
