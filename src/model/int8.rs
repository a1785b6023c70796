//! Linear layers in 8 bits (W8A8): weights are rounded per output once, inputs per row on the fly, products are summed exactly
//! in integers.
//!
//! Integer sums have no order, so a row's result does not depend on the rows beside it, nor on the kernel that a machine
//! has. Rounding per row and per output channel follows LLM.int8() (arXiv 2208.07339) without its outlier columns.
mod kernels;
mod rows;

pub use rows::Rows;

use super::{
    linear::Weight,
    products::{Panelled, Product},
    weights::ModelError,
};
use candle_core::{Device, Result, Tensor, bail};
use kernels::{Block, OUTPUTS, Panels, ZERO};
use rayon::prelude::*;
use rows::INPUTS;
use std::ops::Range;

/// The largest magnitude of a rounded weight or input. -128 is left out, so that both signs have the same steps.
const LEVELS: f32 = 127.0;
/// Inputs of one output at most: beyond, a sum of products of a byte (255) and a signed byte (127) could leave 32 bits.
const INPUTS_MAX: usize = 1 << 16;

/// A weight (out, in) of a linear layer, rounded to 8 bits and laid out for the kernels.
#[derive(Debug)]
pub struct Matrix {
    n_in: usize,
    n_out: usize,
    /// Panels of `OUTPUTS` outputs one after another; a panel holds `INPUTS` inputs of each output at a time.
    blocks: Vec<Block>,
    /// Of each output: its weights are the rounded ones times this. 1 for outputs that only fill up the last panel.
    scales: Vec<f32>,
}

impl Matrix {
    /// Rounds a weight (out, in), f32 on the CPU.
    /// # Errors
    /// If it has no values, or more inputs than sums have room for.
    pub fn round(weight: &Tensor) -> std::result::Result<Self, ModelError> {
        let (n_out, n_in) = weight.dims2()?;
        if n_in == 0 || n_out == 0 || n_in > INPUTS_MAX {
            let reason = format!(
                "weight ({n_out}, {n_in}): in 8 bits a layer has 1 to {INPUTS_MAX} inputs and an output"
            );
            return Err(ModelError::Forward(candle_core::Error::Msg(reason)));
        }
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let n_blocks = n_in.div_ceil(INPUTS);
        let mut blocks = vec![Block([ZERO; OUTPUTS * INPUTS]); n_out.div_ceil(OUTPUTS) * n_blocks];
        let mut scales = vec![1.0; n_out.div_ceil(OUTPUTS) * OUTPUTS];
        let panels = blocks.par_chunks_mut(n_blocks).zip(scales.par_chunks_mut(OUTPUTS));
        panels.zip(values.par_chunks(OUTPUTS * n_in)).for_each(|((panel, scales), outputs)| {
            for (output_idx, (output, scale)) in outputs.chunks(n_in).zip(scales).enumerate() {
                *scale = step_of(output);
                for (inputs, block) in output.chunks(INPUTS).zip(panel.iter_mut()) {
                    for (value, byte) in inputs.iter().zip(&mut block.0[output_idx * INPUTS..]) {
                        *byte = rows::byte(*value, scale.recip()) ^ ZERO;
                    }
                }
            }
        });
        Ok(Self { n_in, n_out, blocks, scales })
    }

    /// Returns the weights of some outputs: (n, in), f32 on the CPU. An embedding that is an output head too is looked up so.
    /// # Errors
    /// If there is no such output.
    pub fn outputs(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        let n_blocks = self.n_in.div_ceil(INPUTS);
        let mut values = Vec::with_capacity(ids.len() * self.n_in);
        for id in ids.iter().map(|&id| id as usize) {
            if id >= self.n_out {
                bail!("output {id} of {} was asked for", self.n_out)
            }
            let (panel, output_idx) = (id / OUTPUTS, id % OUTPUTS);
            let blocks = self.blocks[panel * n_blocks..][..n_blocks].iter();
            let bytes = blocks.flat_map(|block| &block.0[output_idx * INPUTS..][..INPUTS]);
            values.extend(bytes.take(self.n_in).map(|&byte| kernels::signed(byte) * self.scales[id]));
        }
        Tensor::from_vec(values, (ids.len(), self.n_in), &Device::Cpu)
    }

    /// Some of the outputs, to the last bit.
    /// # Errors
    /// If there is no such output, or none is asked for.
    pub fn kept(&self, ids: &Tensor) -> std::result::Result<Self, ModelError> {
        let mut kept = Self::round(&self.outputs(ids)?)?;
        // What is rounded rounds to itself; the size of a step, computed anew, might differ in its last bit.
        let scales = ids.to_vec1::<u32>()?.into_iter().map(|id| self.scales[id as usize]);
        kept.scales.iter_mut().zip(scales).for_each(|(scale, of)| *scale = of);
        Ok(kept)
    }
}

impl Panelled for Matrix {
    type Rows<'r> = Rows;
    type Panels<'a> = Panels<'a>;
    const OUTPUTS: usize = OUTPUTS;

