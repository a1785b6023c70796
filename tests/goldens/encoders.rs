//! Goldens: encoders. Sentence embedders and sequence classifiers, from text to numbers.
use super::{CLASSIFIERS, EMBEDDERS};
use crate::support::goldens::{self, assert_close};
use candle_core::{Device, Tensor};
use newshound::{
    model::encoder::{
        classifier::Classifier,
        embedder::{Embedder, Pooling, pool},
    },
    text::tokens::encoder::EncoderTokens,
};
use serde_json::Value;
use std::path::Path;

const TOLERANCE: f32 = 2e-4;

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Ids of every text, which must be those of the reference.
fn ids(folder: &Path, expected: &Value, tokens_max: usize) -> Vec<Vec<u32>> {
    let tokens = EncoderTokens::open(folder, tokens_max).unwrap();
    let texts = expected["texts"].as_array().unwrap();
    assert!(!texts.is_empty(), "{}: no text", folder.display());
    let rows: Vec<_> = texts.iter().map(|text| tokens.encode(text.as_str().unwrap())).collect();
    let expected = expected["ids_unpadded"].as_array().unwrap();
    assert_eq!(rows.len(), expected.len(), "{}", folder.display());
    for ((row, text), expected) in rows.iter().zip(texts).zip(expected) {
        assert_eq!(row, &goldens::u32s(expected), "{text}");
    }
    rows
}

fn check_embedder(folder: &Path) {
    let expected = goldens::json(&folder.join("expected.json"));
    let tensors = goldens::tensors(&folder.join("expected.safetensors"));
    let embedder = Embedder::open(folder, &Device::Cpu).unwrap();
    let encoder = embedder.encoder();
    let rows = ids(folder, &expected, encoder.config().tokens_max());
    let name = folder.display().to_string();

    let embeddings = embedder.embed(&rows).unwrap();
    assert_close(
        &floats(&embeddings),
        &floats(&tensors["embeddings"]),
        TOLERANCE,
        &format!("{name} embeddings"),
    );
    let cosine = embeddings.matmul(&embeddings.t().unwrap()).unwrap();
    assert_close(&floats(&cosine), &floats(&tensors["cosine"]), TOLERANCE, &format!("{name} cosine"));
    for (row_idx, row) in rows.iter().enumerate() {
        let alone = floats(&embedder.embed(std::slice::from_ref(row)).unwrap());
        let batched = floats(&embeddings.get(row_idx).unwrap());
        assert_close(&alone, &batched, 1e-5, &format!("{name}: row {row_idx} alone and in a batch"));
    }
    let (padded, mask) = encoder.padded(&rows).unwrap();
    let hidden = encoder.hidden(&padded, &mask).unwrap();
    let mean = pool(&hidden, &mask, Pooling::Mean).unwrap();
    assert_close(&floats(&mean), &floats(&tensors["mean_pooled"]), TOLERANCE, &format!("{name} mean"));
    let first = hidden.get(0).unwrap().narrow(0, 0, rows[0].len()).unwrap();
    assert_close(
        &floats(&first),
        &floats(&tensors["token_embeddings_row0"]),
        TOLERANCE,
        &format!("{name} row 0"),
    );
}

fn check_classifier(folder: &Path) {
    let expected = goldens::json(&folder.join("expected.json"));
    let tensors = goldens::tensors(&folder.join("expected.safetensors"));
    let classifier = Classifier::open(folder, &Device::Cpu).unwrap();
    let config = classifier.encoder().config();
    let labels: Vec<_> =
        expected["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
    assert_eq!(config.labels, labels);
    let rows = ids(folder, &expected, config.tokens_max());
    let name = folder.display().to_string();

    let logits = classifier.logits(&rows).unwrap();
    assert_close(&floats(&logits), &floats(&tensors["logits"]), TOLERANCE, &format!("{name} logits"));
    let probs = candle_nn::ops::softmax(&logits, 1).unwrap();
    assert_close(&floats(&probs), &floats(&tensors["probs"]), 1e-4, &format!("{name} probs"));
    assert_eq!(
        logits.argmax(1).unwrap().to_vec1::<u32>().unwrap(),
        goldens::u32s(&expected["argmax"]),
        "{name}"
    );
}

/// Checks every folder of a kind; there must be one.
fn check_all(architectures: &[&str], check: impl Fn(&Path)) {
    let folders = goldens::models(|architecture| architectures.contains(&architecture));
    assert!(!folders.is_empty(), "no case of {architectures:?} in {}", goldens::root().display());
    folders.iter().for_each(|folder| check(folder));
}

#[test]
fn golden_embedders_give_the_vectors_of_the_reference() {
    check_all(&EMBEDDERS, check_embedder);
}

#[test]
fn golden_classifiers_give_the_logits_of_the_reference() {
    check_all(&CLASSIFIERS, check_classifier);
}
