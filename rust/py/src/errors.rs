//! What is raised for a bad input.

use optical_core::Error;
use pyo3::PyErr;

pyo3::import_exception!(optical_rs.errors, InputError);

pub(crate) fn raise(error: Error) -> PyErr {
    InputError::new_err(error.to_string())
}
