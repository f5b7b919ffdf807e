//! One topic's ranking, reduced to what measures need: the ranks of the judged documents.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

use foldhash::fast::FixedState;

use super::Version;
use crate::Error;

/// What names topics and documents: bytes of text, or numbers. Order decides ties.
pub trait Id: Copy + Ord + Hash + Debug + Send + Sync {
    /// For messages.
    fn show(&self) -> String;
}

impl Id for &[u8] {
    fn show(&self) -> String {
        String::from_utf8_lossy(self).into_owned()
    }
}

impl Id for i64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

/// Judgments of one topic: document → relevance.
pub type Judgments<D> = HashMap<D, i64, FixedState>;

/// Something wrong with one of a topic's documents.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fault {
    /// Where in the source: the first fault of a run is the one that is told.
    pub position: usize,
    /// What is wrong.
    pub reason: String,
    /// Whether it contradicts something before, rather than being malformed itself.
    pub contradicts: bool,
}

impl Fault {
    /// Something malformed.
    pub fn new(position: usize, reason: String) -> Self {
        Fault { position, reason, contradicts: false }
    }

    /// Something that contradicts what came before it.
    pub fn contradiction(position: usize, reason: String) -> Self {
        Fault { position, reason, contradicts: true }
    }

    /// The error with this text.
    pub(super) fn told(&self, text: String) -> Error {
        if self.contradicts { Error::Contradiction(text) } else { Error::Argument(text) }
    }
}

/// What was read, or the first fault in it.
pub(super) type Read<T = ()> = Result<T, Fault>;

/// All parts, or the fault that comes first in the source, with the number of its part.
pub(super) fn all_or_first<T>(parts: Vec<Result<T, Fault>>) -> Result<Vec<T>, (usize, Fault)> {
    let mut good = Vec::with_capacity(parts.len());
    let mut first: Option<(usize, Fault)> = None;
    for (i, part) in parts.into_iter().enumerate() {
        match part {
            Ok(part) => good.push(part),
            Err(fault) if first.as_ref().is_none_or(|(_, known)| fault.position < known.position) => {
                first = Some((i, fault));
            }
            Err(_) => {}
        }
    }
    first.map_or(Ok(good), Err)
}

/// Where a topic's retrieved documents are read from.
pub trait Retrieved<D>: Sync {
    /// Hand over every document with its score, in any order.
    ///
    /// # Errors
    /// The first document that cannot be read.
    fn read(&self, add: &mut impl FnMut(D, f64)) -> Result<(), Fault>;

    /// Where in the source the document is that was handed over as number `index`.
    fn position(&self, index: usize) -> usize {
        index
    }

    /// What to tell about a fault.
    fn error(&self, fault: Fault) -> Error {
        fault.told(format!("run: {}", fault.reason))
    }
}

impl<D: Id> Retrieved<D> for Vec<(D, f64)> {
    fn read(&self, add: &mut impl FnMut(D, f64)) -> Result<(), Fault> {
        self.iter().for_each(|(document, score)| add(*document, *score));
        Ok(())
    }
}

/// One topic's ranking, reduced to what measures need.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ranked {
    /// Ranks (from 0) and judgments of the judged documents that were retrieved, by rank.
    pub hits: Vec<(usize, i64)>,
    /// Retrieved documents.
    pub num_ret: usize,
    /// All judgments of the topic but those below 0, highest first.
    pub grades: Vec<i64>,
    /// Retrieved documents that share their score with another, if they were counted.
    pub num_tied: usize,
}

impl Ranked {
    pub(super) fn new<D>(hits: Vec<(usize, i64)>, num_ret: usize, judged: &Judgments<D>) -> Self {
        let mut grades: Vec<i64> = judged.values().copied().filter(|grade| *grade >= 0).collect();
        grades.sort_unstable_by(|x, y| y.cmp(x));
        Ranked { hits, num_ret, grades, num_tied: 0 }
    }

    /// The grades above 0, highest first: the ideal ranking.
    pub fn ideal(&self) -> &[i64] {
        &self.grades[..self.grades.partition_point(|grade| *grade > 0)]
    }

