//! TREC runs and judgments, and trec_eval's measures.
//!
//! trec_eval 9.0.8 is the definition: scores are compared as `f32`, ties go to the higher document
//! id (bytes), topics are those that both the judgments and the run have unless `complete`, and
//! means are taken over topics in byte order of their ids. [`Version::Ten`] follows trec_eval 10.
//!
//! A run is never held as a whole: the places of each topic's documents are found first, then every
//! topic is read, ranked and measured by one thread, and forgotten.
//!
//! ```
//! use optical_core::ranking::{Measure, Version, evaluate, trec};
//!
//! let qrels = trec::parse_qrels("qrels", b"q1 0 d1 1\nq1 0 d2 0\n", Version::Nine)?;
//! let run = trec::parse_run("run", b"q1 Q0 d2 1 0.9 x\nq1 Q0 d1 2 0.8 x\n", Version::Nine);
//! let measures = [Measure::parse("map")?, Measure::parse("nDCG@10")?];
//! let result = evaluate(&qrels, &run, &measures, &Default::default())?;
//! assert_eq!(result.summaries[0], 0.5);
//! # Ok::<(), optical_core::Error>(())
//! ```

mod gain;
mod lines;
mod measure;
mod name;
mod preference;
mod qrels;
mod ranked;
mod rows;
mod runs;
mod scratch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::{Result, error::proceed};
/// Runs and judgments in the formats of TREC.
pub mod trec {
    pub use super::lines::Places;
    pub use super::qrels::{parse_groups, parse_preferences, parse_qrels, read_qrels};
    pub use super::runs::{parse_run, read_run, run_tag};
}

pub use gain::Gain;
pub use measure::{ALL, Formula, Measure, Summary};
pub use preference::{Preference, Statement, evaluate_preferences};
pub use qrels::{GroupQrels, Preferences};
pub use ranked::{AtLevel, Fault, Id, Judgments, Ranked, Retrieved};
use ranked::{Read, all_or_first};
pub use rows::{Column, Rows, TextColumn, qrels_of_rows, run_of_rows};
use scratch::{Ranking, Scratch};

/// Judgments: topic → document → relevance.
pub type Qrels<T, D> = BTreeMap<T, Judgments<D>>;
/// A run: topic → where its documents are read from.
pub type Run<T, R> = BTreeMap<T, R>;

/// Topics with their documents and what is said of each, in the order of a file.
pub type InOrder<'t, V> = Vec<(&'t [u8], Vec<(&'t [u8], V)>)>;

/// Whose rules hold where versions of trec_eval differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Version {
    /// 9.0.8: scores are compared in single precision; `#` has no meaning.
    #[default]
    Nine,
    /// 10: scores are compared in double precision; lines that begin with `#` are comments.
    Ten,
}

/// How topics and judgments are taken.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateOptions<'w> {
    /// Judgments of at least this count as relevant (trec_eval's `-l`); nDCG uses the grades.
    pub relevance_level: i64,
    /// Topics that the run lacks count as 0 (trec_eval's `-c`), instead of not at all.
    pub complete: bool,
    /// Documents without a judgment are taken out of the ranking first (trec_eval's `-J`).
    pub judged_only: bool,
    /// Documents of a topic that count, the best by score (trec_eval's `-M`).
    pub max_documents: Option<usize>,
    /// Documents of the collection (trec_eval's `-N`), which utility counts.
    pub collection_size: i64,
    /// Whose rules hold.
    pub version: Version,
    /// Length of the strings of relevance that are wanted of each topic (trec_eval's `relstring`).
    pub strings: Option<usize>,
    /// Set from outside to stop.
    pub cancel: Option<&'w AtomicBool>,
    /// Topics done so far.
    pub done: Option<&'w AtomicUsize>,
}

impl Default for EvaluateOptions<'_> {
    fn default() -> Self {
        EvaluateOptions {
            relevance_level: 1,
            complete: false,
            judged_only: false,
            max_documents: None,
            collection_size: 0,
            version: Version::Nine,
            strings: None,
            cancel: None,
            done: None,
        }
    }
}

