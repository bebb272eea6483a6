//! The only place that names bincode: public facts and metadata to bytes and back, behind a version byte.
//!
//! Nothing secret passes through here: a failed decode leaves fragments on the heap. Secrets have a layout of their own
//! (`domain/credential.rs`) that is read in place.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of every encoded value. Another codec gets another number, and both stay readable.
const BINCODE_2: u8 = 1;

/// Most encoded values are no larger, so that their buffers need not grow.
const USUAL: usize = 128;

/// No encoded value is larger; a length prefix above it is refused before anything is allocated.
const LIMIT: usize = 128 * 1024;

/// Bytes that are not an encoded value of the wanted type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored value can't be decoded ({0})")]
pub(crate) struct CodecError(&'static str);

impl CodecError {
    /// For layouts that are put together of this one's parts.
    pub(crate) const fn of(what: &'static str) -> Self {
        Self(what)
    }
}

/// Encodes a value that is not secret.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(USUAL);
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// [`encode`] at the end of a buffer.
pub(crate) fn encode_into<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    bytes.push(BINCODE_2);
    put(value, bytes)
}

fn put<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_writer(value, Appender(bytes), config()).map_err(|_| CodecError("not encodable"))
}

/// An encoded value that is put together of parts. Behind the version byte of [`encode`] its layout is its own, of the codec's numbers and of
/// bytes.
pub(crate) struct Parts(Vec<u8>);

impl Parts {
    /// A buffer for about so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut whole = Vec::with_capacity(1 + bytes);
        whole.push(BINCODE_2);
        Self(whole)
    }

    /// A number, or how many values of a sequence follow.
    pub(crate) fn number(&mut self, number: u64) {
        put_number(number, &mut self.0);
    }

    /// Bytes of an array, or parts that were put together before.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A few numbers and identifiers that are put together on the stack.
pub(crate) struct Small {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Default for Small {
    fn default() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }
}

impl Small {
    /// The most bytes.
    pub(crate) const MAX: usize = 64;

    /// A number, or that of an enum's variant.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let (bytes, len) = number_bytes(number);
        self.first(bytes, len)
    }

    /// The first bytes of an array, whose others are written over by what comes next: a copy of a fixed length is one instruction.
    ///
    /// # Panics
    /// Like [`bytes`](Self::bytes), of the whole array.
    pub(crate) fn first<const N: usize>(&mut self, bytes: [u8; N], count: usize) -> &mut Self {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += count;
        self
    }

    /// An array of bytes.
    ///
    /// # Panics
    /// When there are more than 64 in all.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    pub(crate) fn finished(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// All bytes, whatever is behind those that were put, and how many were: a copy of a fixed length is a few instructions.
    pub(crate) fn whole(&self) -> (&[u8; Self::MAX], usize) {
        (&self.bytes, self.len)
    }
}

/// Puts a number at the end of a buffer.
pub(crate) fn put_number(number: u64, bytes: &mut Vec<u8>) {
    let (number, len) = number_bytes(number);
    bytes.extend_from_slice(&number[..len]);
}

/// A number's encoding, and how many bytes it has.
fn number_bytes(number: u64) -> ([u8; 9], usize) {
    let (mark, len) = match number {
        0..=250 => (None, 1),
        251..=0xffff => (Some(251), 2),
        0x1_0000..=0xffff_ffff => (Some(252), 4),
        _ => (Some(253), 8),
    };
    let mut bytes = [0; 9];
    let begin = usize::from(mark.is_some());
    bytes[0] = mark.unwrap_or_default();
    // All eight, of which the last ones may be zeros: a copy of a fixed length is one instruction.
    bytes[begin..begin + 8].copy_from_slice(&number.to_le_bytes());
    (bytes, begin + len)
}

/// Reads the parts of an encoded value one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Behind the version byte.
    pub(crate) fn of(encoded: &'a [u8]) -> Result<Self, CodecError> {
        body(encoded).map(Self)
    }

    /// Of bytes that have no version byte.
    pub(crate) fn of_body(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// A number in its one encoding.
    pub(crate) fn number(&mut self) -> Result<u64, CodecError> {
        let [first] = *self.array()?;
        let number = match first {
            0..=250 => u64::from(first),
            251 => u64::from(u16::from_le_bytes(*self.array()?)),
            252 => u64::from(u32::from_le_bytes(*self.array()?)),
            253 => u64::from_le_bytes(*self.array()?),
            _ => return Err(CodecError("not a number")),
        };
        let shortest = match first {
            251 => 251,
            252 => 0x1_0000,
            253 => 0x1_0000_0000,
            _ => 0,
        };
        if number < shortest { Err(CodecError("a number in too many bytes")) } else { Ok(number) }
    }

    /// The bytes of an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], CodecError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CodecError("cut short"))?;
        self.0 = rest;
        Ok(array)
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(CodecError("cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left over.
    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError("bytes left over")) }
    }
}

/// Decodes what [`encode`] made; bytes left over are an error.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_body(body(bytes)?)
}

fn body(bytes: &[u8]) -> Result<&[u8], CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError("empty"))?;
    if *version == BINCODE_2 { Ok(body) } else { Err(CodecError("unknown codec version")) }
}

/// [`decode`] of what has no version byte.
pub(crate) fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    match bincode::serde::decode_from_slice(body, config()) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok(_) => Err(CodecError("bytes left over")),
        Err(_) => Err(CodecError("malformed")),
    }
}

fn config()
-> bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Varint, bincode::config::Limit<LIMIT>> {
    bincode::config::standard().with_limit::<LIMIT>()
}

struct Appender<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_codec_and_have_one_encoding() {
        for number in [0, 1, 250, 251, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(number, &mut bytes);
            assert_eq!([&[BINCODE_2], bytes.as_slice()].concat(), encode(&number).unwrap());
            let mut from = Reader(&bytes);
            assert_eq!(from.number().unwrap(), number);
            from.finish().unwrap();
        }
        for long in [&[251, 250, 0][..], &[252, 255, 255, 0, 0], &[253, 255, 255, 255, 255, 0, 0, 0, 0], &[254], &[251, 1], &[]] {
            assert!(Reader(long).number().is_err(), "{long:?}");
        }
    }

    #[test]
    fn round_trip_and_refusals() {
        let value = (7u32, "text".to_owned(), vec![1u8, 2, 3]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<(u32, String, Vec<u8>)>(&bytes).unwrap(), value);
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<(u32, String, Vec<u8>)>(&longer).is_err());
        assert!(decode::<(u32, String, Vec<u8>)>(&bytes[..bytes.len() - 1]).is_err());
        let mut other = bytes;
        other[0] = 9;
        assert!(decode::<(u32, String, Vec<u8>)>(&other).is_err());
        assert!(decode::<Vec<u8>>(&[BINCODE_2, 0xfd, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).is_err());
    }
}
