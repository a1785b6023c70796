//! What the model thread is asked for, and what it says of it.
use super::{Deadline, EngineError, Growth, room};
use crate::{
    decode::{
        adaptive::Adaptive,
        batch::{FinishedRow, SHOWN_MAX},
        pruning::Pruning,
        sampler::SamplerSettings,
    },
    serve::{batcher::Room, bill::Bill, owner::Leave},
};
use std::{sync::Arc, time::Duration};

/// One prompt to decode.
#[derive(Debug)]
pub struct Job {
    /// Whose prompt it is, who lets it be kept; none where nothing that is known may be used, and nothing is kept.
    pub leave: Option<Leave>,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// One per row.
    pub seeds: Vec<u64>,
    /// How tokens are drawn.
    pub sampler: SamplerSettings,
    /// Most tokens of a row.
    pub max_new_tokens: usize,
    /// Ids that end a row.
    pub stop_ids: Arc<[u32]>,
    /// Ids that end a query.
    pub boundary_ids: Arc<[u32]>,
    /// How weak rows are stopped early.
    pub pruning: Option<Pruning>,
    /// How the first rows decide whether the others are written; none: all are.
    pub adaptive: Option<Adaptive>,
    /// Until when the job is worth anything.
    pub deadline: Arc<Deadline>,
    /// Whether its rows are shown while they are written.
    pub growth: Arc<Growth>,
    /// What is used for it; it comes back with `Done`, and is settled here if the job is not decoded to its end.
    pub bill: Bill,
}

impl Job {
    /// What it takes until its first rows have ended.
    pub(super) fn need(&self) -> Room {
        room(self.prompt.len(), self.seeds.len() - self.n_held(), self.max_new_tokens)
    }

    /// How many events its owner may hear.
    pub(super) fn n_events_max(&self) -> usize {
        // Of each row, that it grew and that it ended; and `Admitted`, `Done` and `Failed`.
        self.seeds.len() * (SHOWN_MAX + 1) + 3
    }

    pub(super) fn n_held(&self) -> usize {
        self.adaptive.as_ref().map_or(0, |_| Adaptive::n_held(self.seeds.len()))
    }
}

/// What a job's owner hears, in this order: `Admitted`, `Row` for each row that is written, among them `Grown`, `Done`; or `Failed` at any time, and
/// nothing after it.
#[derive(Debug)]
pub enum Event {
    /// The prompt went through the model.
    Admitted {
        /// Time in the queue.
        queue: Duration,
        /// Time of the prefill.
        prefill: Duration,
        /// Prompt tokens computed.
        prefill_tokens_computed: usize,
    },
    /// A row ended.
    Row(FinishedRow),
    /// Rows, as far as they are written, of which one more query has ended. Only where growth is watched.
    Grown(Vec<FinishedRow>),
    /// All rows ended.
    Done {
        /// Time since the prefill.
        decode: Duration,
        /// Rows were left out that were needed: others waited for the model, or the deadline was near.
        is_cut: bool,
        /// What was used, to be settled.
        bill: Bill,
    },
    /// There will be no more.
    Failed(EngineError),
}
