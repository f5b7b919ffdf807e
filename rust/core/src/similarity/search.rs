//! The best documents of each query, without keeping all scores.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering as Memory};

use rayon::prelude::*;

use super::Ragged;
use super::form::Scratch;
use super::scorer::{Scorer, blocks};
use crate::Result;
use crate::error::{ensure, proceed};

/// A document and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// Its number.
    pub document: u32,
    /// Its MaxSim.
    pub score: f32,
}

/// Which documents are searched.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Selection<'a> {
    /// All of them.
    All,
    /// Those with these numbers.
    Only(&'a [u32]),
}

/// The `k` best documents of each query, best first.
///
/// Documents with the same score come in the order of `places`, highest first (trec_eval's order, where
/// places are those of the ids in byte order). Documents whose place is `None` are passed over. Threads
/// keep their own best, and which ones are kept in the end depends on scores and places alone.
///
/// # Errors
/// As [`super::maxsim`], places that are not one for each document, or a selection of others.
pub fn search(
    queries: &Ragged<'_>,
    documents: &Ragged<'_>,
    places: &[Option<u32>],
    selection: Selection<'_>,
    k: usize,
    cancel: Option<&AtomicBool>,
    done: Option<&AtomicUsize>,
) -> Result<Vec<Vec<Hit>>> {
    let (count, got) = (documents.len(), places.len());
    ensure!(got == count, "places: expected one for each of {count} documents, got {got}");
    let scorer = Scorer::new(queries, documents)?;
    let chosen;
    let (parts, number): (&[Range<u32>], &(dyn Fn(u32) -> u32 + Sync)) = match selection {
        Selection::All => (&documents.blocks, &|i| i),
        Selection::Only(numbers) => {
            for i in numbers {
                ensure!((*i as usize) < count, "selection: expected numbers below {count}, got {i}");
            }
            chosen = blocks(numbers.iter().map(|i| documents.tokens(*i as usize)), documents.dim());
            (&chosen, &|i| numbers[i as usize])
        }
    };
    // More than there are could not be found.
    let k = k.min(documents.len());
    let none = || vec![Best { k, ..Best::default() }; queries.len()];
    let search = |state: Result<(Vec<Best>, Scratch)>, block: &Range<u32>| {
        let (mut best, mut scratch) = state?;
        proceed(cancel)?;
        let numbers = block.clone().map(number);
        scorer.score(numbers.clone().map(|i| i as usize), &mut scratch)?;
        for (best, scores) in best.iter_mut().zip(scratch.scores.chunks_exact(block.len())) {
            for (document, score) in numbers.clone().zip(scores) {
                if let Some(place) = places[document as usize] {
                    best.add(Kept { score: *score, place, document });
                }
            }
        }
        if let Some(done) = done {
            done.fetch_add(block.len(), Memory::Relaxed);
        }
        Ok((best, scratch))
    };
    let kept = parts.par_iter().fold(|| Ok((none(), Scratch::default())), search);
    let all = kept.map(|state| state.map(|(best, _)| best)).try_reduce(none, |mut best, others| {
        for (best, other) in best.iter_mut().zip(others) {
            other.kept.into_iter().for_each(|kept| best.add(kept));
        }
        Ok(best)
    })?;
    Ok(all.into_iter().map(Best::sorted).collect())
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    score: f32,
    place: u32,
    document: u32,
}

impl Kept {
    /// Best first. (Scores of finite tokens are no NaN; if there is one, it is the best.)
    fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(other.place.cmp(&self.place))
    }
}

/// The best of what was added, and up to as much again that is not yet thrown away.
#[derive(Clone, Debug, Default)]
struct Best {
    k: usize,
    kept: Vec<Kept>,
    /// The k-th best so far, once there are k.
    least: Option<Kept>,
}

impl Best {
    #[inline]
    fn add(&mut self, new: Kept) {
        if self.least.is_some_and(|least| least.order(&new).is_lt()) || self.k == 0 {
            return;
        }
        self.kept.push(new);
        if self.kept.len() >= 2 * self.k {
            self.kept.select_nth_unstable_by(self.k - 1, Kept::order);
            self.kept.truncate(self.k);
            self.least = self.kept.last().copied();
        }
    }

    fn sorted(mut self) -> Vec<Hit> {
        self.kept.sort_unstable_by(Kept::order);
        self.kept.truncate(self.k);
        self.kept.iter().map(|kept| Hit { document: kept.document, score: kept.score }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{brute, ragged, texts};
    use super::super::{Values, maxsim};
    use super::*;

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        let dim = 8;
        let lengths: Vec<usize> = (0..3000).map(|i| i % 11).collect();
        let (mut dv, do_) = texts(7, &lengths, dim);
        // Coarse numbers make many ties.
        dv.iter_mut().for_each(|x| *x = (*x * 3.0).round());
        let (mut qv, qo) = texts(5, &[4, 0, 9], dim);
        qv.iter_mut().for_each(|x| *x = (*x * 2.0).round());
        let (q, d) = (ragged(Values::F32(&qv), &qo, dim), ragged(Values::F32(&dv), &do_, dim));
        let places: Vec<Option<u32>> = (0..3000).map(|i| (i % 5 > 0).then_some(i * 7 % 3001)).collect();
        let scores = brute(&q, &d);
        for k in [0, 1, 10, 5000, usize::MAX] {
            let found =
                search(&q, &d, &places, Selection::All, k, None, None).unwrap_or_else(|e| panic!("{e}"));
            for (query, hits) in found.iter().enumerate() {
                let own = &scores[query * d.len()..][..d.len()];
                let mut order: Vec<usize> = (0..d.len()).filter(|i| places[*i].is_some()).collect();
                order.sort_by(|i, j| own[*j].total_cmp(&own[*i]).then(places[*j].cmp(&places[*i])));
                order.truncate(k);
                assert_eq!(
                    hits.iter().map(|h| h.document as usize).collect::<Vec<_>>(),
                    order,
                    "{k} {query}"
                );
            }
        }
        let some: Vec<u32> = (0..3000).step_by(7).rev().collect();
        let found = search(&q, &d, &places, Selection::Only(&some), 20, None, None).unwrap_or_default();
        let whole = search(&q, &d, &places, Selection::All, 3000, None, None).unwrap_or_default();
        for (hits, all) in found.iter().zip(whole) {
            let want: Vec<Hit> =
                all.into_iter().filter(|hit| some.contains(&hit.document)).take(20).collect();
            assert_eq!(*hits, want);
        }
        assert!(search(&q, &d, &places, Selection::Only(&[3000]), 1, None, None).is_err());
        let mut all = vec![0.0; q.len() * d.len()];
        assert_eq!(maxsim(&q, &d, None, &mut all), Ok(()));
        let hit =
            search(&q, &d, &places, Selection::All, 1, None, None).unwrap_or_else(|e| panic!("{e}"))[2][0];
        assert_eq!(hit.score.to_bits(), all[2 * d.len() + hit.document as usize].to_bits());
        assert!(search(&q, &d, &places[1..], Selection::All, 1, None, None).is_err());
    }
}
