//! Attention on the CPU: queries of one key head meet keys and values in registers, without tensors in between. Sums and shares are in
//! f32; where keys and values are in bf16, queries and shares are rounded to meet them.
//!
//! Every number is a sum in one order (`panels`), whatever the tile that it is computed in. So a row's result does not depend on the rows
//! beside it.
#![allow(clippy::cast_precision_loss, reason = "head widths are small")]
use crate::model::{
    fused::exponentiate,
    panels::{self, Kernel, Matrix, PANEL, Pair, Sums, TILE_ROWS, Terms, padded},
};
use std::ops::Range;

/// Keys and values of one key head.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Span<'a, T> {
    /// Columns are positions: (capacity / `PANEL`, `head_dim` / `T::N`, `PANEL`).
    pub(in crate::model) keys: &'a [T],
    /// Positions that there is room for, a multiple of `PANEL`.
    pub(in crate::model) capacity: usize,
    /// Columns are dimensions, filled up: (width / `PANEL`, capacity / `T::N`, `PANEL`).
    pub(in crate::model) values: &'a [T],
}

/// Queries of one key head that are computed together.
#[derive(Debug)]
pub(in crate::model) struct Unit<'a, T> {
    pub(in crate::model) head_dim: usize,
    /// Query heads of the key head.
    pub(in crate::model) n_shared: usize,
    /// (rows, `n_shared` · `head_dim`): of each row, its query heads.
    pub(in crate::model) queries: Vec<&'a [f32]>,
    /// What all rows may see.
    pub(in crate::model) prefix: Span<'a, T>,
    /// How many positions of the prefix each row sees.
    pub(in crate::model) visible: Vec<usize>,
    /// What each row sees alone after the prefix, each with its positions; empty where rows have nothing of their own.
    pub(in crate::model) tails: Vec<Span<'a, T>>,
    /// Positions of each tail.
    pub(in crate::model) n_tail: usize,
}

/// Terms of which a processor has kernels.
pub(in crate::model) trait Attended: Terms {
    /// Attends; `output`: of each row, the (`n_shared` · `head_dim`) numbers of the unit's heads.
    fn attend(unit: &Unit<'_, Self>, output: &mut [&mut [f32]]);
}

impl Attended for f32 {
    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
    fn attend(unit: &Unit<'_, Self>, output: &mut [&mut [f32]]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { x86::wide(unit, output) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: as above.
                return unsafe { x86::narrow(unit, output) };
            }
        }
        attend_with(&panels::plain, unit, output);
    }
}

impl Attended for Pair {
    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
    fn attend(unit: &Unit<'_, Self>, output: &mut [&mut [f32]]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { x86::wide_pairs(unit, output) };
            }
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: as above.
                return unsafe { x86::wide_widened(unit, output) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: as above.
                return unsafe { x86::narrow_widened(unit, output) };
            }
        }
        attend_with(&panels::plain, unit, output);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Matrix, Pair, Sums, Unit, attend_with, panels};

    /// The whole of it with instructions of these features.
    macro_rules! compiled {
        ($name:ident, $features:literal, $terms:ty) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(unit: &Unit<'_, $terms>, output: &mut [&mut [f32]]) {
                // A closure may use the instructions of the function that it stands in.
                let kernel = |rows: &[&[$terms]], matrix: Matrix<'_, $terms>, sums: &mut Sums<'_>| {
                    panels::x86::$name(rows, matrix, sums)
                };
                attend_with(&kernel, unit, output);
            }
        };
    }

    compiled!(wide, "avx512f", f32);
    compiled!(narrow, "avx2,fma", f32);
    compiled!(wide_pairs, "avx512f,avx512bf16", Pair);
    compiled!(wide_widened, "avx512f", Pair);
    compiled!(narrow_widened, "avx2,fma", Pair);
}

