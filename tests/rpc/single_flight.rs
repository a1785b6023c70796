//! The same question asked by many at once is generated once, and nobody depends on who asked first.
use super::server::{Plan, cache_status, few_or, request, within};
use newshound::serve::rpc::proto::CacheStatus;

#[tokio::test]
async fn identical_requests_are_one_generation_however_many_there_are() {
    let server = Plan::new().gated().start().await;
    let n_calls = few_or(300, 10_000);
    let mut calls = Vec::new();
    while calls.len() < n_calls {
        // As many as a connection may have open at the same time, less a few.
        let client = server.client().await;
        calls.extend((0..100).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.generate_queries(request("reader")).await })
        }));
    }
    let n_joined = n_calls - 1;
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", n_joined as f64).await;
    server.gate.open();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(cache_status(&within(call).await.unwrap().unwrap().into_inner()));
    }
    let count = |status| statuses.iter().filter(|&&other| other == status).count();
    assert_eq!((count(CacheStatus::Miss), count(CacheStatus::Coalesced)), (1, n_joined));
    assert_eq!(server.log.prefills(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_costs_its_followers_nothing() {
    let server = Plan::new().gated().start().await;
    let (mut leader, mut follower) = (server.client().await, server.client().await);
    let led = tokio::spawn(async move { leader.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    let followed = tokio::spawn(async move { follower.generate_queries(request("reader")).await });
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    led.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 1.0).await;
    server.gate.open();
    let response = within(followed).await.unwrap().unwrap().into_inner();
    assert_eq!(cache_status(&response), CacheStatus::Coalesced);
    assert_eq!(server.log.prefills(), 1, "nothing was begun again");
}

#[tokio::test]
async fn a_follower_that_may_wait_longer_outlives_its_leaders_deadline() {
    let server = Plan::new().gated().start().await;
    let (mut leader, mut follower) = (server.client().await, server.client().await);
    let led = tokio::spawn(async move {
        let mut request = tonic::Request::new(request("reader"));
        request.set_timeout(std::time::Duration::from_secs(2));
        leader.generate_queries(request).await
    });
    server.until("newshound_running_rows", 4.0).await;
    let followed = tokio::spawn(async move { follower.generate_queries(request("reader")).await });
    assert_eq!(within(led).await.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    server.gate.open();
    within(followed).await.unwrap().unwrap();
    assert_eq!(server.log.prefills(), 1);
}

#[tokio::test]
async fn a_follower_does_not_inherit_the_age_of_its_leader_and_starts_again_once() {
    let age_max = std::time::Duration::from_millis(300);
    let settings = |settings: &mut newshound::serve::settings::ServeSettings| {
        settings.engine.rows_max = 4;
        settings.engine.queue_wait_max = age_max;
    };
    let server = Plan::new().gated().with(settings).start().await;
    let call = |mut client: super::server::Client, user: &'static str| {
        tokio::spawn(async move { client.generate_queries(request(user)).await })
    };
    let running = call(server.client().await, "runs");
    server.until("newshound_running_rows", 4.0).await;
    let leader = call(server.client().await, "waits");
    server.until("newshound_prompt_tokens_count", 2.0).await;
    let begun = std::time::Instant::now();
    let follower = call(server.client().await, "waits");
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    // The age is looked at between steps.
    while begun.elapsed() <= age_max {
        server.get("/healthz").await;
    }
    server.gate.allow(1);
    let refused = within(leader).await.unwrap().unwrap_err();
    super::server::refusal(&refused, tonic::Code::ResourceExhausted, "QUEUE_AGE");
    server.until("newshound_prompt_tokens_count", 3.0).await;
    server.gate.open();
    let response = within(follower).await.unwrap().unwrap().into_inner();
    assert_eq!(cache_status(&response), CacheStatus::Miss);
    within(running).await.unwrap().unwrap();
    assert_eq!(server.log.prefills(), 2, "the leader's never began");
}

#[tokio::test]
async fn when_the_last_has_left_the_next_one_starts_anew() {
    let server = Plan::new().gated().start().await;
    let (mut first, mut second) = (server.client().await, server.client().await);
    let call = tokio::spawn(async move { first.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    call.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    server.gate.open();
    let response = within(second.generate_queries(request("reader"))).await.unwrap().into_inner();
    assert_eq!(cache_status(&response), CacheStatus::Miss);
    assert_eq!(server.log.prefills(), 2);
}

#[tokio::test]
async fn different_readers_never_share_a_flight() {
    let server = Plan::new().gated().start().await;
    let (mut one, mut other) = (server.client().await, server.client().await);
    let first = tokio::spawn(async move { one.generate_queries(request("one")).await });
    let second = tokio::spawn(async move { other.generate_queries(request("other")).await });
    // The model may have begun with one before the other came; each has a prompt of its own.
    server.until("newshound_prompt_tokens_count", 2.0).await;
    server.gate.open();
    for call in [first, second] {
        let response = within(call).await.unwrap().unwrap().into_inner();
        assert_eq!(cache_status(&response), CacheStatus::Miss);
    }
}
