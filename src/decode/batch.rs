//! Rows as a state machine: groups join and leave between steps; one step feeds one token to every live row.
pub use super::error::DecodeError;

use super::{
    group::Group,
    outlined::Outlined,
    pruning::Pruning,
    row::{Row, State, Turn, sample},
    sampler::SamplerSettings,
};
use crate::{
    model::{
        kv_cache::{Forks, Prefix},
        room::Room,
        transformer::Transformer,
    },
    queries::QUERIES_MAX,
};
use candle_core::Tensor;
use std::sync::Arc;

/// Names a group within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

/// The beginning of a prompt that was computed before.
#[derive(Clone, Debug)]
pub struct Known {
    /// Keys and values of a prompt that begins alike.
    pub prefix: Arc<Prefix>,
    /// How many of the ids they have in common: fewer than the prompt has, for its last id is always computed.
    pub n_positions: usize,
}

/// N samples of one prompt.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    /// Names the group; no other group in the batch may have it.
    pub id: GroupId,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// The beginning that need not be computed, where one is known.
    pub known: Option<Known>,
    /// One per row: N = seeds.len(), at least one.
    pub seeds: Vec<u64>,
    /// How many rows, the last ones, wait until `draw` says that they are written; fewer than N.
    pub n_held: usize,
    /// How tokens are drawn.
    pub sampler: SamplerSettings,
    /// Tokens sampled per row at most, the stop token included; at least one.
    pub max_new_tokens: usize,
    /// Ids that end a row.
    pub stop_ids: Arc<[u32]>,
    /// Ids that end a query, sorted; the hidden state they were sampled from is kept for the reward head.
    pub boundary_ids: Arc<[u32]>,
    /// How weak rows are stopped early; none: all are written to their end.
    pub pruning: Option<Pruning>,
}

impl GroupRequest {
    /// Positions that need not be computed.
    #[must_use]
    pub fn n_known(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.n_positions)
    }
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It sampled a stop id.
    Stop,
    /// It used up its tokens.
    Length,
    /// Another list of its group was better beyond doubt.
    Pruned,
}

/// The end of one query inside a row. An empty line is no query.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryEnd {
    /// Where the query's ids begin among the row's.
    pub start: usize,
    /// Number of the row's ids before the boundary (or stop) token.
    pub n_ids: usize,
    /// Hidden state (`hidden_size`) from which the boundary was sampled.
    pub hidden: Vec<f32>,
}

/// A row that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedRow {
    /// Its group.
    pub group: GroupId,
    /// Its place among the group's seeds.
    pub row_idx: usize,
    /// Sampled ids, the stop id included.
    pub ids: Vec<u32>,
    /// Log-probability of each id under the plain model, nats.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// Ends of its queries; a query cut off by the length has none, and a boundary right after another makes none.
    pub query_ends: Vec<QueryEnd>,
}

impl FinishedRow {
    /// Mean log-probability of its ids in nats; 0 of none.
    pub fn mean_logprob(&self) -> f32 {
        #[allow(clippy::cast_precision_loss, reason = "a row has some hundred tokens")]
        let n_ids = self.logprobs.len().max(1) as f32;
        self.logprobs.iter().sum::<f32>() / n_ids
    }
}

/// Rows and positions of a prompt together in a step of few rows: small products waste the machine.
pub const TOGETHER_MIN: usize = 128;
/// The same on a GPU, which takes as long for one as for some hundred.
pub const TOGETHER_MIN_ON_GPU: usize = 512;

/// How often a row is shown at most while it is written: with each query that a list may have.
pub const SHOWN_MAX: usize = QUERIES_MAX;

/// Positions of a prompt that are computed beside one step of so many rows: as many as rows, since each costs about what a row costs, so that a
/// long prompt at most doubles the time of a step; but where few rows run, so many that both together are `together_min`.
#[must_use]
pub fn prefill_budget(n_rows: usize, together_min: usize) -> usize {
    n_rows.max(together_min.saturating_sub(n_rows))
}

/// What admitting a group cost.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Positions whose keys and values were computed, once for all rows: those that were not known.
    pub prefill_tokens_computed: usize,
    /// Keys and values of the prompt; none where nothing keeps any.
    pub prefix: Option<Arc<Prefix>>,
}

/// Rows of many groups that take each step together.
///
/// What a row says depends on its prompt, seed and settings, never on its neighbours, but for the last bits of sums on a GPU or in 16 bits;
/// with early stopping, how much of it is said depends on its group.
#[derive(Debug)]
pub struct Batch {
    model: Arc<Transformer>,
    groups: Vec<Group>,
    finished: Vec<FinishedRow>,
    room: Room,
    outlined: Outlined,
}

impl Batch {
    /// An empty batch.
    pub fn new(model: Arc<Transformer>) -> Self {
        Self {
            model,
            groups: Vec::new(),
            finished: Vec::new(),
            room: Room::default(),
            outlined: Outlined::default(),
        }
    }

