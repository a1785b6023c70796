//! The first signal drains, whatever the server is doing; the second ends it at once.
use super::process::{ANY_PORTS, PATIENCE, Process, connected, free_addr};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Instant,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/demo");

/// Value of a metric without labels.
fn metric(http: SocketAddr, name: &str) -> Option<f64> {
    let mut stream = connected(http);
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    response.lines().find_map(value)
}

fn until(http: SocketAddr, name: &str, value: f64) {
    let begun = Instant::now();
    while metric(http, name) != Some(value) {
        assert!(begun.elapsed() < PATIENCE, "{name} is never {value}");
    }
}

#[test]
fn a_signal_while_the_demo_answers_its_readers_drains_and_ends_well() {
    for name in ["TERM", "INT"] {
        let mut process = Process::start(&ANY_PORTS);
        process.read_to("reader ");
        process.signal(name);
        let remains = process.ended();
        assert!(remains.status.success(), "{name}: {remains:?}");
    }
}

/// A load was waited for, and the signal with it.
#[test]
fn a_signal_while_the_bundle_is_loaded_ends_well_and_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let never_read = folder.path().join("config.json");
    // Nobody writes to this pipe, so whoever reads it waits for ever.
    assert!(Command::new("mkfifo").arg(&never_read).status().unwrap().success());
    let grpc = free_addr();
    let bundle = folder.path().to_str().unwrap();
    let addr = grpc.to_string();
    let arguments = ["serve", "--bundle", bundle, "--grpc-addr", &addr, "--http-addr", "127.0.0.1:0"];
    let process = Process::start(&arguments);
    // Addresses are bound before anything is loaded.
    connected(grpc);
    process.signal("TERM");
    let remains = process.ended();
    assert!(remains.status.success(), "{remains:?}");
}

/// A client that began to speak HTTP/2 and never answers a ping, so that a drain waits for it.
fn deaf(addr: SocketAddr) -> TcpStream {
    let mut stream = connected(addr);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    // The server's own settings: it has taken the connection for what it is.
    stream.read_exact(&mut [0; 9]).unwrap();
    stream
}

#[test]
fn a_second_signal_ends_a_drain_that_would_take_longer() {
    let minute = "60000";
    let patient = [
        ("NEWSHOUND__CONNECTIONS__HANDSHAKE_TIMEOUT_MS", minute),
        ("NEWSHOUND__SHUTDOWN__IDLE_GRACE_MS", minute),
        ("NEWSHOUND__SHUTDOWN__DRAIN_DEADLINE_MS", "3600000"),
    ];
    let mut process = Process::start_in(&patient, &[&["serve", "--bundle", DEMO], &ANY_PORTS[..]].concat());
    let said = process.read_to("serving ");
    let address_after = |word: &str| -> SocketAddr {
        let (_, rest) = said.split_once(word).unwrap();
        rest.split([',', '\n']).next().unwrap().parse().unwrap()
    };
    let (grpc, http) = (address_after(" on "), address_after("metrics on "));
    let _deaf = deaf(grpc);
    until(http, "newshound_connections_open", 1.0);
    process.signal("TERM");
    // Two signals before the first is seen count as one.
    until(http, "newshound_draining", 1.0);
    process.signal("TERM");
    let remains = process.ended();
    assert_eq!(remains.status.code(), Some(1), "{remains:?}");
    assert!(remains.stderr.contains("second signal"), "{remains:?}");
}
