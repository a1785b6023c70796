//! A model folder with weights in 8 bits: a quarter of f32's size, and what serving in 8 bits would make of it anyway.
pub mod cost;

use super::{checkpoint, error::TrainError, fit::DEVICE};
use crate::{
    bundle::load::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
    model::{config, weights::Checkpoint},
};
use candle_core::DType;
use serde_json::Value;
use std::path::Path;

/// Files that describe a model and are copied as they are, where they are there.
const COPIED: [&str; 3] = [TOKENIZER_FILE, "tokenizer_config.json", "generation_config.json"];

/// Beside rounded weights: what they cost, where it was measured.
pub const COST_FILE: &str = "quantization.json";

/// Rounds the matrices of a model folder per output and writes a folder of the same layout, in the format of compressed-tensors. With
/// `prompts` it measures what that costs, too ([`cost::measure`]).
/// # Errors
/// If the folder does not hold a sound model, its weights are in 8 bits already, the other cannot be written, or nothing can be measured.
pub fn run(model: &Path, prompts: Option<&Path>, out: &Path) -> Result<(), TrainError> {
    let model = checkpoint::resolve(model)?;
    if Checkpoint::open(&model, DType::F32, &DEVICE)?.is_rounded() {
        return Err(TrainError::file(&model, "its weights are in 8 bits already"));
    }
    let (_, parameters) = checkpoint::open_model(&model, &DEVICE)?;
    let read = |name: &str| {
        let path = model.join(name);
        std::fs::read(&path).map_err(TrainError::disk(&path, "read"))
    };
    let mut config_json: Value = serde_json::from_slice(&read(CONFIG_FILE)?)
        .map_err(|error| TrainError::file(&model.join(CONFIG_FILE), error))?;
    config_json["quantization_config"] = config::quantization();
    std::fs::create_dir_all(out).map_err(TrainError::disk(out, "create"))?;
    for name in COPIED.into_iter().filter(|name| model.join(name).is_file()) {
        checkpoint::write_file(&out.join(name), &read(name)?)?;
    }
    checkpoint::write_file(&out.join(WEIGHTS_FILE), &parameters.to_rounded_safetensors()?)?;
    // Last: a folder without it is no model.
    checkpoint::write_file(&out.join(CONFIG_FILE), format!("{config_json:#}").as_bytes())?;
    let Some(prompts) = prompts else { return Ok(()) };
    let cost = serde_json::to_vec_pretty(&cost::measure(&model, out, prompts)?);
    checkpoint::write_file(&out.join(COST_FILE), &cost.map_err(|error| TrainError::file(out, error))?)
}
