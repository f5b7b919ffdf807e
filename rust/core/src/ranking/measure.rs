//! What each measure is.

use std::collections::HashMap;

use crate::{Error, Result};

/// One topic's ranking, reduced to what measures need.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// Judgments of the retrieved documents in rank order; `None` where unjudged.
    pub grades: Vec<Option<i64>>,
    /// All positive judgments of the topic, highest first: the ideal ranking.
    pub ideal: Vec<i64>,
    /// Relevant documents of the topic.
    pub num_rel: usize,
    /// Judgments of at least this are relevant.
    pub relevance_level: i64,
}

impl Ranked {
    /// Rank documents as trec_eval does: by score as `f32`, ties by id, both descending.
    pub fn new(judged: &HashMap<Vec<u8>, i64>, retrieved: &[(Vec<u8>, f64)], relevance_level: i64) -> Self {
        let mut order: Vec<(f32, &[u8])> =
            retrieved.iter().map(|(id, s)| (*s as f32, id.as_slice())).collect();
        order.sort_unstable_by(|x, y| y.0.total_cmp(&x.0).then_with(|| y.1.cmp(x.1)));
        // total_cmp puts 0 above −0; trec_eval sees them as equal. Zeros are rare: settle them apart.
        if order.iter().any(|x| x.0 == 0.0) {
            let compare = |x: &(f32, &[u8]), y: &(f32, &[u8])| {
                y.0.partial_cmp(&x.0).unwrap_or(std::cmp::Ordering::Equal).then_with(|| y.1.cmp(x.1))
            };
            order.sort_by(compare);
        }
        let mut ideal: Vec<i64> = judged.values().copied().filter(|r| *r > 0).collect();
        ideal.sort_unstable_by(|x, y| y.cmp(x));
        Ranked {
            grades: order.iter().map(|(_, id)| judged.get(*id).copied()).collect(),
            ideal,
            num_rel: judged.values().filter(|r| **r >= relevance_level).count(),
            relevance_level,
        }
    }

    fn is_relevant(&self, rank: usize) -> bool {
        self.grades[rank].is_some_and(|g| g >= self.relevance_level)
    }

    /// Relevant documents among the first `k`.
    fn hits(&self, k: usize) -> usize {
        (0..k.min(self.grades.len())).filter(|&r| self.is_relevant(r)).count()
    }
}

/// A measure, with its cut-off where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Mean of the precisions at relevant documents; unretrieved ones count 0.
    Map,
    /// Discounted cumulative gain, gain = grade, discount log2(rank + 1), over that of the ideal.
    Ndcg,
    /// nDCG of the first k, against the first k of the ideal.
    NdcgCut(usize),
    /// Relevant among the first k, over k.
    P(usize),
    /// Relevant among the first k, over all relevant.
    Recall(usize),
    /// 1 / rank of the first relevant document.
    RecipRank,
}

/// Names without a cut-off: trec_eval's, and the alias of ir_measures.
const PLAIN: [(&str, &str, Measure); 3] =
    [("map", "AP", Measure::Map), ("ndcg", "nDCG", Measure::Ndcg), ("recip_rank", "RR", Measure::RecipRank)];

type WithCut = fn(usize) -> Measure;
/// Names with a cut-off, as `ndcg_cut_10` or `nDCG@10`.
const CUT: [(&str, &str, WithCut); 3] =
    [("ndcg_cut_", "nDCG@", Measure::NdcgCut), ("P_", "P@", Measure::P), ("recall_", "R@", Measure::Recall)];

impl Measure {
    /// From trec_eval's name (`ndcg_cut_10`) or that of ir_measures (`nDCG@10`).
    ///
    /// # Errors
    /// An unknown name, with the nearest valid one.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some((_, _, m)) = PLAIN.iter().find(|(trec, ir, _)| name == *trec || name == *ir) {
            return Ok(*m);
        }
        for (trec, ir, make) in CUT {
            let cut = name.strip_prefix(trec).or_else(|| name.strip_prefix(ir));
            if let Some(k) = cut.and_then(|k| k.parse().ok()).filter(|k| *k > 0) {
                return Ok(make(k));
            }
        }
        let valid =
            PLAIN.iter().map(|(t, ..)| (*t).to_owned()).chain(CUT.iter().map(|(t, ..)| format!("{t}10")));
        let nearest =
            valid.min_by_key(|v| distance(&name.to_lowercase(), &v.to_lowercase())).unwrap_or_default();
        Err(Error::Argument(format!("measures: unknown measure '{name}'; did you mean '{nearest}'?")))
    }

    /// trec_eval's name.
    pub fn name(&self) -> String {
        match self {
            Measure::Map => "map".into(),
            Measure::Ndcg => "ndcg".into(),
            Measure::RecipRank => "recip_rank".into(),
            Measure::NdcgCut(k) => format!("ndcg_cut_{k}"),
            Measure::P(k) => format!("P_{k}"),
            Measure::Recall(k) => format!("recall_{k}"),
        }
    }

    /// The value for one topic.
    pub fn of(&self, ranked: &Ranked) -> f64 {
        match *self {
            Measure::Map => average_precision(ranked),
            Measure::Ndcg => ndcg(ranked, usize::MAX),
            Measure::NdcgCut(k) => ndcg(ranked, k),
            Measure::P(k) => ranked.hits(k) as f64 / k as f64,
            Measure::Recall(_) if ranked.num_rel == 0 => 0.0,
            Measure::Recall(k) => ranked.hits(k) as f64 / ranked.num_rel as f64,
            Measure::RecipRank => (0..ranked.grades.len())
                .find(|&r| ranked.is_relevant(r))
                .map_or(0.0, |r| 1.0 / (r + 1) as f64),
        }
    }
}

