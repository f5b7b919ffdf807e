//! TREC's text formats. What is parsed borrows from the text.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::memchr;
use rayon::prelude::*;

use super::{Fault, Id, Judgments, Qrels, Retrieved, Run, Version};
use crate::{Error, Result, pool};

/// Bytes in which one thread looks for topics at a time.
const CHUNK: usize = 1 << 20;

fn is_blank(byte: u8) -> bool {
    byte == b' ' || (9..=13).contains(&byte)
}

/// The next field of a line from `at` on, which moves behind it; empty where none is left.
#[inline]
fn field<'t>(line: &'t [u8], at: &mut usize) -> &'t [u8] {
    let mut start = *at;
    while start < line.len() && is_blank(line[start]) {
        start += 1;
    }
    let mut end = start;
    while end < line.len() && !is_blank(line[end]) {
        end += 1;
    }
    *at = end;
    &line[start..end]
}

fn count_fields(line: &[u8]) -> usize {
    let mut at = 0;
    std::iter::from_fn(|| Some(field(line, &mut at)).filter(|f| !f.is_empty())).count()
}

/// Lines with the places where they start.
struct Lines<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Iterator for Lines<'t> {
    type Item = (usize, &'t [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let rest = self.text.get(start..).filter(|rest| !rest.is_empty())?;
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        self.at = start + length + 1;
        Some((start, &rest[..length]))
    }
}

/// The places of one topic's lines in a file.
#[derive(Clone, Debug)]
pub struct Places<'t> {
    file: &'t str,
    text: &'t [u8],
    topic: &'t [u8],
    ranges: Vec<Range<usize>>,
    version: Version,
}

impl<'t> Places<'t> {
    /// The topic's lines that are not blank, each with its place and where its second field may begin.
    fn lines(&self) -> impl Iterator<Item = (usize, &'t [u8], usize)> {
        let (topic, version, text) = (self.topic, self.version, self.text);
        let ranges = self.ranges.iter().cloned();
        let lines = ranges.flat_map(move |r| Lines { text: &text[..r.end], at: r.start });
        lines.filter_map(move |(place, line)| {
            let mut at = topic.len();
            if !line.starts_with(topic) || line.get(at).is_some_and(|b| !is_blank(*b)) {
                at = 0;
                if field(line, &mut at).is_empty() || is_comment(line, version) {
                    return None;
                }
            }
            Some((place, line, at))
        })
    }

    fn line_error(&self, place: usize, reason: String) -> Error {
        let line = 1 + memchr::memchr_iter(b'\n', &self.text[..place]).count();
        Error::Line { file: self.file.into(), line, reason }
    }
}

fn is_comment(line: &[u8], version: Version) -> bool {
    version == Version::Ten && line.first() == Some(&b'#')
}

/// Each topic's places in a file. Lines are not looked at beyond their first field.
fn topics<'t>(file: &'t str, text: &'t [u8], version: Version) -> BTreeMap<&'t [u8], Places<'t>> {
    let chunks = whole_lines(text, CHUNK);
    let found: Vec<Vec<(&[u8], Range<usize>)>> = pool::run(|| {
        chunks.par_iter().map(|chunk| segments(&text[..chunk.end], chunk.start, version)).collect()
    });
    let mut places: BTreeMap<&[u8], Places<'t>> = BTreeMap::new();
    for (topic, range) in found.into_iter().flatten() {
        let new = || Places { file, text, topic, ranges: Vec::new(), version };
        let ranges = &mut places.entry(topic).or_insert_with(new).ranges;
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    places
}

/// Topics with the ranges in which their lines follow each other.
fn segments(text: &[u8], start: usize, version: Version) -> Vec<(&[u8], Range<usize>)> {
    let mut found: Vec<(&[u8], Range<usize>)> = Vec::new();
    for (place, line) in (Lines { text, at: start }) {
        let end = (place + line.len() + 1).min(text.len());
        if let Some((topic, range)) = found.last_mut()
            && line.starts_with(topic)
            && line.get(topic.len()).is_some_and(|b| is_blank(*b))
        {
            range.end = end;
            continue;
        }
        let topic = field(line, &mut 0);
        match found.last_mut() {
            // A blank line or a comment belongs to whatever surrounds it.
            Some((last, range)) if topic.is_empty() || topic == *last || is_comment(line, version) => {
                range.end = end;
            }
            None if topic.is_empty() || is_comment(line, version) => {}
            _ => found.push((topic, place..end)),
        }
    }
    found
}

