//! The threads that the core's work is spread over.
//!
//! One pool a process, made on first use and made anew when the number of threads changes; the old one ends
//! with the last call that runs in it. The pool is looked up with the interpreter attached, and `os.fork`
//! holds it, too: so the lock is never held while a process forks. A child has its parent's memory but not
//! its threads; it forgets the pool, and makes its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::errors::InputError;

struct Owned {
    process: u32,
    pool: Arc<ThreadPool>,
}

static CURRENT: Mutex<Option<Owned>> = Mutex::new(None);
/// 0 = the default.
static WANTED: AtomicUsize = AtomicUsize::new(0);
/// What `OPTICAL_RS_NUM_THREADS` said at import; 0 = nothing.
static DEFAULT: AtomicUsize = AtomicUsize::new(0);

/// Read the environment.
pub(crate) fn read_environment() -> PyResult<()> {
    let Some(given) = std::env::var_os("OPTICAL_RS_NUM_THREADS") else { return Ok(()) };
    match given.to_str().map(str::trim).and_then(|text| text.parse().ok()) {
        Some(n @ 1..) => DEFAULT.store(n, Ordering::Relaxed),
        _ => {
            return Err(InputError::new_err(format!(
                "OPTICAL_RS_NUM_THREADS: expected a number of threads >= 1, got {given:?}"
            )));
        }
    }
    Ok(())
}

/// How many threads a batch is spread over.
pub(crate) fn threads() -> usize {
    match (WANTED.load(Ordering::Relaxed), DEFAULT.load(Ordering::Relaxed)) {
        (0, 0) => std::thread::available_parallelism().map_or(1, usize::from),
        (0, n) | (n, _) => n,
    }
}

/// Use `n` threads from now on; 0 means the default.
pub(crate) fn set_threads(n: usize) {
    WANTED.store(n, Ordering::Relaxed);
}

/// The pool of this process.
pub(crate) fn current(_attached: Python<'_>) -> PyResult<Arc<ThreadPool>> {
    let (process, threads) = (std::process::id(), threads());
    let mut held = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    match held.take() {
        Some(owned) if owned.process != process => std::mem::forget(owned),
        Some(owned) if owned.pool.current_num_threads() == threads => {
            let pool = owned.pool.clone();
            *held = Some(owned);
            return Ok(pool);
        }
        _ => {}
    }
    let named = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("optical-{i}"));
    let pool = named.build().map_err(|e| PyRuntimeError::new_err(format!("{threads} threads: {e}")))?;
    let pool = Arc::new(pool);
    *held = Some(Owned { process, pool: pool.clone() });
    Ok(pool)
}
