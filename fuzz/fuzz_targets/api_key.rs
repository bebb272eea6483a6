//! A text is refused or is the only text of its key, and has the shape that secret scanners look for.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(again) = fuzzing::api_key(text) {
        assert_eq!(again, text, "two texts of one API key");
        assert_eq!(text.len(), 72);
        assert!(text.starts_with("ak_test_") || text.starts_with("ak_live_"));
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
    }
});
