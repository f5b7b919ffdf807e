//! `optical_core::ranking` for files, text, dicts, columns and numbers.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::AtomicUsize;

use memmap2::Mmap;
use numpy::PyReadonlyArray1;
use optical_core::ranking::{
    self as core, EvaluateOptions, Evaluation, Id, Measure, Qrels, Retrieved, Run, TextColumn, Version, trec,
};
use optical_core::{Error, Result};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};

use crate::enter::{InputError, Watch, watched};

type Array<'py, T> = PyReadonlyArray1<'py, T>;
type Ids<'py> = (Array<'py, u8>, Array<'py, i64>);

/// Judgments or a run, as Python has them.
#[derive(FromPyObject)]
pub(crate) enum Source<'py, V: numpy::Element> {
    /// A file that can be mapped.
    File(String),
    /// The content of a file, with its name.
    Text(String, PyBackedBytes),
    /// Topics, documents and values in columns of text.
    Columns(Ids<'py>, Ids<'py>, Array<'py, V>),
    /// The same with numbers for ids.
    Numbers(Array<'py, i64>, Array<'py, i64>, Array<'py, V>),
    /// Topic → document → value.
    Dict(HashMap<String, HashMap<String, V>>),
}

/// The same, in memory without Python.
enum Data<'a, V> {
    Text(&'a str, &'a [u8]),
    Columns(TextColumn<'a>, TextColumn<'a>, &'a [V]),
    Numbers(&'a [i64], &'a [i64], &'a [V]),
    Dict(&'a HashMap<String, HashMap<String, V>>),
}

/// Maps the file of a source into memory, if it is one.
fn map<V: numpy::Element>(source: &Source<'_, V>) -> Result<Option<Mmap>> {
    let Source::File(path) = source else { return Ok(None) };
    let unreadable = |e: std::io::Error| Error::Argument(format!("{path}: cannot be read ({e})"));
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the map is read as plain bytes, whose values nothing unsafe relies on. A program that
    // changes the file meanwhile changes the results; one that cuts it off ends this process with a
    // bus error, as with every reader of mapped files.
    unsafe { Mmap::map(&file) }.map(Some).map_err(unreadable)
}

fn contiguous<'a, T: numpy::Element>(array: &'a Array<'_, T>) -> Result<&'a [T]> {
    array.as_slice().map_err(|_| Error::Argument("columns: expected contiguous arrays".into()))
}

fn text<'a>(ids: &'a Ids<'_>) -> Result<TextColumn<'a>> {
    TextColumn::new(contiguous(&ids.0)?, contiguous(&ids.1)?)
}

fn data<'a, V: numpy::Element>(source: &'a Source<'_, V>, mapped: &'a Option<Mmap>) -> Result<Data<'a, V>> {
    Ok(match source {
        Source::File(name) => Data::Text(name, mapped.as_deref().unwrap_or_default()),
        Source::Text(name, text) => Data::Text(name, text),
        Source::Columns(topics, documents, values) => {
            Data::Columns(text(topics)?, text(documents)?, contiguous(values)?)
        }
        Source::Numbers(topics, documents, values) => {
            Data::Numbers(contiguous(topics)?, contiguous(documents)?, contiguous(values)?)
        }
        Source::Dict(topics) => Data::Dict(topics),
    })
}

/// Topic ids of a result, as Python gets them.
enum Topics {
    Text(Vec<Vec<u8>>),
    Numbers(Vec<i64>),
}

struct Found {
    topics: Topics,
    retrieved: Vec<bool>,
    values: Vec<Vec<f64>>,
    summaries: Vec<f64>,
}

fn found<T>(result: Evaluation<T>, topics: impl Fn(Vec<T>) -> Topics) -> Found {
    Found {
        summaries: (0..result.measures.len()).map(|m| result.summary(m)).collect(),
        topics: topics(result.topics),
        retrieved: result.retrieved,
        values: result.values,
    }
}

fn as_text(topics: Vec<&[u8]>) -> Topics {
    Topics::Text(topics.into_iter().map(<[u8]>::to_vec).collect())
}

fn mixed() -> Error {
    Error::Argument("qrels, run: one has numbers for ids, the other text; expected the same in both".into())
}

/// What a run is evaluated with, whatever it is read from.
struct Job<'a> {
    measures: &'a [Measure],
    options: EvaluateOptions<'a>,
    watch: &'a Watch,
}

