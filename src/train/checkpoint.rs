//! Checkpoints: a Hugging Face folder with the optimiser's state beside it, written whole or not at all.
use super::{
    error::TrainError,
    optimizer::{AdamW, AdamWSettings, OPTIMIZER_FILE},
};
use crate::{
    bundle::{
        load::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
        manifest::sha256_hex_of,
        save::Staged,
    },
    model::{
        config::DecoderConfig,
        lora::{self, Lora},
        ops::Numerics,
        precision::Precision,
        transformer::Transformer,
        weights::{Checkpoint, Parameters},
    },
    text::prompt::PROMPT_VERSION,
};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

/// Adapters of a run that trains some, in PEFT's layout. In a folder of their own: the weights of the checkpoint hold them merged, and
/// who finds an adapter's configuration beside a model adds the adapter once more.
const ADAPTER_FOLDER: &str = "adapter";
const ADAPTER_FILE: &str = "adapter_model.safetensors";
const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
const STATE_FILE: &str = "state.json";
const PREFIX: &str = "step-";
/// Below a run's folder: the checkpoint that its watch chose.
const BEST: &str = "best";

/// Where a run stands. Order and content of batches follow from `step` and the settings' seed, so the
/// step is the data cursor too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens that carried loss so far.
    pub target_tokens: u64,
    /// Digest of the stage's settings and inputs: a resumed run must be the same run.
    pub settings_sha256: String,
    /// Version of the prompt that the stage read.
    pub prompt_version: u32,
}

impl RunState {
    /// Before the first step.
    pub fn start(settings_sha256: String) -> Self {
        Self { step: 0, target_tokens: 0, settings_sha256, prompt_version: PROMPT_VERSION }
    }
}

/// Everything a run needs to go on.
#[derive(Debug)]
pub struct Run {
    /// Shape of the network.
    pub config: DecoderConfig,
    /// Its weights.
    pub parameters: Parameters,
    /// The optimiser with its moments.
    pub optimizer: AdamW,
    /// Where the run stands.
    pub state: RunState,
    /// The model folder that adapters are trained on; None where every parameter is trained.
    pub adapted: Option<PathBuf>,
}

impl Run {
    /// The network as it stands, to write lists with.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn writer(&mut self) -> Result<Transformer, TrainError> {
        let device = self.parameters.vars().values().next().map_or(Device::Cpu, |var| var.device().clone());
        Ok(Precision::F32.load(&self.config, &mut self.parameters, &device)?)
    }
}

/// Writes a checkpoint below `out`, then deletes all but the newest `n_kept`; returns its folder.
/// # Errors
/// If the disk refuses.
pub fn save(out: &Path, run: &Run, tokenizer_json: &[u8], n_kept: usize) -> Result<PathBuf, TrainError> {
    std::fs::create_dir_all(out).map_err(TrainError::disk(out, "create"))?;
    let folder = out.join(format!("{PREFIX}{:08}", run.state.step));
    let state = serde_json::to_vec_pretty(&run.state).map_err(|error| TrainError::file(&folder, error))?;
    let files = vec![
        (CONFIG_FILE.to_owned(), run.config.to_json().into_bytes()),
        (WEIGHTS_FILE.to_owned(), run.parameters.to_safetensors(DType::F32)?),
        (TOKENIZER_FILE.to_owned(), tokenizer_json.to_vec()),
        (STATE_FILE.to_owned(), state),
    ];
    let staged = Staged::write(&folder, &files, STATE_FILE)?;
    // Of a large model the bytes of both do not fit beside them.
    drop(files);
    run.optimizer.write(&staged.path().join(OPTIMIZER_FILE))?;
    if let (Some(lora), Some(base)) = (run.parameters.lora(), &run.adapted) {
        let folder = staged.path().join(ADAPTER_FOLDER);
        write_file(&folder.join(ADAPTER_FILE), &run.parameters.adapters_to_safetensors()?)?;
        write_file(&folder.join(ADAPTER_CONFIG_FILE), &adapter_config(lora, base))?;
    }
    staged.publish()?;
    let all = list(out)?;
    for old in all.iter().rev().skip(n_kept.max(1)) {
        std::fs::remove_dir_all(old).map_err(TrainError::disk(old, "delete"))?;
    }
    Ok(folder)
}

