//! The client for other programs, against a server that fails in chosen ways, and against the real one.
mod stand_in;

use super::{
    access::{Authority, tokens},
    feedback, frames,
    server::{Plan, few_or, options, request, texts, within},
};
use newshound::{
    client::{
        Client, Code,
        policy::{BACKOFF_FACTOR, BACKOFF_FIRST, BACKOFF_MAX, Policy},
        proto::{self, batch_generate_queries_item::Result as Outcome, generate_queries_event::Event},
        reach::{Reach, ReachError},
        refusal::Refusal,
    },
    serve::door::bearers,
};
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use sha2::{Digest, Sha256};
use stand_in::{Act, StandIn};
use std::{future::pending, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

#[path = "../../deploy/clients/rust/example.rs"]
mod example;

/// Waits as long as a slow machine needs.
const PATIENT: Policy = Policy { timeout: super::server::PATIENCE, ..Policy::STANDARD };

fn refuse(code: Code) -> Act {
    Act::Refuse(Status::new(code, "as planned"))
}

/// A refusal that wants the call again at once.
fn at_once() -> Act {
    let mut status = Status::unavailable("as planned");
    status.metadata_mut().insert("grpc-retry-pushback-ms", "0".parse().unwrap());
    Act::Refuse(status)
}

async fn asked(policy: Policy, acts: Vec<Act>) -> (Result<String, Refusal>, StandIn) {
    let server = StandIn::start(acts).await;
    let client = Client::connect(&server.reach, policy).await.unwrap();
    let answer = within(client.generate(request("reader-1"))).await;
    (answer.map(|response| response.response_id), server)
}

#[tokio::test]
async fn what_reached_no_server_is_sent_again_and_nothing_else() {
    let lost = Code::Unavailable;
    for (codes, n_sent, expected) in [
        (vec![], 1, Ok("answered")),
        (vec![lost; 3], 4, Ok("answered")),
        (vec![lost; 4], 4, Err(lost)),
        (vec![Code::Cancelled], 2, Ok("answered")),
        (vec![Code::ResourceExhausted], 1, Err(Code::ResourceExhausted)),
        (vec![Code::InvalidArgument], 1, Err(Code::InvalidArgument)),
    ] {
        let (answer, server) = asked(PATIENT, codes.iter().copied().map(refuse).collect()).await;
        let answer = answer.as_deref().map_err(|refusal| refusal.code);
        assert_eq!((answer, server.seen().len()), (expected, n_sent), "{codes:?}");
    }
}

#[tokio::test]
async fn a_wait_that_the_deadline_does_not_hold_is_the_callers() {
    let hour = Duration::from_secs(3600);
    let details = ErrorDetails::with_retry_info(Some(hour));
    let status = Status::with_error_details(Code::Unavailable, "draining", details);
    let (answer, server) = asked(PATIENT, vec![Act::Refuse(status)]).await;
    let refusal = answer.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::Unavailable, Some(hour)));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn while_most_calls_fail_none_is_sent_again() {
    let server = StandIn::start((0..1000).map(|_| at_once())).await;
    let client = Client::connect(&server.reach, PATIENT).await.unwrap();
    for _ in 0..20 {
        // Clones know what the others have seen.
        within(client.clone().generate(request("reader-1"))).await.unwrap_err();
    }
    // Twelve calls four times, the next twice, at which half of the tokens are gone, and seven once.
    assert_eq!(server.seen().len(), 12 * 4 + 2 + 7);
}

#[tokio::test]
async fn a_silent_server_is_waited_for_until_the_deadline() {
    let (answer, server) =
        asked(Policy { timeout: Duration::from_millis(100), ..PATIENT }, vec![Act::Hang]).await;
    assert_eq!(answer.unwrap_err().code, Code::DeadlineExceeded);
    assert_eq!(server.seen().len(), 1);
    // The wire carries what is left, in a unit of its choice, of at most 8 digits.
    let (_, server) = asked(Policy::STANDARD, vec![]).await;
    let told = server.seen()[0].text("grpc-timeout").unwrap().to_owned();
    let us: u32 = told.trim_end_matches('u').parse().unwrap();
    assert!(us <= 5_000_000, "{told}");
}