    fn of(weight: &Weight) -> Option<&Self> {
        match weight {
            Weight::Int8(matrix) => Some(matrix),
            Weight::Plain(_) | Weight::Packed(_) => None,
        }
    }

    fn shape(&self) -> (usize, usize) {
        (self.n_out, self.n_in)
    }

    fn panels<'a>(&'a self, bias: Option<&'a [f32]>, panels: &Range<usize>) -> Panels<'a> {
        let n_blocks = self.n_in.div_ceil(INPUTS);
        Panels {
            blocks: &self.blocks[panels.start * n_blocks..],
            scales: &self.scales[panels.start * OUTPUTS..panels.end * OUTPUTS],
            bias: bias.map(|bias| &bias[panels.start * OUTPUTS..]),
        }
    }

    fn multiply(rows: &Rows, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
        kernels::multiply(rows, product, output);
    }
}

/// Rounds the outputs of a weight (out, in): whole numbers of steps, and of each output the size of its step.
pub(super) fn rounded(weight: &[f32], n_in: usize) -> (Vec<i8>, Vec<f32>) {
    let outputs = weight.chunks(n_in.max(1)).map(|output| (output, step_of(output)));
    let bytes = |(output, step): (&[f32], f32)| -> Vec<i8> {
        output.iter().map(|value| rows::byte(*value, step.recip()).cast_signed()).collect()
    };
    (outputs.clone().flat_map(bytes).collect(), outputs.map(|(_, step)| step).collect())
}

/// The size of the steps in which an output's weights are rounded.
fn step_of(output: &[f32]) -> f32 {
    step(output.iter().fold(0.0, |max: f32, value| max.max(value.abs())))
}

