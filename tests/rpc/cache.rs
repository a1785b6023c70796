//! Stored answers: used, left alone, renewed, forgotten.
use super::server::{Plan, ask, cache_status, options, request, with_mode};
use newshound::serve::rpc::proto::{CacheMode, CacheStatus};
use std::time::Duration;

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

#[tokio::test]
async fn errors_are_not_stored() {
    // The first generation writes no list, the others do.
    let n_asked = std::sync::atomic::AtomicUsize::new(0);
    let text = move |row_idx: usize, _| {
        let n = if row_idx == 0 { n_asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) } else { 1 };
        if n == 0 { "nothing".to_owned() } else { super::script::LIST.to_owned() }
    };
    let server = Plan::new().writing(text).start().await;
    let mut client = server.client().await;
    let mut single = request("reader");
    options(&mut single).candidate_count = Some(1);
    assert!(client.generate_queries(single.clone()).await.is_err());
    assert_eq!(cache_status(&ask(&mut client, single).await), CacheStatus::Miss);
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
