//! Models in 8 bits, and what that costs.
use super::{files, packed, parts_of, provenance};
use crate::support::stages::FINE_TUNED;
use candle_core::Device;
use newshound::{
    bundle::load::{self, BundleSource},
    model::precision::Precision,
    train::{
        pack_bundle::{self, Parts, Provenance},
        quantize::{self, COST_FILE, cost},
    },
};
use std::{fs, path::Path};

#[test]
fn a_model_in_8_bits_is_packed_and_served_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (model, rounded) = (dir.path().join("run"), dir.path().join("rounded"));
    fs::create_dir(&model).unwrap();
    for (name, bytes) in files(512) {
        fs::write(model.join(name), bytes).unwrap();
    }
    quantize::run(&model, None, &rounded).unwrap();
    let again = quantize::run(&rounded, None, &dir.path().join("again")).unwrap_err().to_string();
    assert!(again.contains("in 8 bits already"), "{again}");
    let pack = |model: &Path, name: &str| {
        let out = dir.path().join(name);
        let manifest = packed(model, &out).unwrap();
        let size = fs::metadata(out.join("model.safetensors")).unwrap().len();
        let bundle = load::load(BundleSource::At(&out), Precision::Int8, &Device::Cpu).unwrap();
        let (_, hidden) = bundle.model.prefill(&[1, 2, 3]).unwrap();
        let logits = bundle.model.logits(&hidden).unwrap().squeeze(0).unwrap().to_vec1::<f32>().unwrap();
        (manifest.training["weights"].clone(), size, logits)
    };
    let (in_floats, size, expected) = pack(&model, "floats");
    let (in_8_bits, small, got) = pack(&rounded, "bytes");
    assert_eq!((in_floats.as_str(), in_8_bits.as_str()), ("f16", "8 bits, rounded per output"));
    assert!(small * 10 < size * 7, "{small} bytes of {size}");
    // Floats of 16 bits have rounded the one before it was rounded to 8.
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-2 * (1.0 + expected.abs()), "{got} {expected}");
    }
}

#[test]
fn what_8_bits_cost_is_measured_on_lists_and_told_by_the_bundle_and_its_card() {
    let dir = tempfile::tempdir().unwrap();
    let (prompts, rounded) = (dir.path().join("prompts.jsonl"), dir.path().join("rounded"));
    fs::write(&prompts, "{\"prompt_ids\": [5, 6, 7], \"label\": \"x\"}\n{\"prompt_ids\": [8, 9]}\n").unwrap();
    quantize::run(&FINE_TUNED, Some(&prompts), &rounded).unwrap();
    let told = cost::measure(&FINE_TUNED, &rounded, &prompts).unwrap();
    assert!(told.lists == 2 && told.tokens >= 2, "{told:?}");
    assert!(told.kl_nats_per_token > 0.0 && told.kl_nats_per_token < 0.1, "{told:?}");
    // Who serves the floats in 8 bits rounds them to the same numbers.
    assert_eq!(cost::measure(&FINE_TUNED, &FINE_TUNED, &prompts).unwrap(), told);
    let written: cost::Cost = serde_json::from_slice(&fs::read(rounded.join(COST_FILE)).unwrap()).unwrap();
    assert_eq!(written, told);
    let parts = Parts { figures: vec!["| a | table |".to_owned()], ..parts_of(&rounded) };
    let out = dir.path().join("bundle");
    let manifest =
        pack_bundle::run(parts, Provenance { prompt_tokens_max: 96, ..provenance() }, &out).unwrap();
    let fact = &manifest.training["weights.kl"];
    assert!(fact.contains(&format!("the mean of {} in 2 lists", told.tokens)), "{fact}");
    assert!(fs::read_to_string(out.join("CARD.md")).unwrap().contains(fact));
    for (content, mention) in [("", "no prompt"), ("{}", "prompts.jsonl")] {
        fs::write(&prompts, content).unwrap();
        let error = cost::measure(&FINE_TUNED, &rounded, &prompts).unwrap_err().to_string();
        assert!(error.contains(mention), "{error}");
    }
}
