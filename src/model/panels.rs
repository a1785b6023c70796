//! Linear layers in f32 on the CPU: weights are laid out in panels once, and sums have one order, so a row's result does not depend on
//! the rows beside it. Products of a library choose their order by how many rows there are.
use super::{
    linear::Weight,
    product::{self, Machine, Matrix, PANEL, Sums, TILE_ROWS, padded, tiles},
    weights::ModelError,
};
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::{ops::Range, sync::Arc};

/// Parts of a product per thread: enough that a thread that starts late costs little.
const PARTS_PER_THREAD: usize = 4;
/// Products of fewer multiplications are computed by one thread: waking the others would take longer.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// A weight (out, in).
#[derive(Debug)]
pub struct Panels {
    n_in: usize,
    n_out: usize,
    /// Columns are outputs, filled up: (out / `PANEL`, in, `PANEL`).
    values: Vec<f32>,
}

impl Panels {
    /// Lays out a weight (out, in), f32 on the CPU.
    ///
    /// # Errors
    /// If it has no values.
    pub fn lay_out(weight: &Tensor) -> std::result::Result<Self, ModelError> {
        let (n_out, n_in) = weight.dims2()?;
        if n_in == 0 || n_out == 0 {
            let reason = format!("weight ({n_out}, {n_in}): a layer has an input and an output");
            return Err(ModelError::Forward(candle_core::Error::Msg(reason)));
        }
        let numbers = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut values = vec![0.0; padded(n_out) * n_in];
        let panels = values.par_chunks_mut(PANEL * n_in).zip(numbers.par_chunks(PANEL * n_in));
        panels.for_each(|(panel, outputs)| {
            for (column, output) in outputs.chunks(n_in).enumerate() {
                let places = panel[column..].iter_mut().step_by(PANEL);
                places.zip(output).for_each(|(place, value)| *place = *value);
            }
        });
        Ok(Self { n_in, n_out, values })
    }

    /// The weight of a layer, out of any graph.
    ///
    /// # Errors
    /// As for `lay_out`.
    pub fn weight(tensor: &Tensor) -> std::result::Result<Weight, ModelError> {
        Ok(Weight::Panels(Arc::new(Self::lay_out(tensor)?)))
    }

    /// Outputs and inputs.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.n_out, self.n_in)
    }

    /// Returns the weights of some outputs: (n, in), f32 on the CPU.
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
            let panel = &self.values[id / PANEL * PANEL * self.n_in..][..PANEL * self.n_in];
            values.extend(panel[id % PANEL..].iter().step_by(PANEL));
        }
        Tensor::from_vec(values, (ids.len(), self.n_in), &Device::Cpu)
    }

    /// Maps rows (n, in) to `output` (n, out), row after row; `bias` (out) is added.
    ///
    /// # Errors
    /// If a length does not fit.
    pub fn map(&self, rows: &[f32], bias: Option<&[f32]>, output: &mut [f32]) -> Result<()> {
        let n_rows = rows.len() / self.n_in;
        let fits = rows.len() == n_rows * self.n_in && output.len() == n_rows * self.n_out;
        if !fits || bias.is_some_and(|bias| bias.len() != self.n_out) {
            bail!("{} inputs, {} outputs or a bias do not fit {:?}", rows.len(), output.len(), self.shape())
        }
        let rows: Vec<&[f32]> = rows.chunks_exact(self.n_in).collect();
        let n_panels = self.n_out.div_ceil(PANEL);
        let is_small = self.values.len() * n_rows < PARALLEL_WORK_MIN;
        let n_parts = if is_small { 1 } else { rayon::current_num_threads() * PARTS_PER_THREAD };
        let part_panels = n_panels.div_ceil(n_parts).max(1);
        let of_part = |(part, mut output): (usize, Vec<&mut [f32]>)| {
            let first = part * part_panels;
            let part = Part { weight: self, bias, panels: first..(first + part_panels).min(n_panels) };
            part.multiply(&rows, &mut output);
        };
        let parts = product::by_columns(output, self.n_out, part_panels * PANEL);
        if n_parts == 1 {
            parts.into_iter().enumerate().for_each(of_part);
        } else {
            parts.into_par_iter().enumerate().for_each(of_part);
        }
        Ok(())
    }
}

/// Some panels of a weight.
struct Part<'a> {
    weight: &'a Panels,
    bias: Option<&'a [f32]>,
    panels: Range<usize>,
}

