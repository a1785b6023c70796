//! Figures of rows by seed, kept in a folder: a table that was cut short goes on, and several processes make one together, each some
//! of its rows (`--only`). JSON gives figures back to their last bit but one.
use super::asked::Measured;
use crate::{
    bundle::manifest::sha256_hex,
    train::{checkpoint::write_file, error::TrainError},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where figures are kept, and what they must have been made of.
#[derive(Clone, Debug)]
pub struct Kept<'a> {
    dir: Option<&'a Path>,
    made_of: String,
}

/// Names of rows with their figures under one seed.
pub type Part = Vec<(String, Measured)>;

#[derive(Serialize, Deserialize)]
struct File {
    made_of: String,
    rows: Part,
}

impl<'a> Kept<'a> {
    /// Figures made of `inputs`, kept in `dir` where there is one.
    pub fn of(dir: Option<&'a Path>, inputs: &[&str]) -> Self {
        Self { dir, made_of: inputs.join("\n") }
    }

    /// What was kept of a row under a seed. `source`: what the row was made of beside the inputs of all.
    /// # Errors
    /// If the file cannot be read, or was made of something else.
    pub fn get(&self, (row, source): (&str, &str), seed: u64) -> Result<Option<Part>, TrainError> {
        let Some(path) = self.path(row, seed).filter(|path| path.is_file()) else { return Ok(None) };
        let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
        let File { made_of, rows } =
            serde_json::from_slice(&json).map_err(|error| TrainError::file(&path, error))?;
        if made_of == self.made_of(row, source) {
            Ok(Some(rows))
        } else {
            let reason =
                "figures of another world, of other readers, lists or models; keep these in another folder";
            Err(TrainError::file(&path, reason))
        }
    }

    /// Keeps a row's figures under a seed.
    /// # Errors
    /// If the disk refuses.
    pub fn put(&self, (row, source): (&str, &str), seed: u64, rows: Part) -> Result<Part, TrainError> {
        let Some(path) = self.path(row, seed) else { return Ok(rows) };
        let file = File { made_of: self.made_of(row, source), rows };
        let json = serde_json::to_vec(&file).map_err(|error| TrainError::file(&path, error))?;
        write_file(&path, &json)?;
        Ok(file.rows)
    }

    fn path(&self, row: &str, seed: u64) -> Option<PathBuf> {
        // Rows whose names become the same are told apart by what they are made of.
        let name: String = row.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        Some(self.dir?.join(format!("{name}.{seed}.json")))
    }

    fn made_of(&self, row: &str, source: &str) -> String {
        let version = env!("CARGO_PKG_VERSION");
        sha256_hex([version, &self.made_of, row, source].join("\n\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(figure: f64) -> Part {
        let measured = Measured { figures: vec![[figure; 7]], traits: vec![[0.25; 4]], alone: Vec::new() };
        vec![("HSTU".to_owned(), measured)]
    }

    #[test]
    fn what_is_kept_is_found_again_by_row_and_seed_and_refused_where_it_is_of_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(Some(dir.path()), &["world", "readers"]);
        kept.put(("hstu", ""), 3, part(0.375)).unwrap();
        assert_eq!(kept.get(("hstu", ""), 3).unwrap(), Some(part(0.375)));
        assert_eq!(kept.get(("hstu", ""), 4).unwrap(), None);
        assert_eq!(kept.get(("gru4rec", ""), 3).unwrap(), None);
        kept.put(("a bundle/1", "id"), 3, part(0.5)).unwrap();
        assert_eq!(kept.get(("a bundle/1", "id"), 3).unwrap(), Some(part(0.5)));
        let other = Kept::of(Some(dir.path()), &["another world", "readers"]);
        for error in [
            other.get(("hstu", ""), 3).unwrap_err(),
            kept.get(("a bundle/1", "another id"), 3).unwrap_err(),
            kept.get(("a bundle-1", "id"), 3).unwrap_err(),
        ] {
            assert!(error.to_string().contains("keep these in another folder"), "{error}");
        }
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let kept = Kept::of(None, &[]);
        assert_eq!(kept.put(("hstu", ""), 1, part(0.5)).unwrap(), part(0.5));
        assert_eq!(kept.get(("hstu", ""), 1).unwrap(), None);
    }
}
