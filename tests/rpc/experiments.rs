//! Arms set what a request leaves open, and are told.
use super::server::{Plan, Server, ask, cache_status, options, refusal, request, within};
use newshound::serve::rpc::proto::{self, AssignedBy, CacheStatus};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;
use tonic::{Code, Request};

/// Writes a file with these flags; keeps the folder that it is in.
pub fn file(flags: &Value) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("experiments.json");
    std::fs::write(&path, text(flags)).unwrap();
    (dir, path)
}

pub fn text(flags: &Value) -> String {
    json!({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": flags}).to_string()
}

/// Two arms that everybody is spread over.
pub fn flags() -> Value {
    json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"few": {"candidate_count": 2, "rerank": "logprob"}, "many": {"candidate_count": 6}},
        "targeting": {"fractional": [["few", 1], ["many", 1]]},
        "metadata": {"hash_version": 2, "phase": "p1", "allow_forced_arm": true},
    }})
}

pub async fn serving(flags: &Value) -> (TempDir, Server) {
    let (dir, path) = file(flags);
    (dir, Plan::new().with(|settings| settings.experiments.file = Some(path)).start().await)
}

/// A request that says nothing of its options.
pub fn open(user: &str) -> proto::GenerateQueriesRequest {
    proto::GenerateQueriesRequest { options: None, ..request(user) }
}

pub fn forcing(arm: &str, request: proto::GenerateQueriesRequest) -> proto::GenerateQueriesRequest {
    let forced = proto::ForcedArm { experiment_id: "x".to_owned(), arm_id: arm.to_owned() };
    let experiment = proto::ExperimentContext { forced_arms: vec![forced], ..Default::default() };
    proto::GenerateQueriesRequest { experiment: Some(experiment), ..request }
}

fn n_candidates(response: &proto::GenerateQueriesResponse) -> u32 {
    response.usage.as_ref().unwrap().candidates_started
}

#[tokio::test]
async fn each_reader_is_answered_as_her_arm_says_and_is_told() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let response = ask(&mut client, open(&format!("u{user}"))).await;
        let [arm] = <[_; 1]>::try_from(response.arms.clone()).unwrap();
        let expected = if arm.arm_id() == "few" { 2 } else { 6 };
        assert_eq!(n_candidates(&response), expected, "{arm:?}");
        let method =
            if arm.arm_id() == "few" { proto::RerankMethod::Logprob } else { proto::RerankMethod::Consensus };
        assert_eq!(response.rerank(), method);
        assert_eq!((arm.experiment_id.as_str(), arm.assigned_by()), ("x", AssignedBy::Hash));
        assert_eq!((arm.phase.as_str(), arm.hash_version, arm.overridden.len()), ("p1", 2, 0));
        seen.insert(arm.arm_id().to_owned());
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn what_a_request_sets_itself_wins_and_is_named() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    for arm in ["few", "many"] {
        let mut request = forcing(arm, open("reader"));
        options(&mut request).candidate_count = Some(3);
        options(&mut request).temperature = Some(0.5);
        let response = ask(&mut client, request).await;
        assert_eq!(n_candidates(&response), 3);
        assert_eq!(response.arms[0].overridden, ["candidate_count"], "no arm sets a temperature");
    }
}

#[tokio::test]
async fn arms_share_no_answers() {
    let same = json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"a": {}, "b": {}},
        "metadata": {"allow_forced_arm": true},
    }});
    let (_dir, server) = serving(&same).await;
    let mut client = server.client().await;
    let plain = ask(&mut client, open("reader")).await;
    assert!(plain.arms.is_empty(), "nobody is targeted, and there is no default");
    let mut asked = async |arm: &str| cache_status(&ask(&mut client, forcing(arm, open("reader"))).await);
    assert_eq!(asked("a").await, CacheStatus::Miss);
    assert_eq!(asked("b").await, CacheStatus::Miss);
    assert_eq!(asked("a").await, CacheStatus::Hit);
    assert_eq!(server.log.prefills(), 3);
}

#[tokio::test]
async fn an_arm_may_keep_its_answers_for_another_time() {
    let (_dir, path) = file(&json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"long": {"cache_ttl_ms": 60000}, "short": {}},
        "metadata": {"allow_forced_arm": true},
    }}));
    let short = std::time::Duration::from_millis(1);
    let plan = Plan::new().with(|settings| settings.cache.ttl = short);
    let server = plan.with(|settings| settings.experiments.file = Some(path)).start().await;
    let mut client = server.client().await;
    for arm in ["long", "short"] {
        ask(&mut client, forcing(arm, open("reader"))).await;
    }
    // A millisecond of real time passes while the server is asked for something else.
    let asked = std::time::Instant::now();
    while asked.elapsed() < 2 * short {
        server.get("/healthz").await;
    }
    for (arm, expected) in [("long", CacheStatus::Hit), ("short", CacheStatus::Miss)] {
        assert_eq!(cache_status(&ask(&mut client, forcing(arm, open("reader"))).await), expected, "{arm}");
    }
}

