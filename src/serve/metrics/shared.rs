//! Metrics of the cache that servers share.
use super::{Metrics, size};
use crate::serve::shared::{keeper::Operation, link::Failure};
use std::time::Duration;

const LOOKS: &str = "newshound_shared_cache_looks_total";
const LEADS: &str = "newshound_shared_cache_leads_total";
const STORES: &str = "newshound_shared_cache_stores_total";
const ERRORS: &str = "newshound_shared_cache_errors_total";
const SECONDS: &str = "newshound_shared_cache_operation_seconds";

impl Metrics {
    pub(super) fn show_shared_from_the_start(&self) {
        for result in ["hit", "miss", "failed", "skipped"] {
            self.counter(LOOKS, &[("result", result)]).increment(0);
        }
        for result in ["led", "found", "followed", "outwaited", "alone"] {
            self.counter(LEADS, &[("result", result)]).increment(0);
        }
        for result in ["stored", "outdated", "unfit", "failed", "skipped"] {
            self.counter(STORES, &[("result", result)]).increment(0);
        }
        for reason in Failure::COUNTED {
            self.counter(ERRORS, &[("reason", reason.word())]).increment(0);
        }
        for operation in Operation::ALL {
            let _ = self.histogram(SECONDS, &[("operation", operation.word())]);
        }
    }

    /// Counts a look into the shared cache: `hit`, `miss`, `failed`, or `skipped` while it is left alone.
    pub fn shared_looked(&self, result: &'static str) {
        self.counter(LOOKS, &[("result", result)]).increment(1);
    }

    /// Counts who generates an answer: this server for all (`led`), another that had already (`found`) or was waited for (`followed`), this
    /// one because the other took too long (`outwaited`), or because the shared cache could not be asked or was not to be (`alone`).
    pub fn shared_led(&self, result: &'static str) {
        self.counter(LEADS, &[("result", result)]).increment(1);
    }

    /// Counts an answer for the shared cache: `stored`, `outdated` where the reader's epoch had ended, `unfit` where it is too large,
    /// `failed`, or `skipped` while it is left alone.
    pub fn shared_stored(&self, result: &'static str) {
        self.counter(STORES, &[("result", result)]).increment(1);
    }

    /// Counts a failure of the shared cache.
    pub fn shared_failed(&self, reason: Failure) {
        self.counter(ERRORS, &[("reason", reason.word())]).increment(1);
    }

    /// Records how long an operation took, whatever came of it.
    pub fn shared_operation(&self, operation: Operation, took: Duration) {
        self.histogram(SECONDS, &[("operation", operation.word())]).record(took.as_secs_f64());
    }

    /// Records whether the shared cache is left alone.
    pub fn shared_open(&self, is_open: bool) {
        self.set("newshound_shared_cache_breaker_open", f64::from(u8::from(is_open)));
    }

    /// Records of how many readers' ends Redis has not been told.
    pub fn shared_owed(&self, n_readers: usize) {
        self.set("newshound_shared_cache_ends_owed", size(n_readers));
    }
}
