//! Goldens: lora. An adapter of PEFT's on a model: logits, gradients, and logits after merging.
use crate::support::{
    device::{device, tolerance},
    goldens::{self, assert_close, f32_of},
};
use candle_core::{DType, Device, Tensor};
use newshound::{
    model::{
        lora::{Lora, TARGETS},
        ops::Numerics,
        transformer::Transformer,
        weights::{Checkpoint, Parameters},
    },
    train::{
        checkpoint,
        fit::{self, MicroBatch},
    },
};
use std::{collections::BTreeSet, fs, path::Path};

fn cases() -> Vec<std::path::PathBuf> {
    let cases: Vec<_> =
        goldens::entries(&goldens::root().join("lora")).into_iter().filter(|path| path.is_dir()).collect();
    assert!(!cases.is_empty(), "no golden adapter was found");
    cases
}

/// The file of an adapter, as a checkpoint.
fn adapter(case: &Path) -> Checkpoint {
    let bytes = fs::read(case.join("adapter_model.safetensors")).unwrap();
    Checkpoint::from_files(vec![("adapter".to_owned(), bytes.into())], DType::F32, &device()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn logits(model: &Transformer, prompt: &Tensor) -> Vec<f32> {
    let ids = prompt.to_dtype(DType::U32).unwrap().unsqueeze(0).unwrap().to_device(&device()).unwrap();
    values(&model.logits(&model.hidden(&ids, None).unwrap()).unwrap())
}

#[test]
fn golden_adapters_give_the_logits_and_gradients_of_the_reference_alone_and_merged() {
    for case in cases() {
        let config = goldens::json(&case.join("adapter_config.json"));
        let targets: BTreeSet<&str> =
            config["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(targets, BTreeSet::from(TARGETS), "{}", case.display());
        let rank = usize::try_from(config["r"].as_u64().unwrap()).unwrap();
        let lora = Lora { rank, alpha: config["lora_alpha"].as_f64().unwrap(), seed: 0 };
        let base = goldens::root().join(config["base_model_name_or_path"].as_str().unwrap());
        let (config, mut parameters) = checkpoint::open_adapted(&base, lora, &device()).unwrap();
        parameters.set_adapters(adapter(&case)).unwrap();
        let expected = goldens::tensors(&case.join("expected.safetensors"));
        let close = |got: &[f32], name: &str| {
            assert_close(
                got,
                &values(&expected[name]),
                tolerance(2e-4),
                &format!("{} {name}", case.display()),
            );
        };
        let adapted = Transformer::load(&config, &mut parameters, Numerics::Train).unwrap();
        close(&logits(&adapted, &expected["prompt_0"]), "logits_0");
        close(&logits(&adapted, &expected["prompt_1"]), "logits_1");
        let weights = parameters.to_safetensors(DType::F32).unwrap();
        let files = vec![("merged".to_owned(), weights.into())];
        let mut merged = Checkpoint::from_files(files, DType::F32, &device()).unwrap();
        let merged = Transformer::load(&config, &mut merged, Numerics::Serve).unwrap();
        close(&logits(&merged, &expected["prompt_0"]), "merged_logits_0");
        // What serves while the adapters are trained is merged too.
        let serving = Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap();
        close(&logits(&serving, &expected["prompt_1"]), "logits_1");
        check_gradients(&case, &adapted, &parameters);
    }
}

/// Of the mean cross-entropy of every token of the second prompt but the first.
fn check_gradients(case: &Path, model: &Transformer, parameters: &Parameters) {
    let expected = goldens::tensors(&case.join("expected.safetensors"));
    let prompt = expected["prompt_1"].to_device(&Device::Cpu).unwrap();
    let ids: Vec<u32> = prompt.to_dtype(DType::U32).unwrap().to_vec1().unwrap();
    let n_targets = ids.len() - 1;
    let batch = MicroBatch {
        predictors: (0..u32::try_from(n_targets).unwrap()).collect(),
        targets: ids[1..].to_vec(),
        ids,
        n_rows: 1,
    };
    let part = fit::loss_and_gradients(model, parameters, &batch, n_targets).unwrap();
    let loss = f64::from(f32_of(&goldens::json(&case.join("expected.json"))["cross_entropy_prompt_1"]));
    assert!((part.loss - loss).abs() <= 1e-4, "{}: {}, expected {loss}", case.display(), part.loss);
    let names: Vec<&String> = parameters.vars().keys().collect();
    let of = |name: &String| values(&expected[&format!("grad/{name}")]);
    let largest =
        names.iter().flat_map(|name| of(name)).fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert_eq!(names.len(), expected.keys().filter(|name| name.starts_with("grad/")).count());
    for name in names {
        let got = part.gradients.get(name).unwrap();
        assert_close(got, &of(name), tolerance(1e-4) * largest, &format!("{} grad/{name}", case.display()));
    }
}
