//! The trainer's commands: arguments in, one call of a stage.
use super::{
    error::TrainError,
    events::{Scope, World},
    generate::{self, GenerateSettings},
    journal::progress_bar,
    model_folder::ModelFolder,
    pretrain, score,
    settings::{PretrainSettings, SftSettings, layered},
    sft, tokenizer,
};
use crate::{
    decode::sampler::SamplerSettings,
    world::{self, Size, WorldSettings},
};
use clap::{Args, Subcommand, ValueEnum};
use std::{
    io::{Write, stdin},
    path::PathBuf,
};
use toml::Value;

/// What the trainer can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The synthetic world.
    #[command(subcommand)]
    World(WorldCommand),
    /// Train the byte-level BPE tokenizer on a world's texts.
    Tokenizer(TokenizerArgs),
    /// Train a fresh student on a world's articles and traces; resumes by itself.
    Pretrain(PretrainArgs),
    /// Fine-tune a student: signals to lists of queries; resumes by itself.
    Sft(SftArgs),
    /// Log-probabilities of given completions: JSON lines in, JSON lines out.
    Score(ScoreArgs),
    /// Continuations of prompts: JSON lines in, JSON lines out.
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
        /// Seed of everything in it.
        #[arg(long)]
        seed: u64,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Sizes by the names that `--size` takes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WorldSize {
    /// For tests.
    Tiny,
    /// For the demo student.
    Small,
    /// For studies.
    Full,
}

/// Arguments of `tokenizer`.
#[derive(Args, Debug)]
pub struct TokenizerArgs {
    /// World folder.
    #[arg(long)]
    world: PathBuf,
    /// Tokens in all, control tokens included. 4096: most words of the demo world are one token.
    #[arg(long, default_value_t = 4096)]
    vocab_size: usize,
    /// Folder to write tokenizer.json into.
    #[arg(long)]
    out: PathBuf,
}

/// Arguments of `pretrain`.
#[derive(Args, Debug)]
pub struct PretrainArgs {
    /// World folder.
    #[arg(long)]
    world: PathBuf,
    /// Folder with tokenizer.json.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Folder of the run: checkpoints, metrics.jsonl, loss.svg.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    fit: FitArgs,
}

/// Arguments of `sft`.
#[derive(Args, Debug)]
pub struct SftArgs {
    /// World folder.
    #[arg(long)]
    world: PathBuf,
    /// Folder with tokenizer.json.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Model to start from: a model folder or a run's folder.
    #[arg(long)]
    init: PathBuf,
    /// Folder of the run: checkpoints, metrics.jsonl, loss.svg.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    fit: FitArgs,
}

/// What both loops let the command line change; everything else is in the settings file.
#[derive(Args, Debug)]
pub struct FitArgs {
    /// TOML file over the defaults; unknown keys are refused.
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Optimiser steps.
    #[arg(long)]
    steps: Option<u32>,
    /// Seed of parameters and order.
    #[arg(long)]
    seed: Option<u32>,
}

impl FitArgs {
    fn flags(&self) -> [(&'static str, Option<Value>); 2] {
        let value = |flag: Option<u32>| flag.map(|flag| Value::Integer(i64::from(flag)));
        [("fit.steps", value(self.steps)), ("fit.seed", value(self.seed))]
    }
}

/// Arguments of `score`.
#[derive(Args, Debug)]
pub struct ScoreArgs {
    /// Model folder: unmodified Hugging Face layout, or a run's folder.
    #[arg(long)]
    model: PathBuf,
    /// Divides the logits before the softmax.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Model folder: unmodified Hugging Face layout, or a run's folder.
    #[arg(long)]
    model: PathBuf,
    /// Always take the likeliest token.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k", "seed", "n"])]
    greedy: bool,
    /// Most new tokens, the stop token included.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Divides the logits before the softmax.
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Tokens are drawn from the fewest that hold this probability; 1 switches it off.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Tokens are drawn from this many likeliest; 0 switches it off.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Seed of the first continuation.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Continuations per prompt.
    #[arg(long, default_value_t = 1)]
    n: usize,
}

impl GenerateArgs {
    fn settings(&self) -> Result<GenerateSettings, TrainError> {
        let wrong = |reason: String| Err(TrainError::Settings { reason });
        if !self.greedy && !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong(format!(
                "temperature is {}, it must be above 0; --greedy takes the likeliest",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong(format!("top-p is {}, it must be above 0 and at most 1", self.top_p));
        }
        if self.n == 0 || self.max_new_tokens == 0 {
            return wrong("--n and --max-new-tokens must be at least 1".to_owned());
        }
        let temperature = if self.greedy { 0.0 } else { self.temperature };
        let sampler = SamplerSettings {
            temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: 0.0,
            repetition_penalty: 1.0,
        };
        Ok(GenerateSettings { sampler, max_new_tokens: self.max_new_tokens, n: self.n, seed: self.seed })
    }
}

/// Runs one command; what it has to say goes to `output`.
/// # Errors
/// What the command's stage says.
pub fn run(command: Command, output: &mut dyn Write) -> Result<(), TrainError> {
    match command {
        Command::World(WorldCommand::Generate { size, seed, out }) => {
            let size = match size {
                WorldSize::Tiny => Size::Tiny,
                WorldSize::Small => Size::Small,
                WorldSize::Full => Size::Full,
            };
            let bar = progress_bar("world", 0);
            let mut progress = |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            };
            let summary = world::generate(&WorldSettings { size, seed }, &out, &mut progress)?;
            bar.finish();
            let json = serde_json::to_string(&summary).map_err(|error| TrainError::file(&out, error))?;
            say(output, &json)
        }
        Command::Tokenizer(args) => {
            tokenizer::run(&World::read(&args.world, Scope::Training)?, args.vocab_size, &args.out)
        }
        Command::Pretrain(args) => {
            let settings =
                layered(&PretrainSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
            let world = World::read(&args.world, Scope::Training)?;
            let folder = pretrain::run(&world, &args.tokenizer, &settings, &args.out)?;
            say(output, &folder.display())
        }
        Command::Sft(args) => {
            let settings = layered(&SftSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
            let world = World::read(&args.world, Scope::Training)?;
            let (tokens, json) = tokenizer::read(&args.tokenizer)?;
            let folder = sft::run(&world, (&tokens, &json), &args.init, &settings, &args.out)?;
            say(output, &folder.display())
        }
        Command::Score(args) => {
            score::run(&ModelFolder::open(&args.model)?, args.temperature, &mut stdin().lock(), output)
        }
        Command::Generate(args) => {
            let settings = args.settings()?;
            generate::run(ModelFolder::open(&args.model)?, settings, &mut stdin().lock(), output)
        }
    }
}

fn say(output: &mut dyn Write, line: &dyn std::fmt::Display) -> Result<(), TrainError> {
    writeln!(output, "{line}").map_err(TrainError::disk("standard output".as_ref(), "write"))
}
