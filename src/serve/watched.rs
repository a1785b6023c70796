//! What is read from files that may change while the server runs: experiments, lists of cohorts, tokens, certificates, sensitive topics.
//!
//! Each is looked at again and again. One that has changed and is right is put in force; one that is wrong, or gone, leaves the old one in
//! force and says why, once for each state of the files.
use crate::settings::Mistakes;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use thiserror::Error;

/// Why what a file says cannot be put in force.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{setting} {} cannot be read", .path.display())]
    Read {
        /// What names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It has mistakes.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

/// What was in files: a digest, as what it stands for may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesDigest([u8; 32]);

impl FilesDigest {
    /// Of files in their order; an absent one is an empty one.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for bytes in files {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        Self(hash.finalize().into())
    }

    /// The digest.
    pub fn digest(&self) -> [u8; 32] {
        self.0
    }
}

/// What the last look found.
#[derive(Clone, Copy, Debug)]
struct LastLook {
    /// What is in force was made of this.
    in_force: FilesDigest,
    /// What was there last, if that was something else; none within where nothing could be read.
    refused: Option<Option<FilesDigest>>,
    /// Whether that is to be looked at again.
    is_reconsidered: bool,
}

/// What became of a look.
#[derive(Debug)]
pub enum Looked<E> {
    /// Nothing has changed.
    Same,
    /// It is again what is in force, after something that was refused.
    Back,
    /// Something new is in force.
    Loaded,
    /// It is refused.
    Refused(E),
}

/// Something made of files.
#[derive(Debug)]
pub struct Watched<T> {
    current: RwLock<Arc<T>>,
    last: Mutex<LastLook>,
}

impl<T> Watched<T> {
    /// What is in force at first, and what it was made of.
    pub fn new(first: T, contents: FilesDigest) -> Self {
        let last = LastLook { in_force: contents, refused: None, is_reconsidered: false };
        Self { current: RwLock::new(Arc::new(first)), last: Mutex::new(last) }
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at files that were read: `make` makes what they say of them, if they are not those that were seen last. Not for an async thread.
    pub fn look<F, E>(
        &self,
        read: Result<F, E>,
        contents: impl FnOnce(&F) -> FilesDigest,
        make: impl FnOnce(F) -> Result<T, E>,
    ) -> Looked<E> {
        let mut last = self.last();
        let found = read.as_ref().ok().map(contents);
        if found == Some(last.in_force) {
            return if last.refused.take().is_some() { Looked::Back } else { Looked::Same };
        }
        if last.refused == Some(found) && !std::mem::take(&mut last.is_reconsidered) {
            return Looked::Same;
        }
        last.refused = Some(found);
        match (read.and_then(make), found) {
            (Ok(made), Some(in_force)) => {
                *last = LastLook { in_force, refused: None, is_reconsidered: false };
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                Looked::Loaded
            }
            // What could not be read has no contents, and nothing is made of it.
            (Ok(_), None) => Looked::Same,
            (Err(error), _) => Looked::Refused(error),
        }
    }

    /// Has what was refused looked at again, because what may be in force has changed.
    pub fn reconsider(&self) {
        self.last().is_reconsidered = true;
    }

    fn last(&self) -> MutexGuard<'_, LastLook> {
        // It is whole after every statement.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the file that a setting names, as `read` does.
///
/// # Errors
/// `FileError::Read`.
pub fn read_named(setting: &'static str, path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    read(path, bytes_max).map_err(|source| FileError::Read { setting, path: path.to_owned(), source })
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// If it cannot be read, or is larger: what is cut off must not be left out in silence.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more tells a file that is too large.
    let n_bytes = File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if n_bytes as u64 > bytes_max {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

/// Calls `look` again and again, on a thread where files may be read, whatever disk they are on. A look that panics changes nothing.
pub async fn watch(interval: Duration, look: impl Fn() + Clone + Send + 'static) {
    loop {
        tokio::time::sleep(interval).await;
        let _ = tokio::task::spawn_blocking(look.clone()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_leaves_the_old_in_force_and_is_told_once() {
        let contents = |text: &&str| FilesDigest::of([text.as_bytes()]);
        let watched = Watched::new("one".to_owned(), contents(&"one"));
        let look = |read: Result<&'static str, &'static str>| {
            let make = |text: &'static str| match text {
                "wrong" => Err("is wrong"),
                text => Ok(text.to_owned()),
            };
            let looked = match watched.look(read, contents, make) {
                Looked::Same => "same",
                Looked::Back => "back",
                Looked::Loaded => "loaded",
                Looked::Refused(why) => why,
            };
            (looked, watched.now().to_string())
        };
        let check = |read, looked: &str, in_force: &str| {
            assert_eq!(look(read), (looked, in_force.to_owned()), "{read:?}");
        };
        check(Ok("one"), "same", "one");
        check(Ok("wrong"), "is wrong", "one");
        check(Ok("wrong"), "same", "one");
        check(Err("is gone"), "is gone", "one");
        check(Err("is gone"), "same", "one");
        check(Ok("wrong"), "is wrong", "one");
        check(Ok("one"), "back", "one");
        check(Ok("one"), "same", "one");
        check(Ok("two"), "loaded", "two");
        check(Ok("wrong"), "is wrong", "two");
        watched.reconsider();
        check(Ok("wrong"), "is wrong", "two");
        check(Ok("wrong"), "same", "two");
        watched.reconsider();
        check(Ok("two"), "back", "two");
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_none_that_is_larger() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "four").unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"four");
        assert_eq!(read(&file, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&dir.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn files_are_told_apart_by_where_one_ends() {
        let of = |files: [&[u8]; 2]| FilesDigest::of(files);
        assert_ne!(of([b"ab", b"c"]), of([b"a", b"bc"]));
        assert_eq!(of([b"ab", b"c"]), of([b"ab", b"c"]));
    }
}
