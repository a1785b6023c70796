//! BatchGenerateQueries: items as they end, few at a time, each with an answer or a status of its own.
use super::script::LIST;
use super::server::{Client, Plan, Server, ask, options, refusal, request, texts, within};
use newshound::serve::rpc::proto::{self, batch_generate_queries_item::Result as Outcome};
use prost::Message;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::{RpcStatusExt, pb};

fn batch(
    requests: impl IntoIterator<Item = proto::GenerateQueriesRequest>,
) -> proto::BatchGenerateQueriesRequest {
    proto::BatchGenerateQueriesRequest { requests: requests.into_iter().collect() }
}

fn readers(n: usize) -> proto::BatchGenerateQueriesRequest {
    batch((0..n).map(|number| request(&format!("reader-{number}"))))
}

async fn call(
    client: &mut Client,
    batch: proto::BatchGenerateQueriesRequest,
) -> Streaming<proto::BatchGenerateQueriesItem> {
    within(client.batch_generate_queries(batch)).await.unwrap().into_inner()
}

async fn rest(mut stream: Streaming<proto::BatchGenerateQueriesItem>) -> Vec<(u32, Outcome)> {
    let mut items = Vec::new();
    while let Some(item) = within(stream.message()).await.unwrap() {
        items.push((item.index, item.result.unwrap()));
    }
    items
}

/// What a status of an item says, as those read it who have google.rpc's classes.
fn reason(outcome: &Outcome) -> (Code, String) {
    let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
    let status = pb::Status::decode(&*error.encode_to_vec()).unwrap();
    (Code::from(status.code), status.get_details_error_info().unwrap().reason)
}

#[tokio::test]
async fn every_request_is_answered_once_as_it_would_be_alone() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let mut items = rest(call(&mut client, readers(20)).await).await;
    items.sort_by_key(|(index, _)| *index);
    assert_eq!(items.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    for (_, outcome) in &items {
        let Outcome::Response(response) = outcome else { panic!("{outcome:?}") };
        assert_eq!(texts(response.best.as_ref().unwrap()), LIST.lines().collect::<Vec<_>>());
    }
    let alone = ask(&mut client, request("reader-7")).await;
    assert_eq!(super::server::cache_status(&alone), proto::CacheStatus::Hit);
    let series = "newshound_rpc_requests_total{method=\"BatchGenerateQueries\",code=\"OK\"}";
    assert_eq!(server.metric(series).await, Some(1.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"ok\"}").await, Some(20.0));
    assert_eq!(
        server.metric("newshound_admissions_total{class=\"bulk\",decision=\"admitted\"}").await,
        Some(20.0)
    );
}

#[tokio::test]
async fn an_item_is_sent_when_it_ends_and_not_in_its_turn() {
    // The first request has a second row, which is longer.
    let text = |row_idx: usize, _| {
        if row_idx == 0 { LIST.to_owned() } else { format!("{LIST}\nanother story today") }
    };
    let server = Plan::new().writing(text).gated().start().await;
    let (mut slow, mut fast) = (request("slow"), request("fast"));
    options(&mut slow).candidate_count = Some(2);
    options(&mut fast).candidate_count = Some(1);
    let mut stream = call(&mut server.client().await, batch([slow, fast])).await;
    server.until(PROMPTS, 2.0).await;
    // The second prompt enters beside a step of the first; far fewer steps than the longer row is longer.
    while server.metric("newshound_running_rows").await != Some(3.0) {
        server.gate.allow(1);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    server.gate.allow(super::script::tokens().encode_text(LIST).len());
    assert_eq!(within(stream.message()).await.unwrap().unwrap().index, 1);
    server.gate.open();
    assert_eq!(rest(stream).await.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn a_request_that_is_wrong_has_a_status_and_costs_the_others_nothing() {
    let server = Plan::new().start().await;
    let mut broken = request("");
    options(&mut broken).candidate_count = Some(0);
    let mut unranked = request("unranked");
    options(&mut unranked).rerank = proto::RerankMethod::RewardHead.into();
    let mut items =
        rest(call(&mut server.client().await, batch([request("right"), broken, unranked])).await).await;
    items.sort_by_key(|(index, _)| *index);
    assert!(matches!(items[0].1, Outcome::Response(_)), "{items:?}");
    assert_eq!(reason(&items[1].1), (Code::InvalidArgument, "FIELD_INVALID".to_owned()));
    assert_eq!(reason(&items[2].1), (Code::FailedPrecondition, "NO_REWARD_HEAD".to_owned()));
}

/// Every request has its prompt before it goes to the model.
const PROMPTS: &str = "newshound_prompt_tokens_count";

/// A batch of which as many requests are under way as may, and some have their rows.
async fn full(server: &Server, n_requests: usize) -> Streaming<proto::BatchGenerateQueriesItem> {
    let stream = call(&mut server.client().await, readers(n_requests)).await;
    server.until(PROMPTS, 8.0).await;
    within(async {
        while server.metric("newshound_running_rows").await == Some(0.0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stream
}

#[tokio::test]
async fn a_batch_runs_a_few_at_a_time_and_leaves_the_queue_to_others() {
    let server = Plan::new().gated().start().await;
    let stream = full(&server, 100).await;
    let mut client = server.client().await;
    let reader = tokio::spawn(async move { client.generate_queries(request("in a hurry")).await });
    // The other 92 wait at the door, or there would be more of them before her.
    server.until(PROMPTS, 9.0).await;
    server.gate.open();
    within(reader).await.unwrap().unwrap();
    assert_eq!(rest(stream).await.len(), 100);
}

#[tokio::test]
async fn a_batch_that_nobody_waits_for_ends_with_all_its_requests() {
    let server = Plan::new().gated().start().await;
    drop(full(&server, 100).await);
    server.until("newshound_rpc_in_flight{method=\"BatchGenerateQueries\"}", 0.0).await;
    server.until("newshound_outcomes_total{outcome=\"cancelled\"}", 8.0).await;
    server.gate.open();
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.metric(PROMPTS).await, Some(8.0), "none of the other 92 was begun");
}

#[tokio::test]
async fn the_deadline_of_a_batch_is_that_of_its_requests() {
    let server = Plan::new().gated().start().await;
    let mut call = Request::new(readers(12));
    call.set_timeout(std::time::Duration::from_secs(1));
    let stream = within(server.client().await.batch_generate_queries(call)).await.unwrap().into_inner();
    let items = rest(stream).await;
    assert_eq!(items.len(), 12);
    for (_, outcome) in &items {
        let (code, reason) = reason(outcome);
        assert!(code == Code::DeadlineExceeded && reason.starts_with("DEADLINE_"), "{reason}");
    }
}

#[tokio::test]
async fn a_batch_has_one_to_256_requests() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let refused = async |client: &mut Client, n: usize| -> Status {
        within(client.batch_generate_queries(readers(n))).await.unwrap_err()
    };
    for n in [0, 257] {
        let details = refusal(&refused(&mut client, n).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "requests");
    }
    assert_eq!(rest(call(&mut client, readers(256)).await).await.len(), 256);
}
