//! `optical_core::similarity` for numpy arrays.

use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use ndarray::{Ix1, Ix2};
use numpy::{Element, IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use optical_core::similarity::{self as core, Against, Ragged, Selection, Values};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::enter::{Input, enter, watched};
use crate::errors::{InputError, raise};

type Matrix<'py, T> = Input<'py, T, Ix2>;
type Vector<'py, T> = Input<'py, T, Ix1>;

/// Token embeddings (tokens × dim) in any of the forms that they are kept in, with `u16` for the bits of bf16
/// numbers; or a list of single-precision ones, one array a text.
#[derive(FromPyObject)]
pub(crate) enum Tokens<'py> {
    F32(Matrix<'py, f32>),
    F16(Matrix<'py, f16>),
    Bf16(Matrix<'py, u16>),
    Int8(Matrix<'py, i8>, Vector<'py, f32>),
    List(Bound<'py, PyList>),
}

fn contiguous(e: impl std::fmt::Display) -> PyErr {
    InputError::new_err(format!("tokens: expected a contiguous array ({e})"))
}

/// The numbers of an array, row after row. (`PyReadonlyArray::as_slice` takes column after column for it, too.)
fn rows_of<'a, T: Element, D: ndarray::Dimension>(array: &'a Input<'_, T, D>) -> PyResult<&'a [T]> {
    array.0.as_array().to_slice().ok_or_else(|| contiguous("its rows do not lie one after the other"))
}

/// Texts, checked and cut into tasks once for any number of calls. The arrays that they lie in are kept.
#[pyclass(frozen, module = "optical_rs._core")]
pub(crate) struct Texts {
    // Borrowed from the two fields below, which are dropped after it.
    texts: Ragged<'static>,
    #[expect(dead_code, reason = "owns what `texts` borrows")]
    list: Box<[&'static [f32]]>,
    #[expect(dead_code, reason = "owns what `texts` borrows")]
    arrays: Vec<Py<PyAny>>,
}

/// A slice that lives as long as an array is kept.
///
/// # Safety
/// The array must be kept for as long as the slice, and its memory neither written nor resized meanwhile (numpy
/// refuses to resize an array that is referred to).
unsafe fn kept<T>(slice: &[T]) -> &'static [T] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(slice.as_ptr(), slice.len()) }
}

fn keep<T: Element, D: ndarray::Dimension>(
    array: &Input<'_, T, D>,
    arrays: &mut Vec<Py<PyAny>>,
) -> PyResult<&'static [T]> {
    let slice = rows_of(array)?;
    arrays.push((*array.0).clone().into_any().unbind());
    // SAFETY: the array has just been kept.
    Ok(unsafe { kept(slice) })
}

/// The texts of a list, and their dimension.
fn list_of(
    name: &str,
    list: &Bound<'_, PyList>,
    arrays: &mut Vec<Py<PyAny>>,
) -> PyResult<(Box<[&'static [f32]]>, usize)> {
    let (mut texts, mut dim) = (Vec::with_capacity(list.len()), 0);
    for (i, item) in list.iter().enumerate() {
        let array = item.cast::<PyArray2<f32>>().map_err(|_| {
            let shape =
                item.getattr("shape").map_or_else(|_| String::new(), |shape| format!(", got shape {shape}"));
            InputError::new_err(format!(
                "{name}: expected arrays (tokens, dim) of float32{shape} in text {i}"
            ))
        })?;
        if !(array.is_aligned() && array.is_c_contiguous()) {
            return Err(contiguous(format!("{name}, text {i}")));
        }
        if i > 0 && array.shape()[1] != dim {
            return Err(InputError::new_err(format!(
                "{name}: expected arrays (tokens, dim) of one dim, got {dim} and {} in text {i}",
                array.shape()[1]
            )));
        }
        dim = array.shape()[1];
        // SAFETY: contiguous and aligned numbers of this type, in an array that is kept from here on.
        texts.push(unsafe { kept(array.as_slice().map_err(contiguous)?) });
        arrays.push(item.unbind());
    }
    Ok((texts.into_boxed_slice(), dim))
}

#[pymethods]
impl Texts {
    /// `offsets` are those of the texts in the array, and None with a list.
    #[new]
    #[pyo3(signature = (name, tokens, offsets))]
    fn new(name: &str, tokens: Tokens<'_>, offsets: Option<Vector<'_, i64>>) -> PyResult<Self> {
        let (mut arrays, mut list) = (Vec::new(), Box::default());
        let columns = |dim: (usize, usize)| dim.1;
        let (values, dim) = match &tokens {
            Tokens::F32(x) => (Values::F32(keep(x, &mut arrays)?), columns(x.0.as_array().dim())),
            Tokens::F16(x) => (Values::F16(keep(x, &mut arrays)?), columns(x.0.as_array().dim())),
            Tokens::Bf16(x) => {
                let bits: &[bf16] = keep(x, &mut arrays)?.reinterpret_cast();
                (Values::Bf16(bits), columns(x.0.as_array().dim()))
            }
            Tokens::Int8(x, scales) => {
                let (codes, scales) = (keep(x, &mut arrays)?, keep(scales, &mut arrays)?);
                (Values::Int8 { codes, scales }, columns(x.0.as_array().dim()))
            }
            Tokens::List(texts) => {
                let dim;
                (list, dim) = list_of(name, texts, &mut arrays)?;
                (Values::F32(&[]), dim)
            }
        };
        let named = |e: optical_core::Error| InputError::new_err(format!("{name}: {e}"));
        let texts = match (&tokens, offsets) {
            (Tokens::List(_), None) => {
                // SAFETY: the box is kept beside what is borrowed from it, and its memory does not move.
                Ragged::list(unsafe { kept(&list) }, dim).map_err(named)?
            }
            (Tokens::List(_), Some(_)) | (_, None) => {
                return Err(InputError::new_err(format!(
                    "{name}: expected offsets with an array, none with a list"
                )));
            }
            (_, Some(offsets)) => Ragged::new(values, keep(&offsets, &mut arrays)?, dim).map_err(named)?,
        };
        Ok(Texts { texts, list, arrays })
    }

    fn __len__(&self) -> usize {
        self.texts.len()
    }

    #[getter]
    fn dim(&self) -> usize {
        self.texts.dim()
    }
}

/// Places of documents among their equals, the highest first; those with a negative one are passed over.
#[pyclass(frozen, module = "optical_rs._core")]
pub(crate) struct Places(Vec<Option<u32>>);

#[pymethods]
impl Places {
    #[new]
    fn new(places: Vector<'_, i64>) -> PyResult<Self> {
        let places = rows_of(&places)?;
        Ok(Places(places.iter().map(|place| u32::try_from(*place).ok()).collect()))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

/// Multiply-adds of all queries against so many tokens.
fn work(queries: &Ragged<'_>, tokens: usize) -> f64 {
    queries.total_tokens() as f64 * (tokens * queries.dim()) as f64
}

/// MaxSim of every query and document; see `optical_rs.similarity.maxsim`.
#[pyfunction]
pub(crate) fn maxsim<'py>(
    py: Python<'py>,
    queries: &Texts,
    documents: &Texts,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (queries, documents) = (&queries.texts, &documents.texts);
    let work = work(queries, documents.total_tokens());
    let mut scores = ndarray::Array2::zeros((queries.len(), documents.len()));
    if let Some(out) = scores.as_slice_mut() {
        enter(py, work, move |cancel| core::maxsim(queries, documents, Some(cancel), out))?;
    }
    Ok(scores.into_pyarray(py))
}

type Found<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// The best documents of each query; see `optical_rs.similarity.search`.
///
/// With `numbers`, only those documents are searched. Returns (offsets of the queries' hits, document numbers,
/// scores). `progress` is called now and then with the documents done and all documents.
#[pyfunction]
#[pyo3(signature = (queries, documents, places, k, numbers, progress))]
pub(crate) fn search<'py>(
    py: Python<'py>,
    queries: &Texts,
    documents: &Texts,
    places: &Places,
    k: usize,
    numbers: Option<Vec<u32>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Found<'py>> {
    let (queries, documents) = (&queries.texts, &documents.texts);
    let selection = numbers.as_deref().map_or(Selection::All, Selection::Only);
    let count = numbers.as_ref().map_or(documents.len(), Vec::len);
    // Selected documents are taken to be as long as the others.
    let share = count as f64 / documents.len().max(1) as f64;
    let work = work(queries, documents.total_tokens()) * share;
    let hits = watched(py, work, progress, |watch| {
        watch.set_total(count);
        let (cancel, done) = (Some(&watch.cancel), Some(&watch.done));
        core::search(queries, documents, &places.0, selection, k, cancel, done)
    })?;
    let mut offsets = vec![0i64];
    for found in &hits {
        offsets.push(offsets[offsets.len() - 1] + found.len() as i64);
    }
    let documents: Vec<i64> = hits.iter().flatten().map(|hit| i64::from(hit.document)).collect();
    let scores: Vec<f32> = hits.iter().flatten().map(|hit| hit.score).collect();
    Ok((offsets.into_pyarray(py), documents.into_pyarray(py), scores.into_pyarray(py)))
}

/// All documents for None, else so many of a query's own.
fn against(own: Option<usize>) -> Against {
    own.map_or(Against::All, Against::Own)
}

fn packed<'a>(name: &str, values: &'a Matrix<'_, f32>, offsets: &'a Vector<'_, i64>) -> PyResult<Ragged<'a>> {
    let numbers = rows_of(values)?;
    Ragged::new(Values::F32(numbers), rows_of(offsets)?, values.0.as_array().ncols())
        .map_err(|e| InputError::new_err(format!("{name}: {e}")))
}

type Matched<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<i32>>);

/// MaxSim of packed ragged tokens, and the row of `documents` that each query token matched:
/// (queries × documents), or (queries × `own`); (documents × query tokens).
#[pyfunction]
#[pyo3(signature = (queries, query_offsets, documents, document_offsets, own))]
pub(crate) fn maxsim_matches<'py>(
    py: Python<'py>,
    queries: Matrix<'py, f32>,
    query_offsets: Vector<'py, i64>,
    documents: Matrix<'py, f32>,
    document_offsets: Vector<'py, i64>,
    own: Option<usize>,
) -> PyResult<Matched<'py>> {
    let queries = packed("queries", &queries, &query_offsets)?;
    let documents = packed("documents", &documents, &document_offsets)?;
    let work = work(&queries, documents.total_tokens());
    let mut scores = ndarray::Array2::zeros((queries.len(), own.unwrap_or(documents.len())));
    let mut matched = ndarray::Array2::zeros((documents.len(), queries.total_tokens()));
    if let (Some(scores), Some(matched)) = (scores.as_slice_mut(), matched.as_slice_mut()) {
        enter(py, work, move |cancel| {
            core::maxsim_matches(&queries, &documents, against(own), Some(cancel), scores, matched)
        })?;
    }
    Ok((scores.into_pyarray(py), matched.into_pyarray(py)))
}

type Gradients<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>);

