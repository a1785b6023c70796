//! One linear layer behind one face.
use super::{
    fused,
    int8::Matrix,
    lora::{self, Adapter},
    ops,
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
            Self::Int8(weight) => weight.outputs(ids),
        }
    }

    /// Maps rows (n, in) to (n, out), and adds a bias (out) where there is one.
    ///
    /// # Errors
    /// If the width is not `in`.
    pub fn project(&self, rows: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let weight = match self {
            Self::Plain(weight) => weight,
            Self::Int8(weight) => return weight.project(rows, bias),
        };
        let output = if rows.track_op() && !weight.track_op() && fused::takes(rows) {
            lora::frozen_product(rows, weight)?
        } else {
            rows.matmul(&weight.t()?)?
        };
        match bias {
            Some(bias) if fused::takes(&output) => fused::add_bias(&output, bias),
            Some(bias) => output.broadcast_add(bias),
            None => Ok(output),
        }
    }

    /// The numbers themselves, for losses.
    ///
    /// # Errors
    /// If they are rounded: nothing is trained in 8 bits.
    pub fn plain(&self) -> Result<&Tensor> {
        match self {
            Self::Plain(weight) => Ok(weight),
            Self::Int8(_) => bail!("a loss was asked of weights in 8 bits"),
        }
    }

    /// The same weight out of any graph.
    #[must_use]
    pub fn detach(self) -> Self {
        match self {
            Self::Plain(weight) => Self::Plain(weight.detach()),
            Self::Int8(weight) => Self::Int8(weight),
        }
    }

    /// How the numbers are held that go in and come out.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(weight) => weight.dtype(),
            Self::Int8(_) => DType::F32,
        }
    }

    /// Where it is multiplied.
    #[must_use]
    pub fn device(&self) -> &Device {
        match self {
            Self::Plain(weight) => weight.device(),
            Self::Int8(_) => &Device::Cpu,
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
        let Weight::Int8(matrix) = &self.weight else { return ops::with_floats(&self.forward(rows)?, read) };
        let (n_rows, width) = rows.dims2()?;
        let (n_out, n_in) = matrix.shape();
        if width != n_in {
            bail!("a layer of {n_in} inputs was given rows of {width}")
        }
        let bias = self.bias.as_ref().map(Tensor::to_vec1::<f32>).transpose()?;
        room.resize(room.len().max(n_rows * n_out), 0.0);
        let output = &mut room[..n_rows * n_out];
        ops::with_floats(rows, |rows| {
            matrix.multiply(rows, bias.as_deref(), output);
            Ok(())
        })?;
        read(output)
    }

    /// Maps (.., in) to (.., out).
    ///
    /// # Errors
    /// If the last dimension is not `in`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (n_out, n_in) = self.weight.shape()?;
        // Rows are flattened, so that one matrix product serves every row of every batch.
        let rows = input.reshape(((), n_in))?;
        let output = self.weight.project(&rows, self.bias.as_ref())?;
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
