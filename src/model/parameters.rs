//! Trainable tensors: made on a seed or copied from a checkpoint, written back as a checkpoint.
use super::{
    stored,
    weights::{Checkpoint, ModelError, TensorSource},
};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Trainable tensors by name (Hugging Face names), f32.
#[derive(Debug)]
pub struct Parameters {
    vars: BTreeMap<String, Var>,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// Missing tensors are made on a seed.
    Fresh { seed: u64, device: Device },
    /// Every tensor came from the checkpoint of this label; missing ones are errors.
    Copied { label: String },
}

impl Parameters {
    /// Standard deviation of fresh weights, as the published families are initialised (`initializer_range`).
    pub const INITIAL_DEVIATION: f32 = 0.02;

    /// Returns an empty set that makes tensors when a network asks for them: normal(0, 0.02) for weights of
    /// two dimensions, ones for norms and scales, zeros for biases and means.
    ///
    /// A tensor's values depend on the seed and its name alone, not on the order of asking.
    #[must_use]
    pub fn fresh(seed: u64, device: &Device) -> Self {
        Self { vars: BTreeMap::new(), origin: Origin::Fresh { seed, device: device.clone() } }
    }

    /// Copies every tensor of a checkpoint, as f32.
    ///
    /// # Errors
    /// If a tensor is not a float of 16 or 32 bits or not finite.
    pub fn from_checkpoint(mut checkpoint: Checkpoint) -> Result<Self, ModelError> {
        let shapes: Vec<(String, Vec<usize>)> =
            checkpoint.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
        let mut vars = BTreeMap::new();
        for (name, shape) in shapes {
            let tensor = checkpoint.tensor(&name, &shape)?.to_dtype(DType::F32)?;
            vars.insert(name, Var::from_tensor(&tensor)?);
        }
        Ok(Self { vars, origin: Origin::Copied { label: checkpoint.label().to_owned() } })
    }

    /// The trainable tensors, sorted by name.
    #[must_use]
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Writes a safetensors file with every parameter in `dtype` (f32, f16, bf16), names sorted: same values, same bytes.
    ///
    /// # Errors
    /// For another dtype, or a value that is not finite in it.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>, ModelError> {
        let tensors = self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        stored::write(&tensors, dtype)
    }

    fn label(&self) -> &str {
        match &self.origin {
            Origin::Fresh { .. } => "fresh parameters",
            Origin::Copied { label } => label,
        }
    }
}

impl TensorSource for Parameters {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let file = || self.label().to_owned();
        if let Some(var) = self.vars.get(name) {
            return if var.dims() == shape {
                Ok(var.as_tensor().clone())
            } else {
                Err(ModelError::WrongShape {
                    file: file(),
                    tensor: name.to_owned(),
                    got: var.dims().to_vec(),
                    expected: shape.to_vec(),
                })
            };
        }
        match &self.origin {
            Origin::Copied { .. } => Err(ModelError::MissingTensor { file: file(), tensor: name.to_owned() }),
            Origin::Fresh { seed, device } => {
                let values = initial_values(*seed, name, shape);
                let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?;
                let tensor = var.as_tensor().clone();
                self.vars.insert(name.to_owned(), var);
                Ok(tensor)
            }
        }
    }

    fn contains(&self, name: &str) -> bool {
        matches!(self.origin, Origin::Fresh { .. }) || self.vars.contains_key(name)
    }
}

fn initial_values(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let n_values = shape.iter().product();
    if shape.len() < 2 {
        let neutral = if name.ends_with("bias") || name.ends_with("mean") { 0.0 } else { 1.0 };
        return vec![neutral; n_values];
    }
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name.as_bytes()).finalize();
    let mut rng = ChaCha8Rng::from_seed(digest.into());
    let normal =
        Normal::new(0.0, Parameters::INITIAL_DEVIATION).expect("the deviation is a positive constant");
    (0..n_values).map(|_| normal.sample(&mut rng)).collect()
}
