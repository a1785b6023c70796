//! `run_to_end` for rollouts and offline generation, on the same batch as the server.
use super::batch::{Batch, DecodeError, FinishedRow, GroupRequest};

/// Decodes every request, at most `max_rows` rows at a time; calls `on_finished` with each row as it ends.
///
/// A group joins as soon as all of its rows fit. A group is never split, since its rows share one prompt: one of more
/// than `max_rows` rows waits until the batch is empty and runs alone. What a row says depends on neither.
///
/// # Errors
/// The first request that is refused or step that fails; rows that ended before have been handed over.
pub fn run_to_end(
    batch: &mut Batch,
    requests: impl Iterator<Item = GroupRequest>,
    max_rows: usize,
    mut on_finished: impl FnMut(FinishedRow),
) -> Result<(), DecodeError> {
    let mut requests = requests.peekable();
    loop {
        while let Some(request) = requests.next_if(|next| {
            batch.n_rows() == 0 || batch.n_rows().saturating_add(next.seeds.len()) <= max_rows
        }) {
            batch.admit(request)?;
        }
        batch.step()?.into_iter().for_each(&mut on_finished);
        if batch.n_rows() == 0 && requests.peek().is_none() {
            return Ok(());
        }
    }
}
