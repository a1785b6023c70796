//! `run_to_end` for rollouts and offline generation, on the same batch as the server.
use super::batch::{Batch, DecodeError, FinishedRow, GroupRequest};

/// Decodes every request, at most `max_rows` rows at a time; calls `on_finished` with each row as it ends.
pub fn run_to_end(
    batch: &mut Batch,
    requests: impl Iterator<Item = GroupRequest>,
    max_rows: usize,
    on_finished: impl FnMut(FinishedRow),
) -> Result<(), DecodeError> { todo!() }
