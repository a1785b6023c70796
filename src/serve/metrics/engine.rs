//! Metrics of the queue and of the model thread.
use super::{Metrics, size};
use std::time::Duration;

impl Metrics {
    /// Counts a request that the queue refused (`full` or `age`), and the delay its client was told.
    pub fn refused(&self, reason: &'static str, retry_after: Duration) {
        self.counter("newshound_queue_refused_total", &[("reason", reason)]).increment(1);
        self.histogram("newshound_retry_after_seconds", &[]).record(retry_after.as_secs_f64());
    }

    /// Counts requests whose deadline passed in a phase (`queue` or `running`).
    pub fn deadline_missed(&self, phase: &'static str, n: u64) {
        self.counter("newshound_deadline_missed_total", &[("phase", phase)]).increment(n);
    }

    /// Records the state of the model thread.
    pub fn engine_state(&self, queued: usize, rows: usize, kv_bytes: usize) {
        self.set("newshound_queue_depth", size(queued));
        self.set("newshound_running_rows", size(rows));
        self.set("newshound_kv_bytes", size(kv_bytes));
    }

    /// Records a prefill of `tokens` tokens for a request that waited.
    pub fn prefilled(&self, tokens: usize, took: Duration, waited: Duration) {
        self.counter("newshound_prefill_tokens_total", &[]).increment(tokens as u64);
        let histogram = self.histogram("newshound_step_duration_seconds", &[("phase", "prefill")]);
        histogram.record(took.as_secs_f64());
        self.histogram("newshound_queue_wait_seconds", &[]).record(waited.as_secs_f64());
    }

    /// Counts prompt tokens that were known, and need not be prefilled.
    pub fn known_tokens(&self, n: usize) {
        self.counter("newshound_prefix_tokens_total", &[]).increment(n as u64);
    }

    /// Records the memory of kept prompts.
    pub fn prefix_bytes(&self, n: usize) {
        self.set("newshound_prefix_bytes", size(n));
    }

    /// Records a decode step over `rows` rows.
    pub fn stepped(&self, rows: usize, took: Duration) {
        self.histogram("newshound_batch_rows", &[]).record(size(rows));
        let histogram = self.histogram("newshound_step_duration_seconds", &[("phase", "decode")]);
        histogram.record(took.as_secs_f64());
    }

    /// Counts a failure of the model thread.
    pub fn engine_fault(&self) {
        self.counter("newshound_engine_faults_total", &[]).increment(1);
    }
}
