//! Checkpoints on disk or in memory, read with every check before any tensor is used.
use super::{linear::Weight, lora::Adapter, stored::StoredFile};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use thiserror::Error;

pub use super::parameters::Parameters;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// What can be wrong with a checkpoint or config; every variant names the file and, where there is one, the tensor.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A config holds a value that no supported network has.
    #[error("{file}: {reason}")]
    Config {
        /// The config.
        file: String,
        /// Key, value and what would be accepted.
        reason: String,
    },
    /// A tensor that the network needs is in no file.
    #[error("{file}: tensor {tensor} is missing")]
    MissingTensor {
        /// The file, or the index of a checkpoint of many files.
        file: String,
        /// Its name.
        tensor: String,
    },
    /// A tensor does not fit the config.
    #[error("{file}: tensor {tensor} has shape {got:?}, expected {expected:?}")]
    WrongShape {
        /// The file that holds it.
        file: String,
        /// Its name.
        tensor: String,
        /// As stored.
        got: Vec<usize>,
        /// As the config asks.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN, infinity, or a number that the wanted dtype cannot hold.
    #[error("{file}: tensor {tensor} holds a value that is not finite")]
    NotFinite {
        /// The file that holds it.
        file: String,
        /// Its name.
        tensor: String,
    },
    /// A file cannot be read or contradicts itself.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The maths library refused.
    #[error("forward pass failed")]
    Forward(#[from] candle_core::Error),
}

/// Where a network takes its tensors from while it is built.
pub trait TensorSource {
    /// Takes the tensor of that name, checked against the shape, in the source's dtype and on its device.
    ///
    /// # Errors
    /// If it is missing, has another shape, or holds a value that is not finite.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError>;
    /// Takes the weight (out, in) of a linear layer or embedding: as it is, unless the source rounds weights.
    ///
    /// # Errors
    /// As for `tensor`.
    fn weight(&mut self, name: &str, (n_out, n_in): (usize, usize)) -> Result<Weight, ModelError> {
        Ok(Weight::Plain(self.tensor(name, &[n_out, n_in])?))
    }
    /// Whether the source holds (or, for fresh parameters, would make) a tensor of that name.
    fn contains(&self, name: &str) -> bool;
    /// Takes the adapter of a linear layer (in, out), where its matrix is frozen and the adapter is trained in its place.
    ///
    /// # Errors
    /// As [`TensorSource::tensor`].
    fn adapter(&mut self, _layer: &str, _shape: (usize, usize)) -> Result<Option<Adapter>, ModelError> {
        Ok(None)
    }
}

/// Safetensors files of one checkpoint (one file or many with an index), checked: header, bounds, dtypes, finite values.
#[derive(Debug)]
pub struct Checkpoint {
    /// Named in errors about tensors that no file holds: the only file, or the index.
    label: String,
    files: Vec<StoredFile>,
    /// Tensor name to index in `files`.
    holders: BTreeMap<String, usize>,
    dtype: DType,
    device: Device,
}

impl Checkpoint {
    /// Whether a folder holds weights that `open` would read.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        [SINGLE_FILE, INDEX_FILE].iter().any(|file| dir.join(file).is_file())
    }

    /// Opens `model.safetensors` or, where there is none, `model.safetensors.index.json` and its shards.
    ///
    /// Tensors are handed out in `dtype` on `device`. Files are read whole, so memory holds them until the
    /// checkpoint is dropped.
    /// # Errors
    /// If a file is missing or contradicts itself.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> {
        let file = |name: String| Ok((name.clone(), read(dir, &name)?));
        let files = Self::files(dir)?.into_iter().map(file).collect::<Result<_, ModelError>>()?;
        Self::from_files(files, dtype, device)
    }

    /// Names of the files that `open` reads, the index before its shards.
    ///
    /// # Errors
    /// If there are none, or the index cannot be read or names a file that is missing.
    pub fn files(dir: &Path) -> Result<Vec<String>, ModelError> {
        if dir.join(SINGLE_FILE).is_file() {
            return Ok(vec![SINGLE_FILE.to_owned()]);
        }
        if !dir.join(INDEX_FILE).is_file() {
            return Err(unreadable(
                &dir.display().to_string(),
                format!("has neither {SINGLE_FILE} nor {INDEX_FILE}"),
            ));
        }
        let index = Index::parse(INDEX_FILE, &read(dir, INDEX_FILE)?)?;
        let shards = index.shards();
        if let Some(shard) = shards.iter().find(|shard| !dir.join(shard).is_file()) {
            return Err(unreadable(shard, format!("is named in {INDEX_FILE}, but is missing")));
        }
        Ok(std::iter::once(INDEX_FILE).chain(shards).map(str::to_owned).collect())
    }

    /// Takes files already in memory: (name, bytes). A name that ends in `.index.json` is the index of the others.
    ///
    /// # Errors
    /// If a file contradicts itself, the index, or another file.
    pub fn from_files(
        files: Vec<(String, Cow<'static, [u8]>)>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (indices, files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(name, _)| name.ends_with(".index.json"));
        let files = files
            .into_iter()
            .map(|(name, bytes)| StoredFile::parse(name, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let first =
            indices.first().map(|(name, _)| name.clone()).or(files.first().map(|f| f.name().to_owned()));
        let label = first.ok_or_else(|| unreadable("checkpoint", "holds no file".to_owned()))?;
        let mut holders = BTreeMap::new();
        for (file_idx, file) in files.iter().enumerate() {
            for tensor in file.tensor_names() {
                if let Some(other) = holders.insert(tensor.clone(), file_idx) {
                    let other: &StoredFile = &files[other];
                    return Err(unreadable(
                        file.name(),
                        format!("tensor {tensor} is also in {}", other.name()),
                    ));
                }
            }
        }
        for (name, bytes) in &indices {
            Index::parse(name, bytes)?.check(&files, &holders)?;
        }
        Ok(Self { label, files, holders, dtype, device: device.clone() })
    }

    /// Names and shapes of every stored tensor, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.holders
            .iter()
            .filter_map(|(name, &file)| self.files[file].shape(name).map(|shape| (name.as_str(), shape)))
    }

    /// Whether weights are stored in 8 bits. They are handed out as floats like others: rounded again for serving, they are what is stored.
    #[must_use]
    pub fn is_rounded(&self) -> bool {
        self.files.iter().any(StoredFile::is_rounded)
    }

    /// Where its tensors are put.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What errors about missing tensors name.
    pub(super) fn label(&self) -> &str {
        &self.label
    }
}

impl TensorSource for Checkpoint {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let missing = || ModelError::MissingTensor { file: self.label.clone(), tensor: name.to_owned() };
        let file = *self.holders.get(name).ok_or_else(missing)?;
        self.files[file].read(name, shape, self.dtype, &self.device)
    }

    fn contains(&self, name: &str) -> bool {
        self.holders.contains_key(name)
    }
}

