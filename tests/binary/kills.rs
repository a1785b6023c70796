//! A training run as a process that is killed at any moment, and one whose disk takes no more.
use crate::support::stages::{SMALL, STAGES};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

const KILLS: usize = 50;
/// Readers of the run's world, with the articles that they read: as few as give examples, since every life of the process reads them.
const READERS: usize = 24;
/// Enough that a life never reaches the end.
const STEPS: usize = 60;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let world = dir.path().join("world");
    fs::create_dir(&world).unwrap();
    fs::copy(STAGES.at.join("world.json"), world.join("world.json")).unwrap();
    let read = |file: &str| fs::read_to_string(STAGES.at.join(file)).unwrap();
    let (events, articles) = (read("events.jsonl"), read("articles.jsonl"));
    let field = |line: &str, name: &str| serde_json::from_str::<Value>(line).unwrap()[name].to_string();
    let readers: BTreeSet<String> = events
        .lines()
        .map(|line| field(line, "user_key"))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .take(READERS)
        .collect();
    let events: Vec<&str> =
        events.lines().filter(|line| readers.contains(&field(line, "user_key"))).collect();
    let read_by_them: BTreeSet<String> = events.iter().map(|line| field(line, "article_id")).collect();
    let articles: Vec<&str> =
        articles.lines().filter(|line| read_by_them.contains(&field(line, "id"))).collect();
    fs::write(world.join("events.jsonl"), events.join("\n") + "\n").unwrap();
    fs::write(world.join("articles.jsonl"), articles.join("\n") + "\n").unwrap();
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

pub fn trainer() -> &'static str {
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

/// Kills the command so many times. Moments are drawn over a whole life and not waited for: start, reading, steps and the writing of
/// checkpoints are all hit. `at`: how far it has come, by what it has left. Ends where the command does; returns where kills found it.
pub fn killed<T: Ord>(
    arguments: &[PathBuf],
    (kills, first_life): (usize, Duration),
    at: impl Fn() -> T,
) -> BTreeSet<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut life, mut found) = (first_life, BTreeSet::new());
    for _ in 0..kills {
        let mut child = Command::new(trainer())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(rng.random_range(Duration::ZERO..life * 2));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Lives long enough to come further, and no longer.
        life = if found.insert(at()) { life * 9 / 10 } else { life * 6 / 5 };
    }
    found
}

#[test]
fn a_run_killed_fifty_times_ends_with_the_weights_of_one_that_was_not() {
    LazyLock::force(&WHOLE);
    let out = DIR.path().join("killed");
    let newest = || newshound::train::checkpoint::latest(&out).unwrap();
    let found = killed(&arguments(&out), (KILLS, Duration::from_millis(100)), newest);
    assert!(found.len() > 3, "kills hit nothing but starts: {found:?}");
    let output = to_the_end(&out);
    assert!(output.status.success(), "{output:?}");
    ended_as_the_whole(&out);
}

/// A trainer as the first process of a container, which the system ends by no signal that it does not listen to; where this user may make no
/// namespaces, as any process.
struct First {
    run: Child,
    is_first: bool,
}

impl First {
    fn start(arguments: &[PathBuf]) -> Self {
        let alone = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
        let tried = Command::new("unshare").args(alone).arg("true").status();
        let is_first = tried.is_ok_and(|status| status.success());
        let mut command = Command::new(if is_first { "unshare" } else { trainer() });
        if is_first {
            command.args(alone).arg(trainer());
        }
        let run = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { run, is_first }
    }

    fn signal(&self, name: &str) {
        // Whom `unshare` started is its only child.
        let id = self.run.id();
        let children = || fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let id = if self.is_first { children().trim().to_owned() } else { id.to_string() };
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }
}

#[test]
fn a_run_ends_by_signals_as_the_first_process_too_and_goes_on_from_its_checkpoint() {
    let out = DIR.path().join("signalled");
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let before = newshound::train::checkpoint::latest(&out).unwrap();
        let mut first = First::start(&arguments(&out));
        while newshound::train::checkpoint::latest(&out).unwrap() == before {
            assert_eq!(first.run.try_wait().unwrap(), None, "it ended before it was told to");
            std::thread::sleep(Duration::from_millis(10));
        }
        first.signal(signal);
        assert_eq!(first.run.wait().unwrap().code(), Some(code), "SIG{signal}");
    }
    let output = to_the_end(&out);
    assert!(output.status.success(), "{output:?}");
    ended_as_the_whole(&out);
}

