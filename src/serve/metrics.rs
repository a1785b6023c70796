//! Every metric of the server, and nothing is measured elsewhere under another name.
//!
//! Names start with `newshound_`, units are base units, labels are closed sets of words: never a user, a text or a request.
//! Each server has its own registry, so several servers in one process count apart. What the system says of the process has the names that
//! it has everywhere.
pub mod access;
mod admission;
mod arms;
mod cache;
pub mod engine;
mod generation;
pub mod models;
mod money;
pub mod outcome;
#[cfg(target_os = "linux")]
mod process;
mod readers;
mod shared;
mod spans;
mod table;
mod topics;

use crate::serve::batcher::Class;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use money::Books;
use outcome::Outcome;
use readers::Seen;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};
use table::{
    Kind::{Counter as C, Gauge as G, Histogram as H},
    METRICS,
};

/// Histograms whose series differ by label.
const LABELLED_HISTOGRAMS: [&str; 10] = [
    "newshound_rpc_duration_seconds",
    "newshound_answer_duration_seconds",
    "newshound_step_duration_seconds",
    "newshound_phase_duration_seconds",
    "newshound_shared_cache_operation_seconds",
    "newshound_arm_duration_seconds",
    "newshound_arm_best_list_score",
    "newshound_arm_score_gain",
    "newshound_arm_first_candidate_seconds",
    "newshound_queue_wait_seconds",
];

/// Gauges whose series differ by label.
const LABELLED_GAUGES: [&str; 4] = [
    "newshound_rpc_in_flight",
    "newshound_build_info",
    "newshound_device_hour_price",
    "newshound_access_files_refused",
];

/// The registry of one server.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    /// Experiments and arms that have series.
    arms: Mutex<BTreeSet<(String, String)>>,
    /// Sensitive topics that have series.
    topics: Mutex<BTreeSet<String>>,
    /// How pressed each model thread is, by the order in which they began.
    pressures: Mutex<BTreeMap<u64, f64>>,
    seen: Seen,
    books: Books,
}

impl Metrics {
    /// A registry that knows every metric; each one without labels is there from the first scrape.
    ///
    /// # Errors
    /// If the buckets of a histogram are empty.
    pub fn new() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for (name, kind, _) in METRICS {
            if let H(buckets) = kind {
                builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
            }
        }
        let (arms, topics, pressures) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (recorder, seen, books) = (builder.build_recorder(), Seen::default(), Books::new());
        let metrics = Self { recorder, arms, topics, pressures, seen, books };
        for &(name, kind, help) in METRICS {
            match kind {
                C => metrics.recorder.describe_counter(name.into(), None, help.into()),
                G => metrics.recorder.describe_gauge(name.into(), None, help.into()),
                H(_) => metrics.recorder.describe_histogram(name.into(), None, help.into()),
            }
        }
        metrics.show_from_the_start();
        Ok(metrics)
    }

    /// Series that exist before anything happened, so that rates start from zero and dashboards are not empty.
    fn show_from_the_start(&self) {
        for name in [
            "newshound_prefill_tokens_total",
            "newshound_prefix_tokens_total",
            "newshound_engine_faults_total",
            "newshound_tenant_limited_total",
            "newshound_readers_total",
            "newshound_head_failures_total",
            "newshound_connections_idled_total",
        ] {
            self.counter(name, &[]).increment(0);
        }
        for fate in ["valid", "invalid", "pruned", "cancelled"] {
            self.candidates(fate, 0);
            self.output_tokens(fate, 0);
        }
        for outcome in Outcome::ALL {
            self.counter("newshound_outcomes_total", &[("outcome", outcome.word())]).increment(0);
        }
        for class in Class::ALL {
            for is_whole in [true, false] {
                _ = self.answers(class, is_whole);
            }
            _ = self.queue_wait(class);
            self.counter("newshound_queue_shortened_total", &[("class", class.word())]).increment(0);
        }
        self.show_cache_from_the_start();
        self.show_shared_from_the_start();
        for reason in ["full", "tokens", "wait", "age"] {
            self.counter("newshound_queue_refused_total", &[("reason", reason)]).increment(0);
        }
        for phase in ["door", "queue", "running"] {
            self.deadline_missed(phase, 0);
        }
        self.show_admission_from_the_start();
        self.show_experiments_from_the_start();
        self.show_costs_from_the_start();
        self.show_models_from_the_start();
        self.show_access_from_the_start();
        self.show_spans_from_the_start();
        self.show_topics_from_the_start();
        for (name, kind, _) in METRICS {
            if matches!(kind, G) && !LABELLED_GAUGES.contains(name) {
                self.set(name, 0.0);
            }
        }
        for (name, kind, _) in METRICS {
            if matches!(kind, H(_)) && !LABELLED_HISTOGRAMS.contains(name) {
                let _ = self.histogram(name, &[]);
            }
        }
        self.gauge("newshound_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        let text = self.recorder.handle().render();
        #[cfg(target_os = "linux")]
        let text = text + &process::text();
        text
    }

    /// Folds what was recorded since the last call; without it histograms grow between scrapes.
    pub fn upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }

    /// Counts a call that ended.
    pub fn rpc_ended(&self, method: &'static str, code: &'static str, took: Duration) {
        self.counter("newshound_rpc_requests_total", &[("method", method), ("code", code)]).increment(1);
        let histogram = self.histogram("newshound_rpc_duration_seconds", &[("method", method)]);
        histogram.record(took.as_secs_f64());
    }

    /// Calls of a method that have not ended.
    pub fn rpc_in_flight(&self, method: &'static str) -> Gauge {
        self.gauge("newshound_rpc_in_flight", &[("method", method)])
    }

    /// Counts how a generation request ended.
    pub fn outcome(&self, outcome: Outcome) {
        self.counter("newshound_outcomes_total", &[("outcome", outcome.word())]).increment(1);
    }

    /// Records how long an answer took, and whether it is all that was asked.
    pub fn answered(&self, class: Class, is_whole: bool, took: Duration) {
        self.answers(class, is_whole).record(took.as_secs_f64());
    }

    fn answers(&self, class: Class, is_whole: bool) -> Histogram {
        let extent = if is_whole { "whole" } else { "less" };
        self.histogram("newshound_answer_duration_seconds", &[("class", class.word()), ("extent", extent)])
    }

    /// Records a phase of a generation: `clean`, `tokenize`, `queue`, `prefill`, `decode` or `rerank`.
    pub fn phase(&self, phase: &'static str, took: Duration) {
        self.histogram("newshound_phase_duration_seconds", &[("phase", phase)]).record(took.as_secs_f64());
    }

    /// Records how late a thread that speaks with clients came to what was due.
    pub fn runtime_lag(&self, lag: Duration) {
        self.histogram("newshound_runtime_lag_seconds", &[]).record(lag.as_secs_f64());
    }

    /// Records whether new work is accepted, and whether the end has begun.
    pub fn readiness(&self, ready: bool, draining: bool) {
        self.set("newshound_ready", f64::from(u8::from(ready)));
        self.set("newshound_draining", f64::from(u8::from(draining)));
    }

    fn set(&self, name: &'static str, value: f64) {
        self.gauge(name, &[]).set(value);
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.recorder.register_counter(&key(name, fixed(labels)), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, fixed(labels)), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Histogram {
        self.recorder.register_histogram(&key(name, fixed(labels)), &METADATA)
    }
}

