//! `manifest.json`: what is in a bundle, with the sha256 of every file and where it came from.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const FORMAT_VERSION: u32 = 1;

/// Short stable id: first 16 hex digits of the manifest's sha256.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BundleId(pub String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry { pub sha256: String, pub bytes: u64 }

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format_version: u32,
    pub name: String,
    pub version: String,
    pub prompt_version: u32,
    /// f32 | f16 | bf16, as stored.
    pub weights_dtype: String,
    /// By relative file name: config.json, model.safetensors, tokenizer.json, reward_head.safetensors, ...
    pub files: BTreeMap<String, FileEntry>,
    /// The exact commands, in order, that made it.
    pub commands: Vec<String>,
    pub seeds: BTreeMap<String, u64>,
    /// Free facts: world name, steps, tokens seen, losses.
    pub training: BTreeMap<String, String>,
}
