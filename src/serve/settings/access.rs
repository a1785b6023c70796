//! Settings of who may come in, and of who may change the model.
use super::{ServeSettings, milliseconds};
use crate::settings::Reader;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// `addr`: where models are changed, apart from users' traffic. Default empty: nowhere. An address that others reach needs
    /// `access.admin_tokens_file`, because whoever reaches it decides what readers get.
    pub addr: Option<SocketAddr>,
    /// `models_dir`: the folder whose folders and tar archives are bundles that may be loaded. Default empty: none may.
    pub models_dir: Option<PathBuf>,
}

/// `[access]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// `tokens_file`: names of tenants and sha256 digests of their tokens; see `newshound-server token`. Who shows none of them is refused.
    /// Default empty: everybody may ask, and a proxy tells the tenant.
    pub tokens: Option<PathBuf>,
    /// `admin_tokens_file`: the same for those who change the model. Default empty: whoever reaches the admin port may.
    pub admin_tokens: Option<PathBuf>,
    /// `cert_file` and what belongs to it; none where it is empty, which is the default: TLS ends at a proxy.
    pub tls: Option<TlsSettings>,
    /// `check_interval_ms`: how often these files are looked at. Default 1,000: a token that was taken away is refused within a second.
    pub check_interval: Duration,
}

/// TLS of both gRPC ports in `[access]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// `cert_file`: the certificate and those between it and the authority, in PEM.
    pub cert: PathBuf,
    /// `key_file`: its private key, in PEM.
    pub key: PathBuf,
    /// `client_ca_file`: authorities one of which must have signed the certificate of a client. Default empty: clients need none.
    pub client_ca: Option<PathBuf>,
}

/// A path; none where it is empty, which is the default.
pub(super) fn path(reader: &mut Reader, key: &str) -> Option<PathBuf> {
    reader.text(key, "a path", |text| Some(not_empty(text)), None)
}

pub(super) fn not_empty(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(path))
}

pub(super) fn admin(reader: &mut Reader) -> AdminSettings {
    let address = |text: &str| match text {
        "" => Some(None),
        text => text.parse::<SocketAddr>().ok().map(Some),
    };
    let addr = reader.text("admin.addr", "an address such as 127.0.0.1:50052", address, None);
    AdminSettings { addr, models_dir: path(reader, "admin.models_dir") }
}

pub(super) fn access(reader: &mut Reader, default: AccessSettings) -> AccessSettings {
    let [cert, key, client_ca] =
        ["cert_file", "key_file", "client_ca_file"].map(|name| path(reader, &format!("access.{name}")));
    let belongs_to_none = cert.is_none() && (key.is_some() || client_ca.is_some());
    reader.require(
        !belongs_to_none,
        "access.cert_file is needed where access.key_file or access.client_ca_file is set",
    );
    reader
        .require(cert.is_none() || key.is_some(), "access.key_file is needed where access.cert_file is set");
    AccessSettings {
        tokens: path(reader, "access.tokens_file"),
        admin_tokens: path(reader, "access.admin_tokens_file"),
        tls: cert.zip(key).map(|(cert, key)| TlsSettings { cert, key, client_ca }),
        check_interval: milliseconds(reader, "access.check_interval_ms", 600_000, default.check_interval),
    }
}

/// Notes what of these settings does not go together.
pub(super) fn require(reader: &mut Reader, settings: &ServeSettings) {
    let is_open = settings.admin.addr.is_some_and(|addr| !addr.ip().is_loopback());
    reader.require(
        !is_open || settings.access.admin_tokens.is_some(),
        "access.admin_tokens_file is needed where admin.addr is an address that other machines reach",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_changes_models_from_elsewhere_needs_a_token() {
        let read = |addr: &str, rest: &str| {
            ServeSettings::read(&format!("[admin]\naddr = {addr:?}\n[access]\n{rest}"), "a", &[])
        };
        assert_eq!(read("", "").unwrap().admin.addr, None);
        let here = SocketAddr::from(([127, 0, 0, 1], 50052));
        assert_eq!(read("127.0.0.1:50052", "").unwrap().admin.addr, Some(here));
        for elsewhere in ["0.0.0.0:50052", "10.0.0.1:50052"] {
            let error = read(elsewhere, "").unwrap_err();
            assert!(error.mistakes[0].starts_with("access.admin_tokens_file"), "{error}");
            assert!(read(elsewhere, "admin_tokens_file = \"/operators\"").is_ok());
        }
        assert!(read("localhost", "").is_err());
    }

    #[test]
    fn certificate_and_key_come_together() {
        let read = |text: &str| ServeSettings::read(&format!("[access]\n{text}"), "a", &[]);
        assert!(read("cert_file = \"c\"\nkey_file = \"k\"").unwrap().access.tls.is_some());
        for half in ["cert_file = \"c\"", "key_file = \"k\"", "client_ca_file = \"a\""] {
            assert_eq!(read(half).unwrap_err().mistakes.len(), 1, "{half}");
        }
    }
}
