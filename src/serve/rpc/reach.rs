//! How a server is reached: address, token, and TLS.
use super::{auth::TOKEN_HEADER, client::ClientError};
use std::{fmt, time::Duration};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A server, and what its callers show.
#[derive(Clone)]
pub struct Reach {
    /// Its address.
    pub addr: String,
    /// The token that is shown, if any.
    pub token: Option<String>,
    /// TLS, if it is spoken.
    pub tls: Option<Tls>,
}

/// What a client of TLS needs, in PEM.
#[derive(Clone)]
pub struct Tls {
    /// Authorities one of which has signed the server's certificate.
    pub ca: Vec<u8>,
    /// Certificate and private key of the client.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reach").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A connection whose calls show a token.
pub(super) type Wire = InterceptedService<Channel, Bearer>;

/// Shows a token with every call, if there is one.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert(TOKEN_HEADER, token.clone());
        }
        Ok(request)
    }
}

impl Reach {
    /// A server that wants to see nothing.
    pub fn plain(addr: &str) -> Self {
        Self { addr: addr.to_owned(), token: None, tls: None }
    }

    /// Connects within five seconds.
    pub(super) async fn connect(&self) -> Result<Wire, ClientError> {
        // Other tools want the scheme.
        let addr = self.addr.trim_start_matches("http://").trim_start_matches("https://").to_owned();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let not_an_address = || ClientError::Address { addr: addr.clone() };
        let mut endpoint =
            Endpoint::from_shared(format!("{scheme}://{addr}")).map_err(|_| not_an_address())?;
        if let Some(Tls { ca, identity }) = &self.tls {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((cert, key)) = identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(|source| ClientError::Tls { source })?;
        }
        let token = match &self.token {
            Some(token) => {
                let mut value =
                    MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
                // Kept out of whatever shows headers.
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let connected = endpoint.connect_timeout(CONNECT_MAX).connect().await;
        let channel = connected.map_err(|source| ClientError::Unreachable { addr, source })?;
        Ok(InterceptedService::new(channel, Bearer(token)))
    }
}
