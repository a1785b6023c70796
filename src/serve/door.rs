//! Who may come in: tokens that stand for tenants, and certificates; both are files that may change while the server runs.
pub mod bearers;
pub mod certificates;

use crate::serve::{metrics::Metrics, settings::access::AccessSettings};
use bearers::Bearers;
use certificates::Certificates;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read},
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
        loop {
            tokio::time::sleep(interval).await;
            let door = self.clone();
            // Files are read on another thread, whatever disk they are on; a look that panicked changed nothing.
            let _ = tokio::task::spawn_blocking(move || {
                door.readers.iter().chain(&door.operators).for_each(|bearers| bearers.look());
                door.certificates.iter().for_each(|certificates| certificates.look());
            })
            .await;
        }
    }
}

/// What the last look at files saw, so that each mistake is told once.
type Seen = [u8; 32];

fn seen<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut hash = Sha256::new();
    for bytes in contents {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    let mut bytes = Vec::new();
    // One byte more tells a file that is too large; what is cut off must not be left out in silence.
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let fits = read.and_then(|n_bytes| match n_bytes as u64 {
        n_bytes if n_bytes > FILE_BYTES_MAX => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        _ => Ok(()),
    });
    fits.map_err(|source| AccessError::File { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Says what became of files that changed.
fn told<T>(what: &'static str, read: Result<T, AccessError>, metrics: &Metrics) -> Option<T> {
    let result = if read.is_ok() { "loaded" } else { "refused" };
    metrics.access_read(what, result);
    match read {
        Ok(read) => {
            info!(what, "files of the door are in force");
            Some(read)
        }
        Err(error) => {
            let error = crate::telemetry::Chain(&error);
            warn!(what, %error, "files of the door are refused; the old ones stay in force");
            None
        }
    }
}
