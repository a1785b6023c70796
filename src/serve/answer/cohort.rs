//! The list of a cohort as an answer: where nothing can be generated for a reader, or nothing is known of her.
use super::{Answerer, Course, Degradation, Origin, ServeError};
use crate::{
    experiment::policy::Rung,
    queries::QUERIES_MAX,
    serve::{
        candidate::Answer,
        ladder::{Decision, Why},
        question::Question,
    },
};
use std::sync::Arc;

impl Answerer {
    /// The list of the reader's locale, where nothing can be generated for her and she may have it.
    pub(super) fn of_cohort(&self, question: &Question, decision: &Decision) -> Option<Arc<Answer>> {
        if decision.otherwise.is_err() || decision.is_full { self.for_everybody(question) } else { None }
    }

    /// The same for a reader of whom nothing is known, or a refusal.
    pub(super) fn without_signals(&self, question: &Question) -> (Course, Option<Degradation>) {
        let Some(answer) = self.for_everybody(question) else {
            return (Course::Refused(ServeError::NoSignals), None);
        };
        self.metrics.admission(question.class, "cohort");
        let degradation = Degradation { rung: Rung::Cohort, why: Why::NoSignals };
        (Course::Stored(answer, Origin::Cohort), Some(degradation))
    }

    fn for_everybody(&self, question: &Question) -> Option<Arc<Answer>> {
        if question.lowest_rung < Rung::Cohort {
            return None;
        }
        // A topic may be newer than the list.
        let list = self.topics.gate().queries(self.cohorts.of(question.locale.as_deref())?).ok()?;
        let n_queries_max = question.options.n_queries_max.unwrap_or(QUERIES_MAX);
        Some(Arc::new(Answer::of_cohort(list, Arc::clone(&question.writer.facts), n_queries_max)))
    }
}
