//! What stands in Redis is not believed.
use super::{
    store::{Hash, Redis},
    *,
};
use newshound::serve::shared::record::RECORD_BYTES_MAX;

/// The one answer of the one reader, changed: nobody is answered with it, and it does not stay.
async fn check(what: &str, poison: impl Fn(&mut Vec<u8>)) {
    let server = check_fields(what, |fields: &mut Hash| {
        fields.iter_mut().filter(|(name, _)| name[0] == b'a').for_each(|(_, record)| poison(record));
    })
    .await;
    assert!(
        server.metric("newshound_shared_cache_errors_total{reason=\"value\"}").await >= Some(1.0),
        "{what}"
    );
    assert_eq!(server.metric("newshound_shared_cache_breaker_open").await, Some(0.0), "{what}");
}

async fn check_fields(what: &str, poison: impl Fn(&mut Hash)) -> Server {
    let redis = Redis::start();
    let (one, other) =
        (started(sharing(patient(&redis.url()))).await, started(sharing(patient(&redis.url()))).await);
    ask(&mut one.client().await, single("reader")).await;
    stored(&one, 1.0).await;
    let (key, mut fields) = redis.only_reader();
    assert_eq!(fields.len(), 3, "the epoch, the answer and its times");
    poison(&mut fields);
    redis::cmd("HSET").arg(&key).arg(&fields).exec(&mut redis.link()).unwrap();
    let answered = ask(&mut other.client().await, single("reader")).await;
    assert_eq!(cache_status(&answered), CacheStatus::Miss, "{what}");
    stored(&other, 1.0).await;
    let later = started(sharing(patient(&redis.url()))).await;
    let found = ask(&mut later.client().await, single("reader")).await;
    assert_eq!((cache_status(&found), found.best), (CacheStatus::Hit, answered.best), "{what}");
    other
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn broken_records_are_misses_and_are_replaced() {
    check("garbage", |record| *record = b"\x00\xffgarbage".to_vec()).await;
    check("nothing", |record| record.clear()).await;
    check("cut short", |record| record.truncate(record.len() - 1)).await;
    check("one bit", |record| record[100] ^= 1).await;
    check("too large", |record| record.resize(RECORD_BYTES_MAX + 1, b' ')).await;
    check("an older version", |record| record[4] -= 1).await;
    check_fields("times", |fields| {
        fields
            .iter_mut()
            .filter(|(name, _)| name[0] == b't')
            .for_each(|(_, times)| *times = b"soon".to_vec());
    })
    .await;
}

/// As if two readers' questions had the same digest: the record says whose it is.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn an_answer_in_anothers_place_is_nobodys() {
    let redis = Redis::start();
    let (one, other) =
        (started(sharing(patient(&redis.url()))).await, started(sharing(patient(&redis.url()))).await);
    ask(&mut one.client().await, single("one")).await;
    stored(&one, 1.0).await;
    let (first, fields) = redis.only_reader();
    let record = |fields: &Hash| fields.iter().find(|(name, _)| name[0] == b'a').unwrap().1.clone();
    ask(&mut one.client().await, single("other")).await;
    stored(&one, 2.0).await;
    let keys = redis.keys();
    let second = keys.iter().find(|key| **key != first).unwrap();
    let mut others: Hash = redis::cmd("HGETALL").arg(second).query(&mut redis.link()).unwrap();
    others.iter_mut().filter(|(name, _)| name[0] == b'a').for_each(|(_, theirs)| *theirs = record(&fields));
    redis::cmd("HSET").arg(second).arg(&others).exec(&mut redis.link()).unwrap();
    let mut client = other.client().await;
    assert_eq!(cache_status(&ask(&mut client, single("other")).await), CacheStatus::Miss);
    assert_eq!(cache_status(&ask(&mut client, single("one")).await), CacheStatus::Hit);
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn keys_of_another_type_are_misses_and_open_no_breaker() {
    for what in ["what is kept of the reader", "the lease"] {
        let redis = Redis::start();
        let one = started(sharing(patient(&redis.url())).gated()).await;
        let other = started(sharing(RedisSettings { failures_max: 1, ..patient(&redis.url()) })).await;
        let waiting = call(&one.client().await, single("reader"));
        one.until("newshound_running_rows", 1.0).await;
        let keys = redis.keys();
        let key = keys.iter().find(|key| key.contains(":lease:") == (what == "the lease")).unwrap();
        redis::cmd("DEL").arg(key).exec(&mut redis.link()).unwrap();
        redis::cmd("LPUSH").arg(key).arg("somebody's").exec(&mut redis.link()).unwrap();
        let answered = ask(&mut other.client().await, single("reader")).await;
        assert_eq!(cache_status(&answered), CacheStatus::Miss, "{what}");
        assert!(other.metric("newshound_shared_cache_errors_total{reason=\"value\"}").await >= Some(1.0));
        assert_eq!(other.metric("newshound_shared_cache_breaker_open").await, Some(0.0), "{what}");
        one.gate.open();
        within(waiting).await.unwrap();
        readers::forget(&other, "reader").await.unwrap();
        let left = redis.keys();
        assert!(left.iter().all(|key| key.contains(":lease:")), "{left:?}");
    }
}

/// A reader who does something new again and again does not fill Redis.
#[tokio::test]
#[ignore = "starts redis-server"]
async fn of_one_reader_a_number_of_answers_is_kept() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url()))).await;
    let mut client = one.client().await;
    for number in 0..20u8 {
        let mut request = single("reader");
        request.signals[0].text = format!("storm warning {number}");
        ask(&mut client, request).await;
        stored(&one, f64::from(number) + 1.0).await;
    }
    let (key, fields) = redis.only_reader();
    assert_eq!(fields.len(), 1 + 2 * 16, "the epoch, and two fields of each answer");
    let life_ms: i64 = redis::cmd("PTTL").arg(key).query(&mut redis.link()).unwrap();
    assert!((1..=300_000).contains(&life_ms), "{life_ms}");
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn an_answer_ends_in_redis_when_it_may_be_used_no_more() {
    let redis = Redis::start();
    let plan = sharing(patient(&redis.url())).with(|settings| {
        (settings.cache.ttl, settings.cache.stale) = (Duration::from_secs(700), Duration::from_secs(50));
    });
    let one = started(plan).await;
    ask(&mut one.client().await, single("reader")).await;
    stored(&one, 1.0).await;
    let (key, fields) = redis.only_reader();
    let (_, times) = fields.iter().find(|(name, _)| name[0] == b't').unwrap();
    let times = std::str::from_utf8(times).unwrap();
    let [made, ends] = [0, 1].map(|at| times.split(' ').nth(at).unwrap().parse::<u64>().unwrap());
    assert_eq!(ends - made, 750_000);
    let life_ms: u64 = redis::cmd("PTTL").arg(key).query(&mut redis.link()).unwrap();
    assert!((1..=750_000).contains(&life_ms), "{life_ms}");
}
