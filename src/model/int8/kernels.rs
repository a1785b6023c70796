//! The inner loops: sums of products of bytes, chosen for the machine at run time, and what becomes of them.
//!
//! Weights are kept as unsigned bytes 128 above their value, because the instructions multiply unsigned by signed bytes; 128
//! times the sum of a row's inputs is taken off again. Every kernel sums exactly, so all give the same bits.
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::rows::{INPUTS, Rows};
use crate::model::products::{Inputs, Product, filled, tiles};

/// Outputs of a panel: four registers of 16 sums.
pub(super) const OUTPUTS: usize = 64;
/// The byte of a weight 0.
pub(super) const ZERO: u8 = 128;
/// Rows that a panel is multiplied with at a time: 6 × 4 sums, 4 weights and an input fill the 32 registers.
const TILE_ROWS: usize = 6;

/// `INPUTS` weights of each of `OUTPUTS` outputs, output by output.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [u8; OUTPUTS * INPUTS]);

/// What a processor fetches from memory at a time.
type Line = [u8; 64];

/// Some panels of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    /// These panels one after another (as many as `scales` has), and those behind them: a thread computes its parts in their order, so it mostly
    /// reads these next.
    pub(super) blocks: &'a [Block],
    /// Of each output of these panels: its weights are the rounded ones times this.
    pub(super) scales: &'a [f32],
    /// Of each output, what is added; it may end within the last panel.
    pub(super) bias: Option<&'a [f32]>,
}

/// The weight that a byte stands for, in steps.
pub(super) fn signed(byte: u8) -> f32 {
    f32::from(i16::from(byte) - i16::from(ZERO))
}

/// Multiplies all rows with panels of weights. `output`: of each row, the columns of these panels.
#[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
pub(super) fn multiply(rows: &Rows, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
    #[cfg(target_arch = "x86_64")]
    {
        if vnni::is_here() {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { vnni::multiply(rows, product, output) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { multiply_avx2(rows, product, output) };
        }
    }
    multiply_with(sums_anywhere, rows, product, output);
}

type Sums = [[i32; OUTPUTS]; TILE_ROWS];

/// Up to `TILE_ROWS` rows at a time, panel by panel: sums by `sums`, then what becomes of them.
///
/// While rows meet a panel, the next one is fetched, a part of it for each tile (of few rows, not all of it: such products wait for memory all the
/// time): else the first tile waits for memory, and the others compute while memory is idle.
#[inline(always)]
fn multiply_with(
    sums: impl Fn(&[&[[i8; INPUTS]]], &[Block], &[Line], &mut Sums),
    rows: &Rows,
    product: Product<Panels<'_>>,
    output: &mut [&mut [f32]],
) {
    let mut tile_sums = [[0; OUTPUTS]; TILE_ROWS];
    let mut gates = [[0.0; OUTPUTS]; TILE_ROWS];
    let last = product.last();
    for panel_idx in 0..last.scales.len() / OUTPUTS {
        let panel = last.panel(panel_idx, rows.n_blocks());
        let gate = match product {
            Product::Gated { gate, .. } => Some(gate.panel(panel_idx, rows.n_blocks())),
            Product::Set(_) | Product::Add(_) => None,
        };
        let tiles = tiles(rows.n_rows(), TILE_ROWS);
        let n_tiles = tiles.len();
        for (at, tile) in tiles.enumerate() {
            let mut inputs: [&[[i8; INPUTS]]; TILE_ROWS] = [&[]; TILE_ROWS];
            inputs.iter_mut().zip(tile.clone()).for_each(|(inputs, row_idx)| *inputs = rows.words(row_idx));
            let inputs = &inputs[..tile.len()];
            if let Some(gate) = &gate {
                sums(inputs, gate.blocks, gate.ahead(at, n_tiles), &mut tile_sums);
                for ((gates, sums), row_idx) in gates.iter_mut().zip(&tile_sums).zip(tile.clone()) {
                    *gates = gate.values(sums, rows, row_idx);
                }
            }
            sums(inputs, panel.blocks, panel.ahead(at, n_tiles), &mut tile_sums);
            for ((sums, gates), row_idx) in tile_sums.iter().zip(&gates).zip(tile) {
                let values = panel.values(sums, rows, row_idx);
                product.write(&values, gates, &mut output[row_idx][panel_idx * OUTPUTS..]);
            }
        }
    }
}

impl<'a> Panels<'a> {
    #[inline(always)]
    fn panel(self, panel_idx: usize, n_blocks: usize) -> Panel<'a> {
        let first = panel_idx * OUTPUTS;
        let (blocks, behind) = self.blocks[panel_idx * n_blocks..].split_at(n_blocks);
        Panel {
            blocks,
            next: bytemuck::must_cast_slice(behind.get(..n_blocks).unwrap_or_default()),
            scales: filled(&self.scales[first..]),
            bias: self.bias.map(|bias| filled(&bias[first..])),
        }
    }
}

