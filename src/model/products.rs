//! Products of rows with weights that are laid out once for the kernels of a machine: what layers make of the same rows is computed side by
//! side, in parts of some panels, without tensors in between.
use super::{
    fused::gated,
    linear::Weight,
    weights::{ModelError, TensorSource},
};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// At least so many parts of a product per thread, unless it has fewer panels: enough that a thread that starts late, or has one part more than
/// others, costs little.
const PARTS_PER_THREAD: usize = 8;
/// Products of fewer multiplications are computed by one thread: to hand parts to others would take longer.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// Rows of inputs as a kernel reads them.
pub trait Inputs: Sync {
    /// Inputs of a row.
    fn n_in(&self) -> usize;
    /// How many rows there are.
    fn n_rows(&self) -> usize;
}

/// A weight (out, in) in panels of some outputs each.
pub trait Panelled: Sync + Sized {
    /// Rows that are multiplied with it.
    type Rows<'r>: Inputs;
    /// Some panels, and what is added to their outputs.
    type Panels<'a>: Copy
    where
        Self: 'a;
    /// Outputs of a panel; the last one may be filled up.
    const OUTPUTS: usize;

    /// What a weight is, if it is laid out so.
    fn of(weight: &Weight) -> Option<&Self>;
    /// Outputs and inputs.
    fn shape(&self) -> (usize, usize);
    /// Some of its panels with their part of a bias.
    fn panels<'a>(&'a self, bias: Option<&'a [f32]>, panels: &Range<usize>) -> Self::Panels<'a>;
    /// Multiplies all rows with panels. `output`: of each row, the columns of these panels.
    fn multiply(rows: &Self::Rows<'_>, product: Product<Self::Panels<'_>>, output: &mut [&mut [f32]]);
}

/// A layer: its weight, and of each output what is added.
#[derive(Debug)]
pub struct Layer<'a, M> {
    /// The weight (out, in).
    pub matrix: &'a M,
    /// The bias (out), where there is one.
    pub bias: Option<&'a [f32]>,
}

/// What is computed of rows.
#[derive(Debug)]
pub enum Job<'a, M> {
    /// What a layer maps them to.
    Set(Layer<'a, M>),
    /// The same, added to what stands in the output.
    Add(Layer<'a, M>),
    /// silu(gate) · up, of two layers of equal size.
    Gated(Layer<'a, M>, Layer<'a, M>),
}

impl<M> Clone for Layer<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Layer<'_, M> {}

impl<M> Clone for Job<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Job<'_, M> {}

impl<'a, M: Panelled> Job<'a, M> {
    fn matrix(self) -> &'a M {
        let (Self::Set(layer) | Self::Add(layer) | Self::Gated(_, layer)) = self;
        layer.matrix
    }

    /// Numbers per row.
    #[must_use]
    pub fn n_out(self) -> usize {
        self.matrix().shape().0
    }

    fn n_panels(self) -> usize {
        self.n_out().div_ceil(M::OUTPUTS)
    }

    fn product(self, panels: &Range<usize>) -> Product<M::Panels<'a>> {
        let of = |layer: Layer<'a, M>| layer.matrix.panels(layer.bias, panels);
        match self {
            Self::Set(layer) => Product::Set(of(layer)),
            Self::Add(layer) => Product::Add(of(layer)),
            Self::Gated(gate, up) => Product::Gated { gate: of(gate), up: of(up) },
        }
    }

    fn check(self, n_in: usize) -> Result<()> {
        let one = |layer: Layer<'_, M>| {
            let (n_out, expected) = layer.matrix.shape();
            if n_in != expected || layer.bias.is_some_and(|bias| bias.len() != n_out) {
                bail!(
                    "a layer of {expected} inputs and {n_out} outputs was given rows of {n_in} or another bias"
                )
            }
            Ok(())
        };
        match self {
            Self::Set(layer) | Self::Add(layer) => one(layer),
            Self::Gated(gate, up) if gate.matrix.shape() == up.matrix.shape() => one(gate).and(one(up)),
            Self::Gated(..) => bail!("a gate differs in shape from what it gates"),
        }
    }
}

/// What becomes of sums.
#[derive(Clone, Copy, Debug)]
pub enum Product<P> {
    /// They are written.
    Set(P),
    /// They are added to what is there.
    Add(P),
    /// silu(gate) · up is written.
    Gated {
        /// Panels of the gate.
        gate: P,
        /// Panels of what it gates.
        up: P,
    },
}

impl<P: Copy> Product<P> {
    /// The panels whose products are written, the gate's left aside.
    pub(super) fn last(self) -> P {
        let (Self::Set(last) | Self::Add(last) | Self::Gated { up: last, .. }) = self;
        last
    }

    /// Writes the outputs of one panel for one row, as many as there is room for. `gates`: those of the gate, where there is one.
    #[inline(always)]
    pub(super) fn write<const W: usize>(self, values: &[f32; W], gates: &[f32; W], output: &mut [f32]) {
        if let Some(output) = output.first_chunk_mut() {
            self.fill(values, gates, output);
        } else {
            let mut room = filled(output);
            self.fill(values, gates, &mut room);
            output.copy_from_slice(&room[..output.len()]);
        }
    }

