//! TREC's text formats. What is parsed borrows from the text.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::{memchr, memchr_iter};
use rayon::prelude::*;

use super::ranked::all_or_first;
use super::scratch::Scratch;
use super::{Fault, Id, InOrder, Retrieved, Run, Version};
use crate::{Error, Result};

/// Bytes in which one thread looks for topics at a time.
const CHUNK: usize = 1 << 20;

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t' || (11..=13).contains(&byte)
}

/// Where the field that `at` is in ends: at a blank, the line's end or the text's.
#[inline]
fn field_end(text: &[u8], mut at: usize) -> usize {
    const ALL: u64 = 0x0101_0101_0101_0101;
    loop {
        if let Some(eight) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let bytes = u64::from_le_bytes(*eight);
            // The lowest set bit marks the first byte below '!'; few of those are no blanks.
            let low = bytes.wrapping_sub(0x21 * ALL) & !bytes & (0x80 * ALL);
            if low == 0 {
                at += 8;
                continue;
            }
            at += low.trailing_zeros() as usize / 8;
        }
        match text.get(at) {
            Some(byte) if *byte != b'\n' && !is_blank(*byte) => at += 1,
            _ => return at,
        }
    }
}

/// The next field of a line from `at` on, which moves behind it; empty where none is left.
#[inline]
pub(super) fn field<'t>(text: &'t [u8], at: &mut usize) -> &'t [u8] {
    let mut start = *at;
    while text.get(start).is_some_and(|b| is_blank(*b)) {
        start += 1;
    }
    *at = field_end(text, start);
    &text[start..*at]
}

/// Where the line that `at` is in ends.
#[inline]
fn line_end(text: &[u8], at: usize) -> usize {
    match text.get(at) {
        Some(b'\n') => at,
        Some(_) => memchr(b'\n', &text[at..]).map_or(text.len(), |length| at + length),
        None => text.len(),
    }
}

pub(super) fn count_fields(text: &[u8], mut at: usize) -> usize {
    std::iter::from_fn(|| Some(field(text, &mut at)).filter(|f| !f.is_empty())).count()
}

/// The places of one topic's lines in a file.
#[derive(Clone, Debug)]
pub struct Places<'t> {
    file: &'t str,
    text: &'t [u8],
    pub(super) topic: &'t [u8],
    ranges: Vec<Range<usize>>,
    version: Version,
}

impl<'t> Places<'t> {
    /// The place of the first line from `at` on that is neither blank nor a comment; `at` moves behind its
    /// first field.
    #[inline]
    fn next_line(&self, text: &'t [u8], at: &mut usize) -> Option<usize> {
        while *at < text.len() {
            let place = *at;
            if same_topic(text, place, self.topic) {
                *at += self.topic.len();
                return Some(place);
            }
            if !field(text, at).is_empty() && !is_comment(&text[place..], self.version) {
                return Some(place);
            }
            *at = line_end(text, *at) + 1;
        }
        None
    }

    /// Hand over the place of each line that is neither blank nor a comment, the text up to the end of
    /// its range, and where to read its second field.
    #[inline]
    pub(super) fn each_line(
        &self,
        mut take: impl FnMut(usize, &'t [u8], &mut usize) -> std::result::Result<(), Fault>,
    ) -> std::result::Result<(), Fault> {
        for range in &self.ranges {
            let text = &self.text[..range.end];
            let mut at = range.start;
            while let Some(place) = self.next_line(text, &mut at) {
                take(place, text, &mut at)?;
                at = line_end(text, at) + 1;
            }
        }
        Ok(())
    }

    /// Where the topic's first line is.
    pub(super) fn first(&self) -> usize {
        self.ranges.first().map_or(0, |range| range.start)
    }

    pub(super) fn line_error(&self, fault: Fault) -> Error {
        // A mapped file may have changed since the place was found.
        let before = self.text.get(..fault.position).unwrap_or(self.text);
        let line = 1 + memchr_iter(b'\n', before).count();
        if fault.contradicts {
            return Error::Contradiction(format!("{}:{line}: {}", self.file, fault.reason));
        }
        Error::Line { file: self.file.into(), line, reason: fault.reason }
    }
}

/// Whether the line at `at` begins with this topic.
#[inline]
fn same_topic(text: &[u8], at: usize, topic: &[u8]) -> bool {
    // Compared byte by byte: topics are too short for a call.
    text.get(at..at + topic.len()).is_some_and(|field| field.iter().zip(topic).all(|(x, y)| x == y))
        && text.get(at + topic.len()).is_some_and(|b| is_blank(*b))
}

fn is_comment(line: &[u8], version: Version) -> bool {
    version == Version::Ten && line.first() == Some(&b'#')
}

/// Each topic's places in a file. Lines are not looked at beyond their first field.
pub(super) fn topics<'t>(file: &'t str, text: &'t [u8], version: Version) -> BTreeMap<&'t [u8], Places<'t>> {
    let chunks = whole_lines(text, CHUNK);
    let found: Vec<Vec<(&[u8], Range<usize>)>> =
        { chunks.par_iter().map(|chunk| segments(&text[..chunk.end], chunk.start, version)).collect() };
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
    let mut place = start;
    let ends = memchr_iter(b'\n', &text[start..]).map(|at| start + at + 1);
    let last = (!text.ends_with(b"\n")).then_some(text.len());
    for end in ends.chain(last) {
        let line = std::mem::replace(&mut place, end);
        match found.last_mut() {
            Some((topic, range)) if same_topic(text, line, topic) => range.end = end,
            last => {
                let topic = field(text, &mut { line });
                let nothing = topic.is_empty() || is_comment(&text[line..], version);
                match last {
                    // A blank line or a comment belongs to whatever surrounds it.
                    Some((before, range)) if nothing || topic == *before => range.end = end,
                    _ if nothing => {}
                    _ => found.push((topic, line..end)),
                }
            }
        }
    }
    found
}

