//! Metrics of generations: signals, candidates, lists.
use super::{Metrics, size};
use metrics::Gauge;
use std::time::Duration;

impl Metrics {
    /// Counts a generation in which the reward head failed.
    pub fn head_failed(&self) {
        self.counter("newshound_head_failures_total", &[]).increment(1);
    }

    /// Counts sampled tokens by fate: `valid`, `invalid`, `pruned` or `cancelled`.
    pub fn output_tokens(&self, fate: &'static str, n: usize) {
        self.counter("newshound_output_tokens_total", &[("fate", fate)]).increment(n as u64);
    }

    /// Counts candidates by fate: `valid`, `invalid`, `pruned` or `cancelled`.
    pub fn candidates(&self, fate: &'static str, n: usize) {
        self.counter("newshound_candidates_total", &[("fate", fate)]).increment(n as u64);
    }

    /// Counts a candidate that is no valid list.
    pub fn invalid_output(&self, reason: &'static str) {
        self.counter("newshound_invalid_output_total", &[("reason", reason)]).increment(1);
    }

    /// Counts a signal that was judged.
    pub fn signal(&self, verdict: &'static str) {
        self.counter("newshound_signals_total", &[("verdict", verdict)]).increment(1);
    }

    /// Records the size of a valid list.
    pub fn list_queries(&self, n: usize) {
        self.histogram("newshound_queries_per_list", &[]).record(size(n));
    }

    /// Records the length of a prompt.
    pub fn prompt_tokens(&self, n: usize) {
        self.histogram("newshound_prompt_tokens", &[]).record(size(n));
    }

    /// Records how many candidates a generation started.
    pub fn candidates_started(&self, candidates: usize) {
        self.histogram("newshound_candidates_per_request", &[]).record(size(candidates));
    }

    /// Records when the first valid list came.
    pub fn first_candidate(&self, took: Duration) {
        self.histogram("newshound_time_to_first_candidate_seconds", &[]).record(took.as_secs_f64());
    }

    /// Records the predicted reward of a chosen list.
    pub fn best_list_score(&self, score: f32) {
        self.histogram("newshound_best_list_score", &[]).record(f64::from(score));
    }

    /// Records by how much that is above the predicted reward of the first candidate.
    pub fn score_gain(&self, gain: f32) {
        self.histogram("newshound_score_gain", &[]).record(f64::from(gain));
    }

    /// Work that waits for the threads on which prompts are made and lists are scored.
    pub fn solo_depth(&self) -> Gauge {
        self.gauge("newshound_solo_queue_depth", &[])
    }

    /// Records how long work waited for them.
    pub fn solo_waited(&self, waited: Duration) {
        self.histogram("newshound_solo_wait_seconds", &[]).record(waited.as_secs_f64());
    }
}
