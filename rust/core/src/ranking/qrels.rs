//! TREC's formats of judgments: of one judge, of several groups of judges, and preferences.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use super::lines::{Places, field, fields, number, topics};
use super::ranked::{Read, all_or_first};
use super::{Fault, Id, InOrder, Judgments, Qrels, Statement, Version};
use crate::Result;

/// Each topic's lines, read by `read`.
fn each_topic<'t, J: Send>(
    file: &'t str,
    text: &'t [u8],
    version: Version,
    read: impl Fn(&Places<'t>) -> Read<J> + Sync,
) -> Result<BTreeMap<&'t [u8], J>> {
    let places: Vec<Places<'t>> = topics(file, text, version).into_values().collect();
    let parsed: Vec<_> = places.par_iter().with_min_len(4).map(&read).collect();
    match all_or_first(parsed) {
        Ok(judged) => Ok(places.iter().map(|of| of.topic).zip(judged).collect()),
        Err((topic, fault)) => Err(places[topic].line_error(fault)),
    }
}

/// The `N` fields behind the topic's, of each line.
fn each_judgment<'t, const N: usize>(
    places: &Places<'t>,
    names: &str,
    mut take: impl FnMut(usize, [&'t [u8]; N]) -> Read,
) -> Read {
    places.each_line(|position, text, at| {
        let found = std::array::from_fn(|_| field(text, at));
        if found.last().is_none_or(|last| last.is_empty()) || !field(text, at).is_empty() {
            let n = fields(text, position).count();
            let swapped = if n == 6 { "; are judgments and run swapped?" } else { "" };
            let reason = format!("expected {} fields ({names}), got {n}{swapped}", N + 1);
            return Err(Fault::new(position, reason));
        }
        take(position, found)
    })
}

fn grade(position: usize, text: &[u8]) -> Read<i64> {
    let grade = std::str::from_utf8(text).ok().and_then(|s| s.parse().ok());
    let reason = || format!("relevance: expected an integer, got '{}'", text.show());
    grade.ok_or_else(|| Fault::new(position, reason()))
}

fn twice(topic: &[u8], document: &[u8]) -> String {
    format!("topic '{}', document '{}': judged twice", topic.show(), document.show())
}

/// Take in one topic's judgments.
fn judgments<'t>(places: &Places<'t>, mut add: impl FnMut(&'t [u8], i64) -> bool) -> Read {
    each_judgment(places, "topic iteration document relevance", |position, [_, document, relevance]| {
        let known = add(document, grade(position, relevance)?);
        let fault = || Fault::contradiction(position, twice(places.topic, document));
        if known { Err(fault()) } else { Ok(()) }
    })
}

/// `topic iteration document relevance`, one judgment a line.
///
/// # Errors
/// The first line with other than four fields, a relevance that is no integer, or a document judged
/// twice.
pub fn parse_qrels<'t>(file: &'t str, text: &'t [u8], version: Version) -> Result<Qrels<&'t [u8], &'t [u8]>> {
    each_topic(file, text, version, |places| {
        let mut judged = Judgments::default();
        judgments(places, |document, grade| judged.insert(document, grade).is_some())?;
        Ok(judged)
    })
}

/// Judgments as they stand in their file: topics in the order of their first lines.
///
/// # Errors
/// As [`parse_qrels`].
pub fn read_qrels<'t>(file: &'t str, text: &'t [u8], version: Version) -> Result<InOrder<'t, i64>> {
    let judged = each_topic(file, text, version, |places| {
        let (mut rows, mut known) = (Vec::new(), HashSet::new());
        judgments(places, |document, grade| {
            rows.push((document, grade));
            !known.insert(document)
        })?;
        Ok((places.first(), rows))
    })?;
    let mut topics: Vec<_> = judged.into_iter().collect();
    topics.sort_by_key(|(_, (first, _))| *first);
    Ok(topics.into_iter().map(|(topic, (_, rows))| (topic, rows)).collect())
}

/// The judgments of each group of judges, for each topic.
pub type GroupQrels<'t> = BTreeMap<&'t [u8], Vec<Judgments<&'t [u8]>>>;

