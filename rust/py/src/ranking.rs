//! `optical_core::ranking` for dicts and TREC text.

use std::borrow::Cow;
use std::collections::HashMap;

use numpy::{PyArray1, PyArray2};
use optical_core::ranking::{self as core, EvaluateOptions, Measure, Qrels, Run, trec};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::enter::{InputError, enter};

/// Judgments or a run: TREC text with the name of its file, or a dict of dicts.
#[derive(FromPyObject)]
pub(crate) enum Source<V> {
    Text(String, PyBackedBytes),
    Dict(HashMap<String, HashMap<String, V>>),
}

fn qrels(source: &Source<i64>) -> optical_core::Result<Qrels<'_>> {
    match source {
        Source::Text(file, text) => trec::parse_qrels(file, text),
        Source::Dict(topics) => Ok(topics
            .iter()
            .map(|(t, judged)| (t.as_bytes(), judged.iter().map(|(d, r)| (d.as_bytes(), *r)).collect()))
            .collect()),
    }
}

fn run(source: &Source<f64>) -> optical_core::Result<Run<'_>> {
    match source {
        Source::Text(file, text) => trec::parse_run(file, text),
        Source::Dict(topics) => {
            for (topic, retrieved) in topics {
                if let Some((document, _)) = retrieved.iter().find(|(_, s)| s.is_nan()) {
                    return Err(optical_core::Error::Argument(format!(
                        "run: topic '{topic}', document '{document}': score is NaN"
                    )));
                }
            }
            Ok(topics
                .iter()
                .map(|(t, docs)| (t.as_bytes(), docs.iter().map(|(d, s)| (d.as_bytes(), *s)).collect()))
                .collect())
        }
    }
}

type Evaluated<'py> =
    (Vec<String>, Vec<Cow<'static, [u8]>>, Bound<'py, PyArray2<f64>>, Bound<'py, PyArray1<f64>>);

/// Evaluate a run; see `optical_rs.ranking.evaluate`.
///
/// Returns (measure names, topic ids as bytes, values (measures × topics), means).
#[pyfunction]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    qrels: Source<i64>,
    run: Source<f64>,
    measures: Vec<String>,
    relevance_level: i64,
    complete: bool,
    max_documents: Option<usize>,
) -> PyResult<Evaluated<'py>> {
    let raise = |e: optical_core::Error| InputError::new_err(e.to_string());
    let measures: Vec<Measure> =
        measures.iter().map(|m| Measure::parse(m)).collect::<Result<_, _>>().map_err(raise)?;
    let options = EvaluateOptions { relevance_level, complete, max_documents };
    let wanted = &measures;
    let result = enter(py, 0.0, move |_| {
        Ok(core::evaluate(&self::qrels(&qrels)?, &self::run(&run)?, wanted, &options))
    })?;
    let names = measures.iter().map(Measure::name).collect();
    let means = PyArray1::from_iter(py, (0..measures.len()).map(|m| result.summary(m)));
    let mut values = ndarray::Array2::zeros((measures.len(), result.topics.len()));
    for (mut row, given) in values.rows_mut().into_iter().zip(&result.values) {
        row.iter_mut().zip(given).for_each(|(x, v)| *x = *v);
    }
    let topics = result.topics.into_iter().map(Cow::Owned).collect();
    Ok((names, topics, PyArray2::from_owned_array(py, values), means))
}
