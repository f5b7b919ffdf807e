//! `optical_core::similarity` for numpy arrays.

use half::{bf16, f16};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use optical_core::similarity::{self as core, Ragged, Values};
use pyo3::prelude::*;

use crate::enter::{InputError, enter, watched};

type Matrix<'py, T> = PyReadonlyArray2<'py, T>;
type Vector<'py, T> = PyReadonlyArray1<'py, T>;

/// Token embeddings (tokens × dim) in any of the forms that they are kept in; `u16` are the bits of
/// bf16 numbers.
#[derive(FromPyObject)]
pub(crate) enum Tokens<'py> {
    F32(Matrix<'py, f32>),
    F16(Matrix<'py, f16>),
    Bf16(Matrix<'py, u16>),
    Int8(Matrix<'py, i8>, Vector<'py, f32>),
}

fn contiguous(e: impl std::fmt::Display) -> PyErr {
    InputError::new_err(format!("tokens: expected a contiguous array ({e})"))
}

fn ragged<'a>(
    side: &'static str,
    tokens: &'a Tokens<'_>,
    bits: &'a [bf16],
    offsets: &'a Vector<'_, i64>,
) -> PyResult<Ragged<'a>> {
    let (values, dim) = match tokens {
        Tokens::F32(x) => (Values::F32(x.as_slice().map_err(contiguous)?), x.as_array().ncols()),
        Tokens::F16(x) => (Values::F16(x.as_slice().map_err(contiguous)?), x.as_array().ncols()),
        Tokens::Bf16(x) => (Values::Bf16(bits), x.as_array().ncols()),
        Tokens::Int8(x, scales) => {
            let (codes, scales) = (x.as_slice().map_err(contiguous)?, scales.as_slice().map_err(contiguous)?);
            (Values::Int8 { codes, scales }, x.as_array().ncols())
        }
    };
    Ragged::new(values, offsets.as_slice().map_err(contiguous)?, dim)
        .map_err(|e| InputError::new_err(format!("{side}: {e}")))
}

fn bits<'a>(tokens: &'a Tokens<'_>) -> PyResult<&'a [bf16]> {
    use half::slice::HalfBitsSliceExt;
    match tokens {
        Tokens::Bf16(x) => Ok(x.as_slice().map_err(contiguous)?.reinterpret_cast()),
        _ => Ok(&[]),
    }
}

impl Tokens<'_> {
    /// Tokens and dimension.
    fn shape(&self) -> (usize, usize) {
        match self {
            Tokens::F32(x) => x.as_array().dim(),
            Tokens::F16(x) => x.as_array().dim(),
            Tokens::Bf16(x) => x.as_array().dim(),
            Tokens::Int8(x, _) => x.as_array().dim(),
        }
    }
}

/// Multiply-adds of all queries against all documents.
fn work(queries: &Tokens<'_>, documents: &Tokens<'_>) -> f64 {
    let (tokens, dim) = documents.shape();
    queries.shape().0 as f64 * (tokens * dim) as f64
}

/// MaxSim of packed ragged tokens; see `optical_rs.similarity.maxsim`.
#[pyfunction]
pub(crate) fn maxsim<'py>(
    py: Python<'py>,
    queries: Tokens<'py>,
    query_offsets: Vector<'py, i64>,
    documents: Tokens<'py>,
    document_offsets: Vector<'py, i64>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let work = work(&queries, &documents);
    let (q_bits, d_bits) = (bits(&queries)?, bits(&documents)?);
    let queries = ragged("queries", &queries, q_bits, &query_offsets)?;
    let documents = ragged("documents", &documents, d_bits, &document_offsets)?;
    let mut scores = ndarray::Array2::zeros((queries.len(), documents.len()));
    if let Some(out) = scores.as_slice_mut() {
        enter(py, work, move |cancel| core::maxsim(&queries, &documents, Some(cancel), out))?;
    }
    Ok(scores.into_pyarray(py))
}

