//! Base64url without padding (RFC 4648 section 5) in its one spelling, for session tokens.
//!
//! # Security
//! No branch and no address depends on what a byte is; only lengths decide, which are no secret. Both directions leave copies on the
//! stack: call them inside a stack frame that is wiped.
//!
//! # Performance
//! Six bytes, or eight characters, are moved as one number; which character stands for which value is worked out in loops that the
//! compiler makes vectors of. A token takes 0.4 of what base64ct takes (`cargo bench --bench parts -- base64url`).

/// A text that is no base64url, or not in its one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The smallest vector: what is left over at the end is filled up to so many, since a loop takes one by one what is less.
const BLOCK: usize = 16;

/// So many characters are decoded at once: all of a usual token.
const PIECE: usize = 256;

/// The value 0.
const ZERO: u8 = b'A';

/// How many characters stand for so many bytes.
pub(crate) const fn encoded_len(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// How many bytes so many characters stand for. One character alone in the last group stands for none; [`decode`] refuses it.
pub(crate) const fn decoded_len(characters: usize) -> usize {
    characters * 3 / 4
}

/// Writes `bytes` as text.
///
/// # Panics
/// When `text` has not the length that they take.
pub(crate) fn encode(bytes: &[u8], text: &mut [u8]) {
    assert!(text.len() == encoded_len(bytes.len()), "a text of another length");
    // Fewer than six bytes take fewer than eight characters, so there are as many whole groups on either side.
    let (groups, bytes_left) = bytes.as_chunks::<6>();
    let (places, text_left) = text.as_chunks_mut::<8>();
    for (place, group) in places.iter_mut().zip(groups) {
        *place = values_of(*group);
    }
    let mut last = [0; 6];
    last[..bytes_left.len()].copy_from_slice(bytes_left);
    text_left.copy_from_slice(&values_of(last)[..text_left.len()]);

    let (blocks, left) = text.as_chunks_mut::<BLOCK>();
    to_characters(blocks.as_flattened_mut());
    let mut block = [0; BLOCK];
    block[..left.len()].copy_from_slice(left);
    to_characters(&mut block);
    left.copy_from_slice(&block[..left.len()]);
}

/// Reads `text` into `bytes`, whose content means nothing when it is refused.
///
/// # Errors
/// [`Malformed`] when `text` is not what [`encode`] writes for as many bytes as `bytes` has.
pub(crate) fn decode(text: &[u8], bytes: &mut [u8]) -> Result<(), Malformed> {
    if text.len() != encoded_len(bytes.len()) {
        return Err(Malformed);
    }
    let mut wrong = 0;
    for (text, bytes) in text.chunks(PIECE).zip(bytes.chunks_mut(decoded_len(PIECE))) {
        let mut piece = [ZERO; PIECE];
        let piece = &mut piece[..text.len().next_multiple_of(BLOCK)];
        piece[..text.len()].copy_from_slice(text);
        wrong |= to_values(piece);

        let (groups, _) = piece.as_chunks::<8>();
        let (places, left) = bytes.as_chunks_mut::<6>();
        for (place, group) in places.iter_mut().zip(groups) {
            *place = bytes_of(*group);
        }
        // What is left of the text was filled up with zeros: bits beyond its bytes that are none are a second spelling.
        if let Some(group) = groups.get(places.len()) {
            let last = bytes_of(*group);
            let (within, beyond) = last.split_at(left.len());
            left.copy_from_slice(within);
            wrong = beyond.iter().fold(wrong, |wrong, byte| wrong | byte);
        }
    }
    if wrong == 0 { Ok(()) } else { Err(Malformed) }
}

/// The values of eight characters that stand for six bytes.
fn values_of(bytes: [u8; 6]) -> [u8; 8] {
    let mut number = [0; 8];
    number[2..].copy_from_slice(&bytes);
    let bits = u64::from_be_bytes(number);
    // The upper 24 bits move up by eight; a product, because the compiler would make slower vectors of shifts alone.
    let bits = bits + (bits >> 24) * ((1 << 32) - (1 << 24));
    let bits = (bits & 0x00ff_f000_00ff_f000) << 4 | bits & 0x0000_0fff_0000_0fff;
    let bits = (bits & 0x0fc0_0fc0_0fc0_0fc0) << 2 | bits & 0x003f_003f_003f_003f;
    bits.to_be_bytes()
}

/// The six bytes that eight characters with these values stand for.
fn bytes_of(values: [u8; 8]) -> [u8; 6] {
    let bits = u64::from_be_bytes(values);
    let bits = (bits & 0x3f00_3f00_3f00_3f00) >> 2 | bits & 0x003f_003f_003f_003f;
    let bits = (bits & 0x0fff_0000_0fff_0000) >> 4 | bits & 0x0000_0fff_0000_0fff;
    let bits = bits - (bits >> 32) * ((1 << 32) - (1 << 24));
    let [_, _, bytes @ ..] = bits.to_be_bytes();
    bytes
}

/// Puts characters in the place of values below 64.
// On its own, as the other direction: inlined where the length is known it is unrolled and not made vectors of.
#[inline(never)]
fn to_characters(values: &mut [u8]) {
    for value in values {
        let from = |first: u8, step: u8| mask(value.cast_signed() >= first.cast_signed()) & step;
        // A-Z, a-z, 0-9, - and _: how far each range is from where the one before it would go on.
        let steps = [
            from(26, b'a' - b'Z' - 1),
            from(52, b'0'.wrapping_sub(b'z' + 1)),
            from(62, b'-'.wrapping_sub(b'9' + 1)),
            from(63, b'_' - b'-' - 1),
        ];
        *value = steps.into_iter().fold(value.wrapping_add(b'A'), u8::wrapping_add);
    }
}

/// Puts values in the place of characters; not 0 when a character has none.
#[inline(never)]
fn to_values(characters: &mut [u8]) -> u8 {
    let mut wrong = 0;
    for character in characters {
        // As signed numbers, bytes beyond ASCII are before all ranges.
        let signed = character.cast_signed();
        let within = |first: u8, last: u8, value: u8| {
            let is_within = (signed >= first.cast_signed()) & (signed <= last.cast_signed());
            mask(is_within) & value.wrapping_sub(first)
        };
        // The distance is 0 in no range.
        let distance = within(b'A', b'Z', 0)
            | within(b'a', b'z', 26)
            | within(b'0', b'9', 52)
            | within(b'-', b'-', 62)
            | within(b'_', b'_', 63);
        wrong |= mask(distance == 0);
        *character = character.wrapping_add(distance);
    }
    wrong
}

/// All bits or none.
fn mask(condition: bool) -> u8 {
    u8::from(condition).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    use proptest::prelude::*;

    use super::*;

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        let mut text = vec![b'!'; encoded_len(bytes.len())];
        encode(bytes, &mut text);
        text
    }

    fn decoded(text: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut bytes = vec![0xa5; decoded_len(text.len())];
        decode(text, &mut bytes).map(|()| bytes)
    }

    fn by_base64ct(text: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut bytes = vec![0; text.len()];
        Base64UrlUnpadded::decode(text, &mut bytes).map(<[u8]>::to_vec).map_err(|_| Malformed)
    }

    #[test]
    fn published_vectors() {
        // RFC 4648, section 10, without padding.
        let vectors = [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(encoded(bytes.as_bytes()), text.as_bytes());
            assert_eq!(decoded(text.as_bytes()).unwrap(), bytes.as_bytes());
        }
        assert_eq!(encoded(&[0xfb, 0xff, 0xfe]), b"-__-");
    }

    #[test]
    fn every_byte_at_every_place_is_taken_or_refused_as_base64ct_does() {
        // Lengths that leave every rest of groups and blocks, and such as end close to the end of a piece.
        for len in (0..=30).chain(189..=196) {
            let text = encoded(&(0..len).map(|at| (at * 89 + 7) as u8).collect::<Vec<_>>());
            let (mut taken, mut refused) = (0, 0);
            let places = text.len().saturating_sub(40)..text.len();
            for at in places.clone() {
                for byte in 0..=255 {
                    let mut other = text.clone();
                    other[at] = byte;
                    let outcome = decoded(&other);
                    assert_eq!(outcome, by_base64ct(&other), "byte {byte} at {at} of {}", text.len());
                    match outcome {
                        Ok(bytes) => {
                            taken += 1;
                            assert_eq!(encoded(&bytes), other);
                        }
                        Err(Malformed) => refused += 1,
                    }
                }
            }
            // 64 for each place but the last, whose bits for nothing must be zero.
            let last = [64, 0, 4, 16][text.len() % 4];
            assert_eq!(taken, if text.is_empty() { 0 } else { 64 * (places.len() - 1) + last });
            assert_eq!(refused, 256 * places.len() - taken);
        }
    }

    #[test]
    fn a_length_that_no_bytes_have_is_refused_and_so_is_another_length() {
        for len in (1..400).step_by(4) {
            assert_eq!(decoded(&vec![b'A'; len]), Err(Malformed));
        }
        assert_eq!(decode(b"AAAA", &mut [0; 2]), Err(Malformed));
        assert_eq!(decode(b"AAAA", &mut [0; 4]), Err(Malformed));
        assert_eq!(decode(b"AAAA", &mut [0; 3]), Ok(()));
        assert_eq!(decoded(b"Zg=="), Err(Malformed));
    }

    proptest! {
        #[test]
        fn base64ct_agrees_on_every_text(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            let text = encoded(&bytes);
            prop_assert_eq!(String::from_utf8(text.clone()).unwrap(), Base64UrlUnpadded::encode_string(&bytes));
            prop_assert_eq!(decoded(&text).unwrap(), bytes);
        }

        #[test]
        fn base64ct_agrees_on_what_is_no_text(text in prop_oneof!["[A-Za-z0-9_-]{0,600}", "[ -~]{0,20}", ".{0,20}"]) {
            prop_assert_eq!(decoded(text.as_bytes()), by_base64ct(text.as_bytes()));
        }
    }
}