/// The text in pieces of about `size` bytes that end with a line.
fn whole_lines(text: &[u8], size: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let least = (start + size).min(text.len());
        let end = memchr(b'\n', &text[least..]).map_or(text.len(), |at| least + at + 1);
        pieces.push(start..end);
        start = end;
    }
    pieces
}

/// `topic iteration document relevance`, one judgment a line.
///
/// # Errors
/// The first line with other than four fields, a relevance that is no integer, or a document judged
/// twice.
pub fn parse_qrels<'t>(file: &'t str, text: &'t [u8], version: Version) -> Result<Qrels<&'t [u8], &'t [u8]>> {
    let places: Vec<Places<'t>> = topics(file, text, version).into_values().collect();
    let parsed: Vec<_> = pool::run(|| places.par_iter().with_min_len(4).map(judgments).collect());
    let mut qrels = Qrels::new();
    let mut first: Option<(Fault, &Places<'t>)> = None;
    for (topic, judged) in places.iter().zip(parsed) {
        match judged {
            Ok(judged) => drop(qrels.insert(topic.topic, judged)),
            Err(fault) if first.as_ref().is_none_or(|(known, _)| fault.position < known.position) => {
                first = Some((fault, topic));
            }
            Err(_) => {}
        }
    }
    match first {
        Some((fault, topic)) => Err(topic.line_error(fault.position, fault.reason)),
        None => Ok(qrels),
    }
}

fn judgments<'t>(places: &Places<'t>) -> std::result::Result<Judgments<&'t [u8]>, Fault> {
    let mut judged = Judgments::default();
    for (position, line, mut at) in places.lines() {
        let fault = |reason: String| Err(Fault { position, reason });
        let _iteration = field(line, &mut at);
        let document = field(line, &mut at);
        let relevance = field(line, &mut at);
        if relevance.is_empty() || !field(line, &mut at).is_empty() {
            let n = count_fields(line);
            return fault(format!("expected 4 fields (topic iteration document relevance), got {n}"));
        }
        let Some(grade) = std::str::from_utf8(relevance).ok().and_then(|s| s.parse().ok()) else {
            return fault(format!("relevance: expected an integer, got '{}'", relevance.show()));
        };
        if judged.insert(document, grade).is_some() {
            return fault(format!("topic '{}', document '{}': judged twice", places.topic.show(), document.show()));
        }
    }
    Ok(judged)
}

/// `topic Q0 document rank score tag`, one retrieved document a line; what follows the tag is
/// ignored, as is the rank.
///
/// Only the places of topics are looked for here; their lines are read by [`super::evaluate`], which
/// tells the first line with fewer than six fields, a score that is no number, or a document that was
/// retrieved before.
pub fn parse_run<'t>(file: &'t str, text: &'t [u8], version: Version) -> Run<&'t [u8], Places<'t>> {
    topics(file, text, version)
}

impl<'t> Retrieved<&'t [u8]> for Places<'t> {
    fn read(&self, add: &mut impl FnMut(&'t [u8], f64)) -> std::result::Result<(), Fault> {
        for (position, line, mut at) in self.lines() {
            let _q0 = field(line, &mut at);
            let document = field(line, &mut at);
            let _rank = field(line, &mut at);
            let score = field(line, &mut at);
            if field(line, &mut at).is_empty() {
                let n = count_fields(line);
                let reason = format!("expected 6 fields (topic Q0 document rank score tag), got {n}");
                return Err(Fault { position, reason });
            }
            let Some(value) = number(score) else {
                let reason = format!("score: expected a number, got '{}'", score.show());
                return Err(Fault { position, reason });
            };
            add(document, value);
        }
        Ok(())
    }

    fn position(&self, index: usize) -> usize {
        self.lines().nth(index).map_or(usize::MAX, |(place, ..)| place)
    }

    fn error(&self, fault: Fault) -> Error {
        self.line_error(fault.position, fault.reason)
    }
}

/// A decimal number; none for `nan`.
#[inline]
fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|x: &f64| !x.is_nan())
}

