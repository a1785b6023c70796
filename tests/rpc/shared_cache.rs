//! Answers that servers share: two real servers, or three, and a real Redis.
mod faults;
mod ladder;
mod poison;
mod privacy;
mod proxy;
mod store;

use super::{
    readers,
    script::LIST,
    server::{
        Client, PATIENCE, Plan, Server, ask, cache_status, options, refusal, request, with_mode, within,
    },
};
use newshound::serve::{
    rpc::proto::{CacheMode, CacheStatus, GenerateQueriesRequest, GenerateQueriesResponse},
    settings::sharing::RedisSettings,
    shared::link::opener::Address,
};
use proxy::{Mode, Proxy};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use store::Redis;
use tokio::task::JoinHandle;

/// Whatever is slow here, it is not for Redis' budget to say so.
fn patient(url: &str) -> RedisSettings {
    RedisSettings {
        address: Address::parse(url).unwrap(),
        key_prefix: "test".to_owned(),
        budget: PATIENCE,
        connect_max: PATIENCE,
        lease: PATIENCE,
        failures_max: 5,
        pause: Duration::from_millis(50),
        secret_file: None,
        ca_file: None,
    }
}

fn sharing(settings: RedisSettings) -> Plan {
    Plan::new().with(|all| all.redis = Some(settings))
}

/// A server that uses Redis by now.
async fn started(plan: Plan) -> Server {
    let server = plan.start().await;
    used(&server).await;
    server
}

async fn used(server: &Server) {
    server.until("newshound_shared_cache_breaker_open", 0.0).await;
}

async fn stored(server: &Server, n_answers: f64) {
    server.until("newshound_shared_cache_stores_total{result=\"stored\"}", n_answers).await;
}

/// A request for one candidate.
fn single(user: &str) -> GenerateQueriesRequest {
    let mut single = request(user);
    options(&mut single).candidate_count = Some(1);
    single
}

