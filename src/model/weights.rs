//! Checkpoints on disk or in memory, read with every check before any tensor is used.
use candle_core::{DType, Device, Shape, Tensor, Var};
use std::{borrow::Cow, collections::BTreeMap, path::Path};
use thiserror::Error;

/// What can be wrong with a checkpoint or config; every variant names the file and, where there is one, the tensor.
#[derive(Debug, Error)]
pub enum ModelError {
    #[error("{file}: {reason}")]
    Config { file: String, reason: String },
    #[error("{file}: tensor {tensor} is missing")]
    MissingTensor { file: String, tensor: String },
    #[error("{file}: tensor {tensor} has shape {got:?}, expected {expected:?}")]
    WrongShape { file: String, tensor: String, got: Vec<usize>, expected: Vec<usize> },
    #[error("{file}: tensor {tensor} holds a value that is not finite")]
    NotFinite { file: String, tensor: String },
    #[error("{file}: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("forward pass failed")]
    Forward(#[from] candle_core::Error),
}

/// Where a network takes its tensors from while it is built.
pub trait TensorSource {
    /// The tensor of that name, checked against the shape, in the source's dtype and on its device.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError>;
    /// Whether the source holds (or, for fresh parameters, would make) a tensor of that name.
    fn contains(&self, name: &str) -> bool;
}

/// Safetensors files of one checkpoint (one file or many with an index), checked: header, bounds, dtypes, finite values.
#[derive(Debug)]
pub struct Checkpoint { /* files: Vec<(String, Cow<'static, [u8]>)> ... */ }

impl Checkpoint {
    /// Opens `model.safetensors` or `model.safetensors.index.json` and its shards.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> { todo!() }
    /// Takes files already in memory: (name, bytes).
    pub fn from_files(files: Vec<(String, Cow<'static, [u8]>)>, dtype: DType, device: &Device) -> Result<Self, ModelError> { todo!() }
}

/// Trainable tensors by name (Hugging Face names), f32.
#[derive(Debug, Default)]
pub struct Parameters { vars: BTreeMap<String, Var> }

impl Parameters {
    /// Fresh parameters on a seed: normal(0, 0.02) for weights of two dimensions, ones for norms, zeros for biases.
    pub fn fresh(seed: u64, device: &Device) -> Self { todo!() }
    /// Parameters copied from a checkpoint.
    pub fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self, ModelError> { todo!() }
    pub fn vars(&self) -> &BTreeMap<String, Var> { &self.vars }
    /// Bytes of a safetensors file with every parameter in `dtype` (f32, f16, bf16), names sorted: same values, same bytes.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>, ModelError> { todo!() }
}
// impl TensorSource for Checkpoint; impl TensorSource for Parameters (makes the Var where it is missing and fresh).
