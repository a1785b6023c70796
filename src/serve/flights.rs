//! Single flight: those who ask the same at the same time share one generation, which belongs to none of them.
//!
//! A generation runs in a task of its own and publishes its progress; everybody who waits, the first included, only watches. So
//! whoever leaves costs the others nothing, and when the last one has left the generation is given up.
use crate::serve::{
    answer::ServeError,
    batcher::Class,
    cache::CacheKey,
    candidate::{Answer, Candidate, Growing, Seen},
    engine::{Deadline, Growth, Precedence},
    traces::Trace,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What watchers of a generation see.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Candidates in the order in which they ended.
    pub candidates: Vec<Arc<Candidate>>,
    /// Those that are being written, by number, where anybody looks.
    pub growing: BTreeMap<usize, Arc<Growing>>,
    /// Who looks at them.
    pub growth: Arc<Growth>,
    /// How it ended.
    pub outcome: Option<Result<Landed, ServeError>>,
    /// The trace that says what it does: that of whoever asked first.
    pub trace: Trace,
}

impl Progress {
    /// One more thing to see.
    pub fn show(&mut self, seen: Seen) {
        match seen {
            Seen::Growing(growing) => {
                self.growing.insert(growing.row_idx, growing);
            }
            Seen::Ended(candidate) => {
                self.growing.remove(&candidate.row_idx);
                self.candidates.push(candidate);
            }
        }
    }
}

/// What one who watches has seen.
#[derive(Debug)]
pub struct View {
    sees_growth: bool,
    n_ended: usize,
    /// Tokens that candidates had when they were seen, by number.
    n_tokens: HashMap<usize, usize>,
}

impl View {
    /// That of one who has seen nothing.
    pub fn new(sees_growth: bool) -> Self {
        Self { sees_growth, n_ended: 0, n_tokens: HashMap::new() }
    }

    /// What there is that she has not seen; from now on she has.
    pub fn fresh(&mut self, progress: &Progress) -> Vec<Seen> {
        let ended = progress.candidates.get(self.n_ended..).unwrap_or_default();
        self.n_ended += ended.len();
        let growing = progress.growing.values().filter(|_| self.sees_growth);
        let growing = growing.filter(|growing| {
            self.n_tokens.insert(growing.row_idx, growing.n_tokens) != Some(growing.n_tokens)
        });
        let growing = growing.cloned().map(Seen::Growing);
        ended.iter().cloned().map(Seen::Ended).chain(growing).collect()
    }
}

/// What a generation that ended well gives.
#[derive(Clone, Debug)]
pub struct Landed {
    /// The answer.
    pub answer: Arc<Answer>,
    /// Its age, where an earlier one had just stored it and nothing was generated.
    pub age: Option<Duration>,
}

/// One generation under way.
#[derive(Debug)]
pub struct Flight {
    /// Where it publishes.
    pub progress: watch::Sender<Progress>,
    /// Until when anybody waits for it.
    pub deadline: Arc<Deadline>,
    /// The first class of those who wait for it.
    pub precedence: Arc<Precedence>,
}

impl Flight {
    /// A flight that nobody else can join, and its first watcher.
    pub fn alone(passenger: Passenger) -> (Arc<Self>, watch::Receiver<Progress>) {
        let (progress, watcher) = watch::channel(Progress::default());
        let deadline = Arc::new(Deadline::new(passenger.deadline));
        let precedence = Arc::new(Precedence::new(passenger.class));
        (Arc::new(Self { progress, deadline, precedence }), watcher)
    }

    /// One more waits for it: it goes on until her deadline, and before whomever she goes.
    fn board(&self, passenger: Passenger) -> watch::Receiver<Progress> {
        self.deadline.extend(passenger.deadline);
        self.precedence.join(passenger.class);
        self.progress.subscribe()
    }
}

/// Somebody who waits for a generation.
#[derive(Clone, Copy, Debug)]
pub struct Passenger {
    /// Until when, if not for ever.
    pub deadline: Option<Instant>,
    /// Whom she goes before.
    pub class: Class,
}

/// What `Flights::join` found.
#[derive(Debug)]
pub enum Seat {
    /// The same is being generated: watch it.
    Follower(watch::Receiver<Progress>),
    /// Nobody generates it: the caller starts it, and watches it too.
    Leader(Arc<Flight>, watch::Receiver<Progress>),
}

/// The generations under way, by key.
#[derive(Debug, Default)]
pub struct Flights {
    by_key: Mutex<HashMap<CacheKey, Arc<Flight>>>,
}

impl Flights {
    /// Joins the flight of a key, or starts one.
    pub fn join(&self, key: CacheKey, passenger: Passenger) -> Seat {
        let mut by_key = self.lock();
        if let Some(flight) = by_key.get(&key) {
            return Seat::Follower(flight.board(passenger));
        }
        let (flight, watcher) = Flight::alone(passenger);
        by_key.insert(key, Arc::clone(&flight));
        Seat::Leader(flight, watcher)
    }

    /// Joins the flight of a key if there is one.
    pub fn follow(&self, key: CacheKey, passenger: Passenger) -> Option<watch::Receiver<Progress>> {
        self.lock().get(&key).map(|flight| flight.board(passenger))
    }

    /// Starts a flight unless there is one of the same key.
    pub fn lead(
        &self,
        key: CacheKey,
        passenger: Passenger,
    ) -> Option<(Arc<Flight>, watch::Receiver<Progress>)> {
        let mut by_key = self.lock();
        if by_key.contains_key(&key) {
            return None;
        }
        let (flight, watcher) = Flight::alone(passenger);
        by_key.insert(key, Arc::clone(&flight));
        Some((flight, watcher))
    }

    /// Takes a flight off the board, whatever becomes of it: who comes later starts another.
    pub fn land(&self, key: CacheKey, flight: &Arc<Flight>) {
        let mut by_key = self.lock();
        // A later flight of the same key is not this one's to remove.
        if by_key.get(&key).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            by_key.remove(&key);
        }
    }

    /// Takes a flight off the board if nobody watches it any more; says whether it did.
    ///
    /// Watchers join under the same lock, so nobody can join a flight that this gave up.
    pub fn land_if_unwatched(&self, key: CacheKey, flight: &Flight) -> bool {
        let mut by_key = self.lock();
        let unwatched = flight.progress.receiver_count() == 0;
        if unwatched {
            by_key.remove(&key);
        }
        unwatched
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Arc<Flight>>> {
        // The map is whole after every statement, so a panic elsewhere while it was locked broke nothing.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
