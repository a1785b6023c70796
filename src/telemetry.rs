//! Logging: facts in fields, to standard error, filtered by level.
use std::{fmt, io::IsTerminal};
use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt as writer};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people at a terminal.
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// Why logging could not start.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter has a mistake.
    #[error("log filter {filter} is not understood: {reason}")]
    Filter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else already took the log lines.
    #[error("logging was started twice")]
    Started,
}

/// Starts logging to standard error for the whole process. `filter`: a level, or `target=level` pairs with commas between.
///
/// # Errors
/// If the filter is malformed or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let builder = writer()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        // Colours are for a terminal; in a file they are rubbish.
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|_| TelemetryError::Started)
}

/// Shows an error with everything that caused it on one line.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
