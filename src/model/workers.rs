//! Threads that compute products for one of them.
use candle_core::Device;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, Yield};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Threads for what is installed on them: it is one of them itself, so that it begins a product at once and others join it. A thread outside would
/// wake one of them at every product, and be woken at its end.
///
/// # Errors
/// If the system has no more threads.
pub fn workers(name: &'static str) -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new().thread_name(move |_| name.to_owned()).start_handler(|_| interrupt(true)).build()
}

/// Does `work` of a device on the current thread of a pool, whose other threads look for their part of it without a rest where the device is
/// the processor.
///
/// A step of a network is some hundred products, and what lies between them one thread does alone. A thread that has had nothing to do for some
/// microseconds falls asleep, and to wake it takes longer than many a product.
pub fn awake<R>(device: &Device, work: impl FnOnce() -> R) -> R {
    let has_others = device.is_cpu() && rayon::current_num_threads() > 1;
    let own = rayon::current_thread_index().filter(|_| has_others);
    let Some(own) = own else { return work() };
    let over = Over(Arc::default());
    let is_over = Arc::clone(&over.0);
    rayon::spawn_broadcast(move |thread| {
        // The current thread's part may begin while it waits for others: it must not wait for itself.
        while thread.index() != own && !is_over.load(Ordering::Relaxed) {
            if rayon::yield_now() != Some(Yield::Executed) {
                std::thread::yield_now();
            }
        }
    });
    work()
}

/// Says that work is over, also where it panics.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the current thread, and those that it starts, interrupt others that compute when there is something for them; as they do unless they
/// are told not to. One that does not begins when a core is free, or after the slice of a few milliseconds that the system gives each thread.
///
/// Nothing changes where whoever started the program chose how its threads are scheduled.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "calls of the system, of which there is no other binding")]
pub fn interrupt(does: bool) {
    let policy = if does { libc::SCHED_OTHER } else { libc::SCHED_BATCH };
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the first thread has the number of the process, zero is the current one, and the system only reads the structure, during the
    // call. If it refuses, nothing has changed.
    unsafe {
        if libc::sched_getscheduler(libc::getpid()) == libc::SCHED_OTHER {
            let _ = libc::sched_setscheduler(0, policy, &raw const priority);
        }
    }
}

/// Elsewhere the system has no such policy.
#[cfg(not(target_os = "linux"))]
pub fn interrupt(_: bool) {}

/// Whether the current thread interrupts others.
#[cfg(all(test, target_os = "linux"))]
#[allow(unsafe_code, reason = "a call of the system, of which there is no other binding")]
pub(crate) fn interrupts() -> bool {
    // SAFETY: zero is the current thread.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn workers_interrupt_others_whoever_starts_them() {
        let of = |does| {
            let thread = std::thread::spawn(move || {
                interrupt(does);
                (
                    interrupts(),
                    std::thread::spawn(interrupts).join().unwrap(),
                    workers("test").unwrap().install(interrupts),
                )
            });
            thread.join().unwrap()
        };
        assert_eq!(of(true), (true, true, true));
        assert_eq!(of(false), (false, false, true));
    }
}
