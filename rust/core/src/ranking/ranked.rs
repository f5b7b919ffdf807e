//! From retrieved documents and judgments to the ranks of the judged ones, which is all that
//! measures need.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};

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

/// How scores and ranks are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranking {
    /// Scores are rounded to single precision before they are compared.
    pub single: bool,
    pub max_documents: usize,
    /// Whether documents that share their score are counted.
    pub ties: bool,
}

/// Memory for one topic, used again for the next.
#[derive(Debug)]
pub(super) struct Scratch<D> {
    documents: Vec<D>,
    hashes: Vec<u64>,
    scores: Vec<f64>,
    seen: Seen,
}

impl<D> Default for Scratch<D> {
    fn default() -> Self {
        Scratch { documents: Vec::new(), hashes: Vec::new(), scores: Vec::new(), seen: Seen::default() }
    }
}

const TWICE: &str = "retrieved twice";

fn hash(document: &impl Hash) -> u64 {
    FixedState::default().hash_one(document)
}

/// Finds documents that come twice: a table of places that need not be cleared for the next topic, as
/// each remembers in which round it was taken.
#[derive(Debug, Default)]
struct Seen {
    places: Vec<(u32, u32)>,
    round: u32,
}

impl Seen {
    fn first_repeated<D: PartialEq>(&mut self, documents: &[D], hashes: &[u64]) -> Option<usize> {
        // At most a quarter is taken, so that few look further than one place.
        let wanted = (4 * documents.len()).next_power_of_two();
        if self.places.len() < wanted || self.round == u32::MAX {
            self.places.clear();
            self.places.resize(wanted, (0, 0));
            self.round = 0;
        }
        self.round += 1;
        let mask = self.places.len() - 1;
        for (i, (document, hash)) in documents.iter().zip(hashes).enumerate() {
            let mut at = *hash as usize & mask;
            loop {
                let (round, other) = self.places[at];
                if round != self.round {
                    self.places[at] = (self.round, i as u32);
                    break;
                }
                if hashes[other as usize] == *hash && documents[other as usize] == *document {
                    return Some(i);
                }
                at = (at + 1) & mask;
            }
        }
        None
    }
}

/// Tells most documents apart that are not judged, by a bit of their hash.
struct Sieve([u64; 64]);

impl Sieve {
    fn new<'d, D: Hash + 'd>(judged: impl Iterator<Item = &'d D>) -> Self {
        let mut bits = [0; 64];
        judged.map(hash).for_each(|h| bits[(h >> 52) as usize / 64] |= 1 << (h >> 52 & 63));
        Sieve(bits)
    }

    fn may_have(&self, hash: u64) -> bool {
        self.0[(hash >> 52) as usize / 64] >> (hash >> 52 & 63) & 1 == 1
    }
}

impl<D: Id> Scratch<D> {
    /// Take a topic's documents in.
    ///
    /// # Errors
    /// A document that cannot be read, has a score that is no number, or comes twice.
    pub fn read(&mut self, topic: &impl Id, from: &impl Retrieved<D>, single: bool) -> Result<(), Fault> {
        self.documents.clear();
        self.scores.clear();
        self.hashes.clear();
        let (documents, scores, hashes) = (&mut self.documents, &mut self.scores, &mut self.hashes);
        let outcome = from.read(&mut |document, score| {
            documents.push(document);
            hashes.push(hash(&document));
            scores.push(if single { f64::from(score as f32) } else { score });
        });
        if u32::try_from(documents.len()).is_err() {
            let reason = format!("topic '{}': {} documents, more than can be", topic.show(), documents.len());
            return Err(Fault::new(from.position(0), reason));
        }
        let twice = self.seen.first_repeated(documents, hashes);
        let nan = scores.iter().position(|s| s.is_nan());
        let fault = match (twice, nan) {
            (None, None) => return outcome,
            (Some(at), nan) if nan.is_none_or(|n| at <= n) => (at, TWICE),
            (_, Some(at)) | (Some(at), None) => (at, "the score is not a number"),
        };
        let (at, what) = fault;
        let reason = format!("topic '{}', document '{}': {what}", topic.show(), documents[at].show());
        let make = if what == TWICE { Fault::contradiction } else { Fault::new };
        Err(make(from.position(at), reason))
    }