fn average_precision(ranked: &Ranked) -> f64 {
    let (mut hits, mut sum) = (0usize, 0.0);
    for rank in 0..ranked.grades.len() {
        if ranked.is_relevant(rank) {
            hits += 1;
            sum += hits as f64 / (rank + 1) as f64;
        }
    }
    if ranked.num_rel == 0 { 0.0 } else { sum / ranked.num_rel as f64 }
}

fn ndcg(ranked: &Ranked, k: usize) -> f64 {
    let dcg = |grades: &mut dyn Iterator<Item = i64>| -> f64 {
        grades
            .take(k)
            .enumerate()
            .filter(|(_, g)| *g > 0)
            .map(|(rank, g)| g as f64 / ((rank + 2) as f64).log2())
            .sum()
    };
    let ideal = dcg(&mut ranked.ideal.iter().copied());
    if ideal == 0.0 { 0.0 } else { dcg(&mut ranked.grades.iter().map(|g| g.unwrap_or(0))) / ideal }
}

/// Edit distance.
fn distance(x: &str, y: &str) -> usize {
    let y: Vec<char> = y.chars().collect();
    let mut row: Vec<usize> = (0..=y.len()).collect();
    for (i, c) in x.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..y.len() {
            let next = (diagonal + usize::from(c != y[j])).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[y.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(judged: &[(&str, i64)], run: &[(&str, f64)]) -> Ranked {
        let judged = judged.iter().map(|(d, r)| (d.as_bytes().to_vec(), *r)).collect();
        let run: Vec<_> = run.iter().map(|(d, s)| (d.as_bytes().to_vec(), *s)).collect();
        Ranked::new(&judged, &run, 1)
    }

    #[test]
    fn values_by_hand() {
        let r = ranked(
            &[("a", 1), ("b", 2), ("c", 0), ("z", 1)],
            &[("c", 3.0), ("b", 2.0), ("x", 1.0), ("a", 0.5)],
        );
        assert_eq!(Measure::Map.of(&r), (0.5 + 0.5) / 3.0);
        assert_eq!(Measure::RecipRank.of(&r), 0.5);
        assert_eq!(Measure::P(5).of(&r), 0.4);
        assert_eq!(Measure::Recall(2).of(&r), 1.0 / 3.0);
        let dcg = 2.0 / 3f64.log2() + 1.0 / 5f64.log2();
        let ideal = 2.0 + 1.0 / 3f64.log2() + 1.0 / 4f64.log2();
        assert!((Measure::Ndcg.of(&r) - dcg / ideal).abs() < 1e-15);
        let ideal = 2.0 + 1.0 / 3f64.log2();
        assert!((Measure::NdcgCut(2).of(&r) - 2.0 / 3f64.log2() / ideal).abs() < 1e-15);
    }

    #[test]
    fn ties_go_to_the_higher_id_and_scores_are_single() {
        let r = ranked(&[("a", 1)], &[("b", 0.1), ("a", 0.1 + 1e-12)]);
        assert_eq!(r.grades, [None, Some(1)]);
        let r = ranked(&[("b", 1)], &[("a", 0.0), ("b", -0.0)]);
        assert_eq!(r.grades, [Some(1), None]);
    }

    #[test]
    fn names() {
        for name in ["map", "ndcg", "recip_rank", "ndcg_cut_10", "P_5", "recall_100"] {
            assert_eq!(Measure::parse(name).map(|m| m.name()), Ok(name.to_owned()));
        }
        assert_eq!(Measure::parse("nDCG@7"), Ok(Measure::NdcgCut(7)));
        let error = Measure::parse("ndgc_cut_10").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("did you mean 'ndcg_cut_10'"), "{error}");
        assert!(Measure::parse("P_0").is_err());
    }
}
