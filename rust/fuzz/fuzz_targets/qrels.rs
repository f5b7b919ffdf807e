//! No text makes the parsers of judgments panic, and their line numbers lie within the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use optical_core::ranking::{EvaluateOptions, Preference, Version, evaluate_preferences, trec};
use optical_core::{Error, Result};

fn line_is_within<T>(text: &[u8], parsed: &Result<T>) {
    match parsed {
        Err(Error::Line { line, .. }) => {
            assert!((1..=text.split(|b| *b == b'\n').count()).contains(line))
        }
        Ok(_) | Err(Error::Contradiction(_)) => {}
        Err(other) => panic!("an error without a line: {other}"),
    }
}

fuzz_target!(|text: &[u8]| {
    for version in [Version::Nine, Version::Ten] {
        let qrels = trec::parse_qrels("qrels", text, version);
        line_is_within(text, &qrels);
        assert!(qrels.is_ok() == trec::read_qrels("qrels", text, version).is_ok());
        if let Ok(qrels) = qrels {
            assert!(qrels.keys().all(|topic| !topic.is_empty()));
        }
        line_is_within(text, &trec::parse_groups("groups", text, version));
        for subgroups in [true, false] {
            let statements = trec::parse_preferences("prefs", text, subgroups, version);
            line_is_within(text, &statements);
            let Ok(statements) = statements else { continue };
            // The matrix of preferences grows with the square of the documents.
            if statements.values().any(|of| of.len() > 300) {
                continue;
            }
            let run = statements.iter().map(|(topic, of)| (*topic, vec![(of[0].document, 1.0)])).collect();
            let measures: Vec<Preference> = ["prefs_simp", "prefs_pair", "prefs_avgjg_Rnonrel"]
                .iter()
                .filter_map(|n| Preference::parse(n))
                .collect();
            match evaluate_preferences(&statements, &run, &measures, &EvaluateOptions::default()) {
                Ok(result) => assert!(result.values.iter().flatten().all(|v| (0.0..=1.0).contains(v))),
                Err(Error::Contradiction(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
});