fn call(client: &Client, request: GenerateQueriesRequest) -> JoinHandle<GenerateQueriesResponse> {
    let mut client = client.clone();
    tokio::spawn(async move { ask(&mut client, request).await })
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn what_one_server_generated_another_answers_with_and_keeps() {
    let redis = Redis::start();
    let (one, other) =
        (started(sharing(patient(&redis.url()))).await, started(sharing(patient(&redis.url()))).await);
    let (mut of_one, mut of_other) = (one.client().await, other.client().await);
    let first = ask(&mut of_one, request("reader")).await;
    stored(&one, 1.0).await;
    let second = ask(&mut of_other, request("reader")).await;
    assert_eq!((cache_status(&first), cache_status(&second)), (CacheStatus::Miss, CacheStatus::Hit));
    assert_eq!((&first.best, &first.usage), (&second.best, &second.usage));
    assert_ne!(first.response_id, second.response_id);
    assert!(second.cache.unwrap().age.is_some());
    assert_eq!(cache_status(&ask(&mut of_other, request("reader")).await), CacheStatus::Hit);
    let looked = "newshound_shared_cache_looks_total{result=\"hit\"}";
    assert_eq!(other.metric(looked).await, Some(1.0), "the second time it was its own");
    assert_eq!((one.log.prefills(), other.log.prefills()), (1, 0));
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn other_readers_signals_options_and_modes_share_nothing() {
    let redis = Redis::start();
    let (one, other) =
        (started(sharing(patient(&redis.url()))).await, started(sharing(patient(&redis.url()))).await);
    ask(&mut one.client().await, request("reader")).await;
    stored(&one, 1.0).await;
    let mut of_other = other.client().await;
    let mut other_signal = request("reader");
    other_signal.signals[0].text.push('s');
    let mut other_option = request("reader");
    options(&mut other_option).temperature = Some(0.5);
    let refreshed = with_mode(CacheMode::Refresh, request("reader"));
    for request in [request("other"), other_signal, other_option, refreshed] {
        assert_eq!(cache_status(&ask(&mut of_other, request).await), CacheStatus::Miss);
    }
    let bypassing = ask(&mut of_other, with_mode(CacheMode::Bypass, request("reader"))).await;
    assert_eq!(cache_status(&bypassing), CacheStatus::Bypass);
    stored(&other, 4.0).await;
    assert_eq!(other.log.prefills(), 5);
}

/// An answer grows older on its way: nobody uses it for longer than the server that made it would.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn an_answer_takes_its_age_with_it() {
    let ttl = Duration::from_secs(2);
    let redis = Redis::start();
    let plan = || {
        sharing(patient(&redis.url())).with(|settings| {
            (settings.cache.ttl, settings.cache.renew_ahead) = (ttl, Duration::ZERO);
        })
    };
    let (one, other) = (started(plan()).await, started(plan()).await);
    ask(&mut one.client().await, single("reader")).await;
    stored(&one, 1.0).await;
    // It was made before, so that it is older than this says.
    let made = Instant::now();
    let mut client = other.client().await;
    within(async {
        loop {
            let asked = made.elapsed();
            let response = ask(&mut client, single("reader")).await;
            if cache_status(&response) == CacheStatus::Miss {
                break;
            }
            let age = Duration::try_from(response.cache.unwrap().age.unwrap()).unwrap();
            assert!(asked < ttl && age < ttl, "{age:?} after {asked:?}");
            // Redis counts whole milliseconds.
            assert!(age + Duration::from_millis(2) >= asked, "{age:?} after {asked:?}");
            other.get("/healthz").await;
        }
    })
    .await;
    assert_eq!(other.log.prefills(), 1);
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_crowd_at_two_servers_is_one_generation() {
    let redis = Redis::start();
    let (one, other) = (
        started(sharing(patient(&redis.url())).gated()).await,
        started(sharing(patient(&redis.url()))).await,
    );
    let (of_one, of_other) = (one.client().await, other.client().await);
    let leader = call(&of_one, request("reader"));
    one.until("newshound_running_rows", 4.0).await;
    let crowd: Vec<_> = (0..20).map(|_| call(&of_other, request("reader"))).collect();
    other.until("newshound_cache_requests_total{status=\"coalesced\"}", 19.0).await;
    assert_eq!(redis.keys().len(), 2, "what is kept of the reader, and the lease");
    assert_eq!(other.metric("newshound_shared_cache_looks_total{result=\"miss\"}").await, Some(1.0));
    one.gate.open();
    let made = within(leader).await.unwrap();
    for waiting in crowd {
        let response = within(waiting).await.unwrap();
        assert_eq!((cache_status(&response), &response.best), (CacheStatus::Hit, &made.best));
    }
    assert_eq!((one.log.prefills(), other.log.prefills()), (1, 0));
    assert_eq!(other.metric("newshound_shared_cache_leads_total{result=\"followed\"}").await, Some(1.0));
    assert_eq!(redis.keys().len(), 1, "the lease has gone");
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_server_that_dies_with_the_lease_is_waited_for_as_long_as_the_lease() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let of_proxy = patient(&store::url(proxy.port));
    let one = started(sharing(of_proxy).gated()).await;
    let lease = Duration::from_millis(500);
    let other = started(sharing(RedisSettings { lease, ..patient(&redis.url()) })).await;
    let abandoned = call(&one.client().await, request("reader"));
    one.until("newshound_running_rows", 4.0).await;
    proxy.set(Mode::Swallow);
    abandoned.abort();
    drop(one);
    let begun = Instant::now();
    let response = ask(&mut other.client().await, request("reader")).await;
    assert_eq!(cache_status(&response), CacheStatus::Miss);
    assert!(begun.elapsed() >= lease, "it waited");
    assert_eq!(other.log.prefills(), 1);
    stored(&other, 1.0).await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_generation_that_fails_or_that_nobody_waits_for_gives_up_its_lease() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url())).gated().writing(|_, _| "nothing".to_owned())).await;
    let other = started(sharing(patient(&redis.url()))).await;
    let left = call(&one.client().await, single("leaves"));
    one.until("newshound_running_rows", 1.0).await;
    left.abort();
    one.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    one.gate.open();
    let failed = one.client().await.generate_queries(single("fails")).await.unwrap_err();
    refusal(&failed, tonic::Code::NotFound, "NO_VALID_LIST");
    // The lease of the test is as long as a test may be.
    for reader in ["leaves", "fails"] {
        assert_eq!(cache_status(&ask(&mut other.client().await, single(reader)).await), CacheStatus::Miss);
    }
    assert_eq!(other.metric("newshound_shared_cache_leads_total{result=\"led\"}").await, Some(2.0));
}

