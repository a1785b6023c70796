//! A client that goes away costs at most one more step.
use super::server::{Plan, request};
use newshound::serve::rpc::proto::generate_queries_event::Event;

#[tokio::test]
async fn a_client_that_leaves_frees_its_rows_within_one_step() {
    let server = Plan::new().gated().start().await;
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    call.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.log.steps(), 1);
    assert_eq!(server.metric("newshound_candidates_total{fate=\"cancelled\"}").await, Some(4.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"cancelled\"}").await, Some(1.0));
    assert_eq!(server.metric("newshound_kv_bytes").await, Some(0.0));
}

#[tokio::test]
async fn a_stream_that_is_dropped_frees_its_rows_within_one_step() {
    let server = Plan::new().gated().start().await;
    let mut client = server.client().await;
    let mut stream = client.stream_generate_queries(request("reader")).await.unwrap().into_inner();
    assert!(matches!(stream.message().await.unwrap().unwrap().event.unwrap(), Event::Accepted(_)));
    server.until("newshound_running_rows", 4.0).await;
    drop(stream);
    server.until("newshound_rpc_in_flight{method=\"StreamGenerateQueries\"}", 0.0).await;
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.log.steps(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_never_reaches_the_model() {
    let server = Plan::new().gated().with(|settings| settings.engine.rows_max = 4).start().await;
    let (mut running, mut waiting) = (server.client().await, server.client().await);
    let first = tokio::spawn(async move { running.generate_queries(request("first")).await });
    server.until("newshound_running_rows", 4.0).await;
    let second = tokio::spawn(async move { waiting.generate_queries(request("second")).await });
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 2.0).await;
    second.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 1.0).await;
    server.gate.open();
    first.await.unwrap().unwrap();
    assert_eq!(server.log.prefills(), 1);
}
