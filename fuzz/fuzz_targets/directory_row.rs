//! A row's key is the only encoding of its name and lies where it is looked for; a sealed row opens under its own key only; what rows
//! hold is refused, or read as it would be written.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::fuzz_target;

// The first byte says what the rest is: `K` a key, then one byte with which it is changed; else what a row of that kind holds.
fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((b'K', rest)) => check_key(rest),
        // Written by hand: one encoding.
        Some((b'c', bytes)) => assert!(fuzzing::row_value(b'c', bytes).is_none_or(|again| again == bytes)),
        // The general codec may accept a number in more bytes than it would write, so these settle after one turn.
        Some((kind, bytes)) => {
            if let Some(once) = fuzzing::row_value(*kind, bytes) {
                assert!(once.len() <= bytes.len(), "more was written than read");
                assert_eq!(fuzzing::row_value(*kind, &once), Some(once), "what was written reads as something else");
            }
        }
        None => {}
    }
});

fn check_key(data: &[u8]) {
    let Some((change, key)) = data.split_last() else { return };
    let Some((again, (start, end))) = fuzzing::row_name(key) else { return };
    assert_eq!(again, key, "two keys of one row");
    assert!(start.as_slice() <= key && key < end.as_slice(), "the row is not where it is looked for");

    let sealed = fuzzing::sealed_directory_row(key, 7, key);
    assert_eq!(fuzzing::opened_directory_row(key, &sealed).as_deref(), Some(key));
    let mut other = key.to_vec();
    let at = usize::from(*change) % other.len();
    other[at] ^= (change >> 3) | 1;
    assert_eq!(fuzzing::opened_directory_row(&other, &sealed), None, "a row opens under another's key");
    // The control: sealed for that key it opens.
    assert!(fuzzing::opened_directory_row(&other, &fuzzing::sealed_directory_row(&other, 7, key)).is_some());
}
