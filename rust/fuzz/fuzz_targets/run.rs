//! No text makes the reader of runs panic; every line is either read, skipped or told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use optical_core::Error;
use optical_core::ranking::{ALL, EvaluateOptions, Formula, Measure, Qrels, Version, evaluate, trec};

fuzz_target!(|text: &[u8]| {
    trec::run_tag(text);
    for version in [Version::Nine, Version::Ten] {
        let run = trec::parse_run("run", text, version);
        // Every topic is judged, so that every topic is ranked.
        let judged = std::iter::once((b"d".as_slice(), 1)).collect();
        let qrels: Qrels<&[u8], &[u8]> = run.keys().map(|topic| (*topic, Clone::clone(&judged))).collect();
        let options = EvaluateOptions { version, ..Default::default() };
        let measures = [Formula::NumRet, Formula::Map(ALL)].map(|formula| Measure::new("", formula));
        let read = trec::read_run("run", text, version);
        match evaluate(&qrels, &run, &measures, &options) {
            Ok(result) => {
                // Both readers take the same lines.
                let documents = read.map(|read| read.iter().map(|(_, of)| of.len()).sum::<usize>());
                assert_eq!(documents.ok(), Some(result.values[0].iter().sum::<f64>() as usize));
                let lines = text.split(|b| *b == b'\n').count();
                assert!(result.values[0].iter().sum::<f64>() <= lines as f64);
                assert!(result.values[1].iter().all(|map| (0.0..=1.0).contains(map)));
            }
            Err(Error::Line { line, .. }) => {
                assert!((1..=text.split(|b| *b == b'\n').count()).contains(&line))
            }
            Err(Error::Contradiction(_)) => assert!(read.is_err()),
            Err(other) => panic!("an error without a line: {other}"),
        }
    }
});
