//! A row that is written already, read as if it had been sampled: what the network says of each of its tokens.
use super::{
    batch::{DecodeError, Finish, FinishedRow, GroupId},
    row::{Row, Rules, State},
    sampler::{Sampled, SamplerSettings},
};
use crate::model::{transformer::Transformer, weights::ModelError};
use candle_core::{D, DType, Tensor};
use std::sync::Arc;

/// A row that is read has no others beside it.
const GROUP: GroupId = GroupId(0);

/// Reads what follows a prompt, a stop id at its end at most. `ends`: stop ids and, sorted, boundary ids.
///
/// # Errors
/// If prompt or row are empty or too long, a token is never written by this network, or it fails or gives what is not finite.
pub fn read(
    model: &Transformer,
    prompt: &[u32],
    ids: &[u32],
    (stop_ids, boundary_ids): (Arc<[u32]>, Arc<[u32]>),
) -> Result<FinishedRow, DecodeError> {
    if prompt.is_empty() {
        return Err(DecodeError::EmptyPrompt);
    }
    if ids.is_empty() {
        return Err(DecodeError::EmptyRequest { n_rows: 1, max_new_tokens: 0 });
    }
    let output_ids = model.config().output_ids.clone();
    let columns = output_ids.columns(ids).map_err(ModelError::from)?;
    let (hidden, logprobs) = said(model, prompt, ids, &columns)?;
    let max_new_tokens = ids.len();
    let rules = Rules { max_new_tokens, stop_ids, boundary_ids, constrained: false, output_ids };
    let mut row = Row::new(0, SamplerSettings::PLAIN, 0, &[]);
    for ((id, logprob), hidden) in columns.into_iter().zip(logprobs).zip(&hidden) {
        let sampled = logprob.is_finite().then_some(Sampled { id, logprob });
        row.take(sampled, hidden, &rules);
        if row.state == State::Broken {
            return Err(DecodeError::NotFinite { id: GROUP });
        }
    }
    let is_ended = ids.last().is_some_and(|id| rules.stop_ids.contains(id));
    let finish = if is_ended { Finish::Stop } else { Finish::Length };
    Ok(FinishedRow { finish, ..row.so_far(GROUP) })
}

/// The hidden state from which each token would have been sampled, and its log-probability.
fn said(
    model: &Transformer,
    prompt: &[u32],
    ids: &[u32],
    columns: &[u32],
) -> Result<(Vec<Vec<f32>>, Vec<f32>), ModelError> {
    let before = [prompt, &ids[..ids.len() - 1]].concat();
    let before = Tensor::from_slice(&before, (1, before.len()), model.device())?;
    let hidden = model.hidden(&before, None)?.squeeze(0)?;
    let hidden = hidden.narrow(0, prompt.len() - 1, ids.len())?.contiguous()?;
    let logprobs = candle_nn::ops::log_softmax(&model.logits(&hidden)?, D::Minus1)?;
    let chosen = Tensor::from_slice(columns, (columns.len(), 1), model.device())?;
    let logprobs = logprobs.gather(&chosen, 1)?.squeeze(1)?.to_vec1()?;
    Ok((hidden.to_dtype(DType::F32)?.to_vec2()?, logprobs))
}
