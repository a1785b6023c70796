//! Low-rank adapters as a setting of the stages: what they change, what is left to others, and how a run goes on.
use crate::support::stages::{FINE_TUNED, SMALL, STAGES, fit, tokens};
use candle_core::{DType, Device, Tensor};
use newshound::{
    bundle::load::{BundleSource, WEIGHTS_FILE, load},
    model::{ops::Numerics, precision::Precision, transformer::Transformer, weights::Checkpoint},
    train::{
        checkpoint,
        error::TrainError,
        pack_bundle::{self, Parts, Provenance},
        settings::{
            FitSettings, SftSettings, StudentSettings, TeacherSettings, grpo::GrpoSettings,
            lora::LoraSettings,
        },
        sft,
        student::{self, Pair, TeacherAt},
        teacher::{self, Start},
        watch::WatchSettings,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Where the runs of these tests go.
static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

const LORA: LoraSettings = LoraSettings { rank: 4, alpha: 8.0 };

fn each_step(steps: u64) -> FitSettings {
    FitSettings { checkpoint_every: 1, ..fit(steps, 2) }
}

fn tuned(out: &Path, lora: LoraSettings) -> Result<PathBuf, TrainError> {
    let settings = SftSettings {
        prompt_tokens: 96,
        subjects: 40,
        single_signal_steps: 0,
        lora,
        fit: each_step(3),
        ..SftSettings::demo()
    };
    let (tokens, json) = tokens();
    sft::run(&STAGES.training, (&tokens, &json), (&SMALL, &Device::Cpu), &settings, out)
}

fn logits(model: &Transformer) -> Vec<f32> {
    let ids = Tensor::new(&[[3_u32, 14, 15, 92, 65, 35]], &Device::Cpu).unwrap();
    model.logits(&model.hidden(&ids, None).unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn close(got: &[f32], expected: &[f32], tolerance: f32) -> bool {
    got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() <= tolerance)
}

#[test]
fn a_run_with_adapters_leaves_a_whole_model_that_says_what_the_adapted_one_says() {
    let folder = tuned(&DIR.path().join("merged"), LORA).unwrap();
    // The adapters alone, on the model that the run began with.
    let init = checkpoint::resolve(&SMALL).unwrap();
    let lora = LORA.of_seed(0).unwrap().unwrap();
    let (config, mut adapted) = checkpoint::open_adapted(&init, lora, &Device::Cpu).unwrap();
    let before = logits(&Transformer::load(&config, &mut adapted, Numerics::Train).unwrap());
    let bytes = fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap();
    // PEFT finds the model that it adapts, and transformers no adapter beside the merged weights, which it would add once more.
    let json = fs::read(folder.join("adapter/adapter_config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["base_model_name_or_path"], init.display().to_string());
    assert!(!folder.join("adapter_config.json").exists());
    let file =
        Checkpoint::from_files(vec![("a".to_owned(), bytes.into())], DType::F32, &Device::Cpu).unwrap();
    adapted.set_adapters(file).unwrap();
    let adapted = logits(&Transformer::load(&config, &mut adapted, Numerics::Train).unwrap());
    // The folder, as any other stage reads it.
    let (config, mut whole) = checkpoint::open_model(&folder, &Device::Cpu).unwrap();
    let whole = logits(&Transformer::load(&config, &mut whole, Numerics::Serve).unwrap());
    assert!(close(&whole, &adapted, 1e-5) && !close(&whole, &before, 1e-2));
    // And the bundle, in half precision.
    let parts = Parts {
        model: DIR.path().join("merged"),
        tokenizer: STAGES.tokenizer.clone(),
        head: None,
        cleaner: None,
        others: Vec::new(),
        figures: Vec::new(),
        bytes_max: None,
    };
    let provenance = Provenance {
        name: "adapted".to_owned(),
        version: "1".to_owned(),
        prompt_tokens_max: 96,
        commands: Vec::new(),
        seeds: BTreeMap::new(),
        training: BTreeMap::new(),
    };
    let at = DIR.path().join("bundle");
    pack_bundle::run(parts, provenance, &at).unwrap();
    let bundle = load(BundleSource::At(&at), Precision::F32, &Device::Cpu).unwrap();
    assert!(close(&logits(&bundle.model), &adapted, 2e-2));
}

#[test]
fn adapters_are_all_that_is_trained_and_a_run_goes_on_bit_for_bit() {
    let (whole, cut) = (DIR.path().join("whole"), DIR.path().join("cut"));
    let finished = tuned(&whole, LORA).unwrap();
    let last = tuned(&cut, LORA).unwrap();
    fs::remove_dir_all(last).unwrap();
    let resumed = tuned(&cut, LORA).unwrap();
    for file in [WEIGHTS_FILE, "adapter/adapter_model.safetensors", "optimizer.safetensors", "state.json"] {
        assert!(fs::read(finished.join(file)).unwrap() == fs::read(resumed.join(file)).unwrap(), "{file}");
    }
    let (_, before) = checkpoint::open_model(&checkpoint::resolve(&SMALL).unwrap(), &Device::Cpu).unwrap();
    let (_, after) = checkpoint::open_model(&finished, &Device::Cpu).unwrap();
    for (name, var) in before.vars() {
        let values = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let is_adapted = name.ends_with("_proj.weight");
        assert_eq!(values(var) != values(&after.vars()[name]), is_adapted, "{name}");
    }
    let error = tuned(&whole, LoraSettings { rank: 2, ..LORA }).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
    let error = tuned(&DIR.path().join("none"), LoraSettings { alpha: 0.0, ..LORA }).unwrap_err();
    assert!(error.to_string().contains("lora.alpha"), "{error}");
}

#[test]
fn teacher_and_student_learn_through_adapters_too() {
    let watch = WatchSettings { every: 0, readers: 0, lists: 1 };
    let (out, fit) = (DIR.path().join("teacher"), each_step(1));
    let settings = TeacherSettings {
        prompt_tokens: 96,
        lists_per_prompt: 2,
        grpo: GrpoSettings::plain(),
        lora: LORA,
        watch,
        fit: fit.clone(),
        ..TeacherSettings::demo()
    };
    let start = Start { init: &FINE_TUNED, rollouts: None };
    let teacher = teacher::run(&STAGES.watched, start, &settings, &out, &Device::Cpu).unwrap();
    let settings = StudentSettings { prompt_tokens: 96, lora: LORA, watch, fit, ..StudentSettings::demo() };
    let pair = Pair { student: &SMALL, teacher: TeacherAt::Folder(&teacher) };
    let student =
        student::run(&STAGES.watched, pair, &settings, &DIR.path().join("student"), &Device::Cpu).unwrap();
    for folder in [teacher, student] {
        assert!(
            folder.join("adapter/adapter_model.safetensors").is_file() && folder.join(WEIGHTS_FILE).is_file()
        );
    }
}
