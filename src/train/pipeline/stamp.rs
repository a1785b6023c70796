//! How a part that is no run was made: a run knows by itself.
//!
//! A part without a stamp was put there by somebody. It is taken as it is, and nobody says how it was made.
use crate::{
    bundle::manifest::{sha256_hex, sha256_hex_of},
    train::{checkpoint::write_file, error::TrainError},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const STAMP_FILE: &str = "stamp.json";

/// Written before a part is made and again behind it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    command: String,
    inputs_sha256: String,
    /// None until the part is whole.
    content_sha256: Option<String>,
}

/// A folder that a command makes.
pub(super) struct Part<'a> {
    pub(super) folder: &'a Path,
    /// Its file that is written last: a folder that has it is whole.
    pub(super) last: &'static str,
    /// Its file by which the content is known.
    pub(super) content: &'static str,
    /// The command that makes it.
    pub(super) command: String,
    /// What it is made of.
    pub(super) inputs: String,
}

impl Part<'_> {
    /// Makes the part, unless it is there. Returns the command that made it; none where that is not known.
    /// # Errors
    /// If it is there and was made of something else or changed since, or it cannot be made.
    pub(super) fn made(
        self,
        make: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<Option<String>, TrainError> {
        let inputs_sha256 = sha256_hex(self.inputs.as_bytes());
        match (self.folder.join(self.last).is_file(), self.stamp()?) {
            (true, None) => return Ok(None),
            (true, Some(Stamp { command, inputs_sha256: inputs, content_sha256: Some(content) })) => {
                if inputs != inputs_sha256 {
                    let reason = "made with other settings or of another world; choose another folder";
                    return Err(TrainError::file(self.folder, reason));
                }
                if content != self.content()? {
                    let reason =
                        format!("{} is not what was made; delete {STAMP_FILE} to take it", self.content);
                    return Err(TrainError::file(self.folder, reason));
                }
                return Ok(Some(command));
            }
            _ => {}
        }
        let mut stamp = Stamp { command: self.command.clone(), inputs_sha256, content_sha256: None };
        self.write(&stamp)?;
        make()?;
        stamp.content_sha256 = Some(self.content()?);
        self.write(&stamp)?;
        Ok(Some(self.command))
    }

    fn content(&self) -> Result<String, TrainError> {
        let path = self.folder.join(self.content);
        sha256_hex_of(std::slice::from_ref(&path)).map_err(TrainError::disk(&path, "read"))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(STAMP_FILE)
    }

    fn stamp(&self) -> Result<Option<Stamp>, TrainError> {
        let path = self.path();
        match std::fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map(Some).map_err(|error| TrainError::file(&path, error))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TrainError::disk(&path, "read")(error)),
        }
    }

    fn write(&self, stamp: &Stamp) -> Result<(), TrainError> {
        let json = serde_json::to_vec_pretty(stamp).map_err(|error| TrainError::file(self.folder, error))?;
        write_file(&self.path(), &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part<'a>(folder: &'a Path, inputs: &str) -> Part<'a> {
        let command = format!("make of {inputs}");
        Part { folder, last: "last", content: "content", command, inputs: inputs.to_owned() }
    }

    fn write(folder: &Path, content: &str) -> Result<(), TrainError> {
        ["content", "last"].iter().try_for_each(|name| write_file(&folder.join(name), content.as_bytes()))
    }

    #[test]
    fn a_part_is_made_once_and_refused_where_it_was_made_of_something_else_or_changed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("part");
        let made = part(&folder, "a").made(|| write(&folder, "one")).unwrap();
        assert_eq!(made.as_deref(), Some("make of a"));
        let again = || part(&folder, "a").made(|| panic!("it is there"));
        assert_eq!(again().unwrap(), made);
        let other = part(&folder, "b").made(|| panic!("it is there")).unwrap_err();
        assert!(other.to_string().contains("other settings"), "{other}");
        write(&folder, "two").unwrap();
        let changed = again().unwrap_err();
        assert!(changed.to_string().contains("content is not what was made"), "{changed}");
    }

    #[test]
    fn a_part_that_was_cut_short_is_made_again_and_one_that_was_put_there_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("part");
        let cut = || Err(TrainError::Settings { reason: "cut short".to_owned() });
        part(&folder, "a").made(|| write(&folder, "half").and_then(|()| cut())).unwrap_err();
        part(&folder, "b").made(|| write(&folder, "whole")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("content")).unwrap(), "whole");
        std::fs::remove_file(folder.join(STAMP_FILE)).unwrap();
        assert_eq!(part(&folder, "c").made(|| panic!("it is there")).unwrap(), None);
    }
}
