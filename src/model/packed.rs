//! Linear layers in f32 on the CPU whose weights are laid out in panels once. A general product lays out one of its sides at every call,
//! which for a few rows takes longer than the product.
//!
//! Sums have one order (`panels`), so a row's result does not depend on the rows beside it.
use super::{
    linear::Weight,
    panels::{self, Kernel, Matrix as Panel, PANEL, Sums, TILE_ROWS},
    products::{Inputs, Panelled, Product, filled, tiles},
    weights::ModelError,
};
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// A weight (out, in) of a linear layer.
#[derive(Debug)]
pub struct Matrix {
    n_in: usize,
    n_out: usize,
    /// Panels of `PANEL` outputs one after another, each (in, `PANEL`); the last one is filled up with zeros.
    values: Vec<f32>,
}

impl Matrix {
    /// Lays out a weight (out, in), f32 on the CPU.
    ///
    /// # Errors
    /// If it has no values.
    pub fn pack(weight: &Tensor) -> std::result::Result<Self, ModelError> {
        let (n_out, n_in) = weight.dims2()?;
        if n_in == 0 || n_out == 0 {
            let reason = format!("weight ({n_out}, {n_in}) has no values");
            return Err(ModelError::Forward(candle_core::Error::Msg(reason)));
        }
        let plain = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut values = vec![0.0; n_out.next_multiple_of(PANEL) * n_in];
        let panels = values.par_chunks_mut(n_in * PANEL).zip(plain.par_chunks(n_in * PANEL));
        panels.for_each(|(panel, outputs)| {
            for (column, output) in outputs.chunks(n_in).enumerate() {
                let places = panel.iter_mut().skip(column).step_by(PANEL);
                places.zip(output).for_each(|(place, value)| *place = *value);
            }
        });
        Ok(Self { n_in, n_out, values })
    }

    /// Returns the weights of some outputs: (n, in), f32 on the CPU. An embedding that is an output head too is looked up so.
    ///
    /// # Errors
    /// If there is no such output.
    pub fn outputs(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        let mut values: Vec<f32> = Vec::with_capacity(ids.len() * self.n_in);
        for id in ids.iter().map(|&id| id as usize) {
            if id >= self.n_out {
                bail!("output {id} of {} was asked for", self.n_out)
            }
            let panel = &self.values[id / PANEL * self.n_in * PANEL..][..self.n_in * PANEL];
            values.extend(panel.iter().skip(id % PANEL).step_by(PANEL));
        }
        Tensor::from_vec(values, (ids.len(), self.n_in), &Device::Cpu)
    }
}

/// Rows of inputs, as they are.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    n_in: usize,
    values: &'a [f32],
}

impl<'a> Rows<'a> {
    /// Rows of `n_in` values, one after another.
    #[must_use]
    pub fn new(values: &'a [f32], n_in: usize) -> Self {
        Self { n_in, values }
    }
}

impl Inputs for Rows<'_> {
    fn n_in(&self) -> usize {
        self.n_in
    }

    fn n_rows(&self) -> usize {
        self.values.len() / self.n_in.max(1)
    }
}

/// Some panels of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    values: &'a [f32],
    /// Of each output, what is added; it may end within the last panel.
    bias: Option<&'a [f32]>,
}

impl Panelled for Matrix {
    type Rows<'r> = Rows<'r>;
    type Panels<'a> = Panels<'a>;
    const OUTPUTS: usize = PANEL;

    fn of(weight: &Weight) -> Option<&Self> {
        match weight {
            Weight::Packed(matrix) => Some(matrix),
            Weight::Plain(_) | Weight::Int8(_) => None,
        }
    }

    fn shape(&self) -> (usize, usize) {
        (self.n_out, self.n_in)
    }

