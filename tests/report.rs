//! What people look at: a run's event file, its samples, and the page that shows runs side by side.
use crate::support::stages::{FINE_TUNED, STAGES, fit};
use candle_core::Device;
use newshound::train::{
    report,
    settings::{TeacherSettings, grpo::GrpoSettings},
    teacher::{self, Start},
    watch::WatchSettings,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// A run of two steps with a look before the first and after the last.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let settings = TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 3,
        grpo: GrpoSettings { query_credit: 0.5, ..GrpoSettings::plain() },
        watch: WatchSettings { every: 2, readers: 4, lists: 1 },
        fit: fit(2, 2),
        ..TeacherSettings::demo()
    };
    let out = DIR.path().join("run");
    let start = Start { init: &FINE_TUNED, rollouts: None };
    teacher::run(&STAGES.watched, start, &settings, &out, &Device::Cpu).unwrap();
    // Once more: what is done is not done again, and leaves nothing.
    teacher::run(&STAGES.watched, start, &settings, &out, &Device::Cpu).unwrap();
    out
});

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Events of the only event file of a folder.
fn events(folder: &Path) -> Vec<Vec<u8>> {
    let is_event_file = |path: &PathBuf| path.to_string_lossy().contains("tfevents");
    let files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_event_file).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let bytes = fs::read(&files[0]).unwrap();
    let (mut rest, mut events) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
        events.push(rest[12..12 + length].to_vec());
        rest = &rest[16 + length..];
    }
    events
}

fn holds(event: &[u8], text: &str) -> bool {
    event.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn every_figure_of_a_step_stands_in_the_event_file() {
    let events_of_run = events(&RUN);
    // The version, the start of the session, and two steps.
    assert_eq!(events_of_run.len(), 4);
    assert!(holds(&events_of_run[0], "brain.Event:2"));
    for (event, line) in events_of_run[2..].iter().zip(lines(&RUN.join("metrics.jsonl"))) {
        for name in line.as_object().unwrap().keys().filter(|name| *name != "step") {
            assert!(holds(event, &format!("train/{name}")), "{name}");
        }
    }
    assert_eq!(events(&RUN.join("validation")).len(), 4);
}

#[test]
fn the_same_readers_are_asked_before_and_after_and_extremes_have_their_rewards() {
    let samples = lines(&RUN.join("samples.jsonl"));
    let asked = |step: u64| {
        let of_step = samples.iter().filter(|sample| sample["kind"] == "asked" && sample["step"] == step);
        of_step.map(|sample| sample["signals"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(asked(0).len(), 8);
    assert_eq!(asked(0), asked(2));
    let mean_reward = |kind: &str| {
        let sample = samples.iter().find(|sample| sample["kind"] == kind).unwrap();
        let lists = sample["lists"].as_array().unwrap();
        assert_eq!(lists.len(), 3);
        lists.iter().map(|list| list["rewards"]["coverage"].as_f64().unwrap()).sum::<f64>()
    };
    assert!(mean_reward("best") >= mean_reward("worst"));
}

#[test]
fn the_page_has_a_curve_of_every_figure_and_lists_of_every_run() {
    let page_at = DIR.path().join("report.html");
    let other = DIR.path().join("other");
    fs::create_dir_all(&other).unwrap();
    // A line that is being written is no reason to fail.
    fs::write(other.join("metrics.jsonl"), "{\"step\":0,\"own figure\":1.5}\n{\"step\":1,\"lo").unwrap();
    report::run(&[RUN.clone(), other.clone()], &page_at).unwrap();
    let page = fs::read_to_string(&page_at).unwrap();
    let first = lines(&RUN.join("metrics.jsonl")).remove(0);
    let names = first.as_object().unwrap().keys().filter(|name| *name != "step");
    for name in names.map(String::as_str).chain(["own figure", "validation/ndcg_10"]) {
        assert!(page.contains(name), "no curve of {name}");
    }
    assert!(page.contains("run: lists before and after") && page.contains("the worst group of step 0"));
    assert!(!page.contains("<script"));
    let broken = |text: &str| {
        fs::write(other.join("metrics.jsonl"), text).unwrap();
        report::run(std::slice::from_ref(&other), &page_at).unwrap_err().to_string()
    };
    assert!(broken("{\"step\":0}\nnot JSON\n{\"step\":1}\n").contains("line 2"));
    fs::remove_file(other.join("metrics.jsonl")).unwrap();
    let error = report::run(std::slice::from_ref(&other), &page_at).unwrap_err();
    assert!(error.to_string().contains("expected the folder of a run"), "{error}");
}
