//! Hidden states to predicted reward: mean and variance, per query and per list.
use super::weights::{ModelError, TensorSource};
use candle_core::Tensor;

/// Mean and variance of a predicted reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score { pub mean: f32, pub variance: f32 }

/// What the head reads of one generated list.
#[derive(Clone, Debug)]
pub struct ListFeatures {
    /// Per query: the hidden state (hidden_size) from which its end (line feed or stop) was sampled.
    pub query_hidden: Vec<Vec<f32>>,
    /// Per query: mean log-probability of its tokens, nats.
    pub query_logprob: Vec<f32>,
    /// Mean log-probability of the whole list, nats.
    pub mean_logprob: f32,
}

#[derive(Clone, Debug)]
pub struct ListScores { pub list: Score, pub queries: Vec<Score> }

#[derive(Clone, Debug)]
pub struct RewardHead {}

impl RewardHead {
    /// Reads `query.*` and `list.*` tensors (hidden_size wide input).
    pub fn load(source: &mut dyn TensorSource, hidden_size: usize) -> Result<Self, ModelError> { todo!() }
    /// Scores lists; used by the server (plain numbers out).
    pub fn score(&self, lists: &[ListFeatures]) -> Result<Vec<ListScores>, ModelError> { todo!() }
    /// Differentiable: list features batch -> (B, 2) mean and log-variance of lists; (sum of queries, 2) of queries.
    pub fn forward(&self, lists: &[ListFeatures]) -> Result<(Tensor, Tensor), ModelError> { todo!() }
}
