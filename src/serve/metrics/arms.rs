//! Metrics of experiments. Experiments and arms are named by a file that may change while the server runs, so that the number of
//! their series has a limit of its own.
use super::{Metrics, Outcome, key, size};
use crate::experiment::assign::By;
use metrics::{Label, Recorder};
use std::{sync::PoisonError, time::Duration};

/// Pairs of experiment and arm that have series: as many as one file may hold. Those of later files, once it is reached, are
/// counted together as `other` until the server starts again.
const ARM_LABELS_MAX: usize = 64;
const OTHER: &str = "other";
const ASSIGNMENTS: &str = "newshound_arm_assignments_total";

impl Metrics {
    pub(super) fn show_experiments_from_the_start(&self) {
        for result in ["written", "dropped", "failed"] {
            self.records(result, 0);
        }
        for result in ["recorded", "duplicate", "refused"] {
            self.feedback_report(result, 0);
        }
        for result in ["loaded", "refused", "unreadable"] {
            self.counter("newshound_experiments_reads_total", &[("result", result)]).increment(0);
        }
    }

    /// Counts a change of the experiments file: `loaded`, `refused` or `unreadable`.
    pub fn experiments_read(&self, result: &'static str) {
        self.counter("newshound_experiments_reads_total", &[("result", result)]).increment(1);
        self.experiments_refused(result != "loaded");
    }

    /// Shows whether something stands in the file that is not in force.
    pub fn experiments_refused(&self, is_refused: bool) {
        self.set("newshound_experiments_file_refused", f64::from(u8::from(is_refused)));
    }

    /// Shows how many experiments are on.
    pub fn experiments_enabled(&self, n: usize) {
        self.set("newshound_experiments_enabled", size(n));
    }

    /// Counts lines for the log: `written`, `dropped` or `failed`.
    pub fn records(&self, result: &'static str, n: u64) {
        self.counter("newshound_records_total", &[("result", result)]).increment(n);
    }

    /// Counts reports of outcomes: `recorded`, `duplicate` or `refused`.
    pub fn feedback_report(&self, result: &'static str, n: u64) {
        self.counter("newshound_feedback_reports_total", &[("result", result)]).increment(n);
    }

    /// Counts how a request under an arm ended. `by`: why it has that arm.
    pub fn arm_request(&self, arm: (&str, &str), by: &'static str, outcome: Outcome) {
        self.arm_counter(ASSIGNMENTS, arm, Some(("by", by)), 1);
        self.arm_counter("newshound_arm_outcomes_total", arm, Some(("outcome", outcome.word())), 1);
    }

    /// Counts the chance that an arm had of a request that came to one of its experiment's arms by hash.
    pub fn arm_expected(&self, arm: (&str, &str), chance: f64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
        let micros = (chance * 1e6).round() as u64;
        self.arm_counter("newshound_arm_expected_micros_total", arm, None, micros);
        // An arm that gets nothing is to be seen beside what it should get.
        self.arm_counter(ASSIGNMENTS, arm, Some(("by", By::Hash.word())), 0);
    }

    /// Counts an answer under an arm that fell short of what was asked, by the word of its rung.
    pub fn arm_degraded(&self, arm: (&str, &str), rung: &'static str) {
        self.arm_counter("newshound_arm_degraded_total", arm, Some(("rung", rung)), 1);
    }

    /// Records an answer under an arm: its time, and the predicted reward of its list where there is a head.
    pub fn arm_answered(&self, arm: (&str, &str), took: Duration, score: Option<f32>) {
        self.arm_record("newshound_arm_duration_seconds", arm, took.as_secs_f64());
        if let Some(score) = score {
            self.arm_record("newshound_arm_best_list_score", arm, f64::from(score));
        }
    }

    /// Counts candidates of a generation under an arm by fate: `valid`, `invalid` or `pruned`.
    pub fn arm_candidates(&self, arm: (&str, &str), fate: &'static str, n: usize) {
        self.arm_counter("newshound_arm_candidates_total", arm, Some(("fate", fate)), n as u64);
    }

    /// Records what was generated under an arm: when its first valid list came, and what the head says more of the chosen one than of the first candidate.
    pub fn arm_generated(&self, arm: (&str, &str), first: Duration, gain: Option<f32>) {
        self.arm_record("newshound_arm_first_candidate_seconds", arm, first.as_secs_f64());
        if let Some(gain) = gain {
            self.arm_record("newshound_arm_score_gain", arm, f64::from(gain));
        }
    }

    /// Counts the tokens that were sampled for an answer under an arm.
    pub fn arm_output_tokens(&self, arm: (&str, &str), n: usize) {
        self.arm_counter("newshound_arm_output_tokens_total", arm, None, n as u64);
    }

    /// Counts what a generation under an arm cost, in billionths of the currency's unit.
    pub fn arm_cost(&self, arm: (&str, &str), nanos: u64) {
        self.arm_counter("newshound_arm_cost_nanos_total", arm, None, nanos);
    }

    /// Counts a reported event of an answer under an arm.
    pub fn arm_event(&self, arm: (&str, &str), event: &'static str) {
        self.arm_counter("newshound_arm_events_total", arm, Some(("event", event)), 1);
    }

    pub(super) fn arm_counter(
        &self,
        name: &'static str,
        arm: (&str, &str),
        label: Option<(&'static str, &'static str)>,
        n: u64,
    ) {
        let mut labels = self.arm_labels(arm);
        labels.extend(label.map(|(name, value)| Label::from_static_parts(name, value)));
        let counter = self.recorder.register_counter(&key(name, labels), &super::METADATA);
        counter.increment(n);
    }

