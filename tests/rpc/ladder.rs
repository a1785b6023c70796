//! Where there is no time or room for all that is asked, an answer falls short and says so; what cannot be is refused at the door.
mod classes;
mod log;
mod shortened;

use super::{
    experiments::file,
    script::{LIST, tokens},
    server::{Client, Plan, Server, ask, cache_status, options, refusal, request, within},
};
use newshound::serve::{
    rpc::proto::{
        CacheStatus, Degradation, DegradationReason, ExperimentContext, ForcedArm, GenerateQueriesRequest,
        GenerateQueriesResponse, Priority, Rung,
    },
    settings::ServeSettings,
};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

/// Lists by locale.
fn cohorts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/cohorts.toml")
}

const SHORTEST: Duration = Duration::from_nanos(1);

/// One request runs at a time, and whoever has to wait at all gets one list, or a stored one.
pub fn pressed_at_once(settings: &mut ServeSettings) {
    settings.engine.rows_max = 4;
    let waits = &mut settings.degradation.waits;
    (waits.fewer, waits.greedy, waits.stale) = (SHORTEST, SHORTEST, SHORTEST);
}

pub type Call = JoinHandle<Result<GenerateQueriesResponse, Status>>;

fn call(client: &Client, request: impl tonic::IntoRequest<GenerateQueriesRequest> + Send + 'static) -> Call {
    let mut client = client.clone();
    tokio::spawn(async move { client.generate_queries(request).await.map(tonic::Response::into_inner) })
}

pub async fn done(call: Call) -> GenerateQueriesResponse {
    within(call).await.unwrap().unwrap()
}

pub fn short(rung: Rung, reason: DegradationReason) -> Option<Degradation> {
    Some(Degradation { rung: rung.into(), reason: reason.into() })
}

fn n_candidates(response: &GenerateQueriesResponse) -> u32 {
    response.usage.as_ref().unwrap().candidates_started
}

/// Lets a queue be measured that nobody is allowed to notice, and fills the batch. Who comes next has to wait.
pub async fn press(server: &Server, client: &Client) -> Call {
    let prompts = server.metric("newshound_prompt_tokens_count").await.unwrap();
    server.gate.close();
    let mut calls = Vec::new();
    for (user, number) in [("first", 1.0), ("second", 2.0), ("third", 3.0)] {
        calls.push(call(client, whole(request(&format!("{user} after {prompts}")))));
        server.until("newshound_prompt_tokens_count", prompts + number).await;
    }
    server.gate.open();
    for call in calls {
        done(call).await;
    }
    server.until("newshound_running_rows", 0.0).await;
    server.gate.close();
    let running = call(client, whole(request(&format!("runs after {prompts}"))));
    server.until("newshound_running_rows", 4.0).await;
    running
}

/// A request that wants all or nothing.
fn whole(mut request: GenerateQueriesRequest) -> GenerateQueriesRequest {
    options(&mut request).lowest_rung = Rung::Full.into();
    request
}

#[tokio::test]
async fn who_would_wait_gets_one_list_and_all_of_them_once_there_is_room() {
    let one_arm = json!({"state": "ENABLED", "variants": {"a": {}}, "targeting": {"fractional": [["a", 1]]}});
    let (_dir, path) = file(&json!({"newshound.x": one_arm}));
    let plan = Plan::new().gated().with(pressed_at_once);
    let server = plan.with(|settings| settings.experiments.file = Some(path)).start().await;
    let client = server.client().await;
    let running = press(&server, &client).await;
    let prompts = server.metric("newshound_prompt_tokens_count").await.unwrap();
    let waiting = call(&client, request("reader"));
    server.until("newshound_prompt_tokens_count", prompts + 1.0).await;
    server.gate.open();
    assert_eq!(done(running).await.degradation, None);
    let less = done(waiting).await;
    assert_eq!(less.degradation, short(Rung::Greedy, DegradationReason::Pressure));
    assert_eq!((n_candidates(&less), cache_status(&less)), (1, CacheStatus::Miss));
    let answers = "newshound_answer_duration_seconds_count{class=\"default\",extent=";
    let n_whole = server.metric("newshound_outcomes_total{outcome=\"ok\"}").await.unwrap() - 1.0;
    for (series, expected) in [
        ("newshound_degraded_total{rung=\"greedy\",reason=\"pressure\"}", 1.0),
        ("newshound_arm_degraded_total{experiment=\"x\",arm=\"a\",rung=\"greedy\"}", 1.0),
        (&format!("{answers}\"less\"}}"), 1.0),
        (&format!("{answers}\"whole\"}}"), n_whole),
    ] {
        assert_eq!(server.metric(series).await, Some(expected), "{series}");
    }

    server.until("newshound_running_rows", 0.0).await;
    let mut client = client;
    let all = ask(&mut client, request("reader")).await;
    assert_eq!((all.degradation, n_candidates(&all), cache_status(&all)), (None, 4, CacheStatus::Miss));
    let again = ask(&mut client, request("reader")).await;
    assert_eq!((again.degradation, n_candidates(&again), cache_status(&again)), (None, 4, CacheStatus::Hit));
}

