//! Finds golden cases: `NEWSHOUND_GOLDENS`, or the folder in the repository.
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// The folder whose cases are checked.
pub fn root() -> PathBuf {
    std::env::vars().find(|(name, _)| name == "NEWSHOUND_GOLDENS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/goldens"),
        |(_, folder)| PathBuf::from(folder),
    )
}

/// Model folders whose `architectures[0]` is accepted, sorted.
pub fn models(accept: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    entries(&root().join("models"))
        .into_iter()
        .filter(|folder| folder.join("config.json").is_file())
        .filter(|folder| {
            accept(json(&folder.join("config.json"))["architectures"][0].as_str().unwrap_or_default())
        })
        .collect()
}

/// Entries of a folder, sorted; none where it is missing.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .map(|dir| dir.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    found.sort();
    found
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON number as f32; `{"nonfinite": "inf"}` is read too.
pub fn f32_of(value: &Value) -> f32 {
    match value {
        Value::Object(map) => map["nonfinite"].as_str().unwrap().parse().unwrap(),
        number => number.as_f64().unwrap() as f32,
    }
}

pub fn f32s(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(f32_of).collect()
}

pub fn u32s(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Fails with the first place where two slices differ by more than the tolerance.
pub fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths differ");
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        let close = got == expected || (got - expected).abs() <= tolerance;
        assert!(close, "{what}[{idx}]: got {got}, expected {expected}, tolerance {tolerance}");
    }
}
