//! What the image is compiled of: a source that embeds a file which .dockerignore leaves out compiles everywhere but there.
use crate::architecture::rust_files;
use std::path::{Component, Path, PathBuf};

/// Paths and, before `*`, prefixes of names that .dockerignore lets in.
fn admitted() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".dockerignore");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.lines().any(|line| line == "*"), "everything is let in");
    text.lines().filter_map(|line| line.strip_prefix('!').map(str::to_owned)).collect()
}

fn is_admitted(path: &Path, admitted: &[String]) -> bool {
    admitted.iter().any(|line| match line.strip_suffix('*') {
        Some(prefix) => path.to_string_lossy().starts_with(prefix),
        None => path.starts_with(line),
    })
}

/// Files that a source outside its tests embeds by name, relative to the repository.
fn embedded(file: &str, source: &str) -> Vec<PathBuf> {
    let source = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let folder = Path::new(file).parent().unwrap();
    let mut found = Vec::new();
    for name in ["include_str!(\"", "include_bytes!(\"", "include!(\""] {
        for (at, _) in source.match_indices(name) {
            let path = source[at + name.len()..].split('"').next().unwrap();
            found.push(plain(&folder.join(path)));
        }
    }
    found
}

/// The path without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
        plain
    })
}

#[test]
fn what_the_sources_embed_is_in_the_image_that_compiles_them() {
    let admitted = admitted();
    let mut sources = rust_files("src");
    sources.extend(rust_files("build.rs"));
    let mut n_outside = 0;
    for (file, source) in &sources {
        assert!(is_admitted(Path::new(file), &admitted), ".dockerignore leaves out {file}");
        for path in embedded(file, source) {
            assert!(is_admitted(&path, &admitted), ".dockerignore leaves out {}, of {file}", path.display());
            n_outside += usize::from(!path.starts_with("src"));
        }
    }
    assert!(n_outside > 0, "no source is seen to embed a file from elsewhere");
}
