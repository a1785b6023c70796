//! The trainer: arguments, settings, telemetry, one library call.
use clap::Parser;
use newshound::{
    start,
    telemetry::Chain,
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
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let defaults = [
        start::product_threads(),
        // Candle spreads each element-wise operation over a pool that only one thread can use at a time. The trainer computes
        // whole micro-batches side by side instead, which would wait for that pool in turns.
        (start::ELEMENTWISE_THREADS, "1".to_owned()),
        // Memory of one operation serves the next; given back to the system, it would have to be zeroed again.
        ("MIMALLOC_PURGE_DELAY", "-1".to_owned()),
    ];
    start::with_environment(std::env::vars_os(), std::env::args_os(), &defaults);
    let arguments = Arguments::parse();
    match commands::run(arguments.command, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "newshound-trainer: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}
