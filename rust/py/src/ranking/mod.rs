//! `optical_core::ranking` for files, text, dicts, columns and numbers.

mod source;

use optical_core::ranking::{
    self as core, EvaluateOptions, Evaluation, InOrder, Measure, Preference, Qrels, Retrieved, Run, Summary,
    Version, trec,
};
use optical_core::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use rayon::prelude::*;

use crate::enter::{Watch, enter, watched};
use crate::errors::raise;
use source::{Data, Held, Source, Value};

/// A topic's id in a result.
enum Topic {
    Text(Vec<u8>),
    Number(i64),
}

fn list<'py>(py: Python<'py>, topics: &[Topic]) -> PyResult<Bound<'py, PyList>> {
    let id = |topic: &Topic| match topic {
        Topic::Text(id) => id_of(py, id),
        Topic::Number(id) => Ok(id.into_pyobject(py)?.into_any()),
    };
    PyList::new(py, topics.iter().map(id).collect::<PyResult<Vec<_>>>()?)
}

/// An id as text; bytes that are no UTF-8 become what `surrogateescape` makes of them, and can go back.
fn id_of<'py>(py: Python<'py>, id: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(id) {
        Ok(id) => Ok(PyString::new(py, id).into_any()),
        Err(_) => PyBytes::new(py, id).call_method1("decode", ("utf-8", "surrogateescape")),
    }
}

fn mixed() -> Error {
    Error::Argument("qrels, run: one has numbers for ids, the other text; expected the same in both".into())
}

/// What is computed of each topic.
enum Wanted {
    Measures(Vec<Measure>),
    /// Means over groups of judges.
    OfGroups(Vec<Measure>),
    /// With or without subgroups of statements.
    Preferences(Vec<Preference>, bool),
}

impl Wanted {
    fn new(format: &str, names: &[String]) -> Result<Self> {
        let measures = || names.iter().map(|name| Measure::parse(name)).collect::<Result<_>>();
        let preference = |name: &String| {
            let unknown = || Error::Argument(format!("measures: '{name}' is no measure of preferences"));
            Preference::parse(name).ok_or_else(unknown)
        };
        let preferences = || names.iter().map(preference).collect::<Result<_>>();
        match format {
            "qrels" => Ok(Wanted::Measures(measures()?)),
            "qrels_jg" => Ok(Wanted::OfGroups(measures()?)),
            "prefs" => Ok(Wanted::Preferences(preferences()?, true)),
            "qrels_prefs" => Ok(Wanted::Preferences(preferences()?, false)),
            _ => Err(Error::Argument(format!(
                "format: expected 'qrels', 'qrels_jg', 'prefs' or 'qrels_prefs', got '{format}'"
            ))),
        }
    }
}

fn summary_name(summary: Summary) -> &'static str {
    match summary {
        Summary::Sum => "sum",
        Summary::GeometricMean => "geometric mean",
        _ => "mean",
    }
}

/// What a run is evaluated with, whatever it is read from.
struct Job<'a> {
    wanted: &'a Wanted,
    options: EvaluateOptions<'a>,
    watch: &'a Watch,
}

impl Job<'_> {
    fn all(&self, qrels: &Data<'_, i64>, run: &Data<'_, f64>) -> Result<Evaluation<Topic>> {
        if let (Data::Numbers(t, d, r), Data::Numbers(topics, documents, scores), Wanted::Measures(wanted)) =
            (qrels, run, self.wanted)
        {
            let qrels = core::qrels_of_rows(*t, *d, r)?;
            let run = core::run_of_rows(*topics, *documents, scores)?;
            self.watch.set_total(run.len());
            return Ok(core::evaluate(&qrels, &run, wanted, &self.options)?.named(Topic::Number));
        }
        let found = match *run {
            Data::Text(file, text) => self.text(qrels, &trec::parse_run(file, text, self.options.version))?,
            Data::Columns(topics, documents, scores) => {
                self.text(qrels, &core::run_of_rows(topics, documents, scores)?)?
            }
            Data::Dict(topics) => {
                self.text(qrels, &topics.iter().map(|(topic, of)| (topic.as_slice(), of)).collect())?
            }
            Data::Numbers(..) => return Err(mixed()),
        };
        Ok(found.named(|topic| Topic::Text(topic.to_vec())))
    }

    fn text<'t, R: Retrieved<&'t [u8]>>(
        &self,
        qrels: &Data<'t, i64>,
        run: &Run<&'t [u8], R>,
    ) -> Result<Evaluation<&'t [u8]>> {
        self.watch.set_total(run.len());
        let (options, version) = (&self.options, self.options.version);
        match (self.wanted, qrels) {
            (Wanted::Measures(wanted), qrels) => {
                core::evaluate(&qrels_of_text(qrels, version)?, run, wanted, options)
            }
            (Wanted::OfGroups(wanted), Data::Text(file, text)) => {
                core::evaluate_groups(&trec::parse_groups(file, text, version)?, run, wanted, options)
            }
            (Wanted::Preferences(wanted, subgroups), Data::Text(file, text)) => {
                let statements = trec::parse_preferences(file, text, *subgroups, version)?;
                core::evaluate_preferences(&statements, run, wanted, options)
            }
            _ => Err(Error::Argument("format: judgments in this format are read from a file alone".into())),
        }
    }
}

