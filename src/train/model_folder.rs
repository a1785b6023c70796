//! Unmodified Hugging Face model folders and GGUF files, opened to be used as they are.
use super::{checkpoint, error::TrainError};
use crate::{
    bundle::load::{CONFIG_FILE, TOKENIZER_FILE},
    model::{
        config::DecoderConfig, gguf::Gguf, ops::Numerics, transformer::Transformer, weights::Checkpoint,
    },
    text::vocabulary,
};
use candle_core::{DType, Device};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// A model with the tokenizer beside it, in f32.
#[derive(Debug)]
pub struct ModelFolder {
    /// The folder, or that of the file.
    pub path: PathBuf,
    /// The network, without gradients.
    pub model: Transformer,
    /// The whole tokenizer: text is trusted here, control tokens in it are control tokens.
    pub tokenizer: Option<Tokenizer>,
    /// Ids that end a generation: of `generation_config.json`, else of `config.json`.
    pub stop_ids: Vec<u32>,
}

impl ModelFolder {
    /// Opens a GGUF file, with the tokenizer of its folder, or whatever `open` does; its network computes on `device`.
    /// # Errors
    /// If there is no sound model.
    pub fn open_any(path: &Path, device: &Device) -> Result<Self, TrainError> {
        if !Gguf::is_at(path) {
            return Self::open(path, device);
        }
        let mut weights = Gguf::open(path, DType::F32, device)?;
        let config = weights.config.clone();
        let model = Transformer::load(&config, &mut weights, Numerics::Serve)?;
        let path = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { tokenizer: tokenizer(&path)?, path, model, stop_ids: config.eos_ids })
    }

    /// Opens a model folder, or of a run's folder the best checkpoint where one was chosen, else the newest; its network computes on `device`.
    /// # Errors
    /// If the folder does not hold a sound model.
    pub fn open(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let path = checkpoint::resolve(path)?;
        let config_at = path.join(CONFIG_FILE);
        let json = std::fs::read(&config_at).map_err(TrainError::disk(&config_at, "read"))?;
        let config = DecoderConfig::parse(&json, &config_at.display().to_string())?;
        let mut weights = Checkpoint::open(&path, DType::F32, device)?;
        let model = Transformer::load(&config, &mut weights, Numerics::Serve)?;
        let stop_ids = generation_eos(&path)?.unwrap_or(config.eos_ids);
        Ok(Self { tokenizer: tokenizer(&path)?, path, model, stop_ids })
    }

    /// Returns the ids of text or the ids given, checked against the vocabulary.
    /// # Errors
    /// If neither or both are given, there is no tokenizer, or an id is outside the vocabulary.
    pub fn ids(&self, name: &str, text: Option<&str>, ids: Option<&[u32]>) -> Result<Vec<u32>, String> {
        let ids = match (text, ids) {
            (Some(text), None) => {
                let tokenizer =
                    self.tokenizer.as_ref().ok_or("there is no tokenizer.json beside the model; give ids")?;
                let encoding = tokenizer.encode(text, false).map_err(|error| error.to_string())?;
                encoding.get_ids().to_vec()
            }
            (None, Some(ids)) => ids.to_vec(),
            _ => return Err(format!("give either {name} or {name}_ids")),
        };
        let vocab_size = self.model.config().vocab_size;
        match ids.iter().find(|id| usize::try_from(**id).is_ok_and(|id| id >= vocab_size)) {
            Some(id) => Err(format!("{name}: id {id} is outside the vocabulary of {vocab_size}")),
            None => Ok(ids),
        }
    }
}

/// The tokenizer of a folder that has one.
fn tokenizer(folder: &Path) -> Result<Option<Tokenizer>, TrainError> {
    let path = folder.join(TOKENIZER_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    vocabulary::tokenizer(&json).map(Some).map_err(|error| TrainError::file(&path, error))
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Value>,
}

/// `eos_token_id` of `generation_config.json`: a number or a list.
fn generation_eos(path: &Path) -> Result<Option<Vec<u32>>, TrainError> {
    let path = path.join("generation_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    let config: GenerationConfig =
        serde_json::from_slice(&json).map_err(|error| TrainError::file(&path, error))?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match &config.eos_token_id {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(single) => id(single).map(|id| vec![id]),
    };
    ids.map(Some).ok_or_else(|| TrainError::file(&path, "eos_token_id is neither an id nor a list of ids"))
}
