//! An index in a folder: catalogue, vectors and graph, there whole or not at all, and nothing used before its digest matched.
use super::{
    article::Article,
    catalogue::{self, CatalogueError},
    index::{IndexError, NewsIndex},
    nearest::{ArticleVectors, Method, VectorsError},
};
use crate::bundle::{
    load::BundleError,
    manifest::{FileEntry, sha256_hex},
    save::{Files, Staged},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};
use thiserror::Error;

/// Version of the folder's layout. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;
/// What the folder holds: versions, sizes and digests.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The catalogue; the index by words is built from it at each load.
pub const ARTICLES_FILE: &str = "articles.jsonl";
/// Tensors `vectors` (V, D) f32 and `article_idx` (V) i64, positions in the catalogue.
pub const VECTORS_FILE: &str = "vectors.safetensors";
/// The graph, as its library stores it; only with [`Method::Hnsw`].
pub const GRAPH_FILE: &str = "graph.usearch";

/// Largest manifest that is read; ours has less than 2 kB. A larger file is refused.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Why an index could not be saved or loaded.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file that is not there.
    #[error("{file}: missing")]
    Missing {
        /// The file.
        file: String,
    },
    /// A file that the system does not give.
    #[error("{file}: could not be read")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file that was cut short or has grown.
    #[error("{file}: {got} bytes, manifest says {expected}")]
    Length {
        /// The file.
        file: String,
        /// Bytes found.
        got: u64,
        /// Bytes in the manifest.
        expected: u64,
    },
    /// A file whose content is not what was saved.
    #[error("{file}: sha256 is {got}, manifest says {expected}")]
    Digest {
        /// The file.
        file: String,
        /// Digest of what was read.
        got: String,
        /// Digest in the manifest.
        expected: String,
    },
    /// A folder that another version wrote.
    #[error("{file}: format version {got}, this build reads {expected}")]
    Version {
        /// The manifest.
        file: String,
        /// Version found.
        got: u32,
        /// [`FORMAT_VERSION`].
        expected: u32,
    },
    /// A file that holds something else than its name says.
    #[error("{file}: {reason}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk refused, or the target holds other things.
    #[error("index could not be saved")]
    Save(#[source] BundleError),
    /// A catalogue that no index could be loaded from.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The index by words could not be built.
    #[error(transparent)]
    Words(#[from] IndexError),
    /// Vectors or graph do not fit the catalogue.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
}

/// An index as loaded: articles, and the two ways to search them. Hits are positions in `articles`.
#[derive(Debug)]
pub struct LoadedIndex {
    /// The catalogue.
    pub articles: Vec<Article>,
    /// By words.
    pub words: NewsIndex,
    /// By vectors.
    pub vectors: ArticleVectors,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format_version: u32,
    method: Method,
    n_articles: usize,
    n_vectors: usize,
    width: usize,
    files: BTreeMap<String, FileEntry>,
}

/// Read before the rest of the manifest, whose fields another version may change.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

/// Saves an index: written in full beside its place, flushed to the disk, then renamed over an older one.
///
/// `vectors` must be those of `articles`. Whatever fails, the older index stays. A folder that is no index is not replaced.
/// # Errors
/// If the catalogue would not load again, the target holds other things, or the disk refuses.
pub fn save(target: &Path, articles: &[Article], vectors: &ArticleVectors) -> Result<(), FolderError> {
    let mut lines = Vec::new();
    catalogue::lines_of_json(&mut lines, articles)
        .map_err(|error| content(ARTICLES_FILE, error.to_string()))?;
    catalogue::parse_jsonl(&lines, ARTICLES_FILE)?;
    let mut files: Files = vec![
        (ARTICLES_FILE.to_owned(), lines),
        (VECTORS_FILE.to_owned(), to_safetensors(vectors).map_err(|error| content(VECTORS_FILE, error))?),
    ];
    files.extend(vectors.graph_bytes()?.map(|graph| (GRAPH_FILE.to_owned(), graph)));
    let entry = |(name, bytes): &(String, Vec<u8>)| {
        (name.clone(), FileEntry { sha256: sha256_hex(bytes), bytes: bytes.len() as u64 })
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        method: vectors.method(),
        n_articles: articles.len(),
        n_vectors: vectors.n_vectors(),
        width: vectors.width(),
        files: files.iter().map(entry).collect(),
    };
    let mut json =
        serde_json::to_vec_pretty(&manifest).map_err(|error| content(MANIFEST_FILE, error.to_string()))?;
    json.push(b'\n');
    files.push((MANIFEST_FILE.to_owned(), json));
    // The mark is a file that no bundle has, although both have a manifest.
    Staged::write(target, &files, VECTORS_FILE).and_then(Staged::publish).map_err(FolderError::Save)
}

/// Loads an index: checks the version, then length and digest of every file, then that they fit one another.
///
/// # Errors
/// If a file is missing, cut short, changed or of another version, or the files do not fit; the error names the file.
pub fn load(dir: &Path) -> Result<LoadedIndex, FolderError> {
    let manifest = read_manifest(dir)?;
    let read = |name: &str| verified(dir, name, &manifest);
    let articles = catalogue::parse_jsonl(&read(ARTICLES_FILE)?, &shown(dir, ARTICLES_FILE))?;
    let stored = Rows::read(&read(VECTORS_FILE)?, &manifest)
        .map_err(|reason| content(&shown(dir, VECTORS_FILE), reason))?;
    if articles.len() != manifest.n_articles {
        let reason = format!("{} articles, manifest says {}", articles.len(), manifest.n_articles);
        return Err(content(&shown(dir, ARTICLES_FILE), reason));
    }
    let rows = stored.article_idxs.iter().copied().zip(stored.vectors.chunks_exact(manifest.width.max(1)));
    let vectors = match manifest.method {
        Method::Exact => ArticleVectors::build(&articles, manifest.width, rows, Method::Exact)?,
        Method::Hnsw => ArticleVectors::with_graph(&articles, manifest.width, rows, &read(GRAPH_FILE)?)?,
    };
    Ok(LoadedIndex { words: NewsIndex::build(&articles)?, articles, vectors })
}

fn read_manifest(dir: &Path) -> Result<Manifest, FolderError> {
    let file = || shown(dir, MANIFEST_FILE);
    let got = length(dir, MANIFEST_FILE)?;
    if got > MANIFEST_BYTES_MAX {
        return Err(content(&file(), format!("{got} bytes, limit is {MANIFEST_BYTES_MAX}")));
    }
    let json = bytes(dir, MANIFEST_FILE)?;
    let broken = |error: serde_json::Error| content(&file(), error.to_string());
    let version: VersionOnly = serde_json::from_slice(&json).map_err(broken)?;
    if version.format_version != FORMAT_VERSION {
        let got = version.format_version;
        return Err(FolderError::Version { file: file(), got, expected: FORMAT_VERSION });
    }
    serde_json::from_slice(&json).map_err(broken)
}

/// Reads a file of the manifest whose length and digest are those that it says.
fn verified(dir: &Path, name: &str, manifest: &Manifest) -> Result<Vec<u8>, FolderError> {
    let file = shown(dir, name);
    let Some(entry) = manifest.files.get(name) else {
        return Err(content(&shown(dir, MANIFEST_FILE), format!("{name} is not in it")));
    };
    // Before the file is read, so that a wrong one cannot fill the memory.
    let got = length(dir, name)?;
    if got != entry.bytes {
        return Err(FolderError::Length { file, got, expected: entry.bytes });
    }
    let bytes = bytes(dir, name)?;
    let got = sha256_hex(&bytes);
    if got != entry.sha256 {
        return Err(FolderError::Digest { file, got, expected: entry.sha256.clone() });
    }
    Ok(bytes)
}

/// Rows of the vectors' file.
struct Rows {
    article_idxs: Vec<usize>,
    vectors: Vec<f32>,
}

impl Rows {
    fn read(bytes: &[u8], manifest: &Manifest) -> Result<Self, String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let tensor = |name: &str, dtype: Dtype, shape: &[usize]| {
            let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
            if tensor.dtype() != dtype || tensor.shape() != shape {
                let (got_dtype, got) = (tensor.dtype(), tensor.shape());
                return Err(format!("{name} is {got_dtype:?} {got:?}, expected {dtype:?} {shape:?}"));
            }
            Ok(tensor)
        };
        let vectors = tensor("vectors", Dtype::F32, &[manifest.n_vectors, manifest.width])?;
        let article_idxs = tensor("article_idx", Dtype::I64, &[manifest.n_vectors])?;
        let (words, _) = article_idxs.data().as_chunks::<8>();
        let article_idxs = words
            .iter()
            .map(|word| usize::try_from(i64::from_le_bytes(*word)))
            .collect::<Result<Vec<usize>, _>>()
            .map_err(|_| "an article_idx is negative".to_owned())?;
        let (words, _) = vectors.data().as_chunks::<4>();
        Ok(Self { article_idxs, vectors: words.iter().map(|word| f32::from_le_bytes(*word)).collect() })
    }
}