    /// What was read, in that order.
    pub fn documents(&self) -> impl Iterator<Item = (D, f64)> {
        self.documents.iter().copied().zip(self.scores.iter().copied())
    }

    /// Rank what was read as trec_eval does: by score, ties by id, both descending.
    pub fn rank(&self, judged: &Judgments<D>, how: &Ranking) -> Ranked {
        let sieve = Sieve::new(judged.keys());
        let candidates = self.hashes.iter().enumerate().filter(|(_, hash)| sieve.may_have(**hash));
        let mut hits: Vec<(usize, i64)> =
            candidates.filter_map(|(i, _)| Some((i, *judged.get(&self.documents[i])?))).collect();
        if !self.in_order() {
            self.ranks(&mut hits);
            hits.sort_unstable();
        }
        hits.truncate(hits.partition_point(|(rank, _)| *rank < how.max_documents));
        let num_ret = self.documents.len().min(how.max_documents);
        let num_tied = if how.ties { self.num_tied() } else { 0 };
        Ranked { num_tied, ..Ranked::new(hits, num_ret, judged) }
    }

    /// The documents by score, of which ties go to the lower id, as where trec_eval ranks for preferences.
    pub fn ranking_by_ascending_ids(&self, how: &Ranking) -> Vec<D> {
        let mut order: Vec<usize> = (0..self.documents.len()).collect();
        order.sort_unstable_by(|&i, &j| {
            let (x, y) = (self.scores[i], self.scores[j]);
            // Zeros of both signs are equal; there is no NaN.
            y.partial_cmp(&x)
                .unwrap_or(Ordering::Equal)
                .then_with(|| self.documents[i].cmp(&self.documents[j]))
        });
        order.into_iter().take(how.max_documents).map(|i| self.documents[i]).collect()
    }

    fn num_tied(&self) -> usize {
        let mut scores = self.scores.clone();
        scores.sort_unstable_by(f64::total_cmp);
        scores.chunk_by(|x, y| x == y).map(<[f64]>::len).filter(|n| *n > 1).sum()
    }

    /// Whether document `i` comes before `j`.
    fn before(&self, i: usize, j: usize) -> bool {
        let (x, y) = (self.scores[i], self.scores[j]);
        x > y || (x == y && self.documents[i] > self.documents[j])
    }

    /// Runs are most often written in order: then places are ranks.
    fn in_order(&self) -> bool {
        (1..self.documents.len()).all(|i| self.before(i - 1, i))
    }

    /// Places become ranks: for a few documents by counting those before each, else by sorting all.
    fn ranks(&self, hits: &mut [(usize, i64)]) {
        let n = self.documents.len();
        // A comparison of a sort costs about as much as counting over sixty scores.
        if hits.len() < 60 * n.ilog2() as usize {
            for (place, _) in hits {
                let score = self.scores[*place];
                let (mut higher, mut equal) = (0usize, 0usize);
                for s in &self.scores {
                    higher += usize::from(*s > score);
                    equal += usize::from(*s == score);
                }
                if equal > 1 {
                    let document = self.documents[*place];
                    let tied = self.scores.iter().zip(&self.documents);
                    higher += tied.filter(|(s, d)| **s == score && **d > document).count();
                }
                *place = higher;
            }
            return;
        }
        // With their scores beside them, as looking them up would take longer than comparing.
        let mut order: Vec<(f64, usize)> = self.scores.iter().copied().zip(0..n).collect();
        order.sort_unstable_by(|&(x, i), &(y, j)| match y.partial_cmp(&x) {
            Some(Ordering::Equal) | None => self.documents[j].cmp(&self.documents[i]),
            Some(unequal) => unequal,
        });
        let mut rank_of = vec![0; n];
        order.iter().enumerate().for_each(|(rank, (_, place))| rank_of[*place] = rank);
        hits.iter_mut().for_each(|(place, _)| *place = rank_of[*place]);
    }
}

