//! Readers who come and go, as in the server: prompts are computed in pieces between the steps of those who came before.
use crate::decode::batch::{Batch, DecodeError, FinishedRow, GroupId, GroupRequest, prefill_budget};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Readers on their way, and sums over those that were answered.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Start of each reader's prompt, and how many candidates are still to come.
    live: HashMap<GroupId, (Instant, usize)>,
    /// Whose prompt is being computed.
    arriving: Option<GroupRequest>,
    /// Of each reader, from the start of the prompt to the last candidate.
    pub(super) latencies: Vec<Duration>,
    /// From step to step, where rows ran before.
    pub(super) intervals: Vec<Duration>,
    pub(super) prefill_time: Duration,
    pub(super) prefill_tokens: usize,
    pub(super) decode_time: Duration,
    pub(super) decode_tokens: usize,
    pub(super) kv_bytes_peak: usize,
}

impl Load {
    pub(super) fn run<'a>(
        &mut self,
        batch: &mut Batch,
        requests: impl Iterator<Item = &'a GroupRequest>,
        concurrency: usize,
    ) -> Result<(), DecodeError> {
        let mut requests = requests.peekable();
        while requests.peek().is_some() || !self.live.is_empty() {
            let (before, n_before) = (Instant::now(), batch.n_rows());
            let mut n_computed = 0;
            while n_computed < prefill_budget(batch.n_rows()) {
                let next = || requests.next_if(|_| self.live.len() < concurrency).cloned();
                let Some(request) = self.arriving.take().or_else(next) else { break };
                n_computed += self.admit(batch, request, prefill_budget(batch.n_rows()) - n_computed)?;
            }
            self.kv_bytes_peak = self.kv_bytes_peak.max(batch.kv_bytes());
            self.decode_tokens += batch.n_rows();
            let started = Instant::now();
            let finished = batch.step()?;
            self.decode_time += started.elapsed();
            if n_before > 0 {
                self.intervals.push(before.elapsed());
            }
            finished.iter().for_each(|row| self.count(row));
        }
        Ok(())
    }

    /// Computes some of a prompt, all of it where no row waits; returns how many positions.
    fn admit(
        &mut self,
        batch: &mut Batch,
        mut request: GroupRequest,
        budget: usize,
    ) -> Result<usize, DecodeError> {
        let started = Instant::now();
        self.live.entry(request.id).or_insert((started, request.seeds.len()));
        let n_known = request.known.as_ref().map_or(0, |known| known.n_positions);
        let n_left = request.prompt.len() - n_known;
        let n_computed = if batch.n_rows() > 0 && n_left > budget {
            let n_computed = batch.extend(&mut request, budget)?;
            self.arriving = Some(request);
            n_computed
        } else {
            batch.admit(request)?.prefill_tokens_computed
        };
        self.prefill_tokens += n_computed;
        self.prefill_time += started.elapsed();
        Ok(n_computed)
    }

    fn count(&mut self, row: &FinishedRow) {
        let Some((started, n_left)) = self.live.get_mut(&row.group) else { return };
        *n_left -= 1;
        if *n_left == 0 {
            self.latencies.push(started.elapsed());
            self.live.remove(&row.group);
        }
    }
}
