//! What each measure is.

use super::gain::{self, Gain, NO_NUMBER};
use super::{AtLevel, Version};

/// A cut-off behind every rank.
pub const ALL: usize = usize::MAX;

/// A measure as it was asked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Measure {
    /// The name it goes by: that which was asked for.
    pub name: String,
    /// What is computed.
    pub formula: Formula,
    /// Judgments of at least this are relevant to it; none: as to the whole evaluation.
    pub relevance_level: Option<i64>,
    /// Documents without a judgment are taken out of the ranking first.
    pub judged_only: bool,
}

impl Measure {
    /// A formula under a name of your own.
    pub fn new(name: &str, formula: Formula) -> Self {
        Measure { name: name.into(), formula, relevance_level: None, judged_only: false }
    }
}

/// What is computed, with the cut-off or parameters where there are some. Definitions are trec_eval's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Formula {
    /// 1: a topic.
    NumQ,
    /// Retrieved documents.
    NumRet,
    /// Relevant documents.
    NumRel,
    /// Relevant documents retrieved.
    NumRelRet,
    /// Judged non-relevant documents retrieved.
    NumNonrelJudgedRet,
    /// Mean of the precisions at the relevant documents among the first k; unretrieved ones count 0.
    Map(usize),
    /// log of average precision, at least log 1e-5; its mean over topics is exponentiated.
    GmMap,
    /// Precision at as many documents as are relevant.
    Rprec,
    /// Precision at a multiple of the number of relevant documents.
    RprecMult(f64),
    /// Share of judged non-relevant documents that each relevant one is ahead of.
    Bpref,
    /// log of `Bpref`, as `GmMap`.
    GmBpref,
    /// Inferred average precision, for judgments of a sample.
    InfAp,
    /// 1 / rank of the first relevant document, if that is among the first k.
    RecipRank(usize),
    /// The best precision at this recall or above.
    IprecAtRecall(f64),
    /// Mean of the interpolated precisions at these recalls; by default 0, .1, …, 1.
    IprecAvg(Vec<f64>),
    /// Relevant among the first k, over k.
    P(usize),
    /// Relevant among the first k, over the most there could be.
    RelativeP(usize),
    /// Relevant among the first k, over all relevant.
    Recall(usize),
    /// 1 if one of the first k is relevant.
    Success(usize),
    /// Discounted cumulative gain of the first k, discount log2(rank + 1), over that of the ideal ranking.
    Ndcg(Gain, usize),
    /// Mean of nDCG at the documents with a gain; unretrieved ones count the last.
    NdcgRel(Gain),
    /// Mean of nDCG at the ranks at which the ideal gain changes.
    Rndcg(Gain),
    /// Gains discounted by what the ideal ranking is ahead, over the sum of the ideal ones.
    G(Gain),
    /// Mean over relevant documents of 1 / log2(2 + non-relevant documents before it).
    BinG,
    /// log((1 + s) / (1 + relevant − s)) for the sum s of precisions at relevant documents.
    Yaap,
    /// Precision of all that was retrieved.
    SetP,
    /// Relevant retrieved, over the most there could be.
    SetRelativeP,
    /// Recall of all that was retrieved.
    SetRecall,
    /// Product of set precision and set recall.
    SetMap,
    /// Mean of set precision and set recall, harmonic, with this weight of recall.
    SetF(f64),
    /// Sum of documents with these weights: relevant retrieved, other retrieved, relevant missed, others of
    /// the collection.
    Utility([f64; 4]),
    /// Share of the first k that is judged (not one of trec_eval's).
    Judged(usize),
    /// Rank-biased precision of the first k: relevant documents weighted (1 − p) pʳ at rank r from 0.
    Rbp(f64, usize),
    /// The weight in rank-biased precision of all that is not judged: how much it could grow.
    RbpResidual(f64),
    /// Expected reciprocal rank of the first k, with chances (2^grade − 1) / 16 of an end.
    Err(usize),
    /// Retrieved documents that share their score with another of the topic.
    NumTied,
    /// Compatibility: rank-biased overlap with the ideal ranking, over that of the ideal with itself.
    Compat(f64),
}

