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

/// The image's health check is told nothing: at another address, or with TLS, it failed for ever.
#[test]
fn a_probe_without_an_address_asks_the_server_of_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (file("tls.crt"), file("tls.key"));
    let made = rcgen::generate_simple_self_signed(["queries.example".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    for (cert, key) in [(&String::new(), &String::new()), (&cert, &key)] {
        let (grpc, http) = (free_addr().to_string(), free_addr().to_string());
        let environment = [
            ("NEWSHOUND__GRPC_ADDR", &grpc),
            ("NEWSHOUND__HTTP_ADDR", &http),
            ("NEWSHOUND__ACCESS__CERT_FILE", cert),
            ("NEWSHOUND__ACCESS__KEY_FILE", key),
        ];
        let is_serving = || Process::start_in(&environment, &["probe"]).ended().status.success();
        assert!(!is_serving(), "nobody serves yet");
        let mut server = Process::start_in(&environment, &[]);
        server.read_to("newshound demo");
        assert!(is_serving());
        server.signal("TERM");
        assert!(server.ended().status.success());
        assert!(!is_serving(), "nobody serves any more");
    }
}

#[test]
fn the_settings_in_force_are_written_with_their_sources_and_nothing_is_served() {
    let variables =
        [("NEWSHOUND__CACHE__TTL_MS", "9"), ("NEWSHOUND__EXPERIMENTS__READER_SALT", "0123456789abcdef")];
    let mut process = Process::start_in(
        &variables,
        &["serve", "--print-config", "--grpc-addr", "127.0.0.1:7", "--precision", "int8"],
    );
    let text = process.read_to("trace_ratio = 1.0 # default");
    for line in [
        "grpc_addr = \"127.0.0.1:7\" # --grpc-addr",
        "precision = \"int8\" # --precision",
        "ttl_ms = 9 # NEWSHOUND__CACHE__TTL_MS",
        "reader_salt = \"(secret)\" # NEWSHOUND__EXPERIMENTS__READER_SALT",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert!(process.ended().status.success());
    let remains =
        Process::start_in(&[("NEWSHOUND__CACHE__TTL_MS", "0")], &["serve", "--print-config"]).ended();
    assert!(!remains.status.success() && remains.stderr.contains("NEWSHOUND__CACHE__TTL_MS"), "{remains:?}");
}

#[test]
fn a_server_that_is_only_checked_reads_what_it_would_serve_with_and_listens_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    // Somebody serves there already, to the end of the test.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let checked = |variables: &[(&str, &str)]| {
        let arguments =
            ["serve", "--bundle", "deploy/demo", "--check", "--grpc-addr", &addr, "--http-addr", &addr];
        Process::start_in(variables, &arguments)
    };
    let residents = "NEWSHOUND__MODELS__RESIDENTS";
    let log = folder.path().join("log");
    let mut process = checked(&[
        ("NEWSHOUND__EXPERIMENTS__FILE", "deploy/experiments.json"),
        ("NEWSHOUND__EXPERIMENTS__LOG_DIR", &log.display().to_string()),
        ("NEWSHOUND__EXPERIMENTS__READER_SALT", "0123456789abcdef"),
        ("NEWSHOUND__CACHE__REDIS__URL", &format!("redis://{}", free_addr())),
        (residents, "{ next = \"deploy/demo\" }"),
    ]);
    let said = process.read_to("would serve newshound-demo (");
    assert!(said.contains("1 resident"), "{said}");
    assert!(process.ended().status.success());
    assert!(!log.exists(), "nothing is written");
    let broken = file("experiments.json", "{}");
    for (variable, value, named) in [
        ("NEWSHOUND__EXPERIMENTS__FILE", broken.as_str(), "experiments.json"),
        ("NEWSHOUND__ACCESS__TOKENS_FILE", "nowhere", "nowhere"),
        ("NEWSHOUND__DEGRADATION__COHORT_FILE", "nowhere", "nowhere"),
        ("NEWSHOUND__TOPICS__FILE", "nowhere", "nowhere"),
        (residents, "{ next = \"nowhere\" }", "models.residents.next"),
    ] {
        let remains = checked(&[(variable, value)]).ended();
        assert!(!remains.status.success() && remains.stderr.contains(named), "{variable}: {remains:?}");
    }
}
