//! A training run as a process that is killed at any moment, and one whose disk takes no more.
use crate::support::stages::{SMALL, STAGES};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

const KILLS: usize = 50;
/// Readers of the run's world: as few as give it examples, since every life of the process reads them.
const READERS: usize = 24;
/// Enough that a life never reaches the end.
const STEPS: usize = 60;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let world = dir.path().join("world");
    fs::create_dir(&world).unwrap();
    for file in ["world.json", "articles.jsonl", "held_out.jsonl"] {
        fs::copy(STAGES.at.join(file), world.join(file)).unwrap();
    }
    let events = fs::read_to_string(STAGES.at.join("events.jsonl")).unwrap();
    let reader = |line: &str| serde_json::from_str::<Value>(line).unwrap()["user_key"].to_string();
    let kept: BTreeSet<String> =
        events.lines().map(reader).collect::<BTreeSet<_>>().into_iter().take(READERS).collect();
    let kept: Vec<&str> = events.lines().filter(|line| kept.contains(&reader(line))).collect();
    fs::write(world.join("events.jsonl"), kept.join("\n") + "\n").unwrap();
    let settings = format!(
        "prompt_tokens = 32\ntargets = \"later_clicks\"\nsingle_signal_steps = 0\n\
         [fit]\nsteps = {STEPS}\nmicro_batches = 2\nmicro_batch_tokens = 64\ncheckpoint_every = 1\n"
    );
    fs::write(dir.path().join("settings.toml"), settings).unwrap();
    dir
});

/// The command that runs or goes on, in a folder of its own.
fn arguments(out: &Path) -> Vec<PathBuf> {
    let at = |name: &str| DIR.path().join(name);
    let mut arguments: Vec<PathBuf> = vec!["--device".into(), "cpu".into(), "sft".into()];
    for (flag, path) in [
        ("--world", at("world")),
        ("--tokenizer", STAGES.tokenizer.clone()),
        ("--init", SMALL.clone()),
        ("--settings", at("settings.toml")),
        ("--out", out.to_owned()),
    ] {
        arguments.extend([PathBuf::from(flag), path]);
    }
    arguments
}

fn trainer() -> &'static str {
    env!("CARGO_BIN_EXE_newshound-trainer")
}

fn to_the_end(out: &Path) -> Output {
    Command::new(trainer()).args(arguments(out)).output().unwrap()
}

/// A run that nobody disturbed.
static WHOLE: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = DIR.path().join("whole");
    let output = to_the_end(&out);
    assert!(output.status.success(), "{output:?}");
    out
});

fn newest(run: &Path) -> PathBuf {
    newshound::train::checkpoint::latest(run).unwrap().unwrap()
}

/// Whether a run ended as the undisturbed one did, bit for bit, and remembers the same losses.
#[track_caller]
fn ended_as_the_whole(run: &Path) {
    let (got, expected) = (newest(run), newest(&WHOLE));
    assert_eq!(got.file_name(), expected.file_name());
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"] {
        assert!(fs::read(got.join(file)).unwrap() == fs::read(expected.join(file)).unwrap(), "{file}");
    }
    let losses = |run: &Path| {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].clone();
        text.lines().map(loss).collect::<Vec<_>>()
    };
    assert_eq!(losses(run), losses(&WHOLE));
}

/// Moments are drawn over a whole life and not waited for: start, reading, steps and the writing of checkpoints are all hit.
#[test]
fn a_run_killed_fifty_times_ends_with_the_weights_of_one_that_was_not() {
    LazyLock::force(&WHOLE);
    let out = DIR.path().join("killed");
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut life = Duration::from_millis(100);
    let mut steps = BTreeSet::new();
    for _ in 0..KILLS {
        let mut child = Command::new(trainer())
            .args(arguments(&out))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(rng.random_range(Duration::ZERO..life * 2));
        child.kill().unwrap();
        child.wait().unwrap();
        let step = newshound::train::checkpoint::latest(&out).unwrap();
        // Lives long enough to take a step, and no longer.
        life = if steps.insert(step) { life * 9 / 10 } else { life * 6 / 5 };
    }
    assert!(steps.len() > 3, "kills hit nothing but starts: {steps:?}");
    let output = to_the_end(&out);
    assert!(output.status.success(), "{output:?}");
    ended_as_the_whole(&out);
}

/// The limit of a file's size stands for a disk that is full: both refuse in the middle of a write.
#[test]
fn a_disk_that_takes_no_more_leaves_the_old_checkpoint_and_says_so() {
    let out = DIR.path().join("full");
    copy(&WHOLE, &out);
    // As if the run had come half as far.
    let newest_of_whole = newest(&out);
    let kept = out.join(format!("step-{:08}", STEPS - 1));
    fs::remove_dir_all(&newest_of_whole).unwrap();
    let before: Vec<Vec<u8>> = files(&kept).iter().map(|file| fs::read(file).unwrap()).collect();
    // Diaries and event files are smaller than this many blocks, weights larger. The signal that ends a process at the limit is
    // ignored, so that it sees the error.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 60; exec \"$@\"", "sh", trainer()])
        .args(arguments(&out))
        .output()
        .unwrap();
    assert!(!limited.status.success());
    let said = String::from_utf8_lossy(&limited.stderr);
    assert!(said.contains("safetensors") && said.contains("File too large"), "{said}");
    assert_eq!(newest(&out), kept);
    let after: Vec<Vec<u8>> = files(&kept).iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(before == after);
    let output = to_the_end(&out);
    assert!(output.status.success(), "{output:?}");
    ended_as_the_whole(&out);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