/// The tag of a run's last line, which trec_eval prints as `runid`.
pub fn run_tag(text: &[u8]) -> &[u8] {
    let mut lines = text.rsplit(|b| *b == b'\n');
    let last = lines.find(|line| count_fields(line) >= 6).unwrap_or_default();
    let mut at = 0;
    for _ in 0..5 {
        field(last, &mut at);
    }
    field(last, &mut at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::{EvaluateOptions, Measure, evaluate};

    fn qrels(text: &[u8]) -> Result<Qrels<&[u8], &[u8]>> {
        parse_qrels("f", text, Version::Nine)
    }

    /// What reading a run says.
    fn why(text: &[u8]) -> String {
        let run = parse_run("r", text, Version::Nine);
        let found = evaluate(&Qrels::new(), &run, &[], &EvaluateOptions::default());
        found.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn crlf_tabs_and_blank_lines() {
        let found = qrels(b"1\t0  d1 2\r\n\n \x0b\r\n 1 0 d2 -1\r\n2 0 d 1");
        assert_eq!(found.map(|q| (q[b"1".as_slice()].len(), q.len())), Ok((2, 2)));
    }

    #[test]
    fn bad_lines_are_named() {
        let bad = |text: &[u8]| qrels(text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(bad(b"1 0 d 1\n1 0 d\n").starts_with("f:2: expected 4 fields"));
        assert!(bad(b"1 0 d 1.5\n").starts_with("f:1: relevance"));
        assert!(bad(b"1 0 d 1\n1 0 d 0\n").starts_with("f:2: topic '1', document 'd': judged twice"));
        assert!(bad(b"2 0 d 1\n1 0 d x\n2 0 d 0\n").starts_with("f:2: relevance"), "the first bad line");
        assert!(why(b"1 Q0 d 1 nan x\n").starts_with("r:1: score"));
        assert!(why(b"1 Q0 d 1 0.5\n").starts_with("r:1: expected 6 fields (topic Q0"));
        assert!(why(b"1\n").starts_with("r:1: expected 6 fields (topic Q0 document rank score tag), got 1"));
        assert!(why(b"1 Q0 d 1 1 x\n1 Q0 d 2 2 x\n").starts_with("r:2: topic '1', document 'd': retrieved twice"));
        assert!(why(b"1 Q0 \xff 1 x x\n").starts_with("r:1: score"));
        assert_eq!(why(b"1 Q0 d 1 0.5 x and more\n"), "");
    }

    #[test]
    fn comments_are_those_of_version_10() {
        let text = b"# a comment\n1 0 d 1\n# 2 3 4\n";
        assert_eq!(parse_qrels("f", text, Version::Ten).map(|q| q.len()), Ok(1));
        assert!(qrels(text).is_err());
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
        let run = parse_run("r", &text, Version::Nine);
        let mut read = 0;
        for documents in run.values() {
            let mut last = f64::INFINITY;
            let add = &mut |_: &[u8], score: f64| {
                assert!(score < last, "the file's order is kept");
                last = score;
                read += 1;
            };
            assert!(documents.read(add).is_ok());
        }
        assert_eq!(read, lines as usize);
        let mut bad_last = text.clone();
        bad_last.extend(b"q1 Q0 d 1 high tag\n");
        assert!(why(&bad_last).starts_with("r:60001: score"), "{}", why(&bad_last));
        let mut twice = text.clone();
        twice.extend(b"q0 Q0 d0 1 0 tag\nq1 Q0 d 1 high tag\n");
        assert!(why(&twice).starts_with("r:60001: topic 'q0', document 'd0': retrieved twice"), "{}", why(&twice));
    }

    #[test]
    fn pieces_are_whole_lines() {
        let text = b"a\nbb\nccc\n\ndddd";
        for size in 1..20 {
            let pieces = whole_lines(text, size);
            assert_eq!(pieces.first().map(|p| p.start), Some(0));
            assert_eq!(pieces.last().map(|p| p.end), Some(text.len()));
            assert!(pieces.windows(2).all(|p| p[0].end == p[1].start && text[p[0].end - 1] == b'\n'));
        }
        assert!(whole_lines(b"", 4).is_empty());
    }

    #[test]
    fn the_tag_of_the_last_line() {
        assert_eq!(run_tag(b"1 Q0 d 1 1 first\n1 Q0 e 1 1 last more\n\n"), b"last");
        assert_eq!(run_tag(b""), b"");
    }

    #[test]
    fn a_topic_that_begins_like_another_is_another() {
        let run = parse_run("r", b"1 Q0 a 1 1 t\n10 Q0 a 1 1 t\n1 Q0 b 1 1 t\n", Version::Nine);
        assert_eq!(run.len(), 2);
        assert_eq!(evaluate(&Qrels::new(), &run, &[Measure::Map], &EvaluateOptions::default()).map(|_| ()), Ok(()));
    }
}
