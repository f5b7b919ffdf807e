//! From retrieved documents and judgments to ranks: reading, ordering and counting, in memory that is used
//! for one topic after another.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;

use super::ranked::Read;
use super::{Fault, Id, Judgments, Ranked, Retrieved};

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
    pub fn read(&mut self, topic: &impl Id, from: &impl Retrieved<D>, single: bool) -> Read {
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
        let Some(at) = [twice, nan].into_iter().flatten().min() else { return outcome };
        let fault =
            |what: &str| format!("topic '{}', document '{}': {what}", topic.show(), documents[at].show());
        Err(if twice == Some(at) {
            Fault::contradiction(from.position(at), fault("retrieved twice"))
        } else {
            Fault::new(from.position(at), fault("the score is not a number"))
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::ranked::tests::ranked;

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
