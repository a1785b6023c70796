//! Metrics of traces.
use super::Metrics;

impl Metrics {
    pub(super) fn show_spans_from_the_start(&self) {
        for result in ["exported", "dropped", "failed"] {
            self.spans(result, 0);
        }
    }

    /// Counts spans: `exported`; `dropped`, because too many waited; or `failed`, because the collector did not take them.
    pub fn spans(&self, result: &'static str, n: u64) {
        self.counter("newshound_trace_spans_total", &[("result", result)]).increment(n);
    }
}
