//! Audit entries as they are encoded: once, when they are noted. The link in the chain is over these bytes as they are; the journal's row and
//! the audit's segment pack them.

use crate::codec::{self, CodecError};
use crate::domain::audit::NewEntry;
use crate::domain::journal::notes;
use crate::memory;

/// Encoded entries, one after the other in one buffer: noting one touches one place in memory.
///
/// ```text
/// frame = length(4), in its highest bit whether an entry stands for several notes ‖ how many(8), if so ‖ encoded entry
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    frames: Vec<u8>,
    count: usize,
}

/// Some consecutive ones of [`Entries`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice<'a> {
    frames: &'a [u8],
    count: usize,
}

/// Between two of [`Entries`], or at an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    count: usize,
    bytes: usize,
}

const SEVERAL: u32 = 1 << 31;

impl Entries {
    /// Encodes entries.
    pub(crate) fn of(entries: &[NewEntry]) -> Self {
        let mut encoded = Self::default();
        entries.iter().for_each(|entry| encoded.push(entry));
        encoded
    }

    /// Encodes an entry and adds it.
    #[expect(clippy::cast_possible_truncation, reason = "an entry has a few hundred bytes")]
    pub(crate) fn push(&mut self, entry: &NewEntry) {
        let notes = notes(entry);
        let begin = self.frames.len();
        self.frames.extend_from_slice(&[0; 4]);
        if notes != 1 {
            self.frames.extend_from_slice(&notes.to_le_bytes());
        }
        let head = self.frames.len();
        // Every type in an entry says how it is encoded, and a buffer in memory takes what it is given.
        #[expect(clippy::expect_used, reason = "cannot fail, see above")]
        entry.encode_into(&mut self.frames).expect("an audit entry can be encoded");
        let length = (self.frames.len() - head) as u32;
        let length = if notes == 1 { length } else { length | SEVERAL };
        self.frames[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }

    /// Adds copies of entries that are encoded already.
    pub(crate) fn extend(&mut self, entries: Slice<'_>) {
        self.frames.extend_from_slice(entries.frames);
        self.count += entries.count;
    }

    /// Has the place fetched where the next one will be.
    pub(crate) fn fetch_end(&self) {
        const USUAL_BYTES: usize = 64;
        memory::fetch(self.frames.as_ptr().wrapping_add(self.frames.len()), USUAL_BYTES);
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them.
    pub(crate) fn all(&self) -> Slice<'_> {
        Slice { frames: &self.frames, count: self.count }
    }

    /// Those behind a place.
    pub(crate) fn since(&self, place: Place) -> Slice<'_> {
        Slice { frames: self.frames.get(place.bytes..).unwrap_or_default(), count: self.count.saturating_sub(place.count) }
    }

    /// The place behind the last one.
    pub(crate) fn end(&self) -> Place {
        Place::default().behind(self.all())
    }

    /// Removes the first ones; answers how many notes they stood for, and which place is now the beginning.
    pub(crate) fn remove_first(&mut self, count: usize) -> (u64, Place) {
        let (first, _) = self.all().split_at(count);
        let (notes, removed) = (first.notes(), Place::default().behind(first));
        self.frames.drain(..removed.bytes);
        self.count -= removed.count;
        (notes, removed)
    }
}

impl Place {
    /// The place behind entries that begin here.
    pub(crate) fn behind(self, entries: Slice<'_>) -> Self {
        Self { count: self.count + entries.count, bytes: self.bytes + entries.frames.len() }
    }

    /// What this place is when all before `beginning` are removed.
    pub(crate) fn counted_from(self, beginning: Self) -> Self {
        Self { count: self.count.saturating_sub(beginning.count), bytes: self.bytes.saturating_sub(beginning.bytes) }
    }
}

impl<'a> Slice<'a> {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes they take here.
    pub(crate) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// How many notes they stand for.
    pub(crate) fn notes(&self) -> u64 {
        self.iter().map(|(_, notes)| notes).sum()
    }

    /// Each one's encoding, and how many notes it stands for.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a [u8], u64)> {
        let mut rest = self.frames;
        std::iter::from_fn(move || next_frame(&mut rest))
    }

    /// How many of the first ones have no more than so many bytes together, if each has so many more than its encoding.
    pub(crate) fn fitting(self, bytes: usize, more: usize) -> usize {
        let sums = self.iter().scan(0, |sum, (encoded, _)| {
            *sum += encoded.len() + more;
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= bytes).count()
    }

    /// The first ones, and the others.
    pub(crate) fn split_at(self, count: usize) -> (Self, Self) {
        let count = count.min(self.count);
        let mut rest = self.frames;
        for _ in 0..count {
            let _passed = next_frame(&mut rest);
        }
        let (first, others) = self.frames.split_at(self.frames.len() - rest.len());
        (Self { frames: first, count }, Self { frames: others, count: self.count - count })
    }

    /// Parts of so many, the last one of what is left.
    pub(crate) fn chunks(self, count: usize) -> impl Iterator<Item = Self> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let (first, others) = rest.split_at(count);
            rest = others;
            (!first.is_empty()).then_some(first)
        })
    }

    /// The entries themselves.
    pub(crate) fn decode(self) -> Result<Vec<NewEntry>, CodecError> {
        self.iter().map(|(encoded, _)| codec::decode(encoded)).collect()
    }
}

/// Takes the first frame off; `None` at the end.
fn next_frame<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], u64)> {
    let (head, mut behind) = rest.split_first_chunk()?;
    let head = u32::from_le_bytes(*head);
    let mut notes = 1;
    if head & SEVERAL != 0 {
        let (many, others) = behind.split_first_chunk()?;
        (notes, behind) = (u64::from_le_bytes(*many), others);
    }
    let (encoded, others) = behind.split_at_checked((head & !SEVERAL) as usize)?;
    *rest = others;
    Some((encoded, notes))
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
            assert_eq!((first.len(), others.len()), (cut, given.len() - cut));
            let place = Place::default().behind(first);
            assert_eq!(encoded.since(place).decode().unwrap(), given[cut..]);
            let mut joined = Entries::of(&given[..2]);
            joined.extend(others);
            assert_eq!(joined.all().decode().unwrap(), [&given[..2], &given[cut..]].concat());
            let end = encoded.end();
            let (removed, beginning) = encoded.remove_first(cut);
            assert_eq!((removed, beginning), (given[..cut].iter().map(notes).sum::<u64>(), place));
            assert_eq!(encoded, Entries::of(&given[cut..]));
            assert_eq!(end.counted_from(beginning), encoded.end());
            assert_eq!(place.counted_from(end), Place::default());
        }
        let encoded = Entries::of(&given);
        assert_eq!(encoded.all().notes(), 11);
        let parts: Vec<_> = encoded.all().chunks(2).map(|part| part.decode().unwrap()).collect();
        assert_eq!(parts, [&given[..2], &given[2..4], &given[4..]]);
        let two: usize = encoded.all().iter().take(2).map(|(encoded, _)| encoded.len()).sum();
        assert_eq!([two + 19, two + 20].map(|bytes| encoded.all().fitting(bytes, 10)), [1, 2]);
    }
}