impl Job<'_> {
    fn run<T: Id, D: Id, R: Retrieved<D>>(
        &self,
        qrels: &Qrels<T, D>,
        run: &Run<T, R>,
    ) -> Result<Evaluation<T>> {
        self.watch.set_total(run.len());
        core::evaluate(qrels, run, self.measures, &self.options)
    }

    fn all(&self, qrels: &Data<'_, i64>, run: &Data<'_, f64>) -> Result<Found> {
        match (qrels, run) {
            (Data::Numbers(t, d, r), Data::Numbers(topics, documents, scores)) => {
                let qrels = core::qrels_of_rows(*t, *d, r)?;
                let run = core::run_of_rows(*topics, *documents, scores)?;
                Ok(found(self.run(&qrels, &run)?, Topics::Numbers))
            }
            (qrels, run) => {
                let qrels = self.qrels(qrels)?;
                Ok(found(self.text(&qrels, run)?, as_text))
            }
        }
    }

    fn qrels<'t>(&self, qrels: &Data<'t, i64>) -> Result<Qrels<&'t [u8], &'t [u8]>> {
        match *qrels {
            Data::Text(file, text) => trec::parse_qrels(file, text, self.options.version),
            Data::Columns(topics, documents, relevance) => core::qrels_of_rows(topics, documents, relevance),
            Data::Dict(topics) => Ok(topics
                .iter()
                .map(|(t, judged)| (t.as_bytes(), judged.iter().map(|(d, r)| (d.as_bytes(), *r)).collect()))
                .collect()),
            Data::Numbers(..) => Err(mixed()),
        }
    }

    fn text<'t>(
        &self,
        qrels: &Qrels<&'t [u8], &'t [u8]>,
        run: &Data<'t, f64>,
    ) -> Result<Evaluation<&'t [u8]>> {
        match *run {
            Data::Text(file, text) => self.run(qrels, &trec::parse_run(file, text, self.options.version)),
            Data::Columns(topics, documents, scores) => {
                self.run(qrels, &core::run_of_rows(topics, documents, scores)?)
            }
            Data::Dict(topics) => {
                let documents = |of: &'t HashMap<String, f64>| -> Vec<(&'t [u8], f64)> {
                    of.iter().map(|(d, s)| (d.as_bytes(), *s)).collect()
                };
                self.run(qrels, &topics.iter().map(|(t, of)| (t.as_bytes(), documents(of))).collect())
            }
            Data::Numbers(..) => Err(mixed()),
        }
    }
}

type Evaluated<'py> = (Vec<String>, Bound<'py, PyList>, Vec<bool>, Vec<f64>, Bound<'py, PyBytes>);

/// Evaluate a run; see `optical_rs.ranking.evaluate`.
///
/// Returns (measure names, topic ids as bytes or integers, which topics the run has, means,
/// values (measures × topics) as the bytes of doubles). `options` is (relevance level, complete, most documents, trec_eval's version).
/// `progress` is called now and then with the topics done and all topics.
#[pyfunction]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    qrels: Source<'py, i64>,
    run: Source<'py, f64>,
    measures: Vec<String>,
    options: (i64, bool, Option<usize>, u32),
    progress: Option<Py<PyAny>>,
) -> PyResult<Evaluated<'py>> {
    let raise = |e: Error| InputError::new_err(e.to_string());
    let measures: Vec<Measure> =
        measures.iter().map(|m| Measure::parse(m)).collect::<Result<_>>().map_err(raise)?;
    let (relevance_level, complete, max_documents, version) = options;
    let version = if version == 10 { Version::Ten } else { Version::Nine };
    let (mapped_qrels, mapped_run) = (map(&qrels).map_err(raise)?, map(&run).map_err(raise)?);
    let qrels = data(&qrels, &mapped_qrels).map_err(raise)?;
    let run = data(&run, &mapped_run).map_err(raise)?;
    let found = watched(py, f64::INFINITY, progress, |watch| {
        let done: &AtomicUsize = &watch.done;
        let cancel = Some(&watch.cancel);
        let options =
            EvaluateOptions { relevance_level, complete, max_documents, version, cancel, done: Some(done) };
        Job { measures: &measures, options, watch }.all(&qrels, &run)
    })?;
    let names = measures.iter().map(Measure::name).collect();
    let values: Vec<u8> = found.values.iter().flatten().flat_map(|v| v.to_ne_bytes()).collect();
    let topics = match found.topics {
        Topics::Text(ids) => PyList::new(py, ids.iter().map(|id| PyBytes::new(py, id)))?,
        Topics::Numbers(ids) => PyList::new(py, ids)?,
    };
    Ok((names, topics, found.retrieved, found.summaries, PyBytes::new(py, &values)))
}

/// The tag of the last line of a run's text, which trec_eval prints as `runid`.
#[pyfunction]
pub(crate) fn run_tag<'py>(py: Python<'py>, run: Source<'py, f64>) -> PyResult<Bound<'py, PyBytes>> {
    let raise = |e: Error| InputError::new_err(e.to_string());
    let mapped = map(&run).map_err(raise)?;
    Ok(match data(&run, &mapped).map_err(raise)? {
        Data::Text(_, text) => PyBytes::new(py, trec::run_tag(text)),
        _ => PyBytes::new(py, b""),
    })
}
