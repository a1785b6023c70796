//! `token`: makes a token and the line that stands for it.
use super::CommandError;
use crate::serve::door::bearers;
use clap::Args;
use std::io::Write;

/// For whom.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// Name that the token stands for: a tenant, or an operator; visible ASCII characters, at most 64
    pub name: String,
}

/// Writes the token, and the line for the server's file of tokens. Nobody can show the token again.
///
/// # Errors
/// If the name is none.
pub fn token(args: &TokenArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let Some(issued) = bearers::issue(&args.name) else {
        return Err(CommandError::Usage("a name is of 1 to 64 visible ASCII characters".to_owned()));
    };
    writeln!(out, "{}", issued.token)?;
    Ok(writeln!(out, "{}", issued.line)?)
}
