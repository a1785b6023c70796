//! Keys and values, owned by the caller: a prompt's are computed and stored once and shared by every row that forks from it.
#![allow(clippy::cast_precision_loss, reason = "head widths are small")]
use super::{
    attention::{Attend, WholeRows, heads_first},
    ops::{self, Numerics},
};
use candle_core::{D, Result, Tensor, bail};
use std::sync::Arc;

/// Positions by which a tail's storage grows, so that a step writes one position instead of copying the tail.
const TAIL_CHUNK: usize = 32;

/// Keys and values of one prompt, per layer (n_kv_heads, P, head_dim). Immutable; forks share it.
#[derive(Clone, Debug)]
pub struct Prefix {
    layers: Vec<KeyValue>,
    n_positions: usize,
}

impl Prefix {
    /// Returns the prompt's length in tokens.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Returns the device bytes held by keys and values.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        n_bytes(&self.layers)
    }
}

/// N rows that fork from one prefix in the same step; their own keys and values are the tail.
///
/// A tail is stored per layer as (n_kv_heads, N, capacity, head_dim): the query heads of one key head then meet
/// prefix and tail in the same order.
#[derive(Debug)]
pub struct Forks {
    prefix: Arc<Prefix>,
    n_rows: usize,
    tail: Vec<KeyValue>,
    tail_len: usize,
}

impl Forks {
    /// Forks a prefix into rows. Nothing is copied.
    #[must_use]
    pub fn new(prefix: Arc<Prefix>, n_rows: usize) -> Self {
        Self { prefix, n_rows, tail: Vec::new(), tail_len: 0 }
    }

    /// Returns how many rows there are.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Drops a row; later rows move down by one.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn drop_row(&mut self, row_idx: usize) -> Result<()> {
        if row_idx >= self.n_rows {
            bail!("row {row_idx} of {} cannot be dropped", self.n_rows)
        }
        self.n_rows -= 1;
        if self.n_rows == 0 {
            self.tail.clear();
            return Ok(());
        }
        for layer in &mut self.tail {
            *layer = layer.map(|tensor| without_row(tensor, row_idx))?;
        }
        Ok(())
    }

    /// Returns the device bytes held by the rows' own keys and values; the prefix is not counted.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        n_bytes(&self.tail)
    }

    /// The prefix that the rows share.
    #[must_use]
    pub fn prefix(&self) -> &Arc<Prefix> {
        &self.prefix
    }

    /// Position of the next token: prompt and tail together.
    pub(super) fn next_position(&self) -> usize {
        self.prefix.n_positions + self.tail_len
    }

    /// Counts the position that every layer has written.
    pub(super) fn advance(&mut self) {
        self.tail_len += 1;
    }

    /// Writes one position of one layer; `key`, `value` (n_kv_heads, N, 1, head_dim), contiguous.
    fn write(&mut self, layer_idx: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        if self.tail.len() <= layer_idx {
            let grow = |tensor: &Tensor| grown(tensor, 0);
            self.tail.push(KeyValue { key: grow(key)?, value: grow(value)? });
        }
        if self.tail[layer_idx].key.dim(2)? == self.tail_len {
            self.tail[layer_idx] = self.tail[layer_idx].map(|tensor| grown(tensor, self.tail_len))?;
        }
        self.tail[layer_idx].key.slice_set(key, 2, self.tail_len)?;
        self.tail[layer_idx].value.slice_set(value, 2, self.tail_len)
    }

    /// Attends one new token per row; `query` (N, 1, n_heads, head_dim), `key`, `value` (N, 1, n_kv_heads, head_dim).
    fn attend(&mut self, layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (n_rows, _, n_heads, head_dim) = query.dims4()?;
        let n_kv_heads = key.dim(2)?;
        let n_shared = n_heads / n_kv_heads;
        let kv_heads_first = |tensor: &Tensor, n_shared: usize| {
            tensor.reshape((n_rows, n_kv_heads, n_shared, head_dim))?.transpose(0, 1)?.contiguous()
        };
        self.write(layer_idx, &kv_heads_first(key, 1)?, &kv_heads_first(value, 1)?)?;
        let (prefix, tail) = (&self.prefix.layers[layer_idx], &self.tail[layer_idx]);
        let (n_prefix, n_tail) = (self.prefix.n_positions, self.tail_len + 1);
        let query = (kv_heads_first(query, n_shared)? / (head_dim as f64).sqrt())?; // (kv, N, shared, head_dim)
        let stacked = query.reshape((n_kv_heads, n_rows * n_shared, head_dim))?;
        let on_prefix = stacked.matmul(&prefix.key.transpose(1, 2)?)?;
        let on_tail = query.matmul(&tail.key.narrow(2, 0, n_tail)?.transpose(2, 3)?)?;
        let on_tail = on_tail.reshape((n_kv_heads, n_rows * n_shared, n_tail))?;
        // One softmax over prompt and tail, as if the prompt had been copied to each row.
        let shares = ops::softmax(&Tensor::cat(&[on_prefix, on_tail], D::Minus1)?, Numerics::Serve)?;
        let on_prefix = dense(&shares.narrow(D::Minus1, 0, n_prefix)?)?;
        let on_tail = shares.narrow(D::Minus1, n_prefix, n_tail)?.contiguous()?;
        let on_tail = on_tail.reshape((n_kv_heads, n_rows, n_shared, n_tail))?;
        let from_prefix = on_prefix.matmul(&prefix.value)?.reshape(query.shape())?;
        let mixed = (from_prefix + on_tail.matmul(&tail.value.narrow(2, 0, n_tail)?)?)?;
        mixed.transpose(0, 1)?.reshape((n_rows, 1, n_heads * head_dim))
    }
}