/// One topic's ranking, reduced to what measures need.
#[derive(Clone, Debug, PartialEq)]
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
    fn new<D>(hits: Vec<(usize, i64)>, num_ret: usize, judged: &Judgments<D>) -> Self {
        let mut grades: Vec<i64> = judged.values().copied().filter(|grade| *grade >= 0).collect();
        grades.sort_unstable_by(|x, y| y.cmp(x));
        Ranked { hits, num_ret, grades, num_tied: 0 }
    }

    /// A topic without results.
    pub(super) fn nothing<D>(judged: &Judgments<D>) -> Self {
        Ranked::new(Vec::new(), 0, judged)
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

    #[test]
    fn ties_go_to_the_higher_id_and_scores_are_single() {
        let near = [("b", 0.1), ("a", 0.1 + 1e-12)];
        assert_eq!(ranked(&[("a", 1)], &near, true).hits, [(1, 1)]);
        assert_eq!(ranked(&[("a", 1)], &near, false).hits, [(0, 1)], "doubles are told apart");
        assert_eq!(ranked(&[("b", 1)], &[("a", 0.0), ("b", -0.0)], true).hits, [(0, 1)]);
        assert_eq!([true, false].map(|single| ranked(&[], &near, single).num_tied), [2, 0]);
        assert_eq!(ranked(&[], &[("a", -0.0), ("b", 0.0), ("c", 1.0)], false).num_tied, 2);
    }

    #[test]
    fn counting_and_sorting_give_the_same_ranks() {
        // Few documents are judged, then all are; scores collide often.
        let run: Vec<(i64, f64)> = (0..5000).map(|i| (i * 7919 % 5000, (i * 31 % 97) as f64)).collect();
        let how = Ranking { single: true, max_documents: usize::MAX, ties: true };
        let mut scratch = Scratch::default();
        scratch.read(&0, &run, true).unwrap_or_else(|f| panic!("{f:?}"));
        let few: Judgments<i64> = (0..50).map(|d| (d * 99, d)).collect();
        let all: Judgments<i64> = (0..5000).map(|d| (d, if d % 99 == 0 { d / 99 } else { -5 })).collect();
        let mut counted = scratch.rank(&few, &how).hits;
        let sorted = scratch.rank(&all, &how).hits;
        assert_eq!(sorted.len(), 5000);
        assert!(sorted.iter().enumerate().all(|(i, (rank, _))| i == *rank));
        let mut wanted: Vec<_> = sorted.into_iter().filter(|(_, g)| (0..50).contains(g)).collect();
        wanted.sort_unstable();
        counted.sort_unstable();
        assert_eq!(counted, wanted);
    }

    #[test]
    fn repeats_are_found_in_every_round() {
        let mut seen = Seen::default();
        // Hashes that collide must not hide or invent a repeat.
        for round in 0..5 {
            let documents: Vec<i64> = (0..100).map(|i| i + round).collect();
            let hashes: Vec<u64> = documents.iter().map(|d| *d as u64 / 10).collect();
            assert_eq!(seen.first_repeated(&documents, &hashes), None);
            let twice = [&documents[..], &[50 + round]].concat();
            let hashes = [&hashes[..], &[(50 + round) as u64 / 10]].concat();
            assert_eq!(seen.first_repeated(&twice, &hashes), Some(100));
        }
        seen.round = u32::MAX;
        assert_eq!(seen.first_repeated(&[1, 2, 1], &[7, 7, 7]), Some(2));
        assert_eq!(seen.first_repeated::<i64>(&[], &[]), None);
    }

    #[test]
    fn faults_are_found_at_the_first_place() {
        let read = |run: Vec<(i64, f64)>| {
            Scratch::default().read(&9, &run, true).err().map(|f| (f.position, f.reason))
        };
        assert_eq!(read(vec![(1, 0.5), (2, 0.5)]), None);
        let twice = Some((2, "topic '9', document '1': retrieved twice".to_owned()));
        assert_eq!(read(vec![(1, 0.5), (2, 0.5), (1, f64::NAN)]), twice);
        let (at, why) = read(vec![(1, 0.5), (2, f64::NAN), (1, 0.5)]).unwrap_or_default();
        assert_eq!((at, why.as_str()), (1, "topic '9', document '2': the score is not a number"));
    }
}
