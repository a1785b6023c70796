//! Log-probabilities that a model gives to a completion, line by line: users compare checkpoints with other tools by it.
use super::{error::TrainError, model_folder::ModelFolder};
use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// One line of standard input: text or ids, for the prompt and for the completion.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreLine {
    prompt: Option<String>,
    prompt_ids: Option<Vec<u32>>,
    completion: Option<String>,
    completion_ids: Option<Vec<u32>>,
}

/// One line of standard output.
#[derive(Debug, Serialize)]
struct Scored {
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    sum_logprob: f64,
}

/// Scores each line of `input` and writes a line to `output`.
///
/// Prompt and completion are tokenised one by one, without special tokens being added, and their ids are joined.
/// `temperature` divides the logits.
/// # Errors
/// At the first bad line, which is named; the lines before it have been written.
pub fn run(
    folder: &ModelFolder,
    temperature: f64,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), TrainError> {
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(TrainError::Settings {
            reason: format!("temperature is {temperature}, it must be above 0"),
        });
    }
    for_each_line(input, STDIN, |line: ScoreLine| {
        let prompt = folder.ids("prompt", line.prompt.as_deref(), line.prompt_ids.as_deref())?;
        let completion =
            folder.ids("completion", line.completion.as_deref(), line.completion_ids.as_deref())?;
        let logprobs = logprobs(folder, &prompt, &completion, temperature)?;
        let sum_logprob = logprobs.iter().map(|logprob| f64::from(*logprob)).sum();
        write_line(output, &Scored { token_ids: completion, logprobs, sum_logprob })
    })
}

/// Log-probability of each completion id given all before it, nats.
fn logprobs(
    folder: &ModelFolder,
    prompt: &[u32],
    completion: &[u32],
    temperature: f64,
) -> Result<Vec<f32>, String> {
    let n_ids = prompt.len() + completion.len();
    let max_positions = folder.model.config().max_positions;
    if prompt.is_empty() || completion.is_empty() {
        return Err("prompt and completion need at least one token each".to_owned());
    }
    if n_ids > max_positions {
        return Err(format!("{n_ids} tokens, the model has {max_positions} positions"));
    }
    let ids = [prompt, completion].concat();
    let compute = || -> Result<Vec<f32>, TrainError> {
        let ids = Tensor::from_slice(&ids[..n_ids - 1], (1, n_ids - 1), folder.model.device())?;
        let hidden = folder.model.hidden(&ids, None)?.squeeze(0)?; // (T, D)
        let hidden = hidden.narrow(0, prompt.len() - 1, completion.len())?.contiguous()?;
        let logits = (folder.model.logits(&hidden)?.to_dtype(DType::F32)? / temperature)?;
        let logprobs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        let chosen = folder.model.config().output_ids.columns(completion)?;
        let chosen = Tensor::from_vec(chosen, (completion.len(), 1), folder.model.device())?;
        Ok(logprobs.gather(&chosen, D::Minus1)?.flatten_all()?.to_vec1()?)
    };
    compute().map_err(|error| {
        format!(
            "{error}: {}",
            std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
        )
    })
}

/// What lines are read from, unless it is a file.
pub(super) const STDIN: &str = "standard input";

/// Reads JSON lines and calls `each`; blank lines are skipped.
pub(super) fn for_each_line<T: serde::de::DeserializeOwned>(
    input: &mut dyn BufRead,
    file: &str,
    mut each: impl FnMut(T) -> Result<(), String>,
) -> Result<(), TrainError> {
    for (idx, line) in input.lines().enumerate() {
        let wrong = |reason: String| TrainError::Line { file: file.to_owned(), line: idx + 1, reason };
        let line = line.map_err(|error| wrong(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let parsed = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        each(parsed).map_err(wrong)?;
    }
    Ok(())
}

/// Writes one JSON line.
pub(super) fn write_line(output: &mut dyn Write, line: &impl Serialize) -> Result<(), String> {
    let json = serde_json::to_string(line).map_err(|error| error.to_string())?;
    writeln!(output, "{json}").map_err(|error| error.to_string())
}
