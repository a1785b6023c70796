//! Who may come in: tokens that stand for tenants, and certificates; both are files that may change while the server runs.
pub mod bearers;
pub mod certificates;

use crate::serve::{
    metrics::Metrics,
    settings::access::AccessSettings,
    watched::{self, Looked},
};
use bearers::Bearers;
use certificates::Certificates;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio_rustls::rustls;
use tracing::{info, warn};

/// Largest file of tokens or certificates; a larger one was not made for this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why nobody can be let in.
#[derive(Debug, Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("{} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A line of a file of tokens is wrong. It is not shown: somebody may have written a token instead of its digest.
    #[error("{}: line {line} should be a name and the sha256 of a token in hex", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A file of tokens lets nobody in.
    #[error("{} has {got} tokens, and should have 1 to {most}", .path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many it has.
        got: usize,
        /// How many it may have.
        most: usize,
    },
    /// A file of certificates or a key holds none.
    #[error("{} holds no {what} in PEM", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate, key and authority do not go together.
    #[error("certificate and key cannot be used")]
    Tls(#[from] rustls::Error),
    /// Certificates of clients cannot be checked.
    #[error("certificates of clients cannot be checked")]
    Clients(#[from] rustls::server::VerifierBuilderError),
}

/// What a server lets in: each is absent where everybody is.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Who may ask for queries.
    pub readers: Option<Arc<Bearers>>,
    /// Who may change the model.
    pub operators: Option<Arc<Bearers>>,
    /// What the server shows of itself, on both ports.
    pub certificates: Option<Arc<Certificates>>,
}

impl Door {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// If one is wrong: a server does not start more open than it was told.
    pub fn open(settings: &AccessSettings, metrics: &Arc<Metrics>) -> Result<Self, AccessError> {
        let bearers = |file: &Option<PathBuf>| {
            let opened = file.as_ref().map(|file| Bearers::open(file, Arc::clone(metrics)));
            opened.transpose().map(|bearers| bearers.map(Arc::new))
        };
        let certificates = settings.tls.clone().map(|tls| Certificates::open(tls, Arc::clone(metrics)));
        Ok(Self {
            readers: bearers(&settings.tokens)?,
            operators: bearers(&settings.admin_tokens)?,
            certificates: certificates.transpose()?.map(Arc::new),
        })
    }

    /// Looks at every file again and again.
    pub async fn watch(self, interval: Duration) {
        watched::watch(interval, move || {
            self.readers.iter().chain(&self.operators).for_each(|bearers| bearers.look());
            self.certificates.iter().for_each(|certificates| certificates.look());
        })
        .await;
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    let source = |source| AccessError::File { path: path.to_owned(), source };
    watched::read(path, FILE_BYTES_MAX).map_err(source)
}

/// Says what became of a look at files.
fn told(what: &'static str, looked: Looked<AccessError>, metrics: &Metrics) {
    match looked {
        Looked::Same => {}
        Looked::Back => metrics.access_refused_file(what, false),
        Looked::Loaded => {
            metrics.access_read(what, "loaded");
            info!(what, "files of the door are in force");
        }
        Looked::Refused(error) => {
            metrics.access_read(what, "refused");
            let error = crate::telemetry::Chain(&error);
            warn!(what, %error, "files of the door are refused; the old ones stay in force");
        }
    }
}