    /// Prefills the prompt once and forks it into N rows, less those that are held; the first token of each row is sampled here, so that what
    /// a held row says does not depend on when it is written. Rows can already finish here.
    ///
    /// # Errors
    /// If the request is empty, too long, or names an unknown id or a group that is here; or if the model fails. The
    /// batch is unchanged then.
    pub fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        self.check(&request)?;
        let n_first = request.seeds.len() - request.n_held;
        let (prefix, hidden) = match &request.known {
            Some(Known { prefix, n_positions }) => {
                self.model.prefill_after(prefix, *n_positions, &request.prompt)?
            }
            None => self.model.prefill(&request.prompt)?,
        };
        let n_known = request.n_known();
        let prefill_tokens_computed = prefix.n_positions() - n_known;
        let prefix = Arc::new(prefix);
        let output_ids = self.model.config().output_ids.clone();
        let mut group = Group::new(request, Forks::new(Arc::clone(&prefix), n_first), output_ids);
        let Group { rows, rules, .. } = &mut group;
        self.model.read_logits(&hidden, &mut self.room, |hidden, logits| {
            sample(rows.iter_mut().map(|row| Turn { row, rules, hidden, logits }).collect());
            Ok(())
        })?;
        if group.rows.iter().any(|row| row.state == State::Broken) {
            return Err(DecodeError::NotFinite { id: group.id });
        }
        group.hold_from(n_first);
        group.take_finished(&mut self.finished)?;
        if !group.has_ended() {
            self.groups.push(group);
        }
        Ok(Admitted { prefill_tokens_computed, prefix: Some(prefix) })
    }

    /// Starts the held rows of a group whose other rows have all ended, on the prompt that was computed for those; returns how many. Until
    /// then, or until `cancel`, the group is in the batch.
    ///
    /// # Errors
    /// If the model fails.
    pub fn draw(&mut self, group: GroupId) -> Result<usize, DecodeError> {
        let Some(group) = self.groups.iter_mut().find(|live| live.id == group) else { return Ok(0) };
        let n_drawn = group.draw();
        group.take_finished(&mut self.finished)?;
        self.groups.retain(|group| !group.has_ended());
        Ok(n_drawn)
    }

    /// Stops the last live rows of a group, as early stopping does with weak ones; they come back with the next step.
    ///
    /// # Errors
    /// If keys and values cannot be freed.
    pub fn stop(&mut self, group: GroupId, n_rows: usize) -> Result<(), DecodeError> {
        let Some(group) = self.groups.iter_mut().find(|live| live.id == group) else { return Ok(()) };
        group.rows.iter_mut().rev().take(n_rows).for_each(|row| row.state = State::Finished(Finish::Pruned));
        group.take_finished(&mut self.finished)?;
        self.groups.retain(|group| !group.has_ended());
        Ok(())
    }

    /// Live rows of a group of which one more query has ended since it was asked last, as far as they are written: each at most `SHOWN_MAX` times.
    pub fn grown(&mut self, group: GroupId) -> Vec<FinishedRow> {
        self.groups.iter_mut().filter(|live| live.id == group).flat_map(Group::grown).collect()
    }

    /// One token for every live row; returns rows that finished since the last call (those of admit included).
    ///
    /// # Errors
    /// If the model fails, or if a group's logits are not finite: that group is dropped then, the others have made
    /// their step, and rows that finished come back with the next call.
    pub fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        self.step_with(None)
    }

    /// The same, and beside it some positions of a prompt that is not admitted yet, which `request` knows afterwards: at most
    /// `n_positions_max`, and not the last, which `admit` computes. Together they cost less than one after the other.
    ///
    /// # Errors
    /// As for `step`; if the request could not be admitted, before any row has moved.
    pub fn step_beside(
        &mut self,
        request: &mut GroupRequest,
        n_positions_max: usize,
    ) -> Result<Vec<FinishedRow>, DecodeError> {
        self.check(request)?;
        let n_known = request.n_known();
        let n_positions = request.prompt.len().saturating_sub(1).min(n_known.saturating_add(n_positions_max));
        if n_positions <= n_known {
            return self.step();
        }
        if self.n_rows() == 0 {
            let ids = &request.prompt[..n_positions];
            let (prefix, _) = match &request.known {
                Some(known) => self.model.prefill_after(&known.prefix, n_known, ids)?,
                None => self.model.prefill(ids)?,
            };
            request.known = Some(Known { prefix: Arc::new(prefix), n_positions });
            return self.step();
        }
        self.step_with(Some((request, n_positions)))
    }

    fn step_with(
        &mut self,
        prompt: Option<(&mut GroupRequest, usize)>,
    ) -> Result<Vec<FinishedRow>, DecodeError> {
        if self.n_rows() == 0 {
            return Ok(std::mem::take(&mut self.finished));
        }
        let ids: Vec<u32> =
            self.groups.iter().flat_map(|group| group.rows.iter().map(Row::last_id)).collect();
        let mut forks: Vec<&mut Forks> = self.groups.iter_mut().map(|group| &mut group.forks).collect();
        let hidden = match prompt {
            None => self.model.step(&mut forks, &ids)?,
            Some((request, n_positions)) => {
                let known = request.known.as_ref().map(|known| &*known.prefix);
                let prompt = (known, request.n_known(), &request.prompt[..n_positions]);
                let (hidden, prefix) = self.model.step_beside(&mut forks, &ids, prompt)?;
                request.known = Some(Known { prefix: Arc::new(prefix), n_positions });
                hidden
            }
        };
        self.sample(&hidden, ids.len())?;
        let broken = self.drop_broken();
        for group in &mut self.groups {
            group.take_finished(&mut self.finished)?;
            group.prune(&mut self.finished)?;
        }
        self.groups.retain(|group| !group.has_ended());
        match broken {
            Some(id) => Err(DecodeError::NotFinite { id }),
            None => Ok(std::mem::take(&mut self.finished)),
        }
    }

    /// Draws a token for every row from its hidden state.
    fn sample(&mut self, hidden: &Tensor, n_rows: usize) -> Result<(), DecodeError> {
        let Self { model, groups, room, outlined, .. } = self;
        let left = outlined.sample(model, hidden, groups, room)?;
        let (hidden, n_left) = match &left {
            None => (hidden.clone(), n_rows),
            Some(left) if left.is_empty() => return Ok(()),
            Some(left) => {
                (hidden.index_select(&Tensor::new(left.as_slice(), hidden.device())?, 0)?, left.len())
            }
        };
        model.read_logits(&hidden, room, |hidden, logits| {
            let (hidden_size, n_columns) = (hidden.len() / n_left, logits.len() / n_left);
            let outputs = hidden.chunks(hidden_size.max(1)).zip(logits.chunks(n_columns.max(1)));
            let rows = groups
                .iter_mut()
                .flat_map(|Group { rows, rules, .. }| rows.iter_mut().map(|row| (row, &*rules)));
            let is_left = |place: u32| left.as_ref().is_none_or(|left| left.binary_search(&place).is_ok());
            let rows = (0..).zip(rows).filter(|&(place, _)| is_left(place)).map(|(_, row)| row);
            let turn = |((row, rules), (hidden, logits))| Turn { row, rules, hidden, logits };
            sample(rows.zip(outputs).map(turn).collect());
            Ok(())
        })?;
        Ok(())
    }

    /// Drops every row of a group, also those that finished and were not handed over; returns how many were live.
    pub fn cancel(&mut self, group: GroupId) -> usize {
        self.finished.retain(|row| row.group != group);
        let n_live = self.groups.iter().filter(|live| live.id == group).map(|live| live.rows.len()).sum();
        self.groups.retain(|live| live.id != group);
        n_live
    }

    /// Positions of a prompt that are computed beside one step of the rows that run.
    pub fn prefill_budget(&self) -> usize {
        let together_min = if self.model.device().is_cpu() { TOGETHER_MIN } else { TOGETHER_MIN_ON_GPU };
        prefill_budget(self.n_rows(), together_min)
    }

    /// Number of live rows.
    pub fn n_rows(&self) -> usize {
        self.groups.iter().map(|group| group.rows.len()).sum()
    }

    /// Number of live rows of one group.
    pub fn n_rows_of(&self, group: GroupId) -> usize {
        self.groups.iter().filter(|live| live.id == group).map(|live| live.rows.len()).sum()
    }

    /// Device bytes of keys and values, each prompt counted once.
    pub fn kv_bytes(&self) -> usize {
        self.groups.iter().map(|group| group.forks.n_bytes() + group.forks.prefix().n_bytes()).sum()
    }

    fn check(&self, request: &GroupRequest) -> Result<(), DecodeError> {
        let config = self.model.config();
        let (n_rows, max_new_tokens) = (request.seeds.len(), request.max_new_tokens);
        if request.prompt.is_empty() {
            return Err(DecodeError::EmptyPrompt);
        }
        if n_rows <= request.n_held || max_new_tokens == 0 {
            let n_rows = n_rows.saturating_sub(request.n_held);
            return Err(DecodeError::EmptyRequest { n_rows, max_new_tokens });
        }
        let (prompt_tokens, max_positions) = (request.prompt.len(), config.max_positions);
        if prompt_tokens.saturating_add(max_new_tokens) > max_positions {
            return Err(DecodeError::TooLong { prompt_tokens, max_new_tokens, max_positions });
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(DecodeError::UnknownId { id, vocab_size: config.vocab_size });
        }
        match self.groups.iter().find(|group| group.id == request.id) {
            Some(group) => Err(DecodeError::GroupExists { id: group.id }),
            None => Ok(()),
        }
    }

    /// Drops the first group with broken logits and, should there be more, those too; names the first.
    fn drop_broken(&mut self) -> Option<GroupId> {
        let is_broken = |group: &Group| group.rows.iter().any(|row| row.state == State::Broken);
        let first = self.groups.iter().find(|group| is_broken(group)).map(|group| group.id);
        self.groups.retain(|group| !is_broken(group));
        first
    }
}
