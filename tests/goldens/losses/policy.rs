//! Policy losses of every case: value, gradient with respect to the logits, measures; and the cut into micro-batches.
use super::{Positions, assert_gradient, assert_number, cases, flat, gradient, name};
use candle_core::{Device, Tensor, Var};
use newshound::{
    model::ops::{entropies, token_logprobs},
    train::losses::{
        StepTotals,
        dr_grpo::{
            Aggregation, ImportanceWeights, Outside, PolicyBatch, PolicyLoss, PolicySettings, RatioLevel,
            of_rows, policy_loss,
        },
        policy_metrics::PolicyMetrics,
    },
};
use serde_json::Value;
use std::ops::Range;

/// One case without its padding.
struct Case {
    name: String,
    expected: Value,
    settings: PolicySettings,
    positions: Positions,
    logits: Var,
    ids: Vec<u32>,
    advantages: Vec<f32>,
    old: Vec<f32>,
    reference: Vec<f32>,
    sampler: Vec<f32>,
    tensor_weights: Option<Vec<f32>>,
}

fn settings(config: &Value) -> PolicySettings {
    let known = [
        "beta",
        "entropy_coef",
        "epsilon_high",
        "epsilon_low",
        "group_size",
        "importance_sampling_level",
        "loss_type",
        "max_completion_length",
        "temperature",
        "tis",
        "top_entropy_quantile",
    ];
    let unknown = config.as_object().unwrap().keys().find(|key| !known.contains(&key.as_str()));
    assert_eq!(unknown, None, "a setting that is not checked");
    assert!(config["top_entropy_quantile"].as_f64().is_none_or(|quantile| quantile >= 1.0));
    let number = |key: &str, default: f64| config.get(key).and_then(Value::as_f64).unwrap_or(default);
    let epsilon_low = number("epsilon_low", 0.2);
    let max_completion_tokens = config["max_completion_length"].as_u64().unwrap() as usize;
    PolicySettings {
        temperature: number("temperature", 1.0),
        epsilon_low,
        epsilon_high: number("epsilon_high", epsilon_low),
        ratio: match config.get("importance_sampling_level").and_then(Value::as_str) {
            None | Some("token") => RatioLevel::Token,
            Some("sequence") => RatioLevel::Sequence,
            Some(unknown) => panic!("{unknown} is not checked"),
        },
        aggregation: match config["loss_type"].as_str().unwrap() {
            "dr_grpo" => Aggregation::DrGrpo { max_completion_tokens },
            "grpo" => Aggregation::Grpo,
            "dapo" => Aggregation::Dapo,
            unknown => panic!("{unknown} is not checked"),
        },
        beta: number("beta", 0.0),
        entropy_coef: number("entropy_coef", 0.0),
        importance: config["tis"].as_array().map(|tis| ImportanceWeights {
            min: tis[2].as_f64().unwrap_or(0.0),
            max: tis[1].as_f64().unwrap_or(f64::INFINITY),
            outside: match tis[0].as_str().unwrap() {
                "token_truncate" => Outside::Truncate,
                "token_mask" => Outside::Mask,
                unknown => panic!("{unknown} is not checked"),
            },
        }),
    }
}

impl Case {
    fn read(case: &Value) -> Self {
        let positions = Positions::of(case);
        let weights = &case["importance_sampling_ratio"];
        Self {
            name: name(case).to_owned(),
            expected: case["expected"].clone(),
            settings: settings(&case["config"]),
            logits: positions.logits(&case["logits"]),
            ids: positions.ids(&case["completion_ids"], 1),
            advantages: of_rows(&positions.row_lengths, &flat(&case["advantages"])),
            old: positions.values(&case["old_logprobs"]),
            reference: positions.values(&case["ref_logprobs"]),
            sampler: positions.values(&case["sampler_logprobs"]),
            tensor_weights: weights.is_array().then(|| positions.values(weights)),
            positions,
        }
    }

    fn totals(&self) -> StepTotals {
        StepTotals { n_rows: self.positions.row_lengths.len(), n_tokens: self.ids.len() }
    }

    /// The share of a range of rows.
    fn share(&self, rows: Range<usize>) -> PolicyLoss {
        let lengths = &self.positions.row_lengths;
        let start: usize = lengths[..rows.start].iter().sum();
        let tokens = start..start + lengths[rows.clone()].iter().sum::<usize>();
        let batch = PolicyBatch {
            ids: &self.ids[tokens.clone()],
            row_lengths: &lengths[rows.clone()],
            advantages: &self.advantages[tokens.clone()],
            old_logprobs: &self.old[tokens.clone()],
            ref_logprobs: Some(&self.reference[tokens.clone()]),
            sampler_logprobs: Some(&self.sampler[tokens.clone()]),
        };
        let logits = self.logits.narrow(0, tokens.start, tokens.len()).unwrap();
        policy_loss(&self.settings, self.totals(), &logits, &batch).unwrap()
    }

