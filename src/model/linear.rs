//! One linear layer behind one face.
mod gated;
#[cfg(feature = "cuda")]
mod joined;

use super::{
    fused, int8,
    lora::{self, Adapter},
    ops::{self, Numerics},
    packed,
    products::{self, Job, Layer, Panelled},
    room::Room,
    weights::{ModelError, TensorSource},
};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use std::sync::Arc;

/// Whether a layer adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `{name}.bias` is read and added.
    Added,
    /// There is none.
    Absent,
}

/// A weight (out, in), as published checkpoints store it: of a linear layer, or one output for each token of an embedding.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Numbers of the network's dtype, on its device.
    Plain(Tensor),
    /// f32 in panels, on the CPU.
    Packed(Arc<packed::Matrix>),
    /// Rounded to 8 bits, on the CPU.
    Int8(Arc<int8::Matrix>),
}

impl Weight {
    /// Outputs and inputs.
    ///
    /// # Errors
    /// If it has not two dimensions.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Plain(weight) => weight.dims2(),
            Self::Packed(weight) => Ok(weight.shape()),
            Self::Int8(weight) => Ok(weight.shape()),
        }
    }

    /// Returns the inputs' numbers of some outputs: (n, in) for ids (n) u32.
    ///
    /// # Errors
    /// If an id is not below the number of outputs.
    pub fn select(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(weight) => weight.index_select(ids, 0),
            Self::Packed(weight) => weight.outputs(ids),
            Self::Int8(weight) => weight.outputs(ids),
        }
    }

    /// The numbers themselves, for losses.
    ///
    /// # Errors
    /// If they are laid out for serving: nothing is trained so.
    pub fn plain(&self) -> Result<&Tensor> {
        match self {
            Self::Plain(weight) => Ok(weight),
            Self::Packed(_) | Self::Int8(_) => {
                bail!("a loss was asked of weights that are laid out to serve")
            }
        }
    }

    /// The same weight out of any graph.
    #[must_use]
    pub fn detach(self) -> Self {
        match self {
            Self::Plain(weight) => Self::Plain(weight.detach()),
            laid_out @ (Self::Packed(_) | Self::Int8(_)) => laid_out,
        }
    }

    /// How the numbers are held that go in and come out.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(weight) => weight.dtype(),
            Self::Packed(_) | Self::Int8(_) => DType::F32,
        }
    }

    /// Where it is multiplied.
    #[must_use]
    pub fn device(&self) -> &Device {
        match self {
            Self::Plain(weight) => weight.device(),
            Self::Packed(_) | Self::Int8(_) => &Device::Cpu,
        }
    }
}

/// y = x W^T + b.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    /// What is trained where the weight is frozen.
    adapter: Option<Adapter>,
}

