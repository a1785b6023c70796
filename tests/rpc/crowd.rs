//! Many at once: clients that vanish, and whether everybody was counted.
use super::server::{Client, Plan, Server, ask, few_or, options, request, with_mode, within};
use newshound::serve::rpc::proto::{CacheMode, GenerateQueriesRequest};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tonic::Code;

/// Clients that come and go together.
const ROUND: usize = 20;

const METHODS: [&str; 2] = ["GenerateQueries", "StreamGenerateQueries"];

/// A call that reads its answer to the end, if it comes to that.
fn call(mut client: Client, request: GenerateQueriesRequest, streams: bool) -> JoinHandle<Code> {
    tokio::spawn(async move {
        if !streams {
            return client.generate_queries(request).await.err().map_or(Code::Ok, |status| status.code());
        }
        match client.stream_generate_queries(request).await {
            Err(status) => status.code(),
            Ok(stream) => {
                let mut events = stream.into_inner();
                loop {
                    match events.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break Code::Ok,
                        Err(status) => break status.code(),
                    }
                }
            }
        }
    })
}

/// Waits until no call is under way.
pub async fn nobody_is_in(server: &Server) {
    for method in METHODS {
        // A method that nobody has called yet has no series.
        let series = format!("newshound_rpc_in_flight{{method=\"{method}\"}}");
        if server.metric(&series).await.is_some() {
            server.until(&series, 0.0).await;
        }
    }
}

