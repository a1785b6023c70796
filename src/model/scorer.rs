//! What is read off a row's last real token: an embedding, or a score of a sequence-classification checkpoint.
use super::{
    config::DecoderConfig,
    linear::{Bias, Linear},
    ops::Numerics,
    transformer::Transformer,
    weights::{ModelError, TensorSource},
};
use candle_core::{D, DType, Result, Tensor, bail};

/// A decoder with one label on the last real token (`*ForSequenceClassification`): a reward model.
#[derive(Debug)]
pub struct SequenceScorer {
    body: Transformer,
    score: Linear,
}

impl SequenceScorer {
    /// Builds the decoder and its `score.weight` (1, D).
    ///
    /// # Errors
    /// If a tensor is missing, misshapen (more than one label) or not finite.
    pub fn load(
        config: &DecoderConfig,
        source: &mut dyn TensorSource,
        numerics: Numerics,
    ) -> std::result::Result<Self, ModelError> {
        let body = Transformer::load_body(config, source, numerics)?;
        let score = Linear::load(source, "score", (config.hidden_size, 1), Bias::Absent)?;
        Ok(Self { body, score })
    }

    /// Scores rows: (B) f32. `ids` and `mask` (B, T), as for the decoder's hidden states.
    ///
    /// # Errors
    /// If shapes differ, or a row has no real token.
    pub fn scores(&self, ids: &Tensor, mask: &Tensor) -> std::result::Result<Tensor, ModelError> {
        let last = last_token(&self.body.hidden(ids, Some(mask))?, mask)?;
        Ok(self.score.forward(&last)?.squeeze(D::Minus1)?.to_dtype(DType::F32)?)
    }
}

/// Takes the hidden state of each row's last real token: (B, D) of `hidden` (B, T, D) and `mask` (B, T).
///
/// # Errors
/// If shapes differ, or a row has no real token.
pub fn last_token(hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (n_rows, n_positions, width) = hidden.dims3()?;
    if mask.dims2()? != (n_rows, n_positions) {
        bail!("mask has shape {:?}, hidden states have {:?}", mask.dims(), hidden.dims())
    }
    let mut picked = Vec::with_capacity(n_rows);
    for (row_idx, row) in mask.to_dtype(DType::F32)?.to_vec2::<f32>()?.iter().enumerate() {
        match row.iter().rposition(|&flag| flag != 0.0) {
            Some(position) => picked.push(u32::try_from(row_idx * n_positions + position)?),
            None => bail!("row {row_idx} has no real token"),
        }
    }
    let picked = Tensor::from_vec(picked, n_rows, hidden.device())?;
    hidden.reshape((n_rows * n_positions, width))?.index_select(&picked, 0)
}

/// Takes the hidden state of each row's last real token, scaled to length 1: the pooling of decoder embedders.
///
/// # Errors
/// If shapes differ, or a row has no real token.
pub fn last_token_embedding(hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let last = last_token(hidden, mask)?.to_dtype(DType::F32)?;
    // The floor keeps an all-zero state from becoming NaN, as in `torch.nn.functional.normalize`.
    let length = last.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    last.broadcast_div(&length)
}
