//! Rotary position embedding: cosines and sines of the positions at hand.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "angles are f32, as published"
)]
use super::config::{DecoderConfig, RopeScaling};
use candle_core::{DType, Device, Result, Tensor};

/// Angular frequencies of one model. Tables are made per call, so no length has to be reserved beforehand.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    /// Radians per position, one per pair of head dimensions. f32, as the reference implementation computes them.
    frequencies: Vec<f32>,
}

/// Cosines and sines (T, head_dim / 2), or (B, T, head_dim / 2) where rows stand at different positions.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Rotation {
    /// Those of the last `n` positions (T) of one row.
    pub(super) fn last(&self, n: usize) -> Result<Self> {
        let last = |tensor: &Tensor| tensor.narrow(0, tensor.dim(0)? - n, n);
        Ok(Self { cos: last(&self.cos)?, sin: last(&self.sin)? })
    }

    /// Turns the positions (T) of one row into those of T rows of one position.
    pub(super) fn of_rows(&self) -> Result<Self> {
        Ok(Self { cos: self.cos.unsqueeze(1)?, sin: self.sin.unsqueeze(1)? })
    }
}

impl Rotary {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        let frequency = |plain: f64| scale(plain, config.rope_scaling) as f32;
        Self { frequencies: plain(config).map(frequency).collect() }
    }

    /// Returns the rotation of each position; `leading` is the shape of `positions`: (T) or (B, T).
    pub(super) fn at(
        &self,
        positions: &[u32],
        leading: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Rotation> {
        let n_angles = positions.len() * self.frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(n_angles), Vec::with_capacity(n_angles));
        // Rows of a prompt stand at the same position, behind one another.
        for same in positions.chunk_by(|a, b| a == b) {
            // The product is rounded to f32 before its cosine is taken, as in the reference implementation.
            let angle = |frequency: &f32| f64::from(same[0] as f32 * frequency);
            let angles = self.frequencies.iter().map(angle);
            let (cos_of, sin_of): (Vec<f32>, Vec<f32>) =
                angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
            for _ in same {
                cos.extend_from_slice(&cos_of);
                sin.extend_from_slice(&sin_of);
            }
        }
        let shape = [leading, &[self.frequencies.len()]].concat();
        let tensor = |values| Tensor::from_vec(values, shape.as_slice(), device)?.to_dtype(dtype);
        Ok(Rotation { cos: tensor(cos)?, sin: tensor(sin)? })
    }
}

/// How many times the wavelength of each pair is stretched.
pub(super) fn stretches(config: &DecoderConfig) -> impl Iterator<Item = f64> {
    plain(config).map(|frequency| frequency / scale(frequency, config.rope_scaling))
}

/// Frequencies of the pairs of a head before they are scaled.
fn plain(config: &DecoderConfig) -> impl Iterator<Item = f64> {
    let exponent = |pair: usize| (2 * pair) as f64 / config.head_dim as f64;
    (0..config.head_dim / 2).map(move |pair| config.rope_theta.powf(exponent(pair)).recip())
}

/// Source: Llama 3.1 reference implementation, `apply_scaling`.
fn scale(frequency: f64, scaling: RopeScaling) -> f64 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } = scaling
    else {
        return frequency;
    };
    let original = original_max_positions as f64;
    let wavelength = 2.0 * std::f64::consts::PI / frequency;
    if wavelength < original / high_freq_factor {
        frequency
    } else if wavelength > original / low_freq_factor {
        frequency / factor
    } else {
        let ramp = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - ramp) * frequency / factor + ramp * frequency
    }
}
