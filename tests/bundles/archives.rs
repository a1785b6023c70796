//! A bundle in one file is the bundle that its folder is, and nothing else gets in with it.
use super::{FILES, error_of, open, saved};
use newshound::bundle::archive;
use std::{fs, path::Path, process::Command};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A bundle's folder, and its archive beside it.
fn archived() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    saved(&dir.path().join("bundle"));
    archive::write(&dir.path().join("bundle"), &dir.path().join("bundle.tar")).unwrap();
    dir
}

/// An archive with one entry more than that of a bundle.
fn with_entry(dir: &Path, name: &str, kind: EntryType, size: u64) -> String {
    let path = dir.join("more.tar");
    let mut archive = Builder::new(fs::File::create(&path).unwrap());
    for entry in fs::read_dir(dir.join("bundle")).unwrap() {
        let entry = entry.unwrap();
        archive.append_path_with_name(entry.path(), entry.file_name()).unwrap();
    }
    let mut header = Header::new_ustar();
    // As it is written, for the builder refuses the names that are of interest.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    archive.append(&header, &b"x"[..]).unwrap();
    archive.into_inner().unwrap();
    error_of(&path).to_string()
}

#[test]
fn an_archive_is_the_bundle_that_its_folder_is() {
    let dir = archived();
    let at = |name: &str| dir.path().join(name);
    let (folder, archive) = (open(&at("bundle")).unwrap(), open(&at("bundle.tar")).unwrap());
    assert_eq!((folder.id, folder.manifest), (archive.id, archive.manifest));
    for source in ["bundle", "bundle.tar"] {
        archive::write(&at(source), &at("again.tar")).unwrap();
        assert_eq!(fs::read(at("bundle.tar")).unwrap(), fs::read(at("again.tar")).unwrap());
    }
}

#[test]
fn what_tar_makes_of_a_folder_loads() {
    let dir = archived();
    let made = dir.path().join("made.tar");
    for format in ["gnu", "pax", "ustar"] {
        let mut tar = Command::new("tar");
        tar.arg(format!("--format={format}")).arg("-cf").arg(&made).arg("-C");
        assert!(tar.arg(dir.path().join("bundle")).arg(".").status().unwrap().success());
        open(&made).unwrap();
    }
}

#[test]
fn flipped_bits_and_cut_ends_are_refused() {
    let dir = archived();
    let archive = dir.path().join("bundle.tar");
    let whole = fs::read(&archive).unwrap();
    for place in (0..whole.len()).step_by(whole.len() / 64) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&archive, &bytes).unwrap();
        let refused = open(&archive).is_err();
        let is_padding = whole[place] == 0;
        assert!(refused || is_padding, "a bit of byte {place}");
        fs::write(&archive, &whole[..place]).unwrap();
        assert!(open(&archive).is_err(), "{place} bytes");
    }
    fs::write(&archive, b"no archive").unwrap();
    assert!(error_of(&archive).to_string().contains("bundle.tar: is no whole tar archive"));
}

#[test]
fn names_that_lead_elsewhere_and_what_is_no_file_are_refused() {
    let dir = archived();
    for name in ["../evil", "/etc/evil", "folder/evil", ".hidden", "./../evil", "a\\b"] {
        let error = with_entry(dir.path(), name, EntryType::Regular, 1);
        assert!(error.contains(name) && error.contains("not a plain file name"), "{error}");
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Directory]
    {
        let error = with_entry(dir.path(), "more", kind, 0);
        assert!(error.contains("more: neither a file nor the folder itself"), "{kind:?}: {error}");
    }
    let error = with_entry(dir.path(), "more", EntryType::Regular, 1 << 40);
    assert!(error.contains("more: the archive ends after"), "{error}");
    let error = with_entry(dir.path(), "more", EntryType::Regular, 1);
    assert!(error.contains("more: not in the manifest"), "{error}");
    let error = with_entry(dir.path(), FILES[0], EntryType::Regular, 1);
    assert!(error.contains("is there twice"), "{error}");
}
