//! An anchor file is the only encoding of what it says, or refused; and refused once any byte of it changed, is missing or too much, or
//! it stands in another's place.
#![no_main]

use anchorhold::fuzzing;
use libfuzzer_sys::fuzz_target;

// Whether it is the directory's or a shard's and of which; where and how it is changed; its content without the seal.
fuzz_target!(|data: &[u8]| {
    let Some((&[shard, at, high, mask], content)) = data.split_first_chunk::<4>() else { return };
    let shard = (shard > 0).then(|| u32::from(shard));
    // libFuzzer sees what is compared and so comes to know the seal of a content: what opens then has one encoding too.
    assert!(fuzzing::anchor_file(content, shard).is_none_or(|again| again == content), "two encodings of one anchor");

    let file = fuzzing::sealed_anchor(content, shard);
    let Some(again) = fuzzing::anchor_file(&file, shard) else { return };
    assert_eq!(again, file, "two encodings of one anchor");
    for other in [None, Some(1), Some(2), Some(255)] {
        assert!(other == shard || fuzzing::anchor_file(&file, other).is_none(), "{shard:?} stands for {other:?}");
    }
    let at = usize::from(u16::from_be_bytes([high, at])) % file.len();
    let mut changed = file.clone();
    changed[at] ^= mask.max(1);
    assert_eq!(fuzzing::anchor_file(&changed, shard), None, "byte {at} can be changed");
    assert_eq!(fuzzing::anchor_file(&file[..at], shard), None, "cut at {at}");
    changed = file;
    changed.push(mask);
    assert_eq!(fuzzing::anchor_file(&changed, shard), None, "a byte more");
});
