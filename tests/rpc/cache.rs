//! Stored answers: used, left alone, renewed, forgotten.
use super::{
    script::LIST,
    server::{Plan, Server, ask, cache_status, options, refusal, request, with_mode, within},
};
use newshound::serve::{
    rpc::proto::{CacheMode, CacheStatus, GenerateQueriesRequest},
    settings::ServeSettings,
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

#[tokio::test]
async fn the_second_request_is_a_hit_with_an_age_and_a_response_id_of_its_own() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let first = ask(&mut client, request("reader")).await;
    let second = ask(&mut client, request("reader")).await;
    assert_eq!((cache_status(&first), cache_status(&second)), (CacheStatus::Miss, CacheStatus::Hit));
    assert_eq!(first.best, second.best);
    assert_ne!(first.response_id, second.response_id);
    assert!(first.cache.unwrap().age.is_none() && second.cache.unwrap().age.is_some());
    assert_eq!(server.log.prefills(), 1);
}

#[tokio::test]
async fn the_order_in_which_signals_arrive_does_not_matter() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    ask(&mut client, request("reader")).await;
    let mut reversed = request("reader");
    reversed.signals.reverse();
    assert_eq!(cache_status(&ask(&mut client, reversed).await), CacheStatus::Hit);
}

#[tokio::test]
async fn another_reader_signal_or_option_is_a_miss() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    ask(&mut client, request("reader")).await;
    let mut other_signal = request("reader");
    other_signal.signals[0].text.push('s');
    let mut other_option = request("reader");
    options(&mut other_option).temperature = Some(0.5);
    for request in [request("other"), other_signal, other_option] {
        assert_eq!(cache_status(&ask(&mut client, request).await), CacheStatus::Miss);
    }
    assert_eq!(server.log.prefills(), 4);
}

/// Two tenants once shared the answers and kept prompts of readers whom both call by the same key.
#[tokio::test]
async fn the_same_key_under_another_tenant_is_another_reader() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let mut asked = async |tenant: Option<&'static str>| {
        let mut request = tonic::Request::new(request("42"));
        if let Some(tenant) = tenant {
            request.metadata_mut().insert("x-newshound-tenant", tenant.parse().unwrap());
        }
        cache_status(&client.generate_queries(request).await.unwrap().into_inner())
    };
    for tenant in [None, Some("daily"), Some("weekly")] {
        assert_eq!(asked(tenant).await, CacheStatus::Miss, "{tenant:?}");
    }
    for tenant in [None, Some("daily"), Some("weekly")] {
        assert_eq!(asked(tenant).await, CacheStatus::Hit, "{tenant:?}");
    }
    assert_eq!(server.log.prefills(), 3);
}

#[tokio::test]
async fn bypass_neither_reads_nor_stores() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    for _ in 0..2 {
        let response = ask(&mut client, with_mode(CacheMode::Bypass, request("reader"))).await;
        assert_eq!(cache_status(&response), CacheStatus::Bypass);
    }
    assert_eq!(cache_status(&ask(&mut client, request("reader")).await), CacheStatus::Miss);
    assert_eq!(server.log.prefills(), 3);
}

#[tokio::test]
async fn refresh_does_not_read_but_stores() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    ask(&mut client, request("reader")).await;
    let refreshed = ask(&mut client, with_mode(CacheMode::Refresh, request("reader"))).await;
    assert_eq!(cache_status(&refreshed), CacheStatus::Miss);
    assert_eq!(cache_status(&ask(&mut client, request("reader")).await), CacheStatus::Hit);
    assert_eq!(server.log.prefills(), 2);
}

#[tokio::test]
async fn an_answer_older_than_the_ttl_is_not_used() {
    let server = Plan::new().with(|settings| settings.cache.ttl = Duration::from_millis(1)).start().await;
    let mut client = server.client().await;
    ask(&mut client, request("reader")).await;
    // A millisecond of real time passes while the server is asked for something else.
    let asked = std::time::Instant::now();
    while asked.elapsed() < Duration::from_millis(2) {
        server.get("/healthz").await;
    }
    assert_eq!(cache_status(&ask(&mut client, request("reader")).await), CacheStatus::Miss);
}

/// A request for one candidate.
fn single(user: &str) -> GenerateQueriesRequest {
    let mut single = request(user);
    options(&mut single).candidate_count = Some(1);
    single
}

/// What a generation writes, by how many there were before it; each has one row.
fn in_turn(texts: &'static [&'static str]) -> impl Fn(usize, u64) -> String + Send + Sync {
    let n_written = AtomicUsize::new(0);
    move |_, _| texts[n_written.fetch_add(1, Ordering::SeqCst).min(texts.len() - 1)].to_owned()
}

async fn pass(server: &Server, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() <= time {
        server.get("/healthz").await;
    }
}

