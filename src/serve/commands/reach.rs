//! What a command shows of itself to a server.
use super::CommandError;
use crate::client::reach::{Reach, Tls};
use clap::Args;
use std::path::{Path, PathBuf};

/// Token and certificates.
#[derive(Clone, Debug, Default, Args)]
pub struct ReachArgs {
    /// File with the token that is shown, for servers that want one; a file, because everybody sees a command line
    #[arg(long, global = true)]
    pub token_file: Option<PathBuf>,
    /// Authorities of the server's certificate, in PEM; speaks TLS
    #[arg(long, global = true)]
    pub ca_file: Option<PathBuf>,
    /// Certificate of this client, in PEM, for servers that want one
    #[arg(long, global = true, requires_all = ["ca_file", "key_file"])]
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, global = true, requires = "cert_file")]
    pub key_file: Option<PathBuf>,
}

impl ReachArgs {
    /// The way to a server at an address.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn to(&self, addr: &str) -> Result<Reach, CommandError> {
        let token = self.token_file.as_deref().map(read).transpose()?;
        let token = token.map(|token| String::from_utf8_lossy(&token).trim().to_owned());
        let tls = match &self.ca_file {
            Some(ca) => {
                let identity = match self.cert_file.as_deref().zip(self.key_file.as_deref()) {
                    Some((cert, key)) => Some((read(cert)?, read(key)?)),
                    None => None,
                };
                Some(Tls { ca: Some(read(ca)?), identity })
            }
            None => None,
        };
        Ok(Reach { addr: addr.to_owned(), token, tls })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    std::fs::read(path).map_err(|source| CommandError::File { path: path.to_owned(), source })
}