#[tokio::test]
async fn calls_carry_reader_token_and_trace() {
    let server = StandIn::start([]).await;
    let reach = Reach { token: Some("nh_0".to_owned()), ..server.reach.clone() };
    let client = Client::connect(&reach, PATIENT).await.unwrap();
    let parent = |trace: &str| format!("00-{trace}-b7ad6b7169203331-01");
    let given = parent("0af7651916cd43dd8448eb211c80319c");
    let carried = given.clone();
    let by_hand = client.carrying(move |carrier| {
        carrier.insert("traceparent".to_owned(), carried.clone());
        carrier.insert("no name".to_owned(), "left out".to_owned());
        carrier.insert("authorization".to_owned(), "Bearer another".to_owned());
    });
    let propagating = client.carrying(|carrier| TraceContextPropagator::new().inject(carrier));
    within(by_hand.generate(request("Ünïcode"))).await.unwrap();
    let trace = TraceId::from_hex("11111111111111111111111111111111").unwrap();
    let span = SpanId::from_hex("b7ad6b7169203331").unwrap();
    let current = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default());
    {
        let _current = Context::new().with_remote_span_context(current).attach();
        within(propagating.generate(request("reader"))).await.unwrap();
    }
    let seen = server.seen();
    let digest: String = Sha256::digest("Ünïcode").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(seen[0].text("x-user-key"), Some(digest.as_str()));
    assert_eq!(seen[0].text("authorization"), Some("Bearer nh_0"));
    assert_eq!(seen[0].text("traceparent"), Some(given.as_str()));
    assert_eq!(seen[0].message, request("Ünïcode"));
    assert_eq!(seen[1].text("traceparent"), Some(parent("11111111111111111111111111111111").as_str()));
}

#[tokio::test]
async fn a_copy_is_sent_where_the_policy_says_so_and_may_go_elsewhere() {
    let hedged = Policy { hedge_after: Some(Duration::from_millis(50)), ..PATIENT };
    let (answer, server) = asked(hedged, vec![Act::Hang]).await;
    assert_eq!(answer.unwrap(), "answered");
    let keys: Vec<bool> = server.seen().iter().map(|seen| seen.text("x-user-key").is_some()).collect();
    assert_eq!(keys, [true, false]);
    // A copy that is refused leaves the call its time.
    let hedged = Policy { timeout: Duration::from_millis(500), ..hedged };
    let (answer, server) = asked(hedged, vec![Act::Hang, refuse(Code::ResourceExhausted)]).await;
    assert_eq!((answer.unwrap_err().code, server.seen().len()), (Code::DeadlineExceeded, 2));
    // Of what is answered at once there is none.
    let (answer, server) = asked(Policy { hedge_after: Some(PATIENT.timeout), ..PATIENT }, vec![]).await;
    assert_eq!((answer.unwrap().as_str(), server.seen().len()), ("answered", 1));
}

