//! Adaptive N: half of the candidates are written first, and the others only where those disagree.
use super::{
    experiments,
    script::{LIST, tokens},
    server::{Client, Plan, Server, ask, options, request, within},
};
use newshound::serve::rpc::proto::{self, CacheStatus, Draw};
use serde_json::json;
use std::time::Duration;
use tonic::Code;

/// How long an answer that fell short is kept.
const ANSWER_TTL: Duration = Duration::from_millis(1);

/// A list of words whose letters no other row writes.
fn own_words(row_idx: usize) -> String {
    let (one, other) = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h"), ("i", "j"), ("k", "l")][row_idx];
    format!("{one}{one} {other}{other}\n{other}{one} {one}{one}\n{one}{other} {other}{one}")
}

/// So many candidates at most.
fn as_needed(n: u32) -> proto::GenerateQueriesRequest {
    let mut request = request("reader");
    options(&mut request).candidate_count = Some(n);
    options(&mut request).set_draw(Draw::AsNeeded);
    options(&mut request).return_candidates = true;
    request
}

async fn drawn(server: &Server) -> (u32, usize) {
    let response = ask(&mut server.client().await, as_needed(4)).await;
    (response.usage.unwrap().candidates_started, response.candidates.len())
}

async fn valid(server: &Server) -> Option<f64> {
    server.metric("newshound_candidates_total{fate=\"valid\"}").await
}

#[tokio::test]
async fn two_that_agree_are_enough_and_only_they_are_counted() {
    let server = Plan::new().start().await;
    assert_eq!(drawn(&server).await, (2, 2));
    assert_eq!(valid(&server).await, Some(2.0));
    assert_eq!(server.metric("newshound_candidates_per_request_sum").await, Some(2.0));
    server.until("newshound_kv_bytes", 0.0).await;
}

#[tokio::test]
async fn an_arm_can_say_so() {
    let flags = json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"a": {"candidate_count": 4, "draw": "as_needed"}, "b": {}},
        "defaultVariant": "a",
    }});
    let (_dir, server) = experiments::serving(&flags).await;
    let open = proto::GenerateQueriesRequest { options: None, ..request("reader") };
    let response = ask(&mut server.client().await, open).await;
    assert_eq!((response.arms[0].arm_id(), response.usage.unwrap().candidates_started), ("a", 2));
}

#[tokio::test]
async fn where_two_disagree_all_are_written() {
    let server = Plan::new().writing(|row_idx, _| own_words(row_idx)).start().await;
    assert_eq!(drawn(&server).await, (4, 4));
    assert_eq!(valid(&server).await, Some(4.0));
    assert_eq!(server.log.prefills(), 1);
}

#[tokio::test]
async fn a_row_that_is_no_list_agrees_with_none() {
    let text = |row_idx, _| if row_idx == 0 { "nothing".to_owned() } else { LIST.to_owned() };
    assert_eq!(drawn(&Plan::new().writing(text).start().await).await, (4, 4));
}

/// The others take the place of the first, and need no more room.
#[tokio::test]
async fn there_is_room_for_the_others_where_there_was_for_the_first() {
    let plan = Plan::new().writing(|row_idx, _| own_words(row_idx));
    let server = plan.with(|settings| settings.engine.rows_max = 2).start().await;
    assert_eq!(drawn(&server).await, (4, 4));
}

#[tokio::test]
async fn where_somebody_waits_the_first_are_the_answer_for_the_moment() {
    let plan = Plan::new().gated().writing(|row_idx, _| own_words(row_idx));
    let plan = plan.with(|settings| {
        settings.engine.rows_max = 2;
        settings.degradation.answer_ttl = ANSWER_TTL;
    });
    let server = plan.start().await;
    let first = asked(&server, "one").await;
    server.until("newshound_running_rows", 2.0).await;
    let second = asked(&server, "two").await;
    // The thread of the model tells of its queue between steps, and the gate is shut.
    server.until("newshound_prompt_tokens_count", 2.0).await;
    server.gate.allow(1_000);
    assert_eq!(within(first).await.unwrap().usage.unwrap().candidates_started, 2);
    assert_eq!(within(second).await.unwrap().usage.unwrap().candidates_started, 4);
    // Asked again with room for all, once the short answer is too old, she gets all.
    server.outlast(ANSWER_TTL).await;
    let again = within(asked(&server, "one").await).await.unwrap();
    assert_eq!(
        (again.usage.unwrap().candidates_started, again.cache.unwrap().status()),
        (4, CacheStatus::Miss)
    );
}

/// A call of a reader, under way.
async fn asked(server: &Server, key: &str) -> tokio::task::JoinHandle<proto::GenerateQueriesResponse> {
    let mut request = as_needed(4);
    request.user = Some(proto::UserRef { key: key.to_owned() });
    let mut client = server.client().await;
    tokio::spawn(async move { ask(&mut client, request).await })
}

/// A request whose first three rows have ended, and whose other two wait at the gate.
async fn in_the_middle(timeout: Duration) -> (Server, tokio::task::JoinHandle<Result<(), tonic::Status>>) {
    // The first are the shortest.
    let text = |row_idx, _| if row_idx < 3 { format!("word{row_idx}") } else { own_words(row_idx) };
    let server = Plan::new().gated().writing(text).start().await;
    let mut client: Client = server.client().await;
    let mut request = tonic::Request::new(as_needed(5));
    request.set_timeout(timeout);
    let call = tokio::spawn(async move { client.generate_queries(request).await.map(|_| ()) });
    server.until("newshound_running_rows", 3.0).await;
    // The end of a list is a token more, but each row has its first token without a step.
    server.gate.allow(tokens().encode_text("word0").len());
    server.until("newshound_running_rows", 2.0).await;
    (server, call)
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_frees_the_rows() {
    let (server, call) = in_the_middle(Duration::from_secs(60)).await;
    call.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.metric("newshound_candidates_total{fate=\"cancelled\"}").await, Some(2.0));
    server.until("newshound_kv_bytes", 0.0).await;
}

#[tokio::test]
async fn a_deadline_in_the_middle_frees_the_rows() {
    let (server, call) = in_the_middle(Duration::from_secs(3)).await;
    let status = within(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
    server.until("newshound_kv_bytes", 0.0).await;
}