/// How values of topics become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Summary {
    /// Arithmetic mean.
    Mean,
    /// Sum: counts.
    Sum,
    /// exp of the mean of logarithms.
    GeometricMean,
}

/// The least value of which geometric means take the logarithm.
const LEAST: f64 = 1e-5;

impl Formula {
    /// How topics are summed up.
    pub fn summary(&self) -> Summary {
        match self {
            Formula::NumQ
            | Formula::NumRet
            | Formula::NumRel
            | Formula::NumRelRet
            | Formula::NumNonrelJudgedRet
            | Formula::NumTied => Summary::Sum,
            Formula::GmMap | Formula::GmBpref => Summary::GeometricMean,
            _ => Summary::Mean,
        }
    }

    /// What a topic without results counts.
    pub fn of_nothing(&self, num_rel: usize) -> f64 {
        match self {
            Formula::NumQ => 1.0,
            Formula::NumRel => num_rel as f64,
            Formula::GmMap | Formula::GmBpref => LEAST.ln(),
            _ => 0.0,
        }
    }

    /// The value for one topic.
    pub fn of(&self, topic: &AtLevel<'_>) -> f64 {
        let (num_ret, num_rel) = (topic.ranked.num_ret, topic.num_rel);
        match self {
            Formula::NumQ => 1.0,
            Formula::NumRet => num_ret as f64,
            Formula::NumRel => num_rel as f64,
            Formula::NumTied => topic.ranked.num_tied as f64,
            Formula::NumRelRet => topic.num_rel_ret() as f64,
            Formula::NumNonrelJudgedRet => {
                let nonrelevant = |grade: i64| (0..topic.relevance_level).contains(&grade);
                topic.ranked.hits.iter().filter(|(_, grade)| nonrelevant(*grade)).count() as f64
            }
            Formula::Map(k) => average_precision(topic, *k),
            Formula::GmMap => average_precision(topic, ALL).max(LEAST).ln(),
            Formula::Rprec => share(topic.relevant_before(num_rel), num_rel),
            Formula::RprecMult(x) => {
                let cut = (x * num_rel as f64 + 0.9) as usize;
                share(topic.relevant_before(cut), cut)
            }
            Formula::Bpref => bpref(topic),
            Formula::GmBpref => bpref(topic).max(LEAST).ln(),
            Formula::InfAp => inferred_ap(topic),
            Formula::RecipRank(k) => {
                topic.relevant().next().filter(|r| r < k).map_or(0.0, |r| 1.0 / (r + 1) as f64)
            }
            Formula::IprecAtRecall(x) => interpolated(topic, wanted(topic, *x)),
            Formula::IprecAvg(recalls) => mean_interpolated(topic, recalls),
            Formula::P(k) => topic.relevant_before(*k) as f64 / *k as f64,
            Formula::RelativeP(k) => share(topic.relevant_before(*k), num_rel.min(*k)),
            Formula::Recall(k) => share(topic.relevant_before(*k), num_rel),
            Formula::Success(k) => f64::from(u8::from(topic.relevant_before(*k) > 0)),
            Formula::Ndcg(gain, k) => gain::ndcg(topic.ranked, gain, *k),
            Formula::NdcgRel(gain) => gain::ndcg_at_relevant(topic.ranked, gain),
            Formula::Rndcg(gain) if num_rel > 0 => gain::ndcg_at_changes(topic.ranked, gain),
            Formula::Rndcg(_) => 0.0,
            Formula::G(gain) => gain::relative_gain(topic.ranked, gain),
            Formula::BinG => {
                let ahead = topic.relevant().enumerate().map(|(before, rank)| (2 + rank - before) as f64);
                over(ahead.fold(0.0, |sum, x| sum + 1.0 / x.log2()), num_rel)
            }
            Formula::Yaap => {
                let sum = sum_of_precisions(topic, ALL);
                ((1.0 + sum) / (1.0 + num_rel as f64 - sum)).ln()
            }
            Formula::SetP => share(topic.num_rel_ret(), num_ret),
            Formula::SetRelativeP => share(topic.num_rel_ret(), num_ret.min(num_rel)),
            Formula::SetRecall => share(topic.num_rel_ret(), num_rel),
            Formula::SetMap => {
                let hits = topic.num_rel_ret() as f64;
                if hits > 0.0 { hits * hits / (num_ret as f64 * num_rel as f64) } else { 0.0 }
            }
            Formula::SetF(x) => {
                let hits = topic.num_rel_ret();
                let (p, r) = (share(hits, num_ret), share(hits, num_rel));
                if hits > 0 { (x + 1.0) * p * r / (x * p + r) } else { 0.0 }
            }
            Formula::Utility(weights) => {
                let (ret, rel, both) = (num_ret as f64, num_rel as f64, topic.num_rel_ret() as f64);
                let rest = topic.collection_size as f64 + both - ret - rel;
                weights[0] * both + weights[1] * (ret - both) + weights[2] * (rel - both) + weights[3] * rest
            }
            Formula::Judged(k) => {
                topic.ranked.hits.iter().filter(|(rank, _)| rank < k).count() as f64 / *k as f64
            }
            Formula::Rbp(p, k) => {
                let ranks = topic.relevant().take_while(|rank| rank < k);
                ranks.fold(0.0, |sum, r| sum + (1.0 - p) * power(*p, r))
            }
            Formula::RbpResidual(p) => {
                let judged = topic.ranked.hits.iter().filter(|(_, grade)| *grade >= 0);
                1.0 - judged.fold(0.0, |sum, (r, _)| sum + (1.0 - p) * power(*p, *r))
            }
            Formula::Err(k) => expected_reciprocal_rank(topic, *k),
            Formula::Compat(p) => compatibility(topic, *p),
        }
    }
}