#[tokio::test]
async fn an_answer_that_fell_short_is_used_again_only_under_pressure() {
    let server = Plan::new().gated().with(pressed_at_once).start().await;
    let client = server.client().await;
    let running = press(&server, &client).await;
    let prefills = server.log.prefills();
    let leader = call(&client, request("reader"));
    server.until("newshound_prompt_tokens_count", 5.0).await;
    let follower = call(&client, request("reader"));
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    server.gate.open();
    done(running).await;
    let answers = [done(leader).await, done(follower).await];
    for answer in &answers {
        assert_eq!(answer.degradation, short(Rung::Greedy, DegradationReason::Pressure));
    }
    assert_eq!(server.log.prefills(), prefills + 1, "both share one generation");
    let running = press(&server, &client).await;
    let hit = done(call(&client, request("reader"))).await;
    assert_eq!(hit.degradation, short(Rung::Greedy, DegradationReason::Pressure));
    assert_eq!(cache_status(&hit), CacheStatus::Hit);
    server.gate.open();
    done(running).await;
}

#[tokio::test]
async fn a_stored_answer_that_is_too_old_is_used_before_anybody_waits_unless_it_is_forbidden() {
    let (_dir, path) = file(&json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"strict": {"lowest_rung": "full"}, "lax": {}},
        "metadata": {"allow_forced_arm": true},
    }}));
    let ttl = Duration::from_millis(1);
    let plan = Plan::new().gated().with(pressed_at_once).with(|settings| settings.cache.ttl = ttl);
    let server = plan.with(|settings| settings.experiments.file = Some(path)).start().await;
    let mut client = server.client().await;
    let under = |arm: &str| {
        let forced = ForcedArm { experiment_id: "x".to_owned(), arm_id: arm.to_owned() };
        let experiment = ExperimentContext { forced_arms: vec![forced], ..Default::default() };
        GenerateQueriesRequest { experiment: Some(experiment), ..request("reader") }
    };
    server.gate.open();
    let first = ask(&mut client, request("reader")).await;
    ask(&mut client, under("lax")).await;
    ask(&mut client, under("strict")).await;
    server.outlast(ttl).await;
    let running = press(&server, &client).await;
    for request in [request("reader"), under("lax")] {
        let stale = ask(&mut client, request).await;
        assert_eq!(stale.degradation, short(Rung::Stale, DegradationReason::Pressure));
        assert_eq!((cache_status(&stale), &stale.best), (CacheStatus::Stale, &first.best));
        assert!(stale.cache.unwrap().age.unwrap().nanos > 0);
    }
    let mut greedy = request("other");
    options(&mut greedy).lowest_rung = Rung::Greedy.into();
    let calls = [whole(request("reader")), under("strict"), greedy].map(|request| call(&client, request));
    server.until("newshound_prompt_tokens_count", 10.0).await;
    server.gate.open();
    done(running).await;
    let mut answers = Vec::new();
    for call in calls {
        let answer = done(call).await;
        assert_eq!(cache_status(&answer), CacheStatus::Miss);
        answers.push((n_candidates(&answer), answer.degradation));
    }
    let least = short(Rung::Greedy, DegradationReason::Pressure);
    assert_eq!(answers, [(4, None), (4, None), (1, least)]);
    let series = "newshound_degraded_total{rung=\"stale\",reason=\"pressure\"}";
    assert_eq!(server.metric(series).await, Some(2.0));
}

/// A list of some seventy tokens.
const LONG: &str = "solar storm tonight over the northern lakes again\ntrain strike talks in the capital end without result\n\
    city council vote on the harbour bridge is late\nfootball cup final tickets are sold out in minutes\n\
    winter marathon route announced by the mayor today";

