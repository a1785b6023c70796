//! Trainable tensors: made on a seed or copied from a checkpoint, written back as a checkpoint; or adapters of frozen ones.
use super::{
    lora::{Adapter, Lora},
    stored,
    weights::{Checkpoint, ModelError, TensorSource},
};
use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
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
    /// Tensors of a checkpoint are frozen, and the variables are adapters of some of them.
    Adapted { frozen: BTreeMap<String, Tensor>, label: String, lora: Lora },
}

/// Before names of tensors in adapter files, as PEFT writes them.
const PEFT_PREFIX: &str = "base_model.model.";

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
        let tensors = all_of(&mut checkpoint)?.into_iter();
        let vars = tensors.map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)));
        let vars = vars.collect::<Result<_, ModelError>>()?;
        Ok(Self { vars, origin: Origin::Copied { label: checkpoint.label().to_owned() } })
    }

    /// Freezes every tensor of a checkpoint, as f32; the variables are adapters, made when a network asks for them. A fresh adapter
    /// changes nothing: A is uniform on the seed, B is 0.
    ///
    /// # Errors
    /// As [`Parameters::from_checkpoint`].
    pub fn adapted(mut checkpoint: Checkpoint, lora: Lora) -> Result<Self, ModelError> {
        let frozen = all_of(&mut checkpoint)?;
        let label = checkpoint.label().to_owned();
        Ok(Self { vars: BTreeMap::new(), origin: Origin::Adapted { frozen, label, lora } })
    }

    /// How the parameters adapt frozen ones, where they do.
    #[must_use]
    pub fn lora(&self) -> Option<Lora> {
        match &self.origin {
            Origin::Adapted { lora, .. } => Some(*lora),
            Origin::Fresh { .. } | Origin::Copied { .. } => None,
        }
    }

    /// Writes the adapters as a safetensors file, f32, under the names of PEFT.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn adapters_to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        let named = |(name, var): (&String, &Var)| (format!("{PEFT_PREFIX}{name}"), var.as_tensor().clone());
        stored::write(&self.vars.iter().map(named).collect(), DType::F32)
    }

    /// Replaces the adapters, which a network has asked for, by those of a file.
    ///
    /// # Errors
    /// If one is missing or has another shape.
    pub fn set_adapters(&self, mut file: Checkpoint) -> Result<(), ModelError> {
        for (name, var) in &self.vars {
            let tensor = file.tensor(&format!("{PEFT_PREFIX}{name}"), var.dims())?;
            var.set(&tensor.to_dtype(DType::F32)?)?;
        }
        Ok(())
    }

    /// The trainable tensors, sorted by name.
    #[must_use]
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Writes a safetensors file with every parameter in `dtype` (f32, f16, bf16), names sorted: same values, same bytes. Adapters
    /// are merged into what they adapt.
    ///
    /// # Errors
    /// For another dtype, or a value that is not finite in it.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>, ModelError> {
        stored::write(&self.merged()?, dtype)
    }

    /// Writes a safetensors file with every matrix in 8 bits, rounded per output as for serving, and all else in f32.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn to_rounded_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        stored::write_rounded(&self.merged()?)
    }

    /// Every parameter, adapters merged.
    fn merged(&self) -> Result<BTreeMap<String, Tensor>, ModelError> {
        match &self.origin {
            Origin::Adapted { frozen, lora, .. } => {
                let merged = |(name, tensor): (&String, &Tensor)| {
                    let adapter =
                        name.strip_suffix(".weight").and_then(|layer| self.made(layer, lora.scale()));
                    let tensor =
                        adapter.map_or_else(|| Ok(tensor.clone()), |adapter| adapter.merged(tensor))?;
                    Ok((name.clone(), tensor))
                };
                frozen.iter().map(merged).collect()
            }
            Origin::Fresh { .. } | Origin::Copied { .. } => {
                Ok(self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect())
            }
        }
    }

    /// The adapter of a layer, where a network has asked for it.
    fn made(&self, layer: &str, scale: f64) -> Option<Adapter> {
        let tensor = |part: &str| Some(self.vars.get(&format!("{layer}.{part}.weight"))?.as_tensor().clone());
        Some(Adapter { down: tensor(DOWN)?, up: tensor(UP)?, scale })
    }

    fn label(&self) -> &str {
        match &self.origin {
            Origin::Fresh { .. } => "fresh parameters",
            Origin::Copied { label } | Origin::Adapted { label, .. } => label,
        }
    }
}