impl Part<'_> {
    /// `output`: of each row, the columns of these panels.
    #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
    fn multiply(&self, rows: &[&[f32]], output: &mut [&mut [f32]]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { self.multiply_avx512(rows, output) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: as above.
                return unsafe { self.multiply_avx2(rows, output) };
            }
        }
        self.multiply_with::<product::Plain>(rows, output);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn multiply_avx512(&self, rows: &[&[f32]], output: &mut [&mut [f32]]) {
        self.multiply_with::<product::Wide>(rows, output);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2(&self, rows: &[&[f32]], output: &mut [&mut [f32]]) {
        self.multiply_with::<product::Narrow>(rows, output);
    }

    #[inline(always)]
    fn multiply_with<M: Machine>(&self, rows: &[&[f32]], output: &mut [&mut [f32]]) {
        let panel_len = self.weight.n_in * PANEL;
        let mut sums = [0.0; TILE_ROWS * PANEL];
        for (at, panel) in self.panels.clone().enumerate() {
            let values = &self.weight.values[panel * panel_len..][..panel_len];
            let bias = self.bias.map_or(&[][..], |bias| &bias[panel * PANEL..]);
            for tile in tiles(rows.len(), TILE_ROWS) {
                let matrix = Matrix { values, panel_len, n_columns: PANEL };
                let tile_sums = &mut Sums { values: &mut sums, stride: PANEL, adds: false };
                M::product(&rows[tile.clone()], matrix, tile_sums);
                for (sums, row) in sums.chunks_exact_mut(PANEL).zip(&mut output[tile]) {
                    sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
                    let columns = &mut row[at * PANEL..];
                    let n = columns.len().min(PANEL);
                    columns[..n].copy_from_slice(&sums[..n]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn panels(values: &[f32], n_out: usize) -> Panels {
        let shape = (n_out, values.len() / n_out);
        Panels::lay_out(&Tensor::from_slice(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    type Kernel = fn(&Part<'_>, &[&[f32]], &mut [&mut [f32]]);

    /// Every kernel that this machine can run, also where it would choose a better one.
    fn kernels() -> Vec<Kernel> {
        #[allow(unused_mut, reason = "some machines have one only")]
        let mut kernels: Vec<Kernel> =
            vec![|part, rows, output| part.multiply(rows, output), |part, rows, output| {
                part.multiply_with::<product::Plain>(rows, output)
            }];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            #[allow(unsafe_code, reason = "the compiler cannot know what the processor has")]
            // SAFETY: the processor has what the function was compiled for.
            kernels.push(|part, rows, output| unsafe { part.multiply_avx2(rows, output) });
        }
        kernels
    }

    #[test]
    fn products_are_those_of_a_plain_loop_in_every_kernel() {
        for (n_rows, n_in, n_out) in [(1, 1, 1), (1, 40, 33), (8, 7, 64), (9, 65, 100), (20, 33, 31)] {
            let (rows, weight, bias) = (random(n_rows * n_in, 1), random(n_out * n_in, 2), random(n_out, 3));
            let panels = panels(&weight, n_out);
            let slices: Vec<&[f32]> = rows.chunks(n_in).collect();
            for kernel in kernels() {
                let mut output = vec![f32::NAN; n_rows * n_out];
                let part = Part { weight: &panels, bias: Some(&bias), panels: 0..n_out.div_ceil(PANEL) };
                kernel(&part, &slices, &mut output.chunks_mut(n_out).collect::<Vec<_>>());
                for (row, output) in slices.iter().zip(output.chunks(n_out)) {
                    for ((output, weight), bias) in output.iter().zip(weight.chunks(n_in)).zip(&bias) {
                        let expected: f32 = row.iter().zip(weight).map(|(a, b)| a * b).sum::<f32>() + bias;
                        assert!((output - expected).abs() < 1e-4, "{output}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_says_the_same_to_the_last_bit_alone_and_among_others() {
        // More multiplications than one thread does.
        let (n_rows, n_in, n_out) = (37, 96, 200);
        let (rows, weight, bias) = (random(n_rows * n_in, 4), random(n_out * n_in, 5), random(n_out, 6));
        let panels = panels(&weight, n_out);
        let mut together = vec![f32::NAN; n_rows * n_out];
        panels.map(&rows, Some(&bias), &mut together).unwrap();
        for (row, expected) in rows.chunks(n_in).zip(together.chunks(n_out)) {
            let mut alone = vec![f32::NAN; n_out];
            panels.map(row, Some(&bias), &mut alone).unwrap();
            assert!(alone.iter().zip(expected).all(|(one, other)| one.to_bits() == other.to_bits()));
        }
        assert!(panels.map(&rows[1..], None, &mut together).is_err());
        assert!(panels.map(&rows, None, &mut together[1..]).is_err());
        assert!(panels.map(&rows, Some(&bias[1..]), &mut together).is_err());
    }

    #[test]
    fn an_output_that_is_looked_up_is_the_one_that_was_laid_out() {
        let weight = random(70 * 10, 7);
        let panels = panels(&weight, 70);
        let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap();
        let rows = panels.outputs(&ids(&[69, 0, 32])).unwrap().to_vec2::<f32>().unwrap();
        for (row, id) in rows.iter().zip([69, 0, 32]) {
            assert_eq!(row, &weight[id * 10..][..10]);
        }
        assert!(panels.outputs(&ids(&[70])).is_err());
    }
}