/// A server that has written four lists, one of them long, and stood still for a while in the first step.
async fn slow(plan: Plan) -> (Server, Client) {
    let text = |row_idx: usize, _| if row_idx == 3 { LONG.to_owned() } else { LIST.to_owned() };
    let server = plan.gated().writing(text).start().await;
    let client = server.client().await;
    let first = call(&client, request("first"));
    server.until("newshound_running_rows", 4.0).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        server.get("/healthz").await;
    }
    server.gate.open();
    done(first).await;
    server.until("newshound_running_rows", 0.0).await;
    server.gate.close();
    (server, client)
}

const ESTIMATED: &str = "newshound_admission_estimated_seconds_sum";

fn within_time(request: GenerateQueriesRequest, time: Duration) -> Request<GenerateQueriesRequest> {
    let mut request = Request::new(request);
    request.set_timeout(time);
    request
}

#[tokio::test]
async fn a_deadline_that_is_too_near_for_all_lists_gets_one_and_for_none_is_refused_before_anything_is_computed()
 {
    let (server, client) = slow(Plan::new()).await;
    assert_eq!(server.metric(ESTIMATED).await, Some(0.0), "nothing was measured");
    let whole_one = call(&client, request("second"));
    server.until("newshound_running_rows", 4.0).await;
    let takes = Duration::from_secs_f64(server.metric(ESTIMATED).await.unwrap());
    let prompts = server.metric("newshound_prompt_tokens_count").await;

    let mut refused = client.clone();
    for (request, timeout) in [(request("third"), takes / 8), (whole(request("third")), takes * 3 / 4)] {
        let status = within(refused.generate_queries(within_time(request, timeout))).await.unwrap_err();
        let details = refusal(&status, Code::DeadlineExceeded, "DEADLINE_UNREACHABLE");
        assert!(details.retry_info().is_none(), "nobody goes before it, so later it would be too late again");
        let facts = &details.error_info().unwrap().metadata;
        let fact = |name: &str| facts[name].parse::<u64>().unwrap();
        assert!(fact("estimated_ms") > fact("remaining_ms"), "{facts:?}");
    }
    assert_eq!(server.metric("newshound_prompt_tokens_count").await, prompts);
    assert_eq!(server.metric("newshound_deadline_missed_total{phase=\"door\"}").await, Some(2.0));
    let series = "newshound_degraded_total{rung=\"refused\",reason=\"deadline\"}";
    assert_eq!(server.metric(series).await, Some(2.0));

    let hurried = call(&client, within_time(request("third"), takes * 3 / 4));
    server.until("newshound_prompt_tokens_count", prompts.unwrap() + 1.0).await;
    server.gate.open();
    assert_eq!(n_candidates(&done(whole_one).await), 4);
    let less = done(hurried).await;
    assert_eq!(less.degradation, short(Rung::Greedy, DegradationReason::Deadline));
    assert_eq!(n_candidates(&less), 1);
}

#[tokio::test]
async fn a_deadline_that_only_the_wait_makes_too_near_is_told_when_to_come_back() {
    let server = Plan::new().gated().with(|settings| settings.engine.rows_max = 4).start().await;
    let client = server.client().await;
    let mut calls = Vec::new();
    for (user, n_prompts) in [("first", 1.0), ("second", 2.0), ("third", 3.0)] {
        calls.push(call(&client, whole(request(user))));
        server.until("newshound_prompt_tokens_count", n_prompts).await;
    }
    // Just the first ends; the second leaves a good while after it, as far as anybody knows for want of speed.
    server.gate.allow(tokens().encode_text(LIST).len());
    within(calls.remove(0)).await.unwrap().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        server.get("/healthz").await;
    }
    server.gate.open();
    for call in calls {
        done(call).await;
    }
    server.until("newshound_running_rows", 0.0).await;
    server.gate.close();
    let before = server.metric(ESTIMATED).await.unwrap();
    let running = call(&client, whole(request("fourth")));
    server.until("newshound_running_rows", 4.0).await;
    let takes = Duration::from_secs_f64(server.metric(ESTIMATED).await.unwrap() - before);
    let late = within_time(whole(request("late")), takes * 3 / 2);
    let status = within(client.clone().generate_queries(late)).await.unwrap_err();
    let details = refusal(&status, Code::DeadlineExceeded, "DEADLINE_UNREACHABLE");
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    server.gate.open();
    done(running).await;
}

