//! Measurements that start the server that they measure: short ones, of which only the form is looked at.
use super::models::said;
use serde_json::Value;

/// As little of the demo as can be asked for.
const LITTLE: [&str; 8] = ["--json", "--readers", "1", "--signals", "1", "--n", "1", "--connections"];

fn report(arguments: &[&str]) -> Value {
    let (went_well, text) = said(&[&["bench"], arguments, &LITTLE[..], &["1"]].concat());
    assert!(went_well, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

/// The figures that are held to a bar, by name.
fn names(report: &Value) -> Vec<&str> {
    let bars = report["bars"].as_array().unwrap();
    assert!(bars.iter().all(|bar| bar["got"].is_number() && bar["met"].is_boolean()), "{report}");
    bars.iter().map(|bar| bar["name"].as_str().unwrap()).collect()
}

#[test]
fn hits_and_echo_are_measured_with_messages_of_the_same_size() {
    let report = report(&["hits", "--pairs", "1", "--seconds", "0.2", "--clients", "2"]);
    assert_eq!(names(&report), ["requests per second, to the echo's", "p99, to the echo's"]);
    assert!(
        report["request_bytes"].as_u64() > Some(20) && report["answer_bytes"].as_u64() > Some(100),
        "{report}"
    );
    for side in ["hits", "echo"] {
        assert!(report["sides"][side]["per_second"].as_f64() > Some(1.0), "{report}");
        assert_eq!(report["sides"][side]["refused"], 0, "{report}");
    }
}

#[test]
fn malformed_requests_are_refused_while_others_are_answered() {
    let short = ["--pairs", "1", "--seconds", "0.5", "--rate", "20", "--malformed-rate", "40"];
    let report = report(&[&["malformed"], &short[..]].concat());
    assert_eq!(names(&report).len(), 3);
    let refused = report["malformed"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(refused, 20, "{report}");
    for bar in &report["bars"].as_array().unwrap()[1..] {
        assert_eq!(bar["met"], true, "{report}");
    }
}

#[test]
fn a_load_that_makes_no_sense_is_refused_before_a_server_is_started() {
    for arguments in [
        ["rpc", "--rate", "0"],
        ["hits", "--clients", "0"],
        ["overload", "--times", "0"],
        ["deadlines", "--duration-s", "0"],
        ["malformed", "--rate", "0"],
        ["sharing", "--seconds", "0"],
    ] {
        let (went_well, text) = said(&[&["bench"], &arguments[..]].concat());
        assert!(
            !went_well && (text.contains("must be above 0") || text.contains("at least 1")),
            "{arguments:?}: {text}"
        );
    }
}
