//! Metrics of the door: what requests are expected to take, and how far answers fall short.
use super::Metrics;
use crate::{experiment::policy::Rung, serve::ladder::Why};
use std::time::Duration;

impl Metrics {
    pub(super) fn show_admission_from_the_start(&self) {
        for rung in [Rung::Fewer.word(), Rung::Greedy.word(), Rung::Stale.word(), "refused"] {
            for why in Why::ALL {
                self.counter(DEGRADED, &[("rung", rung), ("reason", why.word())]).increment(0);
            }
        }
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

const DEGRADED: &str = "newshound_degraded_total";
