//! What the command line of the trainer accepts.
pub mod encoders;
pub mod measuring;
pub mod stages;

use super::{error::TrainError, generate::GenerateSettings};
use crate::decode::sampler::SamplerSettings;
use clap::{Args, Subcommand, ValueEnum};
use encoders::{CleanerArgs, EmbedderArgs, IndexCommand};
use measuring::{BaselineArgs, EvalArgs, HeldOutSplit, MeasureArgs, ReportArgs};
use stages::{
    HeadArgs, PipelineArgs, PretrainArgs, PromptsArgs, RubricArgs, ServeRewardArgs, SftArgs, StudentArgs,
    TeacherArgs, TokenizerArgs,
};
use std::path::PathBuf;

/// Most continuations of one prompt: they are decoded side by side, and more would not fit the memory of a small machine.
const CONTINUATIONS_MAX: usize = 256;

/// What the trainer can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The synthetic world.
    #[command(subcommand)]
    World(WorldCommand),
    /// A platform's own log instead of a world.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Train the byte-level BPE tokenizer on a world's texts.
    Tokenizer(TokenizerArgs),
    /// Train a fresh student on a world's articles and traces; resumes by itself.
    Pretrain(PretrainArgs),
    /// Fine-tune a student: signals to lists of queries; resumes by itself.
    Sft(SftArgs),
    /// Train a fine-tuned student further by Dr.GRPO on the five rewards; resumes by itself.
    Teacher(TeacherArgs),
    /// The prompts that a teacher asks, as JSON lines with `prompt_ids`, `prompt` and `label`: for an engine elsewhere that samples lists
    /// for them, or a trainer elsewhere that asks `serve-reward` what its lists are worth.
    Prompts(PromptsArgs),
    /// The composite reward of the five over OpenRLHF's wire, for trainers elsewhere; until interrupted.
    ServeReward(ServeRewardArgs),
    /// Distil a teacher into a student, by default on the student's own lists; resumes by itself.
    Student(StudentArgs),
    /// Fit the reward head on lists sampled for training readers that fine-tuning left out.
    Head(HeadArgs),
    /// Fit the rubric, an optional reward of `teacher`: a network that tells whole lists from corrupted ones, beside rules.
    Rubric(RubricArgs),
    /// Train the signal cleaner on labelled signals, and measure what cleaning is worth.
    Cleaner(CleanerArgs),
    /// Train a small sentence embedder on a world's articles.
    Embedder(EmbedderArgs),
    /// A news index by words and vectors.
    #[command(subcommand)]
    Index(IndexCommand),
    /// Write a model folder with weights in 8 bits, a quarter of f32's size, in the format of compressed-tensors.
    Quantize {
        /// Model folder or run's folder.
        #[arg(long)]
        model: PathBuf,
        /// JSON lines with `prompt_ids`, as `prompts` writes them: what 8 bits cost is measured on lists for them, and bundles say it.
        #[arg(long)]
        prompts: Option<PathBuf>,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Pack a model, its tokenizer and its head into a bundle.
    Bundle(BundleArgs),
    /// Run every stage in its order, pack the bundle and measure it on validation readers; what is done is not run again.
    Pipeline(PipelineArgs),
    /// Run the pipeline's demo profile and write the demo bundle; stages that are done are not run again.
    DemoBundle {
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
        /// Folder for what the stages leave.
        #[arg(long, default_value = "work")]
        work: PathBuf,
        /// World folder instead of a fresh one.
        #[arg(long)]
        world: Option<PathBuf>,
        /// A file with tables, as `eval` and `baselines` print them, for the bundle's CARD.md; repeat for each.
        #[arg(long)]
        figures: Vec<PathBuf>,
    },
    /// Figures of a bundle on held-out readers: validity, Recall@10, intervals.
    Eval(EvalArgs),
    /// Train and measure what a platform has without us: popularity, copied signals, mean vectors, sequence models over articles.
    Baselines(BaselineArgs),
    /// Measures of rankings in TREC's run format against clicks in its qrels format.
    Measure(MeasureArgs),
    /// What runs went through, as a page: a curve of every figure, and lists before and after side by side.
    Report(ReportArgs),
    /// Log-probabilities of given completions. Standard input: JSON lines with `prompt` or `prompt_ids`, and `completion` or
    /// `completion_ids`; standard output: JSON lines in the same order.
    Score(ScoreArgs),
    /// Continuations of prompts. Standard input: JSON lines with `prompt` or `prompt_ids`; standard output: JSON lines in the
    /// same order.
    Generate(GenerateArgs),
}

/// What can be done with worlds.
#[derive(Debug, Subcommand)]
pub enum WorldCommand {
    /// Generate a world: the same size and seed give the same bytes.
    Generate {
        /// How large.
        #[arg(long, value_enum)]
        size: WorldSize,
        /// Readers in all, divided among train, valid and test as the size divides its own; as many as it has if absent.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        readers: Option<u64>,
        /// Seed of everything in it.
        #[arg(long)]
        seed: u64,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Measure the gates that a world must pass before anything is trained on it; a failed gate is a failure.
    Check {
        /// World folder.
        #[arg(long)]
        world: PathBuf,
        /// Most readers that are asked.
        #[arg(long, default_value_t = 2_000)]
        users: usize,
        /// Most of them for whom lists are searched by reward alone.
        #[arg(long, default_value_t = 150)]
        climbers: usize,
        /// Of which split.
        #[arg(long, value_enum, default_value_t = HeldOutSplit::Valid)]
        split: HeldOutSplit,
        /// Seed of the choice of readers and of the intervals.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// What can be imported.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Folders in MIND's format, with news.tsv and behaviors.tsv.
    Mind {
        /// Folders of one log.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// Where it goes and what it may hold.
        #[command(flatten)]
        args: ImportArgs,
    },
    /// Event files, .jsonl or .parquet, with a catalogue.
    Events {
        /// Event files of one platform.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Catalogue of its articles, .jsonl, .tsv or .parquet.
        #[arg(long)]
        catalogue: PathBuf,
        /// Where it goes and what it may hold.
        #[command(flatten)]
        args: ImportArgs,
    },
}

/// Arguments of every import.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// Folder to write.
    #[arg(long)]
    pub(super) out: PathBuf,
    /// Refuse the log if a single row is bad.
    #[arg(long)]
    pub(super) strict: bool,
    /// Unix time that parts past and held out; 24 hours before the last event if absent.
    #[arg(long)]
    pub(super) cutoff: Option<i64>,
}

/// Sizes by the names that `--size` takes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WorldSize {
    /// 24 interests, 360 readers: for tests
    Tiny,
    /// 240 interests, 6,000 readers
    Small,
    /// 240 interests, 28,000 readers: what the demo's student is trained on
    Full,
}

