//! What logs show: differences that are there are found, and those that are not are not, as often as promised.
use super::{bounds, spreading};
use newshound::{
    experiment::{
        assign::{assigned, decide},
        flags::Experiments,
        record::{ArmRecord, Event, EventKind, Exposure, Outcomes, Record},
        statistics::proportions::{Share, sample_ratio, two_proportions},
        targeting::Subject,
    },
    serve::commands::experiment::{CheckArgs, CorrectionWord, ExperimentCommand, ReportArgs, experiment},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

/// Writes a log in which readers of arm `b` click with another chance than those of arm `a`.
fn write_log(dir: &Path, n_readers: usize, chances: [f64; 2]) {
    let flags = json!({"newshound.x": spreading(&[("a", 50), ("b", 50)], &json!({"hash_version": 2}))});
    let file = json!({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": flags});
    let experiments = Experiments::read(file.to_string().as_bytes(), "f", &bounds()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut lines = Vec::new();
    for number in 0..n_readers {
        let reader = format!("{number:032x}");
        let subject = Subject { key: &reader, ..Subject::default() };
        let assignment = assigned(decide(&experiments, &subject, &[]).unwrap()).remove(0);
        let response_id = format!("0-{number}");
        let exposure = Exposure {
            time_unix_ms: 1,
            response_id: response_id.clone(),
            reader,
            config: experiments.digest.clone(),
            bundle: String::new(),
            served: "miss".to_owned(),
            degraded: None,
            cost: None,
            arms: vec![ArmRecord::new(&assignment, &BTreeSet::new())],
        };
        lines.push(Record::Exposure(exposure));
        if random.random_bool(chances[assignment.arm_idx]) {
            let clicked = EventKind::Clicked;
            let events = vec![Event { what: clicked, query_rank: None, value: None, time_unix_ms: None }];
            let request_id = "r".to_owned();
            lines.push(Record::Outcomes(Outcomes { time_unix_ms: 2, response_id, request_id, events }));
        }
    }
    let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    // The last line is as a lost disk leaves it.
    std::fs::write(dir.join("records-0000000000001-1-000000.jsonl"), text + "{\"kind\": \"expo").unwrap();
}

fn arguments(dir: &Path) -> ReportArgs {
    ReportArgs {
        log_dir: vec![dir.to_owned()],
        experiment: "x".to_owned(),
        control: "a".to_owned(),
        phase: None,
        correction: CorrectionWord::Holm,
        expected_lift: 0.1,
        json: true,
    }
}

/// What a command writes, or why it fails.
fn said(command: ExperimentCommand) -> Result<String, String> {
    let mut out = Vec::new();
    experiment(&command, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_lift_in_the_log_is_reported_with_its_size() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), 8000, [0.30, 0.36]);
    let report: Value =
        serde_json::from_str(&said(ExperimentCommand::Report(arguments(dir.path()))).unwrap()).unwrap();
    let row = &report["rows"][0];
    assert_eq!((row["metric"].as_str(), row["arm"].as_str()), (Some("readers who clicked"), Some("b")));
    let comparison = &row["comparison"];
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&comparison["interval"]["low"]) < 0.06 && 0.06 < number(&comparison["interval"]["high"]));
    assert!(number(&row["p_corrected"]) < 0.01 && number(&row["p_always_valid"]) < 0.01, "{row}");
    assert!(number(&report["mismatch"]["p"]) > 0.001);
    assert_eq!(report["left_out"]["unreadable_lines"], 1);
    let answers = |arm: &str| report["arms"][arm]["answers"].as_u64().unwrap();
    assert_eq!(answers("a") + answers("b"), 8000);

    let text = said(ExperimentCommand::Report(ReportArgs { json: false, ..arguments(dir.path()) })).unwrap();
    assert!(text.contains("verdict: b has more readers who clicked"), "{text}");
}

#[test]
fn what_cannot_be_reported_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), 10, [0.5, 0.5]);
    let refused = |change: fn(&mut ReportArgs)| {
        let mut arguments = arguments(dir.path());
        change(&mut arguments);
        said(ExperimentCommand::Report(arguments)).unwrap_err()
    };
    assert!(refused(|arguments| arguments.experiment = "y".to_owned()).contains("no reader had an arm of y"));
    assert!(refused(|arguments| arguments.control = "c".to_owned()).contains("there are a, b"));
    assert!(refused(|arguments| arguments.expected_lift = 0.0).contains("--expected-lift"));
    assert!(refused(|arguments| arguments.log_dir[0].push("absent")).contains("cannot be read"));
}

