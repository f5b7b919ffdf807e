//! What each measure is.

use super::Ranked;
use crate::{Error, Result};

/// A measure, with its cut-off or parameter where it has one. Names and definitions are trec_eval's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Retrieved documents.
    NumRet,
    /// Relevant documents.
    NumRel,
    /// Relevant documents retrieved.
    NumRelRet,
    /// Judged non-relevant documents retrieved.
    NumNonrelJudgedRet,
    /// Mean of the precisions at relevant documents; unretrieved ones count 0.
    Map,
    /// log of `map`, at least log 1e-5; its mean over topics is exponentiated.
    GmMap,
    /// Average precision over relevant documents among the first k.
    MapCut(usize),
    /// Precision at as many documents as are relevant.
    Rprec,
    /// Precision at a multiple of the number of relevant documents.
    RprecMult(f64),
    /// Share of judged non-relevant documents that each relevant one is ahead of.
    Bpref,
    /// Inferred average precision, for judgments of a sample.
    InfAp,
    /// 1 / rank of the first relevant document.
    RecipRank,
    /// The best precision at this recall or above.
    IprecAtRecall(f64),
    /// Mean of the eleven interpolated precisions at recall 0, .1, …, 1.
    ElevenPointAvg,
    /// Relevant among the first k, over k.
    P(usize),
    /// Relevant among the first k, over the most there could be.
    RelativeP(usize),
    /// Relevant among the first k, over all relevant.
    Recall(usize),
    /// 1 if one of the first k is relevant.
    Success(usize),
    /// Discounted cumulative gain, gain = grade, discount log2(rank + 1), over that of the ideal.
    Ndcg,
    /// nDCG of the first k, against the first k of the ideal.
    NdcgCut(usize),
    /// Precision of all that was retrieved.
    SetP,
    /// Relevant retrieved, over the most there could be.
    SetRelativeP,
    /// Recall of all that was retrieved.
    SetRecall,
    /// Product of set precision and set recall.
    SetMap,
    /// Harmonic mean of set precision and set recall.
    SetF,
    /// Relevant less non-relevant documents retrieved.
    Utility,
    /// Share of the first k that is judged (not one of trec_eval's).
    Judged(usize),
    /// Rank-biased precision: relevant documents weighted (1 − p) pʳ at rank r from 0.
    Rbp(f64),
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
pub enum Summary {
    /// Arithmetic mean.
    Mean,
    /// Sum: counts.
    Sum,
    /// exp of the mean of logarithms.
    GeometricMean,
}

/// Names without a parameter: trec_eval's, and the alias of ir_measures.
const PLAIN: [(&str, &str, Measure); 19] = [
    ("num_ret", "NumRet", Measure::NumRet),
    ("num_rel", "NumRel", Measure::NumRel),
    ("num_rel_ret", "NumRelRet", Measure::NumRelRet),
    ("num_nonrel_judged_ret", "", Measure::NumNonrelJudgedRet),
    ("map", "AP", Measure::Map),
    ("gm_map", "", Measure::GmMap),
    ("Rprec", "RPrec", Measure::Rprec),
    ("bpref", "Bpref", Measure::Bpref),
    ("infAP", "infAP", Measure::InfAp),
    ("recip_rank", "RR", Measure::RecipRank),
    ("11pt_avg", "", Measure::ElevenPointAvg),
    ("ndcg", "nDCG", Measure::Ndcg),
    ("set_P", "SetP", Measure::SetP),
    ("set_relative_P", "SetRelP", Measure::SetRelativeP),
    ("set_recall", "SetR", Measure::SetRecall),
    ("set_map", "SetAP", Measure::SetMap),
    ("set_F", "SetF", Measure::SetF),
    ("utility", "", Measure::Utility),
    ("num_tied", "", Measure::NumTied),
];

type WithCut = fn(usize) -> Measure;
/// Names with a cut-off, as `ndcg_cut_10` or `nDCG@10`.
const CUT: [(&str, &str, WithCut); 8] = [
    ("ndcg_cut_", "nDCG@", Measure::NdcgCut),
    ("map_cut_", "AP@", Measure::MapCut),
    ("P_", "P@", Measure::P),
    ("recall_", "R@", Measure::Recall),
    ("success_", "Success@", Measure::Success),
    ("relative_P_", "RelP@", Measure::RelativeP),
    ("judged_", "Judged@", Measure::Judged),
    ("err_", "ERR@", Measure::Err),
];

type WithShare = fn(f64) -> Measure;
/// The largest persistence.
const BELOW_ONE: f64 = 1.0 - f64::EPSILON;
/// Names with a fraction, as `iprec_at_recall_0.10`, and the largest that makes sense.
const SHARE: [(&str, &str, WithShare, f64); 5] = [
    ("iprec_at_recall_", "IPrec@", Measure::IprecAtRecall, 1.0),
    ("Rprec_mult_", "RPrecMult@", Measure::RprecMult, 100.0),
    ("rbp_resid_", "RBPResidual(p=", Measure::RbpResidual, BELOW_ONE),
    ("rbp_", "RBP(p=", Measure::Rbp, BELOW_ONE),
    ("compat_", "Compat(p=", Measure::Compat, BELOW_ONE),
];

