//! What one tenant takes of the model is its own: others are served as ever.
use super::server::{Client, Plan, Server, cache_status, options, refusal, request, signal, within};
use newshound::serve::rpc::proto::{self, GenerateQueriesRequest, GenerateQueriesResponse};
use std::time::Duration;
use tonic::{Code, Request, Status};

/// What a bucket holds here. It fills by one token a second: slower than anything here counts.
const BUCKET: u64 = 3600;

fn limited(plan: Plan) -> Plan {
    plan.with(|settings| {
        settings.tenants.tokens_per_minute = BUCKET / 60;
        settings.tenants.burst = Duration::from_secs(3600);
        settings.tenants.limits.insert("large".to_owned(), 0);
    })
}

async fn serving() -> Server {
    limited(Plan::new()).start().await
}

/// What a reader asks who did something else each time.
fn question(number: i64) -> GenerateQueriesRequest {
    let mut question = request("reader");
    question.signals.push(signal(proto::Stream::Search, "storm warning tonight", 1_700_000_200 + number));
    question
}

/// Asks as a tenant.
async fn ask_as(
    client: &mut Client,
    tenant: &'static str,
    number: i64,
) -> Result<GenerateQueriesResponse, Status> {
    send_as(client, tenant, question(number)).await
}

async fn send_as(
    client: &mut Client,
    tenant: &'static str,
    question: GenerateQueriesRequest,
) -> Result<GenerateQueriesResponse, Status> {
    let mut question = Request::new(question);
    question.metadata_mut().insert("x-newshound-tenant", tenant.parse().unwrap());
    within(client.generate_queries(question)).await.map(tonic::Response::into_inner)
}

fn used(response: &GenerateQueriesResponse) -> u64 {
    let usage = response.usage.as_ref().unwrap();
    u64::from(usage.prefill_tokens_computed + usage.output_tokens)
}

/// Asks until the tenant's budget is used up; returns what was used, by how many requests, and the refusal.
async fn exhaust(client: &mut Client, tenant: &'static str) -> (u64, i64, Status) {
    let mut n_tokens = 0;
    for number in 0..1000 {
        match ask_as(client, tenant, number).await {
            Ok(response) => n_tokens += used(&response),
            Err(status) => return (n_tokens, number, status),
        }
    }
    panic!("{tenant} is never refused");
}

#[tokio::test]
async fn a_tenant_whose_budget_is_used_up_is_told_when_to_come_back_and_others_are_left_alone() {
    let server = serving().await;
    let mut client = server.client().await;
    let (_, n_answered, status) = exhaust(&mut client, "noisy").await;
    let details = refusal(&status, Code::ResourceExhausted, "TENANT_RATE_LIMIT");
    let quota = &details.quota_failure().unwrap().violations[0];
    assert_eq!(quota.subject, "tenant:noisy");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    let pushback: u128 =
        status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!(!delay.is_zero() && pushback == delay.as_millis(), "{delay:?} {pushback}");
    assert_eq!(details.error_info().unwrap().metadata["tokens_per_minute"], "60");

    for number in 0..3 {
        ask_as(&mut client, "quiet", number).await.unwrap();
        assert!(ask_as(&mut client, "noisy", 1000 + number).await.is_err());
    }
    let again = ask_as(&mut client, "noisy", 0).await.unwrap();
    assert_eq!(cache_status(&again), proto::CacheStatus::Hit, "what is stored costs nothing");
    for number in 0..n_answered + 3 {
        ask_as(&mut client, "large", number).await.unwrap();
    }
    assert_eq!(server.metric("newshound_tenant_limited_total").await, Some(4.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"rejected\"}").await, Some(4.0));
    let (_, text) = server.get("/metrics").await;
    assert!(!text.contains("noisy") && !text.contains("quiet"), "no series has a tenant's name");
}

#[tokio::test]
async fn signals_are_judged_for_those_alone_whose_tenants_budget_allows_it() {
    let server = limited(Plan::new().with_cleaner()).start().await;
    let mut client = server.client().await;
    exhaust(&mut client, "noisy").await;
    ask_as(&mut client, "large", 0).await.unwrap();
    let mut judged = question(0);
    options(&mut judged).return_signal_verdicts = true;
    // What is left is not enough for a generation, and for some verdicts.
    let mut ask = async |tenant| {
        let answered = send_as(&mut client, tenant, judged.clone()).await.unwrap();
        assert_eq!(cache_status(&answered), proto::CacheStatus::Hit, "{tenant}");
        !answered.signal_verdicts.is_empty()
    };
    let mut n_judged = 0;
    while ask("noisy").await {
        n_judged += 1;
        assert!(n_judged < BUCKET, "verdicts are not charged");
        assert!(ask("large").await);
    }
    assert!(n_judged > 0, "what is left of a budget is enough for some");
    assert!(ask("large").await);
}

#[tokio::test]
async fn a_tenant_pays_for_what_was_computed_and_not_for_what_might_have_been() {
    let server = serving().await;
    let mut client = server.client().await;
    let (n_tokens, n_answered, _) = exhaust(&mut client, "tenant").await;
    // The longest prompt, and the most that four rows can write: no estimate is larger.
    let estimate_max = 768 + 4 * 96;
    assert!(n_tokens + estimate_max > BUCKET, "{n_tokens} tokens of {n_answered} requests");
    let mean = n_tokens / u64::try_from(n_answered).unwrap();
    assert!(mean < estimate_max / 2, "estimates alone would have refused earlier: {mean}");
}

#[tokio::test]
async fn a_request_whose_client_leaves_pays_for_what_was_computed_until_then() {
    let plan = Plan::new().gated().with(|settings| {
        settings.tenants.tokens_per_minute = 20;
        settings.tenants.burst = Duration::from_secs(3600);
    });
    let server = plan.start().await;
    for number in 0..4 {
        // Each is charged with more than half of the bucket, until it is known to take less.
        let mut client = server.client().await;
        let leaving = tokio::spawn(async move { ask_as(&mut client, "tenant", number).await });
        server.until("newshound_running_rows", 4.0).await;
        leaving.abort();
        server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
        server.gate.allow(1);
        server.until("newshound_running_rows", 0.0).await;
        server.gate.close();
    }
    assert_eq!(server.metric("newshound_tenant_limited_total").await, Some(0.0));
}