#[tokio::test]
async fn a_queue_with_room_for_the_tokens_of_one_list_gets_that_one() {
    // A prompt counts as long as it may be before any was measured.
    let settings = |settings: &mut ServeSettings| {
        let generation = settings.generation;
        settings.engine.queue_tokens_max = generation.prompt_tokens_max + generation.output_tokens_max;
    };
    let server = Plan::new().with(settings).start().await;
    let less = ask(&mut server.client().await, request("reader")).await;
    assert_eq!(less.degradation, short(Rung::Greedy, DegradationReason::Pressure));
    assert_eq!(n_candidates(&less), 1);
}

#[tokio::test]
async fn a_queue_without_room_for_the_tokens_of_a_request_refuses_it_before_they_are_made() {
    let settings = |settings: &mut ServeSettings| {
        settings.engine.queue_tokens_max = 100;
        settings.degradation.cohort_file = Some(cohorts());
    };
    let server = Plan::new().with(settings).start().await;
    let mut client = server.client().await;
    let status = within(client.generate_queries(request("reader"))).await.unwrap_err();
    let details = refusal(&status, Code::ResourceExhausted, "TOKEN_BACKLOG");
    assert!(details.retry_info().is_some() && status.metadata().contains_key("grpc-retry-pushback-ms"));
    let mut modest = request("reader");
    options(&mut modest).lowest_rung = Rung::Cohort.into();
    let answer = ask(&mut client, modest).await;
    assert_eq!(answer.degradation, short(Rung::Cohort, DegradationReason::Pressure));
    assert_eq!(server.metric("newshound_prompt_tokens_count").await, Some(0.0));
    assert_eq!(server.metric("newshound_queue_refused_total{reason=\"tokens\"}").await, Some(1.0));
}

/// A request that wants all of so many candidates.
fn of(priority: Priority, n_candidates: u32) -> GenerateQueriesRequest {
    let mut request = whole(request(&format!("reader of {n_candidates}")));
    options(&mut request).candidate_count = Some(n_candidates);
    GenerateQueriesRequest { priority: priority.into(), ..request }
}

#[tokio::test]
async fn who_would_be_refused_gets_the_list_of_her_locale_if_she_may_and_there_is_one() {
    let settings = |settings: &mut ServeSettings| {
        settings.engine.queue_requests_max = 1;
        settings.engine.rows_max = 32;
        settings.degradation.cohort_file = Some(cohorts());
        settings.degradation.lowest_rung = newshound::experiment::policy::Rung::Cohort;
    };
    let server = Plan::new().gated().with(settings).start().await;
    let client = server.client().await;
    let running = call(&client, of(Priority::Interactive, 32));
    server.until("newshound_running_rows", 32.0).await;
    let waiting = call(&client, of(Priority::Interactive, 31));
    server.until("newshound_prompt_tokens_count", 2.0).await;
    for (locale, first) in
        [("en-GB", "top stories this morning"), ("fr-FR", "world news today"), ("", "world news today")]
    {
        let locale = locale.to_owned();
        let experiment = Some(ExperimentContext { locale, ..Default::default() });
        let answer = done(call(&client, GenerateQueriesRequest { experiment, ..request("reader") })).await;
        assert_eq!(answer.degradation, short(Rung::Cohort, DegradationReason::Pressure));
        assert_eq!(answer.best.as_ref().unwrap().queries[0].text, first);
        assert_eq!((cache_status(&answer), answer.usage.unwrap().output_tokens), (CacheStatus::Miss, 0));
    }
    let status = within(client.clone().generate_queries(whole(request("reader")))).await.unwrap_err();
    refusal(&status, Code::ResourceExhausted, "QUEUE_FULL");
    let series = "newshound_degraded_total{rung=\"cohort\",reason=\"pressure\"}";
    assert_eq!(server.metric(series).await, Some(3.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"cached\"}").await, Some(3.0));
    server.gate.open();
    done(running).await;
    done(waiting).await;
    let own = done(call(&client, request("reader"))).await;
    assert_eq!(
        (own.degradation, cache_status(&own)),
        (None, CacheStatus::Miss),
        "no list of a cohort is stored"
    );
}
