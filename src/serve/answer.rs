//! One request, read top to bottom: cache, or a flight that others share, or a generation of its own.
mod answered;
mod counted;
mod error;

use crate::serve::{
    cache::{AnswerCache, CacheKey, Found, Freshness, Keep},
    candidate::{Answer, Candidate},
    engine::Deadline,
    flights::{Flight, Flights, Landed, Progress, Seat},
    metrics::{Metrics, outcome::Outcome},
    models::Models,
    owner::{Epochs, Leave, Owner},
    question::{CacheMode, Question},
    settings::CacheSettings,
};
pub use answered::{Answered, Origin};
use counted::Counted;
pub use error::ServeError;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tracing::debug;

/// Questions without an answer that are remembered: each for a second or two, so that these are the failures of a bad minute.
const FAILURES_MAX: u64 = 10_000;

/// Answers questions: everything that requests share.
#[derive(Debug)]
pub struct Answerer {
    cache: AnswerCache<Answer>,
    /// Questions that had no answer a moment ago.
    failures: AnswerCache<ServeError>,
    flights: Flights,
    epochs: Arc<Epochs>,
    settings: CacheSettings,
    metrics: Arc<Metrics>,
}

/// An answer that is stored, or one to watch.
#[derive(Debug)]
pub enum Course {
    /// Stored.
    Stored(Arc<Answer>, Origin),
    /// Being generated.
    Flying(watch::Receiver<Progress>, Origin),
    /// It had no answer a moment ago, and is not tried again yet.
    Failed(ServeError),
}

impl Course {
    /// What the look into the cache found, as its word, and the age of what it found.
    fn status(&self) -> (&'static str, Option<Duration>) {
        match self {
            Self::Stored(_, origin) | Self::Flying(_, origin) => origin.status(),
            Self::Failed(_) => ("failed", None),
        }
    }

    /// Shows the candidates, and waits for the answer.
    async fn run(
        self,
        deadline: Option<Instant>,
        watch: impl FnMut(&Arc<Candidate>),
    ) -> (Origin, Result<Arc<Answer>, ServeError>) {
        match self {
            Self::Stored(answer, origin) => {
                answer.candidates.iter().for_each(watch);
                (origin, Ok(answer))
            }
            Self::Flying(watcher, origin) => match follow(watcher, deadline, watch).await {
                Ok(Landed { answer, age }) => (age.map_or(origin, Origin::Hit), Ok(answer)),
                Err(error) => (origin, Err(error)),
            },
            Self::Failed(error) => (Origin::Miss, Err(error)),
        }
    }
}

impl Answerer {
    /// An answerer with an empty cache.
    pub fn new(settings: CacheSettings, metrics: Arc<Metrics>) -> Self {
        Self {
            cache: AnswerCache::new(settings.bytes_max),
            failures: AnswerCache::new(FAILURES_MAX),
            flights: Flights::default(),
            epochs: Arc::default(),
            settings,
            metrics,
        }
    }

    /// Shows how much is stored; called now and then, as entries also leave by age.
    pub async fn upkeep(&self) {
        let (entries, bytes) = self.cache.size().await;
        self.metrics.cache_size(entries, bytes);
    }

    /// Answers a question; `watch` sees every candidate as it ends, or all at once if the answer is stored.
    ///
    /// Dropping the future costs nobody else who waits for the same answer anything.
    ///
    /// # Errors
    /// If there is no answer, or not before the deadline.
    pub async fn answer(
        self: &Arc<Self>,
        question: Question,
        mut watch: impl FnMut(&Arc<Candidate>),
    ) -> Result<Answered, ServeError> {
        let mut counted = Counted::new(&self.metrics, &question.enrolment);
        let mut n_seen = 0;
        let count = |candidate: &Arc<Candidate>| {
            n_seen += 1;
            watch(candidate);
        };
        let course = self.start(question.clone()).await;
        let (status, age) = course.status();
        self.metrics.cache_request(status, age);
        let (mut origin, mut result) = course.run(question.deadline, count).await;
        // Another's limit ended what this request had joined. Candidates that were seen cannot be taken back, so only a flight
        // that showed none is given another try, and only one, so that nobody waits for ever behind those who hurry.
        let in_time = question.deadline.is_none_or(|deadline| Instant::now() < deadline);
        let of_another = origin == Origin::Coalesced && result.as_ref().is_err_and(ServeError::is_limit);
        if of_another && in_time && n_seen == 0 {
            let deadline = question.deadline;
            (origin, result) = self.start(question).await.run(deadline, watch).await;
        }
        counted.outcome = match (&result, origin) {
            (Ok(_), Origin::Hit(_) | Origin::Stale(_)) => Outcome::Cached,
            (Ok(_), Origin::Coalesced) => Outcome::Coalesced,
            (Ok(_), Origin::Miss | Origin::Bypass) => Outcome::Ok,
            (Err(error), _) => error.outcome(),
        };
        let answered = result.map(|answer| Answered { paid_nanos: answer.owed.pay(), answer, origin });
        counted.answered = answered.as_ref().ok().cloned();
        answered
    }

