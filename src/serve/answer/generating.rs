//! A generation: in a task of its own, so that whoever asked first may leave, and what is kept of it.
use super::{
    Answerer, ServeError, admission,
    elsewhere::{Others, Turn},
};
use crate::{
    experiment::policy::Rung,
    serve::{
        batcher::Class,
        cache::{CacheKey, Found, Freshness, Keep},
        candidate::{Answer, Seen},
        engine::{EngineError, Ticket},
        flights::{Flight, Flights, Landed},
        generation::Passage,
        owner::Leave,
        question::{CacheMode, Question},
        shared::Claim,
        tenants::Charge,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{Instrument, debug};

impl Answerer {
    /// Generates in a task of its own, so that whoever asked first may leave.
    pub(super) fn fly(
        self: &Arc<Self>,
        question: Question,
        flight: Arc<Flight>,
        key: CacheKey,
        (charge, others): (Charge, Others),
    ) {
        let (answerer, ticket) = (Arc::clone(self), admission::ticket(&question, &flight, &self.metrics));
        let (trace, lines) = (question.trace.clone(), question.trace.log_span());
        // Before anybody can join it: whoever does, points to this trace.
        flight.progress.send_modify(|progress| progress.trace = trace);
        let flying = async move {
            let joinable = question.cache == CacheMode::Default;
            let _landing = joinable.then(|| Landing { flights: &answerer.flights, key, flight: &flight });
            let question = Arc::new(question);
            let outcome = tokio::select! {
                outcome = answerer.generate(&question, &flight, key, (ticket, charge, others)) => outcome,
                () = answerer.unwatched(&flight, key, joinable) => {
                    debug!("nobody waits for the answer any more");
                    return;
                }
            };
            if joinable {
                answerer.flights.land(key, &flight);
            }
            let (outcome, claim) = match outcome {
                Ok((landed, claim)) => (Ok(landed), claim),
                Err(error) => (Err(error), None),
            };
            flight.progress.send_modify(|progress| progress.outcome = Some(outcome.clone()));
            if let (Ok(landed), Some(claim)) = (outcome, claim) {
                answerer.share(&question, key, claim, &landed).await;
            }
        };
        tokio::spawn(flying.instrument(lines));
    }

    async fn generate(
        &self,
        question: &Arc<Question>,
        flight: &Flight,
        key: CacheKey,
        (ticket, charge, others): (Result<Ticket, EngineError>, Charge, Others),
    ) -> Result<(Landed, Option<Claim>), ServeError> {
        // Between this request's look into the cache and its take-off, an earlier flight may have landed.
        if question.cache == CacheMode::Default
            && let Some(Found { answer, age, freshness: Freshness::Fresh }) =
                self.cache.get(key, Instant::now()).await
        {
            return Ok((shown(flight, Landed { answer, age: Some(age) }), None));
        }
        let (ticket, claim) = match ticket {
            Ok(ticket) => {
                let mut kept = Some(ticket);
                // While another server is waited for, others may have the place.
                match self.lead(question, (key, others), &flight.deadline, || drop(kept.take())).await {
                    Turn::Ours(claim) => (kept.map_or_else(|| admission::place(question, flight), Ok), claim),
                    Turn::Theirs(landed) => return Ok((shown(flight, landed), None)),
                }
            }
            // Whoever is refused is refused at once.
            Err(error) => (Err(error), None),
        };
        let publish = |seen: Seen| flight.progress.send_modify(|progress| progress.show(seen));
        let leave = Leave { epoch: key.epoch(), epochs: Arc::clone(&self.epochs) };
        let (deadline, growth) = (Arc::clone(&flight.deadline), Arc::clone(&flight.progress.borrow().growth));
        let generated = match ticket {
            Ok(ticket) => {
                let passage = Passage { ticket, leave, deadline, growth, charge };
                question.writer.generate(question, passage, publish).await
            }
            Err(error) => Err(error.into()),
        };
        let answer = match generated {
            Ok(answer) => Arc::new(answer),
            Err(error) => {
                error.tell();
                self.remember(question, key, &error).await;
                return Err(error);
            }
        };
        if question.cache != CacheMode::Bypass {
            self.put(key, &answer, self.keep(question, answer.fell_short), Instant::now()).await;
        }
        Ok((Landed { answer, age: None }, claim))
    }

    /// Stores an answer that was made at `since`, unless the reader's epoch has ended since it was asked for.
    pub(super) async fn put(&self, key: CacheKey, answer: &Arc<Answer>, keep: Keep, since: Instant) {
        self.cache.put(key, (Arc::clone(answer), answer.n_bytes()), keep, since).await;
        // Nobody can find it any more then; and whoever ended the epoch may have looked before it was stored.
        if !self.epochs.holds(key.epoch()) {
            self.cache.remove(key).await;
        }
    }

    /// How long an answer is kept. One that fell short is asked for again as soon as there may be room for a whole one.
    pub(super) fn keep(&self, question: &Question, fell_short: bool) -> Keep {
        let (policy, settings) = (question.enrolment.policy(), &self.settings);
        let fresh = policy.cache_ttl.unwrap_or(settings.ttl);
        if question.rung > Rung::Full || fell_short {
            return Keep::only(fresh.min(self.degradation.answer_ttl));
        }
        // What is made ahead is for readers who may have it when it is old, whatever bulk may itself.
        let is_spare = question.lowest_rung >= Rung::Stale || question.class == Class::Bulk;
        let spare = if is_spare { self.degradation.spare } else { Duration::ZERO };
        let stale = policy.cache_stale.unwrap_or(settings.stale);
        Keep::until(fresh, settings.renew_ahead, (stale, spare), rand::random())
    }

    /// Remembers for a moment that a question had no answer, so that whoever asks again and again gets the same error for nothing.
    async fn remember(&self, question: &Question, key: CacheKey, error: &ServeError) {
        let ttl = self.settings.failure_ttl;
        if question.cache != CacheMode::Default || ttl.is_zero() || !error.is_repeatable() {
            return;
        }
        // Clients that failed together do not come back together.
        let keep = Keep::only(ttl.mul_f64(1.0 + rand::random::<f64>()));
        self.failures.put(key, (Arc::new(error.clone()), 1), keep, Instant::now()).await;
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

/// Shows the candidates of an answer that is there.
fn shown(flight: &Flight, landed: Landed) -> Landed {
    flight.progress.send_modify(|progress| progress.candidates.clone_from(&landed.answer.candidates));
    landed
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
