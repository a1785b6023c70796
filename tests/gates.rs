//! `world check`: gates are measured on the readers' true interests, and a world that is too easy fails them.
use newshound::{
    train::{
        events::{Scope, Split, World},
        gates::{self, GateReport, GateSettings, gate::n_failed},
    },
    world::{
        self, Size, WorldSettings,
        known::{Known, Tag},
    },
};
use serde_json::Value;
use std::{fs, path::Path};

const SETTINGS: GateSettings = GateSettings { split: Split::Test, n_users: 80, n_climbers: 3, seed: 1 };

fn tiny() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    world::generate(&WorldSettings::of(Size::Tiny, 4), dir.path(), &mut |_, _| ()).unwrap();
    dir
}

fn mean(report: &GateReport, name: &str) -> f64 {
    report.rows.iter().find(|(row, _)| *row == name).unwrap_or_else(|| panic!("no {name}")).1.mean
}

fn gate(report: &GateReport, name: &str) -> (f64, bool) {
    let gate = report.gates.iter().find(|gate| gate.name == name).unwrap_or_else(|| panic!("no {name}"));
    (gate.figure.mean, gate.passed)
}

#[test]
fn true_interests_find_more_than_copying_and_those_of_another_reader_less() {
    let dir = tiny();
    let report = gates::check(dir.path(), SETTINGS).unwrap();
    assert!(report.n_users > 40);
    let interests = mean(&report, "true interests as 5 queries");
    assert!(interests > mean(&report, "copy the last 5 signals"));
    assert!(interests > mean(&report, "another reader's interests"));
    assert!(mean(&report, "linear probe") > mean(&report, "popularity"), "words are translated by counting");
    let (ratio, _) = gate(&report, "copy / interests");
    assert!((ratio - mean(&report, "copy the last 5 signals") / interests).abs() < 1e-9);
    let text = report.to_string();
    for gate in &report.gates {
        let verdict = if gate.passed { "passed" } else { "FAILED" };
        let line = text.lines().find(|line| line.contains(gate.name)).unwrap();
        assert!(line.contains(verdict), "{line}");
    }
    assert_eq!(n_failed(&report.gates), report.gates.iter().filter(|gate| !gate.passed).count());
}

/// Rewrites every search so that it names what the news calls the reader's strongest interest.
fn name_interests_in_searches(world_at: &Path) {
    let world = World::read(world_at, Scope::Evaluation).unwrap();
    let known = Known::read(world_at).unwrap();
    let path = world_at.join("events.jsonl");
    let lines: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| {
            let mut event: Value = serde_json::from_str(line).unwrap();
            if event["stream"] == "search" {
                let interests = known.interests(event["user_key"].as_str().unwrap(), world.cutoff_unix_s);
                event["text"] = interests[0].join(" ").into();
            }
            event.to_string()
        })
        .collect();
    fs::write(path, lines.join("\n")).unwrap();
}

#[test]
fn a_world_whose_searches_name_the_news_fails() {
    let dir = tiny();
    let name = "searches / interests";
    let (before, _) = gate(&gates::check(dir.path(), SETTINGS).unwrap(), name);
    name_interests_in_searches(dir.path());
    let (after, passed) = gate(&gates::check(dir.path(), SETTINGS).unwrap(), name);
    assert!(after > before + 0.2 && !passed, "{before} {after}");
}

#[test]
fn gates_are_not_passed_on_nothing() {
    let dir = tiny();
    for settings in [GateSettings { n_climbers: 1, ..SETTINGS }, GateSettings { n_users: 1, ..SETTINGS }] {
        let error = gates::check(dir.path(), settings).unwrap_err();
        assert!(error.to_string().contains("two readers"), "{error}");
    }
}

#[test]
fn a_world_without_its_truth_cannot_be_checked() {
    let dir = tiny();
    fs::remove_file(dir.path().join("truth/users.jsonl")).unwrap();
    let error = gates::check(dir.path(), SETTINGS).unwrap_err();
    let error = newshound::telemetry::Chain(&error).to_string();
    assert!(error.contains("users.jsonl"), "{error}");
}

#[test]
fn noise_is_known_for_every_event_of_every_reader() {
    let dir = tiny();
    let world = World::read(dir.path(), Scope::Evaluation).unwrap();
    let known = Known::read(dir.path()).unwrap();
    let (mut n_noise, mut n_events) = (0, 0);
    for reader in &world.readers {
        let noise: Vec<bool> = known.tags(&reader.key).iter().map(|tag| *tag != Tag::Interest).collect();
        assert_eq!(noise.len(), reader.events.len(), "{}", reader.key);
        n_noise += noise.iter().filter(|noise| **noise).count();
        n_events += noise.len();
    }
    let share = f64::from(n_noise as u32) / f64::from(n_events as u32);
    assert!((0.15..0.35).contains(&share), "{share}");
}
