//! Threads that compute products for one of them.
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, Yield};
use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, Thread},
};

/// Rounds without work after which a thread that is not told to stay awake rests: some tenths of a millisecond, longer than what lies between two
/// passes of a network through a batch that runs.
const IDLE_ROUNDS: u32 = 1_000;

thread_local! {
    /// Those that help the current thread.
    static HELPERS: RefCell<Option<Arc<Helpers>>> = const { RefCell::new(None) };
}

/// Threads for one piece of work: it is done on one of them, so that it begins a product at once and others join it. A thread outside would
/// wake one of them at every product, and be woken at its end.
#[derive(Debug)]
pub struct Workers(ThreadPool);

/// Starts threads, as many as there are cores.
///
/// # Errors
/// If the system has no more threads.
pub fn workers(name: &'static str) -> Result<Workers, ThreadPoolBuildError> {
    let pool = ThreadPoolBuilder::new().thread_name(move |_| name.to_owned());
    Ok(Workers(pool.start_handler(|_| interrupt(true)).build()?))
}

impl Workers {
    /// Does the work on one of the threads, and ends them with it.
    ///
    /// The others take part in what it does within `awake`, and may rest meanwhile: work outside of it must not wait for one of them.
    pub fn run<R: Send>(self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(|| {
            let _helped = Helped::new();
            work()
        })
    }
}

/// Does `work`, with the helpers of the current thread awake, if it has any: they look for their part of it without a rest.
///
/// A step of a network is some hundred products, and what lies between them one thread does alone. A thread that has had nothing to do for some
/// microseconds falls asleep, and to wake it takes longer than many a product.
pub fn awake<R>(work: impl FnOnce() -> R) -> R {
    let Some(helpers) = HELPERS.with_borrow(Clone::clone) else { return work() };
    let _awake = Awake { before: helpers.call(Call::Work), helpers };
    work()
}

/// What helpers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Call {
    Rest,
    Work,
    End,
}

/// The other threads of a pool. Each looks for work in a loop that lies beneath all its work: inside of other work it would keep that from its end.
#[derive(Debug)]
struct Helpers {
    call: AtomicU8,
    threads: Mutex<Vec<Thread>>,
}

impl Helpers {
    /// Returns what they were told before.
    fn call(&self, call: Call) -> u8 {
        let before = self.call.swap(call as u8, Ordering::AcqRel);
        if call != Call::Rest && before != call as u8 {
            self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Thread::unpark);
        }
        before
    }

    fn is(&self, call: Call) -> bool {
        self.call.load(Ordering::Acquire) == call as u8
    }

    /// What each of them does until the end.
    fn help(&self) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread::current());
        let mut n_idle = 0;
        while !self.is(Call::End) {
            let has_worked = rayon::yield_now() == Some(Yield::Executed);
            n_idle = if has_worked || self.is(Call::Work) { 0 } else { n_idle + 1 };
            if n_idle > IDLE_ROUNDS {
                thread::park();
            } else if !has_worked {
                thread::yield_now();
            }
        }
    }
}

/// Helpers while they are needed.
struct Helped(Arc<Helpers>);

impl Helped {
    /// All other threads of the current pool, which have nothing to do yet.
    fn new() -> Self {
        let helpers =
            Arc::new(Helpers { call: AtomicU8::new(Call::Rest as u8), threads: Mutex::new(Vec::new()) });
        let (own, of_others) = (rayon::current_thread_index(), Arc::clone(&helpers));
        // The current thread's part is done while it waits for others.
        rayon::spawn_broadcast(move |thread| {
            if Some(thread.index()) != own {
                of_others.help();
            }
        });
        // Before any work is there, so that nothing lies beneath their loops.
        let n_begun = || helpers.threads.lock().unwrap_or_else(PoisonError::into_inner).len();
        while n_begun() + 1 < rayon::current_num_threads() {
            thread::yield_now();
        }
        HELPERS.set(Some(Arc::clone(&helpers)));
        Self(helpers)
    }
}

impl Drop for Helped {
    fn drop(&mut self) {
        HELPERS.set(None);
        self.0.call(Call::End);
    }
}

/// Ends with what helpers were told before, also where work panics.
struct Awake {
    before: u8,
    helpers: Arc<Helpers>,
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.helpers.call.store(self.before, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn workers_interrupt_others_whoever_starts_them() {
        let of = |does| {
            let thread = std::thread::spawn(move || {
                interrupt(does);
                (
                    interrupts(),
                    std::thread::spawn(interrupts).join().unwrap(),
                    workers("test").unwrap().run(interrupts),
                )
            });
            thread.join().unwrap()
        };
        assert_eq!(of(true), (true, true, true));
        assert_eq!(of(false), (false, false, true));
    }

    #[test]
    fn helpers_take_part_after_a_rest_too_and_end_with_the_work_and_with_a_panic() {
        let both = || {
            let meet = std::sync::Barrier::new(2);
            // Each waits for the other, so one thread alone would never end.
            awake(|| rayon::join(|| meet.wait(), || meet.wait()));
        };
        for is_broken in [false, true] {
            let (ended, n_ended) = std::sync::mpsc::channel();
            let pool = ThreadPoolBuilder::new().num_threads(2).exit_handler(move |_| ended.send(()).unwrap());
            let workers = Workers(pool.build().unwrap());
            let work = || {
                let helpers = HELPERS.with_borrow(Clone::clone).unwrap();
                for _ in 0..3 {
                    both();
                    assert!(helpers.is(Call::Rest));
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    assert_eq!(rayon::join(|| 1, || 2), (1, 2), "nobody waits for those who rest");
                }
                awake(|| {
                    awake(|| assert!(helpers.is(Call::Work)));
                    assert!(helpers.is(Call::Work), "until the outer work is done");
                    assert!(!is_broken, "as a model that breaks");
                });
            };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| workers.run(work)));
            assert_eq!(done.is_err(), is_broken);
            for _ in 0..2 {
                let patience = std::time::Duration::from_secs(60);
                n_ended.recv_timeout(patience).expect("a thread looks for work for ever");
            }
        }
        assert_eq!(awake(rayon::current_thread_index), None, "nobody has to have helpers");
    }
}