/// What some editors write at the head of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text in pieces of about `size` bytes that end with a line, without a byte order mark.
fn whole_lines(text: &[u8], size: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    while start < text.len() {
        let least = (start + size).min(text.len());
        let end = memchr(b'\n', &text[least..]).map_or(text.len(), |at| least + at + 1);
        pieces.push(start..end);
        start = end;
    }
    pieces
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

/// A run as it stands in its file: topics in the order of their first lines, with documents and scores.
///
/// # Errors
/// The first line that cannot be read, or a document that was retrieved before.
pub fn read_run<'t>(file: &'t str, text: &'t [u8], version: Version) -> Result<InOrder<'t, f64>> {
    let run = parse_run(file, text, version);
    let mut places: Vec<&Places<'t>> = run.values().collect();
    places.sort_by_key(|places| places.first());
    let read: Vec<_> = {
        let places = places.par_iter().with_min_len(4);
        let read = places.map_init(Scratch::default, |scratch, places| {
            scratch.read(&places.topic, *places, false)?;
            Ok((places.topic, scratch.documents().collect()))
        });
        read.collect()
    };
    all_or_first(read).map_err(|(topic, fault)| places[topic].error(fault))
}

impl<'t> Retrieved<&'t [u8]> for Places<'t> {
    fn read(&self, add: &mut impl FnMut(&'t [u8], f64)) -> std::result::Result<(), Fault> {
        self.each_line(|position, text, at| {
            let _q0 = field(text, at);
            let document = field(text, at);
            let _rank = field(text, at);
            let score = field(text, at);
            let tag = field(text, at);
            if tag.is_empty() {
                let n = count_fields(text, position);
                let swapped = if n == 4 { "; are judgments and run swapped?" } else { "" };
                let reason =
                    format!("expected 6 fields (topic Q0 document rank score tag), got {n}{swapped}");
                return Err(Fault::new(position, reason));
            }
            let Some(value) = number(score) else {
                let reason = format!("score: expected a number, got '{}'", score.show());
                return Err(Fault::new(position, reason));
            };
            // What follows the tag is ignored, but where a number stands for the tag, a field came too many before.
            if !field(text, at).is_empty() && number(tag).is_some() {
                let n = count_fields(text, position);
                let reason = "with a number as tag; does an id have a blank in it?";
                return Err(Fault::new(position, format!("expected 6 fields, got {n} {reason}")));
            }
            add(document, value);
            Ok(())
        })
    }

    fn position(&self, index: usize) -> usize {
        let mut places = Vec::new();
        // Nothing here can fail.
        let _ = self.each_line(|place, _, _| {
            places.push(place);
            Ok(())
        });
        places.get(index).copied().unwrap_or(usize::MAX)
    }

    fn error(&self, fault: Fault) -> Error {
        self.line_error(fault)
    }
}

/// A decimal number; none for `nan`.
#[inline]
pub(super) fn number(text: &[u8]) -> Option<f64> {
    plain_number(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok()).filter(|x: &f64| !x.is_nan())
}

/// A number of at most fifteen digits without exponent: it and the power of ten that divides it are
/// doubles, so their quotient is the double nearest to the number.
#[inline]
fn plain_number(text: &[u8]) -> Option<f64> {
    const TENS: [f64; 16] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let (mut mantissa, mut point) = (0u64, None);
    if digits.len() > 16 {
        return None;
    }
    for (i, byte) in digits.iter().enumerate() {
        match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => mantissa = mantissa * 10 + u64::from(digit),
            _ if *byte == b'.' && point.is_none() => point = Some(i),
            _ => return None,
        }
    }
    let whole = digits.len() - usize::from(point.is_some());
    if whole == 0 || whole > 15 {
        return None;
    }
    let size = mantissa as f64 / TENS[point.map_or(0, |at| digits.len() - 1 - at)];
    Some(if negative { -size } else { size })
}

