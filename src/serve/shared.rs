//! Answers that servers share: a second cache behind that of each server, in Redis.
//!
//! A request that finds nothing here looks there, and what one server has generated the others need not. Whatever Redis does, nobody is
//! refused for it: it has a few milliseconds for each operation, and every failure is a miss that is counted.
//!
//! All that is kept of a reader stands under one key of Redis, so one command forgets her: her answers (scripts/ says how), and the number
//! of her epoch there. Whoever begins to generate reads that number, and whoever stores must show it. A reader's end removes both, so
//! nothing that was begun before is stored after, by whichever server, also where Redis has restarted empty or dropped the key.
//! Two things are beyond that: a Redis that answers for one it follows and lags behind (as after a failover) may bring back what it had
//! not heard the end of, and other servers' own caches are theirs. Both end with the time of the answers.
//!
//! Redis holds digests of readers and questions, answers, and no signal; with a secret in the settings all of it is hidden (`seal`). Ages
//! are by Redis' clock alone, and an answer's end is told as a time of that clock, so that servers' clocks do not matter and nothing
//! that was long on its way lives longer. If that clock jumps, an answer is used for as much longer at most as its whole life, and what
//! seems to come from the future is not used.
pub mod breaker;
pub mod keeper;
pub mod link;
pub mod record;
pub mod seal;

use crate::{
    bundle::manifest::hex,
    serve::{
        candidate::Answer, metrics::Metrics, models::facts::ModelFacts, owner::Owner,
        settings::sharing::RedisSettings,
    },
};
use keeper::{Keeper, Operation};
use link::{
    Failure, FoundRecord, Grant, Holder, Names, Reply, Storing, milliseconds,
    opener::{LinkError, Opener},
};
use record::Place;
use seal::{Seal, SecretError};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;

/// How often somebody who waits for another server asks whether it is done, with up to as much again at random.
const POLL: Duration = Duration::from_millis(25);

/// Why there can be no shared cache.
#[derive(Debug, Error)]
pub enum SharedCacheError {
    /// Nothing can be connected.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is no secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// An answer of another server, and its age.
#[derive(Debug)]
pub struct Shared {
    /// The answer.
    pub answer: Arc<Answer>,
    /// How long ago it was generated.
    pub age: Duration,
}

/// What is wanted of the shared cache.
#[derive(Debug)]
pub struct Asking {
    /// The question.
    pub place: Place,
    /// The greatest age of an answer that is of use; none where only a claim is.
    pub age_max: Option<Duration>,
    /// How long another server may be waited for that generates the answer; none where the caller generates it whoever else does.
    pub patience: Option<Duration>,
    /// The model that has generated, or would generate, the answer.
    pub model: Arc<ModelFacts>,
}

/// Who generates an answer.
#[derive(Debug)]
pub enum Lead {
    /// Another server did.
    Found(Shared),
    /// The caller, and it may store it.
    Claimed(Claim),
    /// The caller; it cannot be stored.
    Alone,
}

/// The second cache, as one server sees it.
#[derive(Debug)]
pub struct SharedCache {
    keeper: Keeper,
    seal: Seal,
    prefix: String,
    lease: Duration,
    budget: Duration,
    metrics: Arc<Metrics>,
}

impl SharedCache {
    /// A shared cache that nobody can use until `keep` runs.
    ///
    /// # Errors
    /// If a file of the settings cannot be used.
    pub fn open(settings: &RedisSettings, metrics: &Arc<Metrics>) -> Result<Arc<Self>, SharedCacheError> {
        let seal = settings.secret_file.as_deref().map_or(Ok(Seal::plain()), Seal::open)?;
        let keeper = Keeper::new(Opener::new(settings)?, settings, Arc::clone(metrics));
        let (lease, budget) = (settings.lease, settings.budget);
        let (prefix, metrics) = (settings.key_prefix.clone(), Arc::clone(metrics));
        Ok(Arc::new(Self { keeper, seal, prefix, lease, budget, metrics }))
    }