#[inline(always)]
fn attend_with<T: Terms>(kernel: &impl Kernel<T>, unit: &Unit<'_, T>, output: &mut [&mut [f32]]) {
    let mut work = Work::new(unit);
    work.score(kernel);
    let totals = work.share();
    let mixed = work.mix(kernel);
    let heads = output.iter_mut().flat_map(|row| row.chunks_exact_mut(unit.head_dim));
    for ((out, mixed), total) in heads.zip(mixed.chunks_exact(padded(unit.head_dim))).zip(totals) {
        for (out, mixed) in out.iter_mut().zip(mixed) {
            *out = mixed / total;
        }
    }
}

/// Scores of every query of a unit, which become shares.
struct Work<'a, T> {
    unit: &'a Unit<'a, T>,
    /// The queries (n, `head_dim`), scaled.
    queries: Vec<f32>,
    /// (n, stride): of each query its numbers on the prefix and, from `tail_at` on, those on its tail.
    scores: Vec<f32>,
    stride: usize,
    tail_at: usize,
}

impl<'a, T: Terms> Work<'a, T> {
    #[inline(always)]
    fn new(unit: &'a Unit<'a, T>) -> Self {
        let scale = (unit.head_dim as f32).sqrt().recip();
        let mut queries = unit.queries.concat();
        queries.iter_mut().for_each(|value| *value *= scale);
        let longest = unit.visible.iter().copied().max().unwrap_or(0);
        let tail_at = padded(longest);
        let stride = tail_at + padded(unit.n_tail);
        let scores = vec![0.0; unit.queries.len() * unit.n_shared * stride];
        Self { unit, queries, scores, stride, tail_at }
    }

    fn n_queries(&self) -> usize {
        self.unit.queries.len() * self.unit.n_shared
    }

    /// Runs of queries that meet the prefix together, each with the number of positions that its last query sees.
    fn tiles(&self) -> impl Iterator<Item = (Range<usize>, usize)> + use<'a, T> {
        let (unit, n_queries) = (self.unit, self.n_queries());
        (0..n_queries).step_by(TILE_ROWS).map(move |first| {
            let tile = first..(first + TILE_ROWS).min(n_queries);
            let visible = tile.clone().map(|query| unit.visible[query / unit.n_shared]).max();
            (tile, visible.unwrap_or(0))
        })
    }

    /// Runs of queries that meet a tail together, each with its tail.
    fn tail_tiles(&self) -> impl Iterator<Item = (Range<usize>, Span<'a, T>)> + use<'a, T> {
        let n_shared = self.unit.n_shared;
        self.unit.tails.iter().enumerate().flat_map(move |(row_idx, tail)| {
            let (row, end) = (row_idx * n_shared, (row_idx + 1) * n_shared);
            (row..end).step_by(TILE_ROWS).map(move |first| (first..(first + TILE_ROWS).min(end), *tail))
        })
    }

    #[inline(always)]
    fn score(&mut self, kernel: &impl Kernel<T>) {
        let mut room = Vec::new();
        let queries = T::of(&self.queries, &mut room);
        let queries: Vec<&[T]> = queries.chunks_exact(self.unit.head_dim / T::N).collect();
        for (tile, n_columns) in self.tiles() {
            let keys = self.unit.prefix.keys(self.unit.head_dim, n_columns);
            let values = &mut self.scores[tile.start * self.stride..];
            kernel(&queries[tile], keys, &mut Sums { values, stride: self.stride, adds: false });
        }
        for (tile, tail) in self.tail_tiles() {
            let values = &mut self.scores[tile.start * self.stride + self.tail_at..];
            let mut sums = Sums { values, stride: self.stride, adds: false };
            let keys = tail.keys(self.unit.head_dim, self.unit.n_tail);
            kernel(&queries[tile], keys, &mut sums);
        }
    }

    /// Turns scores into exponentials, 0 for what a query does not see; returns each query's sum.
    #[inline(always)]
    fn share(&mut self) -> Vec<f32> {
        let (tail_at, n_tail) = (self.tail_at, self.unit.n_tail);
        let mut totals = Vec::with_capacity(self.n_queries());
        for (query, scores) in self.scores.chunks_exact_mut(self.stride).enumerate() {
            let n_visible = self.unit.visible[query / self.unit.n_shared];
            // Side by side for one pass, and back.
            scores.copy_within(tail_at..tail_at + n_tail, n_visible);
            let (_, total) = exponentiate(&mut scores[..n_visible + n_tail]);
            scores.copy_within(n_visible..n_visible + n_tail, tail_at);
            scores[n_visible..tail_at].fill(0.0);
            scores[tail_at + n_tail..].fill(0.0);
            totals.push(total);
        }
        totals
    }

    /// Sums values by shares: (n, width).
    #[inline(always)]
    fn mix(&self, kernel: &impl Kernel<T>) -> Vec<f32> {
        let mut room = Vec::new();
        let shares = T::of(&self.scores, &mut room);
        let width = padded(self.unit.head_dim);
        let mut mixed = vec![0.0; self.n_queries() * width];
        // Where terms are several, the last are filled up with zeros, which stand behind what is seen.
        let rows = |tile: Range<usize>, at: usize, length: usize| -> Vec<&[T]> {
            let of = |query: usize| &shares[(query * self.stride + at) / T::N..][..length.div_ceil(T::N)];
            tile.map(of).collect()
        };
        for (tile, n_visible) in self.tiles() {
            let values = self.unit.prefix.values(width);
            let mut sums = Sums { values: &mut mixed[tile.start * width..], stride: width, adds: false };
            kernel(&rows(tile, 0, n_visible), values, &mut sums);
        }
        for (tile, tail) in self.tail_tiles() {
            let mut sums = Sums { values: &mut mixed[tile.start * width..], stride: width, adds: true };
            kernel(&rows(tile, self.tail_at, self.unit.n_tail), tail.values(width), &mut sums);
        }
        mixed
    }
}

