//! Goldens of sequence classifiers with one label: scores of padded rows, their order, the Bradley-Terry loss.
use super::{SCORERS, causal::config_files};
use crate::support::goldens::{assert_close, f32s, json, models, tensors, u32s};
use candle_core::{DType, Device, Tensor, Var};
use newshound::{
    model::{config::DecoderConfig, ops::Numerics, scorer::SequenceScorer, weights::Checkpoint},
    train::head_fit::bradley_terry,
};
use serde_json::Value;
use std::path::Path;

#[test]
fn golden_reward_heads_agree_in_scores_ranking_and_loss() {
    let folders = models(|class| SCORERS.contains(&class));
    assert!(!folders.is_empty(), "no reward head golden was found");
    for folder in folders {
        let expected = json(&folder.join("expected.json"));
        for config in config_files(&folder) {
            for numerics in [Numerics::Serve, Numerics::Train] {
                let n_checked = check_scores(&folder, &config, numerics, &expected);
                assert!(n_checked > 0, "{} holds no padded rows", folder.display());
            }
        }
        check_bradley_terry(&expected);
    }
}

fn check_scores(folder: &Path, config: &Path, numerics: Numerics, expected: &Value) -> usize {
    let name = config.display().to_string();
    let parsed = DecoderConfig::parse(&std::fs::read(config).unwrap(), &name).unwrap();
    let mut checkpoint = Checkpoint::open(folder, DType::F32, &Device::Cpu).unwrap();
    let scorer = SequenceScorer::load(&parsed, &mut checkpoint, numerics).unwrap();
    let stored = tensors(&folder.join("expected.safetensors"));
    let mut n_checked = 0;
    for side in ["left", "right"] {
        let Some(ids) = stored.get(&format!("{side}_input_ids")) else { continue };
        let ids = ids.to_dtype(DType::U32).unwrap();
        let scores = scorer.scores(&ids, &stored[&format!("{side}_attention_mask")]).unwrap();
        let scores = scores.to_vec1::<f32>().unwrap();
        assert_close(&scores, &f32s(&expected["scores"]), 2e-4, &format!("{name}: {side} scores"));
        if expected["ranking_best_first"].is_array() {
            let mut ranking: Vec<u32> = (0..u32::try_from(scores.len()).unwrap()).collect();
            ranking.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            assert_eq!(ranking, u32s(&expected["ranking_best_first"]), "{name}: {side} ranking");
        }
        n_checked += 1;
    }
    n_checked
}

/// The loss that fits the head, with its gradient through candle.
fn check_bradley_terry(expected: &Value) {
    let golden = &expected["bradley_terry"];
    let Some(pairs) = golden["pairs"].as_array() else { return };
    let pairs: Vec<Vec<u32>> = pairs.iter().map(u32s).collect();
    let column = |side: usize| Tensor::from_iter(pairs.iter().map(|pair| pair[side]), &Device::Cpu).unwrap();
    let scores = Var::new(f32s(&expected["scores"]), &Device::Cpu).unwrap();
    let of = |side: usize| scores.index_select(&column(side), 0).unwrap();
    let loss = bradley_terry(&of(0), &of(1)).unwrap();
    let gradient = loss.backward().unwrap().get(&scores).unwrap().to_vec1::<f32>().unwrap();
    assert_close(
        &[loss.to_scalar().unwrap()],
        &f32s(&Value::Array(vec![golden["loss"].clone()])),
        1e-5,
        "loss",
    );
    assert_close(&gradient, &f32s(&golden["grad_scores"]), 1e-5, "gradient");
}
