//! Measures of graded gains. A document at rank r (from 0) counts gain / log2(r + 2); what is found is
//! compared with the ideal ranking, which has the documents of the highest gain first.
//!
//! Sums run by rank, as in trec_eval, so that values are equal to the last bit.

use super::Ranked;

/// What 0 / 0 is on x86, where trec_eval prints its sign.
pub(super) const NO_NUMBER: f64 = -f64::NAN;

/// What a document of a grade is worth.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Gain {
    /// 2^grade − 1.
    Exponential,
    /// These gains for these grades; others are worth their grade. As in trec_eval, −1 is the grade of
    /// documents without a judgment, and −2 that of all below 0.
    Table(Vec<(i64, f64)>),
}

impl Gain {
    /// The grade itself.
    pub const GRADE: Gain = Gain::Table(Vec::new());

    /// The gain of a grade above 0, where it grows with the grade and is 0 for all others.
    fn growing(&self) -> Option<fn(i64) -> f64> {
        match self {
            Gain::Exponential => Some(|grade| (grade as f64).exp2() - 1.0),
            Gain::Table(gains) if gains.is_empty() => Some(|grade| grade as f64),
            Gain::Table(_) => None,
        }
    }
}

/// A grade with its gain, and how many documents have it.
type Level = (i64, f64, usize);

/// Levels by gain as trec_eval sorts them: gains that differ by less than 1 are as good as equal, so that
/// the result depends on how the sort proceeds, which is by merging halves.
fn sorted(levels: Vec<Level>) -> Vec<Level> {
    if levels.len() < 2 {
        return levels;
    }
    let mut low = levels;
    let mut high = sorted(low.split_off(low.len() / 2)).into_iter().peekable();
    let mut low = sorted(low).into_iter().peekable();
    let mut merged = Vec::new();
    while let (Some(x), Some(y)) = (low.peek(), high.peek()) {
        merged.extend(if (x.1 - y.1) as i32 <= 0 { low.next() } else { high.next() });
    }
    merged.extend(low);
    merged.extend(high);
    merged
}

/// What each rank is worth: of a ranking, and of the ideal one.
struct Gains {
    found: Vec<f64>,
    ideal: Vec<f64>,
}

impl Gains {
    fn new(ranked: &Ranked, gain: &Gain) -> Self {
        let worth = gain.growing().unwrap_or(|grade| grade as f64);
        let mut levels: Vec<Level> = match gain {
            Gain::Table(gains) => gains.iter().map(|(grade, gain)| (*grade, *gain, 0)).collect(),
            Gain::Exponential => Vec::new(),
        };
        // Every grade up to the highest is a level, though not beyond what any scale has.
        let highest = ranked.grades.first().map_or(-1, |highest| *highest);
        for grade in 0..=highest.min(1000) {
            if levels.iter().all(|(known, ..)| *known != grade) {
                levels.push((grade, worth(grade), 0));
            }
        }
        for grade in &ranked.grades {
            match levels.iter_mut().find(|(known, ..)| known == grade) {
                Some(level) => level.2 += 1,
                None => levels.push((*grade, worth(*grade), 1)),
            }
        }
        let levels = sorted(levels);
        let of = |grade: i64| levels.iter().find(|(known, ..)| *known == grade).map_or(0.0, |level| level.1);
        let mut found = vec![of(-1); ranked.num_ret];
        for (rank, grade) in &ranked.hits {
            found[*rank] = of(if *grade < 0 { -2 } else { *grade });
        }
        let mut ideal = Vec::new();
        if levels.last().is_some_and(|(_, gain, _)| *gain > 0.0) {
            let held = levels.iter().rev().filter(|(.., count)| *count > 0);
            for (_, gain, count) in held.take_while(|(_, gain, _)| *gain > 0.0) {
                ideal.extend(std::iter::repeat_n(*gain, *count));
            }
        }
        Gains { found, ideal }
    }
}

/// What a gain counts at a rank.
fn discounted(rank: usize, gain: f64) -> f64 {
    if gain == 0.0 { 0.0 } else { gain / ((rank + 2) as f64).log2() }
}

/// The discounted sum of gains, by rank.
fn dcg(gains: impl Iterator<Item = (usize, f64)>) -> f64 {
    gains.fold(0.0, |sum, (rank, gain)| sum + discounted(rank, gain))
}

/// Järvelin & Kekäläinen, TOIS 20(4), 2002; of the first k.
pub(super) fn ndcg(ranked: &Ranked, gain: &Gain, k: usize) -> f64 {
    let (found, ideal) = if let Some(worth) = gain.growing() {
        let hits = ranked.hits.iter().filter(|(rank, grade)| *rank < k && *grade > 0);
        let ideal = ranked.ideal().iter().take(k).enumerate();
        (dcg(hits.map(|(rank, g)| (*rank, worth(*g)))), dcg(ideal.map(|(rank, g)| (rank, worth(*g)))))
    } else {
        let Gains { found, ideal } = Gains::new(ranked, gain);
        (dcg(found.into_iter().take(k).enumerate()), dcg(ideal.into_iter().take(k).enumerate()))
    };
    if ideal > 0.0 { found / ideal } else { 0.0 }
}

