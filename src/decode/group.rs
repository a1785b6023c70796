//! The rows of one prompt: which of them end, and which are stopped.
use super::{
    batch::{DecodeError, Finish, FinishedRow, GroupId, GroupRequest},
    pruning::Pruning,
    row::{Row, Rules, State},
};
use crate::model::{config::OutputIds, kv_cache::Forks};
use std::sync::Arc;
use tracing::warn;

/// Live rows of one prompt, in the order of their keys and values.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) rules: Rules,
    pub(super) forks: Forks,
    pub(super) rows: Vec<Row>,
    /// Rows that have their first token, and wait until the others have ended.
    held: Vec<Row>,
    pruning: Option<Pruning>,
    /// Rows that have ended by themselves as lists, where weak ones are measured by them.
    ended: Vec<FinishedRow>,
    n_steps: usize,
}

impl Group {
    pub(super) fn new(request: GroupRequest, forks: Forks, output_ids: OutputIds) -> Self {
        let GroupRequest {
            id, prompt, seeds, sampler, max_new_tokens, stop_ids, boundary_ids, pruning, ..
        } = request;
        let seen: Vec<u32> = prompt.iter().filter_map(|&id| output_ids.column(id)).collect();
        let rows = seeds.into_iter().enumerate();
        let rows = rows.map(|(row_idx, seed)| Row::new(row_idx, sampler, seed, &seen)).collect();
        let constrained = sampler.constrained;
        let rules = Rules { max_new_tokens, stop_ids, boundary_ids, constrained, output_ids };
        Self { id, rules, forks, rows, held: Vec::new(), pruning, ended: Vec::new(), n_steps: 0 }
    }

    /// Holds back the rows from one on; only the others have keys and values.
    pub(super) fn hold_from(&mut self, n_first: usize) {
        self.held = self.rows.split_off(n_first);
    }

    /// Lets held rows go on once no other is left; returns how many.
    pub(super) fn draw(&mut self) -> usize {
        if !self.rows.is_empty() || self.held.is_empty() {
            return 0;
        }
        self.rows = std::mem::take(&mut self.held);
        self.n_steps = 0;
        self.forks = Forks::new(Arc::clone(self.forks.prefix()), self.rows.len());
        self.rows.len()
    }

    /// Whether there is nothing more to come.
    pub(super) fn has_ended(&self) -> bool {
        self.rows.is_empty() && self.held.is_empty()
    }

    /// Moves rows that ended out of the group, and frees their keys and values.
    pub(super) fn take_finished(&mut self, finished: &mut Vec<FinishedRow>) -> Result<(), DecodeError> {
        let n_before = finished.len();
        for at in (0..self.rows.len()).rev() {
            let State::Finished(finish) = self.rows[at].state else { continue };
            self.forks.drop_row(at)?;
            let Row { row_idx, ids, logprobs, query_ends, .. } = self.rows.remove(at);
            let row = FinishedRow { group: self.id, row_idx, ids, logprobs, finish, query_ends };
            let is_list = |pruning: &Pruning| finish != Finish::Pruned && (pruning.is_list)(&row);
            if self.pruning.as_ref().is_some_and(is_list) {
                self.ended.push(row.clone());
            }
            finished.push(row);
        }
        finished[n_before..].reverse();
        Ok(())
    }

    /// Rows with queries that were not shown yet, as far as they are written.
    pub(super) fn grown(&mut self) -> Vec<FinishedRow> {
        let grown = self.rows.iter_mut().filter_map(|row| row.grows().then_some(&*row));
        grown.map(|row| row.so_far(self.id)).collect()
    }

    /// Stops rows that cannot become the best list of the group.
    pub(super) fn prune(&mut self, finished: &mut Vec<FinishedRow>) -> Result<(), DecodeError> {
        self.n_steps += 1;
        let is_due = !self.rows.is_empty() && Pruning::is_due(self.n_steps);
        let Some(pruning) = self.pruning.as_ref().filter(|_| is_due) else { return Ok(()) };
        let live: Vec<FinishedRow> = self.rows.iter().map(|row| row.so_far(self.id)).collect();
        let rows: Vec<&FinishedRow> = self.ended.iter().chain(&live).collect();
        match pruning.weak(&rows, self.ended.len()) {
            Ok(weak) => {
                for place in weak {
                    self.rows[place - self.ended.len()].state = State::Finished(Finish::Pruned);
                }
            }
            // What only saves work must not cost anybody an answer.
            Err(error) => {
                warn!(%error, "early stopping failed and is off for this request");
                self.pruning = None;
            }
        }
        self.take_finished(finished)
    }
}
