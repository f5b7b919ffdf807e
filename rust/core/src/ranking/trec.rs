//! TREC's text formats. What is parsed borrows from the text.

use std::collections::HashSet;

use foldhash::fast::FixedState;
use rayon::prelude::*;

use super::{Qrels, Run};
use crate::{Error, Result, pool};

/// Bytes that one thread parses at a time.
const CHUNK: usize = 1 << 20;

/// The fields of a line, which blanks separate (a trailing CR is one), if there are `N`; else their
/// number. No fields make an empty line.
fn fields<const N: usize>(line: &[u8]) -> std::result::Result<[&[u8]; N], usize> {
    let mut found = [&line[..0]; N];
    let mut count = 0;
    let mut rest = line;
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r');
    while let Some(start) = rest.iter().position(|b| !blank(b)) {
        rest = &rest[start..];
        let end = rest.iter().position(blank).unwrap_or(rest.len());
        if count < N {
            found[count] = &rest[..end];
        }
        count += 1;
        rest = &rest[end..];
    }
    if count == N { Ok(found) } else { Err(count) }
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
pub fn parse_qrels<'t>(file: &str, text: &'t [u8]) -> Result<Qrels<'t>> {
    let mut qrels = Qrels::new();
    for (i, line) in text.split(|b| *b == b'\n').enumerate() {
        let line_error = |reason: String| bad(file, i + 1, reason);
        let [topic, _, document, relevance] = match fields::<4>(line) {
            Ok(fields) => fields,
            Err(0) => continue,
            Err(n) => {
                return Err(line_error(format!(
                    "expected 4 fields (topic iteration document relevance), got {n}"
                )));
            }
        };
        let Some(grade) = std::str::from_utf8(relevance).ok().and_then(|s| s.parse().ok()) else {
            return Err(line_error(format!("relevance: expected an integer, got '{}'", show(relevance))));
        };
        if qrels.entry(topic).or_default().insert(document, grade).is_some() {
            return Err(line_error(format!(
                "document '{}' judged twice for topic '{}'",
                show(document),
                show(topic)
            )));
        }
    }
    Ok(qrels)
}

/// Documents of one topic that follow each other in a file.
type Segment<'t> = (&'t [u8], Vec<(&'t [u8], f64)>);

/// `topic Q0 document rank score tag`, one retrieved document a line. The rank is ignored.
///
/// Pieces of the text are parsed in parallel; their order is kept.
///
/// # Errors
/// A line with other than six fields, a score that is no number, or a document retrieved twice: the
/// first such line of the file.
pub fn parse_run<'t>(file: &str, text: &'t [u8]) -> Result<Run<'t>> {
    let chunks = whole_lines(text, CHUNK);
    let parsed: Vec<_> = pool::run(|| chunks.par_iter().map(|chunk| segments(chunk)).collect());
    let mut run = Run::new();
    let mut before = 0;
    for (chunk, found) in chunks.iter().zip(parsed) {
        match found {
            Ok(found) => {
                for (topic, documents) in found {
                    match run.entry(topic) {
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert(documents);
                        }
                        std::collections::btree_map::Entry::Occupied(mut entry) => {
                            entry.get_mut().extend(documents);
                        }
                    }
                }
            }
            Err((line, reason)) => {
                // A repeated document may come before the bad line.
                return Err(first_repeated(file, text, before + line)
                    .unwrap_or_else(|| bad(file, before + line, reason)));
            }
        }
        before += chunk.iter().filter(|b| **b == b'\n').count();
    }
    let topics: Vec<_> = run.values().collect();
    if pool::run(|| topics.par_iter().any(|documents| has_repeated(documents)))
        && let Some(error) = first_repeated(file, text, usize::MAX)
    {
        return Err(error);
    }
    Ok(run)
}

