//! Group advantages of every case, and the measures of its rewards.
use super::{assert_number, cases, name};
use crate::support::goldens;
use newshound::train::losses::advantages::{
    AdvantageSettings, Scale, Spread, group_advantages, reward_metrics,
};
use serde_json::Value;

fn rewards(case: &Value) -> Vec<Vec<Option<f32>>> {
    let reward = |value: &Value| (!value.is_null()).then(|| goldens::f32_of(value));
    let row = |row: &Value| row.as_array().unwrap().iter().map(reward).collect();
    case["rewards"].as_array().unwrap().iter().map(row).collect()
}

fn weights(case: &Value) -> Vec<f64> {
    case["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).collect()
}

fn settings<'a>(case: &Value, weights: &'a [f64]) -> AdvantageSettings<'a> {
    let scale = match (case["aggregation"].as_str().unwrap(), case["scale_rewards"].as_str().unwrap()) {
        ("sum_then_normalize", "none") => Scale::None,
        ("sum_then_normalize", "group") => Scale::Group,
        ("sum_then_normalize", "batch") => Scale::Batch,
        ("normalize_then_sum", _) => Scale::Components,
        unknown => panic!("{unknown:?} is not checked"),
    };
    let group_size = usize::try_from(case["group_size"].as_u64().unwrap()).unwrap();
    AdvantageSettings { group_size, weights, scale }
}

#[test]
fn golden_group_advantages_are_those_of_the_reference() {
    for case in cases("group_advantages.json") {
        let (rewards, weights) = (rewards(&case), weights(&case));
        let settings = settings(&case, &weights);
        let got = group_advantages(&settings, &rewards).unwrap();
        let expected = case["expected"]["advantages"].as_array().unwrap();
        assert_eq!(got.len(), expected.len());
        for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert_number(f64::from(*got), expected, &format!("{} row {idx}", name(&case)));
        }
        check_metrics(&case, &settings, &rewards);
    }
}

fn check_metrics(case: &Value, settings: &AdvantageSettings<'_>, rewards: &[Vec<Option<f32>>]) {
    let got = reward_metrics(settings, rewards).unwrap();
    let expected = &case["expected"]["metrics_trl"];
    let check = |spread: Spread, mean: &str, std: &str| {
        assert_number(spread.mean, &expected[mean], &format!("{} {mean}", name(case)));
        assert_number(spread.std, &expected[std], &format!("{} {std}", name(case)));
    };
    check(got.reward, "reward", "reward_std");
    let names = case["reward_names"].as_array().unwrap();
    assert_eq!(got.components.len(), names.len());
    for (spread, component) in got.components.iter().zip(names) {
        let component = component.as_str().unwrap();
        check(*spread, &format!("rewards/{component}/mean"), &format!("rewards/{component}/std"));
    }
    // The reference asks the whole batch where it divides by the batch's deviation; groups teach nothing all the same.
    if matches!(settings.scale, Scale::None | Scale::Group) {
        assert_number(got.frac_zero_std, &expected["frac_reward_zero_std"], name(case));
    }
}

#[test]
fn row_without_a_value_moves_no_other_row() {
    let weights = [1.0, 1.0];
    let settings = |group_size| AdvantageSettings { group_size, weights: &weights, scale: Scale::None };
    let with = [vec![Some(1.0), None], vec![None, None], vec![Some(0.5), Some(1.0)]];
    let without = [with[0].clone(), with[2].clone()];
    let with = group_advantages(&settings(3), &with).unwrap();
    let without = group_advantages(&settings(2), &without).unwrap();
    assert_eq!(with, [without[0], 0.0, without[1]]);
    assert_eq!(without, [-0.25, 0.25]);
}

#[test]
fn rewards_that_do_not_fit_are_refused() {
    let weights = [1.0];
    let refused = |group_size, rewards: &[Vec<Option<f32>>]| {
        let settings = AdvantageSettings { group_size, weights: &weights, scale: Scale::None };
        group_advantages(&settings, rewards).is_err() && reward_metrics(&settings, rewards).is_err()
    };
    let row = vec![Some(1.0)];
    assert!(!refused(2, &[row.clone(), row.clone()]));
    assert!(refused(2, std::slice::from_ref(&row)));
    assert!(refused(0, std::slice::from_ref(&row)));
    assert!(refused(1, &[vec![Some(1.0), None]]));
    assert!(refused(1, &[vec![Some(f32::NAN)]]));
}