/// The tag of a run's last line, which trec_eval prints as `runid`.
pub fn run_tag(text: &[u8]) -> &[u8] {
    let mut lines = text.rsplit(|b| *b == b'\n');
    let last = lines.find(|line| count_fields(line, 0) >= 6).unwrap_or_default();
    let mut at = 0;
    for _ in 0..5 {
        field(last, &mut at);
    }
    field(last, &mut at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::{EvaluateOptions, Formula, Measure, Qrels, evaluate};

    /// What reading a run says.
    fn why(text: &[u8]) -> String {
        let run = parse_run("r", text, Version::Nine);
        let found = evaluate(&Qrels::new(), &run, &[], &EvaluateOptions::default());
        found.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn bad_lines_are_named() {
        assert!(why(b"1 Q0 d 1 nan x\n").starts_with("r:1: score"));
        assert!(why(b"1 Q0 d 1 0.5\n").starts_with("r:1: expected 6 fields (topic Q0"));
        assert!(why(b"1\n").starts_with("r:1: expected 6 fields (topic Q0 document rank score tag), got 1"));
        assert!(
            why(b"1 Q0 d 1 1 x\n1 Q0 d 2 2 x\n").starts_with("r:2: topic '1', document 'd': retrieved twice")
        );
        assert!(why(b"1 Q0 \xff 1 x x\n").starts_with("r:1: score"));
        assert_eq!(why(b"1 Q0 d 1 0.5 x and more\n"), "");
        assert_eq!(why(b"1 Q0 d 1 0.5 2024\n"), "");
        assert!(why(b"1 Q0 d 1 1 0.5 x\n").starts_with("r:1: expected 6 fields, got 7 with a number as tag"));
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
        assert!(
            why(&twice).starts_with("r:60001: topic 'q0', document 'd0': retrieved twice"),
            "{}",
            why(&twice)
        );
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
    fn numbers_are_those_of_the_standard_library() {
        for text in [
            "0",
            "-0",
            "1.5",
            "-12.25",
            "0.1",
            "123456789012345",
            "0.123456789012345",
            ".5",
            "5.",
            "1e5",
            "-1E-300",
            "inf",
            "0.30000000000000004",
            "1234567890123456789",
            "+7",
            "000000000000000000.5",
        ] {
            let wanted: f64 = text.parse().unwrap_or(f64::NAN);
            assert_eq!(number(text.as_bytes()).map(f64::to_bits), Some(wanted.to_bits()), "{text}");
        }
        for i in 0..100_000u64 {
            let text = format!("{}.{:06}", i * 7919 % 1000, i * 104_729 % 1_000_000);
            assert_eq!(number(text.as_bytes()), text.parse().ok(), "{text}");
        }
        for text in ["", "-", ".", "1.2.3", "nan", "1,5", "0x1p3", "--1", "\u{e9}"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn fields_end_at_blanks_alone() {
        let text = b"a\x01b\x1fc\xff\xfe123456789 next\tx\x0by\n z";
        let mut at = 0;
        assert_eq!(field(text, &mut at), b"a\x01b\x1fc\xff\xfe123456789");
        assert_eq!(
            [field(text, &mut at), field(text, &mut at), field(text, &mut at)],
            [&b"next"[..], b"x", b"y"]
        );
        assert_eq!(field(text, &mut at), b"", "the line ends here");
    }

    #[test]
    fn the_tag_of_the_last_line() {
        assert_eq!(run_tag(b"1 Q0 d 1 1 first\n1 Q0 e 1 1 last more\n\n"), b"last");
        assert_eq!(run_tag(b""), b"");
    }

    #[test]
    fn a_run_is_read_in_the_order_of_its_file() {
        let text = b"2 Q0 b 1 1 t\n1 Q0 z 1 0.1 t\n2 Q0 a 2 3 t\n";
        let wanted: InOrder<'_, f64> =
            vec![(b"2", vec![(b"b", 1.0), (b"a", 3.0)]), (b"1", vec![(b"z", 0.1)])];
        assert_eq!(read_run("r", text, Version::Nine), Ok(wanted));
        let twice = read_run("r", b"2 Q0 b 1 1 t\n2 Q0 b 1 1 t\n", Version::Nine);
        assert!(twice.err().is_some_and(|e| e.to_string().starts_with("r:2: topic '2', document 'b'")));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_topic() {
        let run = parse_run("r", b"\xef\xbb\xbf1 Q0 a 1 1 t\n", Version::Nine);
        assert_eq!(run.into_keys().collect::<Vec<_>>(), [b"1"]);
    }

    #[test]
    fn a_topic_that_begins_like_another_is_another() {
        let run = parse_run("r", b"1 Q0 a 1 1 t\n10 Q0 a 1 1 t\n1 Q0 b 1 1 t\n", Version::Nine);
        assert_eq!(run.len(), 2);
        assert_eq!(
            evaluate(&Qrels::new(), &run, &[Measure::new("q", Formula::NumQ)], &EvaluateOptions::default())
                .map(|found| found.topics.len()),
            Ok(0)
        );
    }
}
