//! What JSON over HTTP refuses: with google.rpc.Status, its details, and the status of HTTP that stands for its code.
use super::super::{
    experiments::{flags, serving},
    http::{self, Answer, post},
    server::{Plan, Server, within},
};
use super::{GENERATE, answered, asked, generate};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
use tonic::Code;

/// Details of a refusal.
struct Details(Value);

impl Details {
    fn of(&self, name: &str) -> Option<&Value> {
        let of_type = format!("type.googleapis.com/google.rpc.{name}");
        self.0.as_array().unwrap().iter().find(|detail| detail["@type"] == *of_type)
    }
}

/// The details of a refusal, checked for its status, code and reason.
async fn refusal(answer: Answer, http: u16, code: Code, reason: &str) -> Details {
    let status = answer.status;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let json = answer.json().await;
    assert_eq!((status, &json["code"]), (http, &json!(code as i32)), "{json:#}");
    assert!(!json["message"].as_str().unwrap().is_empty());
    let details = Details(json["details"].clone());
    let info = details.of("ErrorInfo").unwrap();
    assert_eq!((&info["reason"], &info["domain"]), (&json!(reason), &json!("newshound.v1")));
    details
}

async fn violations(answer: Answer, reason: &str) -> Vec<(String, String)> {
    let details = refusal(answer, 400, Code::InvalidArgument, reason).await;
    let violations = details.of("BadRequest").unwrap()["fieldViolations"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    violations.iter().map(|broken| (text(&broken["field"]), text(&broken["description"]))).collect()
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_its_place() {
    let server = Plan::new().start().await;
    let check = async |body: String, field: &str, description: &str| {
        let found = violations(post(server.grpc, GENERATE, &[], &body).await, "MESSAGE_MALFORMED").await;
        let [(place, words)] = &found[..] else { panic!("{found:?}") };
        assert!(place.starts_with(field) && words.contains(description), "{found:?}");
        assert!(words.len() < 400, "{} bytes", words.len());
    };
    let with = |change: &dyn Fn(&mut Value)| {
        let mut question = asked("reader");
        change(&mut question);
        question.to_string()
    };
    check(String::new(), "", "EOF").await;
    check("[]".to_owned(), "", "expected a map").await;
    check("{\"user\": }".to_owned(), "user", "line 1").await;
    check(format!("{} x", asked("reader")), "", "trailing").await;
    check(with(&|question| question["usr"] = json!({})), "", "'usr'").await;
    check(with(&|question| question["signals"][1]["when"] = json!(1)), "signals[1]", "'when'").await;
    check(with(&|question| question["signals"][1]["eventTime"] = json!("noon")), "signals[1].eventTime", "")
        .await;
    check(with(&|question| question["signals"][0]["dwell"] = json!("1.5 h")), "signals[0].dwell", "").await;
    check(with(&|question| question["options"]["candidateCount"] = json!(-1)), "options.candidateCount", "")
        .await;
    check(with(&|question| question["options"]["rerank"] = json!("BEST")), "options.rerank", "").await;
    check(with(&|question| question["x".repeat(5000)] = json!(1)), "", "x").await;
    check("[".repeat(10_000), "", "").await;
    assert_eq!(server.log.prefills(), 0);
}

#[tokio::test]
async fn broken_fields_are_told_at_once_by_the_names_that_json_has() {
    let server = Plan::new().start().await;
    let mut question = asked("");
    question["signals"][1].as_object_mut().unwrap().remove("eventTime");
    question["options"]["candidateCount"] = json!(0);
    let mut found = violations(generate(&server, &[], &question).await, "FIELD_INVALID").await;
    found.sort();
    let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["options.candidateCount", "signals[1].eventTime", "user.key"]);
}

#[tokio::test]
async fn a_caller_waits_as_long_as_it_says() {
    let server = Plan::new().gated().start().await;
    let answer = generate(&server, &[("x-request-timeout", "0.5")], &asked("reader")).await;
    refusal(answer, 504, Code::DeadlineExceeded, "DEADLINE_HIT").await;
    server.gate.open();
    server.until("newshound_running_rows", 0.0).await;
    answered(&server, &[("x-request-timeout", "60")], &asked("reader")).await;
    for (header, value) in [
        ("x-request-timeout", "0"),
        ("x-request-timeout", "soon"),
        ("x-request-timeout", "NaN"),
        ("x-request-timeout", "86401"),
        ("grpc-timeout", "1S"),
    ] {
        let found =
            violations(generate(&server, &[(header, value)], &asked("reader")).await, "FIELD_INVALID").await;
        assert_eq!(found[0].0, header, "{value}");
    }
}

#[tokio::test]
async fn who_comes_too_early_is_told_when_to_come_back() {
    let plan = Plan::new().gated().with(|settings| {
        settings.engine.rows_max = 4;
        settings.engine.queue_requests_max = 1;
        settings.engine.above_bulk_share = 0.0;
        settings.degradation.lowest_rung = newshound::experiment::policy::Rung::Full;
    });
    let server = plan.start().await;
    let addr = server.grpc;
    let (sender, mut refused) = tokio::sync::mpsc::channel(8);
    for user in 0..8 {
        let sender = sender.clone();
        tokio::spawn(async move {
            let question = asked(&user.to_string()).to_string();
            let answer = post(addr, GENERATE, &[], &question).await;
            let _ = sender.send(answer).await;
        });
    }
    // One runs, one waits, and whoever is answered before the gate opens is refused.
    let answer = within(refused.recv()).await.unwrap();
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    let details = refusal(answer, 429, Code::ResourceExhausted, "QUEUE_FULL").await;
    let delay = details.of("RetryInfo").unwrap()["retryDelay"].as_str().unwrap().to_owned();
    let delay: f64 = delay.strip_suffix('s').unwrap().parse().unwrap();
    assert!(
        seconds >= 1 && seconds as f64 >= delay && (seconds as f64) < delay + 1.0,
        "{seconds} for {delay}"
    );
    server.gate.open();
}

#[tokio::test]
async fn an_arm_that_is_none_is_not_found() {
    let (_dir, server) = serving(&flags()).await;
    let answer = generate(&server, &[("x-newshound-arm", "x=none")], &asked("reader")).await;
    refusal(answer, 404, Code::NotFound, "ARM_UNKNOWN").await;
}

#[tokio::test]
async fn a_body_may_be_as_large_as_a_message_and_no_larger() {
    const BYTES_MAX: usize = 1024;
    let server =
        Plan::new().with(|settings| settings.connections.message_bytes_max = BYTES_MAX).start().await;
    let sized = |n_bytes: usize| {
        format!("{}{}", asked("reader"), " ".repeat(n_bytes - asked("reader").to_string().len()))
    };
    assert_eq!(post(server.grpc, GENERATE, &[], &sized(BYTES_MAX)).await.status, 200);
    let answer = post(server.grpc, GENERATE, &[], &sized(BYTES_MAX + 1)).await;
    refusal(answer, 413, Code::OutOfRange, "MESSAGE_TOO_LARGE").await;
}

#[tokio::test]
async fn other_paths_verbs_and_contents_are_refused_in_json() {
    let server = Plan::new().start().await;
    let body = asked("reader").to_string();
    let sent = async |verb: &str, path: &str, content_type: &str| {
        let headers = [("content-type", content_type)];
        http::send(server.grpc, &http::text(verb, path, &headers, body.as_bytes())).await
    };
    let json = "application/json; charset=utf-8";
    assert_eq!(sent("POST", GENERATE, json).await.status, 200);
    refusal(sent("POST", "/v1/queries", json).await, 404, Code::NotFound, "PATH_UNKNOWN").await;
    refusal(sent("GET", GENERATE, json).await, 405, Code::Unimplemented, "VERB_UNKNOWN").await;
    for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        refusal(sent("POST", GENERATE, other).await, 415, Code::InvalidArgument, "CONTENT_TYPE_UNKNOWN")
            .await;
    }
}