impl Measure {
    /// From trec_eval's name (`ndcg_cut_10`) or that of ir_measures (`nDCG@10`).
    ///
    /// # Errors
    /// An unknown name, with the nearest valid one.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some((_, _, m)) =
            PLAIN.iter().find(|(trec, ir, _)| name == *trec || (name == *ir && !ir.is_empty()))
        {
            return Ok(*m);
        }
        for (trec, ir, make) in CUT {
            let cut = name.strip_prefix(trec).or_else(|| name.strip_prefix(ir));
            if let Some(k) = cut.and_then(|k| k.parse().ok()).filter(|k| *k > 0) {
                return Ok(make(k));
            }
        }
        for (trec, ir, make, most) in SHARE {
            let share = name.strip_prefix(trec).or_else(|| name.strip_prefix(ir));
            let share = share.map(|x| if ir.contains('(') { x.strip_suffix(')').unwrap_or(x) } else { x });
            if let Some(x) = share.and_then(|x| x.parse().ok()).filter(|x| (0.0..=most).contains(x)) {
                return Ok(make(x));
            }
        }
        let valid = PLAIN
            .iter()
            .map(|(t, ..)| (*t).to_owned())
            .chain(CUT.iter().map(|(t, ..)| format!("{t}10")))
            .chain(SHARE.iter().map(|(t, ..)| format!("{t}0.20")));
        let nearest =
            valid.min_by_key(|v| distance(&name.to_lowercase(), &v.to_lowercase())).unwrap_or_default();
        Err(Error::Argument(format!("measures: unknown measure '{name}'; did you mean '{nearest}'?")))
    }

    /// trec_eval's name.
    pub fn name(&self) -> String {
        match self {
            Measure::NdcgCut(k) => format!("ndcg_cut_{k}"),
            Measure::MapCut(k) => format!("map_cut_{k}"),
            Measure::P(k) => format!("P_{k}"),
            Measure::Recall(k) => format!("recall_{k}"),
            Measure::Success(k) => format!("success_{k}"),
            Measure::RelativeP(k) => format!("relative_P_{k}"),
            Measure::Judged(k) => format!("judged_{k}"),
            Measure::IprecAtRecall(x) => format!("iprec_at_recall_{x:.2}"),
            Measure::RprecMult(x) => format!("Rprec_mult_{x:.2}"),
            Measure::Err(k) => format!("err_{k}"),
            Measure::Rbp(p) => format!("rbp_{p:.2}"),
            Measure::RbpResidual(p) => format!("rbp_resid_{p:.2}"),
            Measure::Compat(p) => format!("compat_{p:.2}"),
            plain => PLAIN.iter().find(|(.., m)| m == plain).map_or("", |(name, ..)| *name).into(),
        }
    }

    /// How topics are summed up.
    pub fn summary(&self) -> Summary {
        match self {
            Measure::NumRet
            | Measure::NumRel
            | Measure::NumRelRet
            | Measure::NumNonrelJudgedRet
            | Measure::NumTied => Summary::Sum,
            Measure::GmMap => Summary::GeometricMean,
            _ => Summary::Mean,
        }
    }

    /// The value for one topic.
    pub fn of(&self, ranked: &Ranked) -> f64 {
        let (num_ret, num_rel) = (ranked.num_ret, ranked.num_rel);
        match *self {
            Measure::NumRet => num_ret as f64,
            Measure::NumRel => num_rel as f64,
            Measure::NumTied => ranked.num_tied as f64,
            Measure::NumRelRet => ranked.num_rel_ret() as f64,
            Measure::NumNonrelJudgedRet => {
                let nonrelevant = |grade: i64| (0..ranked.relevance_level).contains(&grade);
                ranked.hits.iter().filter(|(_, grade)| nonrelevant(*grade)).count() as f64
            }
            Measure::Map => average_precision(ranked, usize::MAX),
            Measure::GmMap => average_precision(ranked, usize::MAX).max(1e-5).ln(),
            Measure::MapCut(k) => average_precision(ranked, k),
            Measure::Rprec => share(ranked.relevant_before(num_rel), num_rel),
            Measure::RprecMult(x) => {
                let cut = (x * num_rel as f64 + 0.9) as usize;
                share(ranked.relevant_before(cut), cut)
            }
            Measure::Bpref => bpref(ranked),
            Measure::InfAp => inferred_ap(ranked),
            Measure::RecipRank => ranked.relevant().next().map_or(0.0, |r| 1.0 / (r + 1) as f64),
            Measure::IprecAtRecall(x) => interpolated(ranked, x),
            Measure::ElevenPointAvg => {
                (0..=10).map(|i| interpolated(ranked, f64::from(i) / 10.0)).sum::<f64>() / 11.0
            }
            Measure::P(k) => ranked.relevant_before(k) as f64 / k as f64,
            Measure::RelativeP(k) => share(ranked.relevant_before(k), k.min(num_rel)),
            Measure::Recall(k) => share(ranked.relevant_before(k), num_rel),
            Measure::Success(k) => f64::from(u8::from(ranked.relevant_before(k) > 0)),
            Measure::Ndcg => ndcg(ranked, usize::MAX),
            Measure::NdcgCut(k) => ndcg(ranked, k),
            Measure::SetP => share(ranked.num_rel_ret(), num_ret),
            Measure::SetRelativeP => share(ranked.num_rel_ret(), num_ret.min(num_rel)),
            Measure::SetRecall => share(ranked.num_rel_ret(), num_rel),
            Measure::SetMap => {
                let hits = ranked.num_rel_ret() as f64;
                if hits > 0.0 { hits * hits / (num_ret as f64 * num_rel as f64) } else { 0.0 }
            }
            Measure::SetF => {
                let hits = ranked.num_rel_ret();
                let (p, r) = (share(hits, num_ret), share(hits, num_rel));
                if hits > 0 { 2.0 * p * r / (r + p) } else { 0.0 }
            }
            Measure::Utility => {
                let hits = ranked.num_rel_ret() as f64;
                hits - (num_ret as f64 - hits)
            }
            Measure::Judged(k) => ranked.hits.iter().filter(|(rank, _)| *rank < k).count() as f64 / k as f64,
            Measure::Rbp(p) => ranked.relevant().fold(0.0, |sum, r| sum + (1.0 - p) * power(p, r)),
            Measure::RbpResidual(p) => {
                let judged = ranked.hits.iter().filter(|(_, grade)| *grade >= 0);
                1.0 - judged.fold(0.0, |sum, (r, _)| sum + (1.0 - p) * power(p, *r))
            }
            Measure::Err(k) => expected_reciprocal_rank(ranked, k),
            Measure::Compat(p) => compatibility(ranked, p),
        }
    }
}

