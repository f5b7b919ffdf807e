//! Judgments and runs in the forms that Python has them in, as the core reads them.

use std::fs::File;

use memmap2::Mmap;
use numpy::PyReadonlyArray1;
use optical_core::ranking::{Fault, Retrieved, TextColumn};
use optical_core::{Error, Result};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyString};

use crate::errors::{InputError, raise};

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
    Dict(Bound<'py, PyDict>),
}

/// Documents of a topic with what is said of each. Ids lie one after another, each up to its end.
pub(super) struct Documents<V> {
    ids: Vec<u8>,
    rows: Vec<(usize, V)>,
}

impl<V: Copy> Documents<V> {
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], V)> {
        let mut start = 0;
        self.rows
            .iter()
            .map(move |(end, value)| (&self.ids[std::mem::replace(&mut start, *end)..*end], *value))
    }
}

impl<'t> Retrieved<&'t [u8]> for &'t Documents<f64> {
    fn read(&self, add: &mut impl FnMut(&'t [u8], f64)) -> std::result::Result<(), Fault> {
        self.iter().for_each(|(document, score)| add(document, score));
        Ok(())
    }
}

/// A dict of dicts.
pub(super) type Entries<V> = Vec<(Vec<u8>, Documents<V>)>;

/// Add an id's text; one that is no UTF-8 comes from `surrogateescape` and goes back so.
fn push_id(ids: &mut Vec<u8>, id: &Bound<'_, PyString>) -> PyResult<()> {
    if let Ok(text) = id.to_str() {
        ids.extend_from_slice(text.as_bytes());
    } else {
        let encoded = id.call_method1("encode", ("utf-8", "surrogateescape"));
        let bytes = match encoded {
            Ok(bytes) => bytes,
            Err(_) => {
                return Err(InputError::new_err(format!("ids: no text that has bytes: {}", id.repr()?)));
            }
        };
        ids.extend_from_slice(bytes.cast::<PyBytes>()?.as_bytes());
    }
    Ok(())
}

/// What a value of judgments or a run is.
pub(super) trait Value: numpy::Element + for<'a, 'py> FromPyObject<'a, 'py> {
    const SOURCE: &'static str;
    const EXPECTED: &'static str;
}

impl Value for i64 {
    const SOURCE: &'static str = "qrels";
    const EXPECTED: &'static str = "an integer as relevance";
}

impl Value for f64 {
    const SOURCE: &'static str = "run";
    const EXPECTED: &'static str = "a number as score";
}

fn documents<V: Value>(topic: &Bound<'_, PyString>, of: &Bound<'_, PyDict>) -> PyResult<Documents<V>> {
    let wrong = |what: String| InputError::new_err(format!("{}: topic '{topic}'{what}", V::SOURCE));
    let mut found = Documents { ids: Vec::with_capacity(16 * of.len()), rows: Vec::with_capacity(of.len()) };
    for (document, value) in of.iter() {
        let Ok(id) = document.cast::<PyString>() else {
            return Err(wrong(format!(": expected text as id of a document, got {}", show(&document))));
        };
        push_id(&mut found.ids, id)?;
        let Ok(number) = value.extract::<V>() else {
            // Relevance with a fraction is most often a score.
            let swapped = V::SOURCE == "qrels" && value.is_instance_of::<PyFloat>();
            let hint = if swapped { "; are qrels and run swapped?" } else { "" };
            let (expected, got) = (V::EXPECTED, show(&value));
            return Err(wrong(format!(", document '{document}': expected {expected}, got {got}{hint}")));
        };
        found.rows.push((found.ids.len(), number));
    }
    Ok(found)
}

/// A value with its type, for a message.
fn show(object: &Bound<'_, PyAny>) -> String {
    let name = object.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    format!("{object} ({name})")
}

fn entries<V: Value>(topics: &Bound<'_, PyDict>) -> PyResult<Entries<V>> {
    let entry = |(topic, of): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let (mut id, topic) = (Vec::new(), topic.str()?);
        push_id(&mut id, &topic)?;
        Ok((id, documents(&topic, of.cast::<PyDict>()?)?))
    };
    topics.iter().map(entry).collect()
}

/// A source in memory without Python, with what it borrows from held here.
pub(super) struct Held<'s, 'py, V: numpy::Element> {
    source: &'s Source<'py, V>,
    mapped: Option<Mmap>,
    entries: Entries<V>,
}

/// The same, ready to be read by any thread.
pub(super) enum Data<'a, V> {
    Text(&'a str, &'a [u8]),
    Columns(TextColumn<'a>, TextColumn<'a>, &'a [V]),
    Numbers(&'a [i64], &'a [i64], &'a [V]),
    Dict(&'a Entries<V>),
}

/// Maps a file into memory; nothing if it is empty.
fn map(path: &str) -> Result<Option<Mmap>> {
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

impl<'s, 'py, V: Value> Held<'s, 'py, V> {
    pub fn new(source: &'s Source<'py, V>) -> PyResult<Self> {
        let mut held = Held { source, mapped: None, entries: Vec::new() };
        match source {
            Source::File(path) => held.mapped = map(path).map_err(raise)?,
            Source::Dict(topics) => held.entries = entries(topics)?,
            _ => {}
        }
        Ok(held)
    }

    pub fn data(&self) -> Result<Data<'_, V>> {
        Ok(match self.source {
            Source::File(name) => Data::Text(name, self.mapped.as_deref().unwrap_or_default()),
            Source::Text(name, text) => Data::Text(name, text),
            Source::Columns(topics, documents, values) => {
                Data::Columns(text(topics)?, text(documents)?, contiguous(values)?)
            }
            Source::Numbers(topics, documents, values) => {
                Data::Numbers(contiguous(topics)?, contiguous(documents)?, contiguous(values)?)
            }
            Source::Dict(_) => Data::Dict(&self.entries),
        })
    }
}
