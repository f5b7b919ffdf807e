//! The one way from Python into the core and back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use optical_core::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

pyo3::import_exception!(optical_rs.errors, InputError);

fn raise(error: Error) -> PyErr {
    InputError::new_err(error.to_string())
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

/// Run `job` with the interpreter released. A long one (by `work`, in multiply-adds) is stopped, and
/// the signal's exception raised, when a signal such as Ctrl-C arrives.
pub(crate) fn enter<R: Send>(
    py: Python<'_>,
    work: f64,
    job: impl FnOnce(&AtomicBool) -> Result<R> + Send,
) -> PyResult<R> {
    if work < LONG {
        return py.detach(|| job(&AtomicBool::new(false))).map_err(raise);
    }
    watched(py, None, |watch| job(&watch.cancel))
}

/// Run `job` with the interpreter released, stop it when a signal such as Ctrl-C arrives, and call
/// `progress` with the parts done and all parts now and then.
pub(crate) fn watched<R: Send>(
    py: Python<'_>,
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
    py.detach(|| {
        std::thread::scope(|scope| {
            let (done, waiting) = channel();
            let shared = &watch;
            scope.spawn(move || {
                // The receiver outlives this thread; a failed send would mean that nobody waits.
                let _ = done.send(job(shared));
            });
            let mut stopped = None;
            loop {
                match waiting.recv_timeout(Duration::from_millis(30)) {
                    Ok(Ok(result)) if stopped.is_none() => {
                        return Python::attach(report).map(|()| result);
                    }
                    Ok(result) => return stopped.map_or_else(|| result.map_err(raise), Err),
                    Err(RecvTimeoutError::Timeout) => {
                        let told = Python::attach(|py| py.check_signals().and_then(|()| report(py)));
                        if let Err(raised) = told {
                            watch.cancel.store(true, Ordering::Relaxed);
                            stopped = stopped.or(Some(raised));
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("internal error in the native core"));
                    }
                }
            }
        })
    })
}
