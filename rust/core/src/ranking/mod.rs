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
//! assert_eq!(result.summary(0), 0.5);
//! # Ok::<(), optical_core::Error>(())
//! ```

mod measure;
mod ranked;
mod rows;
pub mod trec;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::{Error, Result};
pub use measure::{Measure, Summary};
pub use ranked::{Fault, Id, Judgments, Ranked, Retrieved};
use ranked::{Ranking, Scratch, all_or_first};
pub use rows::{Column, Rows, TextColumn, qrels_of_rows, run_of_rows};

/// Judgments: topic → document → relevance.
pub type Qrels<T, D> = BTreeMap<T, Judgments<D>>;
/// A run: topic → where its documents are read from.
pub type Run<T, R> = BTreeMap<T, R>;

/// Whose rules hold where versions of trec_eval differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Documents of a topic that count, the best by score (trec_eval's `-M`).
    pub max_documents: Option<usize>,
    /// Whose rules hold.
    pub version: Version,
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
            max_documents: None,
            version: Version::Nine,
            cancel: None,
            done: None,
        }
    }
}

/// Measures per topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation<T> {
    /// What was measured.
    pub measures: Vec<Measure>,
    /// Topic ids in order.
    pub topics: Vec<T>,
    /// Which topics the run has.
    pub retrieved: Vec<bool>,
    /// `values[measure][topic]`.
    pub values: Vec<Vec<f64>>,
}

impl<T> Evaluation<T> {
    /// One value of a measure for all topics: their mean, or as [`Measure::summary`] says.
    pub fn summary(&self, measure: usize) -> f64 {
        let values = &self.values[measure];
        let sum = values.iter().fold(0.0, |sum, x| sum + x);
        match self.measures[measure].summary() {
            Summary::Sum => sum,
            _ if values.is_empty() => 0.0,
            Summary::Mean => sum / values.len() as f64,
            Summary::GeometricMean => (sum / values.len() as f64).exp(),
        }
    }
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
    let how = Ranking {
        single: options.version == Version::Nine,
        relevance_level: options.relevance_level,
        max_documents: options.max_documents.unwrap_or(usize::MAX),
        ties: measures.contains(&Measure::NumTied),
    };
    let values = |ranked: &Ranked| measures.iter().map(|m| m.of(ranked)).collect::<Vec<f64>>();
    let cancelled = || options.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed));
    let topics: Vec<(&T, &R)> = run.iter().collect();
    let rows: Vec<std::result::Result<Option<Vec<f64>>, Fault>> = {
        let topics = topics.par_iter().with_min_len(4);
        let measured = topics.map_init(Scratch::default, |scratch, (topic, documents)| {
            if cancelled() {
                return Ok(None);
            }
            scratch.read(*topic, *documents, how.single)?;
            if let Some(done) = options.done {
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(qrels.get(*topic).map(|judged| values(&scratch.rank(judged, &how))))
        });
        measured.collect()
    };
    if cancelled() {
        return Err(Error::Interrupted);
    }
    let rows = all_or_first(rows).map_err(|(topic, fault)| topics[topic].1.error(fault))?;
    let mut found: BTreeMap<T, Vec<f64>> =
        topics.iter().zip(rows).filter_map(|((topic, _), row)| Some((**topic, row?))).collect();
    let mut result = Evaluation {
        measures: measures.to_vec(),
        topics: Vec::new(),
        retrieved: Vec::new(),
        values: vec![Vec::with_capacity(found.len()); measures.len()],
    };
    for (topic, judged) in qrels {
        let row = found.remove(topic);
        let retrieved = row.is_some();
        if !retrieved && !options.complete {
            continue;
        }
        let row = row.unwrap_or_else(|| values(&Ranked::nothing(judged, how.relevance_level)));
        result.topics.push(*topic);
        result.retrieved.push(retrieved);
        result.values.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    Ok(result)
}
