//! Dr.GRPO on the five rewards: what a run notes, and that one that is cut short goes on bit for bit.
use crate::support::{
    device::{device, tolerance},
    stages::{FINE_TUNED, STAGES, fit},
};
use candle_core::Device;
use newshound::{
    bundle::load::WEIGHTS_FILE,
    train::{
        checkpoint,
        error::TrainError,
        settings::{FitSettings, TeacherSettings},
        teacher,
        watch::WatchSettings,
    },
};
use serde_json::Value;
use std::{fs, path::Path, sync::LazyLock};

/// Where the runs of these tests go.
static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn settings(steps: u64) -> TeacherSettings {
    TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 4,
        watch: WatchSettings { every: 2, readers: 12 },
        fit: FitSettings { peak_learning_rate: 1e-3, ..fit(steps, 3) },
    }
}

fn lines(run: &Path) -> Vec<Value> {
    json_lines(&run.join("metrics.jsonl"))
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_notes_every_reward_and_samples_from_the_network_that_it_trains() {
    let out = DIR.path().join("notes");
    let folder = teacher::run(&STAGES.watched, &FINE_TUNED, &settings(2), &out, &device()).unwrap();
    assert!(folder.join(WEIGHTS_FILE).is_file() && out.join("reward.svg").is_file());
    // Looks before the first step and after the last; what found more is the result.
    let looks = json_lines(&out.join("watch.jsonl"));
    let figures = |name: &str| looks.iter().map(|look| look[name].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(figures("step"), [0.0, 2.0]);
    assert!(figures("valid").iter().chain(&figures("reward")).all(|figure| (0.0..=1.0).contains(figure)));
    let best = if figures("ndcg_10")[1] > figures("ndcg_10")[0] { "step-00000002" } else { "step-00000000" };
    assert_eq!(folder, out.join("best").join(best));
    let lines = lines(&out);
    assert_eq!(lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    for line in lines {
        let figure = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}"));
        for part in ["alignment", "coverage", "specificity", "diversity", "structure"] {
            assert!((0.0..=1.0).contains(&figure(&format!("rewards/{part}/mean"))));
        }
        assert!((0.0..=1.0).contains(&figure("reward")) && figure("entropy") > 0.0);
        assert!(figure("completions/mean_length") >= 1.0 && figure("num_tokens") >= 12.0);
        // The decoder that samples and the network that learns give the same tokens the same log-probabilities.
        assert!(figure("sampling/sampling_logp_difference/max") < f64::from(tolerance(1e-4)), "{line}");
        assert_eq!(figure("clip_ratio/region_mean"), 0.0);
    }
}

#[test]
fn four_steps_are_two_and_two_after_a_restart() {
    let (whole, cut) = (DIR.path().join("whole"), DIR.path().join("cut"));
    let run = |out: &Path| teacher::run(&STAGES.watched, &FINE_TUNED, &settings(4), out, &Device::Cpu);
    run(&whole).unwrap();
    run(&cut).unwrap();
    // As if it had been killed after its second step.
    fs::remove_dir_all(checkpoint::latest(&cut).unwrap().unwrap()).unwrap();
    assert!(checkpoint::latest(&cut).unwrap().unwrap().ends_with("step-00000002"));
    run(&cut).unwrap();
    let (finished, resumed) =
        (checkpoint::latest(&whole).unwrap().unwrap(), checkpoint::latest(&cut).unwrap().unwrap());
    assert!(finished.ends_with("step-00000004"));
    assert_eq!(fs::read(whole.join("watch.jsonl")).unwrap(), fs::read(cut.join("watch.jsonl")).unwrap());
    for file in [WEIGHTS_FILE, "optimizer.safetensors", "state.json"] {
        assert!(fs::read(finished.join(file)).unwrap() == fs::read(resumed.join(file)).unwrap(), "{file}");
    }
    let rewards = |run: &Path| lines(run).iter().map(|line| line["reward"].clone()).collect::<Vec<_>>();
    assert_eq!(rewards(&whole), rewards(&cut));
}

#[test]
fn other_settings_do_not_go_on_with_a_run_and_an_empty_world_has_nobody_to_ask() {
    let out = DIR.path().join("other");
    teacher::run(&STAGES.watched, &FINE_TUNED, &settings(1), &out, &Device::Cpu).unwrap();
    let error = teacher::run(&STAGES.watched, &FINE_TUNED, &settings(2), &out, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
    let mut empty = STAGES.watched.clone();
    empty.readers.clear();
    let error = teacher::run(&empty, &FINE_TUNED, &settings(1), &out, &Device::Cpu).unwrap_err();
    assert!(matches!(error, TrainError::TooLittleData { .. }), "{error:?}");
}

#[test]
fn a_sign_that_holds_for_three_looks_ends_the_run() {
    let out = DIR.path().join("alarm");
    let settings = TeacherSettings { watch: WatchSettings { every: 1, readers: 6 }, ..settings(6) };
    let run = || teacher::run(&STAGES.watched, &FINE_TUNED, &settings, &out, &Device::Cpu).unwrap();
    run();
    // As if it had been killed after its fourth step, and as if no list had been valid at the last looks.
    fs::remove_dir_all(checkpoint::latest(&out).unwrap().unwrap()).unwrap();
    let mut looks = json_lines(&out.join("watch.jsonl"));
    for (step, look) in looks.iter_mut().enumerate() {
        look["valid"] = Value::from(if step < 2 { 0.9 } else { 0.0 });
    }
    let text: Vec<String> = looks.iter().map(Value::to_string).collect();
    fs::write(out.join("watch.jsonl"), text.join("\n") + "\n").unwrap();
    let result = run();
    assert!(result.starts_with(out.join("best")));
    assert_eq!(lines(&out).len(), 4, "no step was taken after the alarm");
    assert!(checkpoint::latest(&out).unwrap().unwrap().ends_with("step-00000004"));
}

#[test]
fn a_best_that_no_look_tells_of_is_not_the_result() {
    let out = DIR.path().join("stale");
    let run = || teacher::run(&STAGES.watched, &FINE_TUNED, &settings(2), &out, &Device::Cpu).unwrap();
    let best = run();
    let stale = out.join("best").join("step-00000099");
    fs::create_dir_all(&stale).unwrap();
    for file in fs::read_dir(&best).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), stale.join(file.file_name())).unwrap();
    }
    assert_eq!(run(), best);
    assert!(!stale.exists());
}
