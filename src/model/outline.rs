//! What a draw needs of logits, for networks whose logits lie where to fetch them all takes longer than to compute them.
use super::{room::Room, transformer::Transformer, weights::ModelError};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Tokens of an outline at most.
pub const TOKENS_MAX: usize = 1024;

/// What a row wants to know of its logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Of logits: the reciprocal of the temperature.
    pub scale: f32,
    /// So many of the likeliest tokens; 0: as many as hold `top_p` together.
    pub top_k: usize,
    /// The share that tokens hold together.
    pub top_p: f32,
    /// Classes of tokens that cannot be drawn, one bit each.
    pub forbidden: u8,
}

/// The likeliest of the tokens that can be drawn, and sums over all.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// The largest logit.
    pub most: f32,
    /// The sum of exp(logit - `most`).
    pub total: f32,
    /// The largest logit of what can be drawn.
    pub most_allowed: f32,
    /// The sum over what can be drawn of exp((logit - `most_allowed`) · scale).
    pub total_allowed: f32,
    /// Columns and logits, by column: none that can be drawn and is left out has a larger logit than any of them. None: there are too many.
    pub tokens: Option<Vec<(u32, f32)>>,
}

/// Columns that can be forbidden, by class.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// A bit for each class of each column; empty where no column is in any.
    pub bits: Arc<[u8]>,
}

impl Transformer {
    /// Whether to ask for outlines instead of logits saves anything: logits are many, and lie elsewhere.
    #[must_use]
    pub fn has_outlines(&self) -> bool {
        /// Below, a processor looks through them in the time that the kernel takes.
        const COLUMNS_MIN: usize = 1 << 12;
        let n_columns = self.config().output_ids.n_of(self.config().vocab_size);
        cfg!(feature = "cuda") && self.device().is_cuda() && n_columns >= COLUMNS_MIN
    }

    /// Calls `take` with hidden states (n, D), row after row, and an outline of each row's logits.
    ///
    /// # Errors
    /// If there is not one ask per row, the network has no outlines, or `take` fails.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "only a GPU has outlines"))]
    pub fn read_outlines<R>(
        &self,
        hidden: &Tensor,
        asks: (&[Ask], &Classes),
        room: &mut Room,
        take: impl FnOnce(&[f32], &[Outline]) -> Result<R>,
    ) -> std::result::Result<R, ModelError> {
        #[cfg(feature = "cuda")]
        if self.has_outlines() {
            let logits = self.head()?.forward(hidden)?;
            return Ok(super::cuda::outline::read([hidden, &logits], asks, room, take)?);
        }
        Err(ModelError::Forward(candle_core::Error::Msg("the network has no outlines".to_owned())))
    }
}
