//! What the environment may say, and who listens to it.
use super::process::{Process, free_addr};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Command};

#[test]
fn variables_that_kubernetes_gives_to_pods_are_no_settings() {
    let injected = [
        ("NEWSHOUND_SERVICE_HOST", "10.0.0.1"),
        ("NEWSHOUND_PORT", "tcp://10.0.0.1:50051"),
        ("NEWSHOUND_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("NEWSHOUND_SERVER_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
    ];
    let any = ["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let mut process = Process::start(&any, &injected);
    process.read_to("newshound demo");
}

#[test]
fn a_mistake_in_a_variable_ends_the_server_and_names_the_variable() {
    let remains = Process::start(&[], &[("NEWSHOUND__ENGINE__ROWS_MAX", "many")]).ended();
    assert!(!remains.status.success());
    assert!(remains.stderr.contains("NEWSHOUND__ENGINE__ROWS_MAX"), "{remains:?}");
}

#[test]
fn a_variable_that_is_not_utf_8_matters_only_where_it_is_a_setting() {
    let broken = OsStr::from_bytes(&[b'a', 0xff]);
    let probe = |variable: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_newshound-server"));
        let output = command.args(arguments).env(variable, broken).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let nobody = free_addr().to_string();
    for variable in ["SOMETHING_ELSE", "NEWSHOUND__ENGINE__ROWS_MAX"] {
        let said = probe(variable, &["probe", "--addr", &nobody]);
        assert!(said.contains("no server answers"), "{variable}: {said}");
    }
    let said = probe("NEWSHOUND__ENGINE__ROWS_MAX", &[]);
    assert!(said.contains("NEWSHOUND__ENGINE__ROWS_MAX is not UTF-8"), "{said}");
}