/// One panel.
struct Panel<'a> {
    blocks: &'a [Block],
    /// The panel behind it, in lines; none behind the last of a matrix.
    next: &'a [Line],
    scales: [f32; OUTPUTS],
    bias: Option<[f32; OUTPUTS]>,
}

impl Panel<'_> {
    /// The part of the next panel that is fetched while a tile meets this one.
    fn ahead(&self, tile_idx: usize, n_tiles: usize) -> &[Line] {
        self.next.chunks(self.next.len().div_ceil(n_tiles).max(1)).nth(tile_idx).unwrap_or_default()
    }

    /// Its outputs for one row.
    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "a sum's last bits are less than what rounding has cost")]
    fn values(&self, sums: &[i32; OUTPUTS], rows: &Rows, row_idx: usize) -> [f32; OUTPUTS] {
        let (scale, excess) = (rows.scale(row_idx), i32::from(ZERO) * rows.sum(row_idx));
        let mut values = [0.0; OUTPUTS];
        for ((value, sum), output_scale) in values.iter_mut().zip(sums).zip(&self.scales) {
            *value = (sum - excess) as f32 * (scale * output_scale);
        }
        if let Some(bias) = &self.bias {
            values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
        values
    }
}

/// Sums in plain arithmetic, which the compiler turns into what the enclosing function may use.
#[inline(always)]
fn sums_anywhere(rows: &[&[[i8; INPUTS]]], panel: &[Block], _: &[Line], sums: &mut Sums) {
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
fn multiply_avx2(rows: &Rows, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
    multiply_with(sums_anywhere, rows, product, output);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn every_kernel_gives_the_same_bits() {
        let mut rng = StdRng::seed_from_u64(1);
        for (n_rows, n_in, n_panels) in [(1, 5, 1), (8, 64, 2), (11, 130, 3), (60, 5, 2)] {
            let values: Vec<f32> = (0..n_rows * n_in).map(|_| rng.random_range(-3.0..3.0)).collect();
            let rows = Rows::round(&values, n_in);
            let mut blocks = || -> Vec<Block> {
                (0..n_panels * rows.n_blocks())
                    .map(|_| Block(std::array::from_fn(|_| rng.random())))
                    .collect()
            };
            let (blocks, others) = (blocks(), blocks());
            let scales: Vec<f32> = (0..n_panels * OUTPUTS).map(|_| rng.random_range(0.1..1.0)).collect();
            let n_out = n_panels * OUTPUTS - 3;
            let bias: Vec<f32> = (0..n_out).map(|_| rng.random_range(-1.0..1.0)).collect();
            let panels = Panels { blocks: &blocks, scales: &scales, bias: Some(&bias) };
            let gate = Panels { blocks: &others, scales: &scales, bias: None };
            for product in [Product::Set(panels), Product::Add(panels), Product::Gated { gate, up: panels }] {
                let run = |compute: &dyn Fn(&mut [&mut [f32]])| {
                    let mut output = vec![1.0; n_rows * n_out];
                    compute(&mut output.chunks_mut(n_out).collect::<Vec<_>>());
                    output
                };
                let here = run(&|output| multiply(&rows, product, output));
                let plain = run(&|output| multiply_with(sums_anywhere, &rows, product, output));
                assert_eq!(here, plain);
                // Another is chosen where there is a better one, so it is asked for by name.
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
                    // SAFETY: the processor has what the function was compiled for.
                    let avx2 = run(&|output| unsafe { multiply_avx2(&rows, product, output) });
                    assert_eq!(avx2, plain);
                }
            }
        }
    }
}