#[tokio::test]
async fn clients_that_vanish_at_any_moment_cost_a_step_and_leave_nothing_behind() {
    let server = Plan::new().gated().with(|settings| settings.engine.rows_max = 32).start().await;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let n_clients = few_or(100, 1000);
    let mut n_reached = 0.0;
    for round in 0..n_clients / ROUND {
        let mut calls = Vec::new();
        for number in 0..ROUND {
            let mut asked = request(&format!("reader{round}-{number}"));
            options(&mut asked).candidate_count = Some(random.random_range(1..=8));
            calls.push(call(server.client().await, asked, random.random()));
        }
        // Some vanish before their prompts are made, some in the queue, some while rows are written, and some when they are.
        let n_waited = f64::from(u32::try_from(random.random_range(0..=ROUND)).unwrap());
        within(async {
            while server.metric("newshound_prompt_tokens_count").await < Some(n_reached + n_waited) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.gate.allow(random.random_range(0..40));
        calls.shuffle(&mut random);
        for call in &calls {
            call.abort();
            tokio::task::yield_now().await;
        }
        nobody_is_in(&server).await;
        server.gate.close();
        let (n_steps, left) = (server.log.steps(), Instant::now());
        server.gate.allow(1);
        server.until("newshound_running_rows", 0.0).await;
        // Not on every day's machine, which may be busy.
        let within_s = u64::try_from(few_or(60, 1)).unwrap();
        assert!(left.elapsed() < Duration::from_secs(within_s), "rows are in use for {:?}", left.elapsed());
        server.until("newshound_queue_depth", 0.0).await;
        assert!(server.log.steps() <= n_steps + 1, "{} steps for nobody", server.log.steps() - n_steps);
        server.gate.close();
        n_reached = server.metric("newshound_prompt_tokens_count").await.unwrap();
    }
    server.gate.open();
    ask(&mut server.client().await, request("stays")).await;
    assert_eq!(server.metric("newshound_kv_bytes").await, Some(0.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"failed\"}").await, Some(0.0));
}

/// Two experiments of four arms.
fn flags() -> serde_json::Value {
    let flag = |last: serde_json::Value| {
        json!({
            "state": "ENABLED",
            "variants": {"a": {}, "b": {}, "c": {}, "d": last},
            "targeting": {"fractional": [["a", 1], ["b", 1], ["c", 1], ["d", 1]]},
            "metadata": {"hash_version": 2},
        })
    };
    json!({"newshound.x": flag(json!({"candidate_count": 2})), "newshound.y": flag(json!({"temperature": 0.5}))})
}

fn n_series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count()
}

/// Asks in one of many ways, of a reader of its own or of one who asked before.
fn some(number: usize, random: &mut ChaCha8Rng) -> (GenerateQueriesRequest, bool) {
    let reader = if random.random_bool(0.3) { random.random_range(0..number.max(1)) } else { number };
    let mut asked = request(&format!("reader{reader}"));
    match random.random_range(0..8) {
        0 => asked.signals[0].stream = 0,
        // The only row is the one that is no list.
        1 => options(&mut asked).candidate_count = Some(1),
        2 => asked = with_mode(CacheMode::Bypass, asked),
        3 => options(&mut asked).candidate_count = Some(0),
        _ => {}
    }
    (asked, random.random_bool(0.3))
}

#[tokio::test]
async fn everybody_is_counted_once_and_series_do_not_grow_with_readers() {
    let (_dir, path) = super::experiments::file(&flags());
    let text = |row_idx: usize, _| if row_idx == 0 { "no list" } else { super::script::LIST }.to_owned();
    let plan = Plan::new().writing(text).with(|settings| settings.experiments.file = Some(path));
    let server = plan.start().await;
    let client = server.client().await;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let n_requests = few_or(400, 100_000);
    let mut seen = BTreeMap::<(&str, String), f64>::new();
    let mut n_half = 0;
    for first in (0..n_requests).step_by(ROUND) {
        let calls: Vec<_> = (first..first + ROUND)
            .map(|number| {
                let (asked, streams) = some(number, &mut random);
                (METHODS[usize::from(streams)], call(client.clone(), asked, streams))
            })
            .collect();
        for (method, call) in calls {
            let code = within(call).await.unwrap();
            *seen.entry((method, format!("{code:?}"))).or_default() += 1.0;
        }
        if first == n_requests / 2 {
            n_half = n_series(&server.get("/metrics").await.1);
        }
    }
    nobody_is_in(&server).await;
    let (_, text) = server.get("/metrics").await;
    let words = [("Ok", "OK"), ("InvalidArgument", "INVALID_ARGUMENT"), ("NotFound", "NOT_FOUND")];
    let mut n_seen = 0.0;
    for ((method, code), expected) in &seen {
        let word = words.iter().find(|(code_here, _)| code_here == code).expect("no other code").1;
        let series =
            format!("newshound_rpc_requests_total{{method=\"{method}\",code=\"{word}\"}} {expected}");
        assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
        n_seen += expected;
    }
    let sum = |start: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!((n_seen, sum("newshound_rpc_requests_total{")), (n_requests as f64, n_requests as f64));
    assert_eq!(sum("newshound_outcomes_total{"), n_requests as f64, "each ended in one way");
    let n_broken = sum("newshound_outcomes_total{outcome=\"rejected\"}");
    assert_eq!(sum("newshound_cache_requests_total{"), n_requests as f64 - n_broken, "each looked once");
    let n_assigned = sum("newshound_arm_assignments_total{experiment=\"x\"");
    assert_eq!(n_assigned, n_requests as f64 - n_broken, "each had one arm of each experiment");
    let n_expected = sum("newshound_arm_expected_micros_total{experiment=\"x\"") / 1e6;
    assert!((n_assigned - n_expected).abs() < 0.01, "{n_expected} are expected, {n_assigned} came");
    let n_answered: f64 = ["ok", "cached", "coalesced"]
        .map(|outcome| sum(&format!("newshound_outcomes_total{{outcome=\"{outcome}\"")))
        .iter()
        .sum();
    assert_eq!(sum("newshound_answer_duration_seconds_count{"), n_answered, "each took its time once");
    assert!(n_series(&text) < 5000, "{}", n_series(&text));
    // An arm or a code that came for the first time in the second half is no growth with readers.
    assert!(n_series(&text) < n_half + 200, "{n_half}, then {}", n_series(&text));
}