impl Linear {
    /// Reads `{name}.weight` (out, in) and, where asked, `{name}.bias` (out); and the adapter, where the source has one.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(
        source: &mut dyn TensorSource,
        name: &str,
        (n_in, n_out): (usize, usize),
        bias: Bias,
    ) -> std::result::Result<Self, ModelError> {
        let weight = source.weight(&format!("{name}.weight"), (n_out, n_in))?;
        let bias = match bias {
            Bias::Added => Some(source.tensor(&format!("{name}.bias"), &[n_out])?),
            Bias::Absent => None,
        };
        Ok(match source.adapter(name, (n_in, n_out))? {
            // Where nothing is trained, the two become one matrix.
            Some(adapter) if !adapter.up.track_op() => {
                Self { weight: Weight::Plain(adapter.merged(weight.plain()?)?), bias, adapter: None }
            }
            adapter => Self { weight, bias, adapter },
        })
    }

    /// Takes a weight that another layer owns too, without bias: a tied head.
    #[must_use]
    pub fn tied(weight: Weight) -> Self {
        Self { weight, bias: None, adapter: None }
    }

    /// The weight (out, in).
    #[must_use]
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Takes rows (.., in) as this layer and others of its kind read them: rounded once, where weights are in 8 bits.
    ///
    /// # Errors
    /// If the last dimension is not `in`.
    pub fn input(&self, tensor: &Tensor) -> Result<Input> {
        let dims = self.dims_of(tensor)?;
        Ok(match &self.weight {
            Weight::Plain(_) => Input::Plain(tensor.clone()),
            Weight::Packed(_) => Input::Packed(tensor.clone()),
            Weight::Int8(_) => {
                let rows = |values: &[f32]| Ok(int8::Rows::round(values, dims.last().copied().unwrap_or(1)));
                Input::Rounded { rows: ops::with_floats(tensor, rows)?, dims: dims.to_vec() }
            }
        })
    }

    /// The same of what `ops::rms_norm` makes of the rows.
    ///
    /// # Errors
    /// If the last dimension is not `in`, or the weight of the norm is not as wide.
    #[allow(clippy::cast_possible_truncation, reason = "the kernels take the small constant as f32")]
    pub fn normed_input(
        &self,
        tensor: &Tensor,
        (norm, eps): (&Tensor, f64),
        numerics: Numerics,
    ) -> Result<Input> {
        let dims = self.dims_of(tensor)?;
        match &self.weight {
            Weight::Plain(_) => Ok(Input::Plain(ops::rms_norm(tensor, norm, eps, numerics)?)),
            Weight::Packed(_) => Ok(Input::Packed(ops::rms_norm(tensor, norm, eps, numerics)?)),
            Weight::Int8(_) if norm.elem_count() != dims.last().copied().unwrap_or(0) => {
                bail!("rows {dims:?} do not fit a norm {:?}", norm.dims())
            }
            Weight::Int8(_) => ops::with_floats(norm, |norm| {
                let rows = ops::with_floats(tensor, |rows| Ok(int8::Rows::normed(rows, norm, eps as f32)))?;
                Ok(Input::Rounded { rows, dims: dims.to_vec() })
            }),
        }
    }

    fn dims_of<'t>(&self, tensor: &'t Tensor) -> Result<&'t [usize]> {
        let (_, n_in) = self.weight.shape()?;
        match tensor.dims() {
            [.., width] if *width == n_in => Ok(tensor.dims()),
            dims => bail!("a layer of {n_in} inputs was given {dims:?}"),
        }
    }

    /// Calls `take` with rows (n, in), and with what they are mapped to (n, out), each row after row.
    ///
    /// # Errors
    /// If the width is not `in`, or `take` fails.
    pub fn read<R>(
        &self,
        rows: &Tensor,
        room: &mut Room,
        take: impl FnOnce(&[f32], &[f32]) -> Result<R>,
    ) -> Result<R> {
        let input = self.input(rows)?;
        if let Input::Plain(input) = &input {
            let outputs = self.plain(input)?;
            #[cfg(feature = "cuda")]
            if rows.device().is_cuda() {
                return room.staging.read([rows, &outputs], take);
            }
            return ops::with_floats(rows, |rows| ops::with_floats(&outputs, |outputs| take(rows, outputs)));
        }
        let outputs = room.numbers(input.n_rows() * self.weight.shape()?.0);
        input.multiply((How::Set, &[self]), vec![&mut *outputs])?;
        ops::with_floats(rows, |rows| take(rows, outputs))
    }

    /// Maps (.., in) to (.., out).
    ///
    /// # Errors
    /// If the last dimension is not `in`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let [output] = Self::forward_all([self], &self.input(input)?)?;
        Ok(output)
    }

    /// Maps what one of them takes by several layers of its kind.
    ///
    /// # Errors
    /// If the input was made for another width or another kind of weights.
    pub fn forward_all<const N: usize>(layers: [&Self; N], input: &Input) -> Result<[Tensor; N]> {
        let outputs = if let Input::Plain(rows) = input {
            layers.iter().map(|layer| layer.plain(rows)).collect::<Result<Vec<_>>>()?
        } else {
            let zeros = |layer: &&Self| Ok(vec![0.0; input.n_rows() * layer.weight.shape()?.0]);
            let mut outputs = layers.iter().map(zeros).collect::<Result<Vec<Vec<f32>>>>()?;
            input.multiply((How::Set, &layers), outputs.iter_mut().map(Vec::as_mut_slice).collect())?;
            outputs.into_iter().map(|output| input.of_rows(output)).collect::<Result<Vec<_>>>()?
        };
        Ok(outputs.try_into().expect("each layer has an output"))
    }

    /// Adds what this layer maps an input to to a tensor (.., out).
    ///
    /// # Errors
    /// As for `forward_all`, or if shapes differ.
    pub fn add_to(&self, sum: &Tensor, input: &Input) -> Result<Tensor> {
        if let Input::Plain(rows) = input {
            return sum + self.plain(rows)?;
        }
        let mut output = ops::with_floats(sum, |sum| Ok(sum.to_vec()))?;
        input.multiply((How::Add, &[self]), vec![&mut output])?;
        input.of_rows(output)
    }

    fn lent<M: Panelled>(&self) -> Result<Lent<'_, M>> {
        match M::of(&self.weight) {
            Some(matrix) => {
                let bias = self.bias.as_ref().map(Tensor::to_vec1::<f32>).transpose()?;
                Ok(Lent { matrix, bias })
            }
            None => bail!("rows were given to a layer of another kind"),
        }
    }

    /// Maps (.., in) to (.., out) by weights that are not laid out.
    fn plain(&self, input: &Tensor) -> Result<Tensor> {
        let weight = self.weight.plain()?;
        let (n_out, n_in) = weight.dims2()?;
        // Rows are flattened, so that one matrix product serves every row of every batch.
        let rows = input.reshape(((), n_in))?;
        let output = if rows.track_op() && !weight.track_op() && fused::takes(&rows) {
            lora::frozen_product(&rows, weight)?
        } else {
            rows.matmul(&weight.t()?)?
        };
        let output = match &self.bias {
            Some(bias) if fused::takes(&output) => fused::add_bias(&output, bias)?,
            Some(bias) => output.broadcast_add(bias)?,
            None => output,
        };
        let output = match &self.adapter {
            Some(adapter) => adapter.add_to(&output, &rows)?,
            None => output,
        };
        let mut shape = input.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = n_out;
        }
        output.reshape(shape)
    }
}

