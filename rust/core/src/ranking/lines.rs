//! Lines of TREC's files: fields, numbers, and where each topic's lines are. What is parsed borrows from the text.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::{memchr, memchr_iter};
use rayon::prelude::*;

use super::ranked::Read;
use super::{Fault, Version};
use crate::Error;

/// Bytes in which one thread looks for topics at a time.
pub(super) const CHUNK: usize = 1 << 20;

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

/// The fields of a line from `at` on.
pub(super) fn fields(text: &[u8], mut at: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || Some(field(text, &mut at)).filter(|f| !f.is_empty()))
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
    pub(super) fn each_line(&self, mut take: impl FnMut(usize, &'t [u8], &mut usize) -> Read) -> Read {
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
pub(super) fn whole_lines(text: &[u8], size: usize) -> Vec<Range<usize>> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
