//! Metrics of stored answers.
use super::{Metrics, whole};
use std::time::Duration;

impl Metrics {
    /// Counts what a look into the cache found (`hit`, `miss`, `coalesced` or `bypass`), with its age for a hit.
    pub fn cache_request(&self, status: &'static str, age: Option<Duration>) {
        self.counter("newshound_cache_requests_total", &[("status", status)]).increment(1);
        if let Some(age) = age {
            self.histogram("newshound_cache_age_at_hit_seconds", &[]).record(age.as_secs_f64());
        }
    }

    /// Records how much is stored.
    pub fn cache_size(&self, entries: u64, bytes: u64) {
        self.set("newshound_cache_entries", whole(entries));
        self.set("newshound_cache_weight_bytes", whole(bytes));
    }
}
