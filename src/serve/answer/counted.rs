//! What is counted and said of every request.
use crate::serve::{
    answer::{Answered, Degradation},
    batcher::Class,
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
    class: Class,
    reader: Vec<u8>,
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
        let (class, reader) = (question.class, question.whose());
        Self { metrics, enrolment, trace, class, reader, started, outcome, answered: None }
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
        if let Some(Answered { degradation, .. }) = &self.answered {
            self.metrics.answered(self.class, degradation.is_none(), took);
            self.metrics.reader(&self.reader);
            if self.enrolment.is_bundle_absent {
                self.metrics.bundle_absent(1);
            }
        }
        for assignment in &self.enrolment.assignments {
            let experiment = assignment.experiment.id.as_str();
            let arm = (experiment, assignment.arm().id.as_str());
            self.metrics.arm_request(arm, assignment.by.word(), self.outcome);
            for (drawn, chance) in assignment.chances() {
                self.metrics.arm_expected((experiment, &drawn.id), chance);
            }
            let Some(Answered { answer, degradation, .. }) = &self.answered else { continue };
            self.metrics.arm_answered(arm, took, answer.score());
            self.metrics.arm_reader(arm, &self.reader);
            if let Some(Degradation { rung, .. }) = degradation {
                self.metrics.arm_degraded(arm, rung.word());
            }
        }
        let (outcome, arms) = (self.outcome.word(), &self.enrolment);
        debug!(outcome, %arms, ?took, "request ended");
    }
}
