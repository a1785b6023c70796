//! Distillation: a student comes nearer to its teacher, in every mode, and goes on bit for bit.
use crate::support::{
    device::{device, tolerance},
    logs::logged,
    stages::{FINE_TUNED, SMALL, STAGES, fit, tokens},
};
use candle_core::{DType, Device, Tensor};
use newshound::{
    bundle::load::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
    train::{
        checkpoint,
        error::TrainError,
        settings::{Distillation, SftSettings, StudentSettings, TeacherSettings, output::OutputTokens},
        sft,
        student::{self, Pair, TeacherAt},
        teacher::{self, Start},
        watch::WatchSettings,
    },
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Where the runs of these tests go.
static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn settings(mode: Distillation, steps: u64) -> StudentSettings {
    StudentSettings {
        mode,
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 2,
        watch: WatchSettings { every: 0, readers: 0, lists: 1 },
        fit: fit(steps, 4),
        ..StudentSettings::demo()
    }
}

fn run(settings: &StudentSettings, name: &str, device: &Device) -> Result<PathBuf, TrainError> {
    let pair = Pair { student: &SMALL, teacher: TeacherAt::Folder(&FINE_TUNED) };
    student::run(&STAGES.watched, pair, settings, &DIR.path().join(name), device)
}

fn losses(name: &str) -> Vec<f64> {
    let text = fs::read_to_string(DIR.path().join(name).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(loss).collect()
}

#[track_caller]
fn check_learns(mode: Distillation, name: &str) {
    let folder = run(&settings(mode, 16), name, &device()).unwrap();
    assert!(folder.ends_with("step-00000016"), "nothing is watched, so the last is the result");
    let losses = losses(name);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / 4.0;
    let (first, last) = (mean(&losses[..4]), mean(&losses[12..]));
    assert!(losses.iter().all(|loss| *loss > 0.0) && last < first - 0.1, "{mode:?}: {losses:?}");
}

#[test]
fn a_student_comes_nearer_to_its_teacher_on_its_own_lists() {
    check_learns(Distillation::ReverseKl, "reverse");
}

#[test]
fn a_student_comes_nearer_to_its_teacher_on_the_teachers_lists() {
    check_learns(Distillation::ForwardKl, "forward");
    check_learns(Distillation::Supervised, "supervised");
}

#[test]
fn a_student_that_is_its_teacher_has_nothing_to_learn() {
    let pair = Pair { student: &FINE_TUNED, teacher: TeacherAt::Folder(&FINE_TUNED) };
    student::run(
        &STAGES.watched,
        pair,
        &settings(Distillation::ReverseKl, 1),
        &DIR.path().join("same"),
        &device(),
    )
    .unwrap();
    assert!(losses("same")[0].abs() < 1e-4, "{:?}", losses("same"));
}

#[test]
fn four_steps_are_two_and_two_after_a_restart_under_watch() {
    let watched = StudentSettings {
        watch: WatchSettings { every: 2, readers: 8, lists: 1 },
        ..settings(Distillation::ReverseKl, 4)
    };
    let at = |name: &str| DIR.path().join(name);
    let best = run(&watched, "whole", &Device::Cpu).unwrap();
    assert!(best.starts_with(at("whole").join("best")), "{}", best.display());
    run(&watched, "cut", &Device::Cpu).unwrap();
    let newest = |name: &str| checkpoint::latest(&at(name)).unwrap().unwrap();
    // As if it had been killed after its second step.
    fs::remove_dir_all(newest("cut")).unwrap();
    assert!(newest("cut").ends_with("step-00000002"));
    run(&watched, "cut", &Device::Cpu).unwrap();
    let read = |folder: &Path, file: &str| fs::read(folder.join(file)).unwrap();
    for file in [WEIGHTS_FILE, "optimizer.safetensors", "state.json"] {
        assert!(read(&newest("whole"), file) == read(&newest("cut"), file), "{file}");
    }
    assert_eq!(read(&at("whole"), "watch.jsonl"), read(&at("cut"), "watch.jsonl"));
}

#[test]
fn a_teacher_that_reads_other_tokens_is_refused() {
    let other = DIR.path().join("other");
    fs::create_dir_all(&other).unwrap();
    for file in fs::read_dir(&*FINE_TUNED).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    let tokenizer = fs::read_to_string(other.join("tokenizer.json")).unwrap();
    fs::write(other.join("tokenizer.json"), tokenizer + "\n").unwrap();
    let pair = Pair { student: &SMALL, teacher: TeacherAt::Folder(&other) };
    let error = student::run(
        &STAGES.watched,
        pair,
        &settings(Distillation::ReverseKl, 1),
        &DIR.path().join("refused"),
        &Device::Cpu,
    )
    .unwrap_err();
    assert!(error.to_string().contains("another tokenizer"), "{error}");
}

/// Larger models of a family have logits for more tokens than the tokenizer knows.
#[test]
fn a_wider_teacher_is_cut_to_the_students_tokens_and_the_log_says_so() {
    let wide = DIR.path().join("wide");
    fs::create_dir_all(&wide).unwrap();
    fs::copy(FINE_TUNED.join(TOKENIZER_FILE), wide.join(TOKENIZER_FILE)).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(FINE_TUNED.join(CONFIG_FILE)).unwrap()).unwrap();
    let n_tokens = config["vocab_size"].as_u64().unwrap();
    config["vocab_size"] = Value::from(n_tokens + 8);
    fs::write(wide.join(CONFIG_FILE), config.to_string()).unwrap();
    let mut tensors = candle_core::safetensors::load(FINE_TUNED.join(WEIGHTS_FILE), &Device::Cpu).unwrap();
    let embeddings = tensors.get_mut("model.embed_tokens.weight").unwrap();
    let more = Tensor::zeros((8, embeddings.dim(1).unwrap()), DType::F32, &Device::Cpu).unwrap();
    *embeddings = Tensor::cat(&[&*embeddings, &more], 0).unwrap();
    candle_core::safetensors::save(&tensors, wide.join(WEIGHTS_FILE)).unwrap();
    let taught = |teacher: &Path, name: &str| {
        let pair = Pair { student: &SMALL, teacher: TeacherAt::Folder(teacher) };
        let settings = settings(Distillation::ReverseKl, 1);
        let run = || student::run(&STAGES.watched, pair, &settings, &DIR.path().join(name), &Device::Cpu);
        let (folder, log) = logged(run);
        (fs::read(folder.unwrap().join(WEIGHTS_FILE)).unwrap(), log)
    };
    let ((weights, log), (cut_weights, cut_log)) =
        (taught(&FINE_TUNED, "as-wide"), taught(&wide, "cut-down"));
    assert!(weights == cut_weights);
    let said = format!("n_teacher={} n_student={n_tokens}", n_tokens + 8);
    assert!(cut_log.contains(&said) && cut_log.contains("WARN"), "{cut_log}");
    assert!(!log.contains("n_teacher"), "{log}");
}

/// Fine-tuned to write only what it is taught, and then distilled.
#[test]
fn a_student_with_a_pruned_output_samples_what_it_learns_from() {
    let (tokens, json) = tokens();
    let pruned = SftSettings {
        prompt_tokens: 96,
        cuts_per_reader: 2,
        subjects: 40,
        singles_per_reader: 2,
        single_signal_steps: 2,
        output_tokens: OutputTokens::Taught,
        fit: fit(6, 2),
        ..SftSettings::demo()
    };
    let out = DIR.path().join("pruned-sft");
    let init = sft::run(&STAGES.training, (&tokens, &json), (&FINE_TUNED, &device()), &pruned, &out).unwrap();
    let (config, _) = checkpoint::open_model(&init, &Device::Cpu).unwrap();
    let n_written = config.output_ids.n_of(config.vocab_size);
    assert!((3..config.vocab_size).contains(&n_written), "{n_written} of {}", config.vocab_size);
    let teacher = || TeacherAt::Folder(&FINE_TUNED);
    let student = |pair: Pair<'_>, name: &str| {
        let settings = settings(Distillation::ReverseKl, 2);
        student::run(&STAGES.watched, pair, &settings, &DIR.path().join(name), &device())
    };
    let folder = student(Pair { student: &init, teacher: teacher() }, "pruned").unwrap();
    assert_eq!(checkpoint::open_model(&folder, &Device::Cpu).unwrap().0, config);
    student(Pair { student: &init, teacher: TeacherAt::Folder(&init) }, "pruned-same").unwrap();
    assert!(losses("pruned-same")[0].abs() < 1e-4, "{:?}", losses("pruned-same"));
    // Of some tokens that teacher has nothing to say.
    let error = student(Pair { student: &SMALL, teacher: TeacherAt::Folder(&init) }, "whole-of-pruned");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("may not write all tokens"), "{error}");
    let start = Start { init: &init, rollouts: None };
    let grpo = TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 4,
        watch: WatchSettings { every: 0, readers: 0, lists: 1 },
        fit: fit(1, 2),
        ..TeacherSettings::demo()
    };
    teacher::run(&STAGES.watched, start, &grpo, &DIR.path().join("pruned-grpo"), &device()).unwrap();
    let line = fs::read_to_string(DIR.path().join("pruned-grpo").join("metrics.jsonl")).unwrap();
    let line: Value = serde_json::from_str(line.trim()).unwrap();
    let difference = line["sampling/sampling_logp_difference/max"].as_f64().unwrap();
    assert!(difference < f64::from(tolerance(1e-4)), "{line}");
}
