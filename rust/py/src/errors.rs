//! What is raised for a bad input.

use optical_core::Error;
use pyo3::prelude::*;

pyo3::import_exception!(optical_rs.errors, InputError);

/// The exception of an error, with the exit status that trec_eval has for it.
pub(crate) fn raise(error: Error) -> PyErr {
    let raised = InputError::new_err(error.to_string());
    if !matches!(error, Error::Contradiction(_)) {
        return raised;
    }
    // trec_eval reads such files, and fails when it computes.
    Python::attach(|py| raised.value(py).setattr("status", 4)).map_or_else(|e| e, |()| raised)
}
