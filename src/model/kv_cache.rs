//! Keys and values, owned by the caller: a prompt's are computed and stored once and shared by every row that forks from it.
use candle_core::Tensor;
use std::sync::Arc;

/// Keys and values of one prompt, per layer (n_kv_heads, P, head_dim). Immutable; forks share it.
#[derive(Clone, Debug)]
pub struct Prefix { /* layers: Vec<(Tensor, Tensor)>, n_positions */ }

impl Prefix {
    pub fn n_positions(&self) -> usize { todo!() }
    /// Device bytes held by keys and values.
    pub fn n_bytes(&self) -> usize { todo!() }
}

/// N rows that fork from one prefix in the same step; their own keys and values (the tail) per layer (N, n_kv_heads, T, head_dim).
#[derive(Debug)]
pub struct Forks { /* prefix: Arc<Prefix>, tails */ }

impl Forks {
    pub fn new(prefix: Arc<Prefix>, n_rows: usize) -> Self { todo!() }
    pub fn n_rows(&self) -> usize { todo!() }
    /// Drops a row; later rows move down by one.
    pub fn drop_row(&mut self, row_idx: usize) -> candle_core::Result<()> { todo!() }
    pub fn n_bytes(&self) -> usize { todo!() }
    pub fn prefix(&self) -> &Arc<Prefix> { todo!() }
}
