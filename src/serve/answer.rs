//! One request, read top to bottom: cache, or a flight that others share, or a generation of its own.
mod admission;
mod again;
mod answered;
mod cohort;
mod counted;
mod elsewhere;
mod error;
mod forgetting;
mod generating;
mod judging;

use crate::{
    experiment::policy::Rung,
    serve::{
        batcher::Class,
        cache::{AnswerCache, CacheKey, Found, Freshness},
        candidate::{Answer, Seen},
        cohorts::Cohorts,
        flights::{Flight, Flights, Landed, Progress, Seat, View},
        looks::Looks,
        metrics::{Metrics, outcome::Outcome},
        owner::{Epochs, Owner},
        question::{CacheMode, Question},
        settings::{CacheSettings, DegradationSettings, ServeSettings},
        shared::SharedCache,
        tenants::Budgets,
        topics::Topics,
        traces::{Stage, Trace},
    },
};
pub use admission::Degradation;
pub use answered::{Answered, Origin};
use counted::Counted;
use elsewhere::{Looked, Others};
pub use error::ServeError;
pub use judging::Asker;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Semaphore, watch};

/// Questions without an answer that are remembered: each for a second or two, so that these are the failures of a bad minute.
const FAILURES_MAX: u64 = 10_000;

/// Answers questions: everything that requests share.
#[derive(Debug)]
pub struct Answerer {
    cache: AnswerCache<Answer>,
    /// Questions that had no answer a moment ago.
    failures: AnswerCache<ServeError>,
    /// Answers that servers share, if they do.
    shared: Option<Arc<SharedCache>>,
    flights: Flights,
    /// Looks for what other servers have stored.
    looks: Looks<CacheKey, elsewhere::Sought>,
    epochs: Arc<Epochs>,
    budgets: Arc<Budgets>,
    forgetting: Arc<Semaphore>,
    cohorts: Arc<Cohorts>,
    topics: Arc<Topics>,
    settings: CacheSettings,
    degradation: DegradationSettings,
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
    /// There is none, and nothing is generated.
    Refused(ServeError),
}

impl Course {
    /// What the look into the cache found, as its word, and the age of what it found.
    fn status(&self) -> (&'static str, Option<Duration>) {
        match self {
            Self::Stored(_, origin) | Self::Flying(_, origin) => origin.status(),
            Self::Failed(_) => ("failed", None),
            Self::Refused(_) => Origin::Miss.status(),
        }
    }

    /// Shows the candidates, and waits for the answer.
    async fn run(
        self,
        question: &Question,
        mut watch: impl FnMut(&Seen),
    ) -> (Origin, Result<Arc<Answer>, ServeError>) {
        let _waiting = match &self {
            Self::Flying(watcher, Origin::Coalesced) => {
                Some(question.trace.coalesced(&watcher.borrow().trace))
            }
            Self::Stored(..) | Self::Flying(..) | Self::Failed(_) | Self::Refused(_) => None,
        };
        match self {
            Self::Stored(answer, origin) => {
                answer.candidates.iter().cloned().map(Seen::Ended).for_each(|seen| watch(&seen));
                (origin, Ok(answer))
            }
            Self::Flying(watcher, origin) => match follow(watcher, question, watch).await {
                Ok(Landed { answer, age }) => (age.map_or(origin, Origin::Hit), Ok(answer)),
                Err(error) => (origin, Err(error)),
            },
            Self::Failed(error) | Self::Refused(error) => (Origin::Miss, Err(error)),
        }
    }
}

