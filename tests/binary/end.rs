//! The first signal drains, whatever the server is doing; the second ends it at once.
use super::process::{PATIENCE, Process, connected, free_addr};
use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Instant,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/demo");

fn on(grpc: SocketAddr, http: SocketAddr, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let (grpc, http) = (grpc.to_string(), http.to_string());
    let addresses = ["--grpc-addr", &grpc, "--http-addr", &http];
    Process::start(&[arguments, &addresses].concat(), environment)
}

fn get(http: SocketAddr, path: &str) -> String {
    let mut stream = connected(http);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn a_signal_while_the_demo_answers_its_readers_drains_and_ends_well() {
    for name in ["TERM", "INT"] {
        let mut process = on(free_addr(), free_addr(), &[], &[]);
        process.read_to("reader ");
        process.signal(name);
        let remains = process.ended();
        assert!(remains.status.success(), "{name}: {remains:?}");
    }
}

#[test]
fn a_signal_while_the_bundle_is_loaded_ends_well() {
    for arguments in [&[][..], &["serve", "--bundle", DEMO]] {
        let grpc = free_addr();
        let process = on(grpc, free_addr(), arguments, &[]);
        // Addresses are bound before anything is loaded.
        connected(grpc);
        process.signal("TERM");
        let remains = process.ended();
        assert!(remains.status.success(), "{arguments:?}: {remains:?}");
    }
}

#[test]
fn a_second_signal_ends_a_drain_that_would_take_longer() {
    let (grpc, http) = (free_addr(), free_addr());
    let minute = "60000";
    let patient = [
        ("NEWSHOUND__CONNECTIONS__HANDSHAKE_TIMEOUT_MS", minute),
        ("NEWSHOUND__SHUTDOWN__IDLE_GRACE_MS", minute),
        ("NEWSHOUND__SHUTDOWN__DRAIN_DEADLINE_MS", "3600000"),
    ];
    let mut process = on(grpc, http, &["serve", "--bundle", DEMO], &patient);
    process.read_to("serving ");
    let _silent = connected(grpc);
    let begun = Instant::now();
    let until = |word: &str| {
        while !get(http, "/metrics").contains(word) {
            assert!(begun.elapsed() < PATIENCE, "never {word}");
        }
    };
    until("newshound_connections_open 1");
    process.signal("TERM");
    until("newshound_draining 1");
    process.signal("TERM");
    let remains = process.ended();
    assert_eq!(remains.status.code(), Some(1), "{remains:?}");
    assert!(remains.stderr.contains("second signal"), "{remains:?}");
}