/// The mean of nDCG at the ranks of documents with a gain. Those that were not retrieved count its value
/// at the end, over the whole ideal ranking.
pub(super) fn ndcg_at_relevant(ranked: &Ranked, gain: &Gain) -> f64 {
    let Gains { found, ideal } = Gains::new(ranked, gain);
    let (mut dcg_found, mut dcg_ideal, mut sum, mut hits) = (0.0, 0.0, 0.0, 0.0);
    for rank in 0..found.len().max(ideal.len()) {
        dcg_ideal += ideal.get(rank).map_or(0.0, |gain| discounted(rank, *gain));
        if let Some(gain) = found.get(rank) {
            dcg_found += discounted(rank, *gain);
            if *gain > 0.0 {
                sum += dcg_found / dcg_ideal;
                hits += 1.0;
            }
        }
    }
    sum += (ideal.len() as f64 - hits) * dcg_found / dcg_ideal;
    if sum > 0.0 { sum / ideal.len() as f64 } else { 0.0 }
}

/// The mean of nDCG over the ranks before which the ideal gain changes, and over the end where more was
/// retrieved than the ideal ranking has. Not a number where no document has a gain.
pub(super) fn ndcg_at_changes(ranked: &Ranked, gain: &Gain) -> f64 {
    let Gains { found, ideal } = Gains::new(ranked, gain);
    let (mut dcg_found, mut dcg_ideal, mut sum, mut changes) = (0.0, 0.0, 0.0, 0.0);
    for rank in 0..found.len().max(ideal.len() + 1) {
        if (1..=ideal.len()).contains(&rank) && ideal.get(rank) != ideal.get(rank - 1) {
            sum += dcg_found / dcg_ideal;
            changes += 1.0;
        }
        dcg_found += found.get(rank).map_or(0.0, |gain| discounted(rank, *gain));
        dcg_ideal += ideal.get(rank).map_or(0.0, |gain| discounted(rank, *gain));
    }
    if found.len() > ideal.len() + 1 && dcg_ideal > 0.0 {
        sum += dcg_found / dcg_ideal;
        changes += 1.0;
    }
    if changes > 0.0 { sum / changes } else { NO_NUMBER }
}

/// trec_eval's G: each gain over log2(2 + what the ideal ranking has found more up to there), over the sum
/// of the ideal gains. A rank of the ideal ranking counts 1 at least.
pub(super) fn relative_gain(ranked: &Ranked, gain: &Gain) -> f64 {
    let Gains { found, ideal } = Gains::new(ranked, gain);
    let (mut sum_found, mut sum_ideal, mut sum) = (0.0, 0.0, 0.0);
    for (rank, gain) in found.into_iter().enumerate() {
        sum_found += gain;
        sum_ideal += ideal.get(rank).map_or(1.0, |ideal| ideal.max(1.0));
        if gain != 0.0 {
            sum += gain / f64::log2(2.0 + sum_ideal - sum_found);
        }
    }
    let all = ideal.iter().fold(0.0, |sum, gain| sum + gain);
    if all > 0.0 { sum / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::ranked::tests::ranked;

    fn example() -> Ranked {
        ranked(
            &[("a", 2), ("b", 1), ("c", 0), ("d", -1)],
            &[("b", 5.0), ("x", 4.0), ("a", 3.0), ("d", 2.0), ("c", 1.0)],
            true,
        )
    }

    #[test]
    fn gains_by_hand() {
        let r = example();
        let log = |x: f64| x.log2();
        let ideal = 2.0 + 1.0 / log(3.0);
        let dcg = 1.0 + 2.0 / log(4.0);
        assert!((ndcg(&r, &Gain::GRADE, usize::MAX) - dcg / ideal).abs() < 1e-15);
        assert!((ndcg(&r, &Gain::GRADE, 2) - 1.0 / ideal).abs() < 1e-15);
        let exponential = (1.0 + 3.0 / 2.0) / (3.0 + 1.0 / log(3.0));
        assert!((ndcg(&r, &Gain::Exponential, 10) - exponential).abs() < 1e-15);
        let table = Gain::Table(vec![(1, 4.0), (-1, 0.5)]);
        let of_table = (4.0 + 0.5 / log(3.0) + 2.0 / log(4.0)) / (4.0 + 2.0 / log(3.0));
        assert!((ndcg(&r, &table, usize::MAX) - of_table).abs() < 1e-15);
        // At b, where the ideal ranking has a, and at a, where it has both.
        let at_relevant = (1.0 / 2.0 + dcg / ideal) / 2.0;
        assert!((ndcg_at_relevant(&r, &Gain::GRADE) - at_relevant).abs() < 1e-15);
        // Before ranks 1 and 2, and at the end.
        let at_changes = (1.0 / 2.0 + 1.0 / ideal + dcg / ideal) / 3.0;
        assert!((ndcg_at_changes(&r, &Gain::GRADE) - at_changes).abs() < 1e-15);
        let g = (1.0 / log(2.0 + 2.0 - 1.0) + 2.0 / log(2.0 + 4.0 - 3.0)) / 3.0;
        assert!((relative_gain(&r, &Gain::GRADE) - g).abs() < 1e-15);
    }

    #[test]
    fn nothing_to_gain() {
        let r = ranked(&[("a", 0)], &[("a", 1.0)], true);
        assert_eq!(ndcg(&r, &Gain::GRADE, 10), 0.0);
        assert_eq!(ndcg_at_relevant(&r, &Gain::GRADE), 0.0);
        assert!(ndcg_at_changes(&r, &Gain::GRADE).is_nan());
        assert_eq!(relative_gain(&r, &Gain::GRADE), 0.0);
    }

    #[test]
    fn a_grade_beyond_any_scale_takes_no_memory() {
        let r = ranked(&[("a", i64::MAX)], &[("a", 1.0)], true);
        assert_eq!(ndcg(&r, &Gain::Table(vec![(1, 2.0)]), 10), 1.0);
    }
}
