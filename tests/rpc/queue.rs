//! The queue is bounded in length and age, and says when to come back.
use super::{
    script::{LIST, tokens},
    server::{Plan, Server, ask, options, refusal, request, within},
};
use newshound::{
    decode::batch::{TOGETHER_MIN, prefill_budget},
    serve::{rpc::proto, settings::ServeSettings},
};
use std::time::{Duration, Instant};
use tonic::Code;

pub fn one_at_a_time(settings: &mut ServeSettings) {
    settings.engine.rows_max = 4;
    settings.engine.queue_requests_max = 1;
}

/// One request runs, and one waits.
pub async fn filled(server: &Server) -> Vec<tokio::task::JoinHandle<Result<(), tonic::Status>>> {
    let mut calls = Vec::new();
    for (user, in_flight) in [("runs", 1.0), ("waits", 2.0)] {
        let mut client = server.client().await;
        calls.push(tokio::spawn(async move { client.generate_queries(request(user)).await.map(|_| ()) }));
        server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", in_flight).await;
        if user == "runs" {
            server.until("newshound_running_rows", 4.0).await;
        }
    }
    calls
}

#[tokio::test]
async fn full_queue_refuses_with_resource_exhausted_and_accepts_again_later() {
    let server = Plan::new().gated().with(one_at_a_time).start().await;
    let calls = filled(&server).await;
    let mut client = server.client().await;
    let mut refused = None;
    // The waiting request may not have taken its place yet, and then this one does; the next is refused.
    for user in ["third", "fourth"] {
        let mut call = tonic::Request::new(request(user));
        call.set_timeout(Duration::from_millis(300));
        let status = within(client.generate_queries(call)).await.unwrap_err();
        if status.code() == Code::ResourceExhausted {
            refused = Some(status);
        }
    }
    let status = refused.expect("one of them is refused");
    let details = refusal(&status, Code::ResourceExhausted, "QUEUE_FULL");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_secs(15), "{delay:?}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));

    server.gate.open();
    for call in calls {
        // The one that should wait may have come after the third took its place: then it is the one refused.
        if let Err(status) = within(call).await.unwrap() {
            assert_eq!(status.code(), Code::ResourceExhausted);
        }
    }
    ask(&mut client, request("later")).await;
}

#[tokio::test]
async fn pressure_is_what_the_batch_has_and_nothing_once_all_are_answered() {
    let server = Plan::new().gated().with(|settings| settings.engine.rows_max = 8).start().await;
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.generate_queries(request("runs")).await });
    server.until("newshound_pressure", 0.5).await;
    server.gate.open();
    within(call).await.unwrap().unwrap();
    server.until("newshound_pressure", 0.0).await;
}

