//! Experiments by settings and commands alone.
use super::process::{ANY_PORTS, Process};
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_newshound-server")).args(arguments).output().unwrap()
}

#[test]
fn an_arm_can_be_tried_with_ask_and_the_log_is_read_by_report() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("records");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/experiments.json");
    let environment = [
        ("NEWSHOUND__EXPERIMENTS__FILE", sample),
        ("NEWSHOUND__EXPERIMENTS__LOG_DIR", records.to_str().unwrap()),
        ("NEWSHOUND__EXPERIMENTS__READER_SALT", "sixteen bytes or more"),
    ];
    let mut process = Process::start_in(&environment, &ANY_PORTS);
    let text = process.read_to("  PYTHONPATH=");
    assert!(text.contains("  arms best-of=eight by DEFAULT"), "{text}");
    let addr = text.split("--addr ").nth(1).unwrap().split_whitespace().next().unwrap();
    let ask = |more: &[&str]| {
        let arguments = ["ask", "--addr", addr, "--user", "me", "--signal", "search:rain jacket"];
        let output = run(&[&arguments, more].concat());
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, said) = ask(&["--arm", "best-of=sixteen"]);
    assert!(said.contains("  16 candidates") && said.contains("arms best-of=sixteen by FORCED"), "{said}");
    let (_, said) = ask(&["--locale", "en-GB"]);
    assert!(said.contains("arms best-of=eight by HASH"), "{said}");
    assert!(!ask(&["--arm", "best-of=seventeen"]).0);

    process.signal("TERM");
    assert!(process.ended().status.success());
    let report = |experiment: &str| {
        let dir = records.to_str().unwrap();
        let arguments = ["experiment", "report", "--control", "eight", "--log-dir", dir];
        run(&[&arguments[..], &["--experiment", experiment]].concat())
    };
    let output = report("best-of");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("1 readers          1 answers"), "{said}");
    // The demo's three readers had the default arm, and one chose hers.
    assert!(said.contains("\"answers_not_by_hash\":4"), "{said}");
    assert!(!report("worst-of").status.success());
}

#[test]
fn a_wrong_file_ends_the_start_with_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.json");
    std::fs::write(&file, "{\"$schema\": \"another\", \"flags\": {\"newshound.x\": {}}}").unwrap();
    let remains = Process::start_in(&[("NEWSHOUND__EXPERIMENTS__FILE", &file)], &ANY_PORTS).ended();
    assert!(!remains.status.success());
    for told in ["$schema should be", "newshound.x.state should be", "newshound.x.variants should be"] {
        assert!(remains.stderr.contains(told), "{remains:?}");
    }
}
