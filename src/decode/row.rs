//! One row: what it has written, and how it takes the next token.
use super::{
    batch::{Finish, FinishedRow, GroupId, QueryEnd, SHOWN_MAX},
    sampler::{Drawn, Sampled, Sampler, SamplerSettings},
};
use crate::{
    model::{
        config::OutputIds,
        outline::{Ask, Outline},
    },
    queries::{QUERIES_MAX, QUERIES_MIN},
};
use rayon::prelude::*;
use std::sync::Arc;

/// Logits in a step from which on rows are sampled on the thread pool; below, waking it costs more than it saves.
const PARALLEL_LOGITS_MIN: usize = 1 << 16;

/// Classes of tokens that rows forbid.
pub(super) const STOPS: u8 = 1;
pub(super) const BOUNDARIES: u8 = 2;

/// What the rows of a group share.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) max_new_tokens: usize,
    pub(super) stop_ids: Arc<[u32]>,
    /// Sorted.
    pub(super) boundary_ids: Arc<[u32]>,
    pub(super) constrained: bool,
    /// Which logit is which token.
    pub(super) output_ids: OutputIds,
}

impl Rules {
    fn ends_query(&self, id: u32) -> bool {
        self.stop_ids.contains(&id) || self.boundary_ids.binary_search(&id).is_ok()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    Finished(Finish),
    /// Its logits were not finite.
    Broken,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) row_idx: usize,
    sampler: Sampler,
    /// Logits of prompt and sampled ids, where a repetition penalty looks at them.
    history: Option<Vec<u32>>,
    pub(super) ids: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
    pub(super) query_ends: Vec<QueryEnd>,
    /// Queries that were shown.
    n_shown: usize,
    /// Number of ids up to and including the last boundary.
    n_ids_at_boundary: usize,
    pub(super) state: State,
}

impl Row {
    pub(super) fn new(row_idx: usize, settings: SamplerSettings, seed: u64, seen: &[u32]) -> Self {
        let is_penalised = settings.repetition_penalty != 1.0;
        Self {
            row_idx,
            sampler: Sampler::new(settings, seed),
            history: is_penalised.then(|| seen.to_vec()),
            ids: Vec::new(),
            logprobs: Vec::new(),
            query_ends: Vec::new(),
            n_shown: 0,
            n_ids_at_boundary: 0,
            state: State::Live,
        }
    }

    /// What it has written, as if it ended here.
    pub(super) fn so_far(&self, group: GroupId) -> FinishedRow {
        FinishedRow {
            group,
            row_idx: self.row_idx,
            ids: self.ids.clone(),
            logprobs: self.logprobs.clone(),
            finish: Finish::Pruned,
            query_ends: self.query_ends.clone(),
        }
    }

    /// Whether it has a query that was not shown, and no more than a list has. From now on it was.
    pub(super) fn grows(&mut self) -> bool {
        let n_before = std::mem::replace(&mut self.n_shown, self.query_ends.len());
        self.n_shown > n_before && self.n_shown <= SHOWN_MAX
    }

    pub(super) fn last_id(&self) -> u32 {
        *self.ids.last().expect("a live row has the token sampled in admit")
    }

    /// Whether no stop id and no boundary must come next: none that would end a query which is blank or stands in the row already, token for token,
    /// end a list of too few queries, or begin another after the last that it may have.
    fn forbidden(&self, rules: &Rules) -> (bool, bool) {
        if !rules.constrained {
            return (false, false);
        }
        let unfinished = &self.ids[self.n_ids_at_boundary..];
        let stands_already =
            || self.query_ends.iter().any(|end| self.ids[end.start..end.n_ids] == *unfinished);
        let is_no_query = unfinished.is_empty() || stands_already();
        let n_queries = self.query_ends.len() + 1;
        (is_no_query || n_queries < QUERIES_MIN, is_no_query || n_queries >= QUERIES_MAX)
    }

    /// What it wants to know of its logits; None: all of them.
    pub(super) fn ask(&self, rules: &Rules) -> Option<Ask> {
        let (stops, boundaries) = self.forbidden(rules);
        let forbidden = (u8::from(stops) * STOPS) | (u8::from(boundaries) * BOUNDARIES);
        Some(Ask { forbidden, ..self.sampler.ask()? })
    }

    /// Samples one token from the logits (V) of a hidden state (D).
    fn advance(&mut self, hidden: &[f32], logits: &[f32], rules: &Rules) {
        let (stops, boundaries) = self.forbidden(rules);
        let stops = rules.stop_ids.iter().filter(|_| stops);
        let ids = stops.chain(rules.boundary_ids.iter().filter(|_| boundaries));
        let forbidden: Vec<u32> = ids.filter_map(|&id| rules.output_ids.column(id)).collect();
        let history = self.history.as_deref().unwrap_or_default();
        let sampled = self.sampler.sample(logits, history, &forbidden);
        self.take(sampled, hidden, rules);
    }

    /// The same from an outline of the logits; returns whether that says enough. If not, nothing has changed.
    pub(super) fn advance_outlined(&mut self, hidden: &[f32], outline: &Outline, rules: &Rules) -> bool {
        match self.sampler.sample_outline(outline) {
            Drawn::Token(sampled) => self.take(Some(sampled), hidden, rules),
            Drawn::Broken => self.take(None, hidden, rules),
            Drawn::Short => return false,
        }
        true
    }

    /// Writes down what was drawn. None: the logits were not finite.
    pub(super) fn take(&mut self, sampled: Option<Sampled>, hidden: &[f32], rules: &Rules) {
        let Some(sampled) = sampled else {
            self.state = State::Broken;
            return;
        };
        let id = rules.output_ids.id(sampled.id);
        if rules.ends_query(id) {
            let n_ids = self.ids.len();
            if n_ids > self.n_ids_at_boundary {
                let start = self.n_ids_at_boundary;
                self.query_ends.push(QueryEnd { start, n_ids, hidden: hidden.to_vec() });
            }
            self.n_ids_at_boundary = n_ids + 1;
        }
        self.ids.push(id);
        self.logprobs.push(sampled.logprob);
        if let Some(history) = &mut self.history {
            history.push(sampled.id);
        }
        if rules.stop_ids.contains(&id) {
            self.state = State::Finished(Finish::Stop);
        } else if self.ids.len() >= rules.max_new_tokens {
            self.state = State::Finished(Finish::Length);
        }
    }
}

/// A row, and what it samples from: a hidden state (D) and its logits (C).
pub(super) struct Turn<'a> {
    pub(super) row: &'a mut Row,
    pub(super) rules: &'a Rules,
    pub(super) hidden: &'a [f32],
    pub(super) logits: &'a [f32],
}

impl Turn<'_> {
    fn take(&mut self) {
        self.row.advance(self.hidden, self.logits, self.rules);
    }
}

/// Lets every row sample; each has its own stream, so neither order nor threads change what is drawn.
pub(super) fn sample(mut turns: Vec<Turn<'_>>) {
    let n_logits: usize = turns.iter().map(|turn| turn.logits.len()).sum();
    if turns.len() > 1 && n_logits >= PARALLEL_LOGITS_MIN {
        turns.par_iter_mut().for_each(Turn::take);
    } else {
        turns.iter_mut().for_each(Turn::take);
    }
}
