//! A server that is pressed takes what others have made, and what falls short stays its own.
use super::{
    super::{
        ladder::{done, press, pressed_at_once},
        server::texts,
    },
    store::Redis,
    *,
};

#[tokio::test]
#[ignore = "starts redis-server"]
async fn a_pressed_server_gives_the_whole_answer_that_another_has_made() {
    let redis = Redis::start();
    let one = started(sharing(patient(&redis.url()))).await;
    let made = ask(&mut one.client().await, request("reader")).await;
    stored(&one, 1.0).await;
    let pressed = started(sharing(patient(&redis.url())).gated().with(pressed_at_once)).await;
    let mut client = pressed.client().await;
    let running = press(&pressed, &client).await;
    let found = ask(&mut client, request("reader")).await;
    assert_eq!((cache_status(&found), found.degradation), (CacheStatus::Hit, None));
    assert_eq!(texts(&found.best.unwrap()), texts(&made.best.unwrap()));
    pressed.gate.open();
    done(running).await;
}

#[tokio::test]
#[ignore = "starts redis-server"]
async fn an_answer_that_fell_short_is_for_nobody_else() {
    let redis = Redis::start();
    let pressed = started(sharing(patient(&redis.url())).gated().with(pressed_at_once)).await;
    let client = pressed.client().await;
    let running = press(&pressed, &client).await;
    stored(&pressed, 3.0).await;
    let keys = redis.keys().len();
    let prompts = pressed.metric("newshound_prompt_tokens_count").await.unwrap();
    let waiting = call(&client, request("reader"));
    pressed.until("newshound_prompt_tokens_count", prompts + 1.0).await;
    pressed.gate.open();
    done(running).await;
    assert!(within(waiting).await.unwrap().degradation.is_some());
    stored(&pressed, 4.0).await;
    let leases = redis.keys().iter().filter(|key| key.contains(":lease:")).count();
    assert_eq!(
        (redis.keys().len(), leases),
        (keys - 1, 0),
        "that of the one that ran was a reader's key and a lease"
    );
}