    /// Finds the answer, or somebody who generates it, or starts to.
    async fn start(self: &Arc<Self>, question: Question) -> Course {
        let (key, deadline, now) = (self.key(&question), question.deadline, Instant::now());
        if question.cache == CacheMode::Default {
            if let Some(Found { answer, age, freshness }) = self.cache.get(key, now).await {
                if freshness != Freshness::Fresh {
                    self.renew(question, key, freshness).await;
                }
                let is_stale = freshness == Freshness::Stale;
                return Course::Stored(answer, if is_stale { Origin::Stale(age) } else { Origin::Hit(age) });
            }
            if let Some(failed) = self.failures.get(key, now).await {
                return Course::Failed(ServeError::clone(&failed.answer));
            }
            return match self.flights.join(key, deadline) {
                Seat::Follower(watcher) => Course::Flying(watcher, Origin::Coalesced),
                Seat::Leader(flight, watcher) => {
                    self.fly(question, flight, key);
                    Course::Flying(watcher, Origin::Miss)
                }
            };
        }
        let origin = if question.cache == CacheMode::Bypass { Origin::Bypass } else { Origin::Miss };
        let (flight, watcher) = Flight::alone(Deadline::new(deadline));
        self.fly(question, flight, key);
        Course::Flying(watcher, origin)
    }

    fn key(&self, question: &Question) -> CacheKey {
        let (options, arms) = (question.options.canonical(), question.enrolment.canonical());
        let whose = question.whose();
        let epoch = self.epochs.now(Owner::of(&whose));
        // By the bundle and not by the number of the model: the same bundle, loaded again, writes the same.
        let bundle = &question.writer.facts.bundle;
        CacheKey::new((&whose, epoch), &question.signals, bundle, &options, &arms)
    }

    /// Generates anew what is stored, for nobody who waits: unless somebody does so already, many wait for the model, or it failed a
    /// moment ago.
    async fn renew(self: &Arc<Self>, question: Question, key: CacheKey, freshness: Freshness) {
        if question.writer.engine.is_pressed() || self.failures.get(key, Instant::now()).await.is_some() {
            return self.metrics.cache_renewal("skipped");
        }
        let Some((flight, mut watcher)) = self.flights.lead(key) else { return };
        self.metrics.cache_renewal(if freshness == Freshness::Stale { "stale" } else { "early" });
        self.fly(question, flight, key);
        // A flight that nobody watches is given up.
        tokio::spawn(async move {
            let _ = watcher.wait_for(|progress| progress.outcome.is_some()).await;
        });
    }

    /// Generates in a task of its own, so that whoever asked first may leave.
    fn fly(self: &Arc<Self>, question: Question, flight: Arc<Flight>, key: CacheKey) {
        let answerer = Arc::clone(self);
        tokio::spawn(async move {
            let joinable = question.cache == CacheMode::Default;
            let _landing = joinable.then(|| Landing { flights: &answerer.flights, key, flight: &flight });
            let outcome = tokio::select! {
                outcome = answerer.generate(Arc::new(question), &flight, key) => outcome,
                () = answerer.unwatched(&flight, key, joinable) => {
                    debug!("nobody waits for the answer any more");
                    return;
                }
            };
            if joinable {
                answerer.flights.land(key, &flight);
            }
            flight.progress.send_modify(|progress| progress.outcome = Some(outcome));
        });
    }

    async fn generate(
        &self,
        question: Arc<Question>,
        flight: &Flight,
        key: CacheKey,
    ) -> Result<Landed, ServeError> {
        // Between this request's look into the cache and its take-off, an earlier flight may have landed.
        if question.cache == CacheMode::Default
            && let Some(Found { answer, age, freshness: Freshness::Fresh }) =
                self.cache.get(key, Instant::now()).await
        {
            flight.progress.send_modify(|progress| progress.candidates.clone_from(&answer.candidates));
            return Ok(Landed { answer, age: Some(age) });
        }
        let publish = |candidate: &Arc<Candidate>| {
            flight.progress.send_modify(|progress| progress.candidates.push(Arc::clone(candidate)));
        };
        let leave = Leave { epoch: key.epoch(), epochs: Arc::clone(&self.epochs) };
        let deadline = Arc::clone(&flight.deadline);
        let answer = match question.writer.generate(&question, leave, deadline, publish).await {
            Ok(answer) => Arc::new(answer),
            Err(error) => {
                error.tell();
                self.remember(&question, key, &error).await;
                return Err(error);
            }
        };
        self.store(&question, key, &answer).await;
        Ok(Landed { answer, age: None })
    }

