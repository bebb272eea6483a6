//! Audit entries as they are stored: what most of them have in common is written once. A mint takes 20 bytes instead of 50, and the engine
//! writes each byte several times.
//!
//! ```text
//! packed   = one after the other: 0, length, encoded entry without the codec's version      any entry
//!          | 1, time, API key, session token id(16), lifetime                               a mint by an API key
//!          | 2, time, API key, connection id(16)                                            a reveal by an API key
//! time     = difference to the time of the last entry of kind 1 or 2 (0 before the first)   signed
//! API key  = its place among those named so far; or the next place, and its id(12)          at most 64 have a place
//! lifetime = its place in the same way; or the next place, and the expiry's difference to the time    signed
//! ```
//!
//! Numbers are those of the codec, signed ones 2n for n and 2n - 1 for -n. An entry has one spelling: kind 0 is not for what the others
//! can say.

use crate::clock::Timestamp;
use crate::codec::{self, CodecError, Reader};
use crate::domain::audit::{AuditAction, AuditActor, NewEntry};
use crate::ids::{ApiKeyId, ConnectionId, SessionTokenId};

const AS_ENCODED: u64 = 0;
const MINTED: u64 = 1;
const REVEALED: u64 = 2;

/// How many API keys, and how many lifetimes, are named by their place.
const MAX_PLACES: usize = 64;

/// The most that a mint takes, which is more than a reveal does: kind, time, place, key, token, place and lifetime.
pub(crate) const COMMON_BYTES: usize = 1 + 9 + 1 + 12 + 16 + 1 + 9;

/// The most that an entry of kind 0 takes whose encoding has so many bytes, up to 65,535: its version is left out.
pub(crate) const fn most_bytes(encoded: usize) -> usize {
    encoded + 3
}

const MALFORMED: CodecError = CodecError::of("a packed entry is malformed");

/// What entries that follow one another have in common.
#[derive(Debug, Default)]
struct Context {
    at: u64,
    keys: Places<ApiKeyId>,
    lifetimes: Places<u64>,
}

/// What was named so far.
#[derive(Debug)]
struct Places<T>(Vec<T>);

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq + Copy> Places<T> {
    /// The place of what was named, or the next one, and whether it is new.
    fn place(&mut self, named: T) -> (u64, bool) {
        let place = self.0.iter().position(|known| *known == named);
        let next = self.0.len();
        if place.is_none() {
            self.add(named);
        }
        (place.unwrap_or(next) as u64, place.is_none())
    }

    fn add(&mut self, named: T) {
        if self.0.len() < MAX_PLACES {
            self.0.push(named);
        }
    }

    /// What is at a place, or what `read` reads if it is new there.
    fn named<'a>(
        &mut self,
        from: &mut Reader<'a>,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, CodecError>,
    ) -> Result<T, CodecError> {
        let place = usize::try_from(from.number()?).map_err(|_| MALFORMED)?;
        if let Some(known) = self.0.get(place) {
            return Ok(*known);
        }
        let named = read(from)?;
        if place != self.0.len() || self.0.contains(&named) {
            return Err(MALFORMED);
        }
        self.add(named);
        Ok(named)
    }
}

/// Puts entries one after the other.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    context: Context,
    bytes: Vec<u8>,
}

impl Packer {
    /// With room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// The bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: Form<'_>) {
        match entry {
            Form::Common(common) => self.push_common(&common),
            Form::Encoded(encoded) => {
                let plain = encoded.get(1..).unwrap_or_default();
                codec::put_number(AS_ENCODED, &mut self.bytes);
                codec::put_number(plain.len() as u64, &mut self.bytes);
                self.bytes.extend_from_slice(plain);
            }
        }
    }

    fn push_common(&mut self, entry: &Common) {
        let Common { at, key, what } = *entry;
        let kind = if matches!(what, What::Minted { .. }) { MINTED } else { REVEALED };
        let (place, is_new) = self.context.keys.place(key);
        let mut packed = codec::Small::default();
        packed.number(kind).number(signed(at.wrapping_sub(self.context.at))).number(place);
        self.context.at = at;
        if is_new {
            packed.bytes(key.as_bytes());
        }
        match what {
            What::Minted { session, lifetime } => {
                let (place, is_new) = self.context.lifetimes.place(lifetime);
                packed.bytes(session.as_bytes()).number(place);
                if is_new {
                    packed.number(signed(lifetime));
                }
            }
            What::Revealed { connection } => {
                packed.bytes(connection.as_bytes());
            }
        }
        self.bytes.extend_from_slice(packed.finished());
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Moves the bytes to the end of others; the context stays.
    pub(crate) fn move_to(&mut self, others: &mut Vec<u8>) {
        others.append(&mut self.bytes);
    }
}

