//! Models in several files, as large ones come, in the place of those in one.
use crate::support::stages::{FINE_TUNED, SMALL, STAGES, fit, tokens};
use candle_core::{Device, Tensor};
use newshound::{
    bundle::{
        load::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
        manifest::sha256_hex,
    },
    train::{
        checkpoint,
        settings::{SftSettings, StudentSettings, TeacherSettings},
        sft,
        student::{self, Pair, TeacherAt},
        teacher::{self, Start},
        watch::WatchSettings,
    },
};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

const OFF: WatchSettings = WatchSettings { every: 0, readers: 0, lists: 1 };

/// The same model in two files with an index.
fn sharded(model: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for file in [CONFIG_FILE, TOKENIZER_FILE] {
        fs::copy(model.join(file), to.join(file)).unwrap();
    }
    let tensors: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(model.join(WEIGHTS_FILE), &Device::Cpu).unwrap().into_iter().collect();
    let mut shards = [HashMap::new(), HashMap::new()];
    let mut weight_map = BTreeMap::new();
    for (idx, (name, tensor)) in tensors.into_iter().enumerate() {
        weight_map.insert(name.clone(), format!("model-{}.safetensors", idx % 2));
        shards[idx % 2].insert(name, tensor);
    }
    for (idx, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, to.join(format!("model-{idx}.safetensors"))).unwrap();
    }
    let index = json!({ "weight_map": weight_map }).to_string();
    fs::write(to.join("model.safetensors.index.json"), index).unwrap();
    to.to_owned()
}

/// Stages that start from a model make the same of it however it is stored.
#[test]
fn every_stage_starts_from_a_model_in_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let small = sharded(&SMALL, &at("small"));
    let large = sharded(&FINE_TUNED, &at("large"));
    let weights = |folder: PathBuf| fs::read(folder.join(WEIGHTS_FILE)).unwrap();
    let (tokens, json) = tokens();
    let tuned = |init: &Path, name: &str| {
        let settings = SftSettings {
            prompt_tokens: 96,
            cuts_per_reader: 2,
            subjects: 40,
            single_signal_steps: 1,
            fit: fit(2, 2),
            ..SftSettings::demo()
        };
        weights(
            sft::run(&STAGES.training, (&tokens, &json), (init, &Device::Cpu), &settings, &at(name)).unwrap(),
        )
    };
    assert!(tuned(&SMALL, "sft-one") == tuned(&small, "sft-many"));
    let taught = |init: &Path, name: &str| {
        let settings = TeacherSettings {
            prompt_tokens: 96,
            cuts_per_reader: 1,
            lists_per_prompt: 4,
            watch: OFF,
            fit: fit(1, 2),
            ..TeacherSettings::demo()
        };
        let start = Start { init, rollouts: None };
        weights(teacher::run(&STAGES.watched, start, &settings, &at(name), &Device::Cpu).unwrap())
    };
    assert!(taught(&FINE_TUNED, "teacher-one") == taught(&large, "teacher-many"));
    let distilled = |student: &Path, teacher: &Path, name: &str| {
        let settings = StudentSettings {
            prompt_tokens: 96,
            cuts_per_reader: 1,
            watch: OFF,
            fit: fit(1, 2),
            ..StudentSettings::demo()
        };
        let pair = Pair { student, teacher: TeacherAt::Folder(teacher) };
        weights(student::run(&STAGES.watched, pair, &settings, &at(name), &Device::Cpu).unwrap())
    };
    assert!(distilled(&SMALL, &FINE_TUNED, "student-one") == distilled(&small, &large, "student-many"));
}

/// A run is known by the weights that it started from: one file as ever, of several each.
#[test]
fn weights_in_one_file_keep_their_digest_and_each_of_several_counts() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(SMALL.join(WEIGHTS_FILE)).unwrap();
    assert_eq!(checkpoint::weights_digest(&SMALL).unwrap(), sha256_hex(&bytes));
    let model = sharded(&SMALL, &dir.path().join("small"));
    let mut seen = vec![checkpoint::weights_digest(&model).unwrap()];
    for file in ["model-0.safetensors", "model-1.safetensors", "model.safetensors.index.json"] {
        let mut bytes = fs::read(model.join(file)).unwrap();
        bytes.push(b' ');
        fs::write(model.join(file), bytes).unwrap();
        seen.push(checkpoint::weights_digest(&model).unwrap());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    fs::remove_file(model.join("model-1.safetensors")).unwrap();
    let error = format!("{:?}", checkpoint::weights_digest(&model).unwrap_err());
    assert!(error.contains("model-1.safetensors"), "{error}");
}
