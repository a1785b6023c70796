//! An index in a folder: whole, checked, and never lost.
use super::nearest::{WIDTH, articles, built, units};
use newshound::news::{
    folder::{
        ARTICLES_FILE, FORMAT_VERSION, FolderError, GRAPH_FILE, MANIFEST_FILE, VECTORS_FILE, load, save,
    },
    nearest::{ArticleVectors, Method},
};
use std::{fs, path::Path};

const N_ARTICLES: usize = 1_000;

fn saved(dir: &Path, method: Method) -> ArticleVectors {
    let (articles, vectors) = (articles(N_ARTICLES), units(N_ARTICLES, 1));
    let index = built(&articles, &vectors, method);
    save(dir, &articles, &index).unwrap();
    index
}

/// A smaller one, where only the files matter.
fn save_small(dir: &Path, n: usize) -> Result<(), FolderError> {
    let articles = articles(n);
    save(dir, &articles, &built(&articles, &units(n, 1), Method::Hnsw))
}

fn edit_manifest(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join(MANIFEST_FILE);
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn an_index_finds_the_same_after_it_was_saved_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    for method in [Method::Exact, Method::Hnsw] {
        // The second replaces the first.
        let path = dir.path().join("index");
        let index = saved(&path, method);
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.articles, articles(N_ARTICLES));
        assert_eq!((loaded.vectors.method(), loaded.vectors.width()), (method, WIDTH));
        for query in units(20, 2) {
            for alive_at in [None, Some(120)] {
                let found = loaded.vectors.search(&query, alive_at, 10).unwrap();
                assert_eq!(found, index.search(&query, alive_at, 10).unwrap());
            }
        }
        assert_eq!(loaded.words.search("comet", None, 3).unwrap().len(), 3);
        assert_eq!(path.join(GRAPH_FILE).exists(), method == Method::Hnsw);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["index"], "nothing is left beside it");
    }
}

#[test]
fn an_index_of_nothing_is_saved_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    save_small(&path, 0).unwrap();
    assert!(load(&path).unwrap().articles.is_empty());
}

#[test]
fn a_file_that_is_missing_cut_short_or_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for name in [ARTICLES_FILE, VECTORS_FILE, GRAPH_FILE] {
        let path = dir.path().join(name);
        save_small(&path, 12).unwrap();
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let error = load(&path).unwrap_err();
            assert!(error.to_string().starts_with(&file.display().to_string()), "{error}");
            error
        };
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(matches!(refused(&flipped), FolderError::Digest { .. }));
        let cut = refused(&whole[..whole.len() - 1]);
        assert!(matches!(cut, FolderError::Length { got, expected, .. } if got + 1 == expected), "{cut}");
        assert!(matches!(refused(&[&whole[..], b"x"].concat()), FolderError::Length { .. }));
        fs::remove_file(&file).unwrap();
        let missing = load(&path).unwrap_err();
        assert!(matches!(&missing, FolderError::Missing { file } if file.ends_with(name)), "{missing}");
        fs::write(&file, &whole).unwrap();
        load(&path).unwrap();
    }
}

#[test]
fn a_half_written_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let missing = |error: FolderError, name: &str| {
        assert!(matches!(&error, FolderError::Missing { file } if file.ends_with(name)), "{error}");
    };
    missing(load(&path).unwrap_err(), MANIFEST_FILE);
    fs::create_dir(&path).unwrap();
    missing(load(&path).unwrap_err(), MANIFEST_FILE);
    fs::write(path.join(ARTICLES_FILE), b"").unwrap();
    missing(load(&path).unwrap_err(), MANIFEST_FILE);
}

#[test]
fn a_manifest_that_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let refused = |edit: &dyn Fn(&mut serde_json::Value)| {
        save_small(&path, 12).unwrap();
        edit_manifest(&path, edit);
        load(&path).unwrap_err()
    };
    // Another version may have other fields: it is named before they are missed.
    let version = refused(&|manifest| *manifest = serde_json::json!({ "format_version": 2 }));
    assert!(matches!(version, FolderError::Version { got: 2, expected: FORMAT_VERSION, .. }), "{version}");
    let content = |error: FolderError, expected: &str| {
        assert!(matches!(error, FolderError::Content { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    content(refused(&|manifest| manifest["surprise"] = 1.into()), "surprise");
    content(refused(&|manifest| manifest["n_articles"] = 13.into()), "12 articles");
    content(refused(&|manifest| manifest["width"] = 8.into()), "vectors is F32 [12, 16]");
    content(refused(&|manifest| manifest["n_vectors"] = 11.into()), "expected F32 [11, 16]");
    let unnamed = refused(&|manifest| drop(manifest["files"].as_object_mut().unwrap().remove(GRAPH_FILE)));
    content(unnamed, GRAPH_FILE);
    save_small(&path, 12).unwrap();
    fs::write(path.join(MANIFEST_FILE), vec![b' '; 1 << 20]).unwrap();
    content(load(&path).unwrap_err(), "limit is");
}

#[test]
fn the_older_index_survives_a_failed_save() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    save_small(&path, 12).unwrap();
    // A file stands where the new folder is to be written.
    let staging = dir.path().join(".index.staging");
    fs::write(&staging, b"").unwrap();
    assert!(matches!(save_small(&path, 20), Err(FolderError::Save(_))));
    assert_eq!(load(&path).unwrap().articles.len(), 12);
    fs::remove_file(&staging).unwrap();
    // What an interrupted save left there is replaced.
    fs::create_dir(&staging).unwrap();
    fs::write(staging.join(VECTORS_FILE), b"half").unwrap();
    // A catalogue that would not load again is not saved.
    let mut twins = articles(2);
    twins[1].id = twins[0].id.clone();
    let index = built(&twins, &units(2, 1), Method::Exact);
    assert!(matches!(save(&path, &twins, &index), Err(FolderError::Catalogue(_))));
    assert_eq!(load(&path).unwrap().articles.len(), 12);
    save_small(&path, 20).unwrap();
    assert_eq!(load(&path).unwrap().articles.len(), 20);
}

#[test]
fn a_folder_that_holds_other_things_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    // A bundle has a manifest of the same name.
    fs::write(dir.path().join(MANIFEST_FILE), b"{}").unwrap();
    assert!(matches!(save_small(dir.path(), 3), Err(FolderError::Save(_))));
    assert_eq!(fs::read(dir.path().join(MANIFEST_FILE)).unwrap(), b"{}");
}