/// The gradient of `Σ weights · scores` in the tokens of both sides of [`maxsim_matches`].
#[pyfunction]
#[pyo3(signature = (queries, query_offsets, documents, document_offsets, matched, weights, own))]
pub(crate) fn maxsim_gradient<'py>(
    py: Python<'py>,
    queries: Matrix<'py, f32>,
    query_offsets: Vector<'py, i64>,
    documents: Matrix<'py, f32>,
    document_offsets: Vector<'py, i64>,
    matched: Matrix<'py, i32>,
    weights: Matrix<'py, f32>,
    own: Option<usize>,
) -> PyResult<Gradients<'py>> {
    let mut of_queries = ndarray::Array2::zeros(queries.0.as_array().raw_dim());
    let mut of_documents = ndarray::Array2::zeros(documents.0.as_array().raw_dim());
    let queries = packed("queries", &queries, &query_offsets)?;
    let documents = packed("documents", &documents, &document_offsets)?;
    let (matched, weights) = (rows_of(&matched)?, rows_of(&weights)?);
    let work = 2.0 * matched.len() as f64 * queries.dim() as f64;
    if let (Some(x), Some(y)) = (of_queries.as_slice_mut(), of_documents.as_slice_mut()) {
        enter(py, work, move |cancel| {
            let cancel = Some(cancel);
            core::maxsim_gradient(&queries, &documents, against(own), matched, weights, cancel, x, y)
        })?;
    }
    Ok((of_queries.into_pyarray(py), of_documents.into_pyarray(py)))
}

