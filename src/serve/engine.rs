//! The model thread: it alone owns the batch; others hand it jobs over a bounded channel and hear back over one of their own.
//!
//! Each model has a thread, a queue, a batch and kept prompts of its own, so that nothing which one model computed is read by another.
//! The thread ends, and its memory is free, when the last way to it is dropped and its rows have ended.
use crate::{
    decode::batch::{DecodeError, FinishedRow, GroupId, GroupRequest},
    model::workers::workers,
    serve::{
        batcher::{Batcher, Class, Picked, Room, Sharing, Standing},
        bill::Bill,
        cost::{PrefillRate, Saving, Spending, split},
        engine::{
            admission::Load,
            prefixes::{PrefixLimits, Prefixes},
            pulse::Pulse,
        },
        metrics::{
            Metrics,
            engine::{EngineGauges, EngineState, pressure},
        },
        owner::{Leave, Owner},
    },
};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, error, info};

mod admission;
mod deadline;
mod generator;
mod growth;
mod job;
mod pace;
mod patience;
mod precedence;
pub mod prefixes;
mod pulse;
mod rates;
mod thread;

pub use admission::Ticket;
pub use deadline::Deadline;
pub use generator::Generator;
pub use growth::Growth;
pub use job::{Event, Job};
pub use precedence::Precedence;
pub use rates::{Warmth, Work};

/// Limits of the batch and its queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Room of the batch.
    pub room: Room,
    /// While so many rows run, no other job joins them.
    pub rows_enough: usize,
    /// Jobs that may wait.
    pub queue_max: usize,
    /// Tokens that they may have together: their prompts, and the most that their rows can write.
    pub queue_tokens_max: usize,
    /// How long a job may wait.
    pub queue_wait_max: Duration,
    /// How long smaller jobs may overtake one that does not fit.
    pub overtake_max: Duration,
    /// How classes share all of it.
    pub sharing: Sharing,
    /// What is kept of prompts.
    pub prefixes: PrefixLimits,
    /// How long a step may take; one that takes longer does not end.
    pub step_max: Duration,
}

/// Why a job was not decoded to its end.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// The queue has no place.
    #[error("queue is full")]
    QueueFull {
        /// Places in the queue.
        queued: usize,
        /// When a place is likely.
        retry_after: Duration,
    },
    /// Those who wait have too many tokens.
    #[error("{tokens} tokens may wait")]
    TokenBacklog {
        /// Tokens that may wait.
        tokens: usize,
        /// When there is room for more.
        retry_after: Duration,
    },
    /// The job would wait too long from now on.
    #[error("it would wait longer than {} ms in a queue that is full", .wait_max.as_millis())]
    QueueSlow {
        /// The longest that a job which comes now may be expected to wait.
        wait_max: Duration,
        /// When the queue is likely to be shorter.
        retry_after: Duration,
    },
    /// The job waited too long.
    #[error("waited {waited_ms} ms in the queue")]
    QueueAge {
        /// How long it waited.
        waited_ms: u64,
        /// When the queue is likely to be shorter.
        retry_after: Duration,
    },
    /// The deadline passed first.
    #[error("deadline passed")]
    DeadlineHit,
    /// The thread has ended or is about to.
    #[error("model thread has ended")]
    Gone,
    /// The model failed in this job's own prompt or rows.
    #[error("model failed")]
    Fault(#[source] Arc<DecodeError>),
    /// A step of all jobs failed, whichever of them it was because of, if any.
    #[error("step of the model failed")]
    Step(#[source] Arc<DecodeError>),
}

impl EngineError {
    /// What the time of a job was spent on that ended like this.
    fn spending(&self) -> Spending {
        match self {
            Self::QueueFull { .. }
            | Self::TokenBacklog { .. }
            | Self::QueueSlow { .. }
            | Self::QueueAge { .. }
            | Self::Gone => Spending::Cancelled,
            Self::DeadlineHit => Spending::Deadline,
            Self::Fault(_) | Self::Step(_) => Spending::Failed,
        }
    }
}

enum Command {
    Generate(Box<Queued>),
    /// Drops what is kept of a reader's prompts.
    Forget {
        /// The reader.
        owner: Owner,
        /// Hears when it is gone.
        done: oneshot::Sender<()>,
    },
    /// Wakes an idle thread so that it sees what has changed: that it has to stop, or what is too old.
    Wake,
}

struct Queued {
    job: Job,
    reply: mpsc::Sender<Event>,
    since: Instant,
    /// The place in the queue; given back when the job leaves it.
    ticket: Ticket,
}

/// How the model thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Stopped,
    /// It panicked: the process must not go on.
    Panicked,
    /// It has not, and never will: the process must not go on either.
    Stuck,
}

/// The way to the model thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    /// The one place in the channel for `Forget`: a queue of them would take the jobs' places.
    forgetting: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// What the thread and its callers both know.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    stopping: AtomicBool,
    load: Load,
    pulse: Pulse,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Generate(_) => "Generate",
            Self::Forget { .. } => "Forget",
            Self::Wake => "Wake",
        })
    }
}

