//! Every metric of the server, and nothing is measured elsewhere under another name.
//!
//! Names start with `newshound_`, units are base units, labels are closed sets of words: never a user, a text or a request.
//! Each server has its own registry, so several servers in one process count apart.
pub mod access;
mod admission;
mod arms;
mod cache;
pub mod engine;
mod generation;
pub mod models;
mod money;
pub mod outcome;
mod shared;
mod spans;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use money::Books;
use outcome::Outcome;
use std::{collections::BTreeSet, sync::Mutex, time::Duration};

/// Latencies of requests, seconds.
const LATENCY: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0,
    10.0, 30.0,
];
/// Parts of a request, seconds.
const PART: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Candidates of a request, queries of a list.
const CANDIDATES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const QUERIES: &[f64] = &[3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
const TOKENS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
const REWARD: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
/// Loading a model, seconds.
const LOAD: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
const AGE: &[f64] = &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

use Kind::{Counter as C, Gauge as G, Histogram as H};

/// Name, kind and help of everything that can be scraped.
const METRICS: &[(&str, Kind, &str)] = &[
    ("newshound_rpc_requests_total", C, "Calls that reached a method and ended, by method and gRPC code."),
    (
        "newshound_rpc_duration_seconds",
        H(LATENCY),
        "Time from the first to the last byte of a call, by method.",
    ),
    ("newshound_rpc_in_flight", G, "Calls that have not ended, by method."),
    (
        "newshound_outcomes_total",
        C,
        "Generation requests that could be read, by how they ended; each is counted once.",
    ),
    ("newshound_queue_depth", G, "Requests that wait for the model."),
    ("newshound_queue_wait_seconds", H(LATENCY), "Time an admitted request waited for the model."),
    ("newshound_queue_refused_total", C, "Requests refused by the queue, by reason."),
    ("newshound_retry_after_seconds", H(LATENCY), "Delays that refused clients were asked to keep."),
    (
        "newshound_admissions_total",
        C,
        "Requests without a fresh answer, by class and what the door decided; renewals of stored answers among them.",
    ),
    (
        "newshound_degraded_total",
        C,
        "Requests whose answer fell short of what was asked, or that were refused at the door, by rung and reason.",
    ),
    (
        "newshound_admission_estimated_seconds",
        H(LATENCY),
        "Expected time of admitted requests, the wait included, where it was known.",
    ),
    (
        "newshound_tenant_limited_total",
        C,
        "Requests refused because their tenant's budget of tokens was used up.",
    ),
    ("newshound_deadline_missed_total", C, "Requests whose deadline passed, by where they were."),
    ("newshound_batch_rows", H(ROWS), "Rows that got a token in one decode step."),
    ("newshound_step_duration_seconds", H(PART), "Time of one prefill or one decode step."),
    ("newshound_running_rows", G, "Rows in the batch."),
    ("newshound_capacity_rows", G, "Most rows the batch may hold."),
    ("newshound_kv_bytes", G, "Memory of keys and values in the batch."),
    ("newshound_prefill_tokens_total", C, "Prompt tokens that went through the model."),
    (
        "newshound_prefix_tokens_total",
        C,
        "Prompt tokens that did not go through the model, because an earlier prompt began alike.",
    ),
    ("newshound_prefix_bytes", G, "Memory of keys and values kept of readers' last prompts."),
    ("newshound_output_tokens_total", C, "Sampled tokens, by what became of them."),
    (
        "newshound_engine_faults_total",
        C,
        "Failures of the model, in one prompt or in a step of all requests.",
    ),
    (
        "newshound_head_failures_total",
        C,
        "Generations in which the reward head failed, so that the best list was found without it.",
    ),
    ("newshound_prompt_tokens", H(TOKENS), "Tokens of a prompt."),
    ("newshound_phase_duration_seconds", H(PART), "Time of each phase of a generation."),
    (
        "newshound_time_to_first_candidate_seconds",
        H(LATENCY),
        "Time from the start of a generation to its first valid list.",
    ),
    ("newshound_signals_total", C, "Signals that a cleaner judged, by verdict."),
    ("newshound_candidates_per_request", H(CANDIDATES), "Candidates that a generation started."),
    ("newshound_candidates_total", C, "Candidates, by what became of them."),
    ("newshound_invalid_output_total", C, "Candidates that are no valid list, by reason."),
    ("newshound_queries_per_list", H(QUERIES), "Queries of a valid list."),
    ("newshound_best_list_score", H(REWARD), "Predicted reward of the chosen list."),
    ("newshound_cache_requests_total", C, "Generation requests, by what their look into the cache found."),
    (
        "newshound_cache_renewals_total",
        C,
        "Stored answers that were to be made anew when they were used, by whether they were.",
    ),
    ("newshound_cache_invalidations_total", C, "Readers whose stored answers are used no more, by scope."),
    ("newshound_cohort_reads_total", C, "Changes of the file of cohorts' lists, by what became of them."),
    ("newshound_cache_entries", G, "Stored answers."),
    ("newshound_cache_weight_bytes", G, "Approximate memory of stored answers."),
    ("newshound_cache_age_at_hit_seconds", H(AGE), "Age of a stored answer when it was used."),
    ("newshound_shared_cache_looks_total", C, "Looks into the cache that servers share, by what they found."),
    (
        "newshound_shared_cache_leads_total",
        C,
        "Generations that were about to begin where servers share a cache, by who was to generate.",
    ),
    ("newshound_shared_cache_stores_total", C, "Answers for the shared cache, by what became of them."),
    ("newshound_shared_cache_errors_total", C, "Failures of the shared cache, by reason; each is a miss."),
    (
        "newshound_shared_cache_operation_seconds",
        H(PART),
        "Time of operations on the shared cache, failed ones too, by operation.",
    ),
    (
        "newshound_shared_cache_breaker_open",
        G,
        "Whether the shared cache is left alone because it cannot be reached or fails: 1 or 0.",
    ),
    (
        "newshound_shared_cache_ends_owed",
        G,
        "Readers whose shared answers are still to be removed, because the shared cache did not answer.",
    ),
    (
        "newshound_cost_nanos_total",
        C,
        "Cost of the device's time since the start, in billionths of the currency's unit, by what it was spent on.",
    ),
    (
        "newshound_cost_saved_nanos_total",
        C,
        "Cost of time that the device did not need, in billionths of the currency's unit, by why not.",
    ),
    ("newshound_device_hour_price", G, "Price of an hour of the device; its label is the currency."),
    ("newshound_experiments_enabled", G, "Experiments that are in force and not off."),
    (
        "newshound_experiments_file_refused",
        G,
        "Whether the experiments file is wrong or unreadable, and an older one in force: 1 or 0.",
    ),
    ("newshound_experiments_reads_total", C, "Changes of the experiments file, by what became of them."),
    ("newshound_arm_assignments_total", C, "Generation requests by experiment, arm and why that arm."),
    ("newshound_arm_outcomes_total", C, "Generation requests by experiment, arm and how they ended."),
    ("newshound_arm_duration_seconds", H(LATENCY), "Time of answered requests, by experiment and arm."),
    (
        "newshound_arm_best_list_score",
        H(REWARD),
        "Predicted reward of the answered list, by experiment and arm.",
    ),
    ("newshound_arm_output_tokens_total", C, "Tokens sampled for answers, by experiment and arm."),
    (
        "newshound_arm_cost_nanos_total",
        C,
        "Cost of generations, in billionths of the currency's unit, by experiment and arm.",
    ),
    ("newshound_arm_events_total", C, "Reported events of answers, by experiment, arm and event."),
    ("newshound_feedback_reports_total", C, "Reports of outcomes, by what became of them."),
    ("newshound_records_total", C, "Lines for the log of exposures and outcomes, by what became of them."),
    ("newshound_connections_open", G, "Open gRPC connections."),
    ("newshound_connections_refused_total", C, "Connections closed by the server before a call, by reason."),
    (
        "newshound_connections_idled_total",
        C,
        "Connections closed by the server because nobody called on them for long.",
    ),
    (
        "newshound_access_refused_total",
        C,
        "Calls refused for the token that they showed or did not show, by reason.",
    ),
    (
        "newshound_access_reads_total",
        C,
        "Changes of the files of tokens and certificates, by what became of them.",
    ),
    (
        "newshound_access_files_refused",
        G,
        "Whether tokens or certificates on the disk are wrong or unreadable, and older ones in force: 1 or 0, by file.",
    ),
    (
        "newshound_model_generation",
        G,
        "Number of the model that answers, among those that this server has loaded.",
    ),
    (
        "newshound_models_in_memory",
        G,
        "Models in memory: the one that answers, and one that waits or ends its last requests.",
    ),
    (
        "newshound_model_changes_total",
        C,
        "Changes of the model that were asked for, by what was asked and what became of it.",
    ),
    (
        "newshound_model_load_seconds",
        H(LOAD),
        "Time to read, verify and warm up a model beside the one that answers.",
    ),
    (
        "newshound_trace_spans_total",
        C,
        "Spans of traces that were to be told to the collector, by what became of them.",
    ),
    ("newshound_build_info", G, "Always 1; its label is the server's version."),
    ("newshound_ready", G, "Whether new work is accepted: 1 or 0."),
    ("newshound_draining", G, "Whether the server was told to stop: 1 or 0."),
];

/// Histograms whose series differ by label.
const LABELLED_HISTOGRAMS: [&str; 6] = [
    "newshound_rpc_duration_seconds",
    "newshound_step_duration_seconds",
    "newshound_phase_duration_seconds",
    "newshound_shared_cache_operation_seconds",
    "newshound_arm_duration_seconds",
    "newshound_arm_best_list_score",
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
    books: Books,
}

impl Metrics {
    /// A registry that knows every metric; each one without labels is there from the first scrape.
    ///
    /// # Errors
    /// If the buckets of a histogram are empty.
    pub fn new(capacity_rows: usize) -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for (name, kind, _) in METRICS {
            if let H(buckets) = kind {
                builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
            }
        }
        let metrics =
            Self { recorder: builder.build_recorder(), arms: Mutex::default(), books: Books::new() };
        for &(name, kind, help) in METRICS {
            match kind {
                C => metrics.recorder.describe_counter(name.into(), None, help.into()),
                G => metrics.recorder.describe_gauge(name.into(), None, help.into()),
                H(_) => metrics.recorder.describe_histogram(name.into(), None, help.into()),
            }
        }
        metrics.show_from_the_start(capacity_rows);
        Ok(metrics)
    }

    /// Series that exist before anything happened, so that rates start from zero and dashboards are not empty.
    fn show_from_the_start(&self, capacity_rows: usize) {
        for name in [
            "newshound_prefill_tokens_total",
            "newshound_prefix_tokens_total",
            "newshound_engine_faults_total",
            "newshound_tenant_limited_total",
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
        self.set("newshound_capacity_rows", size(capacity_rows));
        self.gauge("newshound_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.recorder.handle().render()
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

    /// Records a phase of a generation: `clean`, `tokenize`, `queue`, `prefill`, `decode` or `rerank`.
    pub fn phase(&self, phase: &'static str, took: Duration) {
        self.histogram("newshound_phase_duration_seconds", &[("phase", phase)]).record(took.as_secs_f64());
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
        let metrics = Metrics::new(128).unwrap().priced(Price::none());
        let second = Duration::from_secs(1);
        metrics.rpc_ended("GenerateQueries", "OK", second);
        metrics.rpc_in_flight("GenerateQueries").increment(1);
        metrics.refused("full", second);
        metrics.prefilled(10, second, second);
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
        arms::tests::busy(&metrics);
        metrics
    }

    #[test]
    fn every_metric_is_scraped_with_help_type_and_buckets() {
        let text = busy().render();
        for (name, kind, help) in METRICS {
            assert!(text.contains(&format!("# HELP {name} {help}")), "{name} has no help in\n{text}");
            let (word, sample) = match kind {
                C => ("counter", (*name).to_owned()),
                G => ("gauge", (*name).to_owned()),
                H(_) => ("histogram", format!("{name}_bucket{{")),
            };
            assert!(text.contains(&format!("# TYPE {name} {word}")), "{name} is no {word} in\n{text}");
            assert!(text.lines().any(|line| line.starts_with(&sample)), "{name} has no sample");
        }
        assert!(!text.contains("quantile="), "a histogram without buckets became a summary");
    }

    #[test]
    fn every_scraped_metric_is_in_the_table() {
        let text = busy().render();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(METRICS.iter().any(|(known, ..)| *known == name), "{name} is not in the table");
        }
    }

    #[test]
    fn two_servers_count_apart() {
        let (one, other) = (Metrics::new(1).unwrap(), Metrics::new(1).unwrap());
        one.engine_fault();
        assert!(one.render().contains("newshound_engine_faults_total 1"));
        assert!(other.render().contains("newshound_engine_faults_total 0"));
    }
}
