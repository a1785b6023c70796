//! `probe`: asks a server's health check; for probes of orchestrators that want an exit code.
use super::CommandError;
use crate::serve::rpc::client::Client;
use clap::Args;
use std::io::Write;

/// Whom to probe.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:50051")]
    pub addr: String,
}

/// Writes `serving`, or fails.
///
/// # Errors
/// If the server does not answer or does not serve.
pub async fn probe(args: ProbeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    if !Client::connect(&args.addr).await?.is_serving().await? {
        return Err(CommandError::NotServing { addr: args.addr });
    }
    Ok(writeln!(out, "serving")?)
}
