//! However many readers take part in experiments, metrics have few series.
use super::{read, spreading};
use crate::rpc::server::few_or;
use newshound::{
    experiment::{
        assign::{assigned, decide},
        targeting::Subject,
    },
    serve::metrics::{Metrics, outcome::Outcome},
};
use serde_json::json;
use std::time::Duration;

/// Most series of one server that are no burden to who scrapes it.
const SERIES_MAX: usize = 5000;
/// After so many readers what histograms hold is folded, as a server does every few seconds.
const UPKEEP: usize = 10_000;

#[test]
fn readers_without_number_under_two_experiments_of_four_arms_leave_few_series() {
    let spread = spreading(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)], &json!({}));
    let experiments = read(json!({"newshound.x": spread, "newshound.y": spread}));
    let metrics = Metrics::new().unwrap();
    let n_readers = few_or(50_000, 1_000_000);
    let took = Duration::from_millis(20);
    for (number, outcome) in (0..n_readers).zip(Outcome::ALL.into_iter().cycle()) {
        let key = format!("reader-{number}");
        let subject = Subject { key: &key, locale: None, tier: None, tenant: None };
        metrics.outcome(outcome);
        metrics.rpc_ended("GenerateQueries", "OK", took);
        for assignment in assigned(decide(&experiments, &subject, &[]).unwrap()) {
            let arm = (assignment.experiment.id.as_str(), assignment.arm().id.as_str());
            metrics.arm_request(arm, assignment.by.word(), outcome);
            metrics.arm_answered(arm, took, Some(0.5));
            metrics.arm_event(arm, "clicked");
        }
        if number % UPKEEP == 0 {
            metrics.upkeep();
        }
    }
    let text = metrics.render();
    for experiment in ["x", "y"] {
        let start = format!("newshound_arm_assignments_total{{experiment=\"{experiment}\"");
        let counts = text.lines().filter(|line| line.starts_with(&start));
        let counts: Vec<usize> =
            counts.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().sum()), (4, n_readers), "every reader has one of four arms");
    }
    let n_series = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    assert!(n_series < SERIES_MAX, "{n_series}");
    assert!(!text.contains("reader-"));
}
