//! The plan of the house as a test: which room may know which, how long things may be, and what must be absent.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest file and function, in lines. A file counts up to its `mod tests`.
const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 60;

/// Room -> rooms it may name after `crate::`. An entry `a` allows all of `a`; `a::b` only that part.
/// `src/ARCHITECTURE.md` shows the same table to readers; a new edge is a design change and edits both.
const DAG: &[(&str, &[&str])] = &[
    ("client", &[]),
    ("plot", &[]),
    ("signals", &[]),
    ("queries", &[]),
    ("settings", &[]),
    ("start", &[]),
    ("telemetry", &[]),
    ("text", &["signals", "queries"]),
    ("model", &[]),
    ("decode", &["model", "queries"]),
    ("cleaner", &["signals", "text::tokens", "model"]),
    ("lexicon", &["signals", "text", "model", "decode"]),
    ("bundle", &["text", "model", "cleaner", "lexicon"]),
    ("news", &["queries", "model", "text::tokens", "bundle", "lexicon::unit"]),
    ("experiment", &["settings"]),
    ("world", &["signals", "queries", "news::article", "news::catalogue"]),
    ("serve::cache", &["signals", "queries", "bundle::manifest", "serve::owner"]),
    ("serve::ladder", &["experiment::policy"]),
    ("serve::batcher", &["signals", "queries"]),
    ("serve::cost", &[]),
    ("serve::owner", &[]),
    ("serve::shared::breaker", &[]),
    ("serve::rerank", &["signals", "queries"]),
    (
        "serve::engine",
        &[
            "model",
            "decode",
            "bundle",
            "serve::batcher",
            "serve::bill",
            "serve::cost",
            "serve::metrics",
            "serve::owner",
        ],
    ),
    (
        "serve",
        &[
            "client",
            "plot",
            "signals",
            "queries",
            "settings",
            "telemetry",
            "text",
            "model",
            "decode",
            "bundle",
            "news",
            "cleaner",
            "lexicon",
            "experiment",
            "serve",
        ],
    ),
    (
        "train",
        &[
            "plot",
            "signals",
            "queries",
            "settings",
            "telemetry",
            "text",
            "model",
            "decode",
            "bundle",
            "news",
            "cleaner",
            "lexicon",
            "world",
            "train",
        ],
    ),
];

