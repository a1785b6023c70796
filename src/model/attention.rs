//! Causal attention of grouped query heads: the face that strategies share, and attention over whole rows and packed ones.
#![allow(clippy::cast_precision_loss, reason = "head widths are small")]
pub(super) mod host;

use super::{
    fused::{self, Span},
    ops::{self, Numerics},
};
use candle_core::{Device, Result, Tensor, bail};
use std::{ops::Range, sync::Arc};

/// Queries of one block of serving attention; bounds the score matrix of a long prompt and skips most of the
/// half that causality hides.
const BLOCK_ROWS: usize = 256;

/// How a decoder layer's queries meet keys and values: over whole rows, into a prefix, or over groups of forks.
pub(super) trait Attend {
    /// Attends in one layer. `query` (B, Q, n_heads, head_dim), of the last Q of T positions; `key`, `value` (B, T, n_kv_heads, head_dim),
    /// rotated. Returns (B, Q, n_heads · head_dim).
    fn attend(&mut self, layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor>;
}

/// Attention of whole rows among themselves.
#[derive(Debug)]
pub(super) struct WholeRows {
    numerics: Numerics,
    n_positions: usize,
    /// Whether each position of each row is a token, B · T flags; none: all.
    real: Option<Arc<[bool]>>,
    /// Made when first needed, and again where fewer positions are asked for: the fused kernel needs none.
    blocks: Vec<Block>,
}

/// A run of queries and what each of them may see.
#[derive(Debug)]
struct Block {
    start: usize,
    n_queries: usize,
    /// (B or 1, 1, n_queries, start + n_queries): 0 where visible, -inf where hidden.
    bias: Tensor,
}

impl WholeRows {
    /// Prepares rows of `n_positions`. `real`: whether each position of each row is a token, B · T flags; none: all.
    pub(super) fn new(n_positions: usize, real: Option<Arc<[bool]>>, numerics: Numerics) -> Self {
        Self { numerics, n_positions, real, blocks: Vec::new() }
    }

    /// `query` (B, T, n_heads, head_dim), `key`, `value` (B, T, n_kv_heads, head_dim), in the library's operations.
    pub(super) fn composed(&mut self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        self.over_heads(query, &heads_first(key)?, &heads_first(value)?)
    }

    /// `n_before`: positions before the first query.
    fn prepare_blocks(&mut self, query: &Tensor, n_before: usize) -> Result<()> {
        if self.blocks.first().is_some_and(|block| block.start == n_before) {
            return Ok(());
        }
        self.blocks.clear();
        let block_rows = match self.numerics {
            Numerics::Serve => BLOCK_ROWS,
            Numerics::Train => self.n_positions,
        };
        for start in (n_before..self.n_positions).step_by(block_rows.max(1)) {
            let n_queries = block_rows.min(self.n_positions - start);
            let bias = visibility(start, n_queries, self.n_positions, self.real.as_deref(), query.device())?;
            let bias = bias.to_dtype(query.dtype())?;
            self.blocks.push(Block { start, n_queries, bias });
        }
        Ok(())
    }