/// `topic group document relevance`: judgments of several groups of judges, in the order of their names.
///
/// # Errors
/// As [`parse_qrels`]; a group may judge a document once.
pub fn parse_groups<'t>(file: &'t str, text: &'t [u8], version: Version) -> Result<GroupQrels<'t>> {
    each_topic(file, text, version, |places| {
        let mut groups: BTreeMap<&[u8], Judgments<&[u8]>> = BTreeMap::new();
        each_judgment(places, "topic group document relevance", |position, [group, document, text]| {
            match groups.entry(group).or_default().insert(document, grade(position, text)?) {
                Some(_) => Err(Fault::new(position, twice(places.topic, document))),
                None => Ok(()),
            }
        })?;
        Ok(groups.into_values().collect())
    })
}

/// The preferences of each topic.
pub type Preferences<'t> = BTreeMap<&'t [u8], Vec<Statement<&'t [u8]>>>;

/// `topic group subgroup document level`, or without `subgroups` `topic group document level`.
///
/// # Errors
/// The first line with another number of fields, or a level that is no number.
pub fn parse_preferences<'t>(
    file: &'t str,
    text: &'t [u8],
    subgroups: bool,
    version: Version,
) -> Result<Preferences<'t>> {
    each_topic(file, text, version, |places| {
        let mut found = Vec::new();
        let mut add = |position, group, subgroup, document, text: &[u8]| {
            let wrong = || format!("level: expected a number, got '{}'", text.show());
            let level = number(text).ok_or_else(|| Fault::new(position, wrong()))? as f32;
            found.push(Statement { group, subgroup, document, level });
            Ok(())
        };
        if subgroups {
            each_judgment(
                places,
                "topic group subgroup document level",
                |at, [group, subgroup, d, level]| add(at, group, subgroup, d, level),
            )?;
        } else {
            let none: &[u8] = b"";
            each_judgment(places, "topic group document level", |at, [group, d, level]| {
                add(at, group, none, d, level)
            })?;
        }
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qrels(text: &[u8]) -> Result<Qrels<&[u8], &[u8]>> {
        parse_qrels("f", text, Version::Nine)
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
        assert!(bad(b"1 0 d 7 1\n").starts_with("f:1: expected 4 fields"), "an id with a blank");
        assert!(bad(b"1 0 d 1.5\n").starts_with("f:1: relevance"));
        assert!(bad(b"1 0 d 1_0\n").starts_with("f:1: relevance"));
        assert!(bad(b"1 0 d 1\n1 0 d 0\n").starts_with("f:2: topic '1', document 'd': judged twice"));
        assert!(bad(b"2 0 d 1\n1 0 d x\n2 0 d 0\n").starts_with("f:2: relevance"), "the first bad line");
        assert!(bad(b"1 Q0 d 1 0.5 t\n").ends_with("got 6; are judgments and run swapped?"));
    }

    #[test]
    fn judgments_are_read_in_the_order_of_their_file() {
        let found = read_qrels("f", b"2 0 b 1\n1 0 z 0\n2 0 a 3\n", Version::Nine);
        let wanted: InOrder<'_, i64> = vec![(b"2", vec![(b"b", 1), (b"a", 3)]), (b"1", vec![(b"z", 0)])];
        assert_eq!(found, Ok(wanted));
    }

    #[test]
    fn comments_are_those_of_version_10() {
        let text = b"# a comment\n1 0 d 1\n# 2 3 4\n";
        assert_eq!(parse_qrels("f", text, Version::Ten).map(|q| q.len()), Ok(1));
        assert!(qrels(text).is_err());
    }

    #[test]
    fn groups_and_preferences() {
        let groups = parse_groups("f", b"1 b d 2\n1 a d 1\n1 a e 0\n", Version::Nine);
        assert_eq!(groups.map(|g| g[b"1".as_slice()].iter().map(|j| j.len()).collect()), Ok(vec![2, 1]));
        let twice = parse_groups("f", b"1 a d 1\n1 a d 1\n", Version::Nine).err().map(|e| e.to_string());
        assert!(twice.is_some_and(|why| why.starts_with("f:2: topic '1', document 'd': judged twice")));
        let found = parse_preferences("f", b"1 a s d 1.5\n", true, Version::Nine);
        let statement = Statement {
            group: b"a".as_slice(),
            subgroup: b"s".as_slice(),
            document: b"d".as_slice(),
            level: 1.5,
        };
        assert_eq!(found.map(|found| found[b"1".as_slice()].clone()), Ok(vec![statement]));
        assert!(parse_preferences("f", b"1 a d 1.5\n", false, Version::Nine).is_ok());
        assert!(parse_preferences("f", b"1 a d x\n", false, Version::Nine).is_err());
    }
}