/// Attention of a whole prompt that keeps its keys and values.
#[derive(Debug)]
pub(super) struct Prefill {
    rows: WholeRows,
    layers: Vec<KeyValue>,
}

impl Prefill {
    pub(super) fn new(rows: WholeRows) -> Self {
        Self { rows, layers: Vec::new() }
    }

    pub(super) fn into_prefix(self, n_positions: usize) -> Prefix {
        Prefix { layers: self.layers, n_positions }
    }
}

impl Attend for Prefill {
    fn attend(&mut self, _layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        // A cache outlives the call, so it must not keep a graph alive.
        let (key, value) = (heads_first(&key.detach())?, heads_first(&value.detach())?);
        let attended = self.rows.over_heads(query, &key, &value)?;
        self.layers.push(KeyValue { key: key.squeeze(0)?, value: value.squeeze(0)? });
        Ok(attended)
    }
}

/// Attention of one new token per row, group by group.
#[derive(Debug)]
pub(super) struct Step<'a, 'b> {
    pub(super) groups: &'a mut [&'b mut Forks],
}

impl Attend for Step<'_, '_> {
    fn attend(&mut self, layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (query, key, value) = (query.detach(), key.detach(), value.detach());
        let mut attended = Vec::with_capacity(self.groups.len());
        let mut first = 0;
        for group in self.groups.iter_mut().filter(|group| group.n_rows > 0) {
            let rows = |tensor: &Tensor| tensor.narrow(0, first, group.n_rows);
            let (query, key, value) = (rows(&query)?, rows(&key)?, rows(&value)?);
            attended.push(group.attend(layer_idx, &query, &key, &value)?);
            first += group.n_rows;
        }
        match attended.as_slice() {
            [only] => Ok(only.clone()),
            groups => Tensor::cat(groups, 0),
        }
    }
}

#[derive(Clone, Debug)]
struct KeyValue {
    key: Tensor,
    value: Tensor,
}

impl KeyValue {
    fn map(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { key: change(&self.key)?, value: change(&self.value)? })
    }
}

fn n_bytes(layers: &[KeyValue]) -> usize {
    let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
    layers.iter().map(|layer| bytes(&layer.key) + bytes(&layer.value)).sum()
}

/// Copies the first `n_used` positions into storage of `n_used` + one chunk.
fn grown(tensor: &Tensor, n_used: usize) -> Result<Tensor> {
    let (n_kv_heads, n_rows, _, head_dim) = tensor.dims4()?;
    let shape = (n_kv_heads, n_rows, n_used + TAIL_CHUNK, head_dim);
    let larger = Tensor::zeros(shape, tensor.dtype(), tensor.device())?;
    if n_used > 0 {
        larger.slice_set(&tensor.narrow(2, 0, n_used)?.contiguous()?, 2, 0)?;
    }
    Ok(larger)
}

fn without_row(tensor: &Tensor, row_idx: usize) -> Result<Tensor> {
    let n_after = tensor.dim(1)? - row_idx - 1;
    // `contiguous` of a part may share storage with its whole; `cat` makes fresh storage for later writes.
    let parts: Vec<Tensor> = [(0, row_idx), (row_idx + 1, n_after)]
        .into_iter()
        .filter(|(_, length)| *length > 0)
        .map(|(start, length)| tensor.narrow(1, start, length))
        .collect::<Result<_>>()?;
    Tensor::cat(&parts, 1)?.force_contiguous()
}

/// The CPU multiplies rows at any distance; other devices need them dense.
fn dense(tensor: &Tensor) -> Result<Tensor> {
    if tensor.device().is_cpu() { Ok(tensor.clone()) } else { tensor.contiguous() }
}