#[tokio::test]
async fn while_enough_rows_run_others_wait_though_they_would_fit() {
    let enough =
        |settings: &mut ServeSettings| (settings.engine.rows_max, settings.engine.rows_enough) = (32, 8);
    let server = Plan::new().gated().with(enough).start().await;
    let mut calls = Vec::new();
    for number in 0..4 {
        let mut client = server.client().await;
        calls.push(tokio::spawn(async move { client.generate_queries(request(&number.to_string())).await }));
        server.until("newshound_prompt_tokens_count", f64::from(number) + 1.0).await;
    }
    // Those who came during a step are seen after it.
    within(async {
        while server.metric("newshound_queue_depth").await != Some(2.0) {
            server.gate.allow(1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(server.metric("newshound_running_rows").await, Some(8.0));
    // A quarter of the batch runs, and as much waits.
    server.until("newshound_pressure", 0.5).await;
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn queue_with_one_place_accepts() {
    let server = Plan::new().gated().with(one_at_a_time).start().await;
    let calls = filled(&server).await;
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    assert_eq!(server.log.prefills(), 2);
}

#[tokio::test]
async fn a_burst_does_not_hold_up_rows_that_run_and_is_served_all_the_same() {
    const BURST: usize = 24;
    const ROWS: usize = 128;
    let server = Plan::new().gated().with(|settings| settings.engine.rows_max = ROWS).start().await;
    let mut calls = Vec::new();
    for number in 0..=BURST {
        let mut client = server.client().await;
        let mut long = request(&number.to_string());
        long.signals.iter_mut().for_each(|signal| signal.text = "storm ".repeat(40));
        calls.push(tokio::spawn(async move { client.generate_queries(long).await }));
        server.until("newshound_prompt_tokens_count", number as f64 + 1.0).await;
        if number == 0 {
            server.until("newshound_running_rows", 4.0).await;
        }
    }
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    let prefill_tokens = server.metric("newshound_prefill_tokens_total").await.unwrap();
    let prompt_tokens = prefill_tokens / (BURST + 1) as f64;
    let budget = prefill_budget(ROWS, TOGETHER_MIN) as f64;
    let steps_before = server.log.steps_before.lock().unwrap().clone();
    let most = steps_before.chunk_by(|one, next| one == next).map(<[usize]>::len).max().unwrap();
    // The last prompt may go beyond the budget, but is begun within it.
    assert!((most - 1) as f64 * prompt_tokens < budget, "{steps_before:?} of {prompt_tokens}");
    assert!(BURST as f64 * prompt_tokens > 2.0 * budget, "no burst: {prompt_tokens}");
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_told_to_come_back() {
    let settings = |settings: &mut ServeSettings| {
        settings.engine.rows_max = 4;
        settings.engine.queue_wait_max = Duration::from_millis(300);
    };
    let server = Plan::new().gated().with(settings).start().await;
    let (mut running, mut waiting) = (server.client().await, server.client().await);
    let first = tokio::spawn(async move { running.generate_queries(request("runs")).await });
    server.until("newshound_running_rows", 4.0).await;
    let second = tokio::spawn(async move { waiting.generate_queries(request("waits")).await });
    // From here on it is about to be submitted; tokenising may take long on a busy machine.
    server.until("newshound_prompt_tokens_count", 2.0).await;
    // The age is looked at between steps; the first request has more of them to make than pass here.
    let status = within(async {
        while !second.is_finished() {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {
                server.get("/healthz").await;
            }
            server.gate.allow(1);
        }
        second.await.unwrap().unwrap_err()
    })
    .await;
    let details = refusal(&status, Code::ResourceExhausted, "QUEUE_AGE");
    assert!(details.retry_info().is_some());
    server.gate.open();
    within(first).await.unwrap().unwrap();
}

/// Two readers one after the other; the second waits in the queue while the first one's rows run. Returns the steps that were made
/// before each prompt.
async fn one_behind_another(
    server: &Server,
    requests: [proto::GenerateQueriesRequest; 2],
    n_rows: f64,
) -> Vec<usize> {
    let mut calls = Vec::new();
    for (request, n_prompts) in requests.into_iter().zip([1.0, 2.0]) {
        let mut client = server.client().await;
        calls.push(tokio::spawn(async move { client.generate_queries(request).await }));
        server.until("newshound_prompt_tokens_count", n_prompts).await;
        server.until("newshound_running_rows", n_rows).await;
    }
    // The thread of the model tells of its queue between steps.
    while server.metric("newshound_queue_depth").await != Some(1.0) {
        let before = server.log.steps();
        server.gate.allow(1);
        within(async {
            while server.log.steps() == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    server.log.steps_before.lock().unwrap().clone()
}

/// Lists of which the first of each group is the shortest; and their steps: the end is a token more, but the first takes none.
fn first_is_shortest() -> (impl Fn(usize, u64) -> String, [usize; 2]) {
    let texts = [LIST.to_owned(), format!("{LIST}\nstorm warning coast\nrail union vote\nmayor budget plan")];
    let n_steps = texts.each_ref().map(|text| tokens().encode_text(text).len());
    (move |row_idx: usize, _| texts[row_idx.min(1)].clone(), n_steps)
}

fn drawing(user: &str, n: u32, draw: proto::Draw) -> proto::GenerateQueriesRequest {
    let mut request = request(user);
    options(&mut request).candidate_count = Some(n);
    options(&mut request).set_draw(draw);
    request
}

#[tokio::test]
async fn a_row_that_ends_gives_its_room_to_who_waits() {
    let (text, [first, _]) = first_is_shortest();
    let plan = Plan::new().gated().writing(text).with(|settings| settings.engine.rows_max = 3);
    let requests = ["one", "two"].map(|user| drawing(user, 2, proto::Draw::All));
    assert_eq!(one_behind_another(&plan.start().await, requests, 2.0).await, [0, first]);
}

/// Whether the held rows are drawn is not known before both of the first have ended.
#[tokio::test]
async fn room_that_held_rows_would_need_is_kept_for_them() {
    let (text, [_, last]) = first_is_shortest();
    let plan = Plan::new().gated().writing(text).with(|settings| settings.engine.rows_max = 3);
    let requests = [drawing("one", 4, proto::Draw::AsNeeded), drawing("two", 2, proto::Draw::All)];
    assert_eq!(one_behind_another(&plan.start().await, requests, 2.0).await, [0, last]);
}
