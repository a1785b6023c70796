//! The trainer's commands: arguments in, one call of a stage.
use super::{
    error::TrainError,
    events::{Scope, World},
    pretrain,
    settings::{PretrainSettings, SftSettings, layered},
    sft, tokenizer,
};
use clap::{Args, Subcommand};
use std::{io::Write, path::PathBuf};
use toml::Value;

/// What the trainer can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train the byte-level BPE tokenizer on a world's texts.
    Tokenizer(TokenizerArgs),
    /// Train a fresh student on a world's articles and traces; resumes by itself.
    Pretrain(PretrainArgs),
    /// Fine-tune a student: signals to lists of queries; resumes by itself.
    Sft(SftArgs),
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

/// Runs one command; what it has to say goes to `output`.
/// # Errors
/// What the command's stage says.
pub fn run(command: Command, output: &mut dyn Write) -> Result<(), TrainError> {
    match command {
        Command::Tokenizer(args) => {
            tokenizer::run(&World::read(&args.world, Scope::Training)?, args.vocab_size, &args.out)
        }
        Command::Pretrain(args) => {
            let settings = layered(&PretrainSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
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
    }
}

fn say(output: &mut dyn Write, line: &dyn std::fmt::Display) -> Result<(), TrainError> {
    writeln!(output, "{line}").map_err(TrainError::disk("standard output".as_ref(), "write"))
}
