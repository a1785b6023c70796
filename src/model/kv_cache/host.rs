//! Keys and values on the CPU, laid out for `attention::host`.
use super::super::{
    attention::host::{Attended, Span, Unit},
    fused::with_values,
    panels::{PANEL, Pair, Terms, padded},
};
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

/// Rows of one key head that are computed together: their scores stay in a core's cache.
const UNIT_ROWS: usize = 8;
/// Attention of fewer multiplications is computed by one thread: to hand parts to others would take longer.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// How keys and values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Held {
    /// As they are.
    F32,
    /// Rounded: half of the memory, and half of the time where a processor multiplies such pairs. Where weights are in 8 bits, what that
    /// loses is little beside what they lose.
    Bf16,
}

impl Held {
    /// Numbers in one word.
    fn n_terms(self) -> usize {
        match self {
            Self::F32 => f32::N,
            Self::Bf16 => Pair::N,
        }
    }

    /// Products that an instruction has for each of f32.
    pub(super) fn products_at_once(self) -> u8 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 if is_x86_feature_detected!("avx512bf16") => 2,
            Self::F32 | Self::Bf16 => 1,
        }
    }
}

/// Heads of one layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    n_kv: usize,
    dim: usize,
    held: Held,
}

impl Heads {
    fn new(n_kv: usize, dim: usize, held: Held) -> Result<Self> {
        if !dim.is_multiple_of(held.n_terms()) {
            bail!("heads of {dim} numbers cannot be held in pairs")
        }
        Ok(Self { n_kv, dim, held })
    }

    /// Words of the keys of one head.
    fn n_keys(self, capacity: usize) -> usize {
        self.dim / self.held.n_terms() * capacity
    }

    /// Words of one panel of values of one head.
    fn n_of_panel(self, capacity: usize) -> usize {
        capacity / self.held.n_terms() * PANEL
    }

    /// Words of the values of one head.
    fn n_values(self, capacity: usize) -> usize {
        padded(self.dim) / PANEL * self.n_of_panel(capacity)
    }
}

/// Keys and values of one layer for some sequences of positions of equal length: a prompt, or the tails of its rows.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    heads: Heads,
    /// Words of `heads.held`: (sequences, `n_kv`, capacity / `PANEL`, dim / terms, `PANEL`)
    keys: Vec<u32>,
    /// The same: (sequences, `n_kv`, padded dim / `PANEL`, capacity / terms, `PANEL`)
    values: Vec<u32>,
    /// Positions that there is room for, a multiple of `PANEL`.
    capacity: usize,
}

impl Layer {
    fn new(heads: Heads, n_sequences: usize, capacity: usize) -> Self {
        let n_heads = n_sequences * heads.n_kv;
        let keys = vec![0; n_heads * heads.n_keys(capacity)];
        let values = vec![0; n_heads * heads.n_values(capacity)];
        Self { heads, keys, values, capacity }
    }

    /// Puts new keys and values (1, T, `n_kv`, dim) behind the first `n_known` positions of `known`.
    pub(super) fn after(
        (known, n_known): (Option<&Self>, usize),
        (key, value): (&Tensor, &Tensor),
        held: Held,
    ) -> Result<Self> {
        let (_, n_new, n_kv, dim) = key.dims4()?;
        let heads = Heads::new(n_kv, dim, held)?;
        let capacity = padded(n_known + n_new);
        let mut layer = match known {
            Some(known) if known.heads == heads => known.grown(n_known, capacity),
            Some(_) => bail!("the known positions have other heads"),
            None => Self::new(heads, 1, capacity),
        };
        with_rows((key, value), n_kv * dim, |position, key, value| {
            let put = match held {
                Held::F32 => Self::write::<f32>,
                Held::Bf16 => Self::write::<Pair>,
            };
            put(&mut layer, 0, n_known + position, (key, value));
        })?;
        Ok(layer)
    }

