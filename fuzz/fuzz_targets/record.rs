//! What is read from disk, after it was opened: refused, or written again as it was. The first byte says which kind.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind {
        // Layouts written by hand have one encoding.
        b'c' => one_encoding(bytes, fuzzing::credential),
        b'h' => one_encoding(bytes, fuzzing::vault_header),
        // The general codec may accept a number in more bytes than it would write, so these settle after one turn.
        b'p' => settles(bytes, fuzzing::provider_settings),
        b'a' => settles(bytes, fuzzing::audit_segment),
        b'j' => settles(bytes, fuzzing::journal_row),
        _ => {}
    }
});

fn one_encoding(bytes: &[u8], rewrite: fn(&[u8]) -> Option<Vec<u8>>) {
    if let Some(again) = rewrite(bytes) {
        assert_eq!(again, bytes, "two encodings of one value");
    }
}

fn settles(bytes: &[u8], rewrite: fn(&[u8]) -> Option<Vec<u8>>) {
    if let Some(once) = rewrite(bytes) {
        assert_eq!(rewrite(&once), Some(once), "what was written can't be read, or reads as something else");
    }
}
