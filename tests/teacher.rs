//! Dr.GRPO on the five rewards: what a run notes, and that one that is cut short goes on bit for bit.
use crate::support::{
    device::{device, tolerance},
    stages::{FINE_TUNED, SMALL, STAGES, fit, tokens},
};
use candle_core::Device;
use newshound::{
    bundle::load::WEIGHTS_FILE,
    decode::{
        batch::{Finish, FinishedRow},
        sampler::SamplerSettings,
    },
    model::{ops::Numerics, transformer::Transformer},
    train::{
        checkpoint,
        error::TrainError,
        rollout::Sampled,
        settings::{
            FitSettings, TeacherSettings,
            grpo::{Advantage, GrpoSettings},
            layered,
            lora::LoraSettings,
            remote::{CallSettings, HttpJudgeSettings},
            rewards::{RewardSettings, RewardWeights},
        },
        teacher::{self, Start},
        watch::WatchSettings,
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

/// Where the runs of these tests go.
static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn settings(steps: u64) -> TeacherSettings {
    TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 4,
        watch: WatchSettings { every: 2, readers: 12, lists: 2 },
        fit: FitSettings { peak_learning_rate: 1e-3, ..fit(steps, 3) },
        ..TeacherSettings::demo()
    }
}

pub fn start() -> Start<'static> {
    Start { init: &FINE_TUNED, rollouts: None }
}

pub fn lines(run: &Path) -> Vec<Value> {
    json_lines(&run.join("metrics.jsonl"))
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_notes_every_reward_and_samples_from_the_network_that_it_trains() {
    let out = DIR.path().join("notes");
    let folder = teacher::run(&STAGES.watched, start(), &settings(2), &out, &device()).unwrap();
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
        assert!((-1.0..=1.0).contains(&figure("rewards/alignment/raw_mean")));
        assert!((0.0..=2.0).contains(&figure("rewards/diversity/raw_mean")));
        // The decoder that samples and the network that learns give the same tokens the same log-probabilities.
        assert!(figure("sampling/sampling_logp_difference/max") < f64::from(tolerance(1e-4)), "{line}");
        assert_eq!(figure("clip_ratio/region_mean"), 0.0);
    }
}

#[test]
fn hits_are_noted_where_they_count_and_are_no_part_of_a_run_where_they_do_not() {
    let weights = RewardWeights { hit: 0.5, ..RewardWeights::usual() };
    let counted =
        TeacherSettings { rewards: RewardSettings { weights, rubric: String::new() }, ..optional(1) };
    for (settings, name, count) in [(counted, "hits", true), (optional(1), "no-hits", false)] {
        let out = DIR.path().join(name);
        teacher::run(&STAGES.watched, start(), &settings, &out, &Device::Cpu).unwrap();
        let line = &lines(&out)[0];
        for figure in ["mean", "std", "missing_ratio", "seconds"] {
            let figure = line[format!("rewards/hit/{figure}")].as_f64();
            assert_eq!(figure.is_some_and(|figure| (0.0..=1.0).contains(&figure)), count, "{line}");
        }
    }
    let nothing = RewardWeights { coverage: -1.0, ..RewardWeights::usual() };
    let settings = TeacherSettings {
        rewards: RewardSettings { weights: nothing, rubric: String::new() },
        ..optional(1)
    };
    let error = teacher::run(&STAGES.watched, start(), &settings, &DIR.path().join("less"), &Device::Cpu);
    assert!(error.unwrap_err().to_string().contains("rewards.weights"));
}