/// The running thread: how to join it and how to learn that it ended.
#[derive(Debug)]
pub struct EngineThread {
    handle: JoinHandle<()>,
    /// Resolves when it takes jobs, and knows how long they take.
    pub warm: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Ending>,
    shared: Arc<Shared>,
}

impl EngineThread {
    /// Waits until the thread has ended, or stands still.
    pub async fn ended(&mut self) -> Ending {
        let Limits { step_max, .. } = self.shared.limits;
        tokio::select! {
            ending = &mut self.ended => ending.unwrap_or(Ending::Panicked),
            () = self.shared.pulse.stands_still(step_max) => {
                error!(step_max_ms = %step_max.as_millis(), "model thread stands still");
                Ending::Stuck
            }
        }
    }

    /// Waits for the end of the thread; blocks.
    pub fn join(self) {
        if self.handle.join().is_err() {
            // The thread catches its own panics, so this is a panic while it reported one.
            error!("model thread could not be joined");
        }
    }
}

impl Engine {
    /// Starts the model thread; `make` builds the generator on it, and says how fast it is if that is known. `opening`: the ids with which
    /// every prompt begins.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start<G: Generator>(
        limits: Limits,
        opening: Arc<[u32]>,
        metrics: Arc<Metrics>,
        make: impl FnOnce() -> (G, Option<Warmth>) + Send + 'static,
    ) -> std::io::Result<(Self, EngineThread)> {
        // Two more than the places: neither a wake-up nor a reader who wants to be forgotten waits behind a full queue.
        let (commands, inbox) = mpsc::channel(limits.queue_max + 2);
        let (stopping, load, pulse) = (AtomicBool::new(false), Load::new(limits.room), Pulse::default());
        let shared = Arc::new(Shared { limits, stopping, load, pulse, metrics });
        let ((warmed, warm), (ending, ended)) = (oneshot::channel(), oneshot::channel());
        let (of_thread, of_end) = (Arc::clone(&shared), Arc::clone(&shared));
        let workers = workers("model").map_err(std::io::Error::other)?;
        let handle = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let run = || {
                let (generator, warmth) = make();
                let now = Instant::now();
                warmth.iter().for_each(|warmth| of_thread.load.lock().rates.warmed(warmth, now));
                // Whoever waited for it may have gone.
                let _ = warmed.send(());
                thread::run(generator, opening, inbox, &of_thread);
            };
            let how = match catch_unwind(AssertUnwindSafe(|| workers.run(run))) {
                Ok(()) => Ending::Stopped,
                Err(_) => {
                    error!("model thread panicked");
                    Ending::Panicked
                }
            };
            debug!(ending = ?how, "model thread ended");
            // Nobody may be listening any more, and then nobody needs to know.
            let _ = ending.send(how);
        })?;
        let forgetting = Arc::new(Semaphore::new(1));
        Ok((Self { commands, forgetting, shared }, EngineThread { handle, warm, ended, shared: of_end }))
    }

    /// Queues a job on its ticket. Dropping the receiver gives the job up: its rows are freed within one step.
    ///
    /// # Errors
    /// `Gone`.
    pub fn submit(&self, ticket: Ticket, job: Job) -> Result<mpsc::Receiver<Event>, EngineError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Gone);
        }
        // Room for every event of the job, so that the thread never waits for a slow reader.
        let (reply, events) = mpsc::channel(job.n_events_max());
        let queued = Queued { job, reply, since: Instant::now(), ticket };
        // The channel has room for all who have a ticket, so it is closed if it takes no more.
        let sent = self.commands.try_send(Command::Generate(Box::new(queued)));
        sent.map(|()| events).map_err(|_| EngineError::Gone)
    }

    /// Drops what is kept of a reader's prompts, and returns when it is gone. Jobs that are queued or running keep theirs only if
    /// their leave stands.
    pub async fn forget(&self, owner: Owner) {
        let Ok(_turn) = self.forgetting.acquire().await else { return };
        let (done, gone) = oneshot::channel();
        // With the thread, everything that it kept has gone.
        if self.commands.send(Command::Forget { owner, done }).await.is_ok() {
            let _ = gone.await;
        }
    }

    /// Wakes the thread, so that it drops what it has kept for too long although nobody asks.
    pub fn upkeep(&self) {
        // A full channel means that the thread is awake.
        let _ = self.commands.try_send(Command::Wake);
    }

    /// Tells the thread to end after its current step; what is queued or running fails with `Gone`.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // A full channel means that the thread is awake and will look by itself; a closed one that it has ended.
        let _ = self.commands.try_send(Command::Wake);
        info!("model thread is told to stop");
    }
}

/// What a prompt and its rows take.
fn room(prompt_tokens: usize, rows: usize, row_tokens_max: usize) -> Room {
    Room { rows, tokens: prompt_tokens.saturating_add(rows.saturating_mul(row_tokens_max)) }
}

/// An error and what caused it, on one line.
fn cause(error: &DecodeError) -> String {
    let mut line = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}
