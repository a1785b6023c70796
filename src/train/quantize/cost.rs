//! What 8 bits cost: how far the rounded network's choice of each token lies from the network's own, in lists that this writes.
use crate::{
    decode::{batch::FinishedRow, sampler::SamplerSettings},
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
/// Lists that are read side by side, so that weights are read once for all of them.
const LISTS_TOGETHER: usize = 32;
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
    let lists: Vec<(Vec<u32>, FinishedRow)> = with_prompts(&prompts, rows);
    let mut sum = 0.0;
    for together in lists.chunks(LISTS_TOGETHER) {
        sum += divergence([&sampled.model, &rounded], together)?;
    }
    let n_tokens: usize = lists.iter().map(|(_, row)| row.ids.len()).sum();
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

/// Sum of KL(first ‖ second) over all places of some lists, token after token as they are served: keys and values may be held in other
/// numbers then than where whole rows are computed.
fn divergence(networks: [&Transformer; 2], lists: &[(Vec<u32>, FinishedRow)]) -> Result<f64, TrainError> {
    let [mut own, mut other] = [Read::begin(networks[0], lists)?, Read::begin(networks[1], lists)?];
    let mut sum = 0.0;
    for place in 0.. {
        let (logprobs, others) = (own.logprobs()?, other.logprobs()?);
        sum += f64::from((logprobs.exp()? * (logprobs - others)?)?.sum_all()?.to_scalar::<f32>()?);
        if !(own.goes_on(place)? && other.goes_on(place)?) {
            break;
        }
    }
    Ok(sum)
}

/// Lists that a network reads side by side.
struct Read<'a> {
    model: &'a Transformer,
    /// Those that have not ended, with their ids.
    rows: Vec<(Forks, &'a [u32])>,
    /// What it has made of each so far (rows, D).
    hidden: Tensor,
}

impl<'a> Read<'a> {
    fn begin(model: &'a Transformer, lists: &'a [(Vec<u32>, FinishedRow)]) -> Result<Self, TrainError> {
        let (mut rows, mut hidden) = (Vec::new(), Vec::new());
        for (prompt, row) in lists {
            let (prefix, last) = model.prefill(prompt)?;
            rows.push((Forks::new(Arc::new(prefix), 1), row.ids.as_slice()));
            hidden.push(last);
        }
        Ok(Self { model, rows, hidden: Tensor::cat(&hidden, 0)? })
    }

    /// Of what could stand at the next place: (rows, C).
    fn logprobs(&self) -> Result<Tensor, TrainError> {
        Ok(candle_nn::ops::log_softmax(&self.model.logits(&self.hidden)?, D::Minus1)?)
    }

    /// Reads what stands at a place, in lists that go on behind it; says whether there are any.
    fn goes_on(&mut self, place: usize) -> Result<bool, TrainError> {
        self.rows.retain(|(_, ids)| place + 1 < ids.len());
        let ids: Vec<u32> = self.rows.iter().map(|(_, ids)| ids[place]).collect();
        if !ids.is_empty() {
            let mut groups: Vec<&mut Forks> = self.rows.iter_mut().map(|(row, _)| row).collect();
            self.hidden = self.model.step(&mut groups, &ids)?;
        }
        Ok(!ids.is_empty())
    }
}