fn qrels_of_text<'t>(qrels: &Data<'t, i64>, version: Version) -> Result<Qrels<&'t [u8], &'t [u8]>> {
    match *qrels {
        Data::Text(file, text) => trec::parse_qrels(file, text, version),
        Data::Columns(topics, documents, relevance) => core::qrels_of_rows(topics, documents, relevance),
        Data::Dict(topics) => {
            let judged =
                topics.par_iter().with_min_len(4).map(|(topic, of)| (topic.as_slice(), of.iter().collect()));
            Ok(judged.collect())
        }
        Data::Numbers(..) => Err(mixed()),
    }
}

fn version(compat: u32) -> Version {
    if compat == 10 { Version::Ten } else { Version::Nine }
}

/// Measures of a run; see `optical_rs.ranking.evaluate`.
#[pyclass(frozen, get_all, module = "optical_rs._core")]
pub(crate) struct Measured {
    /// Topic ids.
    topics: Py<PyList>,
    /// Which topics the run has.
    retrieved: Vec<bool>,
    /// Judged topics that the run does not have.
    missing: Py<PyList>,
    /// Topics of the run that are not judged.
    unjudged: Py<PyList>,
    /// Each measure over all topics.
    means: Vec<f64>,
    /// How each was made of the topics' values: `mean`, `sum` or `geometric mean`.
    summaries: Vec<&'static str>,
    /// Values (measures × topics) as the bytes of doubles.
    values: Py<PyBytes>,
    /// What the first documents of each topic are, if that was asked for.
    strings: Vec<String>,
}

/// Evaluate a run; see `optical_rs.ranking.evaluate`.
///
/// `strings` is the length of strings of relevance. `progress` is called now and then with the topics
/// done and all topics.
#[pyfunction]
#[pyo3(signature = (
    qrels, run, measures, *, relevance_level = 1, complete = false, judged_only = false,
    max_documents = None, collection_size = 0, compat = 9, format = "qrels", strings = None, progress = None
))]
pub(crate) fn evaluate(
    py: Python<'_>,
    qrels: Source<'_, i64>,
    run: Source<'_, f64>,
    measures: Vec<String>,
    relevance_level: i64,
    complete: bool,
    judged_only: bool,
    max_documents: Option<usize>,
    collection_size: i64,
    compat: u32,
    format: &str,
    strings: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Measured> {
    let wanted = Wanted::new(format, &measures).map_err(raise)?;
    let (qrels, run) = (Held::new(&qrels)?, Held::new(&run)?);
    let (qrels, run) = (qrels.data().map_err(raise)?, run.data().map_err(raise)?);
    let found = watched(py, f64::INFINITY, progress, |watch| {
        let options = EvaluateOptions {
            relevance_level,
            complete,
            judged_only,
            max_documents,
            collection_size,
            version: version(compat),
            strings,
            cancel: Some(&watch.cancel),
            done: Some(&watch.done),
        };
        Job { wanted: &wanted, options, watch }.all(&qrels, &run)
    })?;
    let values: Vec<u8> = found.values.iter().flatten().flat_map(|v| v.to_ne_bytes()).collect();
    Ok(Measured {
        topics: list(py, &found.topics)?.unbind(),
        missing: list(py, &found.missing)?.unbind(),
        unjudged: list(py, &found.unjudged)?.unbind(),
        retrieved: found.retrieved,
        means: found.summaries,
        summaries: found.kinds.into_iter().map(summary_name).collect(),
        values: PyBytes::new(py, &values).unbind(),
        strings: found.strings,
    })
}

/// The dict of dicts that a file is.
fn read<'py, V: Value + IntoPyObject<'py>>(
    py: Python<'py>,
    source: &Source<'py, V>,
    parse: for<'t> fn(&'t str, &'t [u8], Version) -> Result<InOrder<'t, V>>,
) -> PyResult<Bound<'py, PyDict>> {
    let held = Held::new(source)?;
    let Data::Text(file, text) = held.data().map_err(raise)? else { return Err(raise(mixed())) };
    let all = PyDict::new(py);
    for (topic, documents) in enter(py, 0.0, |_| parse(file, text, Version::Nine))? {
        let of = PyDict::new(py);
        for (document, value) in documents {
            of.set_item(id_of(py, document)?, value)?;
        }
        all.set_item(id_of(py, topic)?, of)?;
    }
    Ok(all)
}

/// A run's file as `{topic: {document: score}}`.
#[pyfunction]
pub(crate) fn read_run<'py>(py: Python<'py>, run: Source<'py, f64>) -> PyResult<Bound<'py, PyDict>> {
    read(py, &run, trec::read_run)
}

/// A file of judgments as `{topic: {document: relevance}}`.
#[pyfunction]
pub(crate) fn read_qrels<'py>(py: Python<'py>, qrels: Source<'py, i64>) -> PyResult<Bound<'py, PyDict>> {
    read(py, &qrels, trec::read_qrels)
}

/// The tag of the last line of a run's text, which trec_eval prints as `runid`.
#[pyfunction]
pub(crate) fn run_tag<'py>(py: Python<'py>, run: Source<'py, f64>) -> PyResult<Bound<'py, PyBytes>> {
    let held = Held::new(&run)?;
    Ok(match held.data().map_err(raise)? {
        Data::Text(_, text) => PyBytes::new(py, trec::run_tag(text)),
        _ => PyBytes::new(py, b""),
    })
}
