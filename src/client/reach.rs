//! How a server is reached: address, token, and TLS.
use std::{fmt, time::Duration};
use thiserror::Error;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Where a token is shown. Source: RFC 6750, section 2.1.
pub const TOKEN_HEADER: &str = "authorization";

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How often a server is asked for a sign of life while calls wait for it, and how long it may take; without one, calls fail as UNAVAILABLE and
/// the next goes over a new connection. Ten seconds are the least that gRPC libraries allow.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Why a server cannot be called.
#[derive(Debug, Error)]
pub enum ReachError {
    /// The address is none.
    #[error("{addr} is no address such as 127.0.0.1:50051")]
    Address {
        /// What was given.
        addr: String,
    },
    /// The address says whether TLS is spoken, and the rest says otherwise: a token would go out in the open, or nobody would understand.
    #[error("{addr} and what is said of TLS contradict each other")]
    Scheme {
        /// What was given.
        addr: String,
    },
    /// Nobody answers there.
    #[error("no server answers at {addr}")]
    Unreachable {
        /// The address.
        addr: String,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// Certificates that were given cannot be used.
    #[error("certificates cannot be used")]
    Tls {
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// A token does not fit into metadata.
    #[error("a token is of visible ASCII characters")]
    Token,
}

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
    /// Authorities one of which has signed the server's certificate; those of the system if absent.
    pub ca: Option<Vec<u8>>,
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
pub(crate) type Wire = InterceptedService<Channel, Bearer>;

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
    pub(super) async fn connect(&self) -> Result<Wire, ReachError> {
        let connected = self.endpoint()?.connect().await;
        let unreachable = |source| ReachError::Unreachable { addr: self.addr.clone(), source };
        Ok(InterceptedService::new(connected.map_err(unreachable)?, self.bearer()?))
    }

    /// Connects with the first call.
    pub(super) fn wire(&self) -> Result<Wire, ReachError> {
        Ok(InterceptedService::new(self.endpoint()?.connect_lazy(), self.bearer()?))
    }

    fn endpoint(&self) -> Result<Endpoint, ReachError> {
        let (scheme, other) = if self.tls.is_some() { ("https", "http") } else { ("http", "https") };
        // Other tools want the scheme.
        let named = |scheme: &str| self.addr.strip_prefix(scheme)?.strip_prefix("://");
        if named(other).is_some() {
            return Err(ReachError::Scheme { addr: self.addr.clone() });
        }
        let addr = named(scheme).unwrap_or(&self.addr);
        let endpoint = Endpoint::from_shared(format!("{scheme}://{addr}"));
        let endpoint = endpoint.map_err(|_| ReachError::Address { addr: addr.to_owned() })?;
        let endpoint = endpoint.connect_timeout(CONNECT_MAX).http2_keep_alive_interval(ALIVE_EVERY);
        let endpoint = endpoint.keep_alive_timeout(ALIVE_WITHIN);
        let Some(Tls { ca, identity }) = &self.tls else { return Ok(endpoint) };
        let mut tls = match ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((cert, key)) = identity {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        endpoint.tls_config(tls).map_err(|source| ReachError::Tls { source })
    }

    fn bearer(&self) -> Result<Bearer, ReachError> {
        let Some(token) = &self.token else { return Ok(Bearer(None)) };
        let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| ReachError::Token)?;
        // Kept out of whatever shows headers.
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_whose_scheme_says_otherwise_than_its_tls_is_refused() {
        let with = |addr: &str, tls: Option<Tls>| Reach { tls, ..Reach::plain(addr) }.endpoint();
        for addr in ["127.0.0.1:50051", "http://127.0.0.1:50051"] {
            assert_eq!(with(addr, None).unwrap().uri().to_string(), "http://127.0.0.1:50051/");
        }
        assert!(matches!(with("https://127.0.0.1:50051", None), Err(ReachError::Scheme { .. })));
        let tls = || Some(Tls { ca: Some(Vec::new()), identity: None });
        assert!(matches!(with("http://127.0.0.1:50051", tls()), Err(ReachError::Scheme { .. })));
        assert!(!matches!(with("https://127.0.0.1:50051", tls()), Err(ReachError::Scheme { .. })));
    }
}
