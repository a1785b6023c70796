//! What the demo prints can be copied.
use super::process::{ANY_PORTS, Process};
use std::process::Command;

#[test]
fn the_call_that_the_demo_prints_runs_as_printed() {
    let mut process = Process::start(&ANY_PORTS);
    let text = process.read_to("  PYTHONPATH=");
    let call = text.lines().find(|line| line.contains(" ask --addr ")).expect("a call is printed");
    let output = Command::new("sh").args(["-c", call]).output().unwrap();
    assert!(output.status.success(), "{call}: {output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("chosen"), "{call}: {output:?}");
}
