//! The inner loops: sums of products of bytes, chosen for the machine at run time.
//!
//! Weights are kept as unsigned bytes 128 above their value, because the instructions multiply unsigned by signed bytes; 128
//! times the sum of a row's inputs is taken off again. Every kernel sums exactly, so all give the same bits.
#[cfg(target_arch = "x86_64")]
mod vnni;

/// Outputs of a panel: four registers of 16 sums.
pub(super) const OUTPUTS: usize = 64;
/// Inputs that one instruction multiplies and adds up for each output.
pub(super) const INPUTS: usize = 4;
/// The byte of a weight 0.
pub(super) const ZERO: u8 = 128;
/// Rows that a panel is multiplied with at a time: 6 × 4 sums, 4 weights and an input fill the 32 registers.
const TILE_ROWS: usize = 6;

/// `INPUTS` weights of each of `OUTPUTS` outputs, output by output.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [u8; OUTPUTS * INPUTS]);

/// Rows of inputs, rounded.
#[derive(Debug)]
pub(super) struct Rows {
    /// Blocks of inputs per row; the last one is filled up with zeros.
    pub(super) n_blocks: usize,
    /// The inputs, row after row.
    pub(super) words: Vec<[i8; INPUTS]>,
    /// Of each row: its inputs are the rounded ones times this; NaN where an input is not finite.
    pub(super) scales: Vec<f32>,
    /// Of each row: the sum of its rounded inputs.
    pub(super) sums: Vec<i32>,
}

impl Rows {
    pub(super) fn new(n_rows: usize, n_in: usize) -> Self {
        let n_blocks = n_in.div_ceil(INPUTS);
        let words = vec![[0; INPUTS]; n_rows * n_blocks];
        Self { n_blocks, words, scales: vec![0.0; n_rows], sums: vec![0; n_rows] }
    }
}

/// A value in units of `1 / inverse`, rounded to a signed byte; its bits.
#[allow(clippy::cast_possible_truncation, reason = "the last byte is what is wanted")]
pub(super) fn byte(value: f32, inverse: f32) -> u8 {
    // 1.5 · 2²³ leaves no room for a fraction, so that the sum is rounded to a whole number, half to even, which then stands
    // in the last bits in two's complement. A loop of this needs no call and fits vector registers.
    const MAGIC: f32 = 12_582_912.0;
    (value * inverse + MAGIC).to_bits() as u8
}

/// The weight that a byte stands for, in steps.
pub(super) fn signed(byte: u8) -> f32 {
    f32::from(i16::from(byte) - i16::from(ZERO))
}