/// A ratio of counts; 0 over 0.
fn share(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

fn power(p: f64, exponent: usize) -> f64 {
    p.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

/// Chapelle, Metzler, Zhang & Grinspan, CIKM 2009, with the scale of TREC's web track: grades to 4,
/// and higher ones as 4.
fn expected_reciprocal_rank(ranked: &Ranked, k: usize) -> f64 {
    let (mut reached, mut sum) = (1.0, 0.0);
    for (rank, grade) in ranked.hits.iter().filter(|(rank, grade)| *rank < k && *grade > 0) {
        let ends = f64::from((1u32 << (*grade).min(4)) - 1) / 16.0;
        sum += reached * ends / (rank + 1) as f64;
        reached *= 1.0 - ends;
    }
    sum
}

/// Clarke, Vtyurina & Smucker, TOIS 39(3), 2021: rank-biased overlap, to the depth of the longer one, with
/// the ideal ranking that is nearest to this one, over that of the ideal ranking with itself.
fn compatibility(ranked: &Ranked, p: f64) -> f64 {
    let deepest = ranked.num_ret.max(ranked.ideal.len());
    // In the ideal ranking a grade's documents come as they were retrieved, the others behind them.
    let mut retrieved: Vec<(usize, i64)> = ranked.hits.iter().copied().filter(|(_, g)| *g > 0).collect();
    retrieved.sort_by_key(|(rank, grade)| (-grade, *rank));
    // From which depth on both rankings have a document.
    let mut enters = vec![0usize; deepest];
    let mut of_grade = (i64::MAX, 0, 0);
    for (rank, grade) in retrieved {
        if grade != of_grade.0 {
            of_grade = (grade, ranked.ideal.partition_point(|g| *g > grade), 0);
        }
        let depth = rank.max(of_grade.1 + of_grade.2);
        of_grade.2 += 1;
        enters[depth] += 1;
    }
    let (mut both, mut weight, mut overlap, mut best) = (0, 1.0, 0.0, 0.0);
    for (depth, entered) in enters.into_iter().enumerate() {
        both += entered;
        overlap += weight * both as f64 / (depth + 1) as f64;
        best += weight * ranked.ideal.len().min(depth + 1) as f64 / (depth + 1) as f64;
        weight *= p;
    }
    if best > 0.0 { overlap / best } else { 0.0 }
}

/// Buckley & Voorhees, SIGIR 2004, as in trec_eval: each relevant document counts 1 less the share of
/// judged non-relevant ones before it, of which as many count as are relevant.
fn bpref(ranked: &Ranked) -> f64 {
    let bound = ranked.num_rel.min(ranked.num_nonrel);
    let (mut nonrel, mut sum) = (0usize, 0.0);
    for (_, grade) in &ranked.hits {
        if *grade >= ranked.relevance_level {
            sum += if nonrel == 0 { 1.0 } else { 1.0 - nonrel.min(ranked.num_rel) as f64 / bound as f64 };
        } else if *grade >= 0 {
            nonrel += 1;
        }
    }
    if ranked.num_rel == 0 { 0.0 } else { sum / ranked.num_rel as f64 }
}

/// Yilmaz & Aslam, CIKM 2006, as in trec_eval: a negative judgment is a pooled document that was not
/// in the sample.
fn inferred_ap(ranked: &Ranked) -> f64 {
    const EPSILON: f64 = 1e-5;
    let (mut rel, mut nonrel, mut unjudged, mut sum) = (0.0, 0.0, 0.0, 0.0);
    for (rank, grade) in &ranked.hits {
        if *grade >= ranked.relevance_level {
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
    if ranked.num_rel == 0 { 0.0 } else { sum / ranked.num_rel as f64 }
}

/// The best precision at any rank from which on at least this share of the relevant is found.
fn interpolated(ranked: &Ranked, recall: f64) -> f64 {
    let wanted = (recall * ranked.num_rel as f64 + 0.9) as usize;
    // Precision is best where a relevant document has just been found.
    let found = ranked.relevant().enumerate().skip(wanted.max(1) - 1);
    found.fold(0.0, |best, (before, rank)| f64::max(best, (before + 1) as f64 / (rank + 1) as f64))
}

fn average_precision(ranked: &Ranked, k: usize) -> f64 {
    let hits = ranked.relevant().take_while(|rank| *rank < k).enumerate();
    let sum = hits.fold(0.0, |sum, (before, rank)| sum + (before + 1) as f64 / (rank + 1) as f64);
    if ranked.num_rel == 0 { 0.0 } else { sum / ranked.num_rel as f64 }
}

fn ndcg(ranked: &Ranked, k: usize) -> f64 {
    let dcg = |gains: &mut dyn Iterator<Item = (usize, i64)>| -> f64 {
        // From 0, as a sum of nothing would be −0 and be printed so.
        gains
            .filter(|(rank, g)| *rank < k && *g > 0)
            .fold(0.0, |sum, (rank, g)| sum + g as f64 / discount(rank))
    };
    let ideal = dcg(&mut ranked.ideal.iter().copied().take(k).enumerate());
    if ideal == 0.0 { 0.0 } else { dcg(&mut ranked.hits.iter().copied()) / ideal }
}

fn discount(rank: usize) -> f64 {
    ((rank + 2) as f64).log2()
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

    use crate::ranking::ranked::tests::ranked;

    #[test]
    fn values_by_hand() {
        let r = ranked(
            &[("a", 1), ("b", 2), ("c", 0), ("z", 1)],
            &[("c", 3.0), ("b", 2.0), ("x", 1.0), ("a", 0.5)],
            true,
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
    fn weights_of_ranks_by_hand() {
        let r = ranked(&[("a", 1), ("b", 0), ("c", 4)], &[("b", 3.0), ("x", 2.0), ("a", 1.0)], true);
        assert_eq!(Measure::Rbp(0.5).of(&r), 0.5 * 0.25);
        // Unjudged are x, at the second rank, and all from the fourth on.
        assert_eq!(Measure::RbpResidual(0.5).of(&r), 0.5 * 0.5 + 0.125);
        assert_eq!(Measure::Err(20).of(&r), 1.0 / 16.0 / 3.0);
        assert_eq!(Measure::Err(2).of(&r), 0.0);
        let perfect = ranked(&[("a", 1), ("c", 4)], &[("c", 3.0), ("a", 2.0)], true);
        assert_eq!(Measure::Compat(0.9).of(&perfect), 1.0);
    }

    #[test]
    fn names() {
        for name in ["map", "ndcg", "recip_rank", "ndcg_cut_10", "P_5", "recall_100"] {
            assert_eq!(Measure::parse(name).map(|m| m.name()), Ok(name.to_owned()));
        }
        assert_eq!(Measure::parse("nDCG@7"), Ok(Measure::NdcgCut(7)));
        assert_eq!(Measure::parse("RBP(p=0.8)"), Ok(Measure::Rbp(0.8)));
        assert_eq!(Measure::parse("rbp_resid_0.95").map(|m| m.name()), Ok("rbp_resid_0.95".into()));
        assert!(Measure::parse("rbp_1").is_err());
        let error = Measure::parse("ndgc_cut_10").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("did you mean 'ndcg_cut_10'"), "{error}");
        assert!(Measure::parse("P_0").is_err());
    }
}
