//! Keeps one link to Redis, and leaves Redis alone for a while when too much has failed.
//!
//! Requests use the link that is there, each operation within its budget, or none: none ever waits for a connection. The link is opened
//! by a task of its own, which is also the one that tries again: only when Redis has answered it in time does anybody else ask. Readers
//! whose end Redis has not been told of come first: as long as there are any, nothing is read.
use super::{
    breaker::Breaker,
    link::{Failure, Link, opener::Opener},
};
use crate::serve::{metrics::Metrics, owner::Owner, settings::sharing::RedisSettings};
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tracing::{info, warn};

/// Readers whose end Redis has not been told of and that are remembered, some four megabytes; the end of others fails.
const OWED_MAX: usize = 100_000;
/// How long telling Redis of a reader's end may take: nobody waits for news, and whoever waits wants to be sure.
const END_MAX: Duration = Duration::from_secs(1);

/// What an operation is called in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Looks for a stored answer.
    Look,
    /// Looks for a stored answer, or a claim to store one.
    Lead,
    /// Stores an answer.
    Store,
    /// Gives up a lease.
    Release,
    /// Ends what is kept of a reader.
    End,
}

impl Operation {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Look, Self::Lead, Self::Store, Self::Release, Self::End];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Lead => "lead",
            Self::Store => "store",
            Self::Release => "release",
            Self::End => "end",
        }
    }
}

/// The link of one server.
#[derive(Debug)]
pub struct Keeper {
    opener: Opener,
    budget: Duration,
    pause: Duration,
    state: Mutex<State>,
    lost: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    /// With its number: what became of an operation on an earlier one says nothing of this.
    link: Option<(u64, Link)>,
    n_links: u64,
    breaker: Breaker,
    /// Names of readers whose end Redis has not been told of, with the number of the last one.
    owed: HashMap<Owner, (u64, String)>,
    n_ends: u64,
}

impl Keeper {
    /// A keeper without a link, until `keep` has opened one.
    pub fn new(opener: Opener, settings: &RedisSettings, metrics: Arc<Metrics>) -> Self {
        let breaker = Breaker::new(settings.failures_max, settings.pause);
        let state = State { link: None, n_links: 0, breaker, owed: HashMap::new(), n_ends: 0 };
        let (budget, pause) = (settings.budget, settings.pause);
        metrics.shared_open(true);
        Self { opener, budget, pause, state: Mutex::new(state), lost: Notify::new(), metrics }
    }

    /// Does something with the link, within the budget of an operation.
    ///
    /// # Errors
    /// If there is no link, or it fails.
    pub async fn ask<T, F>(&self, operation: Operation, call: impl FnOnce(Link) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let Some((number, link)) = self.lock().link.clone() else { return Err(Failure::Open) };
        self.within(self.budget, operation, number, call(link)).await
    }

    /// The same for a reader of whom something may be read: nothing may while Redis has not been told of her end.
    ///
    /// # Errors
    /// If there is no link, it fails, or nothing may be read.
    pub async fn ask_of<T, F>(
        &self,
        owner: Owner,
        operation: Operation,
        call: impl FnOnce(Link) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        if self.lock().owed.contains_key(&owner) {
            return Err(Failure::Open);
        }
        self.ask(operation, call).await
    }

    async fn within<T>(
        &self,
        budget: Duration,
        operation: Operation,
        number: u64,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let result = tokio::time::timeout(budget, call).await.unwrap_or(Err(Failure::Timeout));
        self.metrics.shared_operation(operation, started.elapsed());
        self.note(number, result.as_ref().err().copied());
        result
    }

    fn note(&self, number: u64, failure: Option<Failure>) {
        if let Some(failure) = failure {
            self.metrics.shared_failed(failure);
        }
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|(current, _)| *current != number) {
            return;
        }
        let opens = match failure {
            None | Some(Failure::Value) => {
                state.breaker.succeeded();
                false
            }
            Some(failure) => state.breaker.failed() || failure.is_final(),
        };
        if opens {
            self.lose(&mut state);
        }
    }

    fn lose(&self, state: &mut State) {
        state.link = None;
        self.metrics.shared_open(true);
        self.lost.notify_one();
    }

    /// Begins the end of what Redis keeps of a reader: from now on nothing of her is read there, until it has been told. Returns the end's
    /// number. `name`: what Redis calls the reader.
    ///
    /// # Errors
    /// If too many are owed, so that this one cannot be remembered.
    pub fn owe(&self, owner: Owner, name: String) -> Result<u64, Failure> {
        let mut state = self.lock();
        if state.owed.len() >= OWED_MAX && !state.owed.contains_key(&owner) {
            return Err(Failure::Open);
        }
        state.n_ends += 1;
        let end = state.n_ends;
        state.owed.insert(owner, (end, name));
        self.metrics.shared_owed(state.owed.len());
        Ok(end)
    }

    /// Tells Redis of a reader's end.
    ///
    /// # Errors
    /// If that fails. It is tried again as soon as there is a link, before anybody else uses it.
    pub async fn tell(&self, owner: Owner, name: String, end: u64) -> Result<(), Failure> {
        let Some((number, link)) = self.lock().link.clone() else { return Err(Failure::Open) };
        let told = self.within(END_MAX, Operation::End, number, link.remove(name)).await;
        if told.is_ok() {
            self.told(owner, end);
        } else {
            // The next link begins with what is owed.
            let mut state = self.lock();
            if state.link.as_ref().is_some_and(|(current, _)| *current == number) {
                self.lose(&mut state);
            }
        }
        told
    }

    fn told(&self, owner: Owner, end: u64) {
        let mut state = self.lock();
        if state.owed.get(&owner).is_some_and(|(last, _)| *last == end) {
            state.owed.remove(&owner);
        }
        self.metrics.shared_owed(state.owed.len());
    }

    /// Opens links, one after the other, for ever.
    pub async fn keep(&self) {
        let address = self.opener.address();
        let mut is_told = false;
        loop {
            let begun = Instant::now();
            match self.open().await {
                Ok(()) => {
                    info!(%address, "shared cache is used from now on");
                    self.lost.notified().await;
                    warn!(%address, "shared cache is left alone; answers are made without it");
                    is_told = true;
                    // A link that lasted is no sign of a Redis that fails again and again.
                    if begun.elapsed() >= self.pause {
                        continue;
                    }
                }
                Err(failure) => {
                    self.metrics.shared_failed(failure);
                    if !std::mem::replace(&mut is_told, true) {
                        let reason = failure.word();
                        warn!(%address, reason, "shared cache cannot be used; answers are made without it");
                    }
                }
            }
            let pause = self.lock().breaker.pause(rand::random());
            tokio::time::sleep(pause).await;
        }
    }

    /// Opens a link, tells Redis what it is owed, and lets others use it once it has answered within the budget.
    async fn open(&self) -> Result<(), Failure> {
        let link = self.opener.open().await?;
        loop {
            let ends: Vec<_> = self.lock().owed.iter().map(|(owner, end)| (*owner, end.clone())).collect();
            for (owner, (end, name)) in ends {
                let removing = tokio::time::timeout(END_MAX, link.clone().remove(name));
                removing.await.unwrap_or(Err(Failure::Timeout))?;
                self.told(owner, end);
            }
            let ping = tokio::time::timeout(self.budget, link.clone().ping());
            ping.await.unwrap_or(Err(Failure::Timeout))?;
            let mut state = self.lock();
            if state.owed.is_empty() {
                state.n_links += 1;
                state.link = Some((state.n_links, link));
                state.breaker.succeeded();
                self.metrics.shared_open(false);
                return Ok(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
