//! Goldens of causal decoders: logits, hidden states, padding, greedy decoding, scored continuations.
use super::CAUSAL;
use crate::support::device::{device, tolerance};
use crate::support::goldens::{assert_close, entries, f32s, json, models, u32s};
use candle_core::{DType, Tensor};
use newshound::model::{
    config::DecoderConfig,
    kv_cache::Forks,
    ops::{Numerics, entropies, token_logprobs},
    scorer::last_token_embedding,
    transformer::Transformer,
    weights::Checkpoint,
};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const TOLERANCE: f32 = 2e-4;
const LOGPROB_TOLERANCE: f32 = 1e-4;

/// One checkpoint under one of its config files, in one numerics, with what the reference computed.
struct Case {
    name: String,
    model: Transformer,
    expected: Value,
    tensors: HashMap<String, Tensor>,
}

#[test]
fn golden_causal_models_agree_in_logits_and_hidden_states() {
    check(&[Numerics::Serve, Numerics::Train], |case| {
        let mut n_checked = 0;
        for (name, ids) in case.tensors.iter().filter(|(name, _)| name.starts_with("prompt_")) {
            let idx = name.trim_start_matches("prompt_");
            let ids = ids.to_device(&device()).unwrap().to_dtype(DType::U32).unwrap().unsqueeze(0).unwrap();
            let hidden = case.model.hidden(&ids, None).unwrap();
            let logits = case.model.logits(&hidden).unwrap();
            n_checked += case.agrees(&format!("hidden_last_{idx}"), &hidden);
            n_checked += case.agrees(&format!("logits_{idx}"), &logits);
        }
        n_checked
    });
}

#[test]
fn golden_causal_models_agree_on_padded_batches() {
    check(&[Numerics::Serve, Numerics::Train], |case| {
        let mut n_checked = 0;
        for side in ["left", "right"] {
            let Some(ids) = case.tensors.get(&format!("{side}_input_ids")) else { continue };
            let ids = ids.to_device(&device()).unwrap().to_dtype(DType::U32).unwrap();
            let mask = case.tensors[&format!("{side}_attention_mask")].to_device(&device()).unwrap();
            let mask = mask.to_dtype(DType::F32).unwrap();
            let hidden = case.model.hidden(&ids, Some(&mask)).unwrap();
            let logits = case.model.logits(&hidden).unwrap();
            let logits = logits.broadcast_mul(&mask.unsqueeze(2).unwrap()).unwrap();
            n_checked += case.agrees(&format!("{side}_logits"), &logits);
            n_checked += case.agrees("last_token_embedding", &last_token_embedding(&hidden, &mask).unwrap());
        }
        n_checked
    });
}

#[test]
fn golden_causal_models_agree_in_greedy_decoding() {
    check(&[Numerics::Serve], |case| {
        let greedy = list(&case.expected["greedy"]);
        let prompts = list(&case.expected["prompts"]);
        assert_eq!(prompts.len(), greedy.len(), "{}", case.name);
        for (prompt, expected) in prompts.iter().zip(greedy) {
            case.greedy_agrees(&u32s(prompt), expected);
        }
        greedy.len()
    });
}

#[test]
fn golden_causal_models_agree_on_scored_continuations() {
    check(&[Numerics::Serve, Numerics::Train], |case| {
        let scored = list(&case.expected["scored"]);
        for expected in scored {
            let prompt = u32s(&case.expected["prompts"][expected["prompt"].as_u64().unwrap() as usize]);
            case.continuation_agrees(&prompt, expected);
        }
        scored.len()
    });
}

impl Case {
    /// Compares with an expected tensor where there is one; returns how many were compared.
    fn agrees(&self, name: &str, got: &Tensor) -> usize {
        let Some(expected) = self.tensors.get(name) else { return 0 };
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_close(
            &values(got),
            &values(expected),
            tolerance(TOLERANCE),
            &format!("{}: {name}", self.name),
        );
        1
    }