/// Measures per topic.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation<T> {
    /// Topic ids in order.
    pub topics: Vec<T>,
    /// Which topics the run has.
    pub retrieved: Vec<bool>,
    /// Judged topics that the run does not have, whether they count or not.
    pub missing: Vec<T>,
    /// Topics of the run that are not judged.
    pub unjudged: Vec<T>,
    /// `values[measure][topic]`.
    pub values: Vec<Vec<f64>>,
    /// Each measure over all topics.
    pub summaries: Vec<f64>,
    /// How each was made of the topics' values.
    pub kinds: Vec<Summary>,
    /// What the first documents of each topic are, where that was asked for.
    pub strings: Vec<String>,
}

impl<T> Evaluation<T> {
    /// The same with other ids, which may outlive what the topics were read from.
    pub fn named<U>(self, name: impl Fn(T) -> U) -> Evaluation<U> {
        let all = |ids: Vec<T>| ids.into_iter().map(&name).collect();
        Evaluation {
            topics: all(self.topics),
            missing: all(self.missing),
            unjudged: all(self.unjudged),
            retrieved: self.retrieved,
            values: self.values,
            summaries: self.summaries,
            kinds: self.kinds,
            strings: self.strings,
        }
    }
}

/// What statements come to, or how they contradict each other.
type Stated<T> = std::result::Result<T, String>;
/// What is known of one topic: its values, and what its first documents are.
type Row = (Vec<f64>, String);

/// The values over all topics: their mean, or as the summary says.
fn summarise(values: &[f64], summary: Summary) -> f64 {
    let sum = values.iter().fold(0.0, |sum, x| sum + x);
    match summary {
        Summary::Sum => sum,
        _ if values.is_empty() => 0.0,
        Summary::Mean => sum / values.len() as f64,
        Summary::GeometricMean => (sum / values.len() as f64).exp(),
    }
}

