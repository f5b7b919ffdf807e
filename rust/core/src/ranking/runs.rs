//! TREC's runs. What is parsed borrows from the text.

use rayon::prelude::*;

use super::lines::{Places, field, fields, number, topics};
use super::ranked::{Read, all_or_first};
use super::scratch::Scratch;
use super::{Fault, Id, InOrder, Retrieved, Run, Version};
use crate::{Error, Result};

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
    fn read(&self, add: &mut impl FnMut(&'t [u8], f64)) -> Read {
        self.each_line(|position, text, at| {
            let _q0 = field(text, at);
            let document = field(text, at);
            let _rank = field(text, at);
            let score = field(text, at);
            let tag = field(text, at);
            if tag.is_empty() {
                let n = fields(text, position).count();
                let swapped = if n == 4 { "; are judgments and run swapped?" } else { "" };
                let reason =
                    format!("expected 6 fields (topic Q0 document rank score tag), got {n}{swapped}");
                return Err(Fault::new(position, reason));
            }
            let Some(value) = number(score) else {
                let reason = format!("score: expected a number, got '{}'", score.show());
                return Err(Fault::new(position, reason));
            };
            // What follows the tag is ignored, but not what an id with blanks leaves behind: a number as tag, or rank and
            // score before the last field.
            if !field(text, at).is_empty() && (number(tag).is_some() || ends_like_a_result(text, position)) {
                let n = fields(text, position).count();
                let reason = format!("expected 6 fields, got {n}; does an id have a blank in it?");
                return Err(Fault::new(position, reason));
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

/// Whether two numbers stand before the last field of a line.
fn ends_like_a_result(text: &[u8], at: usize) -> bool {
    let last = fields(text, at).fold([&b""[..]; 3], |[_, rank, score], tag| [rank, score, tag]);
    number(last[0]).is_some() && number(last[1]).is_some()
}

/// The tag of a run's last line, which trec_eval prints as `runid`.
pub fn run_tag(text: &[u8]) -> &[u8] {
    text.rsplit(|b| *b == b'\n').find_map(|line| fields(line, 0).nth(5)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::lines::{CHUNK, whole_lines};
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
        // Ids with blanks, wherever numbers stand in them.
        for line in [
            "1 Q0 d 1 1 0.5 x",
            "q 1 Q0 d 1 0.5 x",
            "1 Q0 a 2 x 1 0.5 t",
            "1 Q0 a x 3 y 1 0.5 t",
            "1 Q0 a 2 3 y 1 0.5 t",
        ] {
            assert!(why(line.as_bytes()).starts_with("r:1: "), "{line}");
        }
        assert!(why(b"1 Q0 a 2 3 y 1 0.5 t\n").ends_with("got 9; does an id have a blank in it?"));
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