/// Returns the newest checkpoint below `out`, where there is one.
/// # Errors
/// If the folder cannot be read.
pub fn latest(out: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(list(out)?.pop())
}

/// Keeps a run as it stands as the best so far, beside its own checkpoints and those that were the best before.
/// # Errors
/// If the disk refuses.
pub fn save_best(out: &Path, run: &Run, tokenizer_json: &[u8]) -> Result<PathBuf, TrainError> {
    save(&out.join(BEST), run, tokenizer_json, usize::MAX)
}

/// Deletes every best checkpoint but those of some steps.
/// # Errors
/// If the disk refuses.
pub fn keep_best(out: &Path, steps: &[u64]) -> Result<(), TrainError> {
    let kept: Vec<PathBuf> =
        steps.iter().map(|step| out.join(BEST).join(format!("{PREFIX}{step:08}"))).collect();
    for folder in list(&out.join(BEST))?.into_iter().filter(|folder| !kept.contains(folder)) {
        std::fs::remove_dir_all(&folder).map_err(TrainError::disk(&folder, "delete"))?;
    }
    Ok(())
}

/// Goes on with the newest checkpoint in `out`, or begins with the weights of a model folder; `lora`: with adapters of them, which
/// alone are trained.
/// # Errors
/// If a folder is broken, or the checkpoint was made with other settings.
pub fn resume_or_begin(
    out: &Path,
    (init, lora): (&Path, Option<Lora>),
    adamw: AdamWSettings,
    settings_sha256: String,
    device: &Device,
) -> Result<Run, TrainError> {
    let newest = latest(out)?;
    let Some(lora) = lora else {
        return match newest {
            Some(folder) => open(&folder, adamw, &settings_sha256, device),
            None => {
                let (config, parameters) = open_model(init, device)?;
                let optimizer = AdamW::new(adamw, parameters.vars());
                let state = RunState::start(settings_sha256);
                Ok(Run { config, parameters, optimizer, state, adapted: None })
            }
        };
    };
    let (config, parameters) = open_adapted(init, lora, device)?;
    let adapted = Some(init.to_owned());
    let Some(folder) = newest else {
        let optimizer = AdamW::new(adamw, parameters.vars());
        let state = RunState::start(settings_sha256);
        return Ok(Run { config, parameters, optimizer, state, adapted });
    };
    let state = same_run(&folder, &settings_sha256)?;
    let path = folder.join(ADAPTER_FOLDER).join(ADAPTER_FILE);
    let bytes = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    let file = Checkpoint::from_files(vec![(ADAPTER_FILE.to_owned(), bytes.into())], DType::F32, device)?;
    parameters.set_adapters(file)?;
    let optimizer = moments(&folder, adamw, &parameters, state.step)?;
    Ok(Run { config, parameters, optimizer, state, adapted })
}

/// Reads the weights of a model folder, frozen, with fresh adapters.
/// # Errors
/// If the folder does not hold a sound model.
pub fn open_adapted(
    folder: &Path,
    lora: Lora,
    device: &Device,
) -> Result<(DecoderConfig, Parameters), TrainError> {
    let config = config(folder)?;
    let mut parameters = Parameters::adapted(Checkpoint::open(folder, DType::F32, device)?, lora)?;
    // Adapters come to be when a network first asks for them.
    Transformer::load(&config, &mut parameters, Numerics::Train)?;
    Ok((config, parameters))
}

fn adapter_config(lora: Lora, base: &Path) -> Vec<u8> {
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.display().to_string(),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": lora::TARGETS,
    });
    format!("{config:#}").into_bytes()
}