    /// Copies the first positions of every sequence into room for more.
    fn grown(&self, n_used: usize, capacity: usize) -> Self {
        let (heads, n_terms) = (self.heads, self.heads.held.n_terms());
        // Whole panels of keys: what stands behind the last position is written before it is seen. Whole words of values: a half that stands there
        // is multiplied with a share of 0 until it is written.
        let n_keys = heads.n_keys(padded(n_used));
        let keys = resized(&self.keys, (heads.n_keys(self.capacity), n_keys), heads.n_keys(capacity));
        let panel_len = (heads.n_of_panel(self.capacity), n_used.div_ceil(n_terms) * PANEL);
        let values = resized(&self.values, panel_len, heads.n_of_panel(capacity));
        Self { heads, keys, values, capacity }
    }

    /// Copies the first positions.
    pub(super) fn first(&self, n_positions: usize) -> Self {
        self.grown(n_positions, padded(n_positions))
    }

    /// Writes one position of one sequence; `key`, `value` (`n_kv`, dim).
    fn write<T: Terms>(&mut self, sequence: usize, position: usize, (key, value): (&[f32], &[f32])) {
        let (heads, capacity) = (self.heads, self.capacity);
        let Heads { n_kv, dim, .. } = heads;
        for head in 0..n_kv {
            let at = sequence * n_kv + head;
            let panel = at * heads.n_keys(capacity) + heads.n_keys(position / PANEL * PANEL);
            let rows = words_mut::<T>(&mut self.keys[panel..]).chunks_exact_mut(PANEL);
            for (row, numbers) in rows.zip(key[head * dim..][..dim].chunks(T::N)) {
                let word = &mut row[position % PANEL];
                numbers.iter().enumerate().for_each(|(idx, number)| word.set(idx, *number));
            }
            let panels = words_mut::<T>(&mut self.values[at * heads.n_values(capacity)..]);
            let panels = panels.chunks_mut(heads.n_of_panel(capacity));
            for (panel, numbers) in panels.zip(value[head * dim..][..dim].chunks(PANEL)) {
                let words = &mut panel[position / T::N * PANEL..];
                words.iter_mut().zip(numbers).for_each(|(word, number)| word.set(position % T::N, *number));
            }
        }
    }

    fn remove(&mut self, sequence: usize) {
        let n_keys = self.heads.n_kv * self.heads.n_keys(self.capacity);
        self.keys.drain(sequence * n_keys..(sequence + 1) * n_keys);
        let n_values = self.heads.n_kv * self.heads.n_values(self.capacity);
        self.values.drain(sequence * n_values..(sequence + 1) * n_values);
    }

    fn span<T: Terms>(&self, sequence: usize, head: usize) -> Span<'_, T> {
        debug_assert_eq!(T::N, self.heads.held.n_terms(), "words are read as they were written");
        let at = sequence * self.heads.n_kv + head;
        let (n_keys, n_values) = (self.heads.n_keys(self.capacity), self.heads.n_values(self.capacity));
        Span {
            keys: bytemuck::cast_slice(&self.keys[at * n_keys..(at + 1) * n_keys]),
            capacity: self.capacity,
            values: bytemuck::cast_slice(&self.values[at * n_values..(at + 1) * n_values]),
        }
    }

    pub(super) fn n_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<u32>()
    }
}

fn words_mut<T: Terms>(words: &mut [u32]) -> &mut [T] {
    bytemuck::cast_slice_mut(words)
}

/// The first `n_copied` words of each chunk of `chunk_len`, in chunks of another length, filled up with zeros. Each is written once.
fn resized(values: &[u32], (chunk_len, n_copied): (usize, usize), resized_len: usize) -> Vec<u32> {
    debug_assert!(n_copied <= resized_len, "more is copied than there is room for");
    let mut resized = Vec::with_capacity(values.len() / chunk_len * resized_len);
    for (at, chunk) in values.chunks(chunk_len).enumerate() {
        resized.extend_from_slice(&chunk[..n_copied]);
        resized.resize((at + 1) * resized_len, 0);
    }
    resized
}

