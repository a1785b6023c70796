//! What the demo prints can be copied, and what can be asked of it.
use super::{
    models::said,
    process::{ANY_PORTS, Process},
};
use serde_json::Value;
use std::process::Command;

#[test]
fn the_call_that_the_demo_prints_runs_as_printed() {
    let mut process = Process::start(&ANY_PORTS);
    let text = process.read_to("  PYTHONPATH=");
    let call = text.lines().find(|line| line.contains(" ask --addr ")).expect("a call is printed");
    let output = Command::new("sh").args(["-c", call]).output().unwrap();
    assert!(output.status.success(), "{call}: {output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("chosen"), "{call}: {output:?}");
    let addr = call.split(" --addr ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let load =
        ["--json", "--rate", "4", "--duration-s", "0.5", "--n", "1", "--connections", "1", "--addr", addr];
    for name in [&["bench", "rpc"][..], &["bench"]] {
        let (went_well, text) = said(&[name, &load].concat());
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        assert!(went_well && report["rate_per_s"] == 4.0 && report["codes"]["OK"] == 2, "{text}");
    }
    assert!(!said(&[&["bench"], &load[1..3], &["rpc"]].concat()).0, "a load is said once");
}