    /// The same for a whole panel: of loops whose length is known, the compiler makes vector instructions and nothing else.
    #[inline(always)]
    fn fill<const W: usize>(self, values: &[f32; W], gates: &[f32; W], output: &mut [f32; W]) {
        let out = output.iter_mut().zip(values);
        match self {
            Self::Set(_) => out.for_each(|(out, value)| *out = *value),
            Self::Add(_) => out.for_each(|(out, value)| *out += value),
            Self::Gated { .. } => out.zip(gates).for_each(|((out, value), gate)| *out = gated(*gate, *value)),
        }
    }
}

/// The first numbers of `values`, filled up with zeros where there are fewer.
#[inline(always)]
pub(super) fn filled<const W: usize>(values: &[f32]) -> [f32; W] {
    values.first_chunk().copied().unwrap_or_else(|| {
        let mut filled = [0.0; W];
        filled[..values.len()].copy_from_slice(values);
        filled
    })
}

/// Some panels of a job, and of each row the columns that they write.
struct Part<'a, 'o, M> {
    job: Job<'a, M>,
    panels: Range<usize>,
    output: Vec<&'o mut [f32]>,
}

/// Computes jobs side by side. `output` of each: (n, out), row after row.
///
/// # Errors
/// If the width of the rows is not `in`, or an output or a bias has another length.
pub fn compute<M: Panelled>(rows: &M::Rows<'_>, jobs: Vec<(Job<'_, M>, &mut [f32])>) -> Result<()> {
    for (job, output) in &jobs {
        job.check(rows.n_in())?;
        if output.len() != rows.n_rows() * job.n_out() {
            bail!("{} rows of {} outputs were given room for {}", rows.n_rows(), job.n_out(), output.len())
        }
    }
    let n_panels: usize = jobs.iter().map(|(job, _)| job.n_panels()).sum();
    let work = n_panels * M::OUTPUTS * rows.n_in() * rows.n_rows();
    let n_parts = if work < PARALLEL_WORK_MIN { 1 } else { rayon::current_num_threads() * PARTS_PER_THREAD };
    let part_panels = (n_panels / n_parts).max(1);
    let mut parts: Vec<Part<'_, '_, M>> =
        jobs.into_iter().flat_map(|(job, output)| cut(job, output, part_panels)).collect();
    let compute = |Part { job, panels, output }: &mut Part<'_, '_, M>| {
        M::multiply(rows, job.product(panels), output);
    };
    if n_parts == 1 {
        parts.iter_mut().for_each(compute);
    } else {
        // Whoever is done takes from what others have left, down to a single part.
        parts.par_iter_mut().with_max_len(1).for_each(compute);
    }
    Ok(())
}

/// Cuts a job into parts of some panels; each writes its columns of every row.
fn cut<'a, 'o, M: Panelled>(
    job: Job<'a, M>,
    output: &'o mut [f32],
    part_panels: usize,
) -> Vec<Part<'a, 'o, M>> {
    let n_panels = job.n_panels();
    let mut parts: Vec<Part<'a, 'o, M>> = (0..n_panels)
        .step_by(part_panels)
        .map(|first| Part { job, panels: first..(first + part_panels).min(n_panels), output: Vec::new() })
        .collect();
    for row in output.chunks_mut(job.n_out()) {
        let columns = row.chunks_mut(part_panels * M::OUTPUTS);
        parts.iter_mut().zip(columns).for_each(|(part, columns)| part.output.push(columns));
    }
    parts
}

/// Row numbers in runs of nearly equal length, none longer than a tile.
pub(super) fn tiles(n_rows: usize, tile_rows: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let n_tiles = n_rows.div_ceil(tile_rows);
    (0..n_tiles).map(move |at| at * n_rows / n_tiles..(at + 1) * n_rows / n_tiles)
}

/// Hands out another source's weights of linear layers and of the embedding laid out; biases and norms as they are.
#[derive(Debug)]
pub struct LaidOut<'a, S> {
    source: &'a mut S,
    lay_out: fn(&Tensor) -> std::result::Result<Weight, ModelError>,
}

impl<'a, S: TensorSource> LaidOut<'a, S> {
    /// `source`: tensors in f32 on the CPU. `lay_out`: how a weight (out, in) becomes one for products.
    pub fn new(source: &'a mut S, lay_out: fn(&Tensor) -> std::result::Result<Weight, ModelError>) -> Self {
        Self { source, lay_out }
    }
}

impl<S: TensorSource> TensorSource for LaidOut<'_, S> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> std::result::Result<Tensor, ModelError> {
        self.source.tensor(name, shape)
    }

    fn weight(&mut self, name: &str, shape: (usize, usize)) -> std::result::Result<Weight, ModelError> {
        let tensor = self.source.tensor(name, &[shape.0, shape.1])?;
        // Laid out together with what adapts it: nothing is trained so.
        let layer = name.strip_suffix(".weight").unwrap_or(name);
        let tensor = match self.source.adapter(layer, (shape.1, shape.0))? {
            Some(adapter) => adapter.merged(&tensor)?.detach(),
            None => tensor,
        };
        (self.lay_out)(&tensor)
    }

    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once() {
        for n_rows in 1..40 {
            let tiles: Vec<_> = tiles(n_rows, 6).collect();
            assert!(tiles.iter().all(|tile| (1..=6).contains(&tile.len())));
            assert!(tiles.into_iter().flatten().eq(0..n_rows));
        }
    }
}