#[tokio::test]
async fn an_arm_is_chosen_by_request_or_metadata_where_it_may_be() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    let by_header = async |client: &mut super::server::Client, arms: &'static str, message| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-newshound-arm", arms.parse().unwrap());
        within(client.generate_queries(request)).await.map(tonic::Response::into_inner)
    };
    for arm in ["few", "many"] {
        let response = ask(&mut client, forcing(arm, open("reader"))).await;
        assert_eq!((response.arms[0].arm_id(), response.arms[0].assigned_by()), (arm, AssignedBy::Forced));
    }
    let response = by_header(&mut client, "x=many", open("reader")).await.unwrap();
    assert_eq!((response.arms[0].arm_id(), response.arms[0].assigned_by()), ("many", AssignedBy::Forced));
    let response = by_header(&mut client, "x=many", forcing("few", open("reader"))).await.unwrap();
    assert_eq!(response.arms[0].arm_id(), "few", "the request knows better");

    let status = by_header(&mut client, "x", open("reader")).await.unwrap_err();
    let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "x-newshound-arm");
    let status = by_header(&mut client, "y=many", open("reader")).await.unwrap_err();
    refusal(&status, Code::NotFound, "ARM_UNKNOWN");
    let status = client.generate_queries(forcing("none", open("reader"))).await.unwrap_err();
    refusal(&status, Code::NotFound, "ARM_UNKNOWN");
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"rejected\"}").await, Some(3.0));
}

/// Field and metadata were once counted apart, so that twice as many arms as there may be passed.
#[tokio::test]
async fn arms_of_request_and_metadata_are_counted_together() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let mut asked = async |n_by_field: usize| {
        let arm = |id| proto::ForcedArm { experiment_id: format!("f{id}"), arm_id: "a".to_owned() };
        let forced_arms = (0..n_by_field).map(arm).collect();
        let experiment = Some(proto::ExperimentContext { forced_arms, ..Default::default() });
        let mut request = Request::new(proto::GenerateQueriesRequest { experiment, ..open("reader") });
        request.metadata_mut().insert("x-newshound-arm", "m=a".parse().unwrap());
        within(client.generate_queries(request)).await.unwrap_err()
    };
    refusal(&asked(7).await, Code::NotFound, "ARM_UNKNOWN");
    refusal(&asked(8).await, Code::InvalidArgument, "FIELD_INVALID");
}

/// Only the first of several was once read, and the others were passed over in silence.
#[tokio::test]
async fn metadata_of_arms_may_be_there_several_times_and_is_read_each_time() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    let mut asked = async |values: &[&'static str]| {
        let mut request = Request::new(open("reader"));
        for value in values {
            request.metadata_mut().append("x-newshound-arm", value.parse().unwrap());
        }
        within(client.generate_queries(request)).await
    };
    assert_eq!(asked(&["x=many"]).await.unwrap().into_inner().arms[0].arm_id(), "many");
    refusal(&asked(&["x=many", "y=a"]).await.unwrap_err(), Code::NotFound, "ARM_UNKNOWN");
    refusal(&asked(&["x=many", "x=few"]).await.unwrap_err(), Code::InvalidArgument, "FIELD_INVALID");
    refusal(&asked(&["x=many", ""]).await.unwrap_err(), Code::InvalidArgument, "FIELD_INVALID");
}

/// Whoever reads the first of two would believe a client that put one there before the proxy did.
#[tokio::test]
async fn two_tenants_of_one_request_are_refused() {
    let server = Plan::new().start().await;
    let mut request = Request::new(open("reader"));
    for tenant in ["daily", "weekly"] {
        request.metadata_mut().append("x-newshound-tenant", tenant.parse().unwrap());
    }
    let status = within(server.client().await.generate_queries(request)).await.unwrap_err();
    let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "x-newshound-tenant");
}

#[tokio::test]
async fn an_arm_that_nobody_may_choose_is_refused() {
    let mut closed = flags();
    closed["newshound.x"]["metadata"]["allow_forced_arm"] = json!(false);
    let (_dir, server) = serving(&closed).await;
    let status = server.client().await.generate_queries(forcing("few", open("reader"))).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "ARM_NOT_CHOOSABLE");
}

#[tokio::test]
async fn an_experiment_that_is_off_changes_nothing_whoever_asks() {
    let mut off = flags();
    off["newshound.x"]["state"] = json!("DISABLED");
    let (_dir, server) = serving(&off).await;
    let response = ask(&mut server.client().await, forcing("few", open("reader"))).await;
    assert!(response.arms.is_empty());
    assert_eq!(n_candidates(&response), 8);
}

