//! Arguments of the small encoders.
use clap::Args;
use std::path::PathBuf;
use toml::Value;

/// Arguments of `cleaner`.
#[derive(Args, Debug)]
pub struct CleanerArgs {
    /// World folder. A generated one has the labels; validation readers are measured.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// JSON lines with `stream` (search or page), `text` and `label` (keep, malformed, navigational, automated) instead of
    /// the world's tags.
    #[arg(long)]
    pub(in super::super) labels: Option<PathBuf>,
    /// What both encoders take.
    #[command(flatten)]
    pub(in super::super) encoder: EncoderArgs,
}

/// Arguments of `embedder`.
#[derive(Args, Debug)]
pub struct EmbedderArgs {
    /// World folder; its articles published before the cutoff are read.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// What both encoders take.
    #[command(flatten)]
    pub(in super::super) encoder: EncoderArgs,
}

/// What both encoders take.
#[derive(Args, Debug)]
pub struct EncoderArgs {
    /// Folder to write, in Hugging Face's format.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    /// TOML file over the defaults; unknown keys are refused.
    #[arg(long)]
    pub(in super::super) settings: Option<PathBuf>,
    /// Updates.
    #[arg(long)]
    steps: Option<u32>,
    /// Seed of fresh weights and of the order of texts.
    #[arg(long)]
    seed: Option<u32>,
}

impl EncoderArgs {
    /// The flags that were given, by the keys of the settings.
    pub(in super::super) fn flags(&self) -> [(&'static str, Option<Value>); 2] {
        let value = |flag: Option<u32>| flag.map(|flag| Value::Integer(i64::from(flag)));
        [("steps", value(self.steps)), ("seed", value(self.seed))]
    }
}
