//! Readers who come and go, as in the server: prompts are computed in pieces beside the steps of those who came before.
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
            while self.arriving.is_none() && n_computed < prefill_budget(batch.n_rows()) {
                let Some(request) = requests.next_if(|_| self.live.len() < concurrency) else { break };
                self.live.insert(request.id, (Instant::now(), request.seeds.len()));
                let budget = prefill_budget(batch.n_rows()) - n_computed;
                n_computed += self.admit_or_wait(batch, request.clone(), budget)?;
            }
            if let Some(arriving) = self.arriving.take() {
                self.admit_or_wait(batch, arriving, prefill_budget(batch.n_rows()))?;
            }
            self.kv_bytes_peak = self.kv_bytes_peak.max(batch.kv_bytes());
            self.step(batch)?.iter().for_each(|row| self.count(row));
            if n_before > 0 {
                self.intervals.push(before.elapsed());
            }
        }
        Ok(())
    }

    /// Admits a prompt if what is left of it fits the budget or nobody waits for it, and else lets it be computed beside steps; returns
    /// the positions that were computed.
    fn admit_or_wait(
        &mut self,
        batch: &mut Batch,
        request: GroupRequest,
        budget: usize,
    ) -> Result<usize, DecodeError> {
        if batch.n_rows() > 0 && request.prompt.len() - request.n_known() > budget {
            self.arriving = Some(request);
            return Ok(0);
        }
        let started = Instant::now();
        let n_computed = batch.admit(request)?.prefill_tokens_computed;
        self.prefill_tokens += n_computed;
        self.prefill_time += started.elapsed();
        Ok(n_computed)
    }

    fn step(&mut self, batch: &mut Batch) -> Result<Vec<FinishedRow>, DecodeError> {
        let (started, n_rows) = (Instant::now(), batch.n_rows());
        let mut n_positions = 0;
        let finished = match &mut self.arriving {
            Some(request) => {
                let before = request.n_known();
                let finished = batch.step_beside(request, prefill_budget(n_rows))?;
                n_positions = request.n_known() - before;
                finished
            }
            None => batch.step()?,
        };
        let took = started.elapsed();
        // A position costs about what a row costs.
        let of_prompt = took.mul_f64(share(n_positions, n_rows));
        self.prefill_tokens += n_positions;
        self.prefill_time += of_prompt;
        self.decode_tokens += n_rows;
        self.decode_time += took - of_prompt;
        Ok(finished)
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

#[allow(clippy::cast_precision_loss, reason = "counts of a measurement")]
fn share(part: usize, rest: usize) -> f64 {
    part as f64 / (part + rest).max(1) as f64
}
