//! What the environment may say, and who listens to it.
use super::process::{ANY_PORTS, Process, free_addr};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

#[test]
fn variables_that_kubernetes_gives_to_pods_are_no_settings() {
    let injected = [
        ("NEWSHOUND_SERVICE_HOST", "10.0.0.1"),
        ("NEWSHOUND_PORT", "tcp://10.0.0.1:50051"),
        ("NEWSHOUND_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("NEWSHOUND_SERVER_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
    ];
    let mut process = Process::start_in(&injected, &ANY_PORTS);
    process.read_to("newshound demo");
}

#[test]
fn a_mistake_in_a_variable_ends_the_server_and_names_the_variable() {
    let remains = Process::start_in(&[("NEWSHOUND__ENGINE__ROWS_MAX", "many")], &ANY_PORTS).ended();
    assert!(!remains.status.success());
    assert!(remains.stderr.contains("NEWSHOUND__ENGINE__ROWS_MAX"), "{remains:?}");
}

#[test]
fn a_variable_that_is_not_utf_8_matters_only_where_it_is_a_setting() {
    let broken = OsStr::from_bytes(&[b'a', 0xff]);
    let says = |variable: &str, arguments: &[&str]| {
        Process::start_in(&[(variable, broken)], arguments).ended().stderr
    };
    let nobody = free_addr().to_string();
    for variable in ["SOMETHING_ELSE", "NEWSHOUND__ENGINE__ROWS_MAX"] {
        let said = says(variable, &["probe", "--addr", &nobody]);
        assert!(said.contains("no server answers"), "{variable}: {said}");
    }
    let said = says("NEWSHOUND__ENGINE__ROWS_MAX", &ANY_PORTS);
    assert!(said.contains("NEWSHOUND__ENGINE__ROWS_MAX is not UTF-8"), "{said}");
}

/// They were taken and ignored: a probe of one port answered for another.
#[test]
fn addresses_to_serve_on_are_refused_by_commands_that_do_not_serve() {
    let nobody = free_addr().to_string();
    for arguments in [["--grpc-addr", &nobody, "probe"], ["probe", "--grpc-addr", &nobody]] {
        let remains = Process::start(&arguments).ended();
        assert!(!remains.status.success());
        assert!(remains.stderr.contains("--grpc-addr"), "{remains:?}");
    }
}
