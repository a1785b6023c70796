//! Arguments of the small encoders, and of the index that one of them makes.
use clap::{Args, Subcommand, ValueEnum};
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

/// What can be done with a news index.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Embed a catalogue and save the index of it.
    Build {
        /// Catalogue: .tsv, .jsonl or .parquet.
        #[arg(long)]
        catalogue: PathBuf,
        /// Sentence-transformers folder.
        #[arg(long)]
        embedder: PathBuf,
        /// How vectors are searched.
        #[arg(long, value_enum, default_value_t = VectorMethod::Exact)]
        method: VectorMethod,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Search for a list of queries, by words and by vectors, one article a story. Prints JSON lines, the best article first.
    Search {
        /// Index folder.
        #[arg(long)]
        index: PathBuf,
        /// The sentence-transformers folder that the index was built with.
        #[arg(long)]
        embedder: PathBuf,
        /// A query of the list; repeat for each.
        #[arg(long = "query", required = true)]
        queries: Vec<String>,
        /// Only articles alive at this Unix time, seconds.
        #[arg(long)]
        as_of: Option<i64>,
        /// Most articles.
        #[arg(long, default_value_t = 10)]
        k: usize,
    },
}

/// How vectors are searched.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VectorMethod {
    /// All are compared.
    Exact,
    /// A graph leads to most of the nearest; it pays beyond some fifty thousand articles.
    Hnsw,
}
