//! The one way from Python into the core and back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use optical_core::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

pyo3::import_exception!(optical_rs.errors, InputError);

fn raise(error: Error) -> PyErr {
    InputError::new_err(error.to_string())
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
    let cancel = AtomicBool::new(false);
    if work < LONG {
        return py.detach(|| job(&cancel)).map_err(raise);
    }
    py.detach(|| {
        std::thread::scope(|scope| {
            let (done, waiting) = channel();
            let flag = &cancel;
            scope.spawn(move || {
                // The receiver outlives this thread; a failed send would mean that nobody waits.
                let _ = done.send(job(flag));
            });
            let mut signal = None;
            loop {
                match waiting.recv_timeout(Duration::from_millis(30)) {
                    Ok(result) => return signal.map_or_else(|| result.map_err(raise), Err),
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(raised) = Python::attach(|py| py.check_signals()) {
                            signal = Some(raised);
                            cancel.store(true, Ordering::Relaxed);
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
