//! What can go wrong in training, by what the caller can do about it.
use crate::{
    bundle::load::BundleError,
    cleaner::CleanerError,
    decode::batch::DecodeError,
    model::{device::DeviceError, weights::ModelError},
    news::{catalogue::CatalogueError, folder::FolderError, index::IndexError, nearest::VectorsError},
    text::tokens::TokensError,
    world::WorldError,
};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a training command stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The disk refused.
    #[error("{}: cannot {action}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else than expected.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One line of a file or of standard input is wrong.
    #[error("{file}: line {line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is unknown or out of its range.
    #[error("settings: {reason}")]
    Settings {
        /// What is wrong with it.
        reason: String,
    },
    /// The world holds too little for the stage.
    #[error("{reason}")]
    TooLittleData {
        /// What is missing.
        reason: String,
    },
    /// A world is not fit to be trained on.
    #[error("{n_failed} of {n_gates} gates failed")]
    Gates {
        /// How many failed.
        n_failed: usize,
        /// How many there are.
        n_gates: usize,
    },
    /// The loss is no longer a number; a lower learning rate may help.
    #[error("loss is {loss} at step {step}")]
    Diverged {
        /// Optimiser step, from 0.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// A service elsewhere gave no answer that can be used.
    #[error("{url}: {reason} (try {n_tries})")]
    Remote {
        /// Its address.
        url: String,
        /// How often it was tried.
        n_tries: usize,
        /// What the last try said.
        reason: String,
        /// The status by which it refused the call for good; None where another try may succeed, or its answer cannot be read.
        refused: Option<u16>,
    },
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The network could not be built or run.
    #[error("model failed")]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// The signal cleaner failed.
    #[error("cleaner failed")]
    Cleaner(#[from] CleanerError),
    /// The tokenizer could not be made or read.
    #[error("tokenizer failed")]
    Tokens(#[from] TokensError),
    /// Sampling failed.
    #[error("decoding failed")]
    Decode(#[from] DecodeError),
    /// The article index failed.
    #[error("index failed")]
    Index(#[from] IndexError),
    /// Vectors could not be indexed or searched.
    #[error("vectors failed")]
    Vectors(#[from] VectorsError),
    /// An index could not be saved or loaded.
    #[error("index folder failed")]
    IndexFolder(#[source] Box<FolderError>),
    /// The world could not be written, or its truth not be read.
    #[error("world failed")]
    World(#[from] WorldError),
    /// The catalogue could not be read.
    #[error("catalogue could not be read")]
    Catalogue(#[from] CatalogueError),
    /// The bundle could not be written or read.
    #[error("bundle failed")]
    Bundle(#[from] BundleError),
}

impl From<FolderError> for TrainError {
    fn from(error: FolderError) -> Self {
        // It is twice as large as any other.
        Self::IndexFolder(Box::new(error))
    }
}

impl TrainError {
    /// Wraps an input or output error with the path and what was tried.
    pub(crate) fn disk(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { path, action, source }
    }

    /// Names a file and what is wrong with it.
    pub(crate) fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File { file: path.display().to_string(), reason: reason.to_string() }
    }
}
