//! Metrics of stored answers.
use super::{Metrics, whole};
use crate::serve::cache::Cause;
use std::time::Duration;

impl Metrics {
    pub(super) fn show_cache_from_the_start(&self) {
        for status in ["hit", "stale", "miss", "coalesced", "bypass", "cohort", "failed"] {
            self.counter("newshound_cache_requests_total", &[("status", status)]).increment(0);
        }
        for result in ["early", "stale", "skipped"] {
            self.counter("newshound_cache_renewals_total", &[("result", result)]).increment(0);
        }
        for result in ["loaded", "refused"] {
            self.counter("newshound_cohort_reads_total", &[("result", result)]).increment(0);
        }
        for cause in Cause::ALL {
            self.cache_eviction(cause, 0);
        }
        for scope in ["invalidate", "forget"] {
            self.counter("newshound_cache_invalidations_total", &[("scope", scope)]).increment(0);
        }
    }

    /// Counts what a look into the cache found (`hit`, `stale`, `miss`, `coalesced`, `bypass`, nothing but the list of a `cohort`, or `failed` a moment ago), with the age of an
    /// answer.
    pub fn cache_request(&self, status: &'static str, age: Option<Duration>) {
        self.counter("newshound_cache_requests_total", &[("status", status)]).increment(1);
        if let Some(age) = age {
            self.histogram("newshound_cache_age_at_hit_seconds", &[]).record(age.as_secs_f64());
        }
    }

    /// Counts a stored answer that was to be made anew when it was used: `early` (its time was nearly over), `stale` (it was over), or
    /// `skipped`.
    pub fn cache_renewal(&self, result: &'static str) {
        self.counter("newshound_cache_renewals_total", &[("result", result)]).increment(1);
    }

    /// Counts a reader whose stored answers are used no more: `invalidate` or `forget`.
    pub fn cache_invalidation(&self, scope: &'static str) {
        self.counter("newshound_cache_invalidations_total", &[("scope", scope)]).increment(1);
    }

    /// Counts a change of the file of cohorts: `loaded` or `refused`.
    pub fn cohorts_read(&self, result: &'static str) {
        self.counter("newshound_cohort_reads_total", &[("result", result)]).increment(1);
    }

    /// Counts answers that left the cache for a cause.
    pub fn cache_eviction(&self, cause: Cause, n: u64) {
        self.counter("newshound_cache_evictions_total", &[("cause", cause.word())]).increment(n);
    }

    /// Records how much is stored.
    pub fn cache_size(&self, entries: u64, bytes: u64) {
        self.set("newshound_cache_entries", whole(entries));
        self.set("newshound_cache_weight_bytes", whole(bytes));
    }
}
