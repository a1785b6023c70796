//! Event logs of platforms to the folder that every training command reads: the files of a world, without a truth.
//!
//! Readers are split by a digest of their key: 80 % train, 5 % valid, 15 % test, so a longer log of the same readers splits them
//! alike. What happened until the cutoff is the past; clicks of valid and test readers in the 24 hours after it are held out, as
//! far as their article was alive at the cutoff, because no list asked for then could find the others.
mod columns;
pub mod events;
pub mod log;
pub mod mind;
pub mod rejects;

use std::path::PathBuf;

/// How any log is imported.
#[derive(Clone, Debug)]
pub struct ImportSettings {
    /// Folder to write; an older one is replaced once the new one is whole.
    pub out: PathBuf,
    /// Whether a single bad row refuses the import.
    pub strict: bool,
    /// Unix time that parts past and held out; 24 hours before the last event if absent.
    pub cutoff_unix_s: Option<i64>,
}
