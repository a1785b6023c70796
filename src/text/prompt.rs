//! Signals to prompt ids: instructions first, then signals oldest to newest, so that a new signal extends the prefix.
use crate::{queries::QueryList, signals::UserSignals, text::tokens::Tokens};

/// Changes whenever the same signals give other ids.
pub const PROMPT_VERSION: u32 = 1;

/// A prompt ready for the model.
#[derive(Clone, Debug)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// Signals left out (oldest first) because the budget was full.
    pub n_dropped_signals: usize,
}

/// Builds the prompt within a budget of tokens (control tokens and instructions included).
pub fn build(signals: &UserSignals, tokens: &Tokens, budget_tokens: usize) -> Prompt { todo!() }

/// Ids that a perfect model would write for a list: one query a line, ended by `<|im_end|>`.
pub fn completion_ids(list: &QueryList, tokens: &Tokens) -> Vec<u32> { todo!() }
