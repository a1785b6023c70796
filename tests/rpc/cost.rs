//! Every moment of the device is paid for once, by whoever it was spent on.
use super::{
    feedback,
    script::{Gate, LIST, Log, Mishap, Script},
    server::{Client, Plan, Server, ask, options, parts, request, with_mode, within},
};
use newshound::{
    decode::batch::{Admitted, DecodeError, Finish, FinishedRow, GroupId, GroupRequest},
    serve::{
        engine::Generator,
        rpc::proto::{self, CacheMode, CostBasis},
        settings::ServeSettings,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// At this price a nanosecond costs a billionth, so that times and costs can be compared to the last digit.
const PRICE: u64 = 3_600 * 1_000_000_000;

fn priced(settings: &mut ServeSettings) {
    settings.cost.price.nanos_per_hour = PRICE;
    settings.cost.price.currency = "EUR".to_owned();
    settings.cost.price.version = "2026-11".to_owned();
}

async fn spent(server: &Server, kind: &str) -> f64 {
    server.metric(&format!("newshound_cost_nanos_total{{kind=\"{kind}\"}}")).await.unwrap()
}

async fn saved(server: &Server, by: &str) -> f64 {
    server.metric(&format!("newshound_cost_saved_nanos_total{{by=\"{by}\"}}")).await.unwrap()
}

fn cost(response: &proto::GenerateQueriesResponse) -> &proto::Cost {
    response.cost.as_ref().unwrap()
}

fn device_time(response: &proto::GenerateQueriesResponse) -> Duration {
    response.usage.as_ref().unwrap().device_time.unwrap().try_into().unwrap()
}

async fn bypassing(client: &mut Client, user: &str) -> proto::GenerateQueriesResponse {
    ask(client, with_mode(CacheMode::Bypass, request(user))).await
}

/// A request that lasts until the gate lets a step through, and is late by then.
async fn late(server: &Server, client: &Client) {
    let mut client = client.clone();
    let mut hurried = tonic::Request::new(request("late"));
    hurried.set_timeout(Duration::from_secs(1));
    let call = tokio::spawn(async move { client.generate_queries(hurried).await });
    server.until("newshound_running_rows", 4.0).await;
    within(call).await.unwrap().unwrap_err();
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
}

/// A request whose client leaves while the model writes.
async fn left(server: &Server, client: &Client) {
    let mut client = client.clone();
    let call = tokio::spawn(async move { client.generate_queries(request("gone")).await });
    server.until("newshound_running_rows", 4.0).await;
    call.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    server.gate.allow(1);
    server.until("newshound_running_rows", 0.0).await;
}

#[tokio::test]
async fn whatever_becomes_of_requests_all_costs_are_the_uptime_at_its_price() {
    let begun = Instant::now();
    let server = Plan::new().gated().with(priced).start().await;
    let started = Instant::now();
    let mut client = server.client().await;
    late(&server, &client).await;
    left(&server, &client).await;
    server.gate.open();
    let kinds = ["useful", "pruned", "cancelled", "deadline", "failed", "idle"];
    let mut paid = 0;
    within(async {
        loop {
            paid += cost(&bypassing(&mut client, "reader").await).amount_nanos;
            let mut all = 0.0;
            for kind in kinds {
                all += spent(&server, kind).await;
            }
            let nanoseconds = |since: Instant| since.elapsed().as_nanos() as f64;
            let (at_most, at_least) = (nanoseconds(begun), nanoseconds(started));
            assert!(all <= at_most, "{all} of {at_most}: something was counted twice");
            // What is not yet counted of the moment is less with every request; what is never counted stays the same part.
            if all >= 0.99 * at_least {
                return;
            }
        }
    })
    .await;
    assert_eq!(spent(&server, "useful").await, paid as f64, "responses and counters say the same");
    for kind in ["cancelled", "deadline", "idle"] {
        assert!(spent(&server, kind).await > 0.0, "{kind}");
    }
    assert_eq!((spent(&server, "failed").await, spent(&server, "pruned").await), (0.0, 0.0));
}

#[tokio::test]
async fn what_gave_no_answer_has_failed() {
    let server = Plan::new().writing(|_, _| "nothing".to_owned()).with(priced).start().await;
    server.client().await.generate_queries(request("reader")).await.unwrap_err();
    assert!(spent(&server, "failed").await > 0.0);
    assert_eq!(spent(&server, "useful").await, 0.0);
    let plan = Plan { mishap: Mishap::Step, ..Plan::new().with(priced) };
    let broken = plan.start().await;
    broken.client().await.generate_queries(request("reader")).await.unwrap_err();
    assert!(spent(&broken, "failed").await > 0.0);
}

#[tokio::test]
async fn a_request_pays_its_share_of_the_steps_and_says_how_much_that_was() {
    let server = Plan::new().gated().with(priced).start().await;
    let call = |n_candidates: u32, mut client: Client| {
        let mut request = request(&format!("reader-{n_candidates}"));
        options(&mut request).candidate_count = Some(n_candidates);
        tokio::spawn(async move { client.generate_queries(request).await.unwrap().into_inner() })
    };
    let three = call(3, server.client().await);
    server.until("newshound_running_rows", 3.0).await;
    let one = call(1, server.client().await);
    server.until("newshound_prompt_tokens_count", 2.0).await;
    // A prompt enters between steps. It may not have reached the queue yet, so more than one may be needed.
    while server.metric("newshound_running_rows").await != Some(4.0) {
        server.gate.allow(1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Long enough for prefills and the time between steps to be nothing beside it.
    let held = Instant::now();
    while held.elapsed() < Duration::from_millis(300) {
        server.get("/healthz").await;
    }
    server.gate.open();
    let (one, three) = (within(one).await.unwrap(), within(three).await.unwrap());
    for response in [&one, &three] {
        let cost = cost(response);
        assert_eq!((cost.currency_code.as_str(), cost.price_version.as_str()), ("EUR", "2026-11"));
        assert_eq!(cost.basis(), CostBasis::DeviceTime);
        assert_eq!(u128::from(cost.amount_nanos), device_time(response).as_nanos());
    }
    assert!(device_time(&three) > device_time(&one), "three rows take more of a step than one");
    let both = cost(&one).amount_nanos + cost(&three).amount_nanos;
    assert_eq!(spent(&server, "useful").await, both as f64);
    let steps = server.metric("newshound_step_duration_seconds_sum{phase=\"decode\"}").await.unwrap();
    let prefills = server.metric("newshound_step_duration_seconds_sum{phase=\"prefill\"}").await.unwrap();
    assert!((both as f64 / 1e9 - steps - prefills).abs() < 1e-6, "{both} of {steps} s and {prefills} s");
}

#[tokio::test]
async fn stored_and_shared_answers_cost_nothing_and_save_what_the_first_one_cost() {
    let server = Plan::new().gated().with(priced).start().await;
    let call = |mut client: Client| {
        tokio::spawn(async move { client.generate_queries(request("reader")).await.unwrap().into_inner() })
    };
    let leader = call(server.client().await);
    server.until("newshound_running_rows", 4.0).await;
    let follower = call(server.client().await);
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    server.gate.open();
    let (leader, follower) = (within(leader).await.unwrap(), within(follower).await.unwrap());
    let hit = ask(&mut server.client().await, request("reader")).await;
    // Of the two who waited, whoever is answered first pays.
    let (pays, shares) =
        if cost(&leader).amount_nanos > 0 { (&leader, &follower) } else { (&follower, &leader) };
    assert_eq!(cost(pays).basis(), CostBasis::DeviceTime);
    for (response, basis) in [(shares, CostBasis::Coalesced), (&hit, CostBasis::Cached)] {
        assert_eq!((cost(response).basis(), cost(response).amount_nanos), (basis, 0));
        assert_eq!(device_time(response), device_time(pays), "what was consumed when it was made");
    }
    let paid = cost(pays).amount_nanos as f64;
    assert!(paid > 0.0);
    assert_eq!((saved(&server, "coalesce").await, saved(&server, "cache").await), (paid, paid));
    assert_eq!(spent(&server, "useful").await, paid);
}

#[tokio::test]
async fn whoever_first_uses_an_answer_that_was_renewed_ahead_pays_for_it() {
    let settings = |settings: &mut ServeSettings| {
        priced(settings);
        settings.cache.ttl = Duration::from_millis(1);
        settings.cache.stale = Duration::from_secs(60);
    };
    let server = Plan::new().with(settings).start().await;
    let mut client = server.client().await;
    let mut paid = Vec::new();
    within(async {
        while paid.len() < 3 {
            let nanos = cost(&ask(&mut client, request("reader")).await).amount_nanos;
            paid.extend((nanos > 0).then_some(nanos));
        }
    })
    .await;
    assert!(saved(&server, "cache").await > 0.0, "while it is renewed the old one is used for nothing");
    let of_status = async |status| {
        server.metric(&format!("newshound_cache_requests_total{{status=\"{status}\"}}")).await.unwrap()
    };
    assert_eq!(of_status("miss").await, 1.0);
    // Whoever comes within the millisecond in which a renewed answer is new finds it as if it were her own.
    assert!(of_status("stale").await + of_status("hit").await >= 2.0);
    assert!(spent(&server, "useful").await >= paid.iter().sum::<u64>() as f64);
}

#[tokio::test]
async fn an_arm_pays_for_its_generations_and_its_exposures_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = feedback::plan(&dir).with(priced).start().await;
    let mut client = server.client().await;
    let mut paid = std::collections::BTreeMap::<String, u64>::new();
    for number in 0..16 {
        let response = ask(&mut client, request(&format!("u{}", number % 12))).await;
        *paid.entry(response.arms[0].arm_id().to_owned()).or_default() += cost(&response).amount_nanos;
    }
    assert_eq!(paid.len(), 2);
    for (arm, &nanos) in &paid {
        let series = format!("newshound_arm_cost_nanos_total{{experiment=\"x\",arm=\"{arm}\"}}");
        assert_eq!(server.metric(&series).await, Some(nanos as f64));
    }
    drop(client);
    let records = feedback::records(&mut server, dir.path()).await;
    let exposures = feedback::exposures(&records);
    let costs: Vec<_> = exposures.iter().map(|exposure| exposure.cost.as_ref().unwrap()).collect();
    assert_eq!(costs.iter().map(|cost| cost.nanos).sum::<u64>(), paid.values().sum::<u64>());
    assert!(costs.iter().all(|cost| cost.currency == "EUR" && cost.price_version == "2026-11"));
    assert_eq!(costs.iter().filter(|cost| cost.nanos == 0).count(), 4, "stored answers");
}

#[tokio::test]
async fn without_a_price_no_cost_is_told_and_none_is_counted() {
    let server = Plan::new().with(|settings| settings.cost.price.nanos_per_hour = 0).start().await;
    let response = bypassing(&mut server.client().await, "reader").await;
    assert!(response.cost.is_none());
    assert!(device_time(&response) > Duration::ZERO);
    assert_eq!(spent(&server, "useful").await, 0.0);
}

/// A script whose first row of every group is stopped early, at its second token.
struct Stopping(Script);

impl Generator for Stopping {
    fn splits_prompts(&self) -> bool {
        false
    }

    fn step_beside(&mut self, _: &mut GroupRequest, _: usize) -> Result<Vec<FinishedRow>, DecodeError> {
        self.step()
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        self.0.admit(request)
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        let stopped = |row: FinishedRow| match row.row_idx {
            0 => FinishedRow { finish: Finish::Pruned, ..row },
            _ => row,
        };
        Ok(self.0.step()?.into_iter().map(stopped).collect())
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        self.0.cancel(group)
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        self.0.n_rows_of(group)
    }

    fn n_rows(&self) -> usize {
        self.0.n_rows()
    }

    fn kv_bytes(&self) -> usize {
        self.0.kv_bytes()
    }
}

#[tokio::test]
async fn rows_that_are_stopped_early_are_counted_apart_with_what_they_spared() {
    let (gate, log) = (Arc::new(Gate::default()), Arc::new(Log::default()));
    gate.open();
    let mut settings = ServeSettings::demo();
    priced(&mut settings);
    let text = |row_idx: usize, _| if row_idx == 0 { "solar".to_owned() } else { LIST.to_owned() };
    let script = (Arc::clone(&gate), Arc::clone(&log));
    let make = move || Stopping(Script::new(Arc::new(text), script.0, script.1, Mishap::None));
    let server = Server::start(settings, parts(false), make, gate, log).await;
    let response = bypassing(&mut server.client().await, "reader").await;
    let (useful, pruned) = (spent(&server, "useful").await, spent(&server, "pruned").await);
    assert!(useful > 0.0 && pruned > 0.0, "{useful} {pruned}");
    assert_eq!(useful + pruned, cost(&response).amount_nanos as f64, "the request pays for both");
    assert!(saved(&server, "pruning").await > 0.0);
}
