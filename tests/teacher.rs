//! Dr.GRPO on the five rewards: what a run notes, and that one that is cut short goes on bit for bit.
use crate::support::device::{device, tolerance};
use candle_core::Device;
use newshound::{
    bundle::load::WEIGHTS_FILE,
    train::{
        checkpoint,
        error::TrainError,
        events::{Scope, World},
        pretrain,
        settings::{FitSettings, PretrainSettings, SftSettings, StudentShape, Targets, TeacherSettings},
        sft, teacher, tokenizer,
    },
    world::{self, Size, WorldSettings},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

struct Shared {
    dir: tempfile::TempDir,
    world: World,
    student: PathBuf,
}

fn fit(steps: u64, micro_batches: usize) -> FitSettings {
    FitSettings {
        steps,
        micro_batches,
        peak_learning_rate: 5e-3,
        warmup_steps: 2,
        checkpoint_every: 2,
        ..PretrainSettings::demo().fit
    }
}

/// A tiny student that has learned some of the form of a list.
static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    world::generate(&WorldSettings { size: Size::Tiny, seed: 5 }, &at("world"), &mut |_, _| ()).unwrap();
    let world = World::read(&at("world"), Scope::Training).unwrap();
    tokenizer::run(&world, 700, &at("tokenizer")).unwrap();
    let (tokens, json) = tokenizer::read(&at("tokenizer")).unwrap();
    let student = StudentShape {
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions: 512,
    };
    let settings = PretrainSettings { student, row_tokens: 64, word_vectors: true, fit: fit(4, 2) };
    pretrain::run(&world, &at("tokenizer"), &settings, &at("pretrain"), &Device::Cpu).unwrap();
    let settings = SftSettings {
        prompt_tokens: 96,
        cuts_per_reader: 2,
        later_hours: 72,
        targets: Targets::Judge,
        session_gap_minutes: 30,
        fit: fit(60, 2),
    };
    sft::run(&world, (&tokens, &json), (&at("pretrain"), &Device::Cpu), &settings, &at("student")).unwrap();
    let student = at("student");
    Shared { dir, world, student }
});

fn settings(steps: u64) -> TeacherSettings {
    TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 4,
        fit: FitSettings { peak_learning_rate: 1e-3, ..fit(steps, 3) },
    }
}

fn lines(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_notes_every_reward_and_samples_from_the_network_that_it_trains() {
    let out = SHARED.dir.path().join("notes");
    let folder = teacher::run(&SHARED.world, &SHARED.student, &settings(2), &out, &device()).unwrap();
    assert!(folder.join(WEIGHTS_FILE).is_file() && out.join("reward.svg").is_file());
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
    let (whole, cut) = (SHARED.dir.path().join("whole"), SHARED.dir.path().join("cut"));
    let run = |out: &Path| teacher::run(&SHARED.world, &SHARED.student, &settings(4), out, &Device::Cpu);
    let finished = run(&whole).unwrap();
    run(&cut).unwrap();
    // As if it had been killed after its second step.
    fs::remove_dir_all(checkpoint::latest(&cut).unwrap().unwrap()).unwrap();
    assert!(checkpoint::latest(&cut).unwrap().unwrap().ends_with("step-00000002"));
    let resumed = run(&cut).unwrap();
    for file in [WEIGHTS_FILE, "optimizer.safetensors", "state.json"] {
        assert!(fs::read(finished.join(file)).unwrap() == fs::read(resumed.join(file)).unwrap(), "{file}");
    }
    let rewards = |run: &Path| lines(run).iter().map(|line| line["reward"].clone()).collect::<Vec<_>>();
    assert_eq!(rewards(&whole), rewards(&cut));
}

#[test]
fn other_settings_do_not_go_on_with_a_run_and_an_empty_world_has_nobody_to_ask() {
    let out = SHARED.dir.path().join("other");
    teacher::run(&SHARED.world, &SHARED.student, &settings(1), &out, &Device::Cpu).unwrap();
    let error = teacher::run(&SHARED.world, &SHARED.student, &settings(2), &out, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
    let mut empty = SHARED.world.clone();
    empty.readers.clear();
    let error = teacher::run(&empty, &SHARED.student, &settings(1), &out, &Device::Cpu).unwrap_err();
    assert!(matches!(error, TrainError::TooLittleData { .. }), "{error:?}");
}
