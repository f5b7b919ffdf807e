//! The threads that batches run on.
//!
//! One pool per process, made on first use. A forked child inherits the memory of its parent but
//! not its threads, so the pool remembers the process that made it and a child makes its own.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

struct Owned {
    process: u32,
    threads: usize,
    pool: Option<ThreadPool>,
}

static CURRENT: AtomicPtr<Owned> = AtomicPtr::new(std::ptr::null_mut());
/// 0 = as many as there are cores.
static WANTED: AtomicUsize = AtomicUsize::new(0);

/// How many threads a batch is spread over.
pub fn threads() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Use `n` threads from now on; 0 means one per available core.
pub fn set_threads(n: usize) {
    WANTED.store(n, Ordering::Relaxed);
}

/// Run `job` inside the pool, so that rayon's iterators in it use the pool's threads.
///
/// If the system refuses to give threads, `job` runs where it is. (Rayon's global pool is not used
/// otherwise: it does not survive a fork.)
pub fn run<R: Send>(job: impl FnOnce() -> R + Send) -> R {
    match current(threads()) {
        Some(pool) => pool.install(job),
        None => job(),
    }
}

fn current(threads: usize) -> Option<&'static ThreadPool> {
    let process = std::process::id();
    let held = CURRENT.load(Ordering::Acquire);
    // SAFETY: CURRENT is null or a leaked Box that is never freed, so the reference is valid for
    // the rest of the process (tested by `a_pool_is_made_once_per_thread_count`).
    if let Some(owned) = unsafe { held.as_ref() }
        && owned.process == process
        && owned.threads == threads
    {
        return owned.pool.as_ref();
    }
    // Replaced pools are leaked on purpose: another thread may be running in them, and after a
    // fork their threads do not exist and could not be joined. It happens on a change of the
    // thread count or a fork, not in a loop.
    let pool =
        ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("optical-{i}")).build().ok();
    let made = Box::leak(Box::new(Owned { process, threads, pool }));
    CURRENT.store(made, Ordering::Release);
    made.pool.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_made_once_per_thread_count() {
        let first = current(3).map(std::ptr::from_ref);
        let again = current(3).map(std::ptr::from_ref);
        assert_eq!(first, again);
        assert_eq!(current(2).map(ThreadPool::current_num_threads), Some(2));
    }

    #[test]
    fn a_job_returns_its_value() {
        assert_eq!(run(|| 6 * 7), 42);
    }
}