    fn panels<'a>(&'a self, bias: Option<&'a [f32]>, panels: &Range<usize>) -> Panels<'a> {
        let panel_len = self.n_in * PANEL;
        Panels {
            values: &self.values[panels.start * panel_len..panels.end * panel_len],
            bias: bias.map(|bias| &bias[panels.start * PANEL..]),
        }
    }

    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
    fn multiply(rows: &Rows<'_>, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { multiply_avx512(rows, product, output) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: as above.
                return unsafe { multiply_avx2(rows, product, output) };
            }
        }
        multiply_with(&panels::plain, rows, product, output);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_avx512(rows: &Rows<'_>, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
    // A closure may use the instructions of the function that it stands in.
    let kernel =
        |rows: &[&[f32]], matrix: Panel<'_>, sums: &mut Sums<'_>| panels::x86::wide(rows, matrix, sums);
    multiply_with(&kernel, rows, product, output);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(rows: &Rows<'_>, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
    // A closure may use the instructions of the function that it stands in.
    let kernel =
        |rows: &[&[f32]], matrix: Panel<'_>, sums: &mut Sums<'_>| panels::x86::narrow(rows, matrix, sums);
    multiply_with(&kernel, rows, product, output);
}

/// Up to `TILE_ROWS` rows at a time, panel by panel: sums, then what becomes of them.
#[inline(always)]
fn multiply_with(
    kernel: &impl Kernel,
    rows: &Rows<'_>,
    product: Product<Panels<'_>>,
    output: &mut [&mut [f32]],
) {
    let (mut sums, mut gates) = ([0.0; TILE_ROWS * PANEL], [0.0; TILE_ROWS * PANEL]);
    let last = product.last();
    for panel_idx in 0..last.values.len() / (rows.n_in * PANEL) {
        for tile in tiles(rows.n_rows(), TILE_ROWS) {
            let mut inputs: [&[f32]; TILE_ROWS] = [&[]; TILE_ROWS];
            let row = |row_idx: usize| &rows.values[row_idx * rows.n_in..][..rows.n_in];
            inputs.iter_mut().zip(tile.clone()).for_each(|(inputs, row_idx)| *inputs = row(row_idx));
            let inputs = &inputs[..tile.len()];
            if let Product::Gated { gate, .. } = product {
                gate.values(kernel, panel_idx, inputs, &mut gates);
            }
            last.values(kernel, panel_idx, inputs, &mut sums);
            let values = sums.as_chunks().0.iter().zip(gates.as_chunks().0);
            for ((values, gates), row_idx) in values.zip(tile) {
                product.write::<PANEL>(values, gates, &mut output[row_idx][panel_idx * PANEL..]);
            }
        }
    }
}

impl Panels<'_> {
    /// The outputs of one panel for a tile of rows.
    #[inline(always)]
    fn values(
        self,
        kernel: &impl Kernel,
        panel_idx: usize,
        inputs: &[&[f32]],
        sums: &mut [f32; TILE_ROWS * PANEL],
    ) {
        let panel_len = inputs.first().map_or(0, |row| row.len()) * PANEL;
        let values = &self.values[panel_idx * panel_len..][..panel_len];
        let panel = Panel { values, panel_len, n_columns: PANEL };
        kernel(inputs, panel, &mut Sums { values: sums, stride: PANEL, adds: false });
        if let Some(bias) = self.bias {
            let bias: [f32; PANEL] = filled(&bias[panel_idx * PANEL..]);
            for sums in sums.as_chunks_mut().0.iter_mut().take(inputs.len()) {
                let sums: &mut [f32; PANEL] = sums;
                sums.iter_mut().zip(&bias).for_each(|(sum, bias)| *sum += bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        fused,
        products::{Job, Layer, compute},
    };
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-2.0..2.0)).collect()
    }

    fn matrix(values: &[f32], n_out: usize, n_in: usize) -> Matrix {
        Matrix::pack(&Tensor::from_slice(values, (n_out, n_in), &Device::Cpu).unwrap()).unwrap()
    }

    fn product(matrix: &Matrix, input: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let mut output = vec![f32::NAN; input.len() / matrix.n_in * matrix.n_out];
        compute(&Rows::new(input, matrix.n_in), vec![(Job::Set(Layer { matrix, bias }), &mut output)])
            .unwrap();
        output
    }

    /// AVX2 sums in the same order with the same instruction, so it gives the same bits as AVX-512.
    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
    fn assert_narrow_agrees(packed: &Matrix, (input, bias): (&[f32], Option<&[f32]>), expected: &[f32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let mut narrow = vec![f32::NAN; expected.len()];
            let panels = packed.panels(bias, &(0..packed.n_out.div_ceil(PANEL)));
            let mut rows: Vec<&mut [f32]> = narrow.chunks_mut(packed.n_out).collect();
            let product = Product::Set(panels);
            // SAFETY: the processor has what the function was compiled for.
            unsafe { multiply_avx2(&Rows::new(input, packed.n_in), product, &mut rows) };
            assert_eq!(narrow, expected);
        }
    }

    #[test]
    fn products_are_those_of_a_plain_loop_in_every_machine() {
        for (n_rows, n_in, n_out) in [(1, 1, 1), (2, 5, 31), (7, 33, 64), (9, 64, 97), (17, 192, 1_000)] {
            let (input, weight, bias) = (random(n_rows * n_in, 1), random(n_out * n_in, 2), random(n_out, 3));
            let packed = matrix(&weight, n_out, n_in);
            for bias in [None, Some(bias.as_slice())] {
                let got = product(&packed, &input, bias);
                let mut plain = vec![f32::NAN; got.len()];
                let panels = packed.panels(bias, &(0..n_out.div_ceil(PANEL)));
                let mut rows: Vec<&mut [f32]> = plain.chunks_mut(n_out).collect();
                multiply_with(&panels::plain, &Rows::new(&input, n_in), Product::Set(panels), &mut rows);
                assert_narrow_agrees(&packed, (&input, bias), &got);
                for (at, (got, plain)) in got.iter().zip(&plain).enumerate() {
                    let (row, output) = (at / n_out, at % n_out);
                    let terms = input[row * n_in..][..n_in].iter().zip(&weight[output * n_in..]);
                    let sum: f64 = terms.map(|(input, weight)| f64::from(input * weight)).sum();
                    let expected = sum + bias.map_or(0.0, |bias| f64::from(bias[output]));
                    for got in [got, plain] {
                        assert!((f64::from(*got) - expected).abs() < 1e-3, "{got}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn jobs_side_by_side_give_what_each_gives_alone_and_rows_what_they_give_alone() {
        let (n_rows, n_in) = (13, 66);
        let input = random(n_rows * n_in, 11);
        let weights = |n_out: usize, seed: u64| matrix(&random(n_out * n_in, seed), n_out, n_in);
        let (gate, up, other) = (weights(130, 12), weights(130, 13), weights(70, 14));
        let bias = random(70, 15);
        let layer = |matrix| Layer { matrix, bias: None };
        let (mut gated, mut added) = (vec![0.0; n_rows * 130], vec![1.0; n_rows * 70]);
        let biased = Layer { matrix: &other, bias: Some(&bias) };
        let jobs =
            vec![(Job::Gated(layer(&gate), layer(&up)), &mut gated[..]), (Job::Add(biased), &mut added[..])];
        compute(&Rows::new(&input, n_in), jobs).unwrap();
        let (gates, ups) = (product(&gate, &input, None), product(&up, &input, None));
        let expected: Vec<f32> = gates.iter().zip(ups).map(|(gate, up)| fused::gated(*gate, up)).collect();
        assert_eq!(gated, expected);
        let set = product(&other, &input, Some(&bias));
        assert_eq!(added, set.iter().map(|value| 1.0 + value).collect::<Vec<_>>());
        for (row, expected) in input.chunks(n_in).zip(set.chunks(70)) {
            assert_eq!(product(&other, row, Some(&bias)), expected);
        }
    }

    #[test]
    fn outputs_are_looked_up_as_they_were() {
        let weight = random(70 * 5, 21);
        let ids = Tensor::new(&[69_u32, 0, 33], &Device::Cpu).unwrap();
        let got = matrix(&weight, 70, 5).outputs(&ids).unwrap().to_vec2::<f32>().unwrap();
        let expected: Vec<&[f32]> = [69, 0, 33].iter().map(|id| &weight[id * 5..][..5]).collect();
        assert_eq!(got, expected);
        let beyond = Tensor::new(&[70_u32], &Device::Cpu).unwrap();
        assert!(matrix(&weight, 70, 5).outputs(&beyond).is_err());
        let empty = Tensor::zeros((0, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(Matrix::pack(&empty).is_err());
    }
}