/// Attention of the last T positions of a prompt, `query` (1, T, `n_heads`, dim), of which `n_before` precede the first. Returns
/// (1, T, `n_heads` · dim).
pub(super) fn prompt(query: &Tensor, layer: &Layer, n_before: usize) -> Result<Tensor> {
    match layer.heads.held {
        Held::F32 => prompt_of::<f32>(query, layer, n_before),
        Held::Bf16 => prompt_of::<Pair>(query, layer, n_before),
    }
}

fn prompt_of<T: Attended>(query: &Tensor, layer: &Layer, n_before: usize) -> Result<Tensor> {
    let (_, n_queries, n_heads, dim) = query.dims4()?;
    let heads = layer.heads;
    let output = with_values(query, |query| {
        let mut output = vec![0.0; query.len()];
        let n_shared = n_heads / heads.n_kv;
        let mut units = Vec::new();
        let rows = output.chunks_mut(n_heads * dim * UNIT_ROWS).zip(query.chunks(n_heads * dim * UNIT_ROWS));
        for (at, (output, query)) in rows.enumerate() {
            let first = n_before + at * UNIT_ROWS;
            let by_head = per_head(output, query, (heads.n_kv, n_shared * dim));
            for (head, (queries, output)) in by_head.into_iter().enumerate() {
                let visible = (first + 1..).take(queries.len()).collect();
                let prefix = layer.span::<T>(0, head);
                let unit =
                    Unit { head_dim: dim, n_shared, queries, prefix, visible, tails: Vec::new(), n_tail: 0 };
                units.push((unit, output));
            }
        }
        run(units);
        Ok(output)
    })?;
    Tensor::from_vec(output, (1, n_queries, n_heads * dim), &Device::Cpu)
}

/// The tails of a group's rows, layer by layer.
#[derive(Debug, Default)]
pub(super) struct Tails {
    layers: Vec<Layer>,
}

impl Tails {
    pub(super) fn remove(&mut self, row_idx: usize) {
        self.layers.iter_mut().for_each(|layer| layer.remove(row_idx));
    }

    pub(super) fn clear(&mut self) {
        self.layers.clear();
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.layers.iter().map(Layer::n_bytes).sum()
    }

    /// Writes one position of one layer for every row; `key`, `value` (rows, `n_kv` · dim).
    fn write<T: Terms>(&mut self, layer_idx: usize, heads: Heads, position: usize, rows: (&[f32], &[f32])) {
        let width = heads.n_kv * heads.dim;
        if self.layers.len() <= layer_idx {
            self.layers.push(Layer::new(heads, rows.0.len() / width, PANEL));
        }
        let layer = &mut self.layers[layer_idx];
        if position == layer.capacity {
            *layer = layer.grown(position, position + PANEL);
        }
        for (row_idx, row) in rows.0.chunks(width).zip(rows.1.chunks(width)).enumerate() {
            layer.write::<T>(row_idx, position, row);
        }
    }
}

/// One group in a step.
pub(super) struct Group<'a> {
    pub(super) n_rows: usize,
    pub(super) prefix: &'a Layer,
    pub(super) n_prefix: usize,
    pub(super) tails: &'a mut Tails,
    /// Positions of the tails before this step.
    pub(super) n_tail: usize,
}

