//! An authority that signs certificates, for one test.
use newshound::{
    client::reach::{Reach, Tls},
    serve::settings::access::TlsSettings,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;

pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and private key of somebody at 127.0.0.1.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate and its key; of what is there, the certificate is replaced last.
    pub fn write(&self, dir: &Path) -> TlsSettings {
        let (cert, key) = self.issue();
        let files = TlsSettings { cert: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None };
        for (path, pem) in [(&files.key, key), (&files.cert, cert)] {
            let staged = dir.join("staged");
            std::fs::write(&staged, pem).unwrap();
            std::fs::rename(staged, path).unwrap();
        }
        files
    }

    /// The way to a server of this authority, for a client with a certificate of another one or with none.
    pub fn reach(&self, addr: &str, client: Option<&Self>) -> Reach {
        let identity = client.map(|client| {
            let (cert, key) = client.issue();
            (cert.into_bytes(), key.into_bytes())
        });
        Reach {
            addr: addr.to_owned(),
            token: None,
            tls: Some(Tls { ca: Some(self.pem.clone().into_bytes()), identity }),
        }
    }
}
