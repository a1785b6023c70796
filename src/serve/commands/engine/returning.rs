//! What the prompt of a reader costs who comes back with some tokens more, beside that of her first visit.
#![allow(clippy::cast_precision_loss, reason = "counts of a measurement")]
use super::percentile_ms;
use crate::{
    decode::batch::GroupRequest,
    model::{kv_cache::Prefix, transformer::Transformer, weights::ModelError},
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Readers that are measured: enough for a median.
const READERS: usize = 15;

/// Medians of some readers, each alone on the machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Returning {
    /// Tokens that she brings.
    tokens: usize,
    first_ms: f64,
    returning_ms: f64,
    /// Tokens that are computed for her, over those of the first visit; of the last of these readers, as all bring as many.
    pub(super) share_of_tokens: f64,
    pub(super) share_of_time: f64,
}

/// `n_new`: tokens that she brings, taken from the prompt of the next reader.
/// # Errors
/// If there is no reader, or the model fails.
pub(super) fn measure(
    model: &Transformer,
    requests: &[GroupRequest],
    n_new: usize,
) -> Result<Returning, ModelError> {
    let (mut first, mut returning) = (Vec::new(), Vec::new());
    let mut share_of_tokens = 0.0;
    for (reader, request) in requests.iter().cycle().take(READERS).enumerate() {
        let known = request.known.as_ref().map(|known| (&*known.prefix, known.n_positions));
        let (prefix, took) = timed(model, known, &request.prompt)?;
        first.push(took);
        let next = &requests[(reader + 1) % requests.len()].prompt;
        let longer: Vec<u32> = request.prompt.iter().chain(next.iter().rev().take(n_new)).copied().collect();
        let (longer, took) = timed(model, Some((&prefix, prefix.n_positions())), &longer)?;
        returning.push(took);
        let n_first = prefix.n_positions() - request.n_known();
        share_of_tokens = (longer.n_positions() - prefix.n_positions()) as f64 / n_first as f64;
    }
    first.sort_unstable();
    returning.sort_unstable();
    let (first_ms, returning_ms) = (percentile_ms(&first, 50), percentile_ms(&returning, 50));
    Ok(Returning {
        tokens: n_new,
        first_ms,
        returning_ms,
        share_of_tokens,
        share_of_time: returning_ms / first_ms,
    })
}

fn timed(
    model: &Transformer,
    known: Option<(&Prefix, usize)>,
    ids: &[u32],
) -> Result<(Prefix, Duration), ModelError> {
    let started = Instant::now();
    let (prefix, hidden) = match known {
        Some((known, n_positions)) => model.prefill_after(known, n_positions, ids)?,
        None => model.prefill(ids)?,
    };
    // A GPU has only been told what to do until something is read.
    hidden.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?;
    Ok((prefix, started.elapsed()))
}
