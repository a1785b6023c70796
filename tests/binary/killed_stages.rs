//! Stages that sample, and the whole pipeline, as processes that are killed at any moment.
use super::kills::{files, killed, trainer};
use crate::support::stages::{FINE_TUNED, STAGES};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const TEACHER_KILLS: usize = 15;
const PIPELINE_KILLS: usize = 6;

fn to_the_end(arguments: &[PathBuf]) -> Duration {
    let started = Instant::now();
    let output = Command::new(trainer()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    started.elapsed()
}

#[track_caller]
fn same_files(got: &Path, expected: &Path, but: &[&str]) {
    let names = |folder: &Path| {
        files(folder).iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(got), names(expected));
    for name in names(expected).into_iter().filter(|name| !but.iter().any(|but| name == but)) {
        let (got, expected) = (got.join(&name), expected.join(&name));
        if got.is_dir() {
            same_files(&got, &expected, but);
        } else {
            assert!(fs::read(&got).unwrap() == fs::read(&expected).unwrap(), "{}", got.display());
        }
    }
}

/// Two updates of each rollout, looks at readers whose best checkpoint is kept, and samples: all of it goes on where it was.
#[test]
fn a_teacher_killed_again_and_again_ends_as_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("teacher.toml");
    let text = "prompt_tokens = 96\ncuts_per_reader = 1\nlists_per_prompt = 4\n[grpo]\nupdates_per_rollout = 2\n\
                [watch]\nevery = 4\nreaders = 8\nlists = 2\n\
                [fit]\nsteps = 24\nmicro_batches = 3\nwarmup_steps = 2\npeak_learning_rate = 1e-3\n\
                checkpoint_every = 2\ncheckpoints_kept = 2\n";
    fs::write(&settings, text).unwrap();
    let arguments = |out: &Path| {
        let mut arguments: Vec<PathBuf> = ["--device", "cpu", "teacher"].map(PathBuf::from).into();
        for (flag, path) in [
            ("--world", &STAGES.at),
            ("--init", &FINE_TUNED),
            ("--settings", &settings),
            ("--out", &out.to_owned()),
        ] {
            arguments.extend([PathBuf::from(flag), path.clone()]);
        }
        arguments
    };
    let (whole, out) = (dir.path().join("whole"), dir.path().join("killed"));
    let life = to_the_end(&arguments(&whole)) / 10;
    let newest = |run: &Path| {
        let folder = newshound::train::checkpoint::latest(run).unwrap();
        folder.map(|folder| folder.file_name().unwrap().to_owned())
    };
    let last = newest(&whole).unwrap();
    let found = killed(&arguments(&out), (TEACHER_KILLS, life), || newest(&out));
    assert!(found.iter().flatten().any(|step| *step != last), "kills hit nothing but starts: {found:?}");
    to_the_end(&arguments(&out));
    for folder in [last, "best".into()] {
        same_files(&out.join(&folder), &whole.join(&folder), &[]);
    }
    for diary in ["watch.jsonl", "samples.jsonl"] {
        assert_eq!(fs::read(out.join(diary)).unwrap(), fs::read(whole.join(diary)).unwrap(), "{diary}");
    }
}

fn n_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { n_files(&path) } else { 1 })
        .sum()
}

/// World, tokenizer, cleaner, every network and the head. How many seconds each took stands in the manifest, whose digest the card names.
#[test]
fn a_pipeline_killed_again_and_again_makes_the_bundle_of_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = |out: &Path| -> Vec<PathBuf> {
        let words = ["--device", "cpu", "pipeline", "--profile", "tiny", "--out"];
        words.map(PathBuf::from).into_iter().chain([out.to_owned()]).collect()
    };
    let (whole, out) = (dir.path().join("whole"), dir.path().join("killed"));
    let life = to_the_end(&arguments(&whole)) / 10;
    let found = killed(&arguments(&out), (PIPELINE_KILLS, life), || n_files(&out));
    assert!(found.len() > 1, "kills hit nothing but starts: {found:?}");
    to_the_end(&arguments(&out));
    same_files(&out.join("bundle"), &whole.join("bundle"), &["manifest.json", "CARD.md"]);
}
