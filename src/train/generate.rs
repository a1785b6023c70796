//! Continuations of prompts, line by line, by the decoder that serves.
use super::{
    error::TrainError,
    model_folder::ModelFolder,
    score::{STDIN, for_each_line, write_line},
};
use crate::decode::{
    batch::{Batch, Finish, FinishedRow, GroupId, GroupRequest},
    run::run_to_end,
    sampler::SamplerSettings,
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write},
    sync::Arc,
};

/// Rows decoded side by side.
const ROWS_MAX: usize = 32;

/// How continuations are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateSettings {
    /// How a token is drawn.
    pub sampler: SamplerSettings,
    /// Longest continuation, stop token included.
    pub max_new_tokens: usize,
    /// Continuations per prompt.
    pub n: usize,
    /// Seed of the first row; the others follow.
    pub seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptLine {
    prompt: Option<String>,
    prompt_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Generated<'a> {
    token_ids: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    logprobs: &'a [f32],
    finish: &'static str,
}

/// Continues each line's prompt and writes `n` lines for it, in the order of the input.
///
/// Rows do not depend on their neighbours: a prompt's continuation is the same alone and among others.
/// # Errors
/// At the first bad line, which is named; the prompts before it have been answered.
pub fn run(
    folder: ModelFolder,
    settings: GenerateSettings,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), TrainError> {
    let stop_ids: Arc<[u32]> = folder.stop_ids.clone().into();
    let mut prompts = Vec::new();
    let max_positions = folder.model.config().max_positions;
    // The prompts before a bad line are answered before the line is reported.
    let read = for_each_line(input, STDIN, |line: PromptLine| {
        let prompt = folder.ids("prompt", line.prompt.as_deref(), line.prompt_ids.as_deref())?;
        if prompt.is_empty() || prompt.len().saturating_add(settings.max_new_tokens) > max_positions {
            return Err(format!(
                "{} prompt tokens and {} new ones, the model has {max_positions} positions",
                prompt.len(),
                settings.max_new_tokens
            ));
        }
        prompts.push(prompt);
        Ok(())
    });
    let ModelFolder { path, model, tokenizer, stop_ids: _ } = folder;
    let mut batch = Batch::new(Arc::new(model));
    let requests = prompts.into_iter().enumerate().map(|(idx, prompt)| GroupRequest {
        id: GroupId(idx as u64),
        prompt,
        known: None,
        pruning: None,
        n_held: 0,
        seeds: (0..settings.n as u64).map(|row| settings.seed.wrapping_add(row)).collect(),
        sampler: settings.sampler,
        max_new_tokens: settings.max_new_tokens,
        stop_ids: stop_ids.clone(),
        boundary_ids: Arc::new([]),
    });
    let mut rows: Vec<FinishedRow> = Vec::new();
    run_to_end(&mut batch, requests, ROWS_MAX, |row| rows.push(row))?;
    rows.sort_by_key(|row| (row.group, row.row_idx));
    for row in &rows {
        let finish = match row.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Pruned => "pruned",
        };
        let text = tokenizer.as_ref().and_then(|tokenizer| tokenizer.decode(&row.ids, true).ok());
        let line = Generated { token_ids: &row.ids, text, logprobs: &row.logprobs, finish };
        write_line(output, &line).map_err(|reason| TrainError::file(&path, reason))?;
    }
    read
}
