//! Rows as a state machine: groups join and leave between steps; one step feeds one token to every live row.
use super::sampler::SamplerSettings;
use crate::model::{transformer::Transformer, weights::ModelError};
use std::sync::Arc;
use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

/// N samples of one prompt.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    pub id: GroupId,
    pub prompt: Vec<u32>,
    /// One per row: N = seeds.len().
    pub seeds: Vec<u64>,
    pub sampler: SamplerSettings,
    pub max_new_tokens: usize,
    pub stop_ids: Arc<[u32]>,
    /// Ids that end a query; the hidden state they were sampled from is kept for the reward head.
    pub boundary_ids: Arc<[u32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish { Stop, Length }

/// The end of one query inside a row.
#[derive(Clone, Debug)]
pub struct QueryEnd {
    /// Number of the row's ids before the boundary (or stop) token.
    pub n_ids: usize,
    /// Hidden state (hidden_size) from which the boundary was sampled.
    pub hidden: Vec<f32>,
}

#[derive(Clone, Debug)]
pub struct FinishedRow {
    pub group: GroupId,
    pub row_idx: usize,
    /// Sampled ids, the stop id included.
    pub ids: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub finish: Finish,
    pub query_ends: Vec<QueryEnd>,
}

#[derive(Debug, Error)]
pub enum DecodeError {
    #[error("prompt is empty")]
    EmptyPrompt,
    #[error("prompt of {prompt_tokens} and {max_new_tokens} new tokens exceed the model's {max_positions} positions")]
    TooLong { prompt_tokens: usize, max_new_tokens: usize, max_positions: usize },
    #[error("model failed")]
    Model(#[from] ModelError),
}

/// What admitting a group cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted { pub prefill_tokens_computed: usize }

#[derive(Debug)]
pub struct Batch {}

impl Batch {
    pub fn new(model: Arc<Transformer>) -> Self { todo!() }
    /// Prefills the prompt once and forks it into N rows; the first token of each row is sampled here. Rows can already finish here.
    pub fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> { todo!() }
    /// One token for every live row; returns rows that finished since the last call (those of admit included).
    pub fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> { todo!() }
    /// Drops every row of a group; returns how many were live.
    pub fn cancel(&mut self, group: GroupId) -> usize { todo!() }
    pub fn n_rows(&self) -> usize { todo!() }
    pub fn kv_bytes(&self) -> usize { todo!() }
}
