//! Threads on which each piece of work computes alone: what it would share among threads, it does itself.
//!
//! Cleaning, tokenising and scoring are short, and many readers' run at the same time. Shared among threads, each small product would wake others
//! that then look for more and take the cores from the model; on any thread of many, each would touch memory that is new to its thread.
use crate::{model::workers::interrupt, serve::metrics::Metrics};
use rayon::ThreadPoolBuilder;
use std::{
    io,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Work that may wait on the way to the threads: some milliseconds each. Whoever has more waits until there is room.
const WAITING_MAX: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

/// Work panicked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("work panicked")]
pub struct Panicked;

/// The way to these threads. They end with it.
#[derive(Debug)]
pub struct Solo {
    sender: mpsc::Sender<Work>,
    metrics: Arc<Metrics>,
}

/// A piece of work that waits, which is shown until a thread takes it.
struct Waiting {
    metrics: Arc<Metrics>,
    since: Instant,
}

impl Waiting {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.solo_depth().increment(1);
        Self { metrics, since: Instant::now() }
    }

    fn begun(self) {
        self.metrics.solo_waited(self.since.elapsed());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.metrics.solo_depth().decrement(1);
    }
}

impl Solo {
    /// Half as many threads as the machine has cores: on a CPU the others are for the model, and with a GPU even these do more than it takes.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(metrics: Arc<Metrics>) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let (sender, receiver) = mpsc::channel::<Work>(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..cores.div_ceil(2) {
            let receiver = Arc::clone(&receiver);
            let (tell, told) = std::sync::mpsc::channel();
            thread::Builder::new().name("solo".to_owned()).spawn(move || {
                // The model may wait for the next prompt.
                interrupt(true);
                // The thread is all there is of its pool.
                let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
                let pool = pool.map_err(|error| tell.send(Err(io::Error::other(error))));
                if let Ok(_alone) = pool {
                    // Whoever starts it waits.
                    let _ = tell.send(Ok(()));
                    work(&receiver);
                }
            })?;
            told.recv().map_err(io::Error::other)??;
        }
        Ok(Self { sender, metrics })
    }

    /// Does work on one of the threads, in the order in which it comes; once it has begun it ends, whether or not anybody waits.
    ///
    /// # Errors
    /// If it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (tell, told) = oneshot::channel();
        let waiting = Waiting::new(Arc::clone(&self.metrics));
        let work = move || {
            if !tell.is_closed() {
                waiting.begun();
                // Whoever asked may have gone meanwhile.
                let _ = tell.send(work());
            }
        };
        // The threads end after this does.
        let _ = self.sender.send(Box::new(work)).await;
        told.await.map_err(|_| Panicked)
    }
}

fn work(receiver: &Mutex<mpsc::Receiver<Work>>) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(work) = next else { return };
        // Its end is told by what it holds: whoever waits for that hears that it is gone.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;
    use std::{collections::HashSet, thread::ThreadId};

    fn started() -> Solo {
        Solo::start(Arc::new(Metrics::new().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn what_could_be_shared_stays_on_the_thread() {
        let solo = started();
        let threads = || {
            let here = thread::current().id();
            let of_parts: HashSet<ThreadId> =
                (0..10_000).into_par_iter().map(|_| thread::current().id()).collect();
            (of_parts == HashSet::from([here]), thread::current().name().map(str::to_owned))
        };
        assert_eq!(solo.run(threads).await.unwrap(), (true, Some("solo".to_owned())));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_model_never_waits_for_a_thread_that_waits_for_it() {
        use crate::model::workers::interrupts;
        let starting = thread::spawn(|| {
            interrupt(false);
            started()
        });
        assert!(starting.join().unwrap().run(interrupts).await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_is_told_and_the_thread_goes_on() {
        let solo = started();
        for round in 0..10 {
            assert_eq!(solo.run(|| panic!("of a test")).await, Err::<(), _>(Panicked));
            assert_eq!(solo.run(move || round).await, Ok(round));
        }
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_begun() {
        let solo = Arc::new(started());
        let (begun, (open, gate)) = (Arc::new(Mutex::new(0)), std::sync::mpsc::channel::<()>());
        let gate = Arc::new(Mutex::new(gate));
        let n_threads = thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        let held: Vec<_> = (0..n_threads)
            .map(|_| {
                let (solo, gate) = (Arc::clone(&solo), Arc::clone(&gate));
                tokio::spawn(async move { solo.run(move || gate.lock().unwrap().recv().is_ok()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let counted = Arc::clone(&begun);
        let behind = tokio::spawn({
            let solo = Arc::clone(&solo);
            async move { solo.run(move || *counted.lock().unwrap() += 1).await }
        });
        tokio::task::yield_now().await;
        let depth = || {
            let text = solo.metrics.render();
            let shown = text.lines().find_map(|line| line.strip_prefix("newshound_solo_queue_depth "));
            shown.unwrap().parse::<usize>().unwrap()
        };
        assert!(depth() >= 1, "one waits");
        behind.abort();
        assert!(behind.await.unwrap_err().is_cancelled());
        (0..n_threads).for_each(|_| open.send(()).unwrap());
        for held in held {
            assert_eq!(held.await.unwrap(), Ok(true));
        }
        assert_eq!(solo.run(|| ()).await, Ok(()));
        assert_eq!(*begun.lock().unwrap(), 0);
        assert_eq!(depth(), 0, "nothing waits any more, whether it was begun or not");
    }
}
