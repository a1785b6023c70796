//! What Redis holds of readers, and that it is gone when they are forgotten.
use super::{super::access::authority::Authority, store::Redis, *};
use std::{path::PathBuf, sync::Arc};
use tempfile::TempDir;

/// A word that stands nowhere else.
const CANARY: &str = "zanzibarquux";

fn secret(dir: &TempDir, name: &str, digits: &str) -> Option<PathBuf> {
    let path = dir.path().join(name);
    std::fs::write(&path, digits.repeat(32)).unwrap();
    Some(path)
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

fn marked() -> GenerateQueriesRequest {
    let mut marked = single(&format!("{CANARY}-reader"));
    marked.signals.iter_mut().for_each(|signal| signal.text = format!("{CANARY} {}", signal.text));
    marked
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn redis_holds_no_readers_key_and_no_signal() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url()))).await;
    ask(&mut one.client().await, marked()).await;
    stored(&one, 1.0).await;
    let held = redis.everything();
    assert!(!contains(&held, CANARY));
    assert!(contains(&held, "solar storm tonight"), "answers are there, and can be read");
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn with_a_secret_nothing_can_be_read_but_by_those_who_have_it() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let with = |secret_file| sharing(RedisSettings { secret_file, ..patient(&redis.url()) });
    let one = started(with(secret(&dir, "one", "0a"))).await;
    ask(&mut one.client().await, marked()).await;
    stored(&one, 1.0).await;
    let held = redis.everything();
    for plain in [CANARY, "solar", "storm", "candidates"] {
        assert!(!contains(&held, plain), "{plain}");
    }
    let same = started(with(secret(&dir, "same", "0a"))).await;
    assert_eq!(cache_status(&ask(&mut same.client().await, marked()).await), CacheStatus::Hit);
    for another in [secret(&dir, "another", "0b"), None] {
        let another = started(with(another)).await;
        assert_eq!(cache_status(&ask(&mut another.client().await, marked()).await), CacheStatus::Miss);
    }
    readers::forget(&same, &format!("{CANARY}-reader")).await.unwrap();
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn redis_is_spoken_to_by_tls_where_the_address_says_so_and_its_authority_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let files = authority.write(dir.path());
    let known = |name: &str, authority: &Authority| {
        let path = dir.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        Some(path)
    };
    let (ca, strange_ca) = (known("ca.pem", &authority), known("strange.pem", &stranger));
    let tls_port = store::free_port().to_string();
    let [cert, key, ca_file] =
        [&files.cert, &files.key, ca.as_ref().unwrap()].map(|path| path.to_str().unwrap());
    let more = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        ca_file,
        "--tls-auth-clients",
        "no",
    ];
    let redis = Redis::start_on(store::free_port(), &more);
    let with = |ca_file| {
        let url = format!("rediss://127.0.0.1:{tls_port}");
        sharing(RedisSettings { ca_file, ..patient(&url) })
    };
    let one = started(with(ca)).await;
    ask(&mut one.client().await, single("reader")).await;
    stored(&one, 1.0).await;
    assert_eq!(redis.keys().len(), 1);
    let wary = with(strange_ca).start().await;
    within(async {
        while wary.metric("newshound_shared_cache_errors_total{reason=\"connection\"}").await < Some(1.0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(cache_status(&ask(&mut wary.client().await, single("reader")).await), CacheStatus::Miss);
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_server_without_its_secret_does_not_start() {
    let settings = RedisSettings { secret_file: Some(PathBuf::from("/nowhere")), ..patient(&store::url(1)) };
    let mut server = sharing(settings).start().await;
    let error = server.ended().await.unwrap_err();
    assert!(error.to_string().contains("cache.redis.secret_file"), "{error}");
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_forgotten_reader_leaves_nothing_in_redis_and_others_stay() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url()))).await;
    let mut client = one.client().await;
    ask(&mut client, single("stays")).await;
    stored(&one, 1.0).await;
    let (stays, _) = redis.only_reader();
    let mut warmer = single("goes");
    options(&mut warmer).temperature = Some(0.9);
    for request in [single("goes"), warmer] {
        ask(&mut client, request).await;
    }
    stored(&one, 3.0).await;
    assert_eq!(redis.keys().len(), 2);
    readers::forget(&one, "goes").await.unwrap();
    assert_eq!(redis.keys(), [stays]);
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn what_another_server_generates_does_not_land_after_the_reader_is_forgotten() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url())).gated()).await;
    let other = started(sharing(patient(&redis.url()))).await;
    let under_way = call(&one.client().await, single("reader"));
    one.until("newshound_running_rows", 1.0).await;
    readers::forget(&other, "reader").await.unwrap();
    // The lease of what was begun before holds nobody up.
    assert_eq!(cache_status(&ask(&mut other.client().await, single("reader")).await), CacheStatus::Miss);
    stored(&other, 1.0).await;
    let (_, newer) = redis.only_reader();
    one.gate.open();
    assert_eq!(cache_status(&within(under_way).await.unwrap()), CacheStatus::Miss, "who waits is answered");
    one.until("newshound_shared_cache_stores_total{result=\"outdated\"}", 1.0).await;
    assert_eq!(redis.only_reader().1, newer);
}

/// Whoever asks to be forgotten is told the truth, and Redis hears of it before anything is read there again.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_reader_who_cannot_be_forgotten_now_is_as_soon_as_redis_is_back() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url())).writing(in_turn(&[LIST, LIST, NEWER]))).await;
    let mut client = one.client().await;
    let invalidated = ask(&mut client, single("invalidated")).await;
    ask(&mut client, single("forgotten")).await;
    stored(&one, 2.0).await;
    redis.signal("STOP");
    let told = readers::forget(&one, "forgotten").await.unwrap_err();
    let details = refusal(&told, tonic::Code::Unavailable, "SHARED_CACHE_UNAVAILABLE");
    assert!(details.retry_info().is_some());
    readers::invalidate(&one, "invalidated", None).await.unwrap();
    assert_eq!(one.metric("newshound_shared_cache_ends_owed").await, Some(2.0));
    assert_eq!(one.metric("newshound_shared_cache_breaker_open").await, Some(1.0));
    redis.signal("CONT");
    used(&one).await;
    assert_eq!(one.metric("newshound_shared_cache_ends_owed").await, Some(0.0));
    assert!(redis.keys().is_empty());
    let newer = ask(&mut client, single("invalidated")).await;
    assert_eq!(cache_status(&newer), CacheStatus::Miss);
    assert_ne!(newer.best, invalidated.best);
    readers::forget(&one, "forgotten").await.unwrap();
}

/// A client that left in the middle once left a reader whose answers were neither removed nor read any more.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_reader_is_forgotten_also_where_whoever_asked_for_it_has_left() {
    let redis = Redis::start();
    let one = Arc::new(started(sharing(patient(&redis.url()))).await);
    let mut client = one.client().await;
    ask(&mut client, single("reader")).await;
    stored(&one, 1.0).await;
    redis.signal("STOP");
    let forgetting = Arc::clone(&one);
    let leaves = tokio::spawn(async move { readers::forget(&forgetting, "reader").await });
    one.until("newshound_shared_cache_ends_owed", 1.0).await;
    leaves.abort();
    one.until("newshound_rpc_in_flight{method=\"ForgetUser\"}", 0.0).await;
    redis.signal("CONT");
    one.until("newshound_shared_cache_ends_owed", 0.0).await;
    assert!(redis.keys().is_empty());
    used(&one).await;
    assert_eq!(cache_status(&ask(&mut client, single("reader")).await), CacheStatus::Miss);
    stored(&one, 2.0).await;
}
