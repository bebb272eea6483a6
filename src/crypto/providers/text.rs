//! Root keys as text: 64 hexadecimal digits, or 43 characters of base64url. Decoded without a copy that is not wiped, and
//! hexadecimal digits without a table or a branch that depends on them.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use zeroize::Zeroizing;

use crate::secret::RootKey;

/// Length of a key as hexadecimal digits.
pub(in crate::crypto) const HEX_DIGITS: usize = 64;

/// Length of a key as base64url without padding.
pub(super) const BASE64_CHARS: usize = 43;

/// A key from exactly 64 hexadecimal digits of either case.
pub(in crate::crypto) fn from_hex(text: &[u8]) -> Option<RootKey> {
    if text.len() != HEX_DIGITS {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    let mut invalid = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (nibble(pair[0]), nibble(pair[1]));
        invalid |= high | low;
        *byte = (high << 4) | (low & 0x0f);
    }
    (invalid & 0xf0 == 0).then(|| RootKey::from_bytes(&mut bytes))
}

/// A key from exactly 43 characters of base64url, in their one canonical form.
pub(super) fn from_base64(text: &[u8]) -> Option<RootKey> {
    if text.len() != BASE64_CHARS {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    let complete = Base64UrlUnpadded::decode(text, &mut *bytes).is_ok_and(|decoded| decoded.len() == 32);
    complete.then(|| RootKey::from_bytes(&mut bytes))
}

/// Writes a key as 64 lower-case hexadecimal digits.
pub(in crate::crypto) fn to_hex(key: &RootKey, out: &mut [u8; HEX_DIGITS]) {
    for (pair, &byte) in out.chunks_exact_mut(2).zip(key.expose_secret()) {
        pair[0] = digit(byte >> 4);
        pair[1] = digit(byte & 0x0f);
    }
}

/// The value of a digit, or 0xff for any other byte.
fn nibble(byte: u8) -> u8 {
    let mut value = 0xff;
    value &= !in_range(byte, b'0', b'9') | byte.wrapping_sub(b'0');
    value &= !in_range(byte, b'a', b'f') | byte.wrapping_sub(b'a' - 10);
    value &= !in_range(byte, b'A', b'F') | byte.wrapping_sub(b'A' - 10);
    value
}

fn digit(nibble: u8) -> u8 {
    nibble + b'0' + (in_range(nibble, 10, 15) & (b'a' - b'0' - 10))
}

/// All ones if `first <= byte <= last`, else zero.
#[expect(clippy::cast_possible_truncation, reason = "the mask is wanted in 8 bits")]
fn in_range(byte: u8, first: u8, last: u8) -> u8 {
    let (byte, first, last) = (u16::from(byte), u16::from(first), u16::from(last));
    // The upper byte of a difference is 0xff if it went below zero.
    (!((byte.wrapping_sub(first) | last.wrapping_sub(byte)) >> 8)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_of_either_case_are_read_and_nothing_else() {
        for byte in 0..=255u8 {
            let expected = (byte as char).to_digit(16).map_or(0xff, |value| value as u8);
            assert_eq!(nibble(byte), expected, "byte {byte:#x}");
        }
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let key = from_hex(text.as_bytes()).unwrap();
        assert_eq!(key.expose_secret(), &std::array::from_fn::<u8, 32, _>(|i| i as u8));
        assert!(from_hex(&text.as_bytes()[1..]).is_none());
        assert!(from_hex(format!("{text}0").as_bytes()).is_none());
        assert!(from_hex(text.replace("1F", "1G").as_bytes()).is_none());
    }

    #[test]
    fn what_is_written_is_read() {
        for byte in 0..=255 {
            let mut text = [0; 64];
            to_hex(&RootKey::from_bytes(&mut [byte; 32]), &mut text);
            assert_eq!(text.to_vec(), format!("{byte:02x}").repeat(32).into_bytes());
            assert_eq!(from_hex(&text).unwrap().expose_secret(), &[byte; 32]);
        }
    }

    #[test]
    fn base64url_is_read_in_its_one_form() {
        let text = Base64UrlUnpadded::encode_string(&[0xfb; 32]);
        assert_eq!(from_base64(text.as_bytes()).unwrap().expose_secret(), &[0xfb; 32]);
        assert!(from_base64(format!("{text}=").as_bytes()).is_none());
        assert!(from_base64(&text.as_bytes()[1..]).is_none());
        // The last character carries two bits that must be zero.
        let other = text.strip_suffix('s').map(|text| format!("{text}t"));
        assert!(from_base64(other.unwrap().as_bytes()).is_none());
        assert!(from_base64(text.replace('-', "+").as_bytes()).is_none());
    }
}
