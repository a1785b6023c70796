//! A small network that predicts a reward: mean and variance.
use super::{
    linear::{Bias, Linear},
    weights::{ModelError, TensorSource},
};
use candle_core::{D, DType, Device, Tensor};

/// Width of the one hidden layer.
const N_UNITS: usize = 64;
/// Log-variances are kept in this range, so that neither a variance nor its inverse overflows.
const LOG_VARIANCE_LIMIT: f64 = 10.0;

/// Mean and variance of a predicted reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Expected reward.
    pub mean: f32,
    /// How uncertain the network is about it.
    pub variance: f32,
}

/// One layer of 64 SiLU units between inputs and the mean and log-variance of what is predicted.
///
/// Inputs are standardised with fixed `input_mean` and `input_scale`: the trainer fits them, and they get no gradient.
#[derive(Clone, Debug)]
pub struct Perceptron {
    input_mean: Tensor,
    input_scale: Tensor,
    hidden: Linear,
    output: Linear,
}

impl Perceptron {
    /// Reads `input_mean`, `input_scale` (inputs), `hidden.weight`, `hidden.bias`, `output.weight` and `output.bias`, all behind `name` and a point.
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(source: &mut dyn TensorSource, name: &str, n_inputs: usize) -> Result<Self, ModelError> {
        Ok(Self {
            input_mean: source.tensor(&format!("{name}.input_mean"), &[n_inputs])?.detach(),
            input_scale: source.tensor(&format!("{name}.input_scale"), &[n_inputs])?.detach(),
            hidden: Linear::load(source, &format!("{name}.hidden"), (n_inputs, N_UNITS), Bias::Added)?,
            output: Linear::load(source, &format!("{name}.output"), (N_UNITS, 2), Bias::Added)?,
        })
    }

    /// How many inputs it has.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.input_mean.elem_count()
    }

    /// The mean that an input was standardised with.
    pub(super) fn input_mean_at(&self, idx: usize) -> Result<f32, ModelError> {
        Ok(self.input_mean.get(idx)?.to_dtype(DType::F32)?.to_scalar()?)
    }

    /// The means that the inputs from a place on were standardised with.
    pub(super) fn input_means(&self, from: usize) -> Result<Vec<f32>, ModelError> {
        let n_inputs = self.n_inputs() - from;
        Ok(self.input_mean.narrow(0, from, n_inputs)?.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// Where it computes.
    pub(super) fn device(&self) -> &Device {
        self.input_mean.device()
    }

    /// Maps rows (n, inputs) to mean and log-variance: (n, 2). Differentiable.
    ///
    /// # Errors
    /// If the width differs.
    pub fn forward(&self, inputs: &Tensor) -> Result<Tensor, ModelError> {
        if inputs.dim(0)? == 0 {
            return Ok(Tensor::zeros((0, 2), DType::F32, inputs.device())?);
        }
        let inputs = inputs.to_dtype(self.input_mean.dtype())?;
        let standard = inputs.broadcast_sub(&self.input_mean)?.broadcast_mul(&self.input_scale)?;
        let output = self.output.forward(&self.hidden.forward(&standard)?.silu()?)?.to_dtype(DType::F32)?;
        let mean = output.narrow(D::Minus1, 0, 1)?;
        let log_variance = output.narrow(D::Minus1, 1, 1)?.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)?;
        Ok(Tensor::cat(&[mean, log_variance], D::Minus1)?)
    }
}

/// Mean and variance of each row (n, 2) of a perceptron.
///
/// # Errors
/// If they cannot be read.
pub fn scores(outputs: &Tensor) -> Result<Vec<Score>, ModelError> {
    let score = |row: &Vec<f32>| Score { mean: row[0], variance: row[1].exp() };
    Ok(outputs.to_vec2::<f32>()?.iter().map(score).collect())
}