/// Redis grants it, and nobody hears of it in time.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_lease_that_is_granted_too_late_is_given_up() {
    const TTL: Duration = Duration::from_millis(1);
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    // A link that fails for a while is not lost.
    let (budget, failures_max) = (Duration::from_millis(20), u32::MAX);
    let hasty = RedisSettings { budget, failures_max, ..patient(&store::url(proxy.port)) };
    let old = |settings: &mut newshound::serve::settings::ServeSettings| {
        (settings.cache.ttl, settings.cache.stale) = (TTL, Duration::from_secs(3600));
    };
    let one = started(sharing(hasty).with(old)).await;
    let other = started(sharing(patient(&redis.url()))).await;
    let mut client = one.client().await;
    assert_eq!(cache_status(&ask(&mut client, single("reader")).await), CacheStatus::Miss);
    let n_scripts = redis.n_scripts();
    proxy.set(Mode::Slow(Duration::from_millis(200)));
    // Until the answer is too old to be fresh.
    one.outlast(TTL).await;
    // A renewal leads without a look.
    assert_eq!(cache_status(&ask(&mut client, single("reader")).await), CacheStatus::Stale);
    // The lead, and the end of a lease that the test made as long as a test may be.
    within(async {
        while redis.n_scripts() < n_scripts + 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(redis.keys().iter().filter(|key| key.contains(":lease:")).count(), 0);
    assert!(one.metric("newshound_shared_cache_errors_total{reason=\"timeout\"}").await >= Some(1.0));
    let refresh = with_mode(CacheMode::Refresh, single("reader"));
    assert_eq!(cache_status(&ask(&mut other.client().await, refresh).await), CacheStatus::Miss);
    stored(&other, 1.0).await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_is_late_is_asked_once_by_a_request() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let (budget, failures_max) = (Duration::from_millis(20), u32::MAX);
    let hasty = RedisSettings { budget, failures_max, ..patient(&store::url(proxy.port)) };
    let one = started(sharing(hasty)).await;
    proxy.set(Mode::Slow(Duration::from_millis(200)));
    assert_eq!(cache_status(&ask(&mut one.client().await, single("reader")).await), CacheStatus::Miss);
    for (operation, n_asked) in [("look", 1.0), ("lead", 0.0)] {
        let series = format!("newshound_shared_cache_operation_seconds_count{{operation=\"{operation}\"}}");
        assert_eq!(one.metric(&series).await, Some(n_asked), "{series}");
    }
}

/// Who waits for another server needs no place in the queue yet.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn while_another_server_is_waited_for_others_have_the_place_in_the_queue() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url())).gated()).await;
    let small = |settings: &mut newshound::serve::settings::ServeSettings| {
        (settings.engine.rows_max, settings.engine.queue_requests_max) = (4, 1);
    };
    let other = started(sharing(patient(&redis.url())).gated().with(small)).await;
    let (of_one, of_other) = (one.client().await, other.client().await);
    let theirs = call(&of_one, request("reader"));
    one.until("newshound_running_rows", 4.0).await;
    let running = call(&of_other, request("runs"));
    other.until("newshound_running_rows", 4.0).await;
    let waiting = call(&of_other, request("reader"));
    within(async {
        let leads = "newshound_shared_cache_operation_seconds_count{operation=\"lead\"}";
        while other.metric(leads).await < Some(2.0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let next = call(&of_other, request("next"));
    other.until("newshound_prompt_tokens_count", 2.0).await;
    one.gate.open();
    assert_eq!(cache_status(&within(waiting).await.unwrap()), CacheStatus::Hit);
    other.gate.open();
    for made in [theirs, running, next] {
        assert_eq!(cache_status(&within(made).await.unwrap()), CacheStatus::Miss);
    }
}

const NEWER: &str = "harbour bridge closed\nferry strike ends\ncity marathon route";

/// What a generation writes, by how many there were before it; each has one row.
fn in_turn(texts: &'static [&'static str]) -> impl Fn(usize, u64) -> String + Send + Sync {
    let n_written = AtomicUsize::new(0);
    move |_, _| texts[n_written.fetch_add(1, Ordering::SeqCst).min(texts.len() - 1)].to_owned()
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn an_invalidated_readers_answers_are_used_by_no_server_that_comes() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url())).writing(in_turn(&[LIST, NEWER]))).await;
    let mut client = one.client().await;
    let old = ask(&mut client, single("reader")).await;
    stored(&one, 1.0).await;
    readers::invalidate(&one, "reader", None).await.unwrap();
    assert!(redis.keys().is_empty());
    let new = ask(&mut client, single("reader")).await;
    assert_eq!(cache_status(&new), CacheStatus::Miss);
    stored(&one, 2.0).await;
    let other = started(sharing(patient(&redis.url()))).await;
    let found = ask(&mut other.client().await, single("reader")).await;
    assert_eq!((cache_status(&found), &found.best), (CacheStatus::Hit, &new.best));
    assert_ne!(old.best, new.best);
}

/// Where another server has a younger answer, a stale one is renewed by that and not by a generation.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn what_one_server_generated_anew_renews_the_others_answer() {
    let redis = Redis::start();
    let plan = |texts| {
        sharing(patient(&redis.url())).writing(in_turn(texts)).with(|settings| {
            settings.cache.ttl = Duration::from_millis(1);
            settings.cache.stale = Duration::from_secs(3600);
        })
    };
    let (one, other) = (started(plan(&[NEWER])).await, started(plan(&[LIST])).await);
    let mut client = other.client().await;
    let old = ask(&mut client, single("reader")).await;
    let made = Instant::now();
    stored(&other, 1.0).await;
    // Younger by less than a second may be the same, which was on its way.
    while made.elapsed() < Duration::from_millis(1500) {
        other.get("/healthz").await;
    }
    let new = ask(&mut one.client().await, with_mode(CacheMode::Refresh, single("reader"))).await;
    stored(&one, 1.0).await;
    let stale = ask(&mut client, single("reader")).await;
    assert_eq!((cache_status(&stale), &stale.best), (CacheStatus::Stale, &old.best));
    other.until("newshound_shared_cache_leads_total{result=\"found\"}", 1.0).await;
    within(async {
        while ask(&mut client, single("reader")).await.best != new.best {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
