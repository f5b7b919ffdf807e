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
//! assert_eq!(result.mean(0), 0.5);
//! # Ok::<(), optical_core::Error>(())
//! ```

mod measure;
pub mod trec;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::pool;
pub use measure::{Measure, Ranked};

/// Judgments: topic → document → relevance.
pub type Qrels = BTreeMap<Vec<u8>, HashMap<Vec<u8>, i64>>;
/// A run: topic → documents with scores, in no particular order.
pub type Run = BTreeMap<Vec<u8>, Vec<(Vec<u8>, f64)>>;

/// How topics and judgments are taken.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateOptions {
    /// Judgments of at least this count as relevant (trec_eval's `-l`); nDCG uses the grades.
    pub relevance_level: i64,
    /// Topics that the run lacks count as 0 (trec_eval's `-c`), instead of not at all.
    pub complete: bool,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        EvaluateOptions { relevance_level: 1, complete: false }
    }
}

/// Measures per topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Topic ids in byte order.
    pub topics: Vec<Vec<u8>>,
    /// `values[measure][topic]`.
    pub values: Vec<Vec<f64>>,
}

impl Evaluation {
    /// Mean of a measure over topics; 0 without topics.
    pub fn mean(&self, measure: usize) -> f64 {
        let values = &self.values[measure];
        if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
    }
}

/// Evaluate a run. Topics are computed in parallel; order and thread count change no digit.
pub fn evaluate(qrels: &Qrels, run: &Run, measures: &[Measure], options: &EvaluateOptions) -> Evaluation {
    let topics: Vec<(&Vec<u8>, _, _)> = qrels
        .iter()
        .filter(|(id, _)| options.complete || run.contains_key(*id))
        .map(|(id, judged)| (id, judged, run.get(id).map_or(&[][..], Vec::as_slice)))
        .collect();
    let rows: Vec<Vec<f64>> = pool::run(|| {
        topics
            .par_iter()
            .map(|(_, judged, retrieved)| {
                let ranked = Ranked::new(judged, retrieved, options.relevance_level);
                measures.iter().map(|m| m.of(&ranked)).collect()
            })
            .collect()
    });
    Evaluation {
        topics: topics.into_iter().map(|(id, _, _)| id.clone()).collect(),
        values: (0..measures.len()).map(|m| rows.iter().map(|row| row[m]).collect()).collect(),
    }
}
