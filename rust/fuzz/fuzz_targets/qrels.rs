//! No text makes the parser of judgments panic, and its line numbers lie within the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use optical_core::Error;
use optical_core::ranking::{Version, trec};

fuzz_target!(|text: &[u8]| {
    for version in [Version::Nine, Version::Ten] {
        match trec::parse_qrels("qrels", text, version) {
            Ok(qrels) => assert!(qrels.keys().all(|topic| !topic.is_empty())),
            Err(Error::Line { line, .. }) => {
                assert!((1..=text.split(|b| *b == b'\n').count()).contains(&line))
            }
            Err(other) => panic!("an error without a line: {other}"),
        }
    }
});
