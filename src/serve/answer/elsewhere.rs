//! What other servers generate: it is taken from the cache that they share, and what is generated here goes there.
//!
//! A look that Redis does not answer in time is the last that it is asked for a request: nobody is asked then who generates.
use super::{Answerer, Course, admission};
use crate::{
    experiment::policy::Rung,
    serve::{
        cache::{CacheKey, Found, Keep},
        candidate::Answer,
        engine::Deadline,
        flights::Landed,
        question::{CacheMode, Question},
        shared::{Asking, Claim, Lead, Shared, link::Failure, record::Place},
        traces::Stage,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How much younger another server's answer must be than a stored one to take its place: more than it may have been on its way.
const YOUNGER: Duration = Duration::from_secs(1);

/// What a look into the shared cache came to.
pub(super) enum Looked {
    /// An answer, which is stored here from now on.
    Found(Course),
    /// What those are to do who generate.
    Nothing(Others),
}

/// Whether other servers are asked before an answer is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// They may be generating it.
    Asked,
    /// Redis has had its time, or there is none for it.
    LeftAlone,
}

/// An answer of another server, and its age; none where there is none, an error where Redis does not answer.
pub(super) type Sought = Result<Option<(Arc<Answer>, Duration)>, Failure>;

/// Who generates an answer.
pub(super) enum Turn {
    /// Another server has.
    Theirs(Landed),
    /// This one does, with leave to store it for the others where that can be had.
    Ours(Option<Claim>),
}

impl Answerer {
    /// Looks for the answer that another server has stored.
    pub(super) async fn elsewhere(self: &Arc<Self>, question: &Question, key: CacheKey) -> Looked {
        let shared = match &self.shared {
            Some(shared) if question.cache == CacheMode::Default => shared,
            _ => return Looked::Nothing(Others::Asked),
        };
        // Whoever cannot wait for Redis at its slowest does not ask it: an answer is late by no more than it would be without.
        let hurries = |deadline: Instant| deadline < Instant::now() + shared.budget();
        if question.deadline.is_some_and(hurries) {
            return Looked::Nothing(Others::LeftAlone);
        }
        let (keep, from) = (self.keep(question, false), SystemTime::now());
        let look = async {
            let looked = shared.look(&place(question, key), keep.usable(), &question.writer.facts).await?;
            let Some(Shared { answer, age }) = looked else { return Ok(None) };
            self.take_in(key, &answer, (keep, age)).await;
            Ok(Some((answer, age)))
        };
        match self.looks.share(key, look).await {
            Ok(Some((answer, age))) => {
                drop(question.trace.stage(Stage::Cache, from));
                let found = Found { answer, age, freshness: keep.freshness(age) };
                Looked::Found(self.stored(question, key, found).await)
            }
            Ok(None) => Looked::Nothing(Others::Asked),
            Err(_) => Looked::Nothing(Others::LeftAlone),
        }
    }

    /// Finds out whether another server generates the answer, before this one does, or has just done so; and gets leave to store it for
    /// others. `on_wait` is called before it is waited for.
    pub(super) async fn lead(
        &self,
        question: &Question,
        (key, others): (CacheKey, Others),
        deadline: &Deadline,
        on_wait: impl FnOnce(),
    ) -> Turn {
        let shared = match (&self.shared, question.cache) {
            (Some(shared), CacheMode::Default | CacheMode::Refresh) if question.rung == Rung::Full => shared,
            _ => return Turn::Ours(None),
        };
        if others == Others::LeftAlone {
            self.metrics.shared_led("alone");
            return Turn::Ours(None);
        }
        let now = Instant::now();
        let wants_stored = question.cache == CacheMode::Default;
        let keep = self.keep(question, false);
        let age_max = match self.cache.get(key, now).await {
            Some(Found { age, .. }) => age.saturating_sub(YOUNGER).min(keep.usable()),
            None => keep.usable(),
        };
        let asking = Asking {
            place: place(question, key),
            age_max: wants_stored.then_some(age_max),
            patience: wants_stored.then(|| admission::patience(question, deadline, shared.lease())),
            model: Arc::clone(&question.writer.facts),
        };
        match shared.lead(asking, on_wait).await {
            Lead::Found(Shared { answer, age }) => {
                self.take_in(key, &answer, (keep, age)).await;
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
    async fn take_in(&self, key: CacheKey, answer: &Arc<Answer>, (keep, age): (Keep, Duration)) {
        // A machine that has run for less time than the answer is old cannot say since when it is stored.
        if let Some(since) = Instant::now().checked_sub(age) {
            self.put(key, answer, keep, since).await;
        }
    }
}

fn place(question: &Question, key: CacheKey) -> Place {
    let bundle = question.writer.facts.bundle.clone();
    Place { owner: key.epoch().owner, question: key.digest(), bundle }
}
