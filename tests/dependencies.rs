//! deny.toml's rules that need no network: licences, duplicate versions, banned crates, sources.
use serde_json::Value as Json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

struct Package {
    name: String,
    version: String,
    license: String,
    source: Option<String>,
}

/// Every package of the lock file that is built for Linux, this one left out.
fn packages() -> Vec<Package> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path"])
        .arg(&manifest)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Json = serde_json::from_slice(&output.stdout).unwrap();
    let built: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| built.contains(package["id"].as_str().unwrap()) && package["name"] != "newshound")
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            license: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
        })
        .collect()
}

/// The client is for programs that want nothing of models and servers.
#[test]
fn the_client_alone_needs_neither_models_nor_a_server() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--no-default-features", "--features", "client"])
        .args(["--edges", "normal", "--prefix", "none", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let needed: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(needed.contains("tonic") && needed.contains("newshound"), "{needed:?}");
    for name in ["candle-core", "tokenizers", "tantivy", "usearch", "axum", "redis", "opentelemetry", "clap"]
    {
        assert!(!needed.contains(name), "{name}");
    }
}

fn rules() -> toml::Table {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap().parse().unwrap()
}

/// Names of the `crate = ".."` entries of a list, each of which must give its reason.
fn crates_of(list: &toml::Value) -> BTreeSet<String> {
    let entries = list.as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["reason"].as_str().is_some_and(|reason| reason.len() > 5)));
    entries.iter().map(|entry| entry["crate"].as_str().unwrap().to_owned()).collect()
}

/// Whether an SPDX expression can be met with the allowed licences. AND binds more tightly than OR; `/` is an old OR.
fn licence_is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one_of(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one_of(words, at, allowed);
    }
    met
}

fn one_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        *at += 1;
        return met;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let rules = rules();
    let allowed = rules["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    for package in packages() {
        let Package { name, version, license, .. } = &package;
        assert!(licence_is_allowed(license, &allowed), "{name} {version} has licence {license:?}");
    }
}

#[test]
fn no_dependency_comes_twice_without_a_reason() {
    let skipped = crates_of(&rules()["bans"]["skip"]);
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    for (name, versions) in &versions {
        assert!(versions.len() == 1 || skipped.contains(name), "{name} comes in {versions:?}");
    }
    for name in &skipped {
        assert!(
            versions.get(name).is_some_and(|versions| versions.len() > 1),
            "deny.toml need not skip {name}"
        );
    }
}

#[test]
fn no_dependency_is_banned_or_from_elsewhere() {
    let banned = crates_of(&rules()["bans"]["deny"]);
    for package in packages() {
        assert!(!banned.contains(&package.name), "{} is banned", package.name);
        let source = package.source.unwrap_or_default();
        assert!(
            source.starts_with("registry+") && source.ends_with("crates.io-index"),
            "{} is from {source}",
            package.name
        );
    }
}

#[test]
fn licence_expressions_are_read_as_spdx() {
    let allowed = ["MIT", "Unicode-3.0"].map(str::to_owned).into();
    let check =
        |expression, expected| assert_eq!(licence_is_allowed(expression, &allowed), expected, "{expression}");
    check("MIT", true);
    check("GPL-3.0", false);
    check("Apache-2.0 OR MIT", true);
    check("Apache-2.0 AND MIT", false);
    check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
    check("(GPL-3.0 OR Apache-2.0) AND Unicode-3.0", false);
    check("GPL-3.0 AND Unicode-3.0 OR MIT", true);
    check("Apache-2.0/MIT", true);
    check("MIT WITH LLVM-exception", false);
    check("", false);
}