/// Rounds one row into `words`; returns its scale and the sum of what was written.
#[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
pub(super) fn round(values: &[f32], words: &mut [[i8; INPUTS]]) -> (f32, i32) {
    #[cfg(target_arch = "x86_64")]
    {
        if vnni::is_here() {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { vnni::round(values, words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { round_avx2(values, words) };
        }
    }
    round_anywhere(values, words)
}

/// Multiplies all rows with panels of weights. `output`: of each row, the columns of these panels.
#[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
pub(super) fn multiply(
    rows: &Rows,
    blocks: &[Block],
    scales: &[f32],
    bias: Option<&[f32]>,
    output: &mut [&mut [f32]],
) {
    #[cfg(target_arch = "x86_64")]
    {
        if vnni::is_here() {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { vnni::multiply(rows, blocks, scales, bias, output) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { multiply_avx2(rows, blocks, scales, bias, output) };
        }
    }
    multiply_with(sums_anywhere, rows, (blocks, scales, bias), output);
}

#[inline(always)]
fn round_anywhere(values: &[f32], words: &mut [[i8; INPUTS]]) -> (f32, i32) {
    // The bits of magnitudes are ordered as the magnitudes are, and infinity and NaN stand above all numbers.
    let max = values.iter().fold(0, |max: u32, value| max.max(value.abs().to_bits()));
    let scale = match f32::from_bits(max) {
        max if max.is_finite() => super::step(max),
        _ => f32::NAN,
    };
    let inverse = scale.recip();
    let bytes = words.as_flattened_mut();
    for (written, value) in bytes.iter_mut().zip(values) {
        *written = byte(*value, inverse).cast_signed();
    }
    (scale, bytes.iter().map(|&byte| i32::from(byte)).sum())
}

/// Up to `TILE_ROWS` rows at a time, panel by panel: sums by `sums`, then scales and bias.
#[inline(always)]
fn multiply_with(
    sums: impl Fn(&[&[[i8; INPUTS]]], &[Block], &mut [[i32; OUTPUTS]; TILE_ROWS]),
    rows: &Rows,
    (blocks, scales, bias): (&[Block], &[f32], Option<&[f32]>),
    output: &mut [&mut [f32]],
) {
    let mut tile_sums = [[0; OUTPUTS]; TILE_ROWS];
    let panels = blocks.chunks_exact(rows.n_blocks).zip(scales.chunks_exact(OUTPUTS));
    for (panel_idx, (panel, scales)) in panels.enumerate() {
        let first = panel_idx * OUTPUTS;
        let bias = bias.map(|bias| &bias[first..]);
        for tile in tiles(rows.scales.len()) {
            let mut inputs: [&[[i8; INPUTS]]; TILE_ROWS] = [&[]; TILE_ROWS];
            let n_rows = tile.len();
            for (inputs, row_idx) in inputs.iter_mut().zip(tile.clone()) {
                *inputs = &rows.words[row_idx * rows.n_blocks..][..rows.n_blocks];
            }
            sums(&inputs[..n_rows], panel, &mut tile_sums);
            for (sums, row_idx) in tile_sums.iter().zip(tile) {
                let width = OUTPUTS.min(output[row_idx].len() - first);
                let out = &mut output[row_idx][first..][..width];
                let (scale, excess) = (rows.scales[row_idx], i32::from(ZERO) * rows.sums[row_idx]);
                write(sums, (scale, excess), scales, out);
                if let Some(bias) = bias {
                    out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "a sum's last bits are less than what rounding has cost")]
fn write(sums: &[i32; OUTPUTS], (scale, excess): (f32, i32), scales: &[f32], out: &mut [f32]) {
    for ((out, sum), output_scale) in out.iter_mut().zip(sums).zip(scales) {
        *out = (sum - excess) as f32 * (scale * output_scale);
    }
}

/// Row numbers in runs of nearly equal length, none longer than a tile.
fn tiles(n_rows: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let n_tiles = n_rows.div_ceil(TILE_ROWS);
    (0..n_tiles).map(move |at| at * n_rows / n_tiles..(at + 1) * n_rows / n_tiles)
}

/// Sums in plain arithmetic, which the compiler turns into what the enclosing function may use.
#[inline(always)]
fn sums_anywhere(rows: &[&[[i8; INPUTS]]], panel: &[Block], sums: &mut [[i32; OUTPUTS]; TILE_ROWS]) {
    for (row, sums) in rows.iter().zip(sums) {
        *sums = [0; OUTPUTS];
        for (inputs, block) in row.iter().zip(panel) {
            for (sum, weights) in sums.iter_mut().zip(block.0.as_chunks::<INPUTS>().0) {
                for (weight, input) in weights.iter().zip(inputs) {
                    *sum += i32::from(i16::from(*weight)) * i32::from(i16::from(*input));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn round_avx2(values: &[f32], words: &mut [[i8; INPUTS]]) -> (f32, i32) {
    round_anywhere(values, words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(
    rows: &Rows,
    blocks: &[Block],
    scales: &[f32],
    bias: Option<&[f32]>,
    output: &mut [&mut [f32]],
) {
    multiply_with(sums_anywhere, rows, (blocks, scales, bias), output);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn every_kernel_gives_the_same_bits() {
        let mut rng = StdRng::seed_from_u64(1);
        for (n_rows, n_in, n_panels) in [(1, 5, 1), (8, 64, 2), (11, 130, 3)] {
            let mut rows = Rows::new(n_rows, n_in);
            let mut again = Rows::new(n_rows, n_in);
            for row_idx in 0..n_rows {
                let values: Vec<f32> = (0..n_in).map(|_| rng.random_range(-3.0..3.0)).collect();
                let place = row_idx * rows.n_blocks..(row_idx + 1) * rows.n_blocks;
                let one = round(&values, &mut rows.words[place.clone()]);
                let other = round_anywhere(&values, &mut again.words[place]);
                assert_eq!(one, other);
                (rows.scales[row_idx], rows.sums[row_idx]) = one;
            }
            assert_eq!(rows.words, again.words);
            let blocks: Vec<Block> =
                (0..n_panels * rows.n_blocks).map(|_| Block(std::array::from_fn(|_| rng.random()))).collect();
            let scales: Vec<f32> = (0..n_panels * OUTPUTS).map(|_| rng.random_range(0.1..1.0)).collect();
            let n_out = n_panels * OUTPUTS - 3;
            let bias: Vec<f32> = (0..n_out).map(|_| rng.random_range(-1.0..1.0)).collect();
            let run = |compute: &dyn Fn(&mut [&mut [f32]])| {
                let mut output = vec![0.0; n_rows * n_out];
                compute(&mut output.chunks_mut(n_out).collect::<Vec<_>>());
                output
            };
            let here = run(&|output| multiply(&rows, &blocks, &scales, Some(&bias), output));
            let plain =
                run(&|output| multiply_with(sums_anywhere, &rows, (&blocks, &scales, Some(&bias)), output));
            assert_eq!(here, plain);
        }
    }

    #[test]
    fn tiles_cover_every_row_once() {
        for n_rows in 1..40 {
            let tiles: Vec<_> = tiles(n_rows).collect();
            assert!(tiles.iter().all(|tile| (1..=TILE_ROWS).contains(&tile.len())));
            assert!(tiles.into_iter().flatten().eq(0..n_rows));
        }
    }
}