    /// `query` (B, T, n_heads, head_dim), of the last T positions; `key`, `value` (B, n_kv_heads, all positions, head_dim), contiguous.
    pub(super) fn over_heads(&mut self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (n_rows, n_queries, n_heads, head_dim) = query.dims4()?;
        let Some(n_before) = self.n_positions.checked_sub(n_queries) else {
            bail!("{n_queries} of {} positions were asked for", self.n_positions)
        };
        self.prepare_blocks(query, n_before)?;
        let (_, n_kv_heads, n_positions, _) = key.dims4()?;
        let n_shared = n_heads / n_kv_heads;
        let key = key.reshape((n_rows * n_kv_heads, n_positions, head_dim))?;
        let value = value.reshape((n_rows * n_kv_heads, n_positions, head_dim))?;
        let query = (query.transpose(1, 2)? / (head_dim as f64).sqrt())?; // (B, heads, T, head_dim)
        let mut attended = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let end = block.start + block.n_queries;
            // The query heads of one key head are stacked as rows, so keys are never repeated.
            let stacked = query
                .narrow(2, block.start - n_before, block.n_queries)?
                .contiguous()?
                .reshape((n_rows * n_kv_heads, n_shared * block.n_queries, head_dim))?;
            let scores = stacked.matmul(&key.narrow(1, 0, end)?.transpose(1, 2)?)?;
            let scores =
                scores.reshape((n_rows, n_heads, block.n_queries, end))?.broadcast_add(&block.bias)?;
            let shares = ops::softmax(&scores, self.numerics)?;
            let shares = shares.reshape((n_rows * n_kv_heads, n_shared * block.n_queries, end))?;
            let mixed = shares.matmul(&value.narrow(1, 0, end)?)?;
            attended.push(mixed.reshape((n_rows, n_heads, block.n_queries, head_dim))?.transpose(1, 2)?);
        }
        let attended = match attended.as_slice() {
            [only] => only.clone(),
            blocks => Tensor::cat(blocks, 1)?,
        };
        attended.reshape((n_rows, n_queries, n_heads * head_dim))
    }
}

impl Attend for WholeRows {
    fn attend(&mut self, _layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        match self.numerics {
            Numerics::Train if fused::takes(query) => {
                let spans = Span::rows(query.dim(0)?, self.n_positions);
                fused::attention((query, key, value), spans, self.real.clone())
            }
            Numerics::Serve | Numerics::Train => self.composed(query, key, value),
        }
    }
}

/// Attention within packed sequences.
#[derive(Debug)]
pub(super) struct PackedRows {
    spans: Arc<[Span]>,
    numerics: Numerics,
}

impl PackedRows {
    /// `spans` stand in order, without gaps.
    pub(super) fn new(spans: Arc<[Span]>, numerics: Numerics) -> Self {
        Self { spans, numerics }
    }

    /// `query` (1, T, n_heads, head_dim), `key`, `value` (1, T, n_kv_heads, head_dim), in the library's operations, span after span.
    pub(super) fn composed(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let of = |tensor: &Tensor, range: &Range<usize>| tensor.narrow(1, range.start, range.len());
        let attended = self.spans.iter().map(|Span { queries, before }| {
            let seen = |tensor: &Tensor| {
                let own = of(tensor, queries)?;
                heads_first(&if before.is_empty() {
                    own
                } else {
                    Tensor::cat(&[of(tensor, before)?, own], 1)?
                })
            };
            let mut rows = WholeRows::new(before.len() + queries.len(), None, self.numerics);
            rows.over_heads(&of(query, queries)?, &seen(key)?, &seen(value)?)
        });
        Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 1)
    }
}

impl Attend for PackedRows {
    fn attend(&mut self, _layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        match self.numerics {
            Numerics::Train if fused::takes(query) => {
                fused::attention((query, key, value), self.spans.clone(), None)
            }
            Numerics::Serve | Numerics::Train => self.composed(query, key, value),
        }
    }
}

/// (B, T, heads, head_dim) to contiguous (B, heads, T, head_dim).
pub(super) fn heads_first(tensor: &Tensor) -> Result<Tensor> {
    tensor.transpose(1, 2)?.contiguous()
}

fn visibility(
    start: usize,
    n_queries: usize,
    n_positions: usize,
    real: Option<&[bool]>,
    device: &Device,
) -> Result<Tensor> {
    let end = start + n_queries;
    let n_rows = real.map_or(1, |real| real.len() / n_positions);
    let mut bias = Vec::with_capacity(n_rows * n_queries * end);
    for row in 0..n_rows {
        let is_real = |key: usize| real.is_none_or(|real| real[row * n_positions + key]);
        for query in start..end {
            // A padded query sees itself: its result is unused, but an empty softmax would be NaN.
            let visible = |key: usize| key <= query && (is_real(key) || key == query);
            bias.extend((0..end).map(|key| if visible(key) { 0.0 } else { f32::NEG_INFINITY }));
        }
    }
    Tensor::from_vec(bias, (n_rows, 1, n_queries, end), device)
}
