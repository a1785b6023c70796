//! Writes a folder so that it is there whole or not at all; a bundle is such a folder with a manifest.
use super::{
    load::{BundleError, BundleSource, load},
    manifest::{FORMAT_VERSION, FileEntry, MANIFEST_FILE, Manifest, sha256_hex},
};
use crate::model::precision::Precision;
use candle_core::Device;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Files of a folder: relative name and bytes.
pub type Files = Vec<(String, Vec<u8>)>;

/// A folder written in full beside its place, not yet put there.
#[derive(Debug)]
pub struct Staged {
    staging: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Writes every file beside `target` and flushes it to the disk; `target` itself is not touched.
    ///
    /// What an interrupted earlier write left there is replaced. `mark`: the file by which a folder of this kind is known; a
    /// folder that holds other things is not ours to replace.
    /// # Errors
    /// If the target is a folder without the mark that is not empty, a name leaves the folder, or the disk refuses.
    pub fn write(target: &Path, files: &Files, mark: &str) -> Result<Self, BundleError> {
        let holds_other_things =
            |mut entries: fs::ReadDir| entries.next().is_some() && !target.join(mark).exists();
        if target.exists()
            && (!target.is_dir() || holds_other_things(fs::read_dir(target).map_err(at(target))?))
        {
            let reason = format!("it is there and holds no {mark}, so it is not replaced");
            return Err(BundleError::File { file: target.display().to_string(), reason });
        }
        let staging = beside(target, "staging")?;
        remove_if_there(&staging)?;
        fs::create_dir_all(&staging).map_err(at(&staging))?;
        for (name, bytes) in files {
            if !is_plain_name(name) {
                return Err(BundleError::File {
                    file: name.clone(),
                    reason: "not a plain file name".to_owned(),
                });
            }
            let path = staging.join(name);
            let mut file = File::create(&path).map_err(at(&path))?;
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&path))?;
        }
        Ok(Self { staging, target: target.to_owned() })
    }

    /// Where the folder is written until it is published; more may be put there.
    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// Puts the folder in its place, over an older one if there is one.
    /// # Errors
    /// If the disk refuses. The older folder is then back in its place or beside it as `.<name>.replaced`; so it is
    /// after a crash between the two renames.
    pub fn publish(self) -> Result<(), BundleError> {
        sync_folder(&self.staging)?;
        let replaced = beside(&self.target, "replaced")?;
        // Where only the replaced folder is left, an earlier write was cut short: it is the one whole copy.
        if self.target.exists() {
            remove_if_there(&replaced)?;
            fs::rename(&self.target, &replaced).map_err(at(&self.target))?;
        }
        if let Err(error) = fs::rename(&self.staging, &self.target) {
            if replaced.exists() {
                fs::rename(&replaced, &self.target).map_err(at(&replaced))?;
            }
            return Err(at(&self.target)(error));
        }
        sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        remove_if_there(&replaced)
    }
}

/// Writes a bundle: the manifest given gets the digest of every file and is stored beside them.
///
/// Returns the manifest as stored. What no server would load replaces nothing.
/// # Errors
/// If the manifest cannot be encoded, the disk refuses, or the bundle does not load.
pub fn save(target: &Path, mut manifest: Manifest, mut files: Files) -> Result<Manifest, BundleError> {
    manifest.format_version = FORMAT_VERSION;
    manifest.files = files
        .iter()
        .map(|(name, bytes)| {
            (name.clone(), FileEntry { sha256: sha256_hex(bytes), bytes: bytes.len() as u64 })
        })
        .collect();
    let mut json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| BundleError::File { file: MANIFEST_FILE.to_owned(), reason: error.to_string() })?;
    json.push(b'\n');
    files.push((MANIFEST_FILE.to_owned(), json));
    let staged = Staged::write(target, &files, MANIFEST_FILE)?;
    if let Err(error) = load(BundleSource::At(&staged.staging), Precision::F32, &Device::Cpu) {
        remove_if_there(&staged.staging)?;
        return Err(error);
    }
    staged.publish()?;
    Ok(manifest)
}

/// Whether a name stays inside its folder on every system.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

pub(super) fn beside(target: &Path, suffix: &str) -> Result<PathBuf, BundleError> {
    let name = target.file_name().ok_or_else(|| BundleError::File {
        file: target.display().to_string(),
        reason: "not the path of a folder".to_owned(),
    })?;
    let parent = target.parent().unwrap_or(Path::new("."));
    Ok(parent.join(format!(".{}.{suffix}", name.to_string_lossy())))
}

fn remove_if_there(folder: &Path) -> Result<(), BundleError> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(at(folder)) } else { Ok(()) }
}

/// The rename is only safe from a power cut once the folder's own entry is on the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<(), BundleError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> BundleError + use<> {
    let file = path.display().to_string();
    move |error| BundleError::File { file, reason: error.to_string() }
}
