//! Rows of inputs, rounded to signed bytes on the fly.
#![allow(clippy::cast_precision_loss, reason = "widths are small")]
use super::step;
use crate::model::products::Inputs;
use rayon::prelude::*;

/// Inputs that one instruction multiplies and adds up for each output.
pub(super) const INPUTS: usize = 4;
/// Inputs of fewer values are rounded by one thread: to hand parts to others would take longer.
const PARALLEL_ROUNDING_MIN: usize = 1 << 14;
/// Squares that are summed side by side, so that the compiler can use vector registers.
const LANES: usize = 16;

/// Rows of inputs, rounded.
#[derive(Debug)]
pub struct Rows {
    n_in: usize,
    /// Blocks of inputs per row; the last one is filled up with zeros.
    n_blocks: usize,
    /// The inputs, row after row.
    words: Vec<[i8; INPUTS]>,
    /// Of each row: its inputs are the rounded ones times this; NaN where an input is not finite.
    scales: Vec<f32>,
    /// Of each row: the sum of its rounded inputs.
    sums: Vec<i32>,
}

impl Rows {
    /// Rounds rows of `n_in` values.
    #[must_use]
    pub fn round(values: &[f32], n_in: usize) -> Self {
        Self::of(values, n_in, |values, words, _| round(values, words))
    }

    /// Rounds what rows become when each is divided by its root mean square and scaled: x / sqrt(mean(x²) + eps) · weight.
    #[must_use]
    pub fn normed(values: &[f32], weight: &[f32], eps: f32) -> Self {
        Self::of(values, weight.len(), |values, words, room| {
            let inverse = (squares(values) / values.len() as f32 + eps).sqrt().recip();
            room.clear();
            room.extend(values.iter().zip(weight).map(|(value, weight)| value * inverse * weight));
            round(room, words)
        })
    }

    fn of(values: &[f32], n_in: usize, round: impl Rounds) -> Self {
        let (n_rows, n_blocks) = (values.len() / n_in, n_in.div_ceil(INPUTS));
        let words = vec![[0; INPUTS]; n_rows * n_blocks];
        let mut rows = Self { n_in, n_blocks, words, scales: vec![0.0; n_rows], sums: vec![0; n_rows] };
        let parts = rows.words.par_chunks_mut(n_blocks).zip(rows.scales.par_iter_mut().zip(&mut rows.sums));
        let parts = parts.zip(values.par_chunks(n_in));
        let together_min = if values.len() < PARALLEL_ROUNDING_MIN { usize::MAX } else { 1 };
        parts.with_min_len(together_min).for_each_init(Vec::new, |room, ((words, (scale, sum)), values)| {
            // Compiled for several kinds of vector registers: the widest that the processor has are used.
            let row = Row { values, words, room, round: &round };
            (*scale, *sum) = pulp::Arch::new().dispatch(row);
        });
        rows
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    pub(super) fn words(&self, row_idx: usize) -> &[[i8; INPUTS]] {
        &self.words[row_idx * self.n_blocks..][..self.n_blocks]
    }

    pub(super) fn scale(&self, row_idx: usize) -> f32 {
        self.scales[row_idx]
    }

    pub(super) fn sum(&self, row_idx: usize) -> i32 {
        self.sums[row_idx]
    }
}

impl Inputs for Rows {
    fn n_in(&self) -> usize {
        self.n_in
    }

    fn n_rows(&self) -> usize {
        self.scales.len()
    }
}

/// Rounds the values of one row into words, with room for what they become before; returns the scale and the sum of what was written.
trait Rounds: Fn(&[f32], &mut [[i8; INPUTS]], &mut Vec<f32>) -> (f32, i32) + Sync {}
impl<F: Fn(&[f32], &mut [[i8; INPUTS]], &mut Vec<f32>) -> (f32, i32) + Sync> Rounds for F {}

struct Row<'a, R> {
    values: &'a [f32],
    words: &'a mut [[i8; INPUTS]],
    room: &'a mut Vec<f32>,
    round: &'a R,
}

impl<R: Rounds> pulp::NullaryFnOnce for Row<'_, R> {
    type Output = (f32, i32);

    #[inline(always)]
    fn call(self) -> (f32, i32) {
        (self.round)(self.values, self.words, self.room)
    }
}

/// A value in units of `1 / inverse`, rounded to a signed byte; its bits.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the last byte is what is wanted")]
pub(super) fn byte(value: f32, inverse: f32) -> u8 {
    // 1.5 · 2²³ leaves no room for a fraction, so that the sum is rounded to a whole number, half to even, which then stands
    // in the last bits in two's complement. A loop of this needs no call and fits vector registers.
    const MAGIC: f32 = 12_582_912.0;
    (value * inverse + MAGIC).to_bits() as u8
}

#[inline(always)]
fn round(values: &[f32], words: &mut [[i8; INPUTS]]) -> (f32, i32) {
    // The bits of magnitudes are ordered as the magnitudes are, and infinity and NaN stand above all numbers.
    let max = values.iter().fold(0, |max: u32, value| max.max(value.abs().to_bits()));
    let scale = match f32::from_bits(max) {
        max if max.is_finite() => step(max),
        _ => f32::NAN,
    };
    let inverse = scale.recip();
    let bytes = words.as_flattened_mut();
    for (written, value) in bytes.iter_mut().zip(values) {
        *written = byte(*value, inverse).cast_signed();
    }
    (scale, bytes.iter().map(|&byte| i32::from(byte)).sum())
}

#[inline(always)]
fn squares(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += value * value);
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normed_rows_are_the_rounded_norm() {
        let values: Vec<f32> = (0..3 * 37_u8).map(|idx| (f32::from(idx) * 1.3).sin() * 4.0).collect();
        let weight: Vec<f32> = (0..37_u8).map(|idx| 1.0 + f32::from(idx) * 0.01).collect();
        let normed: Vec<f32> = values
            .chunks(37)
            .flat_map(|row| {
                let mean = row.iter().map(|value| value * value).sum::<f32>() / 37.0;
                row.iter().zip(&weight).map(move |(value, weight)| value / (mean + 1e-6).sqrt() * weight)
            })
            .collect();
        let (got, expected) = (Rows::normed(&values, &weight, 1e-6), Rows::round(&normed, 37));
        let close = |(got, expected): (&[i8; INPUTS], &[i8; INPUTS])| {
            // A sum in another order may move a value over the border of a step.
            got.iter()
                .zip(expected)
                .all(|(got, expected)| (i16::from(*got) - i16::from(*expected)).abs() <= 1)
        };
        assert!(got.words.iter().zip(&expected.words).all(close));
        for (got, expected) in got.scales.iter().zip(&expected.scales) {
            assert!((got - expected).abs() < 1e-6 * expected, "{got}, not {expected}");
        }
    }
}
