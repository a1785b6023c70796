//! The certificate that the server shows, and whose certificates it wants to see.
use super::{AccessError, read, told};
use crate::serve::{
    metrics::Metrics,
    settings::access::TlsSettings,
    watched::{self, Watched},
};
use std::{fmt, path::Path, sync::Arc};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

/// gRPC is HTTP/2; JSON comes by either. Whoever speaks what a port does not is closed after the handshake.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificate and key in force.
pub struct Certificates {
    current: Watched<ServerConfig>,
    files: TlsSettings,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// If a file cannot be read, holds nothing of its kind, or they do not go together.
    pub fn open(files: TlsSettings, metrics: Arc<Metrics>) -> Result<Self, AccessError> {
        let pems = Pems::read(&files)?;
        let current = Watched::new(pems.config(&files)?, pems.digest());
        Ok(Self { current, files, metrics })
    }

    /// Shakes hands as the files say now; connections that are open keep what they were shown.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.now())
    }

    /// Puts the files in force if they have changed and go together; otherwise says once what is wrong with them.
    ///
    /// Of two files that are replaced one after the other, the first alone does not fit, and is said to be refused until the second is
    /// there.
    pub(super) fn look(&self) {
        let make = |pems: Pems| pems.config(&self.files);
        let looked = self.current.look(Pems::read(&self.files), Pems::digest, make);
        told("certificates", looked, &self.metrics);
    }
}

/// What is in the files.
struct Pems {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Pems {
    fn read(files: &TlsSettings) -> Result<Self, AccessError> {
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)?, client_ca })
    }

    fn digest(&self) -> watched::FilesDigest {
        watched::FilesDigest::of([&*self.cert, &self.key, self.client_ca.as_deref().unwrap_or_default()])
    }

    fn config(&self, files: &TlsSettings) -> Result<ServerConfig, AccessError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem, path)? {
                    roots.add(certificate)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let what = "private key";
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| AccessError::Pem { path: files.key.clone(), what })?;
        let mut config = builder.with_single_cert(certificates(&self.cert, &files.cert)?, key)?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| AccessError::Pem { path: path.to_owned(), what: "certificate" })
}
