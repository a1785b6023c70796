//! `manifest.json`: what is in a bundle, with the sha256 of every file and where it came from.
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

/// Version of the folder's layout. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;

/// Name of the manifest in the folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What is read of a file at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Short stable id: first 16 hex digits of the manifest's sha256.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BundleId(pub String);

impl BundleId {
    /// Returns the id of a manifest as stored. Every file's digest is in there, so any other content has another id.
    pub fn of(manifest_json: &[u8]) -> Self {
        Self(sha256_hex(manifest_json)[..16].to_owned())
    }
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Digest in lower-case hex.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// What is in a bundle and how it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of the folder: [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Version of the prompt that the model was trained with.
    pub prompt_version: u32,
    /// Longest prompt that the model was trained on, in tokens; the server cuts prompts to it.
    pub prompt_tokens_max: usize,
    /// By relative file name: config.json, model.safetensors, tokenizer.json, `reward_head.safetensors`, ...
    pub files: BTreeMap<String, FileEntry>,
    /// The exact commands, in order, that made it.
    pub commands: Vec<String>,
    /// Seed of every stage.
    pub seeds: BTreeMap<String, u64>,
    /// Free facts: world name, steps, tokens seen, losses.
    pub training: BTreeMap<String, String>,
}

/// Returns the sha256 of bytes in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns the sha256 of files one behind the other in lower-case hex; they are read piece by piece.
/// # Errors
/// If one cannot be read.
pub fn sha256_hex_of(files: &[PathBuf]) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        let mut file = BufReader::with_capacity(PIECE_BYTES, File::open(path)?);
        loop {
            let piece = file.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            hash.update(piece);
            let n_bytes = piece.len();
            file.consume(n_bytes);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Returns bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