/// Rank every topic of the run, measure those that are judged, and gather what comes of it.
fn gather<T: Id, D: Id, R: Retrieved<D>, J: Sync>(
    judged: &BTreeMap<T, J>,
    run: &Run<T, R>,
    kinds: Vec<Summary>,
    ties: bool,
    options: &EvaluateOptions<'_>,
    measure: impl Fn(&Scratch<D>, &Ranking, &J) -> Stated<Row> + Sync,
    nothing: impl Fn(&J) -> Vec<f64>,
) -> Result<Evaluation<T>> {
    let how = Ranking {
        single: options.version == Version::Nine,
        max_documents: options.max_documents.unwrap_or(usize::MAX),
        ties,
    };
    let topics: Vec<(&T, &R)> = run.iter().collect();
    let rows: Vec<Read<Option<Row>>> = {
        let topics = topics.par_iter().with_min_len(4);
        let measured = topics.map_init(Scratch::default, |scratch, (topic, documents)| {
            if proceed(options.cancel).is_err() {
                return Ok(None);
            }
            scratch.read(*topic, *documents, how.single)?;
            if let Some(done) = options.done {
                done.fetch_add(1, Ordering::Relaxed);
            }
            // A topic without documents is as good as missing, as it would be in a file.
            let judged = judged.get(*topic).filter(|_| scratch.documents().next().is_some());
            let row = judged.map(|judged| measure(scratch, &how, judged)).transpose();
            let fault = |reason| Fault::contradiction(documents.position(0), reason);
            row.map_err(|reason| fault(format!("topic '{}': {reason}", topic.show())))
        });
        measured.collect()
    };
    proceed(options.cancel)?;
    let rows = all_or_first(rows).map_err(|(topic, fault)| topics[topic].1.error(fault))?;
    let mut found: BTreeMap<T, Row> =
        topics.iter().zip(rows).filter_map(|((topic, _), row)| Some((**topic, row?))).collect();
    let mut result = Evaluation {
        topics: Vec::new(),
        retrieved: Vec::new(),
        missing: Vec::new(),
        unjudged: run.keys().filter(|topic| !judged.contains_key(topic)).copied().collect(),
        values: vec![Vec::with_capacity(found.len()); kinds.len()],
        summaries: Vec::new(),
        kinds,
        strings: Vec::new(),
    };
    for (topic, judged) in judged {
        let row = found.remove(topic);
        let retrieved = row.is_some();
        if !retrieved {
            result.missing.push(*topic);
            if !options.complete {
                continue;
            }
        }
        let (row, string) = row.unwrap_or_else(|| (nothing(judged), String::new()));
        result.topics.push(*topic);
        result.retrieved.push(retrieved);
        result.strings.extend(options.strings.map(|_| string));
        result.values.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    let columns = result.values.iter().zip(&result.kinds);
    result.summaries = columns.map(|(values, summary)| summarise(values, *summary)).collect();
    Ok(result)
}

/// Measures of one topic's ranking, each at its level.
fn values(ranked: Ranked, measures: &[Measure], options: &EvaluateOptions<'_>) -> Row {
    let wanted = options.judged_only || measures.iter().any(|m| m.judged_only);
    let judged_only = wanted.then(|| ranked.judged_only());
    let of = |only: bool| judged_only.as_ref().filter(|_| only || options.judged_only).unwrap_or(&ranked);
    let value = |measure: &Measure| {
        let level = measure.relevance_level.unwrap_or(options.relevance_level);
        measure.formula.of(&of(measure.judged_only).at(level, options.collection_size, options.version))
    };
    let string = options.strings.map(|length| of(false).relevance_string(length));
    (measures.iter().map(value).collect(), string.unwrap_or_default())
}

/// What a topic without results counts for each measure.
fn values_of_nothing<D>(judged: &Judgments<D>, measures: &[Measure], level: i64) -> Vec<f64> {
    let ranked = Ranked::new(Vec::new(), 0, judged);
    let num_rel = |m: &Measure| ranked.at(m.relevance_level.unwrap_or(level), 0, Version::Nine).num_rel;
    measures.iter().map(|m| m.formula.of_nothing(num_rel(m))).collect()
}

fn kinds(measures: &[Measure]) -> Vec<Summary> {
    measures.iter().map(|m| m.formula.summary()).collect()
}

/// Evaluate a run. Topics are computed in parallel; order and thread count change no digit.
///
/// # Errors
/// The first document of the run that cannot be read, has a score that is no number or comes twice
/// for its topic, judged or not; or a request to stop.
pub fn evaluate<T: Id, D: Id, R: Retrieved<D>>(
    qrels: &Qrels<T, D>,
    run: &Run<T, R>,
    measures: &[Measure],
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation<T>> {
    gather(
        qrels,
        run,
        kinds(measures),
        measures.iter().any(|m| m.formula == Formula::NumTied),
        options,
        |scratch: &Scratch<D>, how, judged| Ok(values(scratch.rank(judged, how), measures, options)),
        |judged| values_of_nothing(judged, measures, options.relevance_level),
    )
}

/// Evaluate a run by the judgments of several groups of judges: each topic's values are means over them.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_groups<T: Id, D: Id, R: Retrieved<D>>(
    qrels: &BTreeMap<T, Vec<Judgments<D>>>,
    run: &Run<T, R>,
    measures: &[Measure],
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation<T>> {
    let mean = |scratch: &Scratch<D>, how: &Ranking, groups: &Vec<Judgments<D>>| {
        let mut sums = vec![0.0; measures.len()];
        for judged in groups {
            let (row, _) = values(scratch.rank(judged, how), measures, options);
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sums.iter_mut().for_each(|sum| *sum /= groups.len() as f64);
        Ok((sums, String::new()))
    };
    let nothing = |groups: &Vec<Judgments<D>>| match groups.first() {
        Some(judged) => values_of_nothing(judged, measures, options.relevance_level),
        None => vec![0.0; measures.len()],
    };
    gather(qrels, run, kinds(measures), false, options, mean, nothing)
}