static METADATA: Metadata<'static> = Metadata::new("newshound", Level::INFO, None);

fn key(name: &'static str, labels: Vec<Label>) -> Key {
    Key::from_parts(name, labels)
}

fn fixed(labels: &[(&'static str, &'static str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn size(n: usize) -> f64 {
    n as f64
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn whole(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::cost::Price;

    /// A registry in which everything happened once.
    fn busy() -> Metrics {
        let metrics = Metrics::new().unwrap().priced(Price::none());
        let second = Duration::from_secs(1);
        metrics.rpc_ended("GenerateQueries", "OK", second);
        metrics.rpc_in_flight("GenerateQueries").increment(1);
        metrics.refused("full", second);
        metrics.prefilled(10, second, (Class::Default, second));
        metrics.stepped(8, second);
        metrics.invalid_output("word_count");
        metrics.signal("keep");
        metrics.list_queries(5);
        metrics.phase("tokenize", second);
        metrics.prompt_tokens(10);
        metrics.candidates_started(8);
        metrics.first_candidate(second);
        metrics.best_list_score(0.5);
        metrics.cache_request("hit", Some(second));
        metrics.sensitive("query", "health");
        arms::tests::busy(&metrics);
        metrics
    }

    #[test]
    fn every_metric_is_scraped_with_help_type_and_buckets() {
        let text = busy().render();
        for (name, kind, help) in METRICS.iter().chain(&table::PROCESS) {
            assert!(text.contains(&format!("# HELP {name} {help}")), "{name} has no help in\n{text}");
            let sample = if let H(_) = kind { format!("{name}_bucket{{") } else { (*name).to_owned() };
            let word = kind.word();
            assert!(text.contains(&format!("# TYPE {name} {word}")), "{name} is no {word} in\n{text}");
            assert!(text.lines().any(|line| line.starts_with(&sample)), "{name} has no sample");
        }
        assert!(!text.contains("quantile="), "a histogram without buckets became a summary");
    }

    /// What a name ends with says what is counted or in which unit it is measured.
    #[test]
    fn names_end_with_their_unit() {
        for &(name, kind, _) in METRICS {
            let ends: &[&str] = match kind {
                C => &["_total"],
                H(buckets) if table::TIMES.contains(&buckets) => &["_seconds"],
                H(buckets) if table::SHARES.contains(&buckets) => &["_score", "_gain"],
                H(_) => &["_rows", "_tokens", "_per_request", "_per_list"],
                G => &[
                    "_bytes",
                    "_rows",
                    "_tokens",
                    "_depth",
                    "_in_flight",
                    "_open",
                    "_entries",
                    "_price",
                    "_enabled",
                    "_refused",
                    "_info",
                    "_ready",
                    "_draining",
                    "_pressure",
                    "_owed",
                    "_generation",
                    "_in_memory",
                ],
            };
            assert!(ends.iter().any(|end| name.ends_with(end)), "{name} ends with none of {ends:?}");
        }
    }

    #[test]
    fn every_scraped_metric_is_in_the_table() {
        let text = busy().render();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            let known = METRICS.iter().chain(&table::PROCESS).any(|(known, ..)| *known == name);
            assert!(known, "{name} is not in the table");
        }
    }

    #[test]
    fn two_servers_count_apart() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.engine_fault();
        assert!(one.render().contains("newshound_engine_faults_total 1"));
        assert!(other.render().contains("newshound_engine_faults_total 0"));
    }
}