impl Answerer {
    /// An answerer with an empty cache.
    pub fn new(
        settings: &ServeSettings,
        shared: Option<Arc<SharedCache>>,
        (cohorts, topics): (Arc<Cohorts>, Arc<Topics>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let counts = Arc::clone(&metrics);
        Self {
            cache: AnswerCache::new(settings.cache.bytes_max, move |cause| counts.cache_eviction(cause, 1)),
            failures: AnswerCache::new(FAILURES_MAX, drop),
            shared,
            flights: Flights::default(),
            looks: Looks::default(),
            epochs: Arc::default(),
            budgets: Arc::new(Budgets::new(settings.tenants.clone())),
            forgetting: Arc::new(Semaphore::new(forgetting::READERS_MAX)),
            cohorts,
            topics,
            settings: settings.cache,
            degradation: settings.degradation.clone(),
            metrics,
        }
    }

    /// The lists for everybody.
    pub fn cohorts(&self) -> Arc<Cohorts> {
        Arc::clone(&self.cohorts)
    }

    /// Shows how much is stored, as entries also leave by age, and tells whose budgets are used up; called now and then.
    pub async fn upkeep(&self) {
        let (entries, bytes) = self.cache.size().await;
        self.metrics.cache_size(entries, bytes);
        self.budgets.upkeep(Instant::now());
    }

    /// Answers a question; `watch` sees every candidate as it ends, or all at once if the answer is stored, and before that, where the question
    /// says so, its queries, as far as there is time to show them.
    ///
    /// Dropping the future costs nobody else who waits for the same answer anything.
    ///
    /// # Errors
    /// If there is no answer, or not before the deadline.
    pub async fn answer(
        self: &Arc<Self>,
        question: Question,
        mut watch: impl FnMut(&Seen),
    ) -> Result<Answered, ServeError> {
        let mut counted = Counted::new(&self.metrics, &question);
        let trace = question.trace.clone();
        let mut n_seen = 0;
        let count = |seen: &Seen| {
            n_seen += usize::from(matches!(seen, Seen::Ended(_)));
            watch(seen);
        };
        let (course, mut degradation) = self.start(&question).await;
        let (status, age) = course.status();
        self.metrics.cache_request(status, age);
        let mut flew = matches!(course, Course::Flying(..));
        let (mut origin, mut result) = course.run(&question, count).await;
        // Another's limit ended what this request had joined; or it was put out of a queue that was made short, and gets what they get who come
        // now. Candidates that had ended cannot be taken back, so only a flight that showed none is given another try, and only one, so that
        // nobody waits for ever behind those who hurry.
        let in_time = question.deadline.is_none_or(|deadline| Instant::now() < deadline);
        let again = result.as_ref().is_err_and(|error| {
            (flew && error.is_slow()) || (origin == Origin::Coalesced && error.is_limit())
        });
        if again && in_time && n_seen == 0 {
            let course;
            (course, degradation) = match &result {
                Err(error) if error.is_slow() => self.start_again(&question).await,
                Ok(_) | Err(_) => self.start(&question).await,
            };
            flew = matches!(course, Course::Flying(..));
            (origin, result) = course.run(&question, watch).await;
        }
        if flew {
            result.as_ref().err().into_iter().for_each(|error| self.count_slow(error));
        }
        counted.outcome = match (&result, origin) {
            (Ok(_), Origin::Hit(_) | Origin::Stale(_) | Origin::Cohort) => Outcome::Cached,
            (Ok(_), Origin::Coalesced) => Outcome::Coalesced,
            (Ok(_), Origin::Miss | Origin::Bypass) => Outcome::Ok,
            (Err(error), _) => error.outcome(),
        };
        let answered =
            result.map(|answer| Answered { paid_nanos: answer.owed.pay(), answer, origin, degradation });
        answered.iter().for_each(|answered| trace.answered(answered));
        counted.answered = answered.as_ref().ok().cloned();
        if let Ok(Answered { degradation: Some(Degradation { rung, why }), .. }) = &answered {
            self.metrics.degraded(rung.word(), *why);
        }
        answered
    }

    /// Finds the answer, or somebody who generates it, or starts to: all that was asked, or what there is time and room for.
    async fn start(self: &Arc<Self>, question: &Question) -> (Course, Option<Degradation>) {
        if question.signals.as_slice().is_empty() {
            return self.without_signals(question);
        }
        let key = self.key(question);
        if let Some(course) = self.known(question, key).await {
            return (course, None);
        }
        // Before anything is decided: what another server has made costs this one nothing, however much it has to do.
        let others = match self.elsewhere(question, key).await {
            Looked::Found(course) => return (course, None),
            Looked::Nothing(others) => others,
        };
        let decision = admission::decide(&self.degradation, question, &self.metrics);
        let from = SystemTime::now();
        if let Some(why) = decision.stored
            && question.cache == CacheMode::Default
            && let Some(Found { answer, age, .. }) = self.cache.get(key, Instant::now()).await
        {
            self.metrics.admission(question.class, "stored");
            drop(question.trace.stage(Stage::Cache, from));
            return (
                Course::Stored(answer, Origin::Stale(age)),
                Some(Degradation { rung: Rung::Stale, why }),
            );
        }
        if let Some(why) = decision.stored
            && let Some(answer) = self.of_cohort(question, &decision)
        {
            self.metrics.admission(question.class, "cohort");
            return (Course::Stored(answer, Origin::Cohort), Some(Degradation { rung: Rung::Cohort, why }));
        }
        let step = match decision.otherwise {
            Ok(step) => step,
            Err(refusal) => {
                self.metrics.admission(question.class, "refused");
                self.metrics.degraded("refused", refusal.why());
                return (Course::Refused(admission::refused(refusal, question, &self.metrics)), None);
            }
        };
        let Some(less) = question.at(step.rung) else {
            return (self.take_off(question.clone(), key, others), None);
        };
        let (key, degradation) = (self.key(&less), Degradation::of(&step));
        let course = match self.known(&less, key).await {
            Some(course) => course,
            None => self.take_off(less, key, others),
        };
        (course, degradation)
    }

    /// What is stored under a key, or under way.
    async fn known(self: &Arc<Self>, question: &Question, key: CacheKey) -> Option<Course> {
        if question.cache != CacheMode::Default {
            return None;
        }
        let (now, from) = (Instant::now(), SystemTime::now());
        if let Some(found) = self.cache.get(key, now).await
            && found.freshness != Freshness::Spare
        {
            drop(question.trace.stage(Stage::Cache, from));
            return Some(self.stored(question, key, found).await);
        }
        if let Some(failed) = self.failures.get(key, now).await {
            return Some(Course::Failed(ServeError::clone(&failed.answer)));
        }
        let watcher = self.flights.follow(key, question.passenger())?;
        Some(Course::Flying(watcher, Origin::Coalesced))
    }

    /// A stored answer, which is generated anew where its time is over, or nearly.
    async fn stored(
        self: &Arc<Self>,
        question: &Question,
        key: CacheKey,
        Found { answer, age, freshness }: Found<Answer>,
    ) -> Course {
        if freshness != Freshness::Fresh {
            self.renew(question.clone(), key, freshness).await;
        }
        let is_stale = freshness == Freshness::Stale;
        Course::Stored(answer, if is_stale { Origin::Stale(age) } else { Origin::Hit(age) })
    }

    /// Generates an answer, or joins whoever began to in the meantime.
    fn take_off(self: &Arc<Self>, question: Question, key: CacheKey, others: Others) -> Course {
        let origin = match question.cache {
            CacheMode::Bypass => Origin::Bypass,
            CacheMode::Default | CacheMode::Refresh => Origin::Miss,
        };
        // Before anybody can join it; whoever joins another gives it back.
        let charge = match admission::charge(&self.budgets, &question) {
            Ok(charge) => charge,
            Err(exhausted) => {
                return Course::Refused(admission::exhausted(exhausted, &question, &self.metrics));
            }
        };
        let (flight, watcher) = if question.cache == CacheMode::Default {
            match self.flights.join(key, question.passenger()) {
                Seat::Follower(watcher) => return Course::Flying(watcher, Origin::Coalesced),
                Seat::Leader(flight, watcher) => (flight, watcher),
            }
        } else {
            Flight::alone(question.passenger())
        };
        self.fly(question, flight, key, (charge, others));
        Course::Flying(watcher, origin)
    }

    fn key(&self, question: &Question) -> CacheKey {
        let (mut options, arms) = (question.canonical(), question.enrolment.canonical());
        options.extend(self.topics.canonical());
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
        let Ok(charge) = admission::charge(&self.budgets, &question) else {
            return self.metrics.cache_renewal("skipped");
        };
        // No request waits for it, so it is in the trace of none.
        let (class, deadline, trace) = (Class::Bulk, None, Trace::default());
        let question = Question { class, deadline, trace, sees_growth: false, ..question };
        let Some((flight, mut watcher)) = self.flights.lead(key, question.passenger()) else { return };
        self.metrics.cache_renewal(if freshness == Freshness::Stale { "stale" } else { "early" });
        self.fly(question, flight, key, (charge, Others::Asked));
        // A flight that nobody watches is given up.
        tokio::spawn(async move {
            let _ = watcher.wait_for(|progress| progress.outcome.is_some()).await;
        });
    }
}

/// Watches a flight to its end.
async fn follow(
    mut watcher: watch::Receiver<Progress>,
    question: &Question,
    mut watch: impl FnMut(&Seen),
) -> Result<Landed, ServeError> {
    let _look = question.sees_growth.then(|| watcher.borrow().growth.look());
    let mut view = View::new(question.sees_growth);
    loop {
        let (fresh, outcome) = {
            let progress = watcher.borrow_and_update();
            (view.fresh(&progress), progress.outcome.clone())
        };
        fresh.iter().for_each(&mut watch);
        if let Some(outcome) = outcome {
            return outcome;
        }
        let changed = match question.deadline {
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
