//! A trained model to a bundle: weights in f16, or in 8 bits where `quantize` has rounded them, tokenizer, head, and how all of it was made.
use super::{
    checkpoint,
    error::TrainError,
    fit::DEVICE,
    quantize::{COST_FILE, cost::Cost},
};
use crate::{
    bundle::{
        load::{CLEANER_FILES, CONFIG_FILE, HEAD_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
        manifest::{FORMAT_VERSION, Manifest, sha256_hex},
        save::{self, Files},
    },
    model::weights::Checkpoint,
    text::prompt::PROMPT_VERSION,
};
use candle_core::DType;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Figures of a bundle, for people.
const CARD_FILE: &str = "CARD.md";

/// What goes into a bundle.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Model folder or run.
    pub model: PathBuf,
    /// Folder with tokenizer.json.
    pub tokenizer: PathBuf,
    /// The reward head, where there is one.
    pub head: Option<PathBuf>,
    /// Folder of the signal cleaner, where there is one.
    pub cleaner: Option<PathBuf>,
    /// Other files by name, such as a catalogue.
    pub others: Files,
    /// Tables in Markdown for its card; without any it has none.
    pub figures: Vec<String>,
    /// Most bytes of all files together, where there is a limit.
    pub bytes_max: Option<u64>,
}

/// What a bundle says of itself.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Longest prompt of training, in tokens.
    pub prompt_tokens_max: usize,
    /// The commands that made it, in order.
    pub commands: Vec<String>,
    /// Seed of every stage.
    pub seeds: BTreeMap<String, u64>,
    /// Free facts.
    pub training: BTreeMap<String, String>,
}

/// Writes a bundle's folder, whole or not at all; returns the manifest. A model folder of others counts as trained with
/// this build's prompt.
/// # Errors
/// If a part cannot be read, the model was trained with another prompt, the files are too large, they do not fit each other,
/// or the folder cannot be written.
pub fn run(parts: Parts, provenance: Provenance, out: &Path) -> Result<Manifest, TrainError> {
    let model = checkpoint::resolve(&parts.model)?;
    check_prompt(&model)?;
    let (config, parameters) = checkpoint::open_model(&model, &DEVICE)?;
    let in_8_bits = Checkpoint::open(&model, DType::F32, &DEVICE)?.is_rounded();
    let weights = if in_8_bits {
        parameters.to_rounded_safetensors()?
    } else {
        parameters.to_safetensors(DType::F16)?
    };
    let (_tokens, tokenizer) = super::tokenizer::read(&parts.tokenizer)?;
    let mut files = vec![
        (CONFIG_FILE.to_owned(), config.to_json().into_bytes()),
        (WEIGHTS_FILE.to_owned(), weights),
        (TOKENIZER_FILE.to_owned(), tokenizer),
    ];
    if let Some(head) = &parts.head {
        files.push((HEAD_FILE.to_owned(), std::fs::read(head).map_err(TrainError::disk(head, "read"))?));
    }
    if let Some(folder) = &parts.cleaner {
        for (name, file) in CLEANER_FILES.into_iter().zip([CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE]) {
            let path = folder.join(file);
            files.push((name.to_owned(), std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?));
        }
    }
    files.extend(parts.others);
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: provenance.name,
        version: provenance.version,
        prompt_version: PROMPT_VERSION,
        prompt_tokens_max: provenance.prompt_tokens_max,
        files: BTreeMap::new(),
        commands: provenance.commands,
        seeds: provenance.seeds,
        training: provenance.training.into_iter().chain(weights_facts(&model, in_8_bits)?).collect(),
    };
    if !parts.figures.is_empty() {
        files.push((CARD_FILE.to_owned(), card(&manifest, &parts.figures, &files).into_bytes()));
    }
    let n_bytes: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    if let Some(max) = parts.bytes_max.filter(|max| n_bytes > *max) {
        return Err(TrainError::file(out, format!("{n_bytes} bytes, may have {max}")));
    }
    Ok(save::save(out, manifest, files)?)
}

/// What people read of a bundle: its figures, and what the manifest says.
fn card(manifest: &Manifest, figures: &[String], files: &Files) -> String {
    let Manifest { name, version, commands, seeds, training, .. } = manifest;
    let rows = |rows: Vec<String>| rows.join("\n");
    let seeds = rows(seeds.iter().map(|(stage, seed)| format!("| {} | {seed} |", cell(stage))).collect());
    let fact = |(fact, of): (&String, &String)| format!("| {} | {} |", cell(fact), cell(of));
    let training = rows(training.iter().map(fact).collect());
    let file = |(name, bytes): &(String, Vec<u8>)| {
        format!("| {} | {} | {} |", cell(name), bytes.len(), sha256_hex(bytes))
    };
    let files = rows(files.iter().map(file).collect());
    let (figures, commands) = (figures.join("\n"), commands.join("\n"));
    format!(
        "# {name} {version}\n\n{figures}\n\n## How it was made\n\n```sh\n{commands}\n```\n\n\
         | stage | seed |\n|---|---|\n{seeds}\n\n| fact | |\n|---|---|\n{training}\n\n\
         ## Files\n\n| file | bytes | sha256 |\n|---|---|---|\n{files}\n"
    )
}

/// Text as a cell of a table in Markdown, which a bar or the end of a line would end.
fn cell(text: &str) -> String {
    text.replace('\\', r"\\").replace('|', r"\|").replace(['\r', '\n'], " ")
}

/// What the manifest says of weights.
fn weights_facts(model: &Path, in_8_bits: bool) -> Result<Vec<(String, String)>, TrainError> {
    let how = if in_8_bits { "8 bits, rounded per output" } else { "f16" };
    let mut facts = vec![("weights".to_owned(), how.to_owned())];
    let path = model.join(COST_FILE);
    if path.is_file() {
        let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
        let Cost { kl_nats_per_token, tokens, lists } =
            serde_json::from_slice(&json).map_err(|error| TrainError::file(&path, error))?;
        let cost = format!("{kl_nats_per_token:.2e} nats a token, the mean of {tokens} in {lists} lists");
        facts.push(("weights.kl".to_owned(), cost));
    }
    Ok(facts)
}

/// A model reads only prompts like those it was trained on.
fn check_prompt(model: &Path) -> Result<(), TrainError> {
    match checkpoint::state(model)?.map(|state| state.prompt_version) {
        Some(version) if version != PROMPT_VERSION => {
            let reason = format!(
                "trained with prompt version {version}, this build writes {PROMPT_VERSION}; train it again"
            );
            Err(TrainError::file(model, reason))
        }
        Some(_) | None => Ok(()),
    }
}