type Found<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// The best documents of each query; see `optical_rs.similarity.search`.
///
/// `places` decides ties, the highest first; documents with a negative one are passed over. Returns
/// (offsets of the queries' hits, document numbers, scores). `progress` is called now and then with the
/// documents done and all documents.
#[pyfunction]
pub(crate) fn search<'py>(
    py: Python<'py>,
    queries: Tokens<'py>,
    query_offsets: Vector<'py, i64>,
    documents: Tokens<'py>,
    document_offsets: Vector<'py, i64>,
    places: Vector<'py, i64>,
    k: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Found<'py>> {
    let work = work(&queries, &documents);
    let (q_bits, d_bits) = (bits(&queries)?, bits(&documents)?);
    let queries = ragged("queries", &queries, q_bits, &query_offsets)?;
    let documents = ragged("documents", &documents, d_bits, &document_offsets)?;
    let places: Vec<Option<u32>> =
        places.as_slice().map_err(contiguous)?.iter().map(|p| u32::try_from(*p).ok()).collect();
    let hits = watched(py, work, progress, |watch| {
        watch.set_total(documents.len());
        core::search(&queries, &documents, &places, k, Some(&watch.cancel), Some(&watch.done))
    })?;
    let mut offsets = vec![0i64];
    for found in &hits {
        offsets.push(offsets[offsets.len() - 1] + found.len() as i64);
    }
    let documents: Vec<i64> = hits.iter().flatten().map(|hit| i64::from(hit.document)).collect();
    let scores: Vec<f32> = hits.iter().flatten().map(|hit| hit.score).collect();
    Ok((offsets.into_pyarray(py), documents.into_pyarray(py), scores.into_pyarray(py)))
}

type Matched<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<i32>>);

/// MaxSim of packed ragged tokens, and the row of `documents` that each query token matched:
/// (queries × documents), (documents × query tokens).
#[pyfunction]
pub(crate) fn maxsim_matches<'py>(
    py: Python<'py>,
    queries: Matrix<'py, f32>,
    query_offsets: Vector<'py, i64>,
    documents: Matrix<'py, f32>,
    document_offsets: Vector<'py, i64>,
) -> PyResult<Matched<'py>> {
    let (q, d) = (Tokens::F32(queries), Tokens::F32(documents));
    let (tokens, work) = (q.shape().0, work(&q, &d));
    let queries = ragged("queries", &q, &[], &query_offsets)?;
    let documents = ragged("documents", &d, &[], &document_offsets)?;
    let mut scores = ndarray::Array2::zeros((queries.len(), documents.len()));
    let mut matched = ndarray::Array2::zeros((documents.len(), tokens));
    if let (Some(scores), Some(matched)) = (scores.as_slice_mut(), matched.as_slice_mut()) {
        enter(py, work, move |cancel| {
            core::maxsim_matches(&queries, &documents, Some(cancel), scores, matched)
        })?;
    }
    Ok((scores.into_pyarray(py), matched.into_pyarray(py)))
}

type Gradients<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>);

/// The gradient of `Σ weights · scores` in the tokens of both sides of [`maxsim_matches`].
#[pyfunction]
pub(crate) fn maxsim_gradient<'py>(
    py: Python<'py>,
    queries: Matrix<'py, f32>,
    query_offsets: Vector<'py, i64>,
    documents: Matrix<'py, f32>,
    document_offsets: Vector<'py, i64>,
    matched: Matrix<'py, i32>,
    weights: Matrix<'py, f32>,
) -> PyResult<Gradients<'py>> {
    let (q, d) = (Tokens::F32(queries), Tokens::F32(documents));
    let mut of_queries = ndarray::Array2::zeros(q.shape());
    let mut of_documents = ndarray::Array2::zeros(d.shape());
    let work = 2.0 * matched.as_array().len() as f64 * q.shape().1 as f64;
    let queries = ragged("queries", &q, &[], &query_offsets)?;
    let documents = ragged("documents", &d, &[], &document_offsets)?;
    let (matched, weights) =
        (matched.as_slice().map_err(contiguous)?, weights.as_slice().map_err(contiguous)?);
    if let (Some(x), Some(y)) = (of_queries.as_slice_mut(), of_documents.as_slice_mut()) {
        enter(py, work, move |_| core::maxsim_gradient(&queries, &documents, matched, weights, x, y))?;
    }
    Ok((of_queries.into_pyarray(py), of_documents.into_pyarray(py)))
}

type Quantised<'py> = (Bound<'py, PyArray2<i8>>, Bound<'py, PyArray1<f32>>);

/// Tokens (tokens × dim) as bytes and a scale for each token.
#[pyfunction]
pub(crate) fn quantise<'py>(py: Python<'py>, values: Matrix<'py, f32>) -> PyResult<Quantised<'py>> {
    let shape = values.as_array().raw_dim();
    let (codes, scales) = core::quantise(values.as_slice().map_err(contiguous)?, shape[1]);
    let codes = ndarray::Array2::from_shape_vec(shape, codes)
        .map_err(|e| InputError::new_err(format!("values: {e}")))?;
    Ok((codes.into_pyarray(py), scales.into_pyarray(py)))
}
