//! One linear layer behind one face.
use super::{
    fused,
    lora::{self, Adapter},
    weights::{ModelError, TensorSource},
};
use candle_core::{Result, Tensor};

/// Whether a layer adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `{name}.bias` is read and added.
    Added,
    /// There is none.
    Absent,
}

/// y = x W^T + b, with the weight stored (out, in) as published checkpoints store it.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
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
        let weight = source.tensor(&format!("{name}.weight"), &[n_out, n_in])?;
        let bias = match bias {
            Bias::Added => Some(source.tensor(&format!("{name}.bias"), &[n_out])?),
            Bias::Absent => None,
        };
        Ok(match source.adapter(name, (n_in, n_out))? {
            // Where nothing is trained, the two become one matrix.
            Some(adapter) if !adapter.up.track_op() => {
                Self { weight: adapter.merged(&weight)?, bias, adapter: None }
            }
            adapter => Self { weight, bias, adapter },
        })
    }

    /// Takes a weight (out, in) that another layer owns too, without bias: a tied head.
    #[must_use]
    pub fn tied(weight: Tensor) -> Self {
        Self { weight, bias: None, adapter: None }
    }

    /// The weight (out, in).
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Maps (.., in) to (.., out).
    ///
    /// # Errors
    /// If the last dimension is not `in`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (n_out, n_in) = self.weight.dims2()?;
        let rows = input.reshape(((), n_in))?;
        // Rows are flattened, so that one matrix product serves every row of every batch.
        let output = if rows.track_op() && !self.weight.track_op() && fused::takes(&rows) {
            lora::frozen_product(&rows, &self.weight)?
        } else {
            rows.matmul(&self.weight.t()?)?
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
