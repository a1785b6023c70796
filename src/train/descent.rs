//! One update of a small network: loss, gradient, clipping, optimiser.
use super::{error::TrainError, gradients::Gradients, optimizer::AdamW};
use crate::model::weights::Parameters;
use candle_core::Tensor;

/// Gradients longer than this are shortened to it.
const MAX_GRAD_NORM: f64 = 1.0;

/// Lowers a loss by one update at a learning rate; returns its value before.
/// # Errors
/// If the loss is no longer a number, or a parameter is cut off from it.
pub fn update(
    parameters: &Parameters,
    optimizer: &mut AdamW,
    loss: &Tensor,
    (step, learning_rate): (u64, f64),
) -> Result<f64, TrainError> {
    let value = f64::from(loss.to_scalar::<f32>()?);
    let mut gradients = Gradients::collect(parameters.vars(), loss.backward()?)?;
    let norm = gradients.clip(MAX_GRAD_NORM);
    if !(value.is_finite() && norm.is_finite()) {
        return Err(TrainError::Diverged { step, loss: value });
    }
    optimizer.step(parameters.vars(), &gradients, learning_rate)?;
    Ok(value)
}