fn to_safetensors(vectors: &ArticleVectors) -> Result<Vec<u8>, String> {
    let (article_idxs, rows) = vectors.rows();
    let idx_bytes: Vec<u8> = article_idxs.iter().flat_map(|&idx| (idx as u64).to_le_bytes()).collect();
    let row_bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
    let text = |error: safetensors::SafeTensorError| error.to_string();
    let shape = vec![article_idxs.len(), vectors.width()];
    let views = [
        ("article_idx", TensorView::new(Dtype::I64, vec![article_idxs.len()], &idx_bytes).map_err(text)?),
        ("vectors", TensorView::new(Dtype::F32, shape, &row_bytes).map_err(text)?),
    ];
    safetensors::serialize(views, None).map_err(text)
}

fn length(dir: &Path, name: &str) -> Result<u64, FolderError> {
    fs::metadata(dir.join(name)).map(|found| found.len()).map_err(|error| at(dir, name, error))
}

fn bytes(dir: &Path, name: &str) -> Result<Vec<u8>, FolderError> {
    fs::read(dir.join(name)).map_err(|error| at(dir, name, error))
}

fn at(dir: &Path, name: &str, source: io::Error) -> FolderError {
    let file = shown(dir, name);
    if source.kind() == io::ErrorKind::NotFound {
        return FolderError::Missing { file };
    }
    FolderError::Unreadable { file, source }
}

fn shown(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn content(file: &str, reason: String) -> FolderError {
    FolderError::Content { file: file.to_owned(), reason }
}