/// Reads what a [`Packer`] packed.
#[derive(Debug, Default)]
pub(crate) struct Unpacker(Context);

impl Unpacker {
    /// The next entry.
    pub(crate) fn next(&mut self, from: &mut Reader<'_>) -> Result<NewEntry, CodecError> {
        let kind = from.number()?;
        if kind == AS_ENCODED {
            let length = usize::try_from(from.number()?).map_err(|_| MALFORMED)?;
            let plain = from.bytes(length)?;
            let entry: NewEntry = codec::decode_body(plain)?;
            // Whatever has another spelling must have that, numbers in the codec's own included.
            let is_as_encoded = codec::encode(&entry)?.get(1..) == Some(plain);
            return if is_as_encoded && Common::of(&entry).is_none() { Ok(entry) } else { Err(MALFORMED) };
        }
        let at = self.0.at.wrapping_add(unsigned(from.number()?));
        self.0.at = at;
        let key = self.0.keys.named(from, |from| Ok(ApiKeyId::from_bytes(*from.array()?)))?;
        let id = *from.array()?;
        let what = match kind {
            MINTED => {
                let lifetime = self.0.lifetimes.named(from, |from| Ok(unsigned(from.number()?)))?;
                What::Minted { session: SessionTokenId::from_bytes(id), lifetime }
            }
            REVEALED => What::Revealed { connection: ConnectionId::from_bytes(id) },
            _ => return Err(MALFORMED),
        };
        Ok(Common { at, key, what }.into())
    }
}

/// An entry that is to be packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form<'a> {
    Common(Common),
    /// Any other, as [`codec::encode`] encodes it.
    Encoded(&'a [u8]),
}

impl Form<'_> {
    /// The entry.
    pub(crate) fn decode(self) -> Result<NewEntry, CodecError> {
        match self {
            Form::Common(common) => Ok(common.into()),
            Form::Encoded(encoded) => codec::decode(encoded),
        }
    }

    /// The most bytes that it takes packed.
    pub(crate) fn most_bytes(self) -> usize {
        match self {
            Form::Common(_) => COMMON_BYTES,
            Form::Encoded(encoded) => most_bytes(encoded.len()),
        }
    }
}

/// An entry of kind 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Common {
    pub(crate) at: u64,
    pub(crate) key: ApiKeyId,
    pub(crate) what: What,
}

/// What was done by the holder of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Minted { session: SessionTokenId, lifetime: u64 },
    Revealed { connection: ConnectionId },
}

impl Common {
    /// What an entry says, if it is one of these.
    pub(crate) fn of(entry: &NewEntry) -> Option<Self> {
        let AuditActor::ApiKey(key) = entry.actor else { return None };
        let at = entry.at.as_millis();
        let what = match (&entry.action, entry.target) {
            (AuditAction::SessionMinted { session, expires }, None) => {
                What::Minted { session: *session, lifetime: expires.as_millis().wrapping_sub(at) }
            }
            (AuditAction::SecretRevealed, Some(connection)) => What::Revealed { connection },
            _ => return None,
        };
        Some(Self { at, key, what })
    }
}

impl From<Common> for NewEntry {
    fn from(Common { at, key, what }: Common) -> Self {
        let (action, target) = match what {
            What::Minted { session, lifetime } => {
                (AuditAction::SessionMinted { session, expires: Timestamp::from_millis(at.wrapping_add(lifetime)) }, None)
            }
            What::Revealed { connection } => (AuditAction::SecretRevealed, Some(connection)),
        };
        Self { at: Timestamp::from_millis(at), actor: AuditActor::ApiKey(key), action, target }
    }
}