#[test]
fn four_steps_are_two_and_two_after_a_restart() {
    let (whole, cut) = (DIR.path().join("whole"), DIR.path().join("cut"));
    let run = |out: &Path| teacher::run(&STAGES.watched, start(), &settings(4), out, &Device::Cpu);
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
    teacher::run(&STAGES.watched, start(), &settings(1), &out, &Device::Cpu).unwrap();
    let error = teacher::run(&STAGES.watched, start(), &settings(2), &out, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
    let mut empty = STAGES.watched.clone();
    empty.readers.clear();
    let error = teacher::run(&empty, start(), &settings(1), &out, &Device::Cpu).unwrap_err();
    assert!(matches!(error, TrainError::TooLittleData { .. }), "{error:?}");
}

#[test]
fn a_sign_that_holds_for_three_looks_ends_the_run() {
    let out = DIR.path().join("alarm");
    let settings = TeacherSettings { watch: WatchSettings { every: 1, readers: 6, lists: 1 }, ..settings(6) };
    let run = || teacher::run(&STAGES.watched, start(), &settings, &out, &Device::Cpu).unwrap();
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
    let run = || teacher::run(&STAGES.watched, start(), &settings(2), &out, &Device::Cpu).unwrap();
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

/// Every option at once, so that one run shows that they work together and go on bit for bit.
pub fn optional(steps: u64) -> TeacherSettings {
    let grpo = GrpoSettings {
        advantage: Advantage::Decoupled,
        query_credit: 0.5,
        refills: 2,
        ..GrpoSettings::plain()
    };
    let plain = settings(steps);
    let fit = FitSettings { checkpoint_every: 1, ..plain.fit.clone() };
    TeacherSettings { grpo, watch: WatchSettings { every: 0, readers: 0, lists: 1 }, fit, ..plain }
}

#[test]
fn options_change_what_is_learned_and_a_run_with_them_goes_on_bit_for_bit() {
    let run = |settings: &TeacherSettings, name: &str| {
        let out = DIR.path().join(name);
        teacher::run(&STAGES.watched, start(), settings, &out, &Device::Cpu).unwrap();
        out
    };
    let whole = run(&optional(2), "options-whole");
    let cut = run(&optional(2), "options-cut");
    fs::remove_dir_all(checkpoint::latest(&cut).unwrap().unwrap()).unwrap();
    let cut = run(&optional(2), cut.file_name().unwrap().to_str().unwrap());
    let weights =
        |run: &Path| fs::read(checkpoint::latest(run).unwrap().unwrap().join(WEIGHTS_FILE)).unwrap();
    assert!(weights(&whole) == weights(&cut));
    let plain = TeacherSettings { grpo: GrpoSettings::plain(), ..optional(2) };
    assert!(weights(&whole) != weights(&run(&plain, "options-none")));
}

fn updated_twice(entropy_coef: f64) -> TeacherSettings {
    let grpo = GrpoSettings {
        updates_per_rollout: 2,
        clip_low: 0.01,
        clip_high: 0.01,
        entropy_coef,
        ..GrpoSettings::plain()
    };
    let plain = settings(4);
    let fit = FitSettings { peak_learning_rate: 5e-3, ..plain.fit.clone() };
    TeacherSettings { grpo, watch: WatchSettings { every: 0, readers: 0, lists: 1 }, fit, ..plain }
}

#[test]
fn a_second_update_of_the_same_lists_is_clipped_and_goes_on_bit_for_bit() {
    let run = |settings: &TeacherSettings, name: &str| {
        let out = DIR.path().join(name);
        teacher::run(&STAGES.watched, start(), settings, &out, &Device::Cpu).unwrap();
        out
    };
    let (whole, cut) = (run(&updated_twice(0.0), "updates-whole"), run(&updated_twice(0.0), "updates-cut"));
    fs::remove_dir_all(checkpoint::latest(&cut).unwrap().unwrap()).unwrap();
    assert!(checkpoint::latest(&cut).unwrap().unwrap().ends_with("step-00000002"));
    run(&updated_twice(0.0), "updates-cut");
    let weights =
        |run: &Path| fs::read(checkpoint::latest(run).unwrap().unwrap().join(WEIGHTS_FILE)).unwrap();
    assert!(weights(&whole) == weights(&cut));
    let lines = lines(&whole);
    let figure = |name: &str| lines.iter().map(|line| line[name].as_f64().unwrap()).collect::<Vec<_>>();
    let clipped = figure("clip_ratio/region_mean");
    assert!(
        clipped[0] == 0.0 && clipped[2] == 0.0,
        "the first update of a rollout is on the policy: {clipped:?}"
    );
    assert!(clipped[1] + clipped[3] > 0.0, "the second is not: {clipped:?}");
    let (rewards, tokens) = (figure("reward"), figure("tokens"));
    assert!(rewards[0] == rewards[1] && rewards[2] == rewards[3] && tokens[1] != tokens[2], "{rewards:?}");
    let mut sum = 0.0;
    let totals = tokens.iter().map(|tokens| {
        sum += tokens;
        sum
    });
    assert_eq!(figure("num_tokens"), totals.collect::<Vec<f64>>());
    let curious = run(&updated_twice(0.1), "updates-entropy");
    assert!(weights(&whole) != weights(&curious));
}

#[test]
fn groups_that_teach_nothing_are_replaced_at_most_as_often_as_asked() {
    // A network that has only read writes no list: every group is flat, however often it is replaced.
    let out = DIR.path().join("flat");
    let settings =
        TeacherSettings { grpo: GrpoSettings { refills: 2, ..GrpoSettings::plain() }, ..optional(1) };
    let start = Start { init: &SMALL, rollouts: None };
    teacher::run(&STAGES.watched, start, &settings, &out, &Device::Cpu).unwrap();
    let line = lines(&out).remove(0);
    assert_eq!(line["completions/valid_ratio"], 0.0);
    assert_eq!(line["frac_reward_zero_std"], 1.0);
    assert_eq!(line["dynamic_filtering_pass_rate"], 0.0);
}

/// What `FINE_TUNED` samples for the first prompts of a teacher, as another engine would hand it in; its log-probabilities are
/// lowered by `nats`, as those of an engine that computes less exactly.
fn rollouts(settings: &TeacherSettings, nats: f32) -> String {
    let (_, mut parameters) = checkpoint::open_model(&FINE_TUNED, &Device::Cpu).unwrap();
    let config = checkpoint::open_model(&FINE_TUNED, &Device::Cpu).unwrap().0;
    let model = Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap();
    let sampled = Sampled { model: Arc::new(model), tokens: tokens().0 };
    let mut prompts = teacher::prompts(&STAGES.watched, &FINE_TUNED, settings).unwrap().prompts;
    prompts.truncate(4);
    let groups =
        sampled.rows(&prompts, settings.lists_per_prompt, (9, SamplerSettings::PLAIN), &|| ()).unwrap();
    let line = |prompt: &[u32], row: &FinishedRow| {
        let logprobs: Vec<f32> = row.logprobs.iter().map(|logprob| logprob - nats).collect();
        let finish = if row.finish == Finish::Stop { "stop" } else { "length" };
        json!({"prompt_ids": prompt, "token_ids": row.ids, "logprobs": logprobs, "finish": finish})
    };
    let lines =
        prompts.iter().zip(&groups).flat_map(|(prompt, rows)| rows.iter().map(|row| line(prompt, row)));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn lists_sampled_elsewhere_are_learned_from_with_truncated_weights() {
    let mut settings = optional(2);
    settings.grpo = GrpoSettings { importance_max: 1.5, ..GrpoSettings::plain() };
    let file = DIR.path().join("rollouts.jsonl");
    for (nats, expected) in [(0.0, 1.0), (0.2, 0.2_f64.exp()), (0.7, 1.5)] {
        fs::write(&file, rollouts(&settings, nats)).unwrap();
        let out = DIR.path().join(format!("elsewhere-{nats}"));
        let start = Start { init: &FINE_TUNED, rollouts: Some(&file) };
        teacher::run(&STAGES.watched, start, &settings, &out, &Device::Cpu).unwrap();
        let line = lines(&out).remove(0);
        for part in ["min", "mean", "max"] {
            let weight = line[format!("sampling/importance_sampling_ratio/{part}")].as_f64().unwrap();
            assert!((weight - expected).abs() < 1e-3, "{part} {weight}, expected {expected}");
        }
    }
    let refused = |settings: &TeacherSettings, text: &str| {
        fs::write(&file, text).unwrap();
        let start = Start { init: &FINE_TUNED, rollouts: Some(&file) };
        let out = DIR.path().join("elsewhere-refused");
        teacher::run(&STAGES.watched, start, settings, &out, &Device::Cpu).unwrap_err().to_string()
    };
    let text = rollouts(&settings, 0.0);
    assert!(refused(&optional(1), &text).contains("importance_max"));
    let mut short: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    short["logprobs"] = json!([-1.0]);
    short["token_ids"] = json!([1, 2]);
    assert!(refused(&settings, &short.to_string()).contains("line 1: 2 tokens with 1 log-probabilities"));
    assert!(refused(&settings, "").contains("hold no 4 lists"));
}

#[test]
fn options_that_mean_nothing_are_refused() {
    for (grpo, said) in [
        (GrpoSettings { query_credit: -0.1, ..GrpoSettings::plain() }, "query_credit"),
        (GrpoSettings { importance_max: 0.5, ..GrpoSettings::plain() }, "importance_max"),
        (GrpoSettings { best_of: 0, ..GrpoSettings::plain() }, "best_of"),
        (GrpoSettings { best_of: 99, ..GrpoSettings::plain() }, "best_of"),
        (GrpoSettings { best_of: 2, advantage: Advantage::Decoupled, ..GrpoSettings::plain() }, "best_of"),
        (GrpoSettings { refills: 9, ..GrpoSettings::plain() }, "refills"),
        (GrpoSettings { updates_per_rollout: 0, ..GrpoSettings::plain() }, "expected 1 to 16"),
        (GrpoSettings { updates_per_rollout: 2, ..GrpoSettings::plain() }, "checkpoint_every is 1"),
        (GrpoSettings { clip_low: 1.0, ..GrpoSettings::plain() }, "clip_low"),
        (GrpoSettings { clip_high: 0.0, ..GrpoSettings::plain() }, "clip_high"),
        (GrpoSettings { entropy_coef: -0.1, ..GrpoSettings::plain() }, "entropy_coef"),
    ] {
        let settings = TeacherSettings { grpo, ..optional(1) };
        let out = DIR.path().join("meaningless");
        let error = teacher::run(&STAGES.watched, start(), &settings, &out, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// Whatever the defaults are, a file means what it says.
#[test]
fn settings_are_read_as_they_were_written_and_a_file_may_name_one_option() {
    let plain = TeacherSettings { grpo: GrpoSettings::plain(), ..settings(1) };
    let text = toml::to_string(&plain).unwrap();
    assert!(!text.contains("rewards"), "{text}");
    let file = DIR.path().join("teacher.toml");
    fs::write(&file, &text).unwrap();
    let back = layered(&settings(1), Some(&file), &[]).unwrap();
    assert_eq!(back, plain, "what is written is read again, whatever the defaults");
    fs::write(&file, "[grpo]\nadvantage = \"gated\"\n").unwrap();
    let read = |base: &TeacherSettings| layered(base, Some(&file), &[]).unwrap().grpo;
    assert_eq!(read(&plain), GrpoSettings { advantage: Advantage::Gated, ..GrpoSettings::plain() });
    assert_eq!(read(&settings(1)).best_of, 4, "what it does not name stays");
}

#[test]
fn the_sample_settings_name_every_option_and_change_nothing() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/teacher.toml");
    let sample: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
    let names = |options: toml::Table| options.keys().cloned().collect::<Vec<_>>();
    let of = |options: &toml::Value| names(options.as_table().unwrap().clone());
    let table = |options: Result<toml::Table, toml::ser::Error>| names(options.unwrap());
    // What stands at its default would not be written.
    let all = GrpoSettings {
        updates_per_rollout: 2,
        clip_low: 0.5,
        clip_high: 0.5,
        entropy_coef: 0.5,
        ..GrpoSettings::plain()
    };
    assert_eq!(of(&sample["grpo"]), table(toml::Table::try_from(all)));
    let weights = RewardWeights { rubric: 0.5, ..RewardWeights::usual() };
    assert_eq!(of(&sample["rewards"]["weights"]), table(toml::Table::try_from(weights)));
    assert_eq!(of(&sample["lora"]), table(toml::Table::try_from(LoraSettings::none())));
    // The limits of calls are no part of what is written: they do not make another run.
    let mut judge = of(&sample["http_judge"]);
    judge.retain(|name| name != "calls");
    assert_eq!(judge, table(toml::Table::try_from(HttpJudgeSettings::none())));
    let calls = table(toml::Table::try_from(CallSettings::usual()));
    assert_eq!(of(&sample["http_judge"]["calls"]), calls);
    let read = layered(&settings(1), Some(&file), &[]).unwrap();
    assert_eq!(read, settings(1));
}
