//! What a stage that samples lists notes of a step: figures by name, under the names that users of TRL know.
use super::journal::{Line, Moved};
use crate::decode::batch::{Finish, FinishedRow};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Optimiser step, from 0.
    pub step: u64,
    /// `reward`, `rewards/coverage/mean`, `entropy`, `completions/mean_length` and others.
    #[serde(flatten)]
    pub by_name: BTreeMap<String, f64>,
}

/// Seconds of a step.
const STEP_TIME: &str = "step_time";
/// Sampled tokens of a step.
const TOKENS: &str = "tokens";
/// Sampled tokens that were learned from so far, as TRL counts: once for each update.
const NUM_TOKENS: &str = "num_tokens";
/// Mean composite reward.
pub const REWARD: &str = "reward";
/// What is lowered.
const LOSS: &str = "loss";

impl Figures {
    /// Of a step's loss and what was sampled for it: `n_valid` of the rows are lists.
    #[allow(clippy::cast_precision_loss, reason = "counts of rows and tokens of a step")]
    pub fn of(step: u64, loss: f64, rows: &[(Vec<u32>, FinishedRow)], n_valid: usize) -> Self {
        let n_rows = rows.len().max(1) as f64;
        let n_cut = rows.iter().filter(|(_, row)| row.finish == Finish::Length).count();
        let n_tokens = n_tokens(rows) as f64;
        let lengths = || rows.iter().map(|(_, row)| row.ids.len() as f64);
        let ended = || rows.iter().filter(|(_, row)| row.finish == Finish::Stop);
        let n_ended_tokens: usize = ended().map(|(_, row)| row.ids.len()).sum();
        let by_name = [
            (LOSS, loss),
            (TOKENS, n_tokens),
            ("completions/mean_length", n_tokens / n_rows),
            ("completions/min_length", lengths().fold(n_tokens, f64::min)),
            ("completions/max_length", lengths().fold(0.0, f64::max)),
            ("completions/mean_terminated_length", n_ended_tokens as f64 / ended().count().max(1) as f64),
            ("completions/clipped_ratio", n_cut as f64 / n_rows),
            ("completions/valid_ratio", n_valid as f64 / n_rows),
        ];
        Self { step, by_name: by_name.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect() }
    }

    /// Adds a figure.
    pub fn add(&mut self, name: impl Into<String>, figure: f64) {
        self.by_name.insert(name.into(), figure);
    }

    fn figure(&self, name: &str) -> f64 {
        self.by_name.get(name).copied().unwrap_or(0.0)
    }
}

/// Tokens of sampled rows, prompts aside.
pub fn n_tokens(rows: &[(Vec<u32>, FinishedRow)]) -> usize {
    rows.iter().map(|(_, row)| row.ids.len()).sum()
}

impl Line for Figures {
    fn step(&self) -> u64 {
        self.step
    }

    #[allow(clippy::cast_precision_loss, reason = "far fewer tokens than 2^52")]
    fn moved(mut self, moved: Moved) -> Self {
        let Moved { grad_norm, learning_rate, step_time_s, target_tokens } = moved;
        self.add(NUM_TOKENS, target_tokens as f64);
        self.add("grad_norm", grad_norm);
        self.add("learning_rate", learning_rate);
        self.add(STEP_TIME, step_time_s);
        self
    }

    /// The reward where there is one, else the loss.
    fn headline(&self) -> (&'static str, f64) {
        let name = if self.by_name.contains_key(REWARD) { REWARD } else { LOSS };
        (name, self.figure(name))
    }

    fn pace(&self) -> (usize, f64) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that was made a float"
        )]
        let tokens = self.figure(TOKENS) as usize;
        (tokens, self.figure(STEP_TIME))
    }
}
