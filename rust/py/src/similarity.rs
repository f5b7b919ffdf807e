//! `optical_core::similarity` for numpy arrays.

use numpy::{IntoPyArray, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use optical_core::similarity::{self as core, Ragged};
use pyo3::prelude::*;

use crate::enter::{InputError, enter};

/// MaxSim of packed ragged tokens; see `optical_rs.similarity.maxsim`.
#[pyfunction]
pub(crate) fn maxsim<'py>(
    py: Python<'py>,
    query_values: PyReadonlyArray2<'py, f32>,
    query_offsets: PyReadonlyArray1<'py, i64>,
    document_values: PyReadonlyArray2<'py, f32>,
    document_offsets: PyReadonlyArray1<'py, i64>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let contiguous = |e| InputError::new_err(format!("tokens: expected a contiguous array ({e})"));
    let name = |side: &'static str| move |e: optical_core::Error| InputError::new_err(format!("{side}: {e}"));
    let (q_dim, d_dim) = (query_values.as_array().ncols(), document_values.as_array().ncols());
    let (q_values, d_values) =
        (query_values.as_slice().map_err(contiguous)?, document_values.as_slice().map_err(contiguous)?);
    let (q_offsets, d_offsets) =
        (query_offsets.as_slice().map_err(contiguous)?, document_offsets.as_slice().map_err(contiguous)?);
    let queries = Ragged::new(q_values, q_offsets, q_dim).map_err(name("queries"))?;
    let documents = Ragged::new(d_values, d_offsets, d_dim).map_err(name("documents"))?;
    let mut scores = ndarray::Array2::zeros((queries.len(), documents.len()));
    let work = q_values.len() as f64 * d_values.len() as f64 / q_dim.max(1) as f64;
    if let Some(out) = scores.as_slice_mut() {
        enter(py, work, move |cancel| core::maxsim(&queries, &documents, Some(cancel), out))?;
    }
    Ok(scores.into_pyarray(py))
}
