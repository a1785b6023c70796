//! Whatever becomes of Redis: answers are right, nobody sees an error, and it is used again when it is back.
use super::{
    proxy::{Mode, Proxy},
    store::{self, Redis},
    *,
};

/// The settings that servers run with, but for shorter pauses, so that tests wait less.
fn hasty(url: &str) -> RedisSettings {
    let budget = Duration::from_millis(20);
    RedisSettings {
        budget,
        connect_max: Duration::from_secs(1),
        lease: Duration::from_secs(2),
        ..patient(url)
    }
}

/// Asks for readers whom nobody knows, until the breaker is open; all of them are answered.
async fn answers_until_left_alone(server: &Server, who: &str) {
    let mut client = server.client().await;
    within(async {
        for number in 0.. {
            let response = ask(&mut client, single(&format!("{who}{number}"))).await;
            assert_eq!(cache_status(&response), CacheStatus::Miss);
            assert_eq!(super::super::server::texts(&response.best.unwrap()).join("\n"), LIST);
            if server.metric("newshound_shared_cache_breaker_open").await == Some(1.0) {
                break;
            }
        }
    })
    .await;
}

/// One server finds another's answers, sooner or later: on a busy machine Redis may miss its budget. Whoever comes before an answer is stored
/// waits for the lease.
async fn share(one: &Server, other: &Server, who: &str) {
    let (mut of_one, mut of_other) = (one.client().await, other.client().await);
    within(async {
        for number in 0.. {
            let reader = format!("{who}{number}");
            ask(&mut of_one, single(&reader)).await;
            if cache_status(&ask(&mut of_other, single(&reader)).await) == CacheStatus::Hit {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_is_not_there_yet_is_used_when_it_comes() {
    let port = store::free_port();
    let (one, other) =
        (sharing(hasty(&store::url(port))).start().await, sharing(hasty(&store::url(port))).start().await);
    answers_until_left_alone(&one, "early").await;
    let looks = one.metric("newshound_shared_cache_looks_total{result=\"skipped\"}").await;
    assert!(looks >= Some(1.0), "nobody waits for a connection");
    let _redis = Redis::start_on(port, &[]);
    used(&one).await;
    used(&other).await;
    share(&one, &other, "late").await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_is_killed_and_comes_back_empty_is_used_again() {
    let redis = Redis::start();
    let port = redis.port;
    let (one, other) =
        (started(sharing(hasty(&redis.url()))).await, started(sharing(hasty(&redis.url()))).await);
    share(&one, &other, "before").await;
    drop(redis);
    answers_until_left_alone(&one, "without").await;
    answers_until_left_alone(&other, "without too").await;
    let _redis = Redis::start_on(port, &[]);
    used(&one).await;
    used(&other).await;
    share(&one, &other, "after").await;
}

/// What was begun before Redis forgot everything is not stored after: nobody knows what has been ended in between.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_lost_its_memory_stores_nothing_that_was_begun_before() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url())).gated()).await;
    let waiting = call(&one.client().await, single("reader"));
    one.until("newshound_running_rows", 1.0).await;
    redis::cmd("FLUSHALL").exec(&mut redis.link()).unwrap();
    one.gate.open();
    within(waiting).await.unwrap();
    one.until("newshound_shared_cache_stores_total{result=\"outdated\"}", 1.0).await;
    assert!(redis.keys().is_empty());
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_has_forgotten_the_scripts_learns_them_again() {
    let redis = Redis::start();
    let (one, other) =
        (started(sharing(hasty(&redis.url()))).await, started(sharing(hasty(&redis.url()))).await);
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis.link()).unwrap();
    share(&one, &other, "reader").await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_without_memory_stores_nothing_and_is_no_reason_to_leave_it_alone() {
    let redis =
        Redis::start_on(store::free_port(), &["--maxmemory", "1kb", "--maxmemory-policy", "noeviction"]);
    let one = started(sharing(patient(&redis.url()))).await;
    let mut client = one.client().await;
    for number in 0..10 {
        let response = ask(&mut client, single(&format!("reader{number}"))).await;
        assert_eq!(cache_status(&response), CacheStatus::Miss);
    }
    assert_eq!(one.metric("newshound_shared_cache_errors_total{reason=\"refused\"}").await, Some(10.0));
    assert_eq!(one.metric("newshound_shared_cache_looks_total{result=\"miss\"}").await, Some(10.0));
    assert_eq!(one.metric("newshound_shared_cache_breaker_open").await, Some(0.0));
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_stands_still_is_left_alone_until_it_goes_on() {
    let redis = Redis::start();
    let (one, other) =
        (started(sharing(hasty(&redis.url()))).await, started(sharing(hasty(&redis.url()))).await);
    share(&one, &other, "before").await;
    redis.signal("STOP");
    answers_until_left_alone(&one, "meanwhile").await;
    assert!(one.metric("newshound_shared_cache_errors_total{reason=\"timeout\"}").await >= Some(1.0));
    redis.signal("CONT");
    used(&one).await;
    used(&other).await;
    share(&one, &other, "after").await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_redis_that_pauses_its_clients_is_left_alone_until_it_goes_on() {
    let redis = Redis::start();
    let settings = RedisSettings { failures_max: 1, ..hasty(&redis.url()) };
    let (one, other) = (started(sharing(settings.clone())).await, started(sharing(settings)).await);
    redis::cmd("CLIENT").arg("PAUSE").arg(5000).arg("ALL").exec(&mut redis.link()).unwrap();
    answers_until_left_alone(&one, "meanwhile").await;
    used(&one).await;
    used(&other).await;
    share(&one, &other, "after").await;
}

async fn behind_a_proxy(fault: Mode) {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let one = started(sharing(hasty(&store::url(proxy.port)))).await;
    let other = started(sharing(hasty(&redis.url()))).await;
    share(&one, &other, "before").await;
    proxy.set(fault);
    answers_until_left_alone(&one, "meanwhile").await;
    let opened = one.metric("newshound_shared_cache_errors_total{reason=\"timeout\"}").await;
    let reset = one.metric("newshound_shared_cache_errors_total{reason=\"connection\"}").await;
    assert!(if fault == Mode::Reset { reset } else { opened } >= Some(1.0), "{opened:?} {reset:?}");
    proxy.set(Mode::Pass);
    used(&one).await;
    share(&one, &other, "after").await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_slow_way_to_redis_is_left_alone_until_it_is_fast() {
    behind_a_proxy(Mode::Slow(Duration::from_millis(100))).await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn connections_that_are_reset_are_opened_again() {
    behind_a_proxy(Mode::Reset).await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn connections_that_swallow_everything_are_given_up() {
    behind_a_proxy(Mode::Swallow).await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn without_the_right_password_answers_are_right() {
    let redis = Redis::start_on(store::free_port(), &["--requirepass", "opensesame"]);
    let wrong = format!("redis://:abracadabra@127.0.0.1:{}", redis.port);
    for url in [redis.url(), wrong] {
        let server = sharing(hasty(&url)).start().await;
        answers_until_left_alone(&server, "reader").await;
        within(async {
            while server.metric("newshound_shared_cache_errors_total{reason=\"access\"}").await < Some(1.0) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(server.metric("newshound_shared_cache_breaker_open").await, Some(1.0));
    }
    started(sharing(patient(&format!("redis://:opensesame@127.0.0.1:{}", redis.port)))).await;
}