/// A body that was cut, or of which some bytes are others.
fn broken(whole: &[u8], dice: &mut impl Rng) -> Vec<u8> {
    let mut body = whole.to_vec();
    for _ in 0..dice.random_range(0..4) {
        let at = dice.random_range(0..body.len());
        body[at] = dice.random();
    }
    body.truncate(dice.random_range(0..2 * whole.len()).max(1));
    body
}

#[tokio::test]
async fn whatever_bytes_come_they_are_answered_and_nothing_breaks() {
    let server = Plan::new().start().await;
    let mut dice = StdRng::seed_from_u64(7);
    let whole = asked("reader").to_string();
    let mut n_refused = 0;
    for _ in 0..500 {
        let body = broken(whole.as_bytes(), &mut dice);
        let headers = [("content-type", "application/json")];
        let answer = http::send(server.grpc, &http::text("POST", GENERATE, &headers, &body)).await;
        let status = answer.status;
        let json = answer.json().await;
        assert!(status == 200 || status == 400 && json["code"] == json!(3), "{status} {json:#}");
        n_refused += usize::from(status == 400);
    }
    assert!(n_refused > 100, "only {n_refused} bodies were broken");
    assert_eq!(generate(&server, &[], &asked("reader")).await.status, 200);
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"failed\"}").await, Some(0.0));
}

/// A server that speaks gRPC alone closes what is not HTTP/2.
async fn is_closed(server: &Server) -> bool {
    let mut stream = TcpStream::connect(server.grpc).await.unwrap();
    stream.write_all(&http::text("GET", "/v1/server", &[], b"")).await.unwrap();
    let mut came = Vec::new();
    let _ = within(stream.read_to_end(&mut came)).await;
    !came.starts_with(b"HTTP/1.1")
}

#[tokio::test]
async fn a_door_that_is_shut_answers_nobody() {
    let shut = Plan::new().with(|settings| settings.doors.json = false).start().await;
    assert!(is_closed(&shut).await);
    let open = Plan::new().start().await;
    assert!(!is_closed(&open).await);
}
