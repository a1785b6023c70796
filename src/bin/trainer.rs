//! The trainer: arguments, settings, telemetry, one library call.
use clap::Parser;
use newshound::{
    model::device::DeviceChoice,
    start,
    telemetry::{self, Chain, LogFormat},
    train::{arguments::Command, commands},
};
use std::{io::Write, process::ExitCode};

/// Candle's short-lived tensors spend much of a training step in the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains students: worlds, tokenizers, pre-training, fine-tuning, reward heads, bundles, evaluation.
#[derive(Debug, Parser)]
#[command(name = "newshound-trainer", version)]
struct Arguments {
    /// Where language models are trained and sampled: auto, cpu or cuda
    #[arg(long, global = true, default_value = "auto")]
    device: DeviceChoice,
    #[command(subcommand)]
    command: Command,
}

/// Which log lines are written to standard error.
const LOG: &str = "warn,newshound::model::device=info";

fn main() -> ExitCode {
    let defaults = [
        start::product_threads(),
        // Candle spreads each element-wise operation over a pool that only one thread can use at a time. The trainer computes
        // whole micro-batches side by side instead, which would wait for that pool in turns.
        (start::ELEMENTWISE_THREADS, "1".to_owned()),
        start::kept_memory(-1),
    ];
    start::with_environment(std::env::vars_os(), std::env::args_os(), &defaults);
    let arguments = Arguments::parse();
    let started = telemetry::start(LOG, LogFormat::Text).map_err(anyhow::Error::from);
    match started.and_then(|()| run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "newshound-trainer: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { device, command }: Arguments) -> anyhow::Result<()> {
    Ok(commands::run(command, device, &mut std::io::stdout().lock())?)
}
