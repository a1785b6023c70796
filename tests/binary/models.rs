//! The model of a running server is changed by commands alone, over TLS and with tokens.
use super::process::{ANY_PORTS, Process};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/demo");

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_newshound-server")).args(arguments).output().unwrap()
}

/// What a command says, and whether it went well.
pub fn said(arguments: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = run(arguments);
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Writes what `token` makes: the token into one file, its line into another.
fn token(dir: &Path, name: &str) -> (String, String) {
    let (_, text) = said(&["token", name]);
    let (token, line) = text.trim().split_once('\n').unwrap();
    let paths = [format!("{name}.token"), format!("{name}.tokens")].map(|file| dir.join(file));
    fs::write(&paths[0], token).unwrap();
    fs::write(&paths[1], line).unwrap();
    let [token, line] = paths.map(|path| path.to_str().unwrap().to_owned());
    (token, line)
}

#[test]
fn operators_change_the_model_by_commands_and_readers_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    fs::create_dir(&models).unwrap();
    for folder in ["v1", "broken"] {
        copy(Path::new(DEMO), &models.join(folder));
    }
    fs::write(models.join("broken/config.json"), "{}").unwrap();
    let ((reader, readers), (operator, operators)) = (token(dir.path(), "daily"), token(dir.path(), "ops"));
    let environment = [
        ("NEWSHOUND__ADMIN__ADDR", "127.0.0.1:0"),
        ("NEWSHOUND__ADMIN__MODELS_DIR", models.to_str().unwrap()),
        ("NEWSHOUND__MODELS__RESIDENTS", "{ next = \"\" }"),
        ("NEWSHOUND__ACCESS__TOKENS_FILE", &readers),
        ("NEWSHOUND__ACCESS__ADMIN_TOKENS_FILE", &operators),
    ];
    let mut process =
        Process::start_in(&environment, &[&["serve", "--bundle", DEMO], &ANY_PORTS[..]].concat());
    let line = process.read_to("serving ");
    let address = |word: &str| line.split_once(word).unwrap().1.split(',').next().unwrap().to_owned();
    let (grpc, admin) = (address(") on "), address("models changed on "));
    let model = |token: &str, what: &[&str]| {
        said(&[&["model", "--admin", &admin, "--token-file", token], what].concat())
    };
    let (went_well, text) = model(&operator, &["list"]);
    assert!(went_well && text.starts_with("SERVING  generation 1: newshound-demo"), "{text}");
    let (went_well, text) = model(&reader, &["list"]);
    assert!(!went_well && text.contains("TOKEN_UNKNOWN"), "{text}");
    let (went_well, text) = model(&operator, &["load", "broken"]);
    assert!(!went_well && text.contains("config.json: sha256") && text.contains("BUNDLE_REFUSED"), "{text}");
    let (went_well, text) = model(&operator, &["load", "v1", "--swap", "--expected-generation", "1"]);
    assert!(went_well && text.contains("SERVING  generation 2"), "{text}");
    let (went_well, text) = model(&operator, &["rollback", "--expected-generation", "1"]);
    assert!(!went_well && text.contains("GENERATION_MISMATCH"), "{text}");
    let (went_well, text) = model(&operator, &["load", "v1", "--resident", "other"]);
    assert!(!went_well && text.contains("models.residents has no other"), "{text}");
    let (went_well, text) = model(&operator, &["load", "v1", "--resident", "next", "--swap"]);
    assert!(went_well && text.contains("SERVING  generation 3"), "{text}");
    assert!(model(&operator, &["list"]).1.contains("), resident next, "));
    assert!(model(&operator, &["unload", "3"]).0);
    let (went_well, text) = model(&operator, &["rollback", "--resident", "next"]);
    assert!(went_well && text.contains("SERVING  generation 4"), "{text}");

    let ask = ["ask", "--addr", &grpc, "--user", "me", "--signal", "search:rain jacket", "--n", "1"];
    let (went_well, text) = said(&ask);
    assert!(!went_well && text.contains("TOKEN_MISSING"), "{text}");
    let (_, text) = said(&[&ask[..], &["--token-file", &reader]].concat());
    assert!(!text.contains("UNAUTHENTICATED"), "{text}");
    assert!(said(&["probe", "--addr", &grpc]).0, "a probe needs no token");

    let load =
        ["--folder", "v1", "--folder", "v1", "--swaps", "2", "--calm-s", "2", "--rate", "1", "--n", "2"];
    let bench = ["bench", "swaps", "--json", "--addr", &grpc, "--token-file", &reader, "--admin", &admin];
    let (went_well, text) = said(&[&bench[..], &["--admin-token-file", &operator], &load].concat());
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert!(went_well && report["changing"]["mixed"] == 0 && report["swaps"] == 2, "{text}");

    process.signal("TERM");
    assert!(process.ended().status.success());
}
