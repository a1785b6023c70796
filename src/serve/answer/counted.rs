//! What is counted and said of every request.
use crate::serve::{
    answer::Answered,
    experiments::enrolment::Enrolment,
    metrics::{Metrics, outcome::Outcome},
    question::Question,
    traces::Trace,
};
use std::{sync::Arc, time::Instant};
use tracing::debug;

/// Counts a request exactly once, as cancelled if its future is dropped, and says so in one line.
pub(super) struct Counted<'a> {
    metrics: &'a Metrics,
    enrolment: Arc<Enrolment>,
    trace: Trace,
    started: Instant,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// With what.
    pub(super) answered: Option<Answered>,
}

impl<'a> Counted<'a> {
    pub(super) fn new(metrics: &'a Metrics, question: &Question) -> Self {
        let (enrolment, trace) = (Arc::clone(&question.enrolment), question.trace.clone());
        let (started, outcome) = (Instant::now(), Outcome::Cancelled);
        Self { metrics, enrolment, trace, started, outcome, answered: None }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.metrics.outcome(self.outcome);
        self.trace.outcome(self.outcome);
        if let Some(Answered { answer, origin, paid_nanos: 0, .. }) = &self.answered {
            self.metrics.saved(origin.saving(), answer.cost.device_time);
        }
        if self.answered.is_some() && self.enrolment.is_bundle_absent {
            self.metrics.bundle_absent(1);
        }
        for assignment in &self.enrolment.assignments {
            let arm = (assignment.experiment.id.as_str(), assignment.arm().id.as_str());
            self.metrics.arm_request(arm, assignment.by.word(), self.outcome);
            let Some(Answered { answer, .. }) = &self.answered else { continue };
            self.metrics.arm_answered(arm, took, answer.score());
        }
        let (outcome, arms) = (self.outcome.word(), &self.enrolment);
        debug!(outcome, %arms, ?took, "request ended");
    }
}
