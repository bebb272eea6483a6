//! Audit entries as they wait: put here once, when they are noted, in as few bytes as they can be had without regard to one another, since ten
//! thousand accounts that mint have more of them than fit the processor's caches. The journal's row and the audit's segment pack them.

use crate::codec::{self, CodecError, Reader};
use crate::domain::audit::NewEntry;
use crate::domain::journal::notes;
use crate::domain::packed::{self, Common, Form, What};
use crate::ids::{ApiKeyId, ConnectionId, SessionTokenId};

/// Entries, one after the other. The newest ones lie in here until there are too many or until somebody looks, so that noting one
/// touches no other place in memory.
///
/// ```text
/// frame = 0 ‖ length(4) ‖ encoded entry
///       | 1 ‖ how many(8) ‖ length(4) ‖ encoded entry          one that stands for several notes
///       | kind ‖ time(6) ‖ API key(12) ‖ id(16) ‖ lifetime(4)  a mint or a reveal by an API key, of which a reveal has no lifetime
/// ```
///
/// The API key is left out where it is the usual one. Time and lifetime have eight bytes each where six and four don't do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    /// All but the newest ones.
    frames: Vec<u8>,
    /// With the newest ones.
    count: usize,
    newest: Newest,
    /// That of the first mint or reveal. Whoever removes all of them forgets it.
    usual: Option<ApiKeyId>,
}

/// Room for eight mints, each copied with all the bytes that it may have. Ten thousand accounts that mint as fast as two cores can have four
/// between two visits of the journal, and twice as many now and then.
const NEWEST_BYTES: usize = 7 * 27 + codec::Small::MAX;

/// Frames of the newest entries.
#[derive(Clone, Debug)]
struct Newest {
    bytes: [u8; NEWEST_BYTES],
    len: u8,
}

impl Default for Newest {
    fn default() -> Self {
        Self { bytes: [0; NEWEST_BYTES], len: 0 }
    }
}

/// Some consecutive ones of [`Entries`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice<'a> {
    frames: &'a [u8],
    count: usize,
    usual: Option<ApiKeyId>,
}

/// Between two of [`Entries`], or at an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    count: usize,
    bytes: usize,
}

const ENCODED: u8 = 0;
const SEVERAL: u8 = 1;

/// A kind of the third line, with these bits.
const COMMON: u8 = 8;
const REVEALED: u8 = 1;
const OTHER_KEY: u8 = 2;
const WIDE: u8 = 4;

