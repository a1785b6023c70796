//! The best checkpoint of a run that ends while its watch looks.
use crate::support::stages::{FINE_TUNED, STAGES, fit};
use candle_core::Device;
use newshound::train::{
    error::TrainError,
    settings::TeacherSettings,
    teacher::{self, Start},
    watch::WatchSettings,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Two steps with a look before each and behind the last, and a checkpoint after every so many.
fn run(out: &Path, checkpoint_every: u64) -> Result<PathBuf, TrainError> {
    let mut settings = TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 4,
        watch: WatchSettings { every: 1, readers: 40, lists: 1 },
        fit: fit(2, 3),
        ..TeacherSettings::demo()
    };
    settings.fit.checkpoint_every = checkpoint_every;
    let start = Start { init: &FINE_TUNED, rollouts: None };
    teacher::run(&STAGES.watched, start, &settings, out, &Device::Cpu)
}

/// Leaves a run as if its first look had been the best, and worse than any look will be.
fn first_was_best(out: &Path) {
    let path = out.join("watch.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let look = |line: &str| {
        let mut look: Value = serde_json::from_str(line).unwrap();
        look["ndcg_10"] = Value::from(if look["step"] == 0 { -1.0 } else { -2.0 });
        format!("{look}\n")
    };
    fs::write(&path, text.lines().map(look).collect::<String>()).unwrap();
    let best: Vec<PathBuf> =
        fs::read_dir(out.join("best")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let first = out.join("best/step-00000000");
    if best != [first.clone()] {
        fs::rename(&best[0], first).unwrap();
    }
}

fn bests(out: &Path) -> Vec<String> {
    let names = fs::read_dir(out.join("best")).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The old best was deleted before the diary knew of the new one: whoever was killed in between had neither.
#[cfg(target_os = "linux")]
#[test]
fn a_run_that_ends_before_a_look_is_noted_still_has_the_best_that_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(&out, 1).unwrap();
    fs::remove_dir_all(out.join("step-00000002")).unwrap();
    first_was_best(&out);
    // Nobody can make a file there: the look fails between the checkpoint and the diary.
    fs::remove_dir_all(out.join("validation")).unwrap();
    std::os::unix::fs::symlink("/proc", out.join("validation")).unwrap();
    let error = run(&out, 1).unwrap_err().to_string();
    assert!(error.contains("validation"), "{error}");
    assert_eq!(bests(&out), ["step-00000000", "step-00000002"]);
    fs::remove_file(out.join("validation")).unwrap();
    assert!(run(&out, 1).unwrap().ends_with("best/step-00000002"));
    assert_eq!(bests(&out), ["step-00000002"]);
}

/// A run that is killed goes on from its newest checkpoint, and no longer knows of the looks behind that.
#[test]
fn the_best_of_the_looks_before_the_newest_checkpoint_is_kept_beside_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(&out, 2).unwrap();
    fs::remove_dir_all(out.join("step-00000002")).unwrap();
    first_was_best(&out);
    // The run ends with its only checkpoint, whose curve cannot be drawn.
    fs::remove_file(out.join("reward.svg")).unwrap();
    fs::create_dir(out.join("reward.svg")).unwrap();
    run(&out, 2).unwrap_err();
    assert_eq!(bests(&out), ["step-00000000", "step-00000001"]);
    fs::remove_dir(out.join("reward.svg")).unwrap();
    run(&out, 2).unwrap();
    assert_eq!(bests(&out).len(), 1);
}
