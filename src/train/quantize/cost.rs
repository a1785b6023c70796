//! What 8 bits cost: how far the rounded network's choice of each token lies from the network's own, in lists that this writes.
use crate::{
    decode::sampler::SamplerSettings,
    model::{kv_cache::Forks, precision::Precision, transformer::Transformer, weights::Checkpoint},
    train::{
        checkpoint,
        error::TrainError,
        fit::DEVICE,
        rollout::{Sampled, with_prompts},
        score::for_each_line,
        tokenizer,
    },
};
use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};
use std::{fs::File, io::BufReader, path::Path, sync::Arc};

/// Prompts that are read at most, evenly spaced: lists of some thousand tokens.
const PROMPTS_MAX: usize = 200;
/// Seed of the lists.
const SEED: u64 = 31;

/// What rounding costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Mean of KL(network ‖ rounded network).
    pub kl_nats_per_token: f64,
    /// Tokens that it is the mean of.
    pub tokens: usize,
    /// Lists that have them, each of another prompt.
    pub lists: usize,
}

#[derive(Deserialize)]
struct PromptLine {
    prompt_ids: Vec<u32>,
}

/// Lets a network in f32 write a list for each prompt of a file, as it does when it serves, and compares it with its rounded form.
///
/// `prompts`: JSON lines with `prompt_ids`, as `newshound-trainer prompts` writes them.
/// # Errors
/// If a file cannot be read, there is no prompt, or one is too long or has a token that the model does not know.
pub fn measure(model: &Path, rounded: &Path, prompts: &Path) -> Result<Cost, TrainError> {
    let (tokens, _) = tokenizer::read(model)?;
    let (float, rounded) = (network(model, Precision::F32)?, network(rounded, Precision::Int8)?);
    let prompts = chosen(prompts)?;
    let sampled = Sampled { model: Arc::new(float), tokens };
    let rows = sampled.rows(&prompts, 1, (SEED, SamplerSettings::SERVING), &|| ())?;
    let (mut sum, mut n_tokens) = (0.0, 0);
    for (prompt, row) in with_prompts(&prompts, rows) {
        let of = |model: &Transformer| logprobs(model, &prompt, &row.ids);
        let (own, other) = (of(&sampled.model)?, of(&rounded)?);
        sum += f64::from((own.exp()? * (own - other)?)?.sum_all()?.to_scalar::<f32>()?);
        n_tokens += row.ids.len();
    }
    #[allow(clippy::cast_precision_loss, reason = "some thousand tokens")]
    let kl_nats_per_token = sum / n_tokens.max(1) as f64;
    Ok(Cost { kl_nats_per_token, tokens: n_tokens, lists: prompts.len() })
}

fn network(folder: &Path, precision: Precision) -> Result<Transformer, TrainError> {
    let mut weights = Checkpoint::open(folder, DType::F32, &DEVICE)?;
    Ok(precision.load(&checkpoint::config(folder)?, &mut weights, &DEVICE)?)
}

fn chosen(path: &Path) -> Result<Vec<Vec<u32>>, TrainError> {
    let file = File::open(path).map_err(TrainError::disk(path, "read"))?;
    let mut prompts = Vec::new();
    for_each_line(&mut BufReader::new(file), &path.display().to_string(), |line: PromptLine| {
        prompts.push(line.prompt_ids);
        Ok(())
    })?;
    if prompts.is_empty() {
        return Err(TrainError::file(path, "no prompt"));
    }
    let stride = prompts.len().div_ceil(PROMPTS_MAX);
    Ok(prompts.into_iter().step_by(stride).collect())
}

/// Log-probabilities (T, C) of what could stand at each place of a list, token after token as it is served: keys and values may be held
/// in other numbers then than where whole rows are computed.
fn logprobs(model: &Transformer, prompt: &[u32], ids: &[u32]) -> Result<Tensor, TrainError> {
    let (prefix, first) = model.prefill(prompt)?;
    let mut row = Forks::new(Arc::new(prefix), 1);
    let mut hidden = vec![first];
    for id in &ids[..ids.len() - 1] {
        hidden.push(model.step(&mut [&mut row], &[*id])?);
    }
    let logits = model.logits(&Tensor::cat(&hidden, 0)?)?;
    Ok(candle_nn::ops::log_softmax(&logits, D::Minus1)?)
}