/// Returns the model folder that a path means: the folder itself, or of a run's folder the best checkpoint where one was
/// chosen, else the newest.
/// # Errors
/// If none is there.
pub fn resolve(path: &Path) -> Result<PathBuf, TrainError> {
    if path.join(CONFIG_FILE).is_file() {
        return Ok(path.to_owned());
    }
    if let Some(best) = latest(&path.join(BEST))? {
        return Ok(best);
    }
    latest(path)?.ok_or_else(|| TrainError::file(path, "neither a model folder nor a run with checkpoints"))
}

/// Digest of a model folder's weights, read piece by piece: of the one file, or of the index and its shards one behind the other.
/// # Errors
/// If the folder holds no weights.
pub fn weights_digest(folder: &Path) -> Result<String, TrainError> {
    let files: Vec<PathBuf> = Checkpoint::files(folder)?.iter().map(|name| folder.join(name)).collect();
    sha256_hex_of(&files).map_err(TrainError::disk(folder, "read weights in"))
}

/// Reads the weights of a model folder for training, with the shape of the network.
/// # Errors
/// If the folder does not hold a sound model.
pub fn open_model(folder: &Path, device: &Device) -> Result<(DecoderConfig, Parameters), TrainError> {
    let config = config(folder)?;
    let parameters = Parameters::from_checkpoint(Checkpoint::open(folder, DType::F32, device)?)?;
    Ok((config, parameters))
}

/// Reads the shape of the network in a model folder.
/// # Errors
/// If it is missing or of no supported network.
pub fn config(folder: &Path) -> Result<DecoderConfig, TrainError> {
    let path = folder.join(CONFIG_FILE);
    let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    Ok(DecoderConfig::parse(&json, &path.display().to_string())?)
}

/// Reads a checkpoint back.
/// # Errors
/// If a file is missing or broken, or the checkpoint was made with other settings.
pub fn open(
    folder: &Path,
    adamw: AdamWSettings,
    settings_sha256: &str,
    device: &Device,
) -> Result<Run, TrainError> {
    let state = same_run(folder, settings_sha256)?;
    let (config, parameters) = open_model(folder, device)?;
    let optimizer = moments(folder, adamw, &parameters, state.step)?;
    Ok(Run { config, parameters, optimizer, state, adapted: None })
}

/// The state of a checkpoint that the settings made.
fn same_run(folder: &Path, settings_sha256: &str) -> Result<RunState, TrainError> {
    let state = state(folder)?.ok_or_else(|| TrainError::file(folder, "no state of a run"))?;
    if state.settings_sha256 != settings_sha256 {
        return Err(TrainError::file(folder, "made with other settings or data; choose another --out"));
    }
    Ok(state)
}

fn moments(
    folder: &Path,
    adamw: AdamWSettings,
    parameters: &Parameters,
    step: u64,
) -> Result<AdamW, TrainError> {
    let path = folder.join(OPTIMIZER_FILE);
    let moments = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    AdamW::from_safetensors(adamw, parameters.vars(), step, &moments)
}

/// Says where the run stood that wrote a checkpoint; None for a model folder that no run of ours wrote.
/// # Errors
/// If the state is there and broken.
pub fn state(folder: &Path) -> Result<Option<RunState>, TrainError> {
    let path = folder.join(STATE_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    serde_json::from_slice(&json).map(Some).map_err(|error| TrainError::file(&path, error))
}

/// Writes a file whole or not at all: beside its place first, then over what is there.
/// # Errors
/// If the disk refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let staging = path.with_extension("staging");
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(TrainError::disk(parent, "create"))?;
    }
    // On the disk before it has its name, or a machine that loses power may keep the name of an empty file.
    let written = File::create(&staging).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(TrainError::disk(&staging, "write"))?;
    std::fs::rename(&staging, path).map_err(TrainError::disk(path, "write"))
}

/// Complete checkpoints, oldest first. A write that was cut short has another name, so it is never seen here.
fn list(out: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !out.is_dir() {
        return Ok(Vec::new());
    }
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(out).map_err(TrainError::disk(out, "read"))? {
        let path = entry.map_err(TrainError::disk(out, "read"))?.path();
        let is_checkpoint = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if is_checkpoint && path.join(STATE_FILE).is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
