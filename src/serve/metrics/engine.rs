//! Metrics of model threads. While a model that was replaced ends its last requests, two threads run: gauges show what both have.
use super::{Metrics, size};
use std::{sync::Arc, time::Duration};

/// What one model thread has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Requests that wait.
    pub queued: usize,
    /// Rows in the batch.
    pub rows: usize,
    /// Memory of the batch's keys and values.
    pub kv_bytes: usize,
    /// Memory of kept prompts.
    pub prefix_bytes: usize,
}

/// One thread's part of the gauges; it takes it back when it is dropped.
#[derive(Debug)]
pub struct EngineGauges {
    metrics: Arc<Metrics>,
    shown: EngineState,
}

impl EngineGauges {
    /// Shows nothing yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, shown: EngineState::default() }
    }

    /// Shows a state in place of the last one.
    pub fn show(&mut self, state: EngineState) {
        let before = std::mem::replace(&mut self.shown, state);
        for (name, before, now) in [
            ("newshound_queue_depth", before.queued, state.queued),
            ("newshound_running_rows", before.rows, state.rows),
            ("newshound_kv_bytes", before.kv_bytes, state.kv_bytes),
            ("newshound_prefix_bytes", before.prefix_bytes, state.prefix_bytes),
        ] {
            // Whole numbers below 2^52 are added and taken away without a rest.
            if now != before {
                self.metrics.gauge(name, &[]).increment(size(now) - size(before));
            }
        }
    }
}

impl Drop for EngineGauges {
    fn drop(&mut self) {
        self.show(EngineState::default());
    }
}

impl Metrics {
    /// Counts a request that the queue refused (`full`, `tokens`, `wait` or `age`), and the delay its client was told.
    pub fn refused(&self, reason: &'static str, retry_after: Duration) {
        self.counter("newshound_queue_refused_total", &[("reason", reason)]).increment(1);
        self.histogram("newshound_retry_after_seconds", &[]).record(retry_after.as_secs_f64());
    }

    /// Counts requests whose deadline passed in a phase (`queue` or `running`), or would have (`door`).
    pub fn deadline_missed(&self, phase: &'static str, n: u64) {
        self.counter("newshound_deadline_missed_total", &[("phase", phase)]).increment(n);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_show_what_all_threads_have_and_nothing_of_one_that_ended() {
        let metrics = Arc::new(Metrics::new(1).unwrap());
        let check = |rows: usize| {
            let line = format!("newshound_running_rows {rows}\n");
            assert!(metrics.render().contains(&line), "{line} is not in\n{}", metrics.render());
        };
        let thread = || EngineGauges::new(Arc::clone(&metrics));
        let (mut old, mut new) = (thread(), thread());
        old.show(EngineState { rows: 5, ..EngineState::default() });
        new.show(EngineState { rows: 2, ..EngineState::default() });
        check(7);
        old.show(EngineState { rows: 1, ..EngineState::default() });
        check(3);
        drop(old);
        check(2);
    }
}
