//! Why models stay as they are.
use super::workshop::LoadError;
use crate::serve::experiments::HeadNeeded;
use thiserror::Error;

/// Why the model is not changed. One variant per thing that the operator can do about it.
#[derive(Debug, Error)]
pub enum ModelsError {
    /// Name a folder to load from in the settings.
    #[error("admin.models_dir is not set, so no model can be loaded")]
    Off,
    /// Name a bundle.
    #[error("must be the name of a folder or archive: letters, digits, '.', '_' and '-', no '.' first")]
    FolderName,
    /// Put the bundle there.
    #[error("admin.models_dir has no bundle {folder}")]
    FolderUnknown {
        /// Its name.
        folder: String,
    },
    /// Look again: somebody else has changed the model.
    #[error("generation {current} answers, and {expected} was expected to")]
    Mismatch {
        /// The one that answers; 0 where none does.
        current: u64,
        /// The one that the caller believed in.
        expected: u64,
    },
    /// Name one that the settings have.
    #[error("models.residents has no {resident}")]
    ResidentUnknown {
        /// The name.
        resident: String,
    },
    /// Load it first; the default model is only replaced.
    #[error("no model of generation {generation} waits, or is a resident that could be unloaded")]
    Unknown {
        /// The number.
        generation: u64,
    },
    /// Swap or unload the one that waits, or come back when the last requests have ended.
    #[error("{models_max} models may be in memory, and are or are about to be: {why}")]
    Full {
        /// Most models in memory.
        models_max: usize,
        /// Who has the last place.
        why: &'static str,
    },
    /// Change the experiments first.
    #[error(transparent)]
    HeadNeeded(#[from] HeadNeeded),
    /// There is nothing to go back to.
    #[error("no model answered before this one")]
    NoPrevious,
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This server is going to stop.
    #[error("server is draining")]
    Stopping,
}
