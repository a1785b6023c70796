//! Lists that another engine sampled, read from a file.
//!
//! JSON lines, one list each: `prompt_ids`, `token_ids` (the stop token included), `logprobs` (of each token under the model that
//! sampled, nats, temperature 1) and `finish` (`stop` or `length`). Ids and not text: text read anew may fall into other tokens.
use crate::{
    decode::batch::{Finish, FinishedRow, GroupId, QueryEnd},
    text::tokens::Tokens,
    train::{error::TrainError, rollout::LIST_TOKENS_MAX},
};
use serde::Deserialize;
use std::{collections::HashMap, path::Path};

/// Lists by prompt.
#[derive(Debug)]
pub(super) struct Elsewhere(HashMap<Vec<u32>, Vec<FinishedRow>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RolloutLine {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    finish: FinishWord,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FinishWord {
    Stop,
    Length,
}

impl Elsewhere {
    /// Reads the file's text; `path` names it in errors.
    /// # Errors
    /// At the first line that holds no list of this tokenizer with a log-probability for each token.
    pub(super) fn read(path: &Path, text: &str, tokens: &Tokens) -> Result<Self, TrainError> {
        let mut by_prompt: HashMap<Vec<u32>, Vec<FinishedRow>> = HashMap::new();
        for (idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong =
                |reason: String| TrainError::Line { file: path.display().to_string(), line: idx + 1, reason };
            let line: RolloutLine = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            let rows = by_prompt.entry(line.prompt_ids.clone()).or_default();
            let row = row(rows.len(), line, tokens).map_err(wrong)?;
            rows.push(row);
        }
        Ok(Self(by_prompt))
    }

    /// Whether there is at least one group of `n` lists for a prompt.
    pub(super) fn has(&self, prompt: &[u32], n: usize) -> bool {
        self.0.get(prompt).is_some_and(|rows| rows.len() >= n)
    }

    /// A group of `n` lists of a prompt that has them; others at every visit, and from the first on again after the last.
    pub(super) fn group(&self, prompt: &[u32], n: usize, visit: u64) -> Vec<FinishedRow> {
        let rows = self.0.get(prompt).map_or(&[][..], Vec::as_slice);
        let n_groups = (rows.len() / n.max(1)).max(1) as u64;
        let first = usize::try_from(visit % n_groups).unwrap_or(0) * n;
        rows[first..first + n].to_vec()
    }
}

fn row(row_idx: usize, line: RolloutLine, tokens: &Tokens) -> Result<FinishedRow, String> {
    let RolloutLine { token_ids: ids, logprobs, finish, .. } = line;
    if ids.is_empty() || ids.len() > LIST_TOKENS_MAX || logprobs.len() != ids.len() {
        return Err(format!(
            "{} tokens with {} log-probabilities, a list has 1 to {LIST_TOKENS_MAX} of both",
            ids.len(),
            logprobs.len()
        ));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= tokens.n_tokens()) {
        return Err(format!("id {id} is not below the vocabulary of {}", tokens.n_tokens()));
    }
    // One that is a little above 0 is rounding of the engine.
    if let Some(logprob) = logprobs.iter().find(|logprob| !(logprob.is_finite() && **logprob < 1e-3)) {
        return Err(format!("{logprob} is no log-probability"));
    }
    let stops = |id: &u32| tokens.stop_ids().contains(id);
    let finish = match finish {
        FinishWord::Stop if !ids.last().is_some_and(stops) => {
            return Err("it stopped and its stop token is missing".to_owned());
        }
        FinishWord::Stop => Finish::Stop,
        FinishWord::Length => Finish::Length,
    };
    let ends = |id: &u32| stops(id) || tokens.boundary_ids().contains(id);
    let mut query_ends = Vec::new();
    let mut start = 0;
    for n_ids in (0..ids.len()).filter(|&idx| ends(&ids[idx])) {
        if n_ids > start {
            query_ends.push(QueryEnd { start, n_ids, hidden: Vec::new() });
        }
        start = n_ids + 1;
    }
    Ok(FinishedRow { group: GroupId(0), row_idx, ids, logprobs, finish, query_ends })
}