#[test]
fn a_service_of_rewards_ends_at_once_while_it_reads_and_well_when_it_serves() {
    let (never_read, settings) = (DIR.path().join("never-read"), DIR.path().join("rewards.toml"));
    fs::create_dir(&never_read).unwrap();
    fs::copy(STAGES.at.join("world.json"), never_read.join("world.json")).unwrap();
    // Nobody writes to this pipe, so whoever reads it waits for ever.
    let articles = never_read.join("articles.jsonl");
    assert!(Command::new("mkfifo").arg(&articles).status().unwrap().success());
    fs::write(&settings, "prompt_tokens = 96\ncuts_per_reader = 1\n").unwrap();
    let start = |world: &Path| {
        let mut arguments: Vec<PathBuf> = ["serve-reward", "--addr", "127.0.0.1:0"].map(PathBuf::from).into();
        for (flag, path) in [("--world", world), ("--init", &SMALL), ("--settings", &settings)] {
            arguments.extend([PathBuf::from(flag), path.to_owned()]);
        }
        First::start(&arguments)
    };
    let mut reading = start(&never_read);
    // Opens when the other end is opened.
    let pipe = fs::OpenOptions::new().write(true).open(&articles).unwrap();
    reading.signal("TERM");
    assert_eq!(reading.run.wait().unwrap().code(), Some(143));
    drop(pipe);

    let mut serving = start(&STAGES.at);
    let mut said = String::new();
    BufReader::new(serving.run.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("rewards at http://127.0.0.1:"), "{said:?}");
    serving.signal("TERM");
    assert!(serving.run.wait().unwrap().success());
}

/// A run that had come to its last step but one, and that checkpoint.
fn nearly_done(name: &str) -> (PathBuf, PathBuf) {
    let out = DIR.path().join(name);
    copy(&WHOLE, &out);
    fs::remove_dir_all(newest(&out)).unwrap();
    let kept = newest(&out);
    assert!(kept.ends_with(format!("step-{:08}", STEPS - 1)));
    (out, kept)
}

fn contents(folder: &Path) -> Vec<Vec<u8>> {
    files(folder).iter().map(|file| fs::read(file).unwrap()).collect()
}

/// The limit of a file's size stands for a disk that is full: both refuse in the middle of a write.
#[test]
fn a_disk_that_takes_no_more_leaves_the_old_checkpoint_and_says_so() {
    let (out, kept) = nearly_done("limited");
    let before = contents(&kept);
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
    assert!(before == contents(&kept));
    let output = to_the_end(&out);
    assert!(output.status.success(), "{output:?}");
    ended_as_the_whole(&out);
}

/// The same on a file system of its own, where the system lets this user mount one; elsewhere the test above stands alone.
#[test]
fn a_full_file_system_leaves_the_old_checkpoint_and_says_so() {
    let may_mount = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]).output();
    if !may_mount.is_ok_and(|output| output.status.success()) {
        return;
    }
    let (out, kept) = nearly_done("full");
    let before = contents(&kept);
    // Room for what is there and for half a checkpoint more.
    let script = format!(
        "mount -t tmpfs -o size={} none \"$1\" && cp -a \"$2\"/. \"$1\" || exit 99; left=$3; shift 3; \"$@\"; code=$?; \
         cp -a \"$OUT\" \"$left\"; exit $code",
        bytes_on_disk(&out) + bytes_on_disk(&kept) / 2
    );
    let (mounted, left) = (DIR.path().join("mounted"), DIR.path().join("left"));
    fs::create_dir(&mounted).unwrap();
    let full = Command::new("unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .args([&mounted, &out, &left])
        .arg(trainer())
        .args(arguments(&mounted))
        .env("OUT", &mounted)
        .output()
        .unwrap();
    assert!(!full.status.success() && full.status.code() != Some(99), "{full:?}");
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(said.contains("No space left on device"), "{said}");
    let kept = left.join(kept.file_name().unwrap());
    assert_eq!(newest(&left), kept);
    assert!(before == contents(&kept));
    let output = to_the_end(&left);
    assert!(output.status.success(), "{output:?}");
    ended_as_the_whole(&left);
}

/// Whole pages of every file and folder.
fn bytes_on_disk(path: &Path) -> u64 {
    const PAGE: u64 = 4096;
    let own = fs::metadata(path).unwrap().len().div_ceil(PAGE) * PAGE;
    if path.is_dir() { own + files(path).iter().map(|path| bytes_on_disk(path)).sum::<u64>() } else { own }
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
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