/// The text in pieces of about `size` bytes that end with a line.
fn whole_lines(mut text: &[u8], size: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while text.len() > size
        && let Some(at) = text[size..].iter().position(|b| *b == b'\n')
    {
        let (piece, rest) = text.split_at(size + at + 1);
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

/// A piece's results in order, or its first bad line (from 1) and what is bad.
fn segments(text: &[u8]) -> std::result::Result<Vec<Segment<'_>>, (usize, String)> {
    let mut found: Vec<Segment<'_>> = Vec::new();
    for (i, line) in text.split(|b| *b == b'\n').enumerate() {
        let [topic, _, document, _, score, _] = match fields::<6>(line) {
            Ok(fields) => fields,
            Err(0) => continue,
            Err(n) => {
                let reason = format!("expected 6 fields (topic Q0 document rank score tag), got {n}");
                return Err((i + 1, reason));
            }
        };
        let parsed: Option<f64> = std::str::from_utf8(score).ok().and_then(|s| s.parse().ok());
        let Some(value) = parsed.filter(|s| !s.is_nan()) else {
            return Err((i + 1, format!("score: expected a number, got '{}'", show(score))));
        };
        match found.last_mut() {
            Some((last, documents)) if *last == topic => documents.push((document, value)),
            _ => found.push((topic, vec![(document, value)])),
        }
    }
    Ok(found)
}

fn has_repeated(documents: &[(&[u8], f64)]) -> bool {
    let mut seen = HashSet::with_capacity_and_hasher(documents.len(), FixedState::default());
    documents.iter().any(|(document, _)| !seen.insert(*document))
}

/// The first line below `end` that repeats a document of its topic, looked for one after the other.
fn first_repeated(file: &str, text: &[u8], end: usize) -> Option<Error> {
    let mut seen = HashSet::new();
    for (i, line) in text.split(|b| *b == b'\n').enumerate().take_while(|(i, _)| i + 1 < end) {
        if let Ok([topic, _, document, ..]) = fields::<6>(line)
            && !seen.insert((topic, document))
        {
            let reason = format!("document '{}' retrieved twice for topic '{}'", show(document), show(topic));
            return Some(bad(file, i + 1, reason));
        }
    }
    None
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
        assert!(
            why(b"1 Q0 d 1 0.5 x y\n")
                .starts_with("r:1: expected 6 fields (topic Q0 document rank score tag), got 7")
        );
        assert!(why(b"1 Q0 d 1 1 x\n1 Q0 d 2 2 x\n").starts_with("r:2: document 'd' retrieved twice"));
        assert!(why(b"1 Q0 \xff 1 x x\n").starts_with("r:1: score"));
    }

    #[test]
    fn pieces_make_the_same_run_and_name_the_same_line() {
        let mut text = Vec::new();
        let lines = 60_000;
        for i in 0..lines {
            // Topics come back after others, and a topic's documents span pieces.
            text.extend(format!("q{} Q0 d{i} 1 {} tag\n", i / 7 % 100, -f64::from(i)).bytes());
        }
        assert!(whole_lines(&text, CHUNK).len() > 1);
        let run = parse_run("r", &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(run.values().map(Vec::len).sum::<usize>(), lines as usize);
        for documents in run.values() {
            assert!(documents.windows(2).all(|w| w[0].1 > w[1].1), "the file's order is kept");
        }
        let why = |text: &[u8]| parse_run("r", text).err().map(|e| e.to_string()).unwrap_or_default();
        let mut bad_last = text.clone();
        bad_last.extend(b"q1 Q0 d 1 high tag\n");
        assert!(why(&bad_last).starts_with("r:60001: score"), "{}", why(&bad_last));
        let mut twice = text.clone();
        twice.extend(b"q0 Q0 d0 1 0 tag\nq1 Q0 d 1 high tag\n");
        assert!(why(&twice).starts_with("r:60001: document 'd0' retrieved twice"), "{}", why(&twice));
    }

    #[test]
    fn pieces_are_whole_lines() {
        let text = b"a\nbb\nccc\n\ndddd";
        for size in 1..20 {
            let pieces = whole_lines(text, size);
            assert_eq!(pieces.concat(), text);
            assert!(pieces[..pieces.len() - 1].iter().all(|p| p.ends_with(b"\n")));
        }
        assert_eq!(whole_lines(b"", 4), [b""]);
    }
}