    /// The ranking of the documents that are judged, as if no other had been retrieved.
    pub(super) fn judged_only(&self) -> Self {
        let judged = self.hits.iter().map(|(_, grade)| *grade).filter(|grade| *grade >= 0);
        let hits: Vec<(usize, i64)> = judged.enumerate().collect();
        Ranked { num_ret: hits.len(), hits, ..self.clone() }
    }

    /// With documents relevant from this grade on, of a collection of this size.
    pub fn at(&self, relevance_level: i64, collection_size: i64, version: Version) -> AtLevel<'_> {
        let num_rel = self.grades.partition_point(|grade| *grade >= relevance_level);
        let num_nonrel = self.grades.len() - num_rel;
        AtLevel { ranked: self, relevance_level, num_rel, num_nonrel, collection_size, version }
    }

    /// What the first `length` documents are, a character each: the grade (`>` above 9), `.` for a
    /// judgment below 0, `-` for none.
    pub(super) fn relevance_string(&self, length: usize) -> String {
        let mut text = vec!['-'; self.num_ret.min(length)];
        for (rank, grade) in self.hits.iter().take_while(|(rank, _)| *rank < length) {
            text[*rank] = match u32::try_from(*grade) {
                Ok(digit) => char::from_digit(digit, 10).unwrap_or('>'),
                Err(_) if *grade < 0 => '.',
                Err(_) => '>',
            };
        }
        text.into_iter().collect()
    }
}

/// A topic's ranking with documents relevant from some grade on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AtLevel<'r> {
    /// The ranking.
    pub ranked: &'r Ranked,
    /// Judgments of at least this are relevant.
    pub relevance_level: i64,
    /// Relevant documents of the topic.
    pub num_rel: usize,
    /// Judged non-relevant documents of the topic.
    pub num_nonrel: usize,
    /// Documents of the collection, for measures that count those that were rightly left out.
    pub collection_size: i64,
    /// Whose rules hold.
    pub version: Version,
}

impl AtLevel<'_> {
    /// Ranks of the relevant documents, from 0.
    pub(super) fn relevant(&self) -> impl Iterator<Item = usize> {
        self.ranked.hits.iter().filter(|(_, grade)| *grade >= self.relevance_level).map(|(rank, _)| *rank)
    }

    /// Relevant documents among the first `k`.
    pub(super) fn relevant_before(&self, k: usize) -> usize {
        self.relevant().take_while(|rank| *rank < k).count()
    }

    /// Relevant documents retrieved.
    pub(super) fn num_rel_ret(&self) -> usize {
        self.relevant().count()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ranking::scratch::{Ranking, Scratch};

    /// A ranking of documents with text ids.
    pub fn ranked(judged: &[(&str, i64)], run: &[(&str, f64)], single: bool) -> Ranked {
        let judged: Judgments<&[u8]> = judged.iter().map(|(d, r)| (d.as_bytes(), *r)).collect();
        let run: Vec<(&[u8], f64)> = run.iter().map(|(d, s)| (d.as_bytes(), *s)).collect();
        let mut scratch = Scratch::default();
        scratch.read(&0, &run, single).unwrap_or_else(|f| panic!("{f:?}"));
        scratch.rank(&judged, &Ranking { single, max_documents: usize::MAX, ties: true })
    }

    /// Relevant from grade 1 on.
    pub fn at(ranked: &Ranked) -> AtLevel<'_> {
        ranked.at(1, 0, Version::Nine)
    }

    #[test]
    fn what_the_first_documents_are() {
        let judged = [("a", 1), ("b", 0), ("c", -1), ("d", 12), ("e", 9)];
        let run = [("a", 9.0), ("b", 8.0), ("x", 7.0), ("c", 6.0), ("d", 5.0), ("e", 4.0)];
        let ranked = ranked(&judged, &run, true);
        assert_eq!([9, 3, 0].map(|n| ranked.relevance_string(n)), ["10-.>9", "10-", ""]);
        assert_eq!(ranked.judged_only().hits, [(0, 1), (1, 0), (2, 12), (3, 9)]);
        assert_eq!(ranked.judged_only().num_ret, 4);
        let counts = |level| {
            let at = ranked.at(level, 0, Version::Nine);
            (at.num_rel, at.num_nonrel)
        };
        assert_eq!((counts(1), counts(10)), ((3, 1), (1, 3)));
    }
}
