//! `probe`: asks a server's health check; for probes of orchestrators that want an exit code.
use super::{CommandError, reach::ReachArgs};
use crate::serve::rpc::client::Client;
use clap::Args;
use std::{io::Write, time::Duration};

/// Whom to probe.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:50051")]
    pub addr: String,
    /// How long to wait, in milliseconds
    #[arg(long, default_value_t = 5_000)]
    pub timeout_ms: u64,
    /// What to show.
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// Writes `serving`, or fails.
///
/// # Errors
/// If the server does not answer in time or does not serve.
pub async fn probe(args: ProbeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let ProbeArgs { addr, timeout_ms, reach } = args;
    let to = reach.to(&addr)?;
    // A process that hangs still has connections accepted for it by the system, and then never answers.
    let asked = async { Client::connect(&to).await?.is_serving().await };
    match tokio::time::timeout(Duration::from_millis(timeout_ms), asked).await {
        Err(_) => Err(CommandError::Silent { addr, timeout_ms }),
        Ok(Ok(false)) => Err(CommandError::NotServing { addr }),
        Ok(Ok(true)) => Ok(writeln!(out, "serving")?),
        Ok(Err(error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_accepts_and_never_answers_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let error = probe(ProbeArgs { addr, timeout_ms: 50, reach: ReachArgs::default() }, &mut Vec::new())
            .await
            .unwrap_err();
        assert!(matches!(error, CommandError::Silent { timeout_ms: 50, .. }), "{error}");
    }
}
