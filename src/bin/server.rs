//! The server: arguments, settings, telemetry, one library call.
use clap::{Parser, Subcommand};
use newshound::{
    serve::{
        commands::{
            CommandError, ENVIRONMENT_HELP, ENVIRONMENT_PREFIX,
            ask::{self, AskArgs},
            bench::{self, BenchArgs, Measure},
            experiment::{self, ExperimentCommand},
            model::{self, ModelChange, Whom},
            probe::{self, ProbeArgs},
            serve::{self, Addresses, ServeArgs},
            token::{self, TokenArgs},
            tour,
        },
        runtime::runtime,
    },
    settings::overrides,
    start,
    telemetry::{self, Chain, LogFormat},
};
use std::{io::Write, process::ExitCode};

/// Each step makes tensors of the same sizes as the one before.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// How long memory that is free is kept: longer than a step, and no longer, for loading a model needs far more than serving it, and the next one may be
/// loaded at once.
const KEPT_MS: i32 = 400;

/// Turns a reader's signals into news search queries, over gRPC. Without a command: the demo on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(name = "newshound-server", version, after_help = ENVIRONMENT_HELP)]
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
    /// Loads a running server, or measures what candidates or an index cost
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(flatten)]
        common: BenchArgs,
        #[command(subcommand)]
        what: Option<Measure>,
    },
    /// Asks a running server whether it serves; the exit code says so
    Probe(ProbeArgs),
    /// Checks an experiments file, or says what the logs of servers show
    #[command(subcommand)]
    Experiment(ExperimentCommand),
    /// Changes the model of a running server, without a request being lost
    Model {
        #[command(flatten)]
        whom: Whom,
        #[command(subcommand)]
        what: ModelChange,
    },
    /// Makes a token for a tenant or an operator, and the line of the file that stands for it
    Token(TokenArgs),
}

fn main() -> ExitCode {
    let defaults = [start::product_threads(), start::kept_memory(KEPT_MS)];
    start::with_environment(std::env::vars_os(), std::env::args_os(), &defaults);
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
    // Only those who serve have settings; nobody else should stumble over a mistake in them.
    let environment = || overrides(std::env::vars_os(), ENVIRONMENT_PREFIX);
    let program = std::env::args_os().next().unwrap_or_else(|| "newshound-server".into());
    let program = program.to_string_lossy();
    let runtime = runtime()?;
    let done: Result<(), CommandError> = runtime.block_on(async {
        let mut out = std::io::stdout();
        if arguments.command.is_some() && arguments.addresses.are_given() {
            let usage = "--grpc-addr and --http-addr come after `serve`; the other commands have --addr";
            return Err(CommandError::Usage(usage.to_owned()));
        }
        match arguments.command {
            None => tour::tour(&program, arguments.addresses, &environment()?, &mut out).await,
            Some(Command::Serve(args)) => serve::serve(args, &environment()?, &mut out).await,
            Some(Command::Ask(args)) => ask::ask(args, &mut out).await,
            Some(Command::Bench { what, common }) => bench::measure(what, common, &mut out).await,
            Some(Command::Probe(args)) => probe::probe(args, environment, &mut out).await,
            Some(Command::Experiment(what)) => experiment::experiment(&what, &mut out),
            Some(Command::Model { whom, what }) => model::model(what, whom, &mut out).await,
            Some(Command::Token(args)) => token::token(&args, &mut out),
        }
    });
    // A bundle that is still being loaded, or a model that is in the middle of a step, must not hold a process that was told to end.
    runtime.shutdown_background();
    Ok(done?)
}
