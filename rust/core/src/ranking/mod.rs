//! TREC runs and judgments, and trec_eval's measures.
//!
//! trec_eval 9.0.8 is the definition: scores are compared as `f32`, ties go to the higher document
//! id (bytes), topics are those that both the judgments and the run have unless `complete`, and
//! means are taken over topics in byte order of their ids.
//!
//! ```
//! use optical_core::ranking::{Measure, evaluate, trec};
//!
//! let qrels = trec::parse_qrels("qrels", b"q1 0 d1 1\nq1 0 d2 0\n")?;
//! let run = trec::parse_run("run", b"q1 Q0 d2 1 0.9 x\nq1 Q0 d1 2 0.8 x\n")?;
//! let measures = [Measure::parse("map")?, Measure::parse("nDCG@10")?];
//! let result = evaluate(&qrels, &run, &measures, &Default::default());
//! assert_eq!(result.summary(0), 0.5);
//! # Ok::<(), optical_core::Error>(())
//! ```

mod measure;
pub mod trec;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::pool;
pub use measure::{Measure, Ranked, Summary};

/// Judgments: topic → document → relevance. Ids are borrowed from where they were read.
pub type Qrels<'t> = BTreeMap<&'t [u8], Judgments<'t>>;
/// Judgments of one topic.
pub type Judgments<'t> = HashMap<&'t [u8], i64, foldhash::fast::FixedState>;
/// A run: topic → documents with scores, in no particular order, none twice.
pub type Run<'t> = BTreeMap<&'t [u8], Vec<(&'t [u8], f64)>>;

/// How topics and judgments are taken.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateOptions {
    /// Judgments of at least this count as relevant (trec_eval's `-l`); nDCG uses the grades.
    pub relevance_level: i64,
    /// Topics that the run lacks count as 0 (trec_eval's `-c`), instead of not at all.
    pub complete: bool,
    /// Documents of a topic that count, the best by score (trec_eval's `-M`).
    pub max_documents: Option<usize>,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        EvaluateOptions { relevance_level: 1, complete: false, max_documents: None }
    }
}

/// Measures per topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What was measured.
    pub measures: Vec<Measure>,
    /// Topic ids in byte order.
    pub topics: Vec<Vec<u8>>,
    /// `values[measure][topic]`.
    pub values: Vec<Vec<f64>>,
}

impl Evaluation {
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
pub fn evaluate(
    qrels: &Qrels<'_>,
    run: &Run<'_>,
    measures: &[Measure],
    options: &EvaluateOptions,
) -> Evaluation {
    let topics: Vec<(&[u8], _, _)> = qrels
        .iter()
        .filter(|(id, _)| options.complete || run.contains_key(*id))
        .map(|(id, judged)| (*id, judged, run.get(id).map_or(&[][..], Vec::as_slice)))
        .collect();
    let rows: Vec<Vec<f64>> = pool::run(|| {
        topics
            .par_iter()
            .map(|(_, judged, retrieved)| {
                let mut ranked = Ranked::new(judged, retrieved, options.relevance_level);
                ranked.grades.truncate(options.max_documents.unwrap_or(usize::MAX));
                measures.iter().map(|m| m.of(&ranked)).collect()
            })
            .collect()
    });
    Evaluation {
        measures: measures.to_vec(),
        topics: topics.into_iter().map(|(id, _, _)| id.to_vec()).collect(),
        values: (0..measures.len()).map(|m| rows.iter().map(|row| row[m]).collect()).collect(),
    }
}