/// Small numbers for small differences of either sign.
fn signed(difference: u64) -> u64 {
    (difference << 1) ^ 0_u64.wrapping_sub(difference >> 63)
}

fn unsigned(number: u64) -> u64 {
    (number >> 1) ^ 0_u64.wrapping_sub(number & 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::denial::DenialReason;

    fn entries() -> impl Strategy<Value = Vec<NewEntry>> {
        let times = prop_oneof![any::<u64>(), 1_700_000_000_000..1_700_000_100_000_u64];
        let actor = prop_oneof![
            4 => (0..70_u8).prop_map(|key| AuditActor::ApiKey(ApiKeyId::from_bytes([key; 12]))),
            1 => Just(AuditActor::Vault),
        ];
        let action = prop_oneof![
            4 => (any::<[u8; 16]>(), times.clone()).prop_map(|(id, expires)| AuditAction::SessionMinted {
                session: SessionTokenId::from_bytes(id),
                expires: Timestamp::from_millis(expires),
            }),
            2 => Just(AuditAction::SecretRevealed),
            1 => Just(AuditAction::Denied { what: "using".into(), reason: DenialReason::Revoked, count: 7 }),
        ];
        let target = prop::option::of(any::<[u8; 16]>().prop_map(ConnectionId::from_bytes));
        // Some lifetimes are named again, more of them than have a place.
        let lifetime = prop::option::of(0..70_u64);
        let entry = (times, actor, action, target, lifetime).prop_map(|(at, actor, mut action, target, lifetime)| {
            if let (AuditAction::SessionMinted { expires, .. }, Some(lifetime)) = (&mut action, lifetime) {
                *expires = Timestamp::from_millis(at.wrapping_add(lifetime));
            }
            NewEntry { at: Timestamp::from_millis(at), actor, action, target }
        });
        prop::collection::vec(entry, 0..200)
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<NewEntry>, CodecError> {
        let (mut from, mut unpacker, mut entries) = (Reader::of_body(bytes), Unpacker::default(), Vec::new());
        while !from.is_empty() {
            entries.push(unpacker.next(&mut from)?);
        }
        Ok(entries)
    }

    fn packed(entries: &[NewEntry]) -> Vec<u8> {
        let mut packer = Packer::default();
        for entry in entries {
            let before = packer.len();
            let encoded = codec::encode(entry).unwrap();
            let form = Common::of(entry).map_or(Form::Encoded(&encoded), Form::Common);
            assert_eq!(&form.decode().unwrap(), entry);
            packer.push(form);
            assert!(packer.len() - before <= form.most_bytes());
        }
        packer.finish()
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back_and_has_one_spelling(entries in entries(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = packed(&entries);
            prop_assert_eq!(&unpacked(&bytes).unwrap(), &entries);
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                if let Ok(others) = unpacked(&bytes) {
                    prop_assert_eq!(packed(&others), bytes);
                }
            }
        }

        #[test]
        fn signs_come_back(number: u64) {
            prop_assert_eq!(unsigned(signed(number)), number);
            prop_assert_eq!(signed(unsigned(number)), number);
        }
    }

    #[test]
    fn a_mint_takes_so_many_bytes() {
        let mint = |at: u64| NewEntry {
            at: Timestamp::from_millis(1_700_000_000_000 + at),
            actor: AuditActor::ApiKey(ApiKeyId::from_bytes([1; 12])),
            action: AuditAction::SessionMinted {
                session: SessionTokenId::from_bytes([at as u8; 16]),
                expires: Timestamp::from_millis(1_700_000_000_000 + at + 900_000),
            },
            target: None,
        };
        let mints: Vec<_> = (0..10).map(|number| mint(number * 40)).collect();
        assert_eq!(codec::encode(&mints[0]).unwrap().len(), 50);
        assert_eq!(packed(&mints[..1]).len(), 1 + 9 + 1 + 12 + 16 + 1 + 5);
        assert_eq!(packed(&mints).len() - packed(&mints[..9]).len(), 1 + 1 + 1 + 16 + 1);
    }
}
