//! What Prometheus sees after some traffic.
use super::server::{Plan, ask, options, request};

#[tokio::test]
async fn counters_reconcile_with_what_was_asked() {
    let text =
        |row_idx: usize, _| if row_idx == 0 { "bad".to_owned() } else { super::script::LIST.to_owned() };
    let server = Plan::new().with_head().writing(text).start().await;
    let mut client = server.client().await;
    for user in ["one", "one", "two"] {
        ask(&mut client, request(user)).await;
    }
    let mut broken = request("three");
    options(&mut broken).candidate_count = Some(0);
    client.generate_queries(broken).await.unwrap_err();

    let check = async |series: &str, expected: f64| {
        assert_eq!(server.metric(series).await, Some(expected), "{series}")
    };
    check("newshound_rpc_requests_total{method=\"GenerateQueries\",code=\"OK\"}", 3.0).await;
    check("newshound_rpc_requests_total{method=\"GenerateQueries\",code=\"INVALID_ARGUMENT\"}", 1.0).await;
    check("newshound_outcomes_total{outcome=\"ok\"}", 2.0).await;
    check("newshound_outcomes_total{outcome=\"cached\"}", 1.0).await;
    check("newshound_outcomes_total{outcome=\"rejected\"}", 1.0).await;
    check("newshound_cache_requests_total{status=\"hit\"}", 1.0).await;
    check("newshound_cache_requests_total{status=\"miss\"}", 2.0).await;
    check("newshound_candidates_total{fate=\"valid\"}", 6.0).await;
    check("newshound_candidates_total{fate=\"invalid\"}", 2.0).await;
    check("newshound_queries_per_list_count", 6.0).await;
    check("newshound_best_list_score_count", 2.0).await;
    check("newshound_queue_wait_seconds_count{class=\"default\"}", 2.0).await;
    check("newshound_solo_queue_depth", 0.0).await;
    let n_waits = server.metric("newshound_solo_wait_seconds_count").await;
    assert!(n_waits >= Some(4.0), "two prompts and the lists of each: {n_waits:?}");
    check("newshound_step_duration_seconds_count{phase=\"prefill\"}", 2.0).await;
    check("newshound_running_rows", 0.0).await;
    check("newshound_queue_depth", 0.0).await;
    check("newshound_ready", 1.0).await;
    check("newshound_draining", 0.0).await;
    check("newshound_capacity_rows", 32.0).await;
    check("newshound_connections_open", 1.0).await;
}

#[tokio::test]
async fn no_metric_carries_what_users_wrote() {
    let server = Plan::new().start().await;
    ask(&mut server.client().await, request("secret-reader")).await;
    let (status, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    for word in ["secret-reader", "marathon", "shoes", "solar"] {
        assert!(!text.contains(word), "{word}");
    }
}