/// `*.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn parse(name: &str, bytes: &[u8]) -> Result<Self, ModelError> {
        let index: Self = serde_json::from_slice(bytes)
            .map_err(|error| unreadable(name, format!("is not an index of shards: {error}")))?;
        // A shard name becomes a path, so it may not lead out of the folder.
        let plain = |shard: &str| {
            shard.ends_with(".safetensors")
                && !shard.starts_with('.')
                && !shard.contains(['/', '\\', ':', '\0'])
        };
        if let Some(shard) = index.shards().into_iter().find(|shard| !plain(shard)) {
            return Err(unreadable(name, format!("shard {shard:?} is not a plain .safetensors file name")));
        }
        if index.weight_map.is_empty() {
            return Err(unreadable(name, "names no tensor".to_owned()));
        }
        Ok(index)
    }

    fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Checks that every tensor lies where the index says.
    fn check(&self, files: &[StoredFile], holders: &BTreeMap<String, usize>) -> Result<(), ModelError> {
        for (tensor, shard) in &self.weight_map {
            if !files.iter().any(|file| file.name() == shard) {
                return Err(unreadable(shard, "is named in the index, but is missing".to_owned()));
            }
            if holders.get(tensor).is_none_or(|&holder| files[holder].name() != shard) {
                return Err(ModelError::MissingTensor { file: shard.clone(), tensor: tensor.clone() });
            }
        }
        Ok(())
    }
}

fn read(dir: &Path, name: &str) -> Result<Cow<'static, [u8]>, ModelError> {
    std::fs::read(dir.join(name)).map(Cow::Owned).map_err(|error| unreadable(name, error.to_string()))
}

fn unreadable(file: &str, reason: String) -> ModelError {
    ModelError::Unreadable { file: file.to_owned(), reason }
}
