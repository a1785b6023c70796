//! Keys and values as tensors, for every device and dtype.
#![allow(clippy::cast_precision_loss, reason = "head widths are small")]
use super::super::{
    attention::WholeRows,
    ops::{self, Numerics},
};
use candle_core::{D, Result, Tensor};

/// Positions by which a tail's storage grows, so that a step writes one position instead of copying the tail.
const TAIL_CHUNK: usize = 32;

/// Keys and values of one layer: (`n_kv_heads`, P, `head_dim`) of a prompt.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

impl Layer {
    /// Puts new keys and values (1, T, `n_kv_heads`, `head_dim`) behind the first `n_known` positions of `known`.
    pub(super) fn after(known: Option<&Self>, n_known: usize, key: &Tensor, value: &Tensor) -> Result<Self> {
        let joined = |known: Option<&Tensor>, new: &Tensor| {
            // A copy, for a view would keep all that was computed beside it.
            let new = new.transpose(1, 2)?.force_contiguous()?.squeeze(0)?;
            match known {
                Some(known) => Tensor::cat(&[&known.narrow(1, 0, n_known)?, &new], 1),
                None => Ok(new),
            }
        };
        let key = joined(known.map(|known| &known.key), key)?;
        Ok(Self { key, value: joined(known.map(|known| &known.value), value)? })
    }

    /// Attends the last T positions, `query` (1, T, `n_heads`, `head_dim`), to all that precede them.
    pub(super) fn attend(&self, rows: &mut WholeRows, query: &Tensor) -> Result<Tensor> {
        rows.over_heads(query, &self.key.unsqueeze(0)?, &self.value.unsqueeze(0)?)
    }

    /// Copies the first positions.
    pub(super) fn first(&self, n_positions: usize) -> Result<Self> {
        self.map(|tensor| tensor.narrow(1, 0, n_positions)?.force_contiguous())
    }

    /// Whether the GPU's kernel takes them.
    #[cfg(feature = "cuda")]
    pub(super) fn suits_card(&self) -> bool {
        super::super::cuda::attention::takes(&self.key)
    }

    pub(super) fn n_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        bytes(&self.key) + bytes(&self.value)
    }

    fn map(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { key: change(&self.key)?, value: change(&self.value)? })
    }
}

/// The tails of a group's rows.
///
/// A tail is stored per layer as (`n_kv_heads`, N, capacity, `head_dim`): the query heads of one key head then meet
/// prefix and tail in the same order.
#[derive(Debug, Default)]
pub(super) struct Tails {
    layers: Vec<Layer>,
}

impl Tails {
    pub(super) fn remove(&mut self, row_idx: usize) -> Result<()> {
        for layer in &mut self.layers {
            *layer = layer.map(|tensor| without_row(tensor, row_idx))?;
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.layers.clear();
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.layers.iter().map(Layer::n_bytes).sum()
    }

    /// Writes one position of one layer; `key`, `value` (`n_kv_heads`, N, 1, `head_dim`), contiguous.
    fn write(&mut self, layer_idx: usize, position: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        if self.layers.len() <= layer_idx {
            let grow = |tensor: &Tensor| grown(tensor, 0);
            self.layers.push(Layer { key: grow(key)?, value: grow(value)? });
        }
        let layer = &mut self.layers[layer_idx];
        if layer.key.dim(2)? == position {
            *layer = layer.map(|tensor| grown(tensor, position))?;
        }
        layer.key.slice_set(key, 2, position)?;
        layer.value.slice_set(value, 2, position)
    }

    /// Attends one new token per row; `query` (N, 1, `n_heads`, `head_dim`), `key`, `value` (N, 1, `n_kv_heads`, `head_dim`).
    /// `position`: how many positions the tails have.
    pub(super) fn attend(
        &mut self,
        layer_idx: usize,
        (query, key, value): (&Tensor, &Tensor, &Tensor),
        prefix: &Layer,
        position: usize,
    ) -> Result<Tensor> {
        let (n_rows, _, n_heads, head_dim) = query.dims4()?;
        let n_kv_heads = key.dim(2)?;
        let n_shared = n_heads / n_kv_heads;
        let kv_heads_first = |tensor: &Tensor, n_shared: usize| {
            tensor.reshape((n_rows, n_kv_heads, n_shared, head_dim))?.transpose(0, 1)?.contiguous()
        };
        self.write(layer_idx, position, &kv_heads_first(key, 1)?, &kv_heads_first(value, 1)?)?;
        let tail = &self.layers[layer_idx];
        let (n_prefix, n_tail) = (prefix.key.dim(1)?, position + 1);
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
