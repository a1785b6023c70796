//! The list of all metrics.

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
/// By how much one predicted reward is above another.
const GAIN: &[f64] = &[0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];
const REWARD: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
/// Loading a model, seconds.
const LOAD: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
const AGE: &[f64] = &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0];

/// Buckets in seconds.
#[cfg(test)]
pub(super) const TIMES: [&[f64]; 4] = [LATENCY, PART, LOAD, AGE];
/// Buckets of rewards.
#[cfg(test)]
pub(super) const SHARES: [&[f64]; 2] = [REWARD, GAIN];

/// What a metric is; a histogram with its buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

impl Kind {
    /// What Prometheus calls it.
    #[cfg(target_os = "linux")]
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

use Kind::{Counter as C, Gauge as G, Histogram as H};

/// Name, kind and help of what the operating system tells of the process, where it is Linux.
#[cfg(target_os = "linux")]
pub(super) const PROCESS: [(&str, Kind, &str); 7] = [
    ("process_cpu_seconds_total", C, "Time on processors, of all threads, in user's and system's code."),
    ("process_resident_memory_bytes", G, "Memory of the machine that is in use."),
    (
        "process_virtual_memory_bytes",
        G,
        "Addresses that are taken, whether or not there is memory behind them.",
    ),
    ("process_threads", G, "Threads."),
    ("process_open_fds", G, "Open files and connections."),
    ("process_max_fds", G, "Most files and connections that may be open."),
    ("process_start_time_seconds", G, "When the process started, since 1970."),
];

/// Name, kind and help of everything else that can be scraped.
pub(super) const METRICS: &[(&str, Kind, &str)] = &[
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
    (
        "newshound_readers_total",
        C,
        "Readers who got an answer, each counted once an hour (an estimate, within a few per cent).",
    ),
    (
        "newshound_answer_duration_seconds",
        H(LATENCY),
        "Time of answered requests, by class and extent: whole, or less than what was asked.",
    ),
    ("newshound_queue_depth", G, "Requests that wait for the model."),
    (
        "newshound_queue_tokens",
        G,
        "Tokens of those who wait: their prompts, and the most that their lists can have.",
    ),
    ("newshound_queue_wait_seconds", H(LATENCY), "Time an admitted request waited for the model, by class."),
    (
        "newshound_solo_queue_depth",
        G,
        "Prompts that wait to be made, and lists and signals that wait to be judged.",
    ),
    ("newshound_solo_wait_seconds", H(PART), "Time that prompts, lists and signals waited for that."),
    (
        "newshound_runtime_lag_seconds",
        H(PART),
        "How late the threads that speak with clients come to what is due ten times a second.",
    ),
    (
        "newshound_queue_shortened_total",
        C,
        "Requests that had to leave a queue that was full, and were decided about anew, by class.",
    ),
    ("newshound_queue_refused_total", C, "Requests refused by the queue, by reason."),
    ("newshound_retry_after_seconds", H(LATENCY), "Delays that refused clients were asked to keep."),
    (
        "newshound_admissions_total",
        C,
        "Requests without a fresh answer, by class and what the door decided; renewals of stored answers among them, and who had to leave the queue once more.",
    ),
    (
        "newshound_degraded_total",
        C,
        "Requests whose answer fell short of what was asked or was not of their arm's bundle, or that were refused at the door, by rung and reason.",
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
    ("newshound_running_rows", G, "Rows in the batches of all models."),
    ("newshound_capacity_rows", G, "Most rows that the batches of all models may hold."),
    (
        "newshound_pressure",
        G,
        "How near the model thread that is pressed most is to where it refuses, 0 to 1: the largest of the shares of its queue, its rows and the expected wait in use.",
    ),
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
    (
        "newshound_candidates_per_request",
        H(CANDIDATES),
        "Candidates of a generation that ended, valid or not.",
    ),
    ("newshound_candidates_total", C, "Candidates, by what became of them."),
    ("newshound_invalid_output_total", C, "Candidates that are no valid list, by reason."),
    ("newshound_queries_per_list", H(QUERIES), "Queries of a valid list."),
    ("newshound_best_list_score", H(REWARD), "Predicted reward of the chosen list."),
    (
        "newshound_score_gain",
        H(GAIN),
        "By how much the predicted reward of the chosen list is above that of the first candidate, where the head chose and that is a valid list.",
    ),
    ("newshound_cache_requests_total", C, "Generation requests, by what their look into the cache found."),
    (
        "newshound_cache_renewals_total",
        C,
        "Stored answers that were to be made anew when they were used, by whether they were.",
    ),
    ("newshound_cache_invalidations_total", C, "Readers whose stored answers are used no more, by scope."),
    ("newshound_topic_reads_total", C, "Changes of the file of sensitive topics, by what became of them."),
    (
        "newshound_sensitive_total",
        C,
        "Signals and queries left out because they are about a sensitive topic, by what and topic.",
    ),
    ("newshound_cohort_reads_total", C, "Changes of the file of cohorts' lists, by what became of them."),
    ("newshound_cache_entries", G, "Stored answers."),
    ("newshound_cache_weight_bytes", G, "Approximate memory of stored answers."),
    ("newshound_cache_evictions_total", C, "Stored answers that left the cache, by cause."),
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
    (
        "newshound_arm_expected_micros_total",
        C,
        "Requests that the weights give an arm of those that came by hash, in millionths, by experiment and arm.",
    ),
    ("newshound_arm_outcomes_total", C, "Generation requests by experiment, arm and how they ended."),
    (
        "newshound_arm_readers_total",
        C,
        "Readers who got an answer, each counted once an hour (an estimate, within a few per cent), by experiment and arm.",
    ),
    (
        "newshound_arm_degraded_total",
        C,
        "Answers that fell short of what was asked, by experiment, arm and rung.",
    ),
    ("newshound_arm_duration_seconds", H(LATENCY), "Time of answered requests, by experiment and arm."),
    (
        "newshound_arm_best_list_score",
        H(REWARD),
        "Predicted reward of the answered list, by experiment and arm.",
    ),
    (
        "newshound_arm_score_gain",
        H(GAIN),
        "By how much that is above the predicted reward of the first candidate, where the head chose and that is a valid list, by experiment and arm.",
    ),
    (
        "newshound_arm_candidates_total",
        C,
        "Candidates of generations that ended by themselves, by experiment, arm and fate.",
    ),
    (
        "newshound_arm_first_candidate_seconds",
        H(LATENCY),
        "Time from the start of a generation to its first valid list, by experiment and arm.",
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
        "Whether tokens, certificates or sensitive topics on the disk are wrong or unreadable, and older ones in force: 1 or 0, by file.",
    ),
    (
        "newshound_model_generation",
        G,
        "Number of the model that answers, among those that this server has loaded; 0 for a resident that is not there.",
    ),
    (
        "newshound_models_in_memory",
        G,
        "Models in memory: those that answer, and one that waits or ends its last requests.",
    ),
    (
        "newshound_model_changes_total",
        C,
        "Changes of the model that were asked for, by what was asked and what became of it.",
    ),
    (
        "newshound_model_load_seconds",
        H(LOAD),
        "Time to read, verify and warm up a model beside those that answer.",
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
