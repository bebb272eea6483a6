//! Bytes never open unless they were sealed, and then only unchanged and where they belong.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    bytes: &'a [u8],
    plaintext: &'a [u8],
    aad: Vec<&'a [u8]>,
    other_aad: Vec<&'a [u8]>,
    key_version: u32,
    revision: u64,
    flip: usize,
    mask: u8,
    cut: usize,
}

fuzz_target!(|input: Input| {
    if let Some((key_version, revision, tag)) = fuzzing::envelope_header(input.bytes) {
        let (front, back) = (&input.bytes[..13], &input.bytes[input.bytes.len() - 16..]);
        assert_eq!(front, [&[1][..], &key_version.to_be_bytes(), &revision.to_be_bytes()].concat());
        assert_eq!(back, tag);
    }
    assert_eq!(fuzzing::opened_envelope(&input.aad, None, input.bytes), None, "an envelope was forged");

    let plaintext = &input.plaintext[..input.plaintext.len().min(4096)];
    let sealed = fuzzing::sealed_envelope(input.key_version, &input.aad, input.revision, plaintext);
    assert_eq!(fuzzing::opened_envelope(&input.aad, Some(input.revision), &sealed).as_deref(), Some(plaintext));
    assert_eq!(fuzzing::opened_envelope(&input.aad, Some(!input.revision), &sealed), None);
    let elsewhere = fuzzing::opened_envelope(&input.other_aad, None, &sealed);
    assert_eq!(elsewhere.is_some(), input.aad == input.other_aad, "the same envelope opens in two places");

    let mut changed = sealed.clone();
    let at = input.flip % changed.len();
    changed[at] ^= input.mask.max(1);
    assert_eq!(fuzzing::opened_envelope(&input.aad, None, &changed), None, "a changed byte was not noticed");
    assert_eq!(fuzzing::opened_envelope(&input.aad, None, &sealed[..input.cut % sealed.len()]), None);
});