impl Entries {
    /// Puts entries together.
    pub(crate) fn of(given: &[NewEntry]) -> Self {
        let mut entries = Self::default();
        given.iter().for_each(|entry| entries.push(entry));
        entries
    }

    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: &NewEntry) {
        match Common::of(entry) {
            Some(common) => self.push_common(&common),
            None => self.push_encoded(entry),
        }
    }

    fn push_common(&mut self, entry: &Common) {
        let Common { at, key, what } = *entry;
        let usual = *self.usual.get_or_insert(key);
        let (id, lifetime, mut kind) = match &what {
            What::Minted { session, lifetime } => (session.as_bytes(), Some(*lifetime), COMMON),
            What::Revealed { connection } => (connection.as_bytes(), None, COMMON | REVEALED),
        };
        if at >> 48 != 0 || lifetime.is_some_and(|lifetime| lifetime >> 32 != 0) {
            kind |= WIDE;
        }
        if key != usual {
            kind |= OTHER_KEY;
        }
        let (time_bytes, lifetime_bytes) = widths(kind);
        let mut frame = codec::Small::default();
        frame.bytes(&[kind]).first(at.to_le_bytes(), time_bytes);
        if key != usual {
            frame.bytes(key.as_bytes());
        }
        frame.bytes(id);
        if let Some(lifetime) = lifetime {
            frame.first(lifetime.to_le_bytes(), lifetime_bytes);
        }
        self.put_newest(&frame);
        self.count += 1;
    }

    #[expect(clippy::cast_possible_truncation, reason = "no more than the bytes that there are")]
    fn put_newest(&mut self, frame: &codec::Small) {
        let (bytes, len) = frame.whole();
        if bytes.len() > NEWEST_BYTES - usize::from(self.newest.len) {
            self.gather();
        }
        let begin = usize::from(self.newest.len);
        self.newest.bytes[begin..begin + bytes.len()].copy_from_slice(bytes);
        self.newest.len = (begin + len) as u8;
    }

    /// Puts the newest ones behind the others.
    fn gather(&mut self) {
        self.frames.extend_from_slice(&self.newest.bytes[..usize::from(self.newest.len)]);
        self.newest.len = 0;
    }

    #[expect(clippy::cast_possible_truncation, reason = "an entry has a few hundred bytes")]
    fn push_encoded(&mut self, entry: &NewEntry) {
        self.gather();
        match notes(entry) {
            1 => self.frames.push(ENCODED),
            several => {
                self.frames.push(SEVERAL);
                self.frames.extend_from_slice(&several.to_le_bytes());
            }
        }
        let begin = self.frames.len();
        self.frames.extend_from_slice(&[0; 4]);
        let head = self.frames.len();
        // Every type in an entry says how it is encoded, and a buffer in memory takes what it is given.
        #[expect(clippy::expect_used, reason = "cannot fail, see above")]
        codec::encode_into(entry, &mut self.frames).expect("an audit entry can be encoded");
        let length = (self.frames.len() - head) as u32;
        self.frames[begin..head].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }

    /// Adds copies of entries.
    pub(crate) fn extend(&mut self, entries: Slice<'_>) {
        self.gather();
        self.usual = self.usual.or(entries.usual);
        if entries.usual.is_none_or(|usual| self.usual == Some(usual)) {
            self.frames.extend_from_slice(entries.frames);
            self.count += entries.count;
            return;
        }
        let mut rest = Reader::of_body(entries.frames);
        loop {
            let before = rest.rest();
            let Some((entry, _)) = next_frame(&mut rest, entries.usual) else { return };
            match entry {
                Form::Common(common) => self.push_common(&common),
                Form::Encoded(_) => {
                    self.gather();
                    self.frames.extend_from_slice(&before[..before.len() - rest.rest().len()]);
                    self.count += 1;
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them.
    pub(crate) fn all(&mut self) -> Slice<'_> {
        self.gather();
        Slice { frames: &self.frames, count: self.count, usual: self.usual }
    }

    /// Those behind a place.
    pub(crate) fn since(&mut self, place: Place) -> Slice<'_> {
        self.gather();
        let frames = self.frames.get(place.bytes..).unwrap_or_default();
        Slice { frames, count: self.count.saturating_sub(place.count), usual: self.usual }
    }

    /// The place behind the last one.
    pub(crate) fn end(&mut self) -> Place {
        Place::default().behind(self.all())
    }

    /// Removes the first ones; answers how many notes they stood for, and which place is now the beginning.
    pub(crate) fn remove_first(&mut self, count: usize) -> (u64, Place) {
        let (first, _) = self.all().split_at(count);
        let (notes, removed) = (first.notes(), Place::default().behind(first));
        self.frames.drain(..removed.bytes);
        self.count -= removed.count;
        if self.count == 0 {
            self.usual = None;
        }
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
        let mut rest = Reader::of_body(self.frames);
        std::iter::from_fn(|| pass_frame(&mut rest)).map(|passed| passed.notes).sum()
    }

    /// Each one, and how many notes it stands for.
    pub(crate) fn iter(self) -> impl Iterator<Item = (Form<'a>, u64)> {
        let mut rest = Reader::of_body(self.frames);
        std::iter::from_fn(move || next_frame(&mut rest, self.usual))
    }

    /// How many of the first ones take no more than so many bytes together, packed, if each takes so many more.
    pub(crate) fn fitting(self, bytes: usize, more: usize) -> usize {
        let mut rest = Reader::of_body(self.frames);
        let sums = std::iter::from_fn(|| pass_frame(&mut rest)).scan(0, |sum, passed| {
            *sum += passed.most_bytes + more;
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= bytes).count()
    }

    /// The first ones, and the others.
    pub(crate) fn split_at(self, count: usize) -> (Self, Self) {
        let count = count.min(self.count);
        let mut rest = Reader::of_body(self.frames);
        for _ in 0..count {
            let _passed = pass_frame(&mut rest);
        }
        let (first, others) = self.frames.split_at(self.frames.len() - rest.rest().len());
        (Self { frames: first, count, ..self }, Self { frames: others, count: self.count - count, ..self })
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
        self.iter().map(|(entry, _)| entry.decode()).collect()
    }
}

/// How many bytes time and lifetime have in frames of a common kind.
fn widths(kind: u8) -> (usize, usize) {
    if kind & WIDE == 0 { (6, 4) } else { (8, 8) }
}

/// What is known of a frame without reading its entry.
struct Passed {
    notes: u64,
    most_bytes: usize,
}

/// Takes the first frame off; `None` at the end.
fn pass_frame(rest: &mut Reader<'_>) -> Option<Passed> {
    let mut from = *rest;
    let [kind] = *from.array().ok()?;
    let (notes, length, most_bytes) = if kind & COMMON == 0 {
        let (notes, length) = encoded_head(kind, &mut from)?;
        (notes, length, packed::most_bytes(length))
    } else {
        let (time, lifetime) = widths(kind);
        let key = if kind & OTHER_KEY == 0 { 0 } else { size_of::<ApiKeyId>() };
        let lifetime = if kind & REVEALED == 0 { lifetime } else { 0 };
        (1, time + key + size_of::<SessionTokenId>() + lifetime, packed::COMMON_BYTES)
    };
    from.bytes(length).ok()?;
    *rest = from;
    Some(Passed { notes, most_bytes })
}

/// How many notes an encoded entry stands for, and how many bytes it has.
fn encoded_head(kind: u8, from: &mut Reader<'_>) -> Option<(u64, usize)> {
    let notes = if kind == SEVERAL { number::<8>(from)? } else { 1 };
    Some((notes, u32::from_le_bytes(*from.array().ok()?) as usize))
}

/// Takes the first frame off, and reads its entry; `None` at the end.
fn next_frame<'a>(rest: &mut Reader<'a>, usual: Option<ApiKeyId>) -> Option<(Form<'a>, u64)> {
    let mut from = *rest;
    let [kind] = *from.array().ok()?;
    let read = if kind & COMMON == 0 {
        let (notes, length) = encoded_head(kind, &mut from)?;
        (Form::Encoded(from.bytes(length).ok()?), notes)
    } else {
        let wide = kind & WIDE != 0;
        let at = if wide { number::<8>(&mut from)? } else { number::<6>(&mut from)? };
        let key = if kind & OTHER_KEY == 0 { usual? } else { ApiKeyId::from_bytes(*from.array().ok()?) };
        let id = *from.array().ok()?;
        let what = if kind & REVEALED == 0 {
            let lifetime = if wide { number::<8>(&mut from)? } else { number::<4>(&mut from)? };
            What::Minted { session: SessionTokenId::from_bytes(id), lifetime }
        } else {
            What::Revealed { connection: ConnectionId::from_bytes(id) }
        };
        (Form::Common(Common { at, key, what }), 1)
    };
    *rest = from;
    Some(read)
}

/// A number of so many bytes, up to eight.
fn number<const N: usize>(from: &mut Reader<'_>) -> Option<u64> {
    let mut number = [0; 8];
    number[..N].copy_from_slice(from.array::<N>().ok()?);
    Some(u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::domain::audit::{AuditAction, AuditActor};
    use crate::domain::denial::DenialReason;

    fn minted(key: u8, at: u64, expires: u64) -> NewEntry {
        let session = SessionTokenId::from_bytes([key; 16]);
        NewEntry {
            at: Timestamp::from_millis(at),
            actor: AuditActor::ApiKey(ApiKeyId::from_bytes([key; 12])),
            action: AuditAction::SessionMinted { session, expires: Timestamp::from_millis(expires) },
            target: None,
        }
    }

    fn revealed(key: u8, at: u64) -> NewEntry {
        let target = Some(ConnectionId::from_bytes([7; 16]));
        NewEntry { action: AuditAction::SecretRevealed, target, ..minted(key, at, 0) }
    }

    fn entries() -> Vec<NewEntry> {
        let actions = [
            AuditAction::SecretRevealed,
            AuditAction::Denied { what: "using".into(), reason: DenialReason::Revoked, count: 7 },
            AuditAction::CredentialUsed { host: "api.example.com".into() },
            AuditAction::AccountCreated,
            AuditAction::Pruned { entries: 3 },
        ];
        let entry = |(at, action)| NewEntry { at: Timestamp::from_millis(at), actor: AuditActor::Host, action, target: None };
        let mut entries: Vec<_> = (1..).zip(actions).map(entry).collect();
        entries.splice(3..3, [minted(1, NOW, NOW + 900_000), revealed(1, NOW), minted(2, NOW, NOW + 1), revealed(2, NOW)]);
        // Where fewer bytes don't do: a late time, a long life, one that ends before it begins, and a reveal at a late time.
        let wide = [minted(1, 1 << 48, 1 << 48), minted(2, NOW, NOW + (1 << 32)), minted(1, NOW, NOW - 1), revealed(1, u64::MAX)];
        entries.splice(6..6, wide);
        entries
    }

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn a_mint_waits_in_few_bytes() {
        let mut entries = Entries::of(&[minted(1, NOW, NOW + 900_000)]);
        for (entry, bytes) in [(minted(1, NOW, NOW + (1 << 32) - 1), 27), (revealed(1, NOW), 23), (minted(2, NOW, NOW), 39)] {
            let before = entries.all().bytes();
            entries.push(&entry);
            assert_eq!(entries.all().bytes() - before, bytes);
        }
        // When all are gone, another key is the usual one.
        entries.remove_first(4);
        entries.push(&minted(2, NOW, NOW));
        assert_eq!(entries.all().bytes(), 27);
    }

    /// What is pushed comes back in its order, whether it was looked at after each one or only at the end, and whatever is among the newest.
    #[test]
    fn the_newest_ones_are_behind_the_others_whoever_looks_when() {
        let given: Vec<_> = std::iter::repeat_n(entries(), 3).flatten().collect();
        for looked_every in 1..=given.len() {
            let mut entries = Entries::default();
            for (number, entry) in given.iter().enumerate() {
                entries.push(entry);
                assert_eq!(entries.len(), number + 1);
                if number % looked_every == 0 {
                    assert_eq!(entries.all().decode().unwrap(), given[..=number]);
                }
            }
            assert_eq!(entries.all().decode().unwrap(), given);
        }
    }

    /// Noting eight mints touches nothing but the entries themselves.
    #[test]
    fn the_newest_ones_need_no_memory_of_their_own() {
        let mut entries = Entries::default();
        for at in 0..8 {
            entries.push(&minted(1, NOW + at, NOW + 900_000));
        }
        assert_eq!((entries.frames.capacity(), entries.len()), (0, 8));
        entries.push(&minted(1, NOW, NOW));
        assert_eq!(entries.frames.len(), 8 * 27);
    }

    #[test]
    fn what_was_pushed_comes_back_wherever_it_is_cut_and_moved() {
        let given = entries();
        for cut in 0..=given.len() {
            let mut encoded = Entries::of(&given);
            let mut same = encoded.clone();
            let (first, others) = same.all().split_at(cut);
            assert_eq!(first.decode().unwrap(), given[..cut]);
            assert_eq!(others.decode().unwrap(), given[cut..]);
            assert_eq!((first.len(), others.len()), (cut, given.len() - cut));
            let place = Place::default().behind(first);
            assert_eq!(encoded.since(place).decode().unwrap(), given[cut..]);
            // Behind others with the same usual key, another one, and none.
            for before in [&given[..2], &given[..4], &given[5..7]] {
                let mut joined = Entries::of(before);
                joined.extend(others);
                joined.push(&given[3]);
                assert_eq!(joined.all().decode().unwrap(), [before, &given[cut..], &given[3..4]].concat());
            }
            let end = encoded.end();
            let (removed, beginning) = encoded.remove_first(cut);
            assert_eq!((removed, beginning), (given[..cut].iter().map(notes).sum::<u64>(), place));
            assert_eq!((encoded.all().decode().unwrap(), encoded.len()), (given[cut..].to_vec(), given.len() - cut));
            assert_eq!(end.counted_from(beginning), encoded.end());
            assert_eq!(place.counted_from(end), Place::default());
        }
        let mut encoded = Entries::of(&given);
        assert_eq!(encoded.all().notes(), given.len() as u64 + 6);
        let parts: Vec<_> = encoded.all().chunks(2).map(|part| part.decode().unwrap()).collect();
        assert_eq!(parts, given.chunks(2).collect::<Vec<_>>());
        let two: usize = encoded.all().iter().take(2).map(|(entry, _)| entry.most_bytes()).sum();
        assert_eq!([two + 19, two + 20].map(|bytes| encoded.all().fitting(bytes, 10)), [1, 2]);
    }
}
