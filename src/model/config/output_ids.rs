//! `output_ids`: a pruned output vocabulary. Lists use a part of the tokens that prompts do, and the output head of a small network is
//! half of what a written token costs.
use candle_core::{Result, bail};
use std::sync::Arc;

/// The tokens that a network may write, in the order of their logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputIds {
    /// The whole vocabulary.
    All,
    /// Some of it, sorted.
    Kept(Arc<[u32]>),
}

impl OutputIds {
    /// The place of a token's logit; None: it is never written.
    #[must_use]
    pub fn column(&self, id: u32) -> Option<u32> {
        match self {
            Self::All => Some(id),
            Self::Kept(ids) => ids.binary_search(&id).ok().and_then(|column| u32::try_from(column).ok()),
        }
    }

    /// The token of a logit.
    #[must_use]
    pub fn id(&self, column: u32) -> u32 {
        match self {
            Self::All => column,
            Self::Kept(ids) => ids[column as usize],
        }
    }

    /// The places of tokens' logits.
    ///
    /// # Errors
    /// If one is never written.
    pub fn columns(&self, ids: &[u32]) -> Result<Vec<u32>> {
        let column = |&id: &u32| match self.column(id) {
            Some(column) => Ok(column),
            None => bail!("token {id} is not among the output_ids that the model may write"),
        };
        ids.iter().map(column).collect()
    }

    /// How many logits there are of a vocabulary of so many tokens.
    #[must_use]
    pub fn n_of(&self, vocab_size: usize) -> usize {
        match self {
            Self::All => vocab_size,
            Self::Kept(ids) => ids.len(),
        }
    }

    /// Without each of `eos_ids` a generation might not end.
    pub(super) fn check(&self, vocab_size: usize, eos_ids: &[u32]) -> std::result::Result<(), String> {
        let Self::Kept(ids) = self else { return Ok(()) };
        if ids.is_empty() || !ids.is_sorted_by(|before, after| before < after) {
            return Err("output_ids must be some ids in ascending order, none twice".to_owned());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(format!("output_ids has {id}, which is not below vocab_size {vocab_size}"));
        }
        match eos_ids.iter().find(|&&id| self.column(id).is_none()) {
            Some(id) => Err(format!("output_ids lacks {id}, which ends a generation (eos_token_id)")),
            None => Ok(()),
        }
    }
}
