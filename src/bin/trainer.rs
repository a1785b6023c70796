//! The trainer: arguments, settings, telemetry, one library call.
use anyhow::Context;
use clap::Parser;
use newshound::train::commands::{self, Command};

/// Candle's short-lived tensors spend much of a training step in the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains students: worlds, tokenizers, pre-training, fine-tuning, reward heads, bundles, evaluation.
#[derive(Debug, Parser)]
#[command(name = "newshound-trainer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    commands::run(arguments.command, &mut std::io::stdout().lock()).context("newshound-trainer stopped")
}