#[tokio::test]
async fn a_question_without_an_answer_is_not_tried_again_for_a_moment() {
    let ttl = Duration::from_millis(500);
    let plan = Plan::new().with(|settings| settings.cache.failure_ttl = ttl);
    let server = plan.writing(in_turn(&["nothing", "nothing", "nothing", LIST])).start().await;
    let mut client = server.client().await;
    let mut other_seed = single("reader");
    options(&mut other_seed).seed = Some(7);
    let begun = Instant::now();
    for request in [single("reader"), other_seed, with_mode(CacheMode::Bypass, single("reader"))] {
        let status = client.generate_queries(request).await.unwrap_err();
        refusal(&status, tonic::Code::NotFound, "NO_VALID_LIST");
    }
    assert_eq!(server.log.prefills(), 3, "only the same question, and only from the cache");
    let status = client.generate_queries(single("reader")).await.unwrap_err();
    refusal(&status, tonic::Code::NotFound, "NO_VALID_LIST");
    assert!(begun.elapsed() >= ttl || server.log.prefills() == 3);
    // Twice the time is the longest.
    pass(&server, 2 * ttl).await;
    assert_eq!(cache_status(&ask(&mut client, single("reader")).await), CacheStatus::Miss);
    let failed = server.metric("newshound_cache_requests_total{status=\"failed\"}").await;
    assert!(begun.elapsed() >= 3 * ttl || failed == Some(1.0));
}

#[tokio::test]
async fn failures_are_tried_again_at_once_where_none_is_remembered() {
    let plan = Plan::new().with(|settings| settings.cache.failure_ttl = Duration::ZERO);
    let server = plan.writing(in_turn(&["nothing", LIST])).start().await;
    let mut client = server.client().await;
    assert!(client.generate_queries(single("reader")).await.is_err());
    assert_eq!(cache_status(&ask(&mut client, single("reader")).await), CacheStatus::Miss);
}

const NEWER: &str = "harbour bridge closed\nferry strike ends\ncity marathon route";

#[tokio::test]
async fn a_stale_answer_is_used_while_one_newer_is_generated_for_nobody_who_waits() {
    let settings = |settings: &mut ServeSettings| {
        settings.cache.ttl = Duration::from_millis(1);
        settings.cache.stale = Duration::from_secs(60);
    };
    let server = Plan::new().gated().with(settings).writing(in_turn(&[LIST, NEWER])).start().await;
    let mut client = server.client().await;
    server.gate.allow(100);
    let first = ask(&mut client, single("reader")).await;
    pass(&server, Duration::from_millis(1)).await;
    server.gate.close();
    for _ in 0..3 {
        let stale = ask(&mut client, single("reader")).await;
        assert_eq!((cache_status(&stale), &stale.best), (CacheStatus::Stale, &first.best));
        assert!(stale.cache.unwrap().age.is_some());
    }
    server.until("newshound_running_rows", 1.0).await;
    assert_eq!(server.log.prefills(), 2, "one generation renews it, however often it is used");
    assert_eq!(server.metric("newshound_cache_renewals_total{result=\"stale\"}").await, Some(1.0));
    server.gate.open();
    server.until("newshound_running_rows", 0.0).await;
    within(async {
        while ask(&mut client, single("reader")).await.best == first.best {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.metric("newshound_cache_requests_total{status=\"miss\"}").await, Some(1.0));
}

#[tokio::test]
async fn the_use_of_an_answer_whose_time_is_nearly_over_renews_it() {
    let settings = |settings: &mut ServeSettings| {
        settings.cache.ttl = Duration::from_secs(1);
        settings.cache.renew_ahead = Duration::from_secs(1);
    };
    let server = Plan::new().with(settings).start().await;
    let mut client = server.client().await;
    within(async {
        // Where the machine stands still for half a second the answer is too old, and another one's time begins.
        while server.metric("newshound_cache_renewals_total{result=\"early\"}").await == Some(0.0) {
            let status = cache_status(&ask(&mut client, single("reader")).await);
            assert!(matches!(status, CacheStatus::Hit | CacheStatus::Miss), "{status:?}");
        }
    })
    .await;
    let n_missed = server.metric("newshound_cache_requests_total{status=\"miss\"}").await.unwrap();
    server.until("newshound_step_duration_seconds_count{phase=\"prefill\"}", n_missed + 1.0).await;
}

#[tokio::test]
async fn nothing_is_renewed_while_many_wait() {
    let settings = |settings: &mut ServeSettings| {
        settings.cache.ttl = Duration::from_millis(1);
        settings.cache.stale = Duration::from_secs(60);
        settings.engine.rows_max = 32;
        settings.engine.queue_requests_max = 2;
    };
    let server = Plan::new().gated().with(settings).start().await;
    let mut client = server.client().await;
    server.gate.allow(100);
    ask(&mut client, single("reader")).await;
    pass(&server, Duration::from_millis(1)).await;
    server.gate.close();
    let mut calls = Vec::new();
    for (user, waiting) in [("runs", 0.0), ("waits", 1.0), ("waits too", 2.0)] {
        let mut client = client.clone();
        let mut whole = request(user);
        options(&mut whole).candidate_count = Some(32);
        calls.push(tokio::spawn(async move { client.generate_queries(whole).await }));
        server.until("newshound_prompt_tokens_count", 2.0 + waiting).await;
        // Whoever waits for a place in the batch has one in the queue until then.
        server.until("newshound_running_rows", 32.0).await;
    }
    assert_eq!(cache_status(&ask(&mut client, single("reader")).await), CacheStatus::Stale);
    assert_eq!(server.metric("newshound_cache_renewals_total{result=\"skipped\"}").await, Some(1.0));
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_stored_is_shown() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    for user in ["one", "other", "one"] {
        ask(&mut client, request(user)).await;
    }
    server.until("newshound_cache_entries", 2.0).await;
    assert!(server.metric("newshound_cache_weight_bytes").await.unwrap() > 0.0);
}
