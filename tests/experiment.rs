//! Arms of readers: as computed by others, independent, and where they were when weights change.
mod report;
mod series;

use crate::support::goldens::json;
use newshound::experiment::{
    assign::{By, Decision, ForceError, Forced, assigned, decide, policy},
    flags::Experiments,
    policy::{Bounds, Head},
    targeting::Subject,
};
use proptest::{prop_assert, proptest};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// Readers of the statistical tests, and the fixed seed of their keys is their number.
const N_READERS: usize = 20_000;

fn bounds() -> Bounds {
    Bounds {
        candidate_counts: 1..=32,
        query_counts: 3..=8,
        temperatures: 0.0..=2.0,
        cache_ttls_ms: 1..=86_400_000,
        cache_stales_ms: 0..=86_400_000,
        head: Head::Absent,
        bundles: Default::default(),
    }
}

fn read(flags: Value) -> Experiments {
    let file = json!({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": flags});
    Experiments::read(file.to_string().as_bytes(), "experiments.json", &bounds()).unwrap()
}

/// A flag that spreads readers over arms (name, weight), with metadata.
fn spreading(arms: &[(&str, u64)], metadata: &Value) -> Value {
    let variants: BTreeMap<_, _> = arms.iter().map(|(name, _)| (*name, json!({}))).collect();
    json!({"state": "ENABLED", "variants": variants, "targeting": {"fractional": arms}, "metadata": metadata})
}

/// Names of one reader's arms, in the order of the experiments.
fn arms_of(experiments: &Experiments, key: &str) -> Vec<String> {
    let decided = decide(experiments, &Subject { key, ..Subject::default() }, &[]).unwrap();
    assigned(decided).iter().map(|assignment| assignment.arm().id.clone()).collect()
}

/// What an arm gets of many readers is what their chances add up to, within four standard deviations.
#[test]
fn chances_of_arms_are_what_the_weights_say_and_what_readers_get() {
    for weights in [[50, 50], [90, 10]] {
        let flag = spreading(&[("a", weights[0]), ("b", weights[1])], &json!({"allow_forced_arm": true}));
        let experiments = read(json!({"newshound.x": flag}));
        let (mut got, mut expected) = (0.0, 0.0);
        for number in 0..N_READERS {
            let key = number.to_string();
            let subject = Subject { key: &key, ..Subject::default() };
            let assignment = assigned(decide(&experiments, &subject, &[]).unwrap()).remove(0);
            let chances: Vec<_> =
                assignment.chances().map(|(arm, chance)| (arm.id.clone(), chance)).collect();
            let share = |idx: usize| weights[idx] as f64 / 100.0;
            assert_eq!(chances, [("a".to_owned(), share(0)), ("b".to_owned(), share(1))]);
            got += f64::from(u8::from(assignment.arm().id == "b"));
            expected += share(1);
        }
        let deviation = (expected * weights[0] as f64 / 100.0).sqrt();
        assert!((got - expected).abs() < 4.0 * deviation, "{got} of {expected} expected");
        let forced = [Forced { experiment: "x", arm: "b" }];
        let forced = assigned(decide(&experiments, &Subject::default(), &forced).unwrap()).remove(0);
        assert_eq!(forced.chances().count(), 0, "nothing was drawn");
    }
}

#[test]
fn readers_have_the_arms_that_another_program_computed() {
    let golden = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/assignment/vectors.json"));
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let arms: Vec<(String, u64)> = serde_json::from_value(case["weights"].clone()).unwrap();
        let got: String = (0..1000).map(|number| hashed(case, &arms, &format!("reader-{number}"))).collect();
        assert_eq!(got, case["arms"].as_str().unwrap(), "{case}");
    }
}

fn hashed(case: &Value, arms: &[(String, u64)], reader: &str) -> String {
    use newshound::experiment::hash::{Draw, flagd};
    let weight = |weight: u64| u32::try_from(weight).unwrap();
    let arm = if case["hash_version"] == 1 {
        let weights: Vec<u32> = arms.iter().map(|(_, share)| weight(*share)).collect();
        flagd(format!("{}{reader}", case["flag_key"].as_str().unwrap()).as_bytes(), &weights)
    } else {
        let seeds = [case["salt"].as_str().unwrap(), case["phase"].as_str().unwrap()];
        Draw::new(&seeds, reader).arm(arms.iter().map(|(name, share)| (name.as_str(), weight(*share))))
    };
    arm.unwrap().to_string()
}

#[test]
fn a_file_hashes_flag_salt_and_phase_as_it_says() {
    let arms = [("control", 50), ("off", 0), ("sixteen", 30)];
    let shares: Vec<_> = arms.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
    for (metadata, case) in [
        (
            json!({"hash_version": 2, "salt": "spring", "phase": "2"}),
            json!({"hash_version": 2, "salt": "spring", "phase": "2"}),
        ),
        (json!({"hash_version": 2}), json!({"hash_version": 2, "salt": "newshound.x", "phase": "1"})),
        (json!({}), json!({"hash_version": 1, "flag_key": "newshound.x"})),
    ] {
        let experiments = read(json!({"newshound.x": spreading(&arms, &metadata)}));
        for reader in (0..1000).map(|number| format!("reader-{number}")) {
            let expected: usize = hashed(&case, &shares, &reader).parse().unwrap();
            assert_eq!(arms_of(&experiments, &reader), [arms[expected].0]);
        }
    }
}

/// What flagd's own conformance suite expects of integer buckets.
/// Source: open-feature/flagd-testbed, evaluator/gherkin/fractional.feature, tag `fractional-v2`.
#[test]
fn version_1_is_where_flagd_puts_readers() {
    const SUITS: [&str; 4] = ["clubs", "diamonds", "hearts", "spades"];
    let check = |bucketing: &str, arms: &[&str], expected: &str| {
        let weights = vec![25; arms.len()];
        let got = newshound::experiment::hash::flagd(bucketing.as_bytes(), &weights).unwrap();
        assert_eq!(arms[got], expected, "{bucketing}");
    };
    for (name, expected) in
        [("jack", "hearts"), ("queen", "spades"), ("ten", "clubs"), ("nine", "diamonds"), ("3", "clubs")]
    {
        check(&format!("fractional-flag{name}"), &SUITS, expected);
    }
    for (name, expected) in [("seven", "hearts"), ("eight", "diamonds"), ("nine", "clubs"), ("two", "spades")]
    {
        check(&format!("shared-seed{name}"), &SUITS, expected);
    }
    for (name, expected) in [("jon@company.com", "heads"), ("jane@company.com", "tails")] {
        check(&format!("fractional-flag-shorthand{name}"), &["heads", "tails"], expected);
    }
    // Hashes at the ends and the middle of 32 bits.
    for (key, expected) in [
        ("ejOoVL", "lower"),
        ("bY9fO-", "lower"),
        ("SI7p-", "lower"),
        ("6LvT0", "upper"),
        ("ceQdGm", "upper"),
    ] {
        check(key, &["lower", "upper"], expected);
    }
}

/// Sum of (observed - expected)^2 / expected.
fn chi_square(cells: &[(f64, f64)]) -> f64 {
    cells.iter().map(|(observed, expected)| (observed - expected).powi(2) / expected).sum()
}

type Pair = (String, String);

fn first(pair: &Pair) -> &String {
    &pair.0
}

fn second(pair: &Pair) -> &String {
    &pair.1
}

#[test]
fn shares_are_those_of_the_file_and_experiments_know_nothing_of_each_other() {
    // Upper 0.1 % points of chi-square with 2 and with 4 degrees of freedom. The readers are the same in every run, so this either
    // always holds or never.
    const ALARM_OF_2: f64 = 13.816;
    const ALARM_OF_4: f64 = 18.467;
    let arms = [("a", 50), ("b", 30), ("c", 20)];
    for version in [1, 2] {
        let flag = || spreading(&arms, &json!({"hash_version": version}));
        let experiments = read(json!({"newshound.one": flag(), "newshound.other": flag()}));
        let mut together: BTreeMap<Pair, f64> = BTreeMap::new();
        for number in 0..N_READERS {
            let [one, other] = arms_of(&experiments, &format!("u{number}")).try_into().unwrap();
            *together.entry((one, other)).or_default() += 1.0;
        }
        let share = |name: &str| arms.iter().find(|(arm, _)| *arm == name).unwrap().1 as f64 / 100.0;
        let n = N_READERS as f64;
        let margin = |pick: fn(&Pair) -> &String, name: &str| -> f64 {
            together.iter().filter(|(pair, _)| pick(pair) == name).map(|(_, count)| count).sum()
        };
        for pick in [first as fn(&Pair) -> &String, second] {
            let cells: Vec<_> = arms.iter().map(|(name, _)| (margin(pick, name), n * share(name))).collect();
            assert!(chi_square(&cells) < ALARM_OF_2, "version {version}: {cells:?}");
        }
        let cells: Vec<_> = together
            .iter()
            .map(|((one, other), count)| (*count, margin(first, one) * margin(second, other) / n))
            .collect();
        assert_eq!(cells.len(), 9);
        assert!(chi_square(&cells) < ALARM_OF_4, "version {version}: {cells:?}");
    }
}

#[test]
fn with_version_2_readers_move_only_out_of_arms_that_shrink_and_into_arms_that_grow() {
    let with =
        |arms: &[(&str, u64)]| read(json!({"newshound.x": spreading(arms, &json!({"hash_version": 2}))}));
    let before = with(&[("a", 50), ("b", 50), ("c", 50)]);
    let grown = with(&[("c", 50), ("b", 100), ("a", 50)]);
    let stopped = with(&[("a", 50), ("b", 0), ("c", 50)]);
    let (mut n_into_b, mut n_out_of_b) = (0, 0);
    for number in 0..N_READERS {
        let key = format!("u{number}");
        let [was] = arms_of(&before, &key).try_into().unwrap();
        let [now] = arms_of(&grown, &key).try_into().unwrap();
        assert!(now == was || now == "b", "{key} went from {was} to {now}");
        n_into_b += usize::from(now != was);
        let [now] = arms_of(&stopped, &key).try_into().unwrap();
        assert!(now == was || was == "b", "{key} went from {was} to {now}");
        n_out_of_b += usize::from(now != was);
    }
    let share = |count: usize| count as f64 / N_READERS as f64;
    assert!((share(n_into_b) - 1.0 / 6.0).abs() < 0.01, "from a third to a half: {n_into_b}");
    assert!((share(n_out_of_b) - 1.0 / 3.0).abs() < 0.01, "{n_out_of_b}");
}

#[test]
fn a_new_phase_shuffles_anew() {
    let of = |phase: &str| {
        let metadata = json!({"hash_version": 2, "phase": phase});
        read(json!({"newshound.x": spreading(&[("a", 1), ("b", 1)], &metadata)}))
    };
    let (one, other) = (of("1"), of("2"));
    let n_same = (0..N_READERS)
        .filter(|number| arms_of(&one, &format!("u{number}")) == arms_of(&other, &format!("u{number}")))
        .count();
    assert!((n_same as f64 / N_READERS as f64 - 0.5).abs() < 0.015, "{n_same}");
}

#[test]
fn the_sample_file_targets_spreads_defaults_and_is_off_where_it_says_so() {
    let sample = include_bytes!("../deploy/experiments.json");
    let experiments = Experiments::read(sample, "deploy/experiments.json", &bounds()).unwrap();
    let of = |locale: Option<&str>, forced: &[Forced<'_>]| {
        decide(&experiments, &Subject { key: "u1", locale, ..Subject::default() }, forced)
    };
    let decided = of(Some("en-US"), &[]).unwrap();
    assert!(matches!(&decided[0], Decision::Assigned(assignment) if assignment.by == By::Hash));
    assert!(matches!(&decided[1], Decision::Disabled(experiment) if experiment.id == "temperature"));
    let decided = assigned(of(Some("fi"), &[]).unwrap());
    assert_eq!((decided[0].arm().id.as_str(), decided[0].by), ("eight", By::Default));

    let forced = |experiment, arm| of(None, &[Forced { experiment, arm }]);
    let chosen = assigned(forced("best-of", "sixteen").unwrap());
    assert_eq!((chosen[0].arm().id.as_str(), chosen[0].by), ("sixteen", By::Forced));
    assert_eq!(policy(&chosen).candidate_count, Some(16));
    assert_eq!(forced("best-of", "seventeen").unwrap_err(), ForceError::Unknown);
    assert_eq!(forced("worst-of", "eight").unwrap_err(), ForceError::Unknown);
    let off = forced("temperature", "bold").unwrap();
    assert!(matches!(off[1], Decision::Disabled(_)), "nothing wins over the kill switch");
}

proptest! {
    /// A file with bytes cut out of it or put into it is read or refused, and what is read can be used.
    #[test]
    fn no_file_breaks_the_reader(start in 0usize..1500, n_cut in 0usize..40, put in "[\\[\\]{}\",:0-9a-z. -]{0,20}") {
        let mut text = include_bytes!("../deploy/experiments.json").to_vec();
        let start = start.min(text.len());
        let end = (start + n_cut).min(text.len());
        text.splice(start..end, put.bytes());
        match Experiments::read(&text, "f", &bounds()) {
            Ok(experiments) => {
                let subject = Subject { key: "u1", locale: Some("en-US"), ..Subject::default() };
                let arms = assigned(decide(&experiments, &subject, &[]).unwrap());
                policy(&arms);
            }
            Err(refused) => prop_assert!(!refused.mistakes.is_empty()),
        }
    }
}

#[test]
fn an_arm_can_be_chosen_only_where_the_file_says_so() {
    let experiments = read(json!({"newshound.x": spreading(&[("a", 1)], &json!({}))}));
    let forced = [Forced { experiment: "x", arm: "a" }];
    let error = decide(&experiments, &Subject { key: "u1", ..Subject::default() }, &forced).unwrap_err();
    assert_eq!(error, ForceError::NotAllowed { experiment: "x".to_owned() });
}
