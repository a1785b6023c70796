//! Verified loading: nothing is used before every file's digest matched.
use super::archive;
use super::manifest::{BundleId, FORMAT_VERSION, MANIFEST_FILE, Manifest, sha256_hex};
use super::save::is_plain_name;
use crate::{
    cleaner::{Cleaner, CleanerError},
    lexicon::{self, Lexicon},
    model::{
        config::DecoderConfig,
        precision::Precision,
        reward_head::RewardHead,
        transformer::Transformer,
        weights::{Checkpoint, ModelError},
    },
    text::{
        prompt::{self, PROMPT_VERSION},
        tokens::{Tokens, TokensError},
    },
};
use candle_core::{DType, Device};
use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::Arc};
use thiserror::Error;

/// The network's shape.
pub const CONFIG_FILE: &str = "config.json";
/// The network's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The reward head; a bundle may lack it.
pub const HEAD_FILE: &str = "reward_head.safetensors";

/// Config, weights and tokenizer of the signal cleaner; a bundle has all three or none.
pub const CLEANER_FILES: [&str; 3] = ["cleaner_config.json", "cleaner.safetensors", "cleaner_tokenizer.json"];

/// Where a bundle lies.
#[derive(Clone, Copy, Debug)]
pub enum BundleSource<'a> {
    /// A folder, or a tar archive of one.
    At(&'a Path),
    /// Files compiled into the program: name and bytes.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// Why a bundle is refused; the file is named.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file is missing, too many, unreadable or holds something wrong.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file's content is not what the manifest says.
    #[error("{file}: sha256 is {got}, manifest says {expected}")]
    Digest {
        /// The file.
        file: String,
        /// Digest of what was read.
        got: String,
        /// Digest in the manifest.
        expected: String,
    },
    /// The weights could not be used.
    #[error("model could not be loaded")]
    Model(#[from] ModelError),
    /// The cleaner could not be used.
    #[error("cleaner could not be loaded")]
    Cleaner(#[from] CleanerError),
    /// The tokenizer could not be used.
    #[error("tokenizer could not be loaded")]
    Tokens(#[from] TokensError),
}

/// A model ready to serve.
#[derive(Debug)]
pub struct Bundle {
    /// Short id of exactly this content.
    pub id: BundleId,
    /// What the bundle says of itself.
    pub manifest: Manifest,
    /// The tokenizer.
    pub tokens: Tokens,
    /// The network.
    pub model: Transformer,
    /// The reward head, where there is one.
    pub head: Option<RewardHead>,
    /// What signals mean to the head, where it reads that.
    pub lexicon: Option<Arc<Lexicon>>,
    /// The signal cleaner, where there is one.
    pub cleaner: Option<Cleaner>,
}

/// A bundle's files by name.
pub(super) type Contents = BTreeMap<String, Cow<'static, [u8]>>;

/// Reads a bundle, checks every file against the manifest and builds the network for serving, in `precision` on `device`. Cleaner and
/// head stay in f32 on the CPU.
/// # Errors
/// If a file is missing, too many, changed or does not fit the others.
pub fn load(source: BundleSource<'_>, precision: Precision, device: &Device) -> Result<Bundle, BundleError> {
    let (id, manifest, mut files) = verified(source)?;
    let tokens = Tokens::from_bytes(&take(&mut files, TOKENIZER_FILE)?)?;
    let config = DecoderConfig::parse(&take(&mut files, CONFIG_FILE)?, CONFIG_FILE)?;
    if tokens.n_tokens() > config.vocab_size {
        let reason = format!("{} tokens, the model has {}", tokens.n_tokens(), config.vocab_size);
        return Err(file_error(TOKENIZER_FILE, reason));
    }
    let is_written = |id: &u32| config.output_ids.column(*id).is_some();
    if !is_written(&tokens.im_end()) || !tokens.boundary_ids().iter().any(is_written) {
        let reason = "output_ids lack what ends a list or a query, so that no list could be written";
        return Err(file_error(CONFIG_FILE, reason.to_owned()));
    }
    let (got, min, max) = (manifest.prompt_tokens_max, prompt::budget_min(&tokens), config.max_positions);
    if !(min..=max).contains(&got) {
        let reason = format!("prompt_tokens_max is {got}, tokenizer and model allow {min} to {max}");
        return Err(file_error(MANIFEST_FILE, reason));
    }
    let weights = vec![(WEIGHTS_FILE.to_owned(), take(&mut files, WEIGHTS_FILE)?)];
    let mut checkpoint = Checkpoint::from_files(weights, precision.dtype(), device)?;
    let model = precision.load(&config, &mut checkpoint, device)?;
    let (head, lexicon) = match files.remove(HEAD_FILE) {
        Some(bytes) => {
            let (head, lexicon) = self::head(bytes, config.hidden_size)?;
            (Some(head), lexicon)
        }
        None => (None, None),
    };
    let cleaner = cleaner(&mut files)?;
    Ok(Bundle { id, manifest, tokens, model, head, lexicon, cleaner })
}

/// A reward head, and the lexicon in the same file where it reads one.
///
/// The head is tiny and its scores are compared closely: it stays in f32 on the CPU, wherever the network computes.
/// # Errors
/// If the file is none, or its head was fitted to another network or to other numbers of its lexicon.
pub fn head(
    bytes: Cow<'static, [u8]>,
    hidden_size: usize,
) -> Result<(RewardHead, Option<Arc<Lexicon>>), BundleError> {
    let lexicon = lexicon::file::read(&bytes).map_err(|reason| file_error(HEAD_FILE, reason))?;
    let mut source = Checkpoint::from_files(vec![(HEAD_FILE.to_owned(), bytes)], DType::F32, &Device::Cpu)?;
    let head = RewardHead::load(&mut source, hidden_size, lexicon.is_some()).map_err(|error| {
        // What is read of a lexicon changes between versions, and with it the width.
        if lexicon.is_some() && matches!(error, ModelError::WrongShape { .. }) {
            let reason = format!("does not fit this network or this version, fit it anew ({error})");
            file_error(HEAD_FILE, reason)
        } else {
            error.into()
        }
    })?;
    Ok((head, lexicon.map(Arc::new)))
}

fn cleaner(files: &mut Contents) -> Result<Option<Cleaner>, BundleError> {
    if !CLEANER_FILES.iter().any(|name| files.contains_key(*name)) {
        return Ok(None);
    }
    let [config, weights, tokenizer] = CLEANER_FILES.map(|name| take(files, name));
    Ok(Some(Cleaner::from_files(&config?, weights?, &tokenizer?)?))
}

/// Reads a bundle's files, the manifest among them, and checks them against the manifest, without building a network.
/// # Errors
/// If a file is missing, too many or changed, or the versions are not ours.
pub fn verified(source: BundleSource<'_>) -> Result<(BundleId, Manifest, Contents), BundleError> {
    let files = read(source)?;
    let json = files.get(MANIFEST_FILE).ok_or_else(|| file_error(MANIFEST_FILE, "missing".to_owned()))?;
    let version: VersionOnly = parse_manifest(json)?;
    if version.format_version != FORMAT_VERSION {
        let reason = format!("format version {}, this build reads {FORMAT_VERSION}", version.format_version);
        return Err(file_error(MANIFEST_FILE, reason));
    }
    let manifest: Manifest = parse_manifest(json)?;
    if manifest.prompt_version != PROMPT_VERSION {
        let reason =
            format!("prompt version {}, this build writes {PROMPT_VERSION}", manifest.prompt_version);
        return Err(file_error(MANIFEST_FILE, reason));
    }
    if let Some(name) =
        files.keys().find(|name| *name != MANIFEST_FILE && !manifest.files.contains_key(*name))
    {
        return Err(file_error(name, "not in the manifest".to_owned()));
    }
    for (name, entry) in &manifest.files {
        let bytes = files.get(name).ok_or_else(|| file_error(name, "missing".to_owned()))?;
        let got = sha256_hex(bytes);
        if got != entry.sha256 || bytes.len() as u64 != entry.bytes {
            return Err(BundleError::Digest { file: name.clone(), got, expected: entry.sha256.clone() });
        }
    }
    Ok((BundleId::of(json), manifest, files))
}

/// Read before the rest of the manifest, whose fields another version may change.
#[derive(serde::Deserialize)]
struct VersionOnly {
    format_version: u32,
}

fn parse_manifest<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(json).map_err(|error| file_error(MANIFEST_FILE, error.to_string()))
}

fn read(source: BundleSource<'_>) -> Result<Contents, BundleError> {
    match source {
        BundleSource::Embedded(files) => {
            Ok(files.iter().map(|(name, bytes)| ((*name).to_owned(), Cow::Borrowed(*bytes))).collect())
        }
        BundleSource::At(path) if path.is_file() => archive::read(path),
        BundleSource::At(dir) => read_dir(dir),
    }
}

fn read_dir(dir: &Path) -> Result<Contents, BundleError> {
    let folder = |error: std::io::Error| file_error(&dir.display().to_string(), error.to_string());
    let mut files = Contents::new();
    for entry in std::fs::read_dir(dir).map_err(folder)? {
        let entry = entry.map_err(folder)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_plain_name(&name) {
            return Err(file_error(&name, "not a plain file name".to_owned()));
        }
        let bytes = std::fs::read(entry.path()).map_err(|error| file_error(&name, error.to_string()))?;
        files.insert(name, Cow::Owned(bytes));
    }
    Ok(files)
}

fn take(files: &mut Contents, name: &str) -> Result<Cow<'static, [u8]>, BundleError> {
    files.remove(name).ok_or_else(|| file_error(name, "missing".to_owned()))
}

pub(super) fn file_error(file: &str, reason: String) -> BundleError {
    BundleError::File { file: file.to_owned(), reason }
}
