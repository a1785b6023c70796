//! One request, read top to bottom: cache, or a flight that others share, or a generation of its own.
mod counted;

use crate::{
    cleaner::CleanerError,
    experiment::assign::ForceError,
    model::weights::ModelError,
    serve::{
        cache::{AnswerCache, CacheKey},
        candidate::{Answer, Candidate},
        engine::{Deadline, EngineError},
        flights::{Flight, Flights, Progress, Seat},
        metrics::{Metrics, outcome::Outcome},
        question::{CacheMode, Question},
        settings::CacheSettings,
    },
};
use counted::Counted;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

/// Why a request has no answer. One variant per thing its sender can do about it.
#[derive(Clone, Debug, Error)]
pub enum ServeError {
    /// Come back later.
    #[error("{queued} requests may wait, and that many do")]
    QueueFull {
        /// Places in the queue.
        queued: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// Come back later.
    #[error("waited {waited_ms} ms for the model")]
    QueueAge {
        /// How long it waited.
        waited_ms: u64,
        /// When to come back.
        retry_after: Duration,
    },
    /// Allow more time.
    #[error("deadline passed")]
    DeadlineHit,
    /// Ask another server: this one is going to stop.
    #[error("server is draining")]
    Draining,
    /// Ask another server: this one lost its model.
    #[error("model thread has ended")]
    EngineGone,
    /// Ask for another way of reranking.
    #[error("bundle has no reward head")]
    NoRewardHead,
    /// Try another seed or a lower temperature.
    #[error("none of {n_candidates} candidates is a valid list")]
    NoValidList {
        /// How many there were.
        n_candidates: usize,
    },
    /// Report it: the model failed.
    #[error("model failed")]
    Engine(#[source] Arc<crate::decode::batch::DecodeError>),
    /// Report it: the reward head failed.
    #[error("reward head failed")]
    Head(#[source] Arc<ModelError>),
    /// Report it: the signal cleaner failed.
    #[error("signal cleaner failed")]
    Cleaner(#[source] Arc<CleanerError>),
    /// Send other signals: nothing is left that a model may read.
    #[error("all signals are personal data")]
    OnlyPersonalData,
    /// Ask for another arm, or for none.
    #[error(transparent)]
    Arm(#[from] ForceError),
    /// Report it: a task of the server panicked.
    #[error("a task of the server panicked")]
    Panicked,
}

impl ServeError {
    /// Whether a limit of time was reached, which may be that of another request that asked the same.
    fn is_limit(&self) -> bool {
        matches!(self, Self::QueueAge { .. } | Self::DeadlineHit)
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::QueueFull { .. } | Self::QueueAge { .. } | Self::Draining => Outcome::Shed,
            Self::DeadlineHit => Outcome::Deadline,
            Self::NoRewardHead | Self::OnlyPersonalData | Self::Arm(_) => Outcome::Rejected,
            Self::NoValidList { .. } => Outcome::NoList,
            Self::EngineGone | Self::Engine(_) | Self::Head(_) | Self::Cleaner(_) | Self::Panicked => {
                Outcome::Failed
            }
        }
    }
}

impl From<EngineError> for ServeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull { queued, retry_after } => Self::QueueFull { queued, retry_after },
            EngineError::QueueAge { waited_ms, retry_after } => Self::QueueAge { waited_ms, retry_after },
            EngineError::DeadlineHit => Self::DeadlineHit,
            EngineError::Gone => Self::EngineGone,
            EngineError::Fault(error) => Self::Engine(error),
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was stored that long.
    Hit(Duration),
    /// It was generated for this request.
    Miss,
    /// Another request had started to generate it.
    Coalesced,
    /// It was generated, and the cache was left alone.
    Bypass,
}

impl Origin {
    /// Its word in metrics and records, and the age of a stored answer.
    pub fn status(self) -> (&'static str, Option<Duration>) {
        match self {
            Self::Hit(age) => ("hit", Some(age)),
            Self::Miss => ("miss", None),
            Self::Coalesced => ("coalesced", None),
            Self::Bypass => ("bypass", None),
        }
    }
}

/// Answers questions: everything that requests share.
#[derive(Debug)]
pub struct Answerer {
    cache: AnswerCache<Answer>,
    flights: Flights,
    ttl: Duration,
    metrics: Arc<Metrics>,
}

/// An answer that is stored, or one to watch.
#[derive(Debug)]
pub enum Course {
    /// Stored.
    Stored(Arc<Answer>, Duration),
    /// Being generated.
    Flying(watch::Receiver<Progress>, Origin),
}

impl Course {
    fn origin(&self) -> Origin {
        match self {
            Self::Stored(_, age) => Origin::Hit(*age),
            Self::Flying(_, origin) => *origin,
        }
    }

    /// Shows the candidates, and waits for the answer.
    async fn run(
        self,
        deadline: Option<Instant>,
        watch: impl FnMut(&Arc<Candidate>),
    ) -> (Origin, Result<Arc<Answer>, ServeError>) {
        let origin = self.origin();
        let answer = match self {
            Self::Stored(answer, _) => {
                answer.candidates.iter().for_each(watch);
                Ok(answer)
            }
            Self::Flying(watcher, _) => follow(watcher, deadline, watch).await,
        };
        (origin, answer)
    }
}

impl Answerer {
    /// An answerer with an empty cache.
    pub fn new(cache: CacheSettings, metrics: Arc<Metrics>) -> Self {
        let (cache, ttl) = (AnswerCache::new(cache.bytes_max), cache.ttl);
        Self { cache, flights: Flights::default(), ttl, metrics }
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
    ) -> Result<(Arc<Answer>, Origin), ServeError> {
        let mut counted = Counted::new(&self.metrics, &question.enrolment);
        let mut n_seen = 0;
        let count = |candidate: &Arc<Candidate>| {
            n_seen += 1;
            watch(candidate);
        };
        let course = self.start(question.clone()).await;
        let (status, age) = course.origin().status();
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
            (Ok(_), Origin::Hit(_)) => Outcome::Cached,
            (Ok(_), Origin::Coalesced) => Outcome::Coalesced,
            (Ok(_), Origin::Miss | Origin::Bypass) => Outcome::Ok,
            (Err(error), _) => error.outcome(),
        };
        counted.answer = result.as_ref().ok().cloned();
        result.map(|answer| (answer, origin))
    }

    /// Finds the answer, or somebody who generates it, or starts to.
    async fn start(self: &Arc<Self>, question: Question) -> Course {
        let (options, arms) = (question.options.canonical(), question.enrolment.canonical());
        // By the bundle and not by the number of the model: the same bundle, loaded again, writes the same.
        let bundle = &question.writer.facts.bundle;
        let key = CacheKey::new(&question.whose(), &question.signals, bundle, &options, &arms);
        let deadline = question.deadline;
        if question.cache == CacheMode::Default {
            if let Some((answer, age)) = self.cache.get(key, Instant::now()).await {
                return Course::Stored(answer, age);
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
    ) -> Result<Arc<Answer>, ServeError> {
        // Between this request's look into the cache and its take-off, an earlier flight may have landed.
        if question.cache == CacheMode::Default
            && let Some((answer, _)) = self.cache.get(key, Instant::now()).await
        {
            flight.progress.send_modify(|progress| progress.candidates.clone_from(&answer.candidates));
            return Ok(answer);
        }
        let publish = |candidate: &Arc<Candidate>| {
            flight.progress.send_modify(|progress| progress.candidates.push(Arc::clone(candidate)));
        };
        let answer = question.writer.generate(&question, Arc::clone(&flight.deadline), publish).await;
        let answer = Arc::new(answer.inspect_err(|error| match error {
            ServeError::Engine(_)
            | ServeError::Head(_)
            | ServeError::Cleaner(_)
            | ServeError::Panicked
            | ServeError::EngineGone => {
                warn!(error = %crate::telemetry::Chain(error), "request has no answer");
            }
            ServeError::QueueFull { .. }
            | ServeError::QueueAge { .. }
            | ServeError::DeadlineHit
            | ServeError::Draining
            | ServeError::NoRewardHead
            | ServeError::OnlyPersonalData
            | ServeError::Arm(_)
            | ServeError::NoValidList { .. } => debug!(%error, "request has no answer"),
        })?);
        if question.cache != CacheMode::Bypass {
            let ttl = question.enrolment.policy().cache_ttl.unwrap_or(self.ttl);
            let weighed = (Arc::clone(&answer), answer.n_bytes());
            self.cache.put(key, weighed, ttl, Instant::now()).await;
        }
        Ok(answer)
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
) -> Result<Arc<Answer>, ServeError> {
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
