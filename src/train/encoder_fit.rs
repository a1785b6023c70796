//! Trains small encoders, the signal cleaner and the sentence embedder: a fresh network, one loop, one folder.
//!
//! They train in minutes, so a run that is cut short starts again; the folder is written whole at the end.
use super::{
    checkpoint, descent,
    error::TrainError,
    fit::DEVICE,
    journal::progress_bar,
    optimizer::{AdamW, AdamWSettings},
    schedule::Schedule,
    tokenizer::ENCODER_PAD_ID,
};
use crate::{
    bundle::load::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
    model::{
        encoder::config::{EncoderConfig, EncoderFamily},
        weights::Parameters,
    },
};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// Share of the peak that the learning rate ends at.
const FINAL_RATE_RATIO: f64 = 0.05;
const WEIGHT_DECAY: f64 = 0.01;

/// Shape and training of a small encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSettings {
    /// Tokens of its vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Heads per layer.
    pub n_heads: usize,
    /// Longest text in tokens, those around it included; the rest is cut.
    pub tokens_max: usize,
    /// Updates.
    pub steps: u64,
    /// Texts of one update.
    pub rows: usize,
    /// Highest learning rate.
    pub peak_learning_rate: f64,
    /// Updates until the learning rate is at its peak.
    pub warmup_steps: u64,
    /// Seed of fresh weights and of the order of texts.
    pub seed: u64,
}

impl EncoderSettings {
    /// The `config.json` of a fresh network; `labels` of a classifier.
    pub fn config_json(&self, family: EncoderFamily, n_tokens: usize, labels: &[&str]) -> Vec<u8> {
        let (model_type, architecture, n_positions) = match family {
            EncoderFamily::Bert => ("bert", "BertModel", self.tokens_max),
            EncoderFamily::Roberta => (
                "roberta",
                "RobertaForSequenceClassification",
                // Positions are counted from the one after padding's.
                self.tokens_max + ENCODER_PAD_ID as usize + 1,
            ),
        };
        let id2label: BTreeMap<String, &str> =
            labels.iter().enumerate().map(|(id, label)| (id.to_string(), *label)).collect();
        let mut config = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "vocab_size": n_tokens,
            "max_position_embeddings": n_positions,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": ENCODER_PAD_ID,
            "hidden_act": "gelu",
        });
        if !labels.is_empty() {
            config["id2label"] = json!(id2label);
        }
        let mut bytes = config.to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }
}

/// Lowers a loss step by step; `loss_of` gives that of a step and must depend on the step and the parameters alone.
///
/// Returns the mean loss of the last tenth of the steps.
/// # Errors
/// If the loss stops being a number, or a parameter is cut off from it.
pub fn fit(
    title: &str,
    parameters: &Parameters,
    settings: &EncoderSettings,
    loss_of: &dyn Fn(u64) -> Result<Tensor, TrainError>,
) -> Result<f64, TrainError> {
    let adamw = AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: WEIGHT_DECAY };
    let mut optimizer = AdamW::new(adamw, parameters.vars());
    let schedule = Schedule {
        peak: settings.peak_learning_rate,
        final_ratio: FINAL_RATE_RATIO,
        warmup_steps: settings.warmup_steps,
        n_steps: settings.steps,
    };
    let bar = progress_bar(title, settings.steps);
    let last = settings.steps - settings.steps / 10;
    let (mut sum, mut n) = (0.0, 0.0);
    for step in 0..settings.steps {
        let loss = loss_of(step)?;
        let value = descent::update(parameters, &mut optimizer, &loss, (step, schedule.rate(step)))?;
        if step >= last {
            (sum, n) = (sum + value, n + 1.0);
        }
        bar.inc(1);
    }
    bar.finish();
    Ok(if n > 0.0 { sum / n } else { 0.0 })
}

/// Reads the config of a fresh network back, as everybody else will.
/// # Errors
/// If the settings make no network.
pub fn parse(config: &[u8]) -> Result<EncoderConfig, TrainError> {
    Ok(EncoderConfig::parse(config, "settings of the encoder")?)
}

/// Writes the Hugging Face folder of an encoder, weights in f16, and a report beside it.
/// # Errors
/// If the disk refuses.
pub fn write(
    out: &Path,
    (config, tokenizer): (&[u8], &[u8]),
    parameters: &Parameters,
    others: &[(&str, Value)],
) -> Result<(), TrainError> {
    std::fs::create_dir_all(out).map_err(TrainError::disk(out, "create"))?;
    checkpoint::write_file(&out.join(TOKENIZER_FILE), tokenizer)?;
    for (name, json) in others {
        let bytes =
            serde_json::to_vec_pretty(json).map_err(|error| TrainError::file(&out.join(name), error))?;
        checkpoint::write_file(&out.join(name), &bytes)?;
    }
    checkpoint::write_file(&out.join(WEIGHTS_FILE), &parameters.to_safetensors(DType::F16)?)?;
    // The config goes last: a folder without it is no model.
    checkpoint::write_file(&out.join(CONFIG_FILE), config)
}

/// Copies values to where the trainer computes.
/// # Errors
/// If the values do not fit the device.
pub fn ids(values: &[u32]) -> Result<Tensor, TrainError> {
    Ok(Tensor::from_slice(values, values.len(), &DEVICE)?)
}
