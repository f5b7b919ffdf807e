//! TREC's text formats.

use super::{Qrels, Run};
use crate::{Error, Result};

/// Non-empty lines, numbered from 1, as fields separated by blanks. A trailing CR is a blank.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, Vec<&[u8]>)> {
    text.split(|b| *b == b'\n')
        .enumerate()
        .map(|(i, line)| {
            let fields: Vec<_> =
                line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).filter(|f| !f.is_empty()).collect();
            (i + 1, fields)
        })
        .filter(|(_, fields)| !fields.is_empty())
}

fn bad(file: &str, line: usize, reason: impl Into<String>) -> Error {
    Error::Line { file: file.into(), line, reason: reason.into() }
}

fn show(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// `topic iteration document relevance`, one judgment a line.
///
/// # Errors
/// A line with other than four fields, a relevance that is no integer, or a document judged twice.
pub fn parse_qrels(file: &str, text: &[u8]) -> Result<Qrels> {
    let mut qrels = Qrels::new();
    for (line, fields) in lines(text) {
        let [topic, _, document, relevance] = fields[..] else {
            return Err(bad(
                file,
                line,
                format!("expected 4 fields (topic iteration document relevance), got {}", fields.len()),
            ));
        };
        let Some(grade) = std::str::from_utf8(relevance).ok().and_then(|s| s.parse().ok()) else {
            return Err(bad(
                file,
                line,
                format!("relevance: expected an integer, got '{}'", show(relevance)),
            ));
        };
        if qrels.entry(topic.to_vec()).or_default().insert(document.to_vec(), grade).is_some() {
            return Err(bad(
                file,
                line,
                format!("document '{}' judged twice for topic '{}'", show(document), show(topic)),
            ));
        }
    }
    Ok(qrels)
}

/// `topic Q0 document rank score tag`, one retrieved document a line. The rank is ignored.
///
/// # Errors
/// A line with other than six fields, a score that is no number, or a document retrieved twice.
pub fn parse_run(file: &str, text: &[u8]) -> Result<Run> {
    let mut run = Run::new();
    let mut seen = std::collections::HashSet::new();
    for (line, fields) in lines(text) {
        let [topic, _, document, _, score, _] = fields[..] else {
            return Err(bad(
                file,
                line,
                format!("expected 6 fields (topic Q0 document rank score tag), got {}", fields.len()),
            ));
        };
        let parsed: Option<f64> = std::str::from_utf8(score).ok().and_then(|s| s.parse().ok());
        let Some(value) = parsed.filter(|s| !s.is_nan()) else {
            return Err(bad(file, line, format!("score: expected a number, got '{}'", show(score))));
        };
        if !seen.insert((topic, document)) {
            return Err(bad(
                file,
                line,
                format!("document '{}' retrieved twice for topic '{}'", show(document), show(topic)),
            ));
        }
        run.entry(topic.to_vec()).or_default().push((document.to_vec(), value));
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crlf_tabs_and_blank_lines() {
        let qrels = parse_qrels("f", b"1\t0  d1 2\r\n\n 1 0 d2 -1\r\n");
        assert_eq!(qrels.map(|q| q[b"1".as_slice()].len()), Ok(2));
    }

    #[test]
    fn bad_lines_are_named() {
        let why = |text: &[u8]| parse_qrels("f", text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why(b"1 0 d 1\n1 0 d\n").starts_with("f:2: expected 4 fields"));
        assert!(why(b"1 0 d 1.5\n").starts_with("f:1: relevance"));
        assert!(why(b"1 0 d 1\n1 0 d 0\n").starts_with("f:2: document 'd' judged twice"));
        let why = |text: &[u8]| parse_run("r", text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why(b"1 Q0 d 1 nan x\n").starts_with("r:1: score"));
        assert!(why(b"1 Q0 d 1 0.5\n").starts_with("r:1: expected 6"));
        assert!(why(b"1 Q0 d 1 1 x\n1 Q0 d 2 2 x\n").starts_with("r:2: document 'd' retrieved twice"));
        assert!(why(b"1 Q0 \xff 1 x x\n").starts_with("r:1: score"));
    }
}
