//! Metrics of model threads. Each model that answers has one, and so has one that was replaced while it ends its last requests: gauges show what
//! all have, and the pressure of the thread that has the highest.
use super::{Metrics, size};
use crate::serve::batcher::Class;
use metrics::Histogram;
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

const CAPACITY: &str = "newshound_capacity_rows";

/// What one model thread has now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineState {
    /// Requests that wait.
    pub queued: usize,
    /// Tokens of their prompts, and the most that their rows can write.
    pub queued_tokens: usize,
    /// Rows in the batch.
    pub rows: usize,
    /// Memory of the batch's keys and values.
    pub kv_bytes: usize,
    /// Memory of kept prompts.
    pub prefix_bytes: usize,
    /// See [`pressure`].
    pub pressure: f64,
}

/// How near a thread is to where it refuses: the largest of the shares in use of its queue, of its rows, and of the longest wait that a job
/// which comes now may be expected to have; at most 1.
pub fn pressure(queue: (usize, usize), rows: (usize, usize), wait: (Duration, Duration)) -> f64 {
    let shares = [queue, rows].map(|(n, most)| size(n) / size(most));
    shares.into_iter().fold(wait.0.div_duration_f64(wait.1), f64::max).min(1.0)
}

/// One thread's part of the gauges; it takes it back when it is dropped.
#[derive(Debug)]
pub struct EngineGauges {
    metrics: Arc<Metrics>,
    /// By which its pressure is known.
    number: u64,
    /// Most rows that its batch may hold.
    rows_max: usize,
    shown: EngineState,
}

impl EngineGauges {
    /// Shows no more yet than how many rows there may be.
    pub fn new(metrics: Arc<Metrics>, rows_max: usize) -> Self {
        let number = metrics.new_thread();
        metrics.gauge(CAPACITY, &[]).increment(size(rows_max));
        Self { metrics, number, rows_max, shown: EngineState::default() }
    }

    /// Shows a state in place of the last one.
    pub fn show(&mut self, state: EngineState) {
        let before = std::mem::replace(&mut self.shown, state);
        for (name, before, now) in [
            ("newshound_queue_depth", size(before.queued), size(state.queued)),
            ("newshound_queue_tokens", size(before.queued_tokens), size(state.queued_tokens)),
            ("newshound_running_rows", size(before.rows), size(state.rows)),
            ("newshound_kv_bytes", size(before.kv_bytes), size(state.kv_bytes)),
            ("newshound_prefix_bytes", size(before.prefix_bytes), size(state.prefix_bytes)),
        ] {
            // Whole numbers below 2^52 are added and taken away without a rest.
            if now != before {
                self.metrics.gauge(name, &[]).increment(now - before);
            }
        }
        self.metrics.pressed(self.number, Some(state.pressure));
    }
}

impl Drop for EngineGauges {
    fn drop(&mut self) {
        self.show(EngineState::default());
        self.metrics.gauge(CAPACITY, &[]).decrement(size(self.rows_max));
        self.metrics.pressed(self.number, None);
    }
}

impl Metrics {
    /// The number of a thread that begins.
    fn new_thread(&self) -> u64 {
        let mut pressures = self.pressures.lock().unwrap_or_else(PoisonError::into_inner);
        let number = pressures.last_key_value().map_or(0, |(last, _)| last + 1);
        pressures.insert(number, 0.0);
        number
    }

    /// Notes how pressed a thread is, or that it has ended.
    fn pressed(&self, number: u64, pressure: Option<f64>) {
        let mut pressures = self.pressures.lock().unwrap_or_else(PoisonError::into_inner);
        match pressure {
            Some(pressure) => pressures.insert(number, pressure),
            None => pressures.remove(&number),
        };
        self.gauge("newshound_pressure", &[]).set(pressures.values().copied().fold(0.0, f64::max));
    }

