//! A bundle in one file: a tar archive of what its folder holds, as `tar -cf FILE -C FOLDER .` makes it too.
//!
//! Nothing is unpacked: files are read into memory, where they are checked as those of a folder are, and none is larger than the archive.
use super::{
    load::{BundleError, BundleSource, Contents, file_error, verified},
    save::{at, beside, is_plain_name, sync_folder},
};
use std::{
    borrow::Cow,
    fs::{self, File},
    io::Read,
    path::Path,
};
use tar::{Archive, Builder, Entry, Header};

/// Reads the files of an archive.
///
/// # Errors
/// If it is none, is cut short, or holds anything but files of one folder.
pub(super) fn read(path: &Path) -> Result<Contents, BundleError> {
    let whole = |error: std::io::Error| {
        file_error(&path.display().to_string(), format!("is no whole tar archive: {error}"))
    };
    let mut archive = Archive::new(File::open(path).map_err(at(path))?);
    let mut files = Contents::new();
    for entry in archive.entries().map_err(whole)? {
        let mut entry = entry.map_err(whole)?;
        let Some(name) = name_of(&entry)? else { continue };
        let (size, mut bytes) = (entry.size(), Vec::new());
        // Grows with what is there, whatever the header says.
        entry.read_to_end(&mut bytes).map_err(whole)?;
        if bytes.len() as u64 != size {
            return Err(file_error(&name, format!("the archive ends after {} of {size} bytes", bytes.len())));
        }
        if files.insert(name.clone(), Cow::Owned(bytes)).is_some() {
            return Err(file_error(&name, "is there twice".to_owned()));
        }
    }
    Ok(files)
}

/// The name of a file, which stands in no folder; none of the folder itself.
fn name_of(entry: &Entry<'_, File>) -> Result<Option<String>, BundleError> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let name = path.strip_prefix("./").unwrap_or(&path);
    let kind = entry.header().entry_type();
    if kind.is_dir() && name.is_empty() {
        return Ok(None);
    }
    if !kind.is_file() {
        return Err(file_error(&path, "neither a file nor the folder itself".to_owned()));
    }
    if !is_plain_name(name) {
        return Err(file_error(&path, "not a plain file name".to_owned()));
    }
    Ok(Some(name.to_owned()))
}

/// Writes a bundle's archive, whole or not at all; of the same bundle always the same bytes.
///
/// # Errors
/// If the bundle is not what its manifest says, or the disk refuses.
pub fn write(bundle: &Path, out: &Path) -> Result<(), BundleError> {
    let (_, _, files) = verified(BundleSource::At(bundle))?;
    let staging = beside(out, "staging")?;
    let written = File::create(&staging).and_then(|file| {
        let mut archive = Builder::new(file);
        for (name, bytes) in &files {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, &**bytes)?;
        }
        archive.into_inner()?.sync_all()?;
        fs::rename(&staging, out)
    });
    if written.is_err() {
        // What it was worth is said below; a staging file that was never made is no further failure.
        let _ = fs::remove_file(&staging);
    }
    written.map_err(at(out))?;
    sync_folder(out.parent().unwrap_or(Path::new(".")))
}
