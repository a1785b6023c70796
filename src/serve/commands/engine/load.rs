//! Readers who come and go, as in the server: prompts are computed in pieces beside the steps of those who came before.
use crate::decode::{
    adaptive::Adaptive,
    batch::{Batch, DecodeError, Finish, FinishedRow, GroupId, GroupRequest},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Rows of each reader that are stopped, and after how many tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    pub(super) n_rows: usize,
    pub(super) at: usize,
}

/// A reader on her way.
#[derive(Debug)]
struct Live {
    /// When her prompt began.
    started: Instant,
    /// Candidates that are still to come, but for those that are held.
    n_left: usize,
    /// Tokens that each of her rows has; none before her prompt is admitted.
    n_tokens: usize,
    /// Candidates that have come, where they decide whether those that are held are written.
    ended: Vec<FinishedRow>,
}

/// Readers on their way, and sums over those that were answered.
#[derive(Debug, Default)]
pub(super) struct Load {
    stopped: Option<Stopped>,
    adaptive: Option<Adaptive>,
    live: HashMap<GroupId, Live>,
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
    /// Candidates that were written to their end.
    pub(super) n_ended: usize,
    pub(super) n_stopped: usize,
}

impl Load {
    /// `adaptive`: who says of a reader's first candidates that those which are held are needed.
    pub(super) fn new(stopped: Option<Stopped>, adaptive: Option<Adaptive>) -> Self {
        Self { stopped, adaptive, ..Self::default() }
    }

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
            while self.arriving.is_none() && n_computed < batch.prefill_budget() {
                let Some(request) = requests.next_if(|_| self.live.len() < concurrency) else { break };
                let n_left = request.seeds.len() - request.n_held;
                let live = Live { started: Instant::now(), n_left, n_tokens: 0, ended: Vec::new() };
                self.live.insert(request.id, live);
                let budget = batch.prefill_budget() - n_computed;
                n_computed += self.admit_or_wait(batch, request.clone(), budget)?;
            }
            if let Some(arriving) = self.arriving.take() {
                self.admit_or_wait(batch, arriving, batch.prefill_budget())?;
            }
            self.kv_bytes_peak = self.kv_bytes_peak.max(batch.kv_bytes());
            for row in self.step(batch)? {
                self.count(batch, row)?;
            }
            self.stop(batch)?;
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
        let (started, id) = (Instant::now(), request.id);
        let n_computed = batch.admit(request)?.prefill_tokens_computed;
        self.live.get_mut(&id).into_iter().for_each(|live| live.n_tokens = 1);
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
                let finished = batch.step_beside(request, batch.prefill_budget())?;
                n_positions = request.n_known() - before;
                finished
            }
            None => batch.step()?,
        };
        self.live.values_mut().filter(|live| live.n_tokens > 0).for_each(|live| live.n_tokens += 1);
        let took = started.elapsed();
        // A position costs about what a row costs.
        let of_prompt = took.mul_f64(share(n_positions, n_rows));
        self.prefill_tokens += n_positions;
        self.prefill_time += of_prompt;
        self.decode_tokens += n_rows;
        self.decode_time += took - of_prompt;
        Ok(finished)
    }

    /// Stops those rows whose time has come.
    fn stop(&mut self, batch: &mut Batch) -> Result<(), DecodeError> {
        let Some(Stopped { n_rows, at }) = self.stopped else { return Ok(()) };
        let mut due = self.live.iter().filter(|(_, live)| live.n_tokens == at);
        due.try_for_each(|(&group, _)| batch.stop(group, n_rows))
    }

    fn count(&mut self, batch: &mut Batch, row: FinishedRow) -> Result<(), DecodeError> {
        let (group, is_stopped) = (row.group, row.finish == Finish::Pruned);
        let n = if is_stopped { &mut self.n_stopped } else { &mut self.n_ended };
        *n += 1;
        let Some(live) = self.live.get_mut(&group) else { return Ok(()) };
        live.n_left -= 1;
        live.ended.push(row);
        if live.n_left > 0 {
            return Ok(());
        }
        // Nobody waits for a place here, which in the server would leave them out.
        if self.adaptive.as_ref().is_some_and(|adaptive| adaptive.disagree(&live.ended)) {
            (live.n_left, live.n_tokens) = (batch.draw(group)?, 1);
        }
        if live.n_left == 0 {
            self.latencies.push(live.started.elapsed());
            self.live.remove(&group);
            batch.cancel(group);
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a measurement")]
fn share(part: usize, rest: usize) -> f64 {
    part as f64 / (part + rest).max(1) as f64
}