    /// Counts a request that the queue refused (`full`, `tokens`, `wait` or `age`), and the delay its client was told.
    pub fn refused(&self, reason: &'static str, retry_after: Duration) {
        self.counter("newshound_queue_refused_total", &[("reason", reason)]).increment(1);
        self.histogram("newshound_retry_after_seconds", &[]).record(retry_after.as_secs_f64());
    }

    /// Counts a request of a class that had to leave a queue that was full.
    pub fn left_the_queue(&self, class: Class) {
        self.counter("newshound_queue_shortened_total", &[("class", class.word())]).increment(1);
    }

    /// Counts requests whose deadline passed in a phase (`queue` or `running`), or would have (`door`).
    pub fn deadline_missed(&self, phase: &'static str, n: u64) {
        self.counter("newshound_deadline_missed_total", &[("phase", phase)]).increment(n);
    }

    /// Records a prefill of `tokens` tokens for a request of a class that waited.
    pub fn prefilled(&self, tokens: usize, took: Duration, (class, waited): (Class, Duration)) {
        self.counter("newshound_prefill_tokens_total", &[]).increment(tokens as u64);
        let histogram = self.histogram("newshound_step_duration_seconds", &[("phase", "prefill")]);
        histogram.record(took.as_secs_f64());
        self.queue_wait(class).record(waited.as_secs_f64());
    }

    pub(super) fn queue_wait(&self, class: Class) -> Histogram {
        self.histogram("newshound_queue_wait_seconds", &[("class", class.word())])
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
        let metrics = Arc::new(Metrics::new().unwrap());
        let check = |rows: usize, of: usize| {
            let text = metrics.render();
            for line in
                [format!("newshound_running_rows {rows}\n"), format!("newshound_capacity_rows {of}\n")]
            {
                assert!(text.contains(&line), "{line} is not in\n{text}");
            }
        };
        check(0, 0);
        let thread = || EngineGauges::new(Arc::clone(&metrics), 64);
        let (mut old, mut new) = (thread(), thread());
        old.show(EngineState { rows: 5, ..EngineState::default() });
        new.show(EngineState { rows: 2, ..EngineState::default() });
        check(7, 128);
        old.show(EngineState { rows: 1, ..EngineState::default() });
        check(3, 128);
        drop(old);
        check(2, 64);
    }

    #[test]
    fn pressure_is_the_largest_of_queue_rows_and_wait_and_at_most_one() {
        let ms = Duration::from_millis;
        let check = |queued, rows, wait_ms, expected: f64| {
            let found = pressure((queued, 64), (rows, 128), (ms(wait_ms), ms(500)));
            assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        };
        check(0, 0, 0, 0.0);
        check(16, 0, 0, 0.25);
        check(0, 32, 0, 0.25);
        check(0, 0, 125, 0.25);
        check(48, 32, 125, 0.75);
        check(16, 96, 125, 0.75);
        check(16, 32, 375, 0.75);
        check(64, 128, 500, 1.0);
        // An empty batch takes a job that is larger than it.
        check(0, 200, 0, 1.0);
        check(0, 0, 10_000, 1.0);
        assert_eq!(pressure((0, 1), (0, 1), (ms(0), ms(0))), 0.0, "where nobody may be expected to wait");
    }

    #[test]
    fn the_pressure_is_that_of_the_thread_which_is_pressed_most() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let check = |expected: &str| {
            let line = format!("newshound_pressure {expected}\n");
            assert!(metrics.render().contains(&line), "{line} is not in\n{}", metrics.render());
        };
        let thread = || EngineGauges::new(Arc::clone(&metrics), 64);
        let (mut one, mut other) = (thread(), thread());
        let pressed = |pressure| EngineState { pressure, ..EngineState::default() };
        one.show(pressed(0.75));
        other.show(pressed(0.5));
        check("0.75");
        other.show(pressed(0.875));
        check("0.875");
        drop(other);
        check("0.75");
        drop(one);
        check("0");
    }
}
