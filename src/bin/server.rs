//! The server: arguments, settings, telemetry, one library call.
use clap::{Parser, Subcommand};
use newshound::{
    serve::commands::{
        CommandError,
        ask::{self, AskArgs},
        bench::{self, BenchArgs},
        cost::{self, CostArgs},
        probe::{self, ProbeArgs},
        serve::{self, Addresses, ServeArgs},
        tour,
    },
    settings::overrides,
    telemetry::{self, Chain, LogFormat},
};
use std::{io::Write, process::ExitCode};

/// Turns a reader's signals into news search queries, over gRPC. Without a command: the demo on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(name = "newshound-server", version)]
struct Arguments {
    #[command(flatten)]
    addresses: Addresses,
    /// Which log lines are written to standard error: a level, or target=level pairs
    #[arg(long, global = true, default_value = "warn")]
    log: String,
    /// Writes log lines as JSON
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a bundle
    Serve(ServeArgs),
    /// Asks a running server for one reader
    Ask(AskArgs),
    /// Loads a running server, or measures what candidates cost
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(flatten)]
        load: BenchArgs,
        #[command(subcommand)]
        what: Option<Measure>,
    },
    /// Asks a running server whether it serves; the exit code says so
    Probe(ProbeArgs),
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// Compares the compute time of several numbers of candidates
    Cost(CostArgs),
}

/// Settings that the environment holds, such as `NEWSHOUND_SERVER_ENGINE__ROWS_MAX`.
const ENVIRONMENT_PREFIX: &str = "NEWSHOUND_SERVER_";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = if arguments.log_json { LogFormat::Json } else { LogFormat::Text };
    let started = telemetry::start(&arguments.log, format).map_err(anyhow::Error::from);
    match started.and_then(|()| run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "newshound-server: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let overrides = overrides(std::env::vars(), ENVIRONMENT_PREFIX);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done: Result<(), CommandError> = runtime.block_on(async {
        let mut out = std::io::stdout();
        match arguments.command {
            None => tour::tour(arguments.addresses, &overrides, &mut out).await,
            Some(Command::Serve(args)) => serve::serve(args, arguments.addresses, &overrides, &mut out).await,
            Some(Command::Ask(args)) => ask::ask(args, &mut out).await,
            Some(Command::Bench { what: Some(Measure::Cost(args)), load }) => {
                cost::cost(&args, load.json, &mut out)
            }
            Some(Command::Bench { what: None, load }) => bench::bench(load, &mut out).await,
            Some(Command::Probe(args)) => probe::probe(args, &mut out).await,
        }
    });
    // A bundle that is still being loaded, or a model that is in the middle of a step, must not hold a process that was told to end.
    runtime.shutdown_background();
    Ok(done?)
}
