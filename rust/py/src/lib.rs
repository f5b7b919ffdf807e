//! The Python face of `optical-core`: conversion and dispatch, no algorithm.

mod enter;
mod errors;
mod pool;
mod ranking;
mod similarity;
mod transport;

use optical_core::simd;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Version, build profile, SIMD level and threads of the native core, as a dict.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item("target", std::env::consts::ARCH)?;
    info.set_item("simd", simd::level().name())?;
    let supported = simd::Level::ALL.into_iter().filter(|l| l.is_supported()).map(simd::Level::name);
    info.set_item("simd_supported", supported.collect::<Vec<_>>())?;
    info.set_item("threads", pool::threads())?;
    Ok(info)
}

/// Use `n` threads in the native core; 0 means as many as `OPTICAL_RS_NUM_THREADS` says, or one per core.
#[pyfunction]
fn set_num_threads(n: usize) {
    pool::set_threads(n);
}

/// Run kernels with `"portable"`, `"avx2"` or `"avx512"` from now on.
#[pyfunction]
fn set_simd_level(level: &str) -> PyResult<()> {
    let wanted = simd::Level::ALL.into_iter().find(|l| l.name() == level);
    let reason = match wanted.map(simd::set_level) {
        Some(Ok(())) => return Ok(()),
        Some(Err(reason)) => reason,
        None => "expected 'portable', 'avx2' or 'avx512'".into(),
    };
    Err(errors::InputError::new_err(format!("level: {reason}, got '{level}'")))
}

/// Single-precision multiply-adds per second that this machine reaches: the limit of every kernel.
#[pyfunction]
fn multiply_adds_per_second(py: Python<'_>) -> PyResult<f64> {
    let pool = pool::current(py)?;
    Ok(py.detach(|| pool.install(simd::multiply_adds_per_second)))
}

// Free-threaded interpreters are declined: results are written to arrays that another thread could get hold of.
#[pymodule(gil_used = true)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::ranking::{Measured, evaluate, read_qrels, read_run, run_tag};
    #[pymodule_export]
    use super::similarity::{
        Places, Texts, maxsim, maxsim_gradient, maxsim_matches, muvera, muvera_dimension, quantise, search,
    };
    #[pymodule_export]
    use super::transport::{Aligned, Reports, Solved, align_batch, implicit_gradient, solve_batch};
    #[pymodule_export]
    use super::{build_info, multiply_adds_per_second, set_num_threads, set_simd_level};

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::pool::read_environment()
    }
}
