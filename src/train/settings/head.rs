//! Settings of what judges lists and is fitted: the reward head and the rubric.
use super::PROMPT_TOKENS;
use serde::{Deserialize, Serialize};

/// The reward head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSettings {
    /// Seed of sampling, fresh parameters and order.
    pub seed: u64,
    /// Lists sampled per prompt: as many as the server samples.
    pub lists_per_prompt: usize,
    /// Moments per reader at which lists are asked for. 6: a head that has seen three times as many lists as two moments give tells the better of
    /// two lists more often (LOG.md). All lists are in memory at once, with the hidden states of their queries.
    pub cuts_per_reader: usize,
    /// Budget of the prompt in tokens, as the student learned it.
    pub prompt_tokens: usize,
    /// Sampled lists made worse for each prompt (`train::corrupted`), to learn from beside the sampled ones. 0: with two nothing better was chosen (LOG.md).
    #[serde(default, skip_serializing_if = "is_none")]
    pub corrupted_per_prompt: usize,
}

// Settings of heads from before there were corrupted lists keep their digest.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(n_lists: &usize) -> bool {
    *n_lists == 0
}

impl HeadSettings {
    /// Settings of the demo head.
    pub fn demo() -> Self {
        Self {
            seed: 3,
            lists_per_prompt: 8,
            cuts_per_reader: 6,
            prompt_tokens: PROMPT_TOKENS,
            corrupted_per_prompt: 0,
        }
    }
}

/// The rubric's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RubricSettings {
    /// Seed of corruptions, fresh parameters and order.
    pub seed: u64,
    /// Moments per reader at which a list is written. 2: more has not been tried.
    pub cuts_per_reader: usize,
    /// Budget of the prompt in tokens: a list is held against the signals that it shows.
    pub prompt_tokens: usize,
}

impl RubricSettings {
    /// Settings for the demo's world.
    pub fn demo() -> Self {
        Self { seed: 6, cuts_per_reader: 2, prompt_tokens: PROMPT_TOKENS }
    }
}
