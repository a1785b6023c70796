//! The trainer: arguments, settings, telemetry, one library call.
use anyhow::Context;
use clap::Parser;
use newshound::train::{arguments::Command, commands};

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
    compute_side_by_side()?;
    let arguments = Arguments::parse();
    commands::run(arguments.command, &mut std::io::stdout().lock()).context("newshound-trainer stopped")
}

/// Starts the program again with candle's own threads switched off, unless the caller chose their number.
///
/// Candle spreads each element-wise operation over a pool that only one thread can use at a time, and reads the
/// pool's size from the environment alone. The trainer computes whole micro-batches side by side instead, which
/// would wait for that pool in turns.
#[cfg(unix)]
fn compute_side_by_side() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    const POOL_SIZE: &str = "CANDLE_NUM_THREADS";
    if std::env::vars_os().any(|(name, _)| name == POOL_SIZE) {
        return Ok(());
    }
    let program = std::env::current_exe().context("this program cannot be found")?;
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        // Memory of one operation serves the next; given back to the system, it would have to be zeroed again.
        .env(POOL_SIZE, "1")
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .exec();
    Err(error).context("this program cannot be started again")
}

/// Elsewhere a program cannot replace itself; training is only slower.
#[cfg(not(unix))]
fn compute_side_by_side() -> anyhow::Result<()> {
    Ok(())
}