    /// Stores an answer, unless the reader's epoch has ended since it was asked for.
    async fn store(&self, question: &Question, key: CacheKey, answer: &Arc<Answer>) {
        if question.cache == CacheMode::Bypass {
            return;
        }
        let (policy, settings) = (question.enrolment.policy(), &self.settings);
        let (fresh, stale) =
            (policy.cache_ttl.unwrap_or(settings.ttl), policy.cache_stale.unwrap_or(settings.stale));
        let keep = Keep::until(fresh, settings.renew_ahead, stale, rand::random());
        self.cache.put(key, (Arc::clone(answer), answer.n_bytes()), keep, Instant::now()).await;
        // Nobody can find it any more then; and whoever ended the epoch may have looked before it was stored.
        if !self.epochs.holds(key.epoch()) {
            self.cache.remove(key).await;
        }
    }

    /// Remembers for a moment that a question had no answer, so that whoever asks again and again gets the same error for nothing.
    async fn remember(&self, question: &Question, key: CacheKey, error: &ServeError) {
        let ttl = self.settings.failure_ttl;
        if question.cache != CacheMode::Default || ttl.is_zero() || !error.is_repeatable() {
            return;
        }
        // Clients that failed together do not come back together.
        let fresh = ttl.mul_f64(1.0 + rand::random::<f64>());
        let keep = Keep { fresh, due: fresh, stale: Duration::ZERO };
        self.failures.put(key, (Arc::new(error.clone()), 1), keep, Instant::now()).await;
    }

    /// Lets nothing be used any more that was made for a reader, or begun, until now.
    pub fn invalidate(&self, whose: &[u8]) {
        self.epochs.end(Owner::of(whose));
        self.metrics.cache_invalidation("invalidate");
    }

    /// Invalidates, and returns when nothing of it is in memory, of none of the models, but what is being generated for requests that still
    /// wait.
    ///
    /// # Errors
    /// If a task panicked; then it is invalidated, and may be in memory.
    pub async fn forget(self: &Arc<Self>, whose: &[u8], models: &Models) -> Result<(), ServeError> {
        let owner = Owner::of(whose);
        self.epochs.end(owner);
        let answerer = Arc::clone(self);
        let stored = tokio::task::spawn_blocking(move || answerer.cache.keys_of(owner));
        for key in stored.await.map_err(|_| ServeError::Panicked)? {
            self.cache.remove(key).await;
        }
        models.forget(owner).await;
        self.metrics.cache_invalidation("forget");
        Ok(())
    }

    /// Resolves when nobody watches a flight and nobody can join it any more.
    async fn unwatched(&self, flight: &Flight, key: CacheKey, joinable: bool) {
        loop {
            flight.progress.closed().await;
            if !joinable || self.flights.land_if_unwatched(key, flight) {
                return;
            }
        }
    }
}

/// Watches a flight to its end.
async fn follow(
    mut watcher: watch::Receiver<Progress>,
    deadline: Option<Instant>,
    mut watch: impl FnMut(&Arc<Candidate>),
) -> Result<Landed, ServeError> {
    let mut n_seen = 0;
    loop {
        let (fresh, outcome) = {
            let progress = watcher.borrow_and_update();
            (progress.candidates.get(n_seen..).unwrap_or_default().to_vec(), progress.outcome.clone())
        };
        n_seen += fresh.len();
        fresh.iter().for_each(&mut watch);
        if let Some(outcome) = outcome {
            return outcome;
        }
        let changed = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), watcher.changed()).await {
                Ok(changed) => changed,
                Err(_) => return Err(ServeError::DeadlineHit),
            },
            None => watcher.changed().await,
        };
        // The task publishes an outcome before it ends, unless it panicked.
        changed.map_err(|_| ServeError::Panicked)?;
    }
}

/// Takes a flight off the board even if its task panics.
struct Landing<'a> {
    flights: &'a Flights,
    key: CacheKey,
    flight: &'a Arc<Flight>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.flights.land(self.key, self.flight);
    }
}
