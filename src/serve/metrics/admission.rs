//! Metrics of the door: what requests are expected to take, and how far answers fall short.
use super::Metrics;
use crate::{
    experiment::policy::Rung,
    serve::{batcher::Class, ladder::Why},
};
use std::time::Duration;

impl Metrics {
    pub(super) fn show_admission_from_the_start(&self) {
        for class in Class::ALL {
            for decision in ["admitted", "stored", "cohort", "refused"] {
                self.counter(ADMISSIONS, &[("class", class.word()), ("decision", decision)]).increment(0);
            }
        }
        for rung in
            [Rung::Fewer.word(), Rung::Greedy.word(), Rung::Stale.word(), Rung::Cohort.word(), "refused"]
        {
            for why in Why::ALL {
                self.counter(DEGRADED, &[("rung", rung), ("reason", why.word())]).increment(0);
            }
        }
        self.bundle_absent(0);
    }

    /// Counts a request whose answer is of the default bundle because that of its arm is not resident.
    pub fn bundle_absent(&self, n: u64) {
        self.counter(DEGRADED, &[("rung", Rung::Full.word()), ("reason", "bundle_absent")]).increment(n);
    }

    /// Counts a question that nobody had generated: `admitted` to the queue, `stored` where it was answered from what is kept, `cohort`
    /// where with the list of its locale, or `refused`.
    pub fn admission(&self, class: Class, decision: &'static str) {
        self.counter(ADMISSIONS, &[("class", class.word()), ("decision", decision)]).increment(1);
    }

    /// Counts a generation that was not begun because its tenant's budget is used up, and the delay that it was asked to keep.
    pub fn tenant_limited(&self, retry_after: Duration) {
        self.counter("newshound_tenant_limited_total", &[]).increment(1);
        self.histogram("newshound_retry_after_seconds", &[]).record(retry_after.as_secs_f64());
    }

    /// Records how long an admitted request is expected to take; nothing where that is not known.
    pub fn expected(&self, takes: Duration) {
        if !takes.is_zero() {
            self.histogram("newshound_admission_estimated_seconds", &[]).record(takes.as_secs_f64());
        }
    }

    /// Counts a request whose answer fell short, by the word of its rung, or `refused` where it has none.
    pub fn degraded(&self, rung: &'static str, why: Why) {
        self.counter(DEGRADED, &[("rung", rung), ("reason", why.word())]).increment(1);
    }
}

const ADMISSIONS: &str = "newshound_admissions_total";
const DEGRADED: &str = "newshound_degraded_total";
