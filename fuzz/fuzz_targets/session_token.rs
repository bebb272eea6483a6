//! A text is refused or is the only text of what it says; claims likewise; nothing opens that was not sealed.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(again) = fuzzing::session_token(text) {
            assert_eq!(again, text, "two texts of one token");
        }
        if let Some(claims) = fuzzing::opened_token(text) {
            // Sealing can't be forged, so this is one of the seeds: its claims have one encoding.
            assert_eq!(fuzzing::claims(&claims).as_deref(), Some(&*claims));
        }
    }
    if let Some(again) = fuzzing::claims(data) {
        assert_eq!(again, data, "two encodings of the same claims");
        let token = fuzzing::sealed_claims(data).expect("claims that decode can be sealed");
        assert_eq!(fuzzing::session_token(&token).as_deref(), Some(&*token), "a token that was minted can't be read");
        assert_eq!(fuzzing::opened_token(&token).as_deref(), Some(data), "sealed claims came back different");
    }
});
