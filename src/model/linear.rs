//! One linear layer behind one face.
use super::{
    fused,
    int8::{self, Job, Layer, Matrix, Rows},
    lora::{self, Adapter},
    ops::{self, Numerics},
    panels::Panels,
    weights::{ModelError, TensorSource},
};
use candle_core::{DType, Device, Result, Tensor, bail};
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
    /// f32 on the CPU, laid out for products whose sums have a fixed order.
    Panels(Arc<Panels>),
    /// Rounded to 8 bits, on the CPU.
    Int8(Arc<Matrix>),
}

impl Weight {
    /// Outputs and inputs.
    ///
    /// # Errors
    /// If it has not two dimensions.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Plain(weight) => weight.dims2(),
            Self::Panels(weight) => Ok(weight.shape()),
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
            Self::Panels(weight) => weight.outputs(ids),
            Self::Int8(weight) => weight.outputs(ids),
        }
    }

    /// The numbers themselves, for losses.
    ///
    /// # Errors
    /// If they are laid out for serving: nothing is trained like that.
    pub fn plain(&self) -> Result<&Tensor> {
        match self {
            Self::Plain(weight) => Ok(weight),
            Self::Panels(_) | Self::Int8(_) => {
                bail!("a loss was asked of weights that are laid out for serving")
            }
        }
    }

    /// The same weight out of any graph.
    #[must_use]
    pub fn detach(self) -> Self {
        match self {
            Self::Plain(weight) => Self::Plain(weight.detach()),
            Self::Panels(_) | Self::Int8(_) => self,
        }
    }

    /// How the numbers are held that go in and come out.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(weight) => weight.dtype(),
            Self::Panels(_) | Self::Int8(_) => DType::F32,
        }
    }

    /// Where it is multiplied.
    #[must_use]
    pub fn device(&self) -> &Device {
        match self {
            Self::Plain(weight) => weight.device(),
            Self::Panels(_) | Self::Int8(_) => &Device::Cpu,
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
            Weight::Plain(_) | Weight::Panels(_) => Input::Plain(tensor.clone()),
            Weight::Int8(matrix) => {
                let rows = |values: &[f32]| Ok(Rows::round(values, matrix.shape().1));
                Input::Rounded { rows: ops::with_floats(tensor, rows)?, dims }
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
            Weight::Plain(_) | Weight::Panels(_) => {
                Ok(Input::Plain(ops::rms_norm(tensor, norm, eps, numerics)?))
            }
            Weight::Int8(_) if norm.elem_count() != dims.last().copied().unwrap_or(0) => {
                bail!("rows {dims:?} do not fit a norm {:?}", norm.dims())
            }
            Weight::Int8(_) => ops::with_floats(norm, |norm| {
                let rows = ops::with_floats(tensor, |rows| Ok(Rows::normed(rows, norm, eps as f32)))?;
                Ok(Input::Rounded { rows, dims })
            }),
        }
    }

    fn dims_of(&self, tensor: &Tensor) -> Result<Vec<usize>> {
        let (_, n_in) = self.weight.shape()?;
        match tensor.dims() {
            [.., width] if *width == n_in => Ok(tensor.dims().to_vec()),
            dims => bail!("a layer of {n_in} inputs was given {dims:?}"),
        }
    }

    /// Calls `read` with what rows (n, in) are mapped to: (n, out), row after row. `room` is kept from call to call, so that large
    /// outputs need no fresh memory each time.
    ///
    /// # Errors
    /// If the width is not `in`, or `read` fails.
    pub fn read<R>(
        &self,
        rows: &Tensor,
        room: &mut Vec<f32>,
        read: impl FnOnce(&[f32]) -> Result<R>,
    ) -> Result<R> {
        match self.input(rows)? {
            Input::Plain(rows) => match &self.weight {
                Weight::Panels(panels) => ops::with_floats(&rows, |rows| {
                    let n_numbers = rows.len() / panels.shape().1 * panels.shape().0;
                    room.resize(room.len().max(n_numbers), 0.0);
                    panels.map(rows, self.bias()?.as_deref(), &mut room[..n_numbers])?;
                    read(&room[..n_numbers])
                }),
                Weight::Plain(_) | Weight::Int8(_) => ops::with_floats(&self.plain(&rows)?, read),
            },
            Input::Rounded { rows, .. } => {
                let layer = self.in_8_bits()?;
                let n_numbers = rows.n_rows() * layer.matrix.shape().0;
                room.resize(room.len().max(n_numbers), 0.0);
                let output = &mut room[..n_numbers];
                int8::compute(&rows, vec![(Job::Set(layer.lent()), &mut *output)])?;
                read(output)
            }
        }
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
        let outputs = match input {
            Input::Plain(rows) => layers.iter().map(|layer| layer.plain(rows)).collect::<Result<Vec<_>>>()?,
            Input::Rounded { rows, dims } => {
                let layers = layers.iter().map(|layer| layer.in_8_bits()).collect::<Result<Vec<_>>>()?;
                let zeros = |layer: &In8Bits<'_>| vec![0.0; rows.n_rows() * layer.matrix.shape().0];
                let mut outputs: Vec<Vec<f32>> = layers.iter().map(zeros).collect();
                let jobs = layers.iter().zip(&mut outputs);
                let jobs = jobs.map(|(layer, output)| (Job::Set(layer.lent()), output.as_mut_slice()));
                int8::compute(rows, jobs.collect())?;
                outputs.into_iter().map(|output| of_rows(output, dims)).collect::<Result<Vec<_>>>()?
            }
        };
        Ok(outputs.try_into().expect("each layer has an output"))
    }

    /// Adds what this layer maps an input to to a tensor (.., out).
    ///
    /// # Errors
    /// As for `forward_all`, or if shapes differ.
    pub fn add_to(&self, sum: &Tensor, input: &Input) -> Result<Tensor> {
        match input {
            Input::Plain(rows) => sum + self.plain(rows)?,
            Input::Rounded { rows, dims } => {
                let mut output = ops::with_floats(sum, |sum| Ok(sum.to_vec()))?;
                int8::compute(rows, vec![(Job::Add(self.in_8_bits()?.lent()), &mut output)])?;
                of_rows(output, dims)
            }
        }
    }

    /// silu(gate) · up of an input, elementwise.
    ///
    /// # Errors
    /// As for `forward_all`, or if the layers differ in shape.
    pub fn gated(gate: &Self, up: &Self, input: &Input) -> Result<Tensor> {
        match input {
            Input::Plain(rows) => ops::swiglu(&gate.plain(rows)?, &up.plain(rows)?),
            Input::Rounded { rows, dims } => {
                let (gate, up) = (gate.in_8_bits()?, up.in_8_bits()?);
                let mut output = vec![0.0; rows.n_rows() * up.matrix.shape().0];
                int8::compute(rows, vec![(Job::Gated(gate.lent(), up.lent()), &mut output)])?;
                of_rows(output, dims)
            }
        }
    }

    fn in_8_bits(&self) -> Result<In8Bits<'_>> {
        match &self.weight {
            Weight::Int8(matrix) => Ok(In8Bits { matrix, bias: self.bias()? }),
            Weight::Plain(_) | Weight::Panels(_) => {
                bail!("rounded rows were given to a layer that is not in 8 bits")
            }
        }
    }

    fn bias(&self) -> Result<Option<Vec<f32>>> {
        self.bias.as_ref().map(Tensor::to_vec1::<f32>).transpose()
    }

    /// Maps (.., in) to (.., out) by weights that are not rounded.
    fn plain(&self, input: &Tensor) -> Result<Tensor> {
        if let Weight::Panels(panels) = &self.weight {
            return ops::with_floats(input, |rows| {
                let mut output = vec![0.0; rows.len() / panels.shape().1 * panels.shape().0];
                panels.map(rows, self.bias()?.as_deref(), &mut output)?;
                of_rows(output, input.dims())
            });
        }
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
    /// Rounded.
    Rounded {
        /// The rows.
        rows: Rows,
        /// The shape that they had.
        dims: Vec<usize>,
    },
}

/// A layer in 8 bits.
struct In8Bits<'a> {
    matrix: &'a Matrix,
    bias: Option<Vec<f32>>,
}

impl In8Bits<'_> {
    fn lent(&self) -> Layer<'_> {
        Layer { matrix: self.matrix, bias: self.bias.as_deref() }
    }
}

/// Outputs of all rows as a tensor (.., out), where the rows had the shape `dims` (.., in).
fn of_rows(output: Vec<f32>, dims: &[usize]) -> Result<Tensor> {
    let leading = &dims[..dims.len().saturating_sub(1)];
    let n_out = output.len() / leading.iter().product::<usize>().max(1);
    Tensor::from_vec(output, [leading, &[n_out]].concat(), &Device::Cpu)
}
