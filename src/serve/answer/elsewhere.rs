//! What other servers generate: it is taken from the cache that they share, and what is generated here goes there.
use super::{Answerer, Course, admission};
use crate::{
    experiment::policy::Rung,
    serve::{
        cache::{CacheKey, Found},
        candidate::Answer,
        engine::Deadline,
        flights::Landed,
        question::{CacheMode, Question},
        shared::{Asking, Claim, Lead, Shared, record::Place},
        traces::Stage,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How much younger another server's answer must be than a stored one to take its place: more than it may have been on its way.
const YOUNGER: Duration = Duration::from_secs(1);

/// Who generates an answer.
pub(super) enum Turn {
    /// Another server has.
    Theirs(Landed),
    /// This one does, with leave to store it for the others where that can be had.
    Ours(Option<Claim>),
}

impl Answerer {
    /// The answer that another server has stored, which is stored here from now on.
    pub(super) async fn elsewhere(self: &Arc<Self>, question: &Question, key: CacheKey) -> Option<Course> {
        let shared = self.shared.as_ref().filter(|_| question.cache == CacheMode::Default)?;
        // Whoever cannot wait for Redis at its slowest does not ask it: an answer is late by no more than it would be without.
        let hurries = |deadline: Instant| deadline < Instant::now() + shared.budget();
        if question.deadline.is_some_and(hurries) {
            return None;
        }
        let (age_max, from) = (self.keep(question, false).usable(), SystemTime::now());
        let found = shared.look(&place(question, key), age_max, &question.writer.facts).await?;
        drop(question.trace.stage(Stage::Cache, from));
        let found = self.take_in(question, key, found).await;
        Some(self.stored(question, key, found).await)
    }

    /// Finds out whether another server generates the answer, before this one does, or has just done so; and gets leave to store it for
    /// others.
    pub(super) async fn lead(&self, question: &Question, key: CacheKey, deadline: &Deadline) -> Turn {
        let shared = match (&self.shared, question.cache) {
            (Some(shared), CacheMode::Default | CacheMode::Refresh) if question.rung == Rung::Full => shared,
            _ => return Turn::Ours(None),
        };
        let now = Instant::now();
        let wants_stored = question.cache == CacheMode::Default;
        let age_max = match self.cache.get(key, now).await {
            Some(Found { age, .. }) => age.saturating_sub(YOUNGER).min(self.keep(question, false).usable()),
            None => self.keep(question, false).usable(),
        };
        let asking = Asking {
            place: place(question, key),
            age_max: wants_stored.then_some(age_max),
            patience: wants_stored.then(|| admission::patience(question, deadline, shared.lease())),
            model: Arc::clone(&question.writer.facts),
        };
        match shared.lead(asking).await {
            Lead::Found(found) => {
                let Found { answer, age, .. } = self.take_in(question, key, found).await;
                Turn::Theirs(Landed { answer, age: Some(age) })
            }
            Lead::Claimed(claim) => Turn::Ours(Some(claim)),
            Lead::Alone => Turn::Ours(None),
        }
    }

    /// Stores what was generated for the other servers too, unless the reader's epoch has ended since it was asked for.
    pub(super) async fn share(&self, question: &Question, key: CacheKey, claim: Claim, landed: &Landed) {
        // What fell short for want of a head, or of room, is for this server's moment alone.
        if self.epochs.holds(key.epoch()) && !landed.answer.fell_short {
            claim.store(&landed.answer, self.keep(question, false).usable()).await;
        }
    }

    /// Stores an answer of another server here, for the rest of its time.
    async fn take_in(
        &self,
        question: &Question,
        key: CacheKey,
        Shared { answer, age }: Shared,
    ) -> Found<Answer> {
        let keep = self.keep(question, false);
        // A machine that has run for less time than the answer is old cannot say since when it is stored.
        if let Some(since) = Instant::now().checked_sub(age) {
            self.put(key, &answer, keep, since).await;
        }
        Found { answer, age, freshness: keep.freshness(age) }
    }
}

fn place(question: &Question, key: CacheKey) -> Place {
    let bundle = question.writer.facts.bundle.clone();
    Place { owner: key.epoch().owner, question: key.digest(), bundle }
}
