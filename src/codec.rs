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

/// An encoded value that is put together of parts, some of which are encoded already. What comes out is what [`encode`] makes of the whole.
pub(crate) struct Parts(Vec<u8>);

impl Parts {
    /// A buffer for about so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut whole = Vec::with_capacity(1 + bytes);
        whole.push(BINCODE_2);
        Self(whole)
    }

    /// A number, or how many values of a sequence follow.
    pub(crate) fn number(&mut self, number: u64) -> Result<(), CodecError> {
        put(&number, &mut self.0)
    }

    /// A value that [`encode`] encoded.
    pub(crate) fn encoded(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value.get(1..).unwrap_or_default());
    }

    /// Bytes of an array, or parts that were put together before.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A small value that is put together by hand, because [`encode`] would take each byte of an identifier by itself. What comes out must be
/// what `encode` makes; whoever uses this has a test of that.
pub(crate) struct Small {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Small {
    /// The most bytes.
    const MAX: usize = 96;

    pub(crate) fn new() -> Self {
        let mut bytes = [0; Self::MAX];
        bytes[0] = BINCODE_2;
        Self { bytes, len: 1 }
    }

    /// A number, or that of an enum's variant.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let [a, b, c, d, ..] = number.to_le_bytes();
        match number {
            0..=250 => self.bytes(&[a]),
            251..=0xffff => self.bytes(&[251, a, b]),
            0x1_0000..=0xffff_ffff => self.bytes(&[252, a, b, c, d]),
            _ => self.bytes(&[253]).bytes(&number.to_le_bytes()),
        }
    }

    /// An array of bytes.
    ///
    /// # Panics
    /// When there are more than 96 in all.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    pub(crate) fn finished(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Decodes what [`encode`] made; bytes left over are an error.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError("empty"))?;
    if *version != BINCODE_2 {
        return Err(CodecError("unknown codec version"));
    }
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
