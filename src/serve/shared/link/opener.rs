//! Where Redis is, and how a link to it is opened.
use super::{Failure, Link};
use crate::serve::settings::sharing::RedisSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisError, TlsCertificates};
use std::{fmt, fs, io, path::PathBuf, time::Duration};
use thiserror::Error;

/// Commands that may be on their way; further ones wait, within their budget.
const COMMANDS_MAX: usize = 1024;

/// An address of Redis, with the password that may stand in it. Shown without.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The address that a URL names: redis, rediss (TLS) or unix; none where it is no such URL.
    pub fn parse(url: &str) -> Option<Self> {
        url.into_connection_info().is_ok().then(|| Self(url.to_owned()))
    }

    fn is_tls(&self) -> bool {
        let info = self.0.as_str().into_connection_info();
        info.is_ok_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Passwords stand before the host, and for sockets behind the path.
        let (address, query) = self.0.split_once('?').map_or((&*self.0, ""), |(address, _)| (address, "?.."));
        match address.split_once("://").zip(address.rsplit_once('@')) {
            Some(((scheme, _), (_, rest))) => write!(out, "{scheme}://..@{rest}{query}"),
            None => write!(out, "{address}{query}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Address({self})")
    }
}

/// Why nothing can ever be connected.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The authorities cannot be read.
    #[error("cache.redis.ca_file {} cannot be read", .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The address or the authorities are of no use.
    #[error("cache.redis cannot be used")]
    Client(#[source] RedisError),
}

/// Opens links.
#[derive(Debug)]
pub struct Opener {
    client: Client,
    address: Address,
    connect_max: Duration,
}

impl Opener {
    /// Opens links as the settings say; nothing is connected yet.
    ///
    /// # Errors
    /// If the file of authorities cannot be read or holds none.
    pub fn new(settings: &RedisSettings) -> Result<Self, LinkError> {
        let address = settings.address.clone();
        let url = address.0.as_str();
        let client = match &settings.ca_file {
            Some(path) if address.is_tls() => {
                let read = fs::read(path);
                let pem = read.map_err(|source| LinkError::Authorities { path: path.clone(), source })?;
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
                Client::build_with_tls(url, certificates)
            }
            Some(_) | None => Client::open(url),
        };
        let client = client.map_err(LinkError::Client)?;
        Ok(Self { client, address, connect_max: settings.connect_max })
    }

    /// Where to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects, and teaches Redis the scripts.
    ///
    /// # Errors
    /// If that fails, or takes too long.
    pub async fn open(&self) -> Result<Link, Failure> {
        // Budgets are kept by those who ask.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(COMMANDS_MAX);
        let opening = async {
            let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            Link::taught(connection).await
        };
        tokio::time::timeout(self.connect_max, opening).await.unwrap_or(Err(Failure::Timeout))
    }
}
