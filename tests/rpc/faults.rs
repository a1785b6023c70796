//! What breaks inside is told outside in one word, and what can go on goes on.
use super::script::Mishap;
use super::server::{Plan, ask, options, refusal, request, within};
use newshound::serve::{Listeners, RunError, rpc::proto::RerankMethod, settings::ServeSettings};
use std::{net::SocketAddr, time::Duration};
use tonic::Code;

#[tokio::test]
async fn no_valid_list_has_its_reason_and_is_no_fault_of_the_server() {
    let server = Plan::new().writing(|_, _| "a single line".to_owned()).start().await;
    let status = server.client().await.generate_queries(request("reader")).await.unwrap_err();
    let details = refusal(&status, Code::NotFound, "NO_VALID_LIST");
    assert!(details.retry_info().is_none());
    assert_eq!(server.metric("newshound_invalid_output_total{reason=\"query_count\"}").await, Some(4.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"no_list\"}").await, Some(1.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"failed\"}").await, Some(0.0));
}

/// A network can repeat what it has read or learned.
#[tokio::test]
async fn a_list_with_personal_data_is_no_list_and_personal_signals_are_not_read() {
    let text = |row_idx: usize, _| match row_idx {
        0 => "call 020 7946 0958 today\ntrain strike talks\ncity council vote".to_owned(),
        _ => super::script::LIST.to_owned(),
    };
    let server = Plan::new().writing(text).start().await;
    let mut client = server.client().await;
    let mut personal = request("reader");
    personal.signals[0].text = "call 555-123-4567 or anna@example.com".to_owned();
    personal.signals[1].text = "Call 020 7946 0958 to win a new phone".to_owned();
    personal.signals.push(personal.signals[0].clone());
    (personal.signals[2].text, personal.signals[2].category) =
        ("train strike".to_owned(), Some("jane@example.org".to_owned()));
    let only = personal.clone();
    personal.signals.push(request("other").signals.remove(1));
    let response = ask(&mut client, personal).await;
    let usage = response.usage.unwrap();
    assert_eq!((usage.candidates_invalid, usage.cleaned_signals), (1, 3), "titles and categories too");
    assert_ne!(response.best.unwrap().index, 0);
    assert_eq!(server.metric("newshound_invalid_output_total{reason=\"personal\"}").await, Some(1.0));
    let status = within(client.generate_queries(only)).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "ONLY_PERSONAL_DATA");
}

#[tokio::test]
async fn a_failed_step_ends_the_running_requests_and_the_next_ones_are_served_the_same_among_them() {
    let mut plan = Plan::new();
    plan.mishap = Mishap::Step;
    let server = plan.start().await;
    let mut client = server.client().await;
    let status = within(client.generate_queries(request("unlucky"))).await.unwrap_err();
    refusal(&status, Code::Internal, "ENGINE_FAULT");
    assert!(!status.message().contains("prompt"), "what failed inside is for the log: {status:?}");
    ask(&mut client, request("lucky")).await;
    ask(&mut client, request("unlucky")).await;
    assert_eq!(server.metric("newshound_engine_faults_total").await, Some(1.0));
    server.until("newshound_running_rows", 0.0).await;
}

/// A head that failed once ended the generation as if its client had left.
#[tokio::test]
async fn a_head_that_fails_leaves_the_choice_to_consensus_and_the_answer_says_so() {
    let mut plan = Plan::new().with_head();
    plan.mishap = Mishap::Head;
    let server = plan.start().await;
    let mut client = server.client().await;
    for (method, told) in [
        (RerankMethod::Auto, RerankMethod::Consensus),
        (RerankMethod::RewardHead, RerankMethod::Consensus),
        (RerankMethod::Stitch, RerankMethod::Stitch),
    ] {
        // Each a reader of its own: what one way has found is not another's answer.
        let mut request = request(&format!("{method:?}"));
        options(&mut request).rerank = method.into();
        let response = ask(&mut client, request).await;
        let best = response.best.clone().unwrap();
        assert_eq!(response.rerank(), told, "{method:?}");
        assert!(best.list_score.is_none() && best.consensus.is_some(), "{best:?}");
    }
    assert_eq!(server.metric("newshound_head_failures_total").await, Some(3.0));
    for (outcome, expected) in [("ok", 3.0), ("cancelled", 0.0), ("failed", 0.0)] {
        let series = format!("newshound_outcomes_total{{outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&series).await, Some(expected), "{outcome}");
    }
    assert_eq!(server.metric("newshound_candidates_total{fate=\"cancelled\"}").await, Some(0.0));
}

#[tokio::test]
async fn a_model_thread_that_panics_or_holds_a_row_for_nobody_ends_the_server_with_an_error() {
    for mishap in [Mishap::Panic, Mishap::Leak] {
        let mut server = Plan { mishap, ..Plan::new() }.start().await;
        let mut client = server.client().await;
        let status = within(client.generate_queries(request("reader"))).await.unwrap_err();
        refusal(&status, Code::Unavailable, "ENGINE_GONE");
        drop(client);
        assert!(matches!(server.ended().await, Err(RunError::EngineFailed)));
    }
}

#[tokio::test]
async fn a_step_that_does_not_end_ends_the_server_with_an_error() {
    let hasty = |settings: &mut ServeSettings| settings.engine.step_max = Duration::from_secs(1);
    let mut server = Plan::new().gated().with(hasty).start().await;
    let mut client = server.client().await;
    let status = within(client.generate_queries(request("reader"))).await.unwrap_err();
    refusal(&status, Code::Unavailable, "ENGINE_GONE");
    drop(client);
    assert!(matches!(server.ended().await, Err(RunError::EngineFailed)));
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error_that_names_it() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let taken = tokio::net::TcpListener::bind(any).await.unwrap();
    let addr = taken.local_addr().unwrap();
    let text = |error: RunError| error.to_string();
    let error = text(Listeners::bind(addr, any).await.unwrap_err());
    assert!(error.contains(&addr.to_string()) && error.contains("--grpc-addr"), "{error}");
    let error = text(Listeners::bind(any, addr).await.unwrap_err());
    assert!(error.contains(&addr.to_string()) && error.contains("--http-addr"), "{error}");
}
