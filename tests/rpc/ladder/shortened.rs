//! A queue that was full is made short: whoever is too far behind in it gets what they get who come then.
use super::*;

/// Places of the queue.
const PLACES: usize = 6;
/// Longer than anybody here waits.
const LONG: Duration = Duration::from_secs(120);
/// Between two jobs that leave: much longer than a prompt takes to be made ready.
const LEAVES_EVERY: Duration = Duration::from_millis(200);

/// Lets a server see that its jobs leave one by one, seldom.
async fn slow(server: &Server, client: &Client) {
    let mut calls = Vec::new();
    for (user, n_prompts) in [("first", 1.0), ("second", 2.0), ("third", 3.0)] {
        calls.push(call(client, whole(request(user))));
        server.until("newshound_prompt_tokens_count", n_prompts).await;
    }
    for call in calls {
        server.gate.allow(tokens().encode_text(LIST).len());
        done(call).await;
        let begun = Instant::now();
        while begun.elapsed() < LEAVES_EVERY {
            server.get("/healthz").await;
        }
    }
    server.until("newshound_running_rows", 0.0).await;
}

#[tokio::test]
async fn who_is_too_far_behind_in_a_queue_that_was_full_gets_what_they_get_who_come_then() {
    let settings = |settings: &mut ServeSettings| {
        settings.engine.rows_max = 4;
        settings.engine.queue_requests_max = PLACES;
        // However slow the machine, all who come before it is full are let in, and get all.
        settings.engine.queue_wait_max = Duration::from_secs(240);
        let waits = &mut settings.degradation.waits;
        (waits.fewer, waits.greedy, waits.stale) = (LONG, LONG, LONG);
        settings.degradation.cohort_file = Some(cohorts());
        settings.degradation.lowest_rung = newshound::experiment::policy::Rung::Cohort;
    };
    let server = Plan::new().gated().with(settings).start().await;
    let client = server.client().await;
    slow(&server, &client).await;
    let mut calls = vec![call(&client, whole(request("runs")))];
    server.until("newshound_running_rows", 4.0).await;
    for place in 1..=PLACES {
        let request = request(&format!("waits {place}"));
        // The last takes less if that is all there is.
        calls.push(call(&client, if place < PLACES { whole(request) } else { request }));
        server.until("newshound_prompt_tokens_count", 4.0 + place as f64).await;
    }
    let status = within(client.clone().generate_queries(whole(request("one more")))).await.unwrap_err();
    refusal(&status, Code::ResourceExhausted, "QUEUE_FULL");
    // Those who wait are looked at between steps.
    server.gate.allow(1);
    let last = done(calls.pop().unwrap()).await;
    assert_eq!(last.degradation, short(Rung::Cohort, DegradationReason::Pressure));
    let last_but_one = within(calls.pop().unwrap()).await.unwrap().unwrap_err();
    let details = refusal(&last_but_one, Code::ResourceExhausted, "QUEUE_SLOW");
    assert!(details.retry_info().is_some() && last_but_one.metadata().contains_key("grpc-retry-pushback-ms"));
    // Who gets a list of a cohort is not refused; the other one was, at the door.
    let left = server.metric("newshound_queue_shortened_total{class=\"default\"}").await.unwrap();
    assert!(left >= 2.0, "{left}");
    server.until("newshound_queue_refused_total{reason=\"wait\"}", left - 1.0).await;
    server.gate.open();
    let mut answered = Vec::new();
    for call in calls {
        answered.push(within(call).await.unwrap().is_ok());
    }
    // Who runs and who is next are not touched; how many more may stay depends on how long a prompt takes.
    assert!(answered[..2] == [true, true] && answered.is_sorted_by(|one, next| one >= next), "{answered:?}");
}