type Quantised<'py> = (Bound<'py, PyArray2<i8>>, Bound<'py, PyArray1<f32>>);

/// Tokens (tokens × dim) as bytes and a scale for each token.
#[pyfunction]
pub(crate) fn quantise<'py>(py: Python<'py>, values: Matrix<'py, f32>) -> PyResult<Quantised<'py>> {
    let shape = values.0.as_array().raw_dim();
    let (codes, scales) = core::quantise(rows_of(&values)?, shape[1]);
    Ok((codes.into_pyarray(py).reshape(shape)?, scales.into_pyarray(py)))
}

fn method(k_sim: u32, dim_proj: usize, r_reps: usize, seed: u64) -> core::Muvera {
    core::Muvera { k_sim, dim_proj, r_reps, seed }
}

/// Numbers of an encoding by [`muvera`] of texts of dimension `dim`.
#[pyfunction]
pub(crate) fn muvera_dimension(
    dim: usize,
    k_sim: u32,
    dim_proj: usize,
    r_reps: usize,
    seed: u64,
) -> PyResult<usize> {
    method(k_sim, dim_proj, r_reps, seed).dimension(dim).map_err(raise)
}

/// Fixed-dimensional encodings (texts × numbers) of queries or of documents; see `optical_rs.similarity.Muvera`.
#[pyfunction]
pub(crate) fn muvera<'py>(
    py: Python<'py>,
    texts: &Texts,
    query: bool,
    k_sim: u32,
    dim_proj: usize,
    r_reps: usize,
    seed: u64,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (texts, method) = (&texts.texts, method(k_sim, dim_proj, r_reps, seed));
    let side = if query { core::Side::Query } else { core::Side::Document };
    let numbers = method.dimension(texts.dim().max(1)).map_err(raise)?;
    // A token meets every projection, and every sketch.
    let each = r_reps as f64 * (f64::from(k_sim) + 1.0) * texts.dim() as f64;
    let work = texts.total_tokens() as f64 * each + (texts.len() * numbers) as f64;
    let found = enter(py, work, |cancel| method.encode(texts, side, Some(cancel)))?;
    found.into_pyarray(py).reshape([texts.len(), numbers])
}
