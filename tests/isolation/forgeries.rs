//! What a client that has real tokens can make of them.

use anchorhold::{MintedToken, SessionToken};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::steps::{Forgery, pick};

pub fn forged(minted: &[MintedToken], number: usize, forgery: Forgery) -> SessionToken {
    let text = minted[number].token.expose_secret();
    let (prefix, body) = text.split_at("st_test_".len());
    let forged = match forgery {
        Forgery::None => text.to_owned(),
        Forgery::OtherEnvironment => format!("{}{body}", if prefix == "st_test_" { "st_live_" } else { "st_test_" }),
        Forgery::ChangedCharacter(at) => {
            let at = usize::from(at) % body.len();
            let mut bytes = body.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            format!("{prefix}{}", String::from_utf8(bytes).unwrap())
        }
        Forgery::Shortened(by) => text[..text.len() - usize::from(by).min(text.len() - 1)].to_owned(),
        Forgery::HandleOf(other) => {
            // version ‖ handle(16) ‖ …: this token's claims under another account's handle.
            let other = minted[pick(minted, other).unwrap()].token.expose_secret();
            let mut bytes = URL_SAFE_NO_PAD.decode(body).unwrap();
            bytes[1..17].copy_from_slice(&URL_SAFE_NO_PAD.decode(&other[prefix.len()..]).unwrap()[1..17]);
            format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
        }
    };
    SessionToken::from(forged)
}