/// Attends one new token per row of all groups. `query` (R, 1, `n_heads`, dim); `key`, `value` (R, 1, `n_kv`, dim).
pub(super) fn step(
    layer_idx: usize,
    rows: (&Tensor, &Tensor, &Tensor),
    groups: &mut [Group<'_>],
) -> Result<Tensor> {
    match groups.first().map(|group| group.prefix.heads.held) {
        Some(Held::F32) => step_of::<f32>(layer_idx, rows, groups),
        Some(Held::Bf16) => step_of::<Pair>(layer_idx, rows, groups),
        None => bail!("a step has no rows"),
    }
}

fn step_of<T: Attended>(
    layer_idx: usize,
    (query, key, value): (&Tensor, &Tensor, &Tensor),
    groups: &mut [Group<'_>],
) -> Result<Tensor> {
    let (n_rows, _, n_heads, dim) = query.dims4()?;
    let heads = Heads::new(key.dim(2)?, dim, groups[0].prefix.heads.held)?;
    if groups.iter().any(|group| group.prefix.heads != heads) {
        bail!("a prompt has other heads, or holds them in another way")
    }
    let (width, kv_width) = (n_heads * dim, heads.n_kv * dim);
    with_values(key, |key| {
        with_values(value, |value| {
            let mut first = 0;
            for group in groups.iter_mut() {
                let rows = first * kv_width..(first + group.n_rows) * kv_width;
                group.tails.write::<T>(layer_idx, heads, group.n_tail, (&key[rows.clone()], &value[rows]));
                first += group.n_rows;
            }
            Ok(())
        })
    })?;
    let threads = rayon::current_num_threads();
    let unit_rows = (n_rows * heads.n_kv).div_ceil(threads).clamp(1, UNIT_ROWS);
    let output = with_values(query, |query| {
        let mut output = vec![0.0; query.len()];
        let (mut units, mut query, mut rest) = (Vec::new(), query, output.as_mut_slice());
        for group in groups.iter() {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(group.n_rows * width);
            let (asked, unasked) = query.split_at(group.n_rows * width);
            (rest, query) = (others, unasked);
            let tails = &group.tails.layers[layer_idx];
            let chunks = own.chunks_mut(unit_rows * width).zip(asked.chunks(unit_rows * width));
            for (at, (output, asked)) in chunks.enumerate() {
                let by_head = per_head(output, asked, (heads.n_kv, width / heads.n_kv));
                for (head, (queries, output)) in by_head.into_iter().enumerate() {
                    let first = at * unit_rows;
                    let visible = vec![group.n_prefix; queries.len()];
                    let tails =
                        (first..first + queries.len()).map(|row| tails.span::<T>(row, head)).collect();
                    let (prefix, n_tail) = (group.prefix.span(0, head), group.n_tail + 1);
                    let n_shared = n_heads / heads.n_kv;
                    units.push((
                        Unit { head_dim: dim, n_shared, queries, prefix, visible, tails, n_tail },
                        output,
                    ));
                }
            }
        }
        run(units);
        Ok(output)
    })?;
    Tensor::from_vec(output, (n_rows, 1, width), &Device::Cpu)
}

/// Queries of some rows and where their results go.
type Rows<'q, 'o> = (Vec<&'q [f32]>, Vec<&'o mut [f32]>);

/// Splits rows (n, `n_kv` · width) by key head.
fn per_head<'q, 'o>(
    output: &'o mut [f32],
    query: &'q [f32],
    (n_kv, width): (usize, usize),
) -> Vec<Rows<'q, 'o>> {
    let mut heads: Vec<Rows<'q, 'o>> = (0..n_kv).map(|_| Rows::default()).collect();
    let cells = output.chunks_mut(width).zip(query.chunks(width)).enumerate();
    for (at, (output, query)) in cells {
        heads[at % n_kv].0.push(query);
        heads[at % n_kv].1.push(output);
    }
    heads
}

fn run<T: Attended>(mut units: Vec<(Unit<'_, T>, Vec<&mut [f32]>)>) {
    let work = |unit: &Unit<'_, T>| {
        let n_seen: usize = unit.visible.iter().sum::<usize>() + unit.tails.len() * unit.n_tail;
        n_seen * unit.n_shared * unit.head_dim
    };
    if units.iter().map(|(unit, _)| work(unit)).sum::<usize>() < PARALLEL_WORK_MIN {
        units.iter_mut().for_each(|(unit, output)| T::attend(unit, output));
    } else {
        units.par_iter_mut().with_max_len(1).for_each(|(unit, output)| T::attend(unit, output));
    }
}

/// Calls with the number and the numbers of each row of two tensors.
fn with_rows(
    (first, second): (&Tensor, &Tensor),
    width: usize,
    mut call: impl FnMut(usize, &[f32], &[f32]),
) -> Result<()> {
    with_values(first, |first| {
        with_values(second, |second| {
            for (idx, (first, second)) in first.chunks(width).zip(second.chunks(width)).enumerate() {
                call(idx, first, second);
            }
            Ok(())
        })
    })
}
