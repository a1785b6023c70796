//! The one decoder definition, for serving and for training.
use super::{config::DecoderConfig, kv_cache::{Forks, Prefix}, ops::Numerics, weights::{ModelError, TensorSource}};
use candle_core::Tensor;

#[derive(Debug)]
pub struct Transformer {}

impl Transformer {
    pub fn load(config: &DecoderConfig, source: &mut dyn TensorSource, numerics: Numerics) -> Result<Self, ModelError> { todo!() }
    pub fn config(&self) -> &DecoderConfig { todo!() }
    pub fn device(&self) -> &candle_core::Device { todo!() }
    /// Hidden states (B, T, D) after the final norm of whole rows, causal.
    /// `ids` (B, T) u32. `mask` (B, T), 1 where a token is real, left or right padded; positions count real tokens. None: all real.
    pub fn hidden(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> { todo!() }
    /// Computes a prompt's keys and values; returns them and the hidden state (1, D) of its last position.
    pub fn prefill(&self, ids: &[u32]) -> Result<(Prefix, Tensor), ModelError> { todo!() }
    /// Feeds one token to every row of every group (ids in group order, then row order); returns hidden states (R, D) in that order.
    pub fn step(&self, groups: &mut [&mut Forks], ids: &[u32]) -> Result<Tensor, ModelError> { todo!() }
    /// Logits (.., V) f32 of hidden states (.., D).
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> { todo!() }
}
