//! Threads that compute products for one of them.
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Threads for what is installed on them: it is one of them itself, so that it begins a product at once and others join it. A thread outside would
/// wake one of them at every product, and be woken at its end.
///
/// # Errors
/// If the system has no more threads.
pub fn workers(name: &'static str) -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new().thread_name(move |_| name.to_owned()).build()
}