#[tokio::test]
async fn a_stream_is_sent_again_until_it_has_begun() {
    let server = StandIn::start([refuse(Code::Unavailable)]).await;
    let client = Client::connect(&server.reach, PATIENT).await.unwrap();
    let mut events = within(client.stream(request("reader-1"))).await.unwrap();
    assert!(within(events.message()).await.unwrap().is_some());
    assert_eq!(within(events.message()).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_made_again() {
    let local = tokio::task::LocalSet::new();
    let broken = local.run_until(async {
        let mut server = StandIn::start([]).await;
        let door = server.behind(async |mut first| drop(first.read(&mut [0; 1]).await)).await;
        let client = Client::lazy(&door, PATIENT).unwrap();
        within(client.generate(request("reader-1"))).await.unwrap();
        assert_eq!(server.seen().len(), 1);
    });
    broken.await;
    let nobody = Client::lazy(&Reach::plain("127.0.0.1:1"), PATIENT).unwrap();
    let refusal = within(nobody.generate(request("reader-1"))).await.unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable, "{refusal}");
}

#[tokio::test]
async fn an_answer_that_a_proxy_ends_before_it_is_whole_is_asked_for_again() {
    // A message of five bytes, of which two come.
    for message in [&[][..], &[0, 0, 0, 0, 5, 10, 3]] {
        let local = tokio::task::LocalSet::new();
        let cut = local.run_until(async {
            let mut server = StandIn::start([]).await;
            let door = server.behind(async |mut first| {
                frames::call(&mut first).await;
                first.write_all(&frames::cut_answer(1, message)).await.unwrap();
                // Until the client has read it.
                let _ = first.read(&mut [0; 1]).await;
            });
            let door = door.await;
            let client = Client::lazy(&door, PATIENT).unwrap();
            within(client.generate(request("reader-1"))).await.unwrap();
            assert_eq!(server.seen().len(), 1);
        });
        cut.await;
    }
}

/// Takes the fifteen seconds after which a connection is given up.
#[tokio::test]
async fn a_connection_without_a_sign_of_life_is_given_up() {
    if few_or(0, 1) == 0 {
        return;
    }
    let local = tokio::task::LocalSet::new();
    let silent = local.run_until(async {
        let mut server = StandIn::start([]).await;
        let door = server.behind(async |mut first| {
            // An empty SETTINGS frame, so that the connection counts as made.
            first.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            tokio::task::spawn_local(async move {
                let _first = first;
                pending::<()>().await;
            });
        });
        let door = door.await;
        let client = Client::lazy(&door, PATIENT).unwrap();
        within(client.generate(request("reader-1"))).await.unwrap();
        assert_eq!(server.seen().len(), 1);
    });
    silent.await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart() {
    let connect = async |reach: Reach| Client::connect(&reach, PATIENT).await.unwrap_err();
    assert!(matches!(connect(Reach::plain("no address")).await, ReachError::Address { .. }));
    assert!(matches!(connect(Reach::plain("127.0.0.1:1")).await, ReachError::Unreachable { .. }));
    let token = Some("line\nfeed".to_owned());
    let reach = Reach { token, ..Reach::plain("127.0.0.1:1") };
    assert!(matches!(Client::lazy(&reach, PATIENT).unwrap_err(), ReachError::Token));
    let mut reach = Authority::new().reach("127.0.0.1:1", None);
    reach.tls.as_mut().unwrap().ca =
        Some(b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----".to_vec());
    assert!(matches!(Client::lazy(&reach, PATIENT).unwrap_err(), ReachError::Tls { .. }));
}

#[tokio::test]
async fn the_real_server_answers_every_call() {
    let dir = tempfile::tempdir().unwrap();
    let server = feedback::plan(&dir).start().await;
    let client = Client::connect(&Reach::plain(&server.grpc.to_string()), PATIENT).await.unwrap();
    let user = || proto::UserRef { key: "reader".to_owned() };

    let response = within(client.generate(request("reader"))).await.unwrap();
    assert_eq!(texts(response.best.as_ref().unwrap()).len(), 3);
    let mut events = within(client.stream(request("another"))).await.unwrap();
    let (mut n_candidates, mut is_done) = (0, false);
    while let Some(event) = within(events.message()).await.unwrap() {
        n_candidates += usize::from(matches!(event.event, Some(Event::Candidate(_))));
        is_done = matches!(event.event, Some(Event::Done(_)));
    }
    assert_eq!((n_candidates, is_done), (4, true));

    let requests = vec![request("third"), request("")];
    let mut items = within(client.batch(requests, PATIENT.timeout)).await.unwrap();
    let mut outcomes = Vec::new();
    while let Some(item) = within(items.message()).await.unwrap() {
        outcomes.push((item.index, item.result.unwrap()));
    }
    outcomes.sort_by_key(|(index, _)| *index);
    let [(0, Outcome::Response(_)), (1, Outcome::Error(error))] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    let refused = Refusal::from(error.clone());
    assert_eq!(refused.kind(), "INVALID_ARGUMENT FIELD_INVALID");
    assert_eq!(refused.violations[0].0, "user.key");

    let explained = proto::ExplainAssignmentRequest { user: Some(user()), experiment: None };
    let explained = within(client.explain(explained)).await.unwrap();
    assert!(!explained.arms.is_empty());
    assert_eq!(within(client.server_info()).await.unwrap().model.unwrap().name, "scripted");
    let report = feedback::report(&response.response_id, "a1");
    assert!(!within(client.report(report.clone())).await.unwrap().duplicate);
    assert!(within(client.report(report)).await.unwrap().duplicate);
    within(client.invalidate(user())).await.unwrap();
    within(client.forget(user())).await.unwrap();
    let no_key = proto::UserRef { key: String::new() };
    assert_eq!(within(client.forget(no_key)).await.unwrap_err().code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let server = Plan::new().gated().start().await;
    let client = Client::connect(&Reach::plain(&server.grpc.to_string()), PATIENT).await.unwrap();
    let client = client.within(Duration::from_millis(500));
    let mut request = request("reader");
    options(&mut request).lowest_rung = proto::Rung::Full.into();
    let mut events = within(client.stream(request)).await.unwrap();
    let accepted = within(events.message()).await.unwrap().unwrap();
    assert!(matches!(accepted.event, Some(Event::Accepted(_))));
    assert_eq!(within(events.message()).await.unwrap_err().code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn certificates_are_trusted_of_an_authority_or_of_the_system() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, issued) = (Authority::new(), bearers::issue("daily").unwrap());
    let file = tokens(&dir, "tokens", &[&issued]);
    let tls = authority.write(dir.path());
    let plan = Plan::new().with(|settings| {
        settings.access.tokens = Some(file);
        settings.access.tls = Some(tls);
    });
    let server = plan.start().await;
    let mut reach = authority.reach(&server.grpc.to_string(), None);
    let untold = Client::connect(&reach, PATIENT).await.unwrap();
    let refusal = within(untold.server_info()).await.unwrap_err();
    assert_eq!(refusal.kind(), "UNAUTHENTICATED TOKEN_MISSING");
    reach.token = Some(issued.token);
    let client = Client::connect(&reach, PATIENT).await.unwrap();
    within(client.server_info()).await.unwrap();
    // No system trusts an authority of a minute ago.
    reach.tls.as_mut().unwrap().ca = None;
    let distrusts = Client::connect(&reach, PATIENT).await.unwrap_err();
    assert!(!matches!(distrusts, ReachError::Address { .. } | ReachError::Token), "{distrusts}");
}

#[tokio::test]
async fn the_example_of_the_readme_asks_the_server() {
    let readme = include_str!("../../deploy/clients/README.md");
    assert!(readme.contains(include_str!("../../deploy/clients/rust/example.rs")));
    let server = Plan::new().start().await;
    assert_eq!(within(example::queries(&server.grpc.to_string())).await.unwrap().len(), 3);
}

/// Services that the protos have for clients, by their full names, sorted.
fn services() -> Vec<String> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/newshound/v1")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("service ")?.strip_suffix(" {"));
        found.extend(names.map(|name| format!("newshound.v1.{name}")));
    }
    found.sort();
    found
}

#[test]
fn every_client_repeats_calls_alike() {
    let file = include_str!("../../deploy/clients/python/newshound_client/retry.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let named: Vec<_> = services().iter().map(|service| serde_json::json!({ "service": service })).collect();
    assert_eq!(file["methodConfig"][0]["name"], serde_json::Value::Array(named));
    // The smaller one of it and the caller's deadline would count, and nobody would see why.
    assert_eq!(file["methodConfig"][0].get("timeout"), None);
    let policy = &file["methodConfig"][0]["retryPolicy"];
    assert_eq!(policy["maxAttempts"], Policy::STANDARD.attempts_max);
    assert_eq!(policy["initialBackoff"], format!("{}s", BACKOFF_FIRST.as_secs_f64()));
    assert_eq!(policy["maxBackoff"], format!("{}s", BACKOFF_MAX.as_secs_f64()));
    assert_eq!(policy["backoffMultiplier"], BACKOFF_FACTOR);
    // What comes of these is seen above.
    assert_eq!(policy["retryableStatusCodes"], serde_json::json!(["UNAVAILABLE", "CANCELLED"]));
    assert_eq!(file["retryThrottling"], serde_json::json!({"maxTokens": 100, "tokenRatio": 0.5}));
}
