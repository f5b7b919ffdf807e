//! The one way from Python into the core and back.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use numpy::ndarray::Dimension;
use numpy::{Element, PyArray, PyReadonlyArray, PyUntypedArrayMethods};
use optical_core::Result;
use pyo3::Borrowed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::{InputError, raise};
use crate::pool;

/// An array of Python's, to be read. Numpy lets numbers lie at any address, and Rust does not.
pub(crate) struct Input<'py, T: Element, D: Dimension>(pub PyReadonlyArray<'py, T, D>);

impl<'a, 'py, T: Element + 'a, D: Dimension + 'a> FromPyObject<'a, 'py> for Input<'py, T, D> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let array = object.cast::<PyArray<T, D>>()?;
        if !array.is_aligned() {
            return Err(InputError::new_err("expected an array whose numbers are aligned in memory"));
        }
        Ok(Input(object.extract().map_err(PyErr::from)?))
    }
}

/// What a job tells the thread that waits for it, and the other way round.
#[derive(Default)]
pub(crate) struct Watch {
    /// Set to stop the job.
    pub cancel: AtomicBool,
    /// Parts done.
    pub done: AtomicUsize,
    total: AtomicUsize,
}

impl Watch {
    /// How many parts there are.
    pub fn set_total(&self, parts: usize) {
        self.total.store(parts, Ordering::Relaxed);
    }
}

/// Work (roughly, multiply-adds) from which on a call watches for Ctrl-C: some tens of milliseconds.
/// Less is over before anybody could press it, and is spared the extra thread.
const LONG: f64 = 2e8;

/// Run `job` on the pool with the interpreter released. A long one (by `work`, in multiply-adds) is
/// stopped, and the signal's exception raised, when a signal such as Ctrl-C arrives.
pub(crate) fn enter<R: Send>(
    py: Python<'_>,
    work: f64,
    job: impl FnOnce(&AtomicBool) -> Result<R> + Send,
) -> PyResult<R> {
    watched(py, work, None, |watch| job(&watch.cancel))
}

/// The same, and `progress` is called with the parts done and all parts now and then.
pub(crate) fn watched<R: Send>(
    py: Python<'_>,
    work: f64,
    progress: Option<Py<PyAny>>,
    job: impl FnOnce(&Watch) -> Result<R> + Send,
) -> PyResult<R> {
    let watch = Watch::default();
    let report = |py: Python<'_>| match &progress {
        Some(call) => {
            let (done, total) = (watch.done.load(Ordering::Relaxed), watch.total.load(Ordering::Relaxed));
            call.call1(py, (done, total)).map(drop)
        }
        None => Ok(()),
    };
    let pool = pool::current(py)?;
    // A panic is a defect of ours; it must not take the interpreter with it. What the job had is dropped.
    let run = || catch_unwind(AssertUnwindSafe(|| pool.install(|| job(&watch))));
    let finished = |outcome: std::thread::Result<Result<R>>| match outcome {
        Ok(result) => result.map_err(raise),
        Err(panic) => Err(PyRuntimeError::new_err(format!("defect in the native core: {}", said(&*panic)))),
    };
    if work < LONG {
        let result = finished(py.detach(run))?;
        return report(py).map(|()| result);
    }
    let outcome = py.detach(|| {
        std::thread::scope(|scope| {
            let (done, waiting) = channel();
            scope.spawn(move || {
                // The receiver outlives this thread; a failed send would mean that nobody waits.
                let _ = done.send(run());
            });
            let mut stopped = None;
            loop {
                match waiting.recv_timeout(Duration::from_millis(30)) {
                    Ok(outcome) => return stopped.map_or(Ok(outcome), Err),
                    Err(RecvTimeoutError::Timeout) => {
                        let told = Python::attach(|py| py.check_signals().and_then(|()| report(py)));
                        if let Err(raised) = told {
                            watch.cancel.store(true, Ordering::Relaxed);
                            stopped = stopped.or(Some(raised));
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("defect in the native core: no result"));
                    }
                }
            }
        })
    });
    let result = finished(outcome?)?;
    report(py).map(|()| result)
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown")
}