impl TensorSource for Parameters {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let file = || self.label().to_owned();
        let held = match &self.origin {
            Origin::Adapted { frozen, .. } => frozen.get(name),
            Origin::Fresh { .. } | Origin::Copied { .. } => self.vars.get(name).map(Var::as_tensor),
        };
        if let Some(tensor) = held {
            return if tensor.dims() == shape {
                Ok(tensor.clone())
            } else {
                Err(ModelError::WrongShape {
                    file: file(),
                    tensor: name.to_owned(),
                    got: tensor.dims().to_vec(),
                    expected: shape.to_vec(),
                })
            };
        }
        match &self.origin {
            Origin::Copied { .. } | Origin::Adapted { .. } => {
                Err(ModelError::MissingTensor { file: file(), tensor: name.to_owned() })
            }
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
        match &self.origin {
            Origin::Fresh { .. } => true,
            Origin::Copied { .. } => self.vars.contains_key(name),
            Origin::Adapted { frozen, .. } => frozen.contains_key(name),
        }
    }

    fn adapter(&mut self, layer: &str, (n_in, n_out): (usize, usize)) -> Result<Option<Adapter>, ModelError> {
        let Origin::Adapted { frozen, lora, .. } = &self.origin else { return Ok(None) };
        if !lora.adapts(layer) {
            return Ok(None);
        }
        let (lora, device) =
            (*lora, frozen.get(&format!("{layer}.weight")).map_or(Device::Cpu, |w| w.device().clone()));
        let (down, up) = (format!("{layer}.{DOWN}.weight"), format!("{layer}.{UP}.weight"));
        if !self.vars.contains_key(&up) {
            let values = uniform_values(lora.seed, &down, (lora.rank, n_in));
            self.vars.insert(down, Var::from_vec(values, (lora.rank, n_in), &device)?);
            self.vars.insert(up, Var::zeros((n_out, lora.rank), DType::F32, &device)?);
        }
        Ok(self.made(layer, lora.scale()))
    }
}

/// Names of the two matrices of an adapter. Source: PEFT.
const DOWN: &str = "lora_A";
const UP: &str = "lora_B";

/// Every tensor of a checkpoint, as f32.
fn all_of(checkpoint: &mut Checkpoint) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let shapes: Vec<(String, Vec<usize>)> =
        checkpoint.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
    let read = |(name, shape): (String, Vec<usize>)| {
        let tensor = checkpoint.tensor(&name, &shape)?.to_dtype(DType::F32)?;
        Ok((name, tensor))
    };
    shapes.into_iter().map(read).collect()
}

/// Uniform within 1 / sqrt(in): PEFT's start of A.
#[allow(clippy::cast_precision_loss, reason = "widths are small")]
fn uniform_values(seed: u64, name: &str, (n_rows, n_in): (usize, usize)) -> Vec<f32> {
    let bound = 1.0 / (n_in.max(1) as f32).sqrt();
    let mut rng = rng_of(seed, name);
    (0..n_rows * n_in).map(|_| rng.random_range(-bound..bound)).collect()
}

fn rng_of(seed: u64, name: &str) -> ChaCha8Rng {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name.as_bytes()).finalize();
    ChaCha8Rng::from_seed(digest.into())
}

fn initial_values(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let n_values = shape.iter().product();
    if shape.len() < 2 {
        let neutral = if name.ends_with("bias") || name.ends_with("mean") { 0.0 } else { 1.0 };
        return vec![neutral; n_values];
    }
    let mut rng = rng_of(seed, name);
    let normal =
        Normal::new(0.0, Parameters::INITIAL_DEVIATION).expect("the deviation is a positive constant");
    (0..n_values).map(|_| normal.sample(&mut rng)).collect()
}