    /// Keeps the way to Redis open, for ever.
    pub async fn keep(&self) {
        self.keeper.keep().await;
    }

    /// How long an operation takes at most.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// How long one server is waited for by the others at most.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Looks for an answer that is not older than it may be.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn look(
        &self,
        place: &Place,
        age_max: Duration,
        model: &Arc<ModelFacts>,
    ) -> Result<Option<Shared>, Failure> {
        let names = self.names(place);
        let looked = self.keeper.ask_of(place.owner, Operation::Look, |link| link.look(names, age_max)).await;
        let read = looked.map(|found| found.map(|found| self.read(found, place, model)));
        let (word, looked) = match read {
            Ok(Some(Some(shared))) => ("hit", Ok(Some(shared))),
            // It answers, though with nothing that can be read.
            Ok(Some(None)) | Err(Failure::Value) => ("failed", Ok(None)),
            Ok(None) => ("miss", Ok(None)),
            Err(Failure::Open) => ("skipped", Err(Failure::Open)),
            Err(failure) => ("failed", Err(failure)),
        };
        self.metrics.shared_looked(word);
        looked
    }

    /// Finds out who generates an answer. While another server does, its answer is waited for, but not for longer than `Asking::patience`;
    /// `on_wait` is called before.
    pub async fn lead(self: &Arc<Self>, asking: Asking, on_wait: impl FnOnce()) -> Lead {
        let Asking { place, age_max, patience, model } = asking;
        let (begun, wanted) = (Instant::now(), patience.map_or(Duration::ZERO, |_| self.lease));
        let mut lease = Lease { shared: Arc::clone(self), names: self.names(&place), holder: None };
        // Since when a record has been there that cannot be read: only a younger one is of use.
        let mut unreadable: Option<Instant> = None;
        let mut on_wait = Some(on_wait);
        loop {
            let age_max = age_max.map(|most| unreadable.map_or(most, |since| most.min(since.elapsed())));
            let grant = match lease.ask(place.owner, age_max, wanted).await {
                Ok(Reply::Found(found)) => {
                    lease.holder = None;
                    if let Some(shared) = self.read(found, &place, &model) {
                        self.metrics.shared_led(if on_wait.is_none() { "followed" } else { "found" });
                        return Lead::Found(shared);
                    }
                    if unreadable.replace(Instant::now()).is_none() {
                        continue;
                    }
                    self.metrics.shared_led("alone");
                    return Lead::Alone;
                }
                Ok(Reply::Led(grant)) => {
                    self.metrics.shared_led(if lease.holder.is_some() { "led" } else { "alone" });
                    return Lead::Claimed(Claim { lease, place, grant });
                }
                Ok(Reply::Busy(grant)) => grant,
                Err(_) => {
                    self.metrics.shared_led("alone");
                    return Lead::Alone;
                }
            };
            lease.holder = None;
            if patience.is_none_or(|patience| begun.elapsed() >= patience) {
                self.metrics.shared_led("outwaited");
                return Lead::Claimed(Claim { lease, place, grant });
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            tokio::time::sleep(POLL.mul_f64(1.0 + rand::random::<f64>())).await;
        }
    }

    /// Begins a reader's end: from now on nothing of her is read in Redis, until `Ending::tell` has removed it.
    ///
    /// # Errors
    /// If too many readers' ends are waiting for Redis already.
    pub fn end(self: &Arc<Self>, owner: Owner) -> Result<Ending, Failure> {
        let name = self.reader(owner);
        let end = self.keeper.owe(owner, name.clone())?;
        Ok(Ending { shared: Arc::clone(self), owner, name, end })
    }

    /// What stands at a place; none where it is of no use.
    fn read(&self, found: FoundRecord, place: &Place, model: &Arc<ModelFacts>) -> Option<Shared> {
        let answer = record::decode(&found.record, place, &self.seal, model);
        if answer.is_none() {
            self.metrics.shared_failed(Failure::Value);
        }
        Some(Shared { answer: Arc::new(answer?), age: found.age })
    }

    fn reader(&self, owner: Owner) -> String {
        // What stands between braces decides in a cluster of Redis where a key is kept: a reader's keys are kept together.
        format!("{}:reader:{{{}}}", self.prefix, hex(&self.seal.name(&owner.0)))
    }

    fn names(&self, place: &Place) -> Names {
        let (reader, question) = (self.reader(place.owner), self.seal.name(&place.question));
        let lease = format!("{reader}:lease:{}", hex(&question));
        Names { reader, lease, question: [&[record::SCHEMA][..], &question].concat() }
    }
}

/// A reader's end of which Redis is to be told.
#[must_use]
#[derive(Debug)]
pub struct Ending {
    shared: Arc<SharedCache>,
    owner: Owner,
    name: String,
    end: u64,
}

impl Ending {
    /// Tells Redis.
    ///
    /// # Errors
    /// If that fails. It is tried again as soon as Redis answers, before anything else is asked there.
    pub async fn tell(self) -> Result<(), Failure> {
        let Self { shared, owner, name, end } = self;
        // A task of its own, so that a client which leaves does not leave it half way.
        let telling = tokio::spawn(async move { shared.keeper.tell(owner, name, end).await });
        telling.await.unwrap_or(Err(Failure::Open))
    }
}

/// A server's leave to store the answer that it generates, which ends with the reader's epoch in Redis; and often the lease, for which other
/// servers wait until it is dropped or runs out.
#[derive(Debug)]
pub struct Claim {
    lease: Lease,
    place: Place,
    grant: Grant,
}

impl Claim {
    /// Stores an answer that was just generated, for a while.
    pub async fn store(self, answer: &Answer, life: Duration) {
        let Self { mut lease, place, grant } = self;
        let made_ms = grant.clock_ms.saturating_add(milliseconds(grant.heard.elapsed()));
        let shared = Arc::clone(&lease.shared);
        let Some(record) = record::encode(answer, &place, &shared.seal) else {
            return shared.metrics.shared_stored("unfit");
        };
        let storing = Storing {
            epoch: grant.epoch,
            holder: lease.holder,
            made_ms,
            ends_ms: made_ms.saturating_add(milliseconds(life)),
            record,
        };
        let names = lease.names.clone();
        let word = match shared.keeper.ask(Operation::Store, |link| link.store(names, storing)).await {
            Ok(is_stored) => {
                // The lease went with it.
                lease.holder = None;
                if is_stored { "stored" } else { "outdated" }
            }
            Err(Failure::Open) => "skipped",
            Err(_) => "failed",
        };
        shared.metrics.shared_stored(word);
    }
}

/// The lease of a question, which is given up when this is dropped: also one of which nobody has heard whether it was granted, because Redis
/// took too long, or nobody waits any more.
#[derive(Debug)]
struct Lease {
    shared: Arc<SharedCache>,
    names: Names,
    /// None where there is nothing to be given up.
    holder: Option<Holder>,
}

impl Lease {
    /// Asks for the answer, or a claim, with a lease of so long, if that is not zero.
    async fn ask(
        &mut self,
        owner: Owner,
        age_max: Option<Duration>,
        wanted: Duration,
    ) -> Result<Reply, Failure> {
        let (names, holder) = (self.names.clone(), rand::random());
        self.holder = (!wanted.is_zero()).then_some(holder);
        let keeper = &self.shared.keeper;
        keeper.ask_of(owner, Operation::Lead, |link| link.lead(names, age_max, holder, wanted)).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(holder) = self.holder.take() else { return };
        let (shared, names) = (Arc::clone(&self.shared), self.names.clone());
        // Where no runtime is left the process ends, and the lease runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // What fails is counted, and the lease runs out by itself.
                let _ = shared.keeper.ask(Operation::Release, |link| link.release(names, holder)).await;
            });
        }
    }
}