/// The size of one of 127 steps up to `max`; 1 where all values are 0, so that nothing is divided by 0.
fn step(max: f32) -> f32 {
    // Tiny numbers, whose reciprocal would be infinite, round to 0.
    if max / LEVELS >= f32::MIN_POSITIVE { max / LEVELS } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        fused,
        products::{Job, Layer, compute},
    };
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn random(n_rows: usize, n_columns: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..n_rows * n_columns).map(|_| rng.random_range(-2.0..2.0)).collect()
    }

    fn matrix(values: &[f32], n_out: usize, n_in: usize) -> Matrix {
        Matrix::round(&Tensor::from_slice(values, (n_out, n_in), &Device::Cpu).unwrap()).unwrap()
    }

    fn product(matrix: &Matrix, input: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let mut output = vec![f32::NAN; input.len() / matrix.n_in * matrix.n_out];
        let job = Job::Set(Layer { matrix, bias });
        compute(&Rows::round(input, matrix.n_in), vec![(job, &mut output)]).unwrap();
        output
    }

    /// Whole numbers of steps, and the step.
    fn steps(values: &[f32]) -> (Vec<i32>, f32) {
        let scale = values.iter().fold(0.0, |max: f32, value| max.max(value.abs())) / LEVELS;
        #[allow(clippy::cast_possible_truncation, reason = "127 at most")]
        (values.iter().map(|value| (value * scale.recip()).round_ties_even() as i32).collect(), scale)
    }

    #[allow(clippy::cast_precision_loss, reason = "a sum of a test is small")]
    fn expected(input: &[f32], weight: &[f32], bias: Option<&[f32]>, n_in: usize) -> Vec<f32> {
        let mut expected = Vec::new();
        for (row, row_scale) in input.chunks(n_in).map(steps) {
            for (at, (output, scale)) in weight.chunks(n_in).map(steps).enumerate() {
                let sum: i32 = row.iter().zip(&output).map(|(input, weight)| input * weight).sum();
                let value = sum as f32 * (row_scale * scale);
                expected.push(bias.map_or(value, |bias| value + bias[at]));
            }
        }
        expected
    }

    #[test]
    fn products_are_sums_of_rounded_numbers_to_the_last_bit() {
        let shapes =
            [(1, 1, 1), (1, 3, 63), (2, 4, 64), (5, 5, 65), (6, 33, 130), (7, 64, 200), (13, 256, 1_100)];
        for (n_rows, n_in, n_out) in shapes {
            let (input, weight) = (random(n_rows, n_in, 1), random(n_out, n_in, 2));
            let bias = random(1, n_out, 3);
            for bias in [None, Some(bias.as_slice())] {
                let got = product(&matrix(&weight, n_out, n_in), &input, bias);
                assert_eq!(got, expected(&input, &weight, bias, n_in), "{n_rows} rows, {n_in} to {n_out}");
            }
        }
    }

    #[test]
    fn jobs_side_by_side_give_what_each_gives_alone() {
        let (n_rows, n_in) = (7, 66);
        let input = random(n_rows, n_in, 11);
        let rows = Rows::round(&input, n_in);
        let weights = |n_out: usize, seed: u64| matrix(&random(n_out, n_in, seed), n_out, n_in);
        let (gate, up, other) = (weights(130, 12), weights(130, 13), weights(70, 14));
        let bias = random(1, 70, 15);
        let layer = |matrix| Layer { matrix, bias: None };
        let (mut gated, mut added, mut set) =
            (vec![0.0; n_rows * 130], vec![1.0; n_rows * 70], vec![0.0; n_rows * 70]);
        let biased = Layer { matrix: &other, bias: Some(&bias) };
        let jobs = vec![
            (Job::Gated(layer(&gate), layer(&up)), &mut gated[..]),
            (Job::Add(biased), &mut added[..]),
            (Job::Set(biased), &mut set[..]),
        ];
        compute(&rows, jobs).unwrap();
        assert_eq!(set, product(&other, &input, Some(&bias)));
        let (gates, ups) = (product(&gate, &input, None), product(&up, &input, None));
        let expected: Vec<f32> = gates.iter().zip(ups).map(|(gate, up)| fused::gated(*gate, up)).collect();
        assert_eq!(gated, expected);
        assert_eq!(added, set.iter().map(|value| 1.0 + value).collect::<Vec<_>>());
        let mut short = vec![0.0; 3];
        assert!(compute(&rows, vec![(Job::Set(biased), &mut short)]).is_err());
        assert!(compute(&rows, vec![(Job::Gated(layer(&gate), layer(&other)), &mut set)]).is_err());
        let narrow = matrix(&random(70, 8, 16), 70, 8);
        assert!(compute(&rows, vec![(Job::Set(layer(&narrow)), &mut set)]).is_err());
    }

    #[test]
    fn the_error_is_below_a_hundredth_of_the_result() {
        let (n_rows, n_in, n_out) = (9, 512, 300);
        let (input, weight) = (random(n_rows, n_in, 4), random(n_out, n_in, 5));
        let got = product(&matrix(&weight, n_out, n_in), &input, None);
        let (mut error, mut size) = (0.0, 0.0);
        for (row_idx, row) in input.chunks(n_in).enumerate() {
            for (output_idx, output) in weight.chunks(n_in).enumerate() {
                let exact: f32 = row.iter().zip(output).map(|(input, weight)| input * weight).sum();
                error += (got[row_idx * n_out + output_idx] - exact).powi(2);
                size += exact * exact;
            }
        }
        assert!((error / size).sqrt() < 0.01, "{}", (error / size).sqrt());
    }

    #[test]
    fn a_row_says_the_same_alone_and_among_others() {
        let (n_in, n_out) = (120, 90);
        let (input, weight) = (random(32, n_in, 6), random(n_out, n_in, 7));
        let matrix = matrix(&weight, n_out, n_in);
        let together = product(&matrix, &input, None);
        for (row, expected) in input.chunks(n_in).zip(together.chunks(n_out)) {
            assert_eq!(product(&matrix, row, None), expected);
        }
    }

    #[test]
    fn a_row_that_is_not_finite_stays_so_and_spoils_no_other() {
        let (n_in, n_out) = (70, 66);
        let weight = random(n_out, n_in, 8);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut input = random(3, n_in, 9);
            input[n_in + 5] = broken;
            let output = product(&matrix(&weight, n_out, n_in), &input, None);
            let finite: Vec<bool> =
                output.chunks(n_out).map(|row| row.iter().all(|value| value.is_finite())).collect();
            assert_eq!(finite, [true, false, true]);
            assert!(output[n_out..2 * n_out].iter().all(|value| !value.is_finite()));
        }
    }

    #[test]
    fn zeros_stay_zeros_and_the_smallest_numbers_break_nothing() {
        let output = product(&matrix(&[0.0; 8], 2, 4), &[1.0, 2.0, 3.0, 4.0], None);
        assert_eq!(output, [0.0, 0.0]);
        let output = product(&matrix(&[1.0; 8], 2, 4), &[0.0, 1e-45, -1e-40, 0.0], Some(&[1.0, 2.0]));
        assert_eq!(output, [1.0, 2.0]);
    }

    #[test]
    fn an_output_that_is_looked_up_is_the_rounded_one() {
        let (n_in, n_out) = (10, 70);
        let weight = random(n_out, n_in, 10);
        let matrix = matrix(&weight, n_out, n_in);
        let ids = Tensor::new(&[69_u32, 0, 64], &Device::Cpu).unwrap();
        let rows = matrix.outputs(&ids).unwrap().to_vec2::<f32>().unwrap();
        for (row, id) in rows.iter().zip([69, 0, 64]) {
            let (steps, scale) = steps(&weight[id * n_in..][..n_in]);
            #[allow(clippy::cast_precision_loss, reason = "127 at most")]
            let expected: Vec<f32> = steps.iter().map(|&step| step as f32 * scale).collect();
            assert_eq!(*row, expected);
        }
        assert!(matrix.outputs(&Tensor::new(&[70_u32], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn a_layer_with_too_many_inputs_for_its_sums_is_refused() {
        let weight = |n_in: usize| Tensor::zeros((1, n_in), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(Matrix::round(&weight(INPUTS_MAX)).is_ok());
        assert!(Matrix::round(&weight(INPUTS_MAX + 1)).is_err());
    }
}
