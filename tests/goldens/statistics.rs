//! Goldens of comparisons: tests, intervals and corrections, as scipy and statsmodels have them.
use crate::support::goldens::{json, root};
use newshound::experiment::statistics::{
    Interval,
    many::Correction,
    means::{Moments, cuped, paired, percentile_interval, ratio, resampled, theta, welch},
    proportions::{Share, sample_ratio, sample_size, two_proportions},
    ranks::mann_whitney,
};
use serde_json::Value;

const TOLERANCE: f64 = 1e-6;
/// Values that are 0 in one of the two ways of computing them.
const ZERO: f64 = 1e-12;

fn close(got: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: {expected} is no number"));
    assert!(
        (got - expected).abs() <= TOLERANCE * expected.abs() + ZERO,
        "{what}: {got}, expected {expected}"
    );
}

fn close_interval(got: Interval, expected: &Value, what: &str) {
    close(got.low, &expected[0], &format!("{what}, low"));
    close(got.high, &expected[1], &format!("{what}, high"));
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Cases of one kind: at least one.
fn cases(kind: &str) -> Vec<Value> {
    let golden = json(&root().join("metrics/statistics.json"));
    let cases = golden[kind].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

#[test]
fn golden_statistics_are_all_checked() {
    let golden = json(&root().join("metrics/statistics.json"));
    let mut kinds: Vec<_> = golden.as_object().unwrap().keys().filter(|kind| *kind != "made_with").collect();
    kinds.sort();
    let checked = [
        "bootstrap_fixed_resamples",
        "cuped",
        "mann_whitney",
        "multiple_testing",
        "paired",
        "ratio_delta_method",
        "sample_size",
        "srm",
        "two_proportion",
        "welch",
    ];
    assert_eq!(kinds, checked);
}

#[test]
fn golden_means_are_compared_as_by_the_reference() {
    for case in cases("welch") {
        let (control, treatment) = (numbers(&case["control"]), numbers(&case["treatment"]));
        let got = welch(Moments::of(&control), Moments::of(&treatment)).unwrap();
        close(got.t, &case["t"], "welch t");
        close(got.degrees, &case["df"], "welch degrees");
        close(got.comparison.p, &case["p_two_sided"], "welch p");
        close_interval(got.comparison.interval, &case["ci95_of_difference"], "welch interval");
    }
    for case in cases("paired") {
        let got = paired(&numbers(&case["control"]), &numbers(&case["treatment"])).unwrap();
        close(got.t, &case["t"], "paired t");
        close(got.comparison.p, &case["p_two_sided"], "paired p");
    }
}

#[test]
fn golden_ranks_are_compared_as_by_the_reference() {
    for case in cases("mann_whitney") {
        let got = mann_whitney(&numbers(&case["control"]), &numbers(&case["treatment"])).unwrap();
        close(got.u, &case["u"], "u");
        close(got.p, &case["p_two_sided_asymptotic_continuity"], "mann-whitney p");
    }
}

#[test]
fn golden_shares_are_compared_as_by_the_reference() {
    for case in cases("two_proportion") {
        let share = |name: &str| {
            let pair: [u64; 2] = serde_json::from_value(case[name].clone()).unwrap();
            Share { n: pair[0], of: pair[1] }
        };
        let got = two_proportions(share("control"), share("treatment"));
        close(got.z, &case["z_pooled"], "z");
        close(got.p, &case["p_two_sided"], "two-proportion p");
        close_interval(got.newcombe, &case["newcombe_ci95"], "newcombe");
        close_interval(got.wald, &case["wald_ci95"], "wald");
        close_interval(share("control").wilson(), &case["wilson_ci95_control"], "wilson");
        match got.relative_lift {
            Some(lift) => close(lift, &case["relative_lift"], "lift"),
            None => assert!(case["relative_lift"].is_null()),
        }
    }
}

#[test]
fn golden_sample_ratios_alarm_as_by_the_reference() {
    for case in cases("srm") {
        let (observed, weights) = (numbers(&case["observed"]), numbers(&case["ratio"]));
        let scale = observed.iter().sum::<f64>() / weights.iter().sum::<f64>();
        let expected: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
        expected
            .iter()
            .zip(case["expected"].as_array().unwrap())
            .for_each(|(got, e)| close(*got, e, "expected"));
        let got = sample_ratio(&observed, &expected).unwrap();
        close(got.chi_square, &case["chi2"], "chi-square");
        close(got.p, &case["p"], "chi-square p");
        assert_eq!(got.degrees as u64, case["df"].as_u64().unwrap());
        assert_eq!(got.is_alarming(), case["flag_p_below_0.001"].as_bool().unwrap());
    }
}

#[test]
fn golden_corrections_and_sizes_are_those_of_the_reference() {
    for case in cases("multiple_testing") {
        for (name, correction) in [
            ("holm", Correction::Holm),
            ("fdr_bh", Correction::BenjaminiHochberg),
            ("bonferroni", Correction::Bonferroni),
        ] {
            let got = correction.of(&numbers(&case["p"]));
            let expected = case[name].as_array().unwrap();
            assert_eq!(got.len(), expected.len());
            got.iter().zip(expected).for_each(|(got, expected)| close(*got, expected, name));
        }
    }
    for case in cases("sample_size") {
        let number = |name: &str| case[name].as_f64().unwrap();
        assert_eq!(number("alpha"), newshound::experiment::statistics::ALPHA);
        let got = sample_size(number("base_rate"), number("relative_lift"), number("power")).unwrap();
        close(got, &case["n_per_arm"], "sample size");
    }
}

#[test]
fn golden_ratios_and_adjusted_means_are_those_of_the_reference() {
    for case in cases("ratio_delta_method") {
        let (clicks, shown) = (numbers(&case["clicks_per_user"]), numbers(&case["impressions_per_user"]));
        let (got, variance) = ratio(&clicks, &shown).unwrap();
        close(got, &case["ratio"], "ratio");
        close(variance, &case["variance_of_ratio"], "variance of a ratio");
    }
    for case in cases("cuped") {
        let (before, values) = (numbers(&case["pre"]), numbers(&case["post"]));
        let slope = theta(&before, &values).unwrap();
        close(slope, &case["theta"], "theta");
        let adjusted = Moments::of(&cuped(&before, &values, slope, Moments::of(&before).mean));
        close(adjusted.mean, &case["adjusted_mean"], "adjusted mean");
        close(adjusted.variance, &case["adjusted_var_ddof1"], "adjusted variance");
    }
}

#[test]
fn golden_resamples_have_the_interval_of_the_reference() {
    for case in cases("bootstrap_fixed_resamples") {
        let idxs = |name: &str| -> Vec<Vec<usize>> { serde_json::from_value(case[name].clone()).unwrap() };
        let resamples = idxs("resample_idx_control").into_iter().zip(idxs("resample_idx_treatment"));
        let differences = resampled(&numbers(&case["control"]), &numbers(&case["treatment"]), resamples);
        for (got, expected) in differences.iter().zip(case["diff_of_means_first5"].as_array().unwrap()) {
            close(*got, expected, "difference of a resample");
        }
        let spread = Moments::of(&differences).variance.sqrt();
        close(spread, &case["std_error_ddof1"], "standard error of resamples");
        close_interval(
            percentile_interval(differences).unwrap(),
            &case["percentile_ci95_linear"],
            "percentiles",
        );
    }
}