    fn greedy_agrees(&self, prompt: &[u32], expected: &Value) {
        let (prefix, mut hidden) = self.model.prefill(prompt).unwrap();
        let mut forks = Forks::new(Arc::new(prefix), 1);
        let logprobs = expected["logprobs"].as_array().map(|_| f32s(&expected["logprobs"]));
        for (step, &token) in u32s(&expected["tokens"]).iter().enumerate() {
            let what = format!("{}: greedy step {step}", self.name);
            let logits = self.model.logits(&hidden).unwrap();
            let all = candle_nn::ops::log_softmax(&logits, 1).unwrap().squeeze(0).unwrap();
            let all = all.to_vec1::<f32>().unwrap();
            let mut order: Vec<u32> = (0..u32::try_from(all.len()).unwrap()).collect();
            order.sort_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]));
            assert_eq!(order[0], token, "{what}");
            if let Some(logprobs) = &logprobs {
                assert_close(&[all[token as usize]], &[logprobs[step]], tolerance(LOGPROB_TOLERANCE), &what);
            }
            if let Some(ids) = expected["top5_ids"].get(step) {
                let best: Vec<f32> = u32s(ids).iter().map(|&id| all[id as usize]).collect();
                let ranked: Vec<f32> = order[..best.len()].iter().map(|&id| all[id as usize]).collect();
                assert_close(
                    &best,
                    &f32s(&expected["top5_logprobs"][step]),
                    tolerance(LOGPROB_TOLERANCE),
                    &what,
                );
                assert_close(&best, &ranked, tolerance(LOGPROB_TOLERANCE), &what);
            }
            hidden = self.model.step(&mut [&mut forks], &[token]).unwrap();
        }
    }

    fn continuation_agrees(&self, prompt: &[u32], expected: &Value) {
        let continuation = u32s(&expected["continuation"]);
        let row: Vec<u32> = prompt.iter().chain(&continuation).copied().collect();
        let row = Tensor::new(row, &device()).unwrap().unsqueeze(0).unwrap();
        let logits = self.model.logits(&self.model.hidden(&row, None).unwrap()).unwrap();
        let logits = logits.narrow(1, prompt.len() - 1, continuation.len()).unwrap().squeeze(0).unwrap();
        let ids = Tensor::new(continuation.as_slice(), &device()).unwrap();
        let close = |got: Tensor, key: &str| {
            if expected[key].is_array() {
                let got = got.to_vec1::<f32>().unwrap();
                assert_close(
                    &got,
                    &f32s(&expected[key]),
                    tolerance(LOGPROB_TOLERANCE),
                    &format!("{}: {key}", self.name),
                );
            }
        };
        close(token_logprobs(&logits, &ids, 1.0).unwrap(), "logprobs");
        close(token_logprobs(&logits, &ids, 0.7).unwrap(), "logprobs_temperature_0.7");
        close(entropies(&logits, 1.0).unwrap(), "entropy");
    }
}

/// Runs a check on every causal model, under each of its config files and numerics; each must have something to compare.
fn check(numerics: &[Numerics], compare: impl Fn(&Case) -> usize) {
    let folders = models(|class| CAUSAL.contains(&class));
    assert!(!folders.is_empty(), "no causal golden was found");
    for folder in folders {
        for config in config_files(&folder) {
            for &numerics in numerics {
                let case = load(&folder, &config, numerics);
                assert!(compare(&case) > 0, "{} holds nothing to compare", case.name);
            }
        }
    }
}

fn load(folder: &Path, config: &Path, numerics: Numerics) -> Case {
    let name = format!("{} as {numerics:?}", config.display());
    let parsed = DecoderConfig::parse(&std::fs::read(config).unwrap(), &name).unwrap();
    let mut checkpoint = Checkpoint::open(folder, DType::F32, &device()).unwrap();
    let model = Transformer::load(&parsed, &mut checkpoint, numerics).unwrap();
    let tensors = Some(folder.join("expected.safetensors")).filter(|path| path.is_file());
    let expected = Some(folder.join("expected.json")).filter(|path| path.is_file());
    Case {
        name,
        model,
        expected: expected.map_or(Value::Null, |path| json(&path)),
        tensors: tensors.map_or_else(HashMap::new, |path| crate::support::goldens::tensors(&path)),
    }
}

/// Every `config*.json` of a model folder: the same model in different layouts.
pub fn config_files(folder: &Path) -> Vec<PathBuf> {
    let is_config = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name == "config.json" || (name.starts_with("config.") && name.ends_with(".json"))
    };
    entries(folder).into_iter().filter(is_config).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