impl<'a, T: Terms> Span<'a, T> {
    fn keys(&self, head_dim: usize, n_columns: usize) -> Matrix<'a, T> {
        Matrix { values: self.keys, panel_len: head_dim / T::N * PANEL, n_columns }
    }

    fn values(&self, width: usize) -> Matrix<'a, T> {
        Matrix { values: self.values, panel_len: self.capacity / T::N * PANEL, n_columns: width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    // Two panels wide.
    const HEAD_DIM: usize = 40;
    const SHARED: usize = 3;
    const PREFIX: usize = 70;
    const TAIL: usize = 5;

    /// Numbers of a key head: (positions, `HEAD_DIM`) keys and values.
    struct Head<T> {
        keys: Vec<Vec<f32>>,
        values: Vec<Vec<f32>>,
        laid_out: (Vec<T>, Vec<T>),
    }

    fn random(n: usize, rng: &mut StdRng) -> Vec<f32> {
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn head<T: Terms>(n_positions: usize, rng: &mut StdRng) -> Head<T> {
        let rows =
            |rng: &mut StdRng| -> Vec<Vec<f32>> { (0..n_positions).map(|_| random(HEAD_DIM, rng)).collect() };
        let (keys, values) = (rows(rng), rows(rng));
        let (capacity, width) = (padded(n_positions), padded(HEAD_DIM));
        let zeros = |n: usize| vec![T::zeroed(); n / T::N];
        let mut laid_out = (zeros(HEAD_DIM * capacity), zeros(capacity * width));
        for position in 0..n_positions {
            for dim in 0..HEAD_DIM {
                let row = (position / PANEL * HEAD_DIM + dim) / T::N;
                laid_out.0[row * PANEL + position % PANEL].set(dim % T::N, keys[position][dim]);
                let row = (dim / PANEL * capacity + position) / T::N;
                laid_out.1[row * PANEL + dim % PANEL].set(position % T::N, values[position][dim]);
            }
        }
        Head { keys, values, laid_out }
    }

    impl<T> Head<T> {
        fn span(&self) -> Span<'_, T> {
            Span { keys: &self.laid_out.0, capacity: padded(self.keys.len()), values: &self.laid_out.1 }
        }
    }

    fn expected(query: &[f32], seen: &[(&[f32], &[f32])]) -> Vec<f32> {
        let scale = (HEAD_DIM as f32).sqrt();
        let score = |key: &[f32]| key.iter().zip(query).map(|(key, query)| key * query).sum::<f32>() / scale;
        let shares: Vec<f32> = seen.iter().map(|(key, _)| score(key).exp()).collect();
        let total: f32 = shares.iter().sum();
        let mix = |dim: usize| {
            shares.iter().zip(seen).map(|(share, (_, value))| share * value[dim]).sum::<f32>() / total
        };
        (0..HEAD_DIM).map(mix).collect()
    }

    type Kernel<T> = fn(&Unit<'_, T>, &mut [&mut [f32]]);

    /// Every kernel that this machine can run, also where it would choose a better one.
    #[allow(unused_mut, reason = "some machines have one only")]
    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
    fn kernels() -> (Vec<Kernel<f32>>, Vec<Kernel<Pair>>) {
        let mut exact: Vec<Kernel<f32>> =
            vec![f32::attend, |unit, output| attend_with(&panels::plain, unit, output)];
        let mut rounded: Vec<Kernel<Pair>> =
            vec![Pair::attend, |unit, output| attend_with(&panels::plain, unit, output)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has what the functions were compiled for.
                exact.push(|unit, output| unsafe { x86::narrow(unit, output) });
                // SAFETY: as above.
                rounded.push(|unit, output| unsafe { x86::narrow_widened(unit, output) });
            }
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: as above.
                rounded.push(|unit, output| unsafe { x86::wide_widened(unit, output) });
            }
        }
        (exact, rounded)
    }

    #[test]
    fn attention_on_prefix_and_tail_is_that_of_a_plain_loop_in_every_machine_and_with_any_neighbours() {
        let (exact, rounded) = kernels();
        exact.into_iter().for_each(|kernel| check(kernel, 1e-5));
        // Scores of some 40 products, and shares of values up to 1, each rounded to 8 bits.
        rounded.into_iter().for_each(|kernel| check(kernel, 4e-3));
    }

    fn check<T: Terms>(attend: Kernel<T>, tolerance: f32) {
        let mut rng = StdRng::seed_from_u64(3);
        let prefix = head::<T>(PREFIX, &mut rng);
        for n_rows in [1, 2, 7] {
            let tails: Vec<Head<T>> = (0..n_rows).map(|_| head(TAIL, &mut rng)).collect();
            let queries: Vec<Vec<f32>> = (0..n_rows).map(|_| random(SHARED * HEAD_DIM, &mut rng)).collect();
            let visible: Vec<usize> = (0..n_rows).map(|row| PREFIX - 9 * row).collect();
            let unit = |rows: Range<usize>| Unit {
                head_dim: HEAD_DIM,
                n_shared: SHARED,
                queries: queries[rows.clone()].iter().map(Vec::as_slice).collect(),
                prefix: prefix.span(),
                visible: visible[rows.clone()].to_vec(),
                tails: tails[rows].iter().map(Head::<T>::span).collect(),
                n_tail: TAIL,
            };
            let run = |unit: &Unit<'_, T>| {
                let mut output = vec![0.0; unit.queries.len() * SHARED * HEAD_DIM];
                attend(unit, &mut output.chunks_mut(SHARED * HEAD_DIM).collect::<Vec<_>>());
                output
            };
            let together = run(&unit(0..n_rows));
            for row in 0..n_rows {
                assert_eq!(
                    run(&unit(row..row + 1)),
                    together[row * SHARED * HEAD_DIM..][..SHARED * HEAD_DIM]
                );
                let pairs = |head: &'_ Head<T>, n: usize| -> Vec<(Vec<f32>, Vec<f32>)> {
                    head.keys.iter().cloned().zip(head.values.iter().cloned()).take(n).collect()
                };
                let seen = [pairs(&prefix, visible[row]), pairs(&tails[row], TAIL)].concat();
                let seen: Vec<(&[f32], &[f32])> =
                    seen.iter().map(|(key, value)| (&key[..], &value[..])).collect();
                for (shared, query) in queries[row].chunks(HEAD_DIM).enumerate() {
                    let at = (row * SHARED + shared) * HEAD_DIM;
                    for (dim, expected) in expected(query, &seen).into_iter().enumerate() {
                        assert!((together[at + dim] - expected).abs() < tolerance);
                    }
                }
            }
        }
    }
}
