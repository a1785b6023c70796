//! The first signal drains, whatever the server is doing.
use super::process::{Process, connected, free_addr};
use std::net::SocketAddr;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/demo");

fn on(grpc: SocketAddr, http: SocketAddr, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let (grpc, http) = (grpc.to_string(), http.to_string());
    let addresses = ["--grpc-addr", &grpc, "--http-addr", &http];
    Process::start(&[arguments, &addresses].concat(), environment)
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