/// Everybody by locale, tier and tenant.
fn targeted() -> Value {
    let is = |name: &str, text: &str| json!({"==": [{"var": name}, text]});
    json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"a": {"temperature": 0.5, "draw": "as_needed"}, "b": {}, "c": {}},
        "targeting": {"if": [is("locale", "de"), "a", is("tier", "gold"), "b", is("tenant", "daily"), "c"]},
    }})
}

async fn explain(
    server: &Server,
    context: proto::ExperimentContext,
    tenant: Option<&'static str>,
) -> proto::ExplainAssignmentResponse {
    let user = Some(proto::UserRef { key: "reader".to_owned() });
    let mut request = Request::new(proto::ExplainAssignmentRequest { user, experiment: Some(context) });
    if let Some(tenant) = tenant {
        request.metadata_mut().insert("x-newshound-tenant", tenant.parse().unwrap());
    }
    within(server.client().await.explain_assignment(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn explanations_say_why_and_what_without_asking_the_model() {
    let (_dir, server) = serving(&targeted()).await;
    let context = |locale: &str, tier: &str| proto::ExperimentContext {
        locale: locale.to_owned(),
        tier: tier.to_owned(),
        forced_arms: Vec::new(),
    };
    let german = explain(&server, context("de", "gold"), Some("daily")).await;
    assert_eq!((german.arms[0].arm_id(), german.arms[0].assigned_by()), ("a", AssignedBy::Rule));
    let policy = german.policy.unwrap();
    assert_eq!((policy.temperature, policy.draw()), (Some(0.5), proto::Draw::AsNeeded));
    assert_eq!(german.config_digest.len(), 16);
    assert_eq!(explain(&server, context("fi", "gold"), Some("daily")).await.arms[0].arm_id(), "b");
    assert_eq!(explain(&server, context("fi", ""), Some("daily")).await.arms[0].arm_id(), "c");
    let nobody = explain(&server, context("fi", ""), None).await;
    assert_eq!(nobody.arms[0].arm_id, None);
    assert_eq!(nobody.arms[0].assigned_by(), AssignedBy::NoneNotTargeted);
    assert_eq!(server.log.prefills(), 0);

    let without = explain(&Plan::new().start().await, context("de", ""), None).await;
    assert!(without.arms.is_empty() && without.config_digest.is_empty());
}

#[tokio::test]
async fn a_request_to_explain_is_checked_like_any_other() {
    let server = Plan::new().start().await;
    let context = proto::ExperimentContext { locale: "l".repeat(36), ..Default::default() };
    let request = proto::ExplainAssignmentRequest { user: None, experiment: Some(context) };
    let status = server.client().await.explain_assignment(request).await.unwrap_err();
    let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    let fields: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect();
    assert_eq!(fields, ["user.key", "experiment.locale"]);
}

#[tokio::test]
async fn a_stream_tells_arms_first_and_last() {
    use proto::generate_queries_event::Event;
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    let mut events =
        within(client.stream_generate_queries(forcing("few", open("reader")))).await.unwrap().into_inner();
    let (mut told, mut n_told) = (Vec::new(), 0);
    while let Some(event) = within(events.message()).await.unwrap() {
        match event.event.unwrap() {
            Event::Accepted(accepted) => told.extend(accepted.arms),
            Event::Done(done) => told.extend(done.arms),
            Event::Candidate(_) => n_told += 1,
            Event::Growing(growing) => panic!("nobody asked to see {growing:?}"),
        }
    }
    assert_eq!(n_told, 2);
    assert_eq!(told.iter().map(proto::ArmAssignment::arm_id).collect::<Vec<_>>(), ["few", "few"]);
}

#[tokio::test]
async fn requests_are_counted_by_arm_and_each_once() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    for user in ["one", "one", "two"] {
        ask(&mut client, forcing("few", open(user))).await;
    }
    let check = async |name: &str, label: &str, expected: f64| {
        let series = format!("newshound_arm_{name}{{experiment=\"x\",arm=\"few\"{label}}}");
        assert_eq!(server.metric(&series).await, Some(expected), "{series}");
    };
    check("assignments_total", ",by=\"forced\"", 3.0).await;
    check("outcomes_total", ",outcome=\"ok\"", 2.0).await;
    check("outcomes_total", ",outcome=\"cached\"", 1.0).await;
    check("duration_seconds_count", "", 3.0).await;
    let all = server.metric("newshound_output_tokens_total{fate=\"valid\"}").await.unwrap();
    check("output_tokens_total", "", all).await;
    assert_eq!(server.metric("newshound_experiments_enabled").await, Some(1.0));
    assert_eq!(server.metric("newshound_experiments_file_refused").await, Some(0.0));
}