    fn check_metrics(&self, metrics: &PolicyMetrics) {
        let expected = &self.expected["metrics_trl"];
        let clipped = metrics.clip_ratios();
        let [k1, k2, k3] = metrics.reference_kl().means();
        let mut pairs = vec![
            ("clip_ratio/low_mean", clipped.low_mean),
            ("clip_ratio/high_mean", clipped.high_mean),
            ("clip_ratio/region_mean", clipped.region_mean),
            ("clip_ratio/low_min", clipped.low_min),
            ("clip_ratio/high_max", clipped.high_max),
            ("entropy", metrics.entropy()),
        ];
        if expected.get("kl").is_some() {
            pairs.push(("kl", k3));
        }
        for (metric, got) in pairs {
            assert_number(got, &expected[metric], &format!("{} {metric}", self.name));
        }
        for (metric, got) in [("k1", k1), ("k2", k2), ("k3", k3)] {
            let expected = &self.expected["kl_to_ref_token_mean"][metric];
            assert_number(got, expected, &format!("{} {metric}", self.name));
        }
        assert_number(metrics.approx_kl_old(), &self.expected["approx_kl_old"], &self.name);
    }
}

fn read_cases() -> Vec<Case> {
    cases("policy_loss.json").iter().map(Case::read).collect()
}

#[test]
fn golden_policy_losses_agree_in_value_gradient_and_metrics() {
    for case in read_cases() {
        let share = case.share(0..case.positions.row_lengths.len());
        let loss = f64::from(share.loss.to_scalar::<f32>().unwrap());
        assert_number(loss, &case.expected["loss"], &case.name);
        let expected = case.positions.gradient(&case.expected["grad_logits"]);
        assert_gradient(&gradient(&share.loss, &case.logits), &expected, &case.name);
        case.check_metrics(&share.metrics);
    }
}

#[test]
fn golden_logprobs_and_entropies_are_those_of_tempered_logits() {
    for case in read_cases() {
        let ids = Tensor::new(case.ids.as_slice(), &Device::Cpu).unwrap();
        let temperature = case.settings.temperature;
        let check = |got: Tensor, key: &str| {
            let expected = case.positions.values(&case.expected[key]);
            crate::support::goldens::assert_close(
                &got.to_vec1::<f32>().unwrap(),
                &expected,
                1e-4,
                &case.name,
            );
        };
        check(token_logprobs(&case.logits, &ids, temperature).unwrap(), "logprobs");
        check(entropies(&case.logits, temperature).unwrap(), "entropy_per_token");
    }
}

/// The weights are computed inside of the loss; those of the reference are made from the same log-probabilities.
#[test]
fn golden_importance_weights_are_truncated_ratios_of_old_and_sampler() {
    let with_weights: Vec<Case> =
        read_cases().into_iter().filter(|case| case.tensor_weights.is_some()).collect();
    assert!(!with_weights.is_empty());
    for case in with_weights {
        let max = case.settings.importance.unwrap().max as f32;
        let weights = case.old.iter().zip(&case.sampler).map(|(old, sampler)| (old - sampler).exp().min(max));
        let expected = case.tensor_weights.as_ref().unwrap();
        crate::support::goldens::assert_close(&weights.collect::<Vec<_>>(), expected, 1e-5, &case.name);
        let differences = case.old.iter().zip(&case.sampler).map(|(old, sampler)| (old - sampler).abs());
        let metrics = case.share(0..case.positions.row_lengths.len()).metrics;
        let largest = differences.fold(0.0, f32::max);
        assert!((metrics.sampler_difference_max() - f64::from(largest)).abs() < 1e-6);
    }
}

/// Cutting a step into micro-batches changes neither loss, gradient nor metrics, whatever the settings.
#[test]
fn gradient_is_independent_of_the_split_into_micro_batches() {
    for mut case in read_cases() {
        let mask = ImportanceWeights { min: 0.5, max: 1.5, outside: Outside::Mask };
        for aggregation in
            [case.settings.aggregation, Aggregation::Grpo, Aggregation::Dapo, dr_grpo(16), dr_grpo(300)]
        {
            for (ratio, importance) in [(RatioLevel::Token, Some(mask)), (RatioLevel::Sequence, None)] {
                let settings = PolicySettings { aggregation, ratio, importance, ..case.settings };
                case.settings = PolicySettings { beta: 0.1, entropy_coef: 0.02, ..settings };
                check_split(&case);
            }
        }
    }
}

fn dr_grpo(max_completion_tokens: usize) -> Aggregation {
    Aggregation::DrGrpo { max_completion_tokens }
}

