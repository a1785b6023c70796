//! The pipeline's smallest profile: every stage from nothing, once, and never twice.
use candle_core::Device;
use newshound::{
    bundle::load::{self, BundleSource},
    model::precision::Precision,
    train::{
        pack_bundle,
        pipeline::{self, Profile},
        settings::{PretrainSettings, StudentSettings, layered},
    },
    world::WorldSettings,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Every file below a folder with the time it was written, but for the settings and diaries, which are written every time.
fn files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension != "jsonl" && extension != "toml") {
            found.push((path.clone(), fs::metadata(&path).unwrap().modified().unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn every_stage_leads_to_a_bundle_and_a_second_run_makes_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let (work, out) = (dir.path().join("work"), dir.path().join("bundle"));
    // The head needs valid lists of the student; how good its teacher is does not matter here.
    let mut profile = Profile::tiny();
    (profile.teacher_sft.fit.steps, profile.teacher_sft.single_signal_steps) = (50, 25);
    (profile.student_sft.fit.steps, profile.student_sft.single_signal_steps) = (500, 150);
    let made = pipeline::run(&profile, &work, None, &Device::Cpu).unwrap();
    let manifest = pack_bundle::run(made.parts, made.provenance, &out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.seeds.len()), ("newshound-tiny", 9));
    assert_eq!(manifest.training["student.steps"], "6");
    let loaded = load::load(BundleSource::At(&out), Precision::F32, &Device::Cpu).unwrap();
    assert!(loaded.head.is_some() && loaded.cleaner.is_some());
    // Its stages can be run one by one with the settings that lie beside them.
    let at = |name: &str| work.join("settings").join(name);
    let student = layered(&StudentSettings::demo(), Some(&at("student.toml")), &[]).unwrap();
    let pretrain = layered(&PretrainSettings::demo(), Some(&at("teacher-pretrain.toml")), &[]).unwrap();
    assert_eq!((student, pretrain), (profile.student.clone(), profile.teacher_pretrain.clone()));
    assert!(manifest.training["teacher-sft.seconds"].parse::<f64>().unwrap() > 0.0);
    check_refused(&profile, &work);
    let before = files(&work);
    pipeline::run(&profile, &work, None, &Device::Cpu).unwrap();
    let after = files(&work);
    let again: Vec<_> = after.iter().filter(|file| !before.contains(file)).map(|(path, _)| path).collect();
    assert!(again.iter().all(|path| path.extension().is_some_and(|e| e == "svg")), "{again:?}");
    check_found(profile, &work);
}

/// What was made here is not taken for what other settings would make.
fn check_refused(profile: &Profile, work: &Path) {
    let mut cleaner = profile.cleaner.clone();
    cleaner.seed += 1;
    for (other, part) in [
        (Profile { world_seed: 6, ..profile.clone() }, "world"),
        (Profile { vocab_size: 800, ..profile.clone() }, "tokenizer"),
        (Profile { cleaner, ..profile.clone() }, "cleaner"),
    ] {
        let error = pipeline::run(&other, work, None, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("other settings"), "{error}");
    }
}

/// What was put there by somebody is taken, and of how it was made only that is said which it says of itself.
fn check_found(profile: Profile, work: &Path) {
    for part in ["world", "tokenizer", "cleaner"] {
        fs::remove_file(work.join(part).join("stamp.json")).unwrap();
    }
    let other = Profile { world_seed: 6, vocab_size: 800, ..profile };
    let said = pipeline::run(&other, work, None, &Device::Cpu).unwrap().provenance;
    assert!(said.commands[0].ends_with("world generate --size tiny --seed 5 --out work/world"));
    let made = |what: &str| said.commands.iter().any(|command| command.contains(&format!("trainer {what} ")));
    assert!(!made("tokenizer") && !made("cleaner") && made("pretrain"), "{:?}", said.commands);
    assert_eq!((said.seeds["world"], said.seeds.contains_key("cleaner")), (5, false));
    assert!(said.training.contains_key("cleaner.made") && said.training.contains_key("tokenizer.made"));
    assert!(!said.training.contains_key("world.made"));
    // What another generator made, this one would not make again.
    let at = work.join("world").join("world.json");
    let mut about: serde_json::Value = serde_json::from_slice(&fs::read(&at).unwrap()).unwrap();
    about["generator_version"] = 0.into();
    assert_eq!(WorldSettings::made(&about), None);
}