/// Arguments of `bundle`.
#[derive(Args, Debug)]
pub struct BundleArgs {
    /// What goes into it.
    #[command(flatten)]
    pub(super) inputs: BundleInputs,
    /// Name of the model.
    #[arg(long)]
    pub(super) name: String,
    /// Version of the model.
    #[arg(long)]
    pub(super) version: String,
    /// Longest prompt it was fine-tuned on, in tokens; the server cuts prompts to it.
    #[arg(long, default_value_t = super::settings::PROMPT_TOKENS)]
    pub(super) prompt_tokens: usize,
    /// World folder whose articles and some of whose readers the server's demo shows: makes a demo bundle, which is compiled into the server.
    #[arg(long)]
    pub(super) shown: Option<PathBuf>,
    /// A command that made it, in order; repeat for each.
    #[arg(long = "command")]
    pub(super) commands: Vec<String>,
    /// Seed of a stage as stage=number; repeat for each.
    #[arg(long = "seed", value_parser = stage_seed)]
    pub(super) seeds: Vec<(String, u64)>,
    /// A file with tables, as `eval` and `baselines` print them, for the bundle's CARD.md; repeat for each.
    #[arg(long)]
    pub(super) figures: Vec<PathBuf>,
    /// Folder to write.
    #[arg(long)]
    pub(super) out: PathBuf,
    /// Tar archive of the bundle to write, too: one file, which servers load as well.
    #[arg(long)]
    pub(super) archive: Option<PathBuf>,
}

/// What goes into a bundle.
#[derive(Args, Debug)]
pub struct BundleInputs {
    /// Model folder or run's folder.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// Folder with tokenizer.json.
    #[arg(long)]
    pub(super) tokenizer: PathBuf,
    /// Reward head.
    #[arg(long)]
    pub(super) head: Option<PathBuf>,
    /// Folder of the signal cleaner.
    #[arg(long)]
    pub(super) cleaner: Option<PathBuf>,
}

fn stage_seed(text: &str) -> Result<(String, u64), String> {
    let (stage, seed) = text.split_once('=').ok_or("expected stage=number")?;
    Ok((stage.to_owned(), seed.parse().map_err(|_| format!("{seed} is not a seed"))?))
}

/// Arguments of `score`.
#[derive(Args, Debug)]
pub struct ScoreArgs {
    /// Model folder: unmodified Hugging Face layout, or a run's folder; or a GGUF file, with tokenizer.json beside it where there is text.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// Divides the logits before the softmax.
    #[arg(long, default_value_t = 1.0)]
    pub(super) temperature: f64,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Model folder: unmodified Hugging Face layout, or a run's folder; or a GGUF file, with tokenizer.json beside it where there is text.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// Always take the likeliest token.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k", "seed", "n"])]
    pub(super) greedy: bool,
    /// Most new tokens, the stop token included.
    #[arg(long, default_value_t = 64)]
    pub(super) max_new_tokens: usize,
    /// Divides the logits before the softmax.
    #[arg(long, default_value_t = 0.8)]
    pub(super) temperature: f32,
    /// Tokens are drawn from the fewest that hold this probability; 1 switches it off.
    #[arg(long, default_value_t = 1.0)]
    pub(super) top_p: f32,
    /// Tokens are drawn from this many likeliest; 0 switches it off.
    #[arg(long, default_value_t = 0)]
    pub(super) top_k: usize,
    /// Seed of the first continuation.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Continuations per prompt.
    #[arg(long, default_value_t = 1)]
    pub(super) n: usize,
}

impl GenerateArgs {
    pub(super) fn settings(&self) -> Result<GenerateSettings, TrainError> {
        let wrong = |reason: String| Err(TrainError::Settings { reason });
        let can_draw = self.temperature.is_finite() && self.temperature > 0.0;
        if !self.greedy && !can_draw {
            return wrong(format!(
                "temperature is {}, it must be above 0; --greedy takes the likeliest",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong(format!("top-p is {}, it must be above 0 and at most 1", self.top_p));
        }
        if !(1..=CONTINUATIONS_MAX).contains(&self.n) || self.max_new_tokens == 0 {
            return wrong(format!("--n must be 1 to {CONTINUATIONS_MAX}, --max-new-tokens at least 1"));
        }
        let temperature = if self.greedy { 0.0 } else { self.temperature };
        // Nothing of our own: other tools repeat themselves too, and a comparison with them must not fail on it.
        let sampler =
            SamplerSettings { temperature, top_k: self.top_k, top_p: self.top_p, ..SamplerSettings::PLAIN };
        Ok(GenerateSettings { sampler, max_new_tokens: self.max_new_tokens, n: self.n, seed: self.seed })
    }
}