/// Rows (.., in) as layers of one kind read them.
#[derive(Debug)]
pub enum Input {
    /// As they are.
    Plain(Tensor),
    /// As they are, for weights in panels.
    Packed(Tensor),
    /// Rounded.
    Rounded {
        /// The rows.
        rows: int8::Rows,
        /// The shape that they had.
        dims: Vec<usize>,
    },
}

/// What layers make of rows.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Each has an output.
    Set,
    /// The one adds to its output.
    Add,
    /// The first gates the second.
    Gated,
}

impl Input {
    /// The shape of the rows, but for the last dimension.
    fn leading(&self) -> &[usize] {
        let dims = match self {
            Self::Plain(rows) | Self::Packed(rows) => rows.dims(),
            Self::Rounded { dims, .. } => dims,
        };
        &dims[..dims.len().saturating_sub(1)]
    }

    fn n_rows(&self) -> usize {
        self.leading().iter().product()
    }

    /// Outputs of all rows as a tensor (.., out).
    fn of_rows(&self, output: Vec<f32>) -> Result<Tensor> {
        let n_out = output.len() / self.n_rows().max(1);
        Tensor::from_vec(output, [self.leading(), &[n_out]].concat(), &Device::Cpu)
    }

    /// Multiplies the rows with weights that are laid out for it.
    fn multiply(&self, (how, layers): (How, &[&Linear]), outputs: Vec<&mut [f32]>) -> Result<()> {
        match self {
            Self::Plain(_) => bail!("plain rows were given to layers that are laid out"),
            Self::Packed(rows) => ops::with_floats(rows, |values| {
                let rows = packed::Rows::new(values, rows.dim(D::Minus1)?);
                multiply::<packed::Matrix>(&rows, (how, layers), outputs)
            }),
            Self::Rounded { rows, .. } => multiply::<int8::Matrix>(rows, (how, layers), outputs),
        }
    }
}

fn multiply<M: Panelled>(
    rows: &M::Rows<'_>,
    (how, layers): (How, &[&Linear]),
    outputs: Vec<&mut [f32]>,
) -> Result<()> {
    let lent = layers.iter().map(|layer| layer.lent::<M>()).collect::<Result<Vec<_>>>()?;
    let layers: Vec<Layer<'_, M>> = lent.iter().map(Lent::layer).collect();
    let jobs = match (how, layers.as_slice()) {
        (How::Gated, &[gate, up]) => vec![Job::Gated(gate, up)],
        (How::Add, layers) => layers.iter().map(|layer| Job::Add(*layer)).collect(),
        (How::Set, layers) => layers.iter().map(|layer| Job::Set(*layer)).collect(),
        (How::Gated, layers) => bail!("a gate and what it gates are two layers, not {}", layers.len()),
    };
    products::compute(rows, jobs.into_iter().zip(outputs).collect())
}

/// A layer whose weight is laid out.
struct Lent<'a, M> {
    matrix: &'a M,
    bias: Option<Vec<f32>>,
}

impl<M> Lent<'_, M> {
    fn layer(&self) -> Layer<'_, M> {
        Layer { matrix: self.matrix, bias: self.bias.as_deref() }
    }
}