    fn arm_record(&self, name: &'static str, arm: (&str, &str), value: f64) {
        let labels = self.arm_labels(arm);
        self.recorder.register_histogram(&key(name, labels), &super::METADATA).record(value);
    }

    fn arm_labels(&self, arm: (&str, &str)) -> Vec<Label> {
        let (experiment, arm) = self.arm_named(arm);
        vec![Label::new("experiment", experiment), Label::new("arm", arm)]
    }

    /// What the labels of an arm say: itself, or that it is one of those which came too late to have their own.
    pub(super) fn arm_named(&self, (experiment, arm): (&str, &str)) -> (String, String) {
        let pair = (experiment.to_owned(), arm.to_owned());
        let other = || (OTHER.to_owned(), OTHER.to_owned());
        let mut arms = self.arms.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = pair == other()
            || arms.contains(&pair)
            || (arms.len() < ARM_LABELS_MAX && arms.insert(pair.clone()));
        if is_known { pair } else { other() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Everything that can happen under an arm, once.
    pub(in super::super) fn busy(metrics: &Metrics) {
        let arm = ("best-of", "sixteen");
        metrics.arm_request(arm, "hash", Outcome::Ok);
        metrics.arm_expected(arm, 0.5);
        metrics.arm_degraded(arm, "greedy");
        metrics.arm_answered(arm, Duration::from_secs(1), Some(0.5));
        metrics.arm_reader(arm, b"reader");
        metrics.arm_candidates(arm, "valid", 8);
        metrics.arm_generated(arm, Duration::from_secs(1), Some(0.1));
        metrics.arm_output_tokens(arm, 10);
        metrics.arm_cost(arm, 10);
        metrics.arm_event(arm, "clicked");
    }

    #[test]
    fn two_experiments_of_four_arms_have_hundreds_of_series_however_much_happens() {
        let metrics = Metrics::new().unwrap();
        for (experiment, arm) in ["x", "y"].into_iter().flat_map(|x| ["a", "b", "c", "d"].map(|arm| (x, arm)))
        {
            for by in ["hash", "rule", "default", "forced"] {
                for outcome in Outcome::ALL {
                    metrics.arm_request((experiment, arm), by, outcome);
                }
            }
            for event in ["retrieved", "shown", "clicked", "dwell", "dismissed"] {
                metrics.arm_event((experiment, arm), event);
            }
            metrics.arm_answered((experiment, arm), Duration::from_secs(1), Some(0.5));
            metrics.arm_expected((experiment, arm), 0.25);
            for rung in ["fewer", "greedy", "stale", "cohort"] {
                metrics.arm_degraded((experiment, arm), rung);
            }
            metrics.arm_reader((experiment, arm), b"reader");
            for fate in ["valid", "invalid", "pruned"] {
                metrics.arm_candidates((experiment, arm), fate, 1);
            }
            metrics.arm_generated((experiment, arm), Duration::from_secs(1), Some(0.1));
            metrics.arm_output_tokens((experiment, arm), 1);
            metrics.arm_cost((experiment, arm), 1);
        }
        let text = metrics.render();
        let n_series = text.lines().filter(|line| line.starts_with("newshound_arm_")).count();
        assert!((300..1000).contains(&n_series), "{n_series}");
    }

    #[test]
    fn what_arms_are_expected_to_get_is_their_share_of_every_draw() {
        let metrics = Metrics::new().unwrap();
        // Half of them each, and then a tenth for b, which gets none of either.
        for (chances, n_requests) in [([0.5, 0.5], 30), ([0.9, 0.1], 1000)] {
            for _ in 0..n_requests {
                metrics.arm_request(("x", "a"), "hash", Outcome::Ok);
                for (arm, chance) in ["a", "b"].into_iter().zip(chances) {
                    metrics.arm_expected(("x", arm), chance);
                }
            }
        }
        let text = metrics.render();
        let check = |metric: &str, arm: &str, value: u64| {
            let by = if metric == ASSIGNMENTS { ",by=\"hash\"" } else { "" };
            let line = format!("{metric}{{experiment=\"x\",arm=\"{arm}\"{by}}} {value}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        };
        check(ASSIGNMENTS, "a", 1030);
        check(ASSIGNMENTS, "b", 0);
        check("newshound_arm_expected_micros_total", "a", 915_000_000);
        check("newshound_arm_expected_micros_total", "b", 115_000_000);
    }

    #[test]
    fn arms_beyond_the_limit_share_their_series() {
        let metrics = Metrics::new().unwrap();
        for number in 0..3 * ARM_LABELS_MAX {
            metrics.arm_request(("x", &format!("arm{number}")), "hash", Outcome::Ok);
        }
        metrics.arm_request(("x", "arm0"), "hash", Outcome::Ok);
        let text = metrics.render();
        let series = |start: &str| text.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
        assert_eq!(series("newshound_arm_assignments_total{").len(), ARM_LABELS_MAX + 1);
        let other = series("newshound_arm_assignments_total{experiment=\"other\",arm=\"other\",by=\"hash\"}");
        assert!(other[0].ends_with(&format!(" {}", 2 * ARM_LABELS_MAX)), "{other:?}");
        assert!(
            text.contains("newshound_arm_assignments_total{experiment=\"x\",arm=\"arm0\",by=\"hash\"} 2")
        );
    }
}
