//! The trainer: arguments, settings, telemetry, one library call.
use clap::Parser;
use newshound::{
    model::device::DeviceChoice,
    start,
    telemetry::{self, Chain, LogFormat},
    train::{arguments::Command, commands, signals::End},
};
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

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
    let end = Arc::new(End::default());
    end_by_signals(Arc::clone(&end))?;
    Ok(commands::run(command, device, &mut std::io::stdout().lock(), &end)?)
}

/// Ends the process at the first SIGTERM or SIGINT, wherever it is, unless it serves: a checkpoint is there whole or not at all, and the same
/// command goes on from the last one. The system does not do it for the first process of a container, which ignores what it does not listen to.
#[allow(clippy::exit, reason = "the work is in the middle of a computation and cannot be asked to return")]
fn end_by_signals(end: Arc<End>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    // Where signals cannot be listened to, they do what the system does.
    let Ok(signalled) = end.at_once() else { return Ok(()) };
    drop(inside);
    let ends = move || std::process::exit(runtime.block_on(signalled).into());
    std::thread::Builder::new().name("signals".to_owned()).spawn(ends)?;
    Ok(())
}