#[test]
fn a_file_can_be_checked_before_a_server_reads_it() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/experiments.json");
    let checked = |file, no_reward_head, no_foresight| {
        let resident = vec!["next".to_owned()];
        said(ExperimentCommand::Check(CheckArgs { file, no_reward_head, no_foresight, resident }))
    };
    let check = |file| checked(file, false, false);
    let text = check(sample).unwrap();
    for told in [
        "best-of is on, phase 1, hash version 2\n",
        "temperature is off, phase 1, hash version 2\n",
        "sets candidate_count, cache_ttl_ms",
        "sets nothing",
    ] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.json");
    std::fs::write(&wrong, "{\"flags\": 7, \"more\": 1}").unwrap();
    let error = check(wrong).unwrap_err();
    assert!(error.contains("has 2 mistake(s)"), "{error}");
    let stops = dir.path().join("stops.json");
    let flag = json!({"state": "ENABLED", "variants": {"a": {}, "b": {"early_stopping": "safe"}}});
    let file = json!({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": {"newshound.x": flag}});
    std::fs::write(&stops, file.to_string()).unwrap();
    let text = check(stops.clone()).unwrap();
    for told in [
        "sets early_stopping",
        "x is on, phase 1, hash version 1, by which a change of weights moves readers",
    ] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
    for no_reward_head in [false, true] {
        let error = checked(stops.clone(), no_reward_head, true).unwrap_err();
        assert!(error.contains("has 1 mistake(s)"), "{error}");
    }
    let named = |bundle: &str| {
        std::fs::write(&stops, file.to_string().replace("{}", &format!("{{\"bundle\": \"{bundle}\"}}")))
            .unwrap();
        check(stops.clone())
    };
    assert!(named("next").unwrap().contains("sets bundle"));
    assert!(named("absent").unwrap_err().contains("residents: next"));
}

/// Clicks of an arm of this many readers.
fn clicks(random: &mut ChaCha8Rng, n: u64, chance: f64) -> Share {
    Share { n: (0..n).filter(|_| random.random_bool(chance)).count() as u64, of: n }
}

#[test]
fn equal_arms_differ_in_one_of_twenty_experiments_and_intervals_hold_the_truth_in_nineteen() {
    const N_EXPERIMENTS: usize = 1000;
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (mut n_false, mut n_held) = (0, 0);
    for _ in 0..N_EXPERIMENTS {
        let (control, same) = (clicks(&mut random, 1000, 0.2), clicks(&mut random, 1000, 0.2));
        n_false += usize::from(two_proportions(control, same).p < 0.05);
        let better = two_proportions(control, clicks(&mut random, 1000, 0.25)).newcombe;
        n_held += usize::from(better.low < 0.05 && 0.05 < better.high);
    }
    // 5 % and 95 %, each with 1.5 points, two standard errors of a share of 1,000 experiments.
    assert!((35..=65).contains(&n_false), "{n_false} of {N_EXPERIMENTS}");
    assert!((935..=965).contains(&n_held), "{n_held} of {N_EXPERIMENTS}");
}

#[test]
fn a_sound_split_seldom_alarms() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let alarms = (0..2000).filter(|_| {
        let Share { n, of } = clicks(&mut random, 1000, 0.5);
        let observed = [n as f64, (of - n) as f64];
        sample_ratio(&observed, &[500.0, 500.0]).unwrap().is_alarming()
    });
    assert!(alarms.count() <= 6, "a thousandth of 2,000 are 2");
}