/// A ratio of counts; 0 over 0.
pub(super) fn share(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

/// A sum over a count; 0 if that is 0.
fn over(sum: f64, of: usize) -> f64 {
    if of == 0 { 0.0 } else { sum / of as f64 }
}

fn power(p: f64, exponent: usize) -> f64 {
    p.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

/// Chapelle, Metzler, Zhang & Grinspan, CIKM 2009, with the scale of TREC's web track: grades to 4,
/// and higher ones as 4.
fn expected_reciprocal_rank(topic: &AtLevel<'_>, k: usize) -> f64 {
    let (mut reached, mut sum) = (1.0, 0.0);
    for (rank, grade) in topic.ranked.hits.iter().filter(|(rank, grade)| *rank < k && *grade > 0) {
        let ends = f64::from((1u32 << (*grade).min(4)) - 1) / 16.0;
        sum += reached * ends / (rank + 1) as f64;
        reached *= 1.0 - ends;
    }
    sum
}

/// Clarke, Vtyurina & Smucker, TOIS 39(3), 2021: rank-biased overlap, to the depth of the longer one, with
/// the ideal ranking that is nearest to this one, over that of the ideal ranking with itself.
fn compatibility(topic: &AtLevel<'_>, p: f64) -> f64 {
    let deepest = topic.ranked.num_ret.max(topic.ranked.ideal().len());
    // In the ideal ranking a grade's documents come as they were retrieved, the others behind them.
    let mut retrieved: Vec<(usize, i64)> =
        topic.ranked.hits.iter().copied().filter(|(_, g)| *g > 0).collect();
    retrieved.sort_by_key(|(rank, grade)| (-grade, *rank));
    // From which depth on both rankings have a document.
    let mut enters = vec![0usize; deepest];
    let mut of_grade = (i64::MAX, 0, 0);
    for (rank, grade) in retrieved {
        if grade != of_grade.0 {
            of_grade = (grade, topic.ranked.ideal().partition_point(|g| *g > grade), 0);
        }
        let depth = rank.max(of_grade.1 + of_grade.2);
        of_grade.2 += 1;
        enters[depth] += 1;
    }
    let (mut both, mut weight, mut overlap, mut best) = (0, 1.0, 0.0, 0.0);
    for (depth, entered) in enters.into_iter().enumerate() {
        both += entered;
        overlap += weight * both as f64 / (depth + 1) as f64;
        best += weight * topic.ranked.ideal().len().min(depth + 1) as f64 / (depth + 1) as f64;
        weight *= p;
    }
    if best > 0.0 { overlap / best } else { 0.0 }
}

/// Buckley & Voorhees, SIGIR 2004, as in trec_eval: each relevant document counts 1 less the share of
/// judged non-relevant ones before it, of which as many count as are relevant.
fn bpref(topic: &AtLevel<'_>) -> f64 {
    let bound = topic.num_rel.min(topic.num_nonrel);
    let (mut nonrel, mut sum) = (0usize, 0.0);
    for (_, grade) in &topic.ranked.hits {
        if *grade >= topic.relevance_level {
            sum += if nonrel == 0 { 1.0 } else { 1.0 - nonrel.min(topic.num_rel) as f64 / bound as f64 };
        } else if *grade >= 0 {
            nonrel += 1;
        }
    }
    over(sum, topic.num_rel)
}

/// Yilmaz & Aslam, CIKM 2006, as in trec_eval: a negative judgment is a pooled document that was not
/// in the sample.
fn inferred_ap(topic: &AtLevel<'_>) -> f64 {
    const EPSILON: f64 = 1e-5;
    let (mut rel, mut nonrel, mut unjudged, mut sum) = (0.0, 0.0, 0.0, 0.0);
    for (rank, grade) in &topic.ranked.hits {
        if *grade >= topic.relevance_level {
            // Of the documents above: those pooled, and those of the judged that are relevant.
            let above = *rank as f64;
            sum += if *rank == 0 {
                1.0
            } else {
                let expected = (rel + EPSILON) / (rel + nonrel + 2.0 * EPSILON);
                1.0 / (above + 1.0) + above / (above + 1.0) * ((rel + nonrel + unjudged) / above) * expected
            };
            rel += 1.0;
        } else if *grade >= 0 {
            nonrel += 1.0;
        } else {
            unjudged += 1.0;
        }
    }
    over(sum, topic.num_rel)
}

/// How many relevant documents make this share of them, as trec_eval rounds.
fn wanted(topic: &AtLevel<'_>, recall: f64) -> usize {
    let share = recall * topic.num_rel as f64;
    match topic.version {
        Version::Nine => (share + 0.9) as usize,
        Version::Ten => share.round() as usize,
    }
}

/// The best precision at any rank from which on so many relevant documents are found.
fn interpolated(topic: &AtLevel<'_>, wanted: usize) -> f64 {
    if topic.ranked.num_ret == 0 && wanted == 0 {
        // Nothing was retrieved but what is not judged and was taken out: none of no documents.
        return NO_NUMBER;
    }
    // Precision is best where a relevant document has just been found.
    let found = topic.relevant().enumerate().skip(wanted.max(1) - 1);
    found.fold(0.0, |best, (before, rank)| f64::max(best, (before + 1) as f64 / (rank + 1) as f64))
}

/// As trec_eval takes recalls from the last to the first: from one on that is above its successor, all
/// count as recall 0.
fn mean_interpolated(topic: &AtLevel<'_>, recalls: &[f64]) -> f64 {
    let found = topic.num_rel_ret();
    let mut most = found;
    let reached = recalls.iter().rev().map(|x| wanted(topic, *x)).skip_while(|wanted| *wanted > found);
    let sum = reached.fold(0.0, |sum, wanted| {
        most = if wanted <= most { wanted } else { 0 };
        sum + interpolated(topic, most)
    });
    sum / recalls.len() as f64
}

fn sum_of_precisions(topic: &AtLevel<'_>, k: usize) -> f64 {
    let hits = topic.relevant().take_while(|rank| *rank < k).enumerate();
    hits.fold(0.0, |sum, (before, rank)| sum + (before + 1) as f64 / (rank + 1) as f64)
}

fn average_precision(topic: &AtLevel<'_>, k: usize) -> f64 {
    over(sum_of_precisions(topic, k), topic.num_rel)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ranking::ranked::tests::{at, ranked};

    #[test]
    fn values_by_hand() {
        let r = ranked(
            &[("a", 1), ("b", 2), ("c", 0), ("z", 1)],
            &[("c", 3.0), ("b", 2.0), ("x", 1.0), ("a", 0.5)],
            true,
        );
        let of = |formula: Formula| formula.of(&at(&r));
        assert_eq!(of(Formula::Map(ALL)), (0.5 + 0.5) / 3.0);
        assert_eq!(of(Formula::RecipRank(ALL)), 0.5);
        assert_eq!(of(Formula::RecipRank(1)), 0.0);
        assert_eq!(of(Formula::P(5)), 0.4);
        assert_eq!(of(Formula::Recall(2)), 1.0 / 3.0);
        assert_eq!(of(Formula::SetF(0.5)), 1.5 * 0.5 * (2.0 / 3.0) / (0.5 * 0.5 + 2.0 / 3.0));
        assert_eq!(of(Formula::Utility([1.0, -1.0, 2.0, 0.5])), 2.0 - 2.0 + 2.0 + 0.5 * (2.0 - 4.0 - 3.0));
        // b has one non-relevant document before it, a two.
        assert!((of(Formula::BinG) - (1.0 / 3f64.log2() + 1.0 / 4f64.log2()) / 3.0).abs() < 1e-15);
        assert_eq!(of(Formula::Yaap), ((1.0 + 1.0) / (1.0 + 3.0 - 1.0f64)).ln());
        assert_eq!(Formula::P(5).of(&r.at(2, 0, Version::Nine)), 0.2);
    }

    #[test]
    fn recalls_out_of_order_are_taken_as_trec_eval_does() {
        // Relevant at ranks 1 and 4: precisions 1 and .5.
        let r = ranked(&[("a", 1), ("b", 1)], &[("a", 4.0), ("x", 3.0), ("y", 2.0), ("b", 1.0)], true);
        let of = |recalls: &[f64]| Formula::IprecAvg(recalls.to_vec()).of(&at(&r));
        assert_eq!(of(&[0.5, 1.0]), 0.75);
        assert_eq!(of(&[1.0, 0.5]), 1.0);
        // Version 9 takes .55 of two documents for two, version 10 for one.
        let of = |version| Formula::IprecAtRecall(0.55).of(&r.at(1, 0, version));
        assert_eq!([Version::Nine, Version::Ten].map(of), [0.5, 1.0]);
    }

    #[test]
    fn weights_of_ranks_by_hand() {
        let r = ranked(&[("a", 1), ("b", 0), ("c", 4)], &[("b", 3.0), ("x", 2.0), ("a", 1.0)], true);
        let of = |formula: Formula| formula.of(&at(&r));
        assert_eq!(of(Formula::Rbp(0.5, ALL)), 0.5 * 0.25);
        assert_eq!(of(Formula::Rbp(0.5, 2)), 0.0);
        // Unjudged are x, at the second rank, and all from the fourth on.
        assert_eq!(of(Formula::RbpResidual(0.5)), 0.5 * 0.5 + 0.125);
        assert_eq!(of(Formula::Err(20)), 1.0 / 16.0 / 3.0);
        assert_eq!(of(Formula::Err(2)), 0.0);
        let perfect = ranked(&[("a", 1), ("c", 4)], &[("c", 3.0), ("a", 2.0)], true);
        assert_eq!(Formula::Compat(0.9).of(&at(&perfect)), 1.0);
    }
}