/// (where, what must not stand there, why).
const ABSENT: &[(&str, &str, &str)] = &[
    ("src/model", "std::time", "networks know no clock"),
    ("src/model", "mpsc", "networks know no channel"),
    ("src/decode", "std::time", "decoding knows no clock"),
    ("src/decode", "mpsc", "decoding knows no channel"),
    ("src/decode", "String", "decoding sees ids, never text"),
    ("src/experiment", "::now()", "experiments know no clock"),
    ("src/experiment", "std::fs", "experiments know no files"),
    ("src/serve/batcher.rs", "Instant::now", "policy takes the time as an argument"),
    ("src/serve/batcher.rs", "tonic", "policy is pure"),
    ("src/serve/ladder.rs", "Instant", "policy takes times as arguments"),
    ("src/serve/rerank.rs", "tonic", "policy is pure"),
    ("src/serve/rerank.rs", "candle", "policy is pure"),
    ("src/serve/cost.rs", "Instant", "costs take times as arguments"),
    ("src/serve/shared/breaker.rs", "Instant", "policy takes times as arguments"),
    ("src/signals.rs", "serde", "files and wire have their own counterparts of signals"),
    ("src/signals", "serde", "files and wire have their own counterparts of signals"),
    ("src/queries.rs", "serde", "files and wire have their own counterparts of queries"),
    ("src", "unbounded", "every queue is bounded"),
    ("src", "Mutex<Transformer", "no lock around a model"),
    ("src", "Mutex<Bundle", "no lock around a model"),
    ("src", "RwLock<Transformer", "no lock around a model"),
    ("src", "todo!(", "what is not done is not in the house"),
    ("src", "unimplemented!(", "what is not done is not in the house"),
    ("src", "huggingface.co", "no code path downloads weights"),
    ("Cargo.toml", "hf-hub", "no code path downloads weights"),
    ("Cargo.toml", "reqwest", "no code path downloads weights"),
    ("tests", concat!("#[", "should_panic"), "errors are values here"),
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// (path relative to the repository, text) of every Rust file under a file or folder, sorted.
pub(crate) fn rust_files(under: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                walk(&entry.unwrap().path(), found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
            found.push(path.to_path_buf());
        }
    }
    let mut paths = Vec::new();
    walk(&repository().join(under), &mut paths);
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(repository()).unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// `src/serve/cache.rs` -> `serve::cache`; `src/text/parse.rs` -> `text::parse`.
fn room_of(file: &str) -> String {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.replace('/', "::")
}

/// The source without comments, so that prose may name anything.
fn code_of(source: &str) -> String {
    source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Paths named after `crate::`, groups in braces opened: `crate::{a::b, c::{d, e}}` -> a::b, c::d, c::e.
fn crate_paths(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, matched) in source.match_indices("crate::") {
        let rest = &source[at + matched.len()..];
        expand("", rest, &mut found);
    }
    found
}

/// Reads one path or group at the start of `rest`; returns how many bytes it took.
fn expand(prefix: &str, rest: &str, found: &mut BTreeSet<String>) -> usize {
    let name_end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
    let path = format!("{prefix}{}", rest[..name_end].trim());
    if !rest[name_end..].starts_with('{') {
        if !path.is_empty() {
            found.insert(path);
        }
        return name_end;
    }
    let mut at = name_end + 1;
    while at < rest.len() && !rest[at..].starts_with('}') {
        let skipped = rest[at..].find(|c: char| !c.is_whitespace() && c != ',').unwrap_or(rest.len() - at);
        at += skipped;
        if at >= rest.len() || rest[at..].starts_with('}') {
            break;
        }
        at += expand(&path, &rest[at..], found).max(1);
    }
    at + 1
}

fn within(path: &str, allowed: &str) -> bool {
    path == allowed || path.starts_with(&format!("{allowed}::"))
}

/// The most specific line of the DAG that speaks of a room.
fn allowed_of(room: &str) -> Option<(&'static str, &'static [&'static str])> {
    DAG.iter().filter(|(name, _)| within(room, name)).max_by_key(|(name, _)| name.len()).copied()
}

/// Top-level and method functions of rustfmt-formatted source: (name, lines).
fn functions(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else { continue };
        let end = lines[start..]
            .iter()
            .position(|line| {
                line.len() > indent && &line[indent..] == "}" && line[..indent].trim().is_empty()
                    || line.ends_with(';') && line.len() - line.trim_start().len() == indent
            })
            .unwrap_or(0);
        found.push((name, end + 1));
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let at = line.find("fn ")?;
    let qualifiers = ["pub", "async", "const", "unsafe", "pub(crate)", "pub(super)", "extern", "\"C\""];
    let qualified = line[..at].split_whitespace().all(|word| qualifiers.contains(&word));
    let name = line[at + 3..].split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (qualified && !name.is_empty()).then(|| name.to_owned())
}

fn without_tests(source: &str) -> &str {
    source.find("#[cfg(test)]\nmod tests").map_or(source, |at| &source[..at])
}

#[test]
fn rooms_know_only_the_rooms_of_the_plan() {
    let mut wrong = Vec::new();
    for (file, source) in rust_files("src") {
        let room = room_of(&file);
        if room == "lib" || room.starts_with("bin") {
            continue;
        }
        let Some((name, allowed)) = allowed_of(&room) else {
            wrong.push(format!("{file}: room {room} is not in the plan"));
            continue;
        };
        for path in crate_paths(&code_of(without_tests(&source))) {
            let home = within(&path, name) || within(&path, &room);
            let pure_home = name.split("::").next() == Some(&path) && !path.contains("::");
            if !home && !pure_home && !allowed.iter().any(|allowed| within(&path, allowed)) {
                wrong.push(format!("{file}: {name} may not know crate::{path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_rooms_of_the_wire_name_protobuf_or_a_status() {
    let mut wrong = Vec::new();
    for (file, source) in rust_files("src") {
        if file.starts_with("src/serve/rpc") || file.starts_with("src/client") {
            continue;
        }
        for name in ["tonic::Status", "tonic_types", "prost::", "include_proto!", "pb::"] {
            if code_of(&source).contains(name) {
                wrong.push(format!("{file} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What else can put something into a span is a way for content to leave.
#[test]
fn only_traces_and_their_way_out_name_opentelemetry() {
    for (file, source) in rust_files("src") {
        let may = file.starts_with("src/serve/traces") || file == "src/serve/rpc/collector.rs";
        assert!(may || !code_of(&source).contains("opentelemetry"), "{file} names OpenTelemetry");
    }
}

#[test]
fn only_the_link_names_the_client_of_redis() {
    for (file, source) in rust_files("src") {
        let names_it = code_of(&source).contains("redis::");
        assert!(file.starts_with("src/serve/shared/link") || !names_it, "{file} names Redis' client");
    }
}

#[test]
fn only_binaries_read_the_environment_or_exit() {
    for (file, source) in rust_files("src") {
        if !file.starts_with("src/bin") {
            for name in ["env::var", "env::args", "process::exit", "process::abort"] {
                assert!(!code_of(&source).contains(name), "{file} names {name}");
            }
        }
    }
}

#[test]
fn only_gates_the_cleaner_and_the_oracle_row_know_the_truth_of_a_world() {
    for (file, source) in rust_files("src") {
        // The cleaner learns from the tags of noise, and from nothing else of the truth.
        let may_know = file.starts_with("src/world")
            || [
                "src/train/baselines/roles.rs",
                "src/train/gates.rs",
                "src/train/cleaner.rs",
                "src/train/cleaner/report.rs",
                "src/train/cleaner/report/second_person.rs",
            ]
            .contains(&&*file);
        let names_it = crate_paths(&code_of(&source)).iter().any(|path| path.starts_with("world::known"));
        assert!(may_know || !names_it, "{file} names the truth");
    }
}

#[test]
fn what_must_be_absent_is_absent() {
    let mut wrong = Vec::new();
    for (place, name, why) in ABSENT {
        for (file, source) in rust_files(place) {
            if file != "tests/architecture.rs" && code_of(without_tests(&source)).contains(name) {
                wrong.push(format!("{file} holds {name:?}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for (file, source) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let body = without_tests(&source);
        let n_lines = body.lines().count();
        if file.ends_with(".rs") && n_lines > FILE_LINES_MAX {
            wrong.push(format!("{file}: {n_lines} lines"));
        }
        for (name, n_lines) in functions(body) {
            if n_lines > FUNCTION_LINES_MAX {
                wrong.push(format!("{file}: fn {name} has {n_lines} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A test that does not run proves nothing: those that start what not every machine has are run by `.ci/run`.
#[test]
fn tests_are_ignored_only_where_they_start_redis_and_are_run_by_name() {
    let ignored = concat!("#[", "ignore");
    for (file, source) in rust_files("tests") {
        let n_ignored = source.matches(ignored).count();
        let n_named = source.matches(concat!("#[", "ignore = \"starts redis-server\"]")).count();
        assert_eq!(n_ignored, n_named, "{file} holds a test that is never run");
    }
    let script = std::fs::read_to_string(repository().join(".ci/run")).unwrap();
    assert!(script.contains("shared_cache -- --ignored"));
}

#[test]
fn binaries_stay_thin() {
    for (file, source) in rust_files("src/bin") {
        assert!(source.lines().count() <= 120, "{file} has {} lines", source.lines().count());
    }
}

#[test]
fn every_test_file_is_a_module_of_the_one_binary() {
    let main = std::fs::read_to_string(repository().join("tests/main.rs")).unwrap();
    for entry in std::fs::read_dir(repository().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name != "main" && path.extension().is_some_and(|extension| extension == "rs") {
            assert!(main.contains(&format!("mod {name};")), "tests/{name}.rs is not compiled");
        }
    }
}

#[test]
fn every_metric_stands_in_the_readme() {
    let metrics = std::fs::read_to_string(repository().join("src/serve/metrics/table.rs")).unwrap();
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let is_name = |text: &&str| ["newshound_", "process_"].iter().any(|start| text.starts_with(start));
    let names: BTreeSet<&str> =
        metrics.split('"').filter(is_name).filter(|text| !text.contains(' ')).collect();
    assert!(names.len() >= 10, "found only {} metric names", names.len());
    for name in names {
        assert!(readme.contains(name), "README.md does not name the metric {name}");
    }
}

#[test]
fn crate_paths_opens_groups() {
    let source =
        "use crate::{signals::Signal, text::{parse, tokens::Tokens}};\nlet a = crate::news::index::build();";
    let expected = ["news::index::build", "signals::Signal", "text::parse", "text::tokens::Tokens"];
    assert_eq!(crate_paths(source).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn functions_are_measured_to_their_closing_brace() {
    let source = "impl A {\n    pub fn one(&self) {\n        if x {\n        }\n    }\n\n    fn declared();\n}\nfn two() {\n}\n";
    let expected = [("one".to_owned(), 4), ("declared".to_owned(), 1), ("two".to_owned(), 2)];
    assert_eq!(functions(source), expected);
}
