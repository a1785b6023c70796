//! `grpc-timeout` holds in the queue and between steps.
use super::server::{Plan, refusal, request, within};
use std::time::Duration;
use tonic::{Code, Request};

fn within_ms(milliseconds: u64, user: &str) -> Request<newshound::serve::rpc::proto::GenerateQueriesRequest> {
    let mut request = Request::new(request(user));
    request.set_timeout(Duration::from_millis(milliseconds));
    request
}

#[tokio::test]
async fn a_deadline_that_passes_between_steps_ends_the_rows() {
    let server = Plan::new().gated().start().await;
    let mut client = server.client().await;
    let status = within(client.generate_queries(within_ms(1000, "reader"))).await.unwrap_err();
    refusal(&status, Code::DeadlineExceeded, "DEADLINE_HIT");
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.log.steps(), 1, "the step that was under way, and no other");
    assert_eq!(server.metric("newshound_deadline_missed_total{phase=\"running\"}").await, Some(1.0));
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
}

#[tokio::test]
async fn a_deadline_of_a_millisecond_is_told_as_such() {
    let server = Plan::new().gated().start().await;
    let mut client = server.client().await;
    let arrived = "newshound_rpc_requests_total{method=\"GenerateQueries\",code=";
    within(async {
        loop {
            let status = client.generate_queries(within_ms(1, "reader")).await.unwrap_err();
            // The client's clock, the service's, or the transport's, which calls it CANCELLED.
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
            // The client may even give up before it has sent anything: then it tries again.
            if server.get("/metrics").await.1.contains(arrived) {
                return;
            }
        }
    })
    .await;
    server.gate.open();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    server.until("newshound_running_rows", 0.0).await;
    server.until("newshound_queue_depth", 0.0).await;
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_never_reaches_the_model() {
    let server = Plan::new().gated().with(|settings| settings.engine.rows_max = 4).start().await;
    let (mut running, mut waiting) = (server.client().await, server.client().await);
    let first = tokio::spawn(async move { running.generate_queries(request("first")).await });
    server.until("newshound_running_rows", 4.0).await;
    let status = within(waiting.generate_queries(within_ms(1000, "second"))).await.unwrap_err();
    refusal(&status, Code::DeadlineExceeded, "DEADLINE_HIT");
    server.gate.open();
    within(first).await.unwrap().unwrap();
    server.until("newshound_queue_depth", 0.0).await;
    assert_eq!(server.log.prefills(), 1);
    assert_eq!(server.metric("newshound_deadline_missed_total{phase=\"queue\"}").await, Some(1.0));
    assert_eq!(server.metric("newshound_deadline_missed_total{phase=\"running\"}").await, Some(0.0));
}

#[tokio::test]
async fn a_deadline_with_time_enough_changes_nothing() {
    let server = Plan::new().start().await;
    within(server.client().await.generate_queries(within_ms(60_000, "reader"))).await.unwrap();
}