fn check_split(case: &Case) {
    let n_rows = case.positions.row_lengths.len();
    let whole = case.share(0..n_rows);
    let expected = gradient(&whole.loss, &case.logits);
    for rows_each in [2, 3] {
        let starts = (0..n_rows).step_by(rows_each);
        let shares: Vec<PolicyLoss> =
            starts.map(|start| case.share(start..(start + rows_each).min(n_rows))).collect();
        let mut sum = vec![0.0; expected.len()];
        for share in &shares {
            let part = gradient(&share.loss, &case.logits);
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        crate::support::goldens::assert_close(&sum, &expected, 1e-5 * largest, &case.name);
        let metrics = shares.iter().map(|share| share.metrics).reduce(PolicyMetrics::plus).unwrap();
        assert_eq!(metrics.clip_ratios(), whole.metrics.clip_ratios());
        assert!((metrics.entropy() - whole.metrics.entropy()).abs() < 1e-6);
        assert!((metrics.approx_kl_old() - whole.metrics.approx_kl_old()).abs() < 1e-6);
    }
}

/// A weight outside of its limits is cut where it is truncated, and its token is silent where it is masked.
#[test]
fn masked_token_has_no_gradient_and_a_truncated_one_has_the_limit() {
    let case = &read_cases()[0];
    let gradient_of = |outside, sampler: f32| {
        let importance = Some(ImportanceWeights { min: 0.5, max: 2.0, outside });
        let settings = PolicySettings { importance, ..case.settings };
        let old = [case.old[0]];
        let sampler = [old[0] - sampler];
        let batch = PolicyBatch {
            ids: &case.ids[..1],
            row_lengths: &[1],
            advantages: &[1.0],
            old_logprobs: &old,
            ref_logprobs: None,
            sampler_logprobs: Some(&sampler),
        };
        let logits = case.logits.narrow(0, 0, 1).unwrap();
        let share = policy_loss(&settings, case.totals(), &logits, &batch).unwrap();
        gradient(&share.loss, &case.logits).iter().map(|value| value.abs()).sum::<f32>()
    };
    let plain = gradient_of(Outside::Truncate, 0.0);
    let close = |got: f32, expected: f32| assert!((got - expected).abs() < 1e-5 * plain, "{got}, {expected}");
    close(gradient_of(Outside::Truncate, 2.0_f32.ln() + 0.1), 2.0 * plain);
    close(gradient_of(Outside::Truncate, 0.5_f32.ln() - 0.1), 0.5 * plain);
    close(gradient_of(Outside::Mask, 2.0_f32.ln() + 0.1), 0.0);
    close(gradient_of(Outside::Mask, 0.5_f32.ln() - 0.1), 0.0);
    close(gradient_of(Outside::Mask, 1.9_f32.ln()), 1.9 * plain);
}

/// A ratio that overflows must not turn every parameter into NaN.
#[test]
fn token_that_became_much_likelier_has_a_finite_gradient() {
    let case = &read_cases()[0];
    for advantage in [1.0, -1.0] {
        let batch = PolicyBatch {
            ids: &case.ids[..1],
            row_lengths: &[1],
            advantages: &[advantage],
            old_logprobs: &[-200.0],
            ref_logprobs: Some(&[-200.0]),
            sampler_logprobs: None,
        };
        let settings = PolicySettings { beta: 0.1, ..case.settings };
        let logits = case.logits.narrow(0, 0, 1).unwrap();
        let share = policy_loss(&settings, case.totals(), &logits, &batch).unwrap();
        assert!(gradient(&share.loss, &case.logits).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn batch_that_lacks_what_the_settings_need_is_refused() {
    let case = &read_cases()[0];
    let full = PolicyBatch {
        ids: &case.ids[..1],
        row_lengths: &[1],
        advantages: &[1.0],
        old_logprobs: &case.old[..1],
        ref_logprobs: Some(&case.reference[..1]),
        sampler_logprobs: Some(&case.sampler[..1]),
    };
    let importance = Some(ImportanceWeights { min: 0.0, max: 2.0, outside: Outside::Truncate });
    let settings = PolicySettings { beta: 0.1, importance, ..case.settings };
    let logits = case.logits.narrow(0, 0, 1).unwrap();
    let refused = |batch: PolicyBatch<'_>| policy_loss(&settings, case.totals(), &logits, &batch).is_err();
    assert!(!refused(full));
    assert!(refused(PolicyBatch { ref_logprobs: None, ..full }));
    assert!(refused(PolicyBatch { sampler_logprobs: None, ..full }));
    assert!(refused(PolicyBatch { old_logprobs: &[], ..full }));
    assert!(refused(PolicyBatch { advantages: &[], ..full }));
    assert!(refused(PolicyBatch { row_lengths: &[2], ..full }));
    assert!(refused(PolicyBatch { ids: &[], row_lengths: &[0], ..full }));
    let refused = |settings: PolicySettings, totals| policy_loss(&settings, totals, &logits, &full).is_err();
    let (one, none) = (StepTotals { n_rows: 1, n_tokens: 1 }, StepTotals { n_rows: 0, n_tokens: 1 });
    assert!(!refused(settings, one) && refused(settings, none));
    assert!(!refused(PolicySettings { aggregation: dr_grpo(1), ..settings }, one));
    assert!(refused(PolicySettings { aggregation: dr_grpo(0), ..settings }, one));
    assert!(refused(PolicySettings { entropy_coef: -0.1, ..settings }, one));
    assert!(refused(PolicySettings { temperature: 0.0, ..settings }, one));
}
