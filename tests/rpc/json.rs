//! JSON over HTTP: the same answers and refusals as gRPC, in other clothes.
mod openapi;
mod refusals;

use super::access::{Authority, OFTEN, tokens};
use super::feedback;
use super::http::{self, Answer, post};
use super::script::LIST;
use super::server::{Plan, Server, ask, cache_status, request, within};
use newshound::serve::{door::bearers, rpc::proto::CacheStatus};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

const GENERATE: &str = "/v1/queries:generate";
const STREAM: &str = "/v1/queries:stream";

/// `super::server::request` in JSON.
pub fn asked(user: &str) -> Value {
    json!({
        "user": {"key": user},
        "signals": [
            {"stream": "STREAM_SEARCH", "text": "running shoes for winter", "eventTime": "2023-11-14T22:13:20Z"},
            {"stream": "STREAM_CLICK", "text": "marathon route announced", "eventTime": "2023-11-14T22:15:00Z"},
        ],
        "options": {"candidateCount": 4},
    })
}

async fn generate(server: &Server, headers: &[(&str, &str)], asked: &Value) -> Answer {
    post(server.grpc, GENERATE, headers, &asked.to_string()).await
}

async fn answered(server: &Server, headers: &[(&str, &str)], asked: &Value) -> Value {
    let answer = generate(server, headers, asked).await;
    let status = answer.status;
    let json = answer.json().await;
    assert_eq!(status, 200, "{json:#}");
    json
}

#[tokio::test]
async fn the_same_question_has_the_same_answer_by_either_door() {
    let server = Plan::new().with_head().start().await;
    let answer = generate(&server, &[], &asked("reader")).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let json = answer.json().await;
    let texts: Vec<&str> = json["best"]["queries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|query| query["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, LIST.lines().collect::<Vec<_>>());
    assert_eq!(json["cache"], json!({"status": "CACHE_STATUS_MISS"}));
    assert_eq!(json["rerank"], "RERANK_METHOD_REWARD_HEAD");
    let over_grpc = ask(&mut server.client().await, request("reader")).await;
    assert_eq!(cache_status(&over_grpc), CacheStatus::Hit, "it is the same question");
    assert_eq!(
        json["best"]["listScore"].as_f64().unwrap() as f32,
        over_grpc.best.unwrap().list_score.unwrap()
    );
    let ended = "newshound_rpc_requests_total{method=\"GenerateQueries\",code=\"OK\"}";
    assert_eq!(server.metric(ended).await, Some(2.0), "both are counted");
}

#[tokio::test]
async fn values_have_the_forms_of_protos_json_mapping() {
    let server = Plan::new().start().await;
    let mut question = asked("reader");
    question["signals"][0]["eventTime"] = json!("2023-11-14T23:13:20.5+01:00");
    question["signals"][1]["dwell"] = json!("1.5s");
    question["signals"][1]["weight"] = json!(2.0);
    question["options"] =
        json!({"candidate_count": 2, "seed": "18446744073709551615", "rerank": 4, "returnCandidates": true});
    question["correlationId"] = json!("mine");
    let json = answered(&server, &[], &question).await;
    assert_eq!(json["correlationId"], "mine");
    assert_eq!(json["rerank"], "RERANK_METHOD_NONE", "a number of an enum is read, and its name written");
    assert!(json["cost"]["amountNanos"].as_str().unwrap().parse::<u64>().is_ok(), "{json:#}");
    let total = json["timing"]["total"].as_str().unwrap();
    assert!(total.strip_suffix('s').unwrap().parse::<f64>().unwrap() > 0.0, "{total}");
    assert_eq!(json["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(json["candidates"][0]["index"], 0, "zero is said where a field is not optional");
    assert!(json["best"].get("listScore").is_none(), "and what is optional and not there is left out");
    question["options"]["seed"] = json!(u64::MAX);
    assert_eq!(answered(&server, &[], &question).await["cache"]["status"], "CACHE_STATUS_HIT");
}

#[tokio::test]
async fn a_stream_is_a_line_for_each_event_as_soon_as_it_is_there() {
    let text = |row_idx: usize, _| {
        if row_idx == 0 { LIST.to_owned() } else { format!("{LIST}\nanother story today") }
    };
    let server = Plan::new().writing(text).gated().start().await;
    let mut answer = post(server.grpc, STREAM, &[], &asked("reader").to_string()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
    let accepted = answer.line().await.unwrap();
    assert_eq!(accepted["accepted"]["model"]["name"], "scripted");
    let n_tokens = super::script::tokens().encode_text(LIST).len() + 1;
    server.gate.allow(n_tokens - 1);
    let first = answer.line().await.unwrap();
    assert_eq!(first["candidate"]["list"]["index"], 0);
    assert_eq!(first["candidate"]["bestSoFar"], true);
    server.until("newshound_running_rows", 3.0).await;
    server.gate.open();
    for _ in 0..3 {
        assert!(answer.line().await.unwrap().get("candidate").is_some());
    }
    let done = answer.line().await.unwrap();
    assert_eq!(done["done"]["responseId"], accepted["accepted"]["responseId"]);
    assert_eq!(answer.line().await, None);
}

#[tokio::test]
async fn a_stream_that_fails_says_so_in_its_last_line() {
    let plan = Plan { mishap: super::script::Mishap::Step, ..Plan::new() };
    let server = plan.start().await;
    let mut answer = post(server.grpc, STREAM, &[], &asked("reader").to_string()).await;
    assert!(answer.line().await.unwrap().get("accepted").is_some());
    let last = answer.line().await.unwrap();
    assert_eq!(
        (&last["error"]["code"], &last["error"]["details"][0]["reason"]),
        (&json!(13), &json!("ENGINE_FAULT"))
    );
    assert_eq!(answer.line().await, None);
}

#[tokio::test]
async fn a_batch_is_a_line_for_each_request_with_an_answer_or_an_error() {
    let server = Plan::new().start().await;
    let mut broken = asked("");
    broken["options"]["candidateCount"] = json!(0);
    let batch = json!({"requests": [asked("reader"), broken]});
    let mut answer = post(server.grpc, "/v1/queries:batch", &[], &batch.to_string()).await;
    let mut lines = [answer.line().await.unwrap(), answer.line().await.unwrap()];
    assert_eq!(answer.line().await, None);
    lines.sort_by_key(|line| line["index"].as_u64());
    assert_eq!((&lines[0]["index"], &lines[0]["response"]["best"]["valid"]), (&json!(0), &json!(true)));
    let error = &lines[1]["error"];
    assert_eq!((&error["code"], &error["details"][0]["reason"]), (&json!(3), &json!("FIELD_INVALID")));
    let violations = error["details"][1]["fieldViolations"].as_array().unwrap();
    let fields: Vec<&Value> = violations.iter().map(|violation| &violation["field"]).collect();
    assert_eq!(fields, ["user.key", "options.candidateCount"]);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_rows_within_one_step() {
    for (path, method) in [(GENERATE, "GenerateQueries"), (STREAM, "StreamGenerateQueries")] {
        let server = Plan::new().gated().start().await;
        let addr = server.grpc;
        let call = tokio::spawn(async move {
            let mut answer = post(addr, path, &[], &asked("reader").to_string()).await;
            while answer.line().await.is_some() {}
        });
        server.until("newshound_running_rows", 4.0).await;
        call.abort();
        server.until(&format!("newshound_rpc_in_flight{{method=\"{method}\"}}"), 0.0).await;
        server.gate.allow(1);
        server.until("newshound_running_rows", 0.0).await;
        assert_eq!(server.log.steps(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered_at_the_end_of_the_server() {
    let mut server = Plan::new()
        .gated()
        .with(|settings| settings.shutdown.idle_grace = std::time::Duration::from_millis(50))
        .start()
        .await;
    let addr = server.grpc;
    let running =
        tokio::spawn(
            async move { post(addr, GENERATE, &[], &asked("reader").to_string()).await.json().await },
        );
    server.until("newshound_running_rows", 4.0).await;
    server.signal();
    server.until("newshound_draining", 1.0).await;
    server.gate.open();
    assert_eq!(within(running).await.unwrap()["best"]["valid"], true);
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_token_stands_for_its_tenant_by_either_door() {
    let dir = tempfile::tempdir().unwrap();
    let (daily, weekly) = (bearers::issue("daily").unwrap(), bearers::issue("weekly").unwrap());
    let file = tokens(&dir, "tokens", &[&daily, &weekly]);
    let server = Plan::new().with(|settings| settings.access.tokens = Some(file)).start().await;
    let status = async |token: &str, tenant: &str| {
        let token = format!("Bearer {token}");
        let headers = [("authorization", token.as_str()), ("x-newshound-tenant", tenant)];
        answered(&server, &headers, &asked("reader")).await["cache"]["status"].clone()
    };
    assert_eq!(status(&daily.token, "daily").await, "CACHE_STATUS_MISS");
    assert_eq!(status(&daily.token, "weekly").await, "CACHE_STATUS_HIT", "it is daily's reader");
    assert_eq!(status(&weekly.token, "daily").await, "CACHE_STATUS_MISS", "and this is not");
    let refusal = async |headers: &[(&str, &str)], body: &str| {
        let answer = post(server.grpc, GENERATE, headers, body).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
        answer.json().await["details"][0]["reason"].clone()
    };
    assert_eq!(refusal(&[], &asked("reader").to_string()).await, "TOKEN_MISSING");
    let unknown = [("authorization", "Bearer nh_0")];
    assert_eq!(refusal(&unknown, "no JSON, which is not even looked at").await, "TOKEN_UNKNOWN");
    assert_eq!(server.get("/metrics").await.0, 200, "operators need none");
}

#[tokio::test]
async fn a_certificate_is_shown_to_those_who_speak_http_1_too() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = authority.write(dir.path());
    let plan = Plan::new().with(|settings| {
        settings.access.tls = Some(tls);
        settings.access.check_interval = OFTEN;
    });
    let server = plan.start().await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(server.grpc).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let wire = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap();
    let body = asked("reader").to_string();
    let request = http::text("POST", GENERATE, &[("content-type", "application/json")], body.as_bytes());
    assert_eq!(http::exchange(wire, &request).await.status, 200);
}

#[tokio::test]
async fn arms_outcomes_readers_and_limits_have_paths_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let server = feedback::plan(&dir).start().await;
    let ok = async |path: &str, body: Value| {
        let answer = post(server.grpc, path, &[], &body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}");
        answer.json().await
    };
    let reader = json!({"user": {"key": "reader"}});
    let explained = ok("/v1/assignments:explain", reader.clone()).await;
    let arm = explained["arms"][0].clone();
    assert_eq!(arm["assignedBy"], "ASSIGNED_BY_HASH");
    let forced = [("x-newshound-arm", "x=many")];
    let answer = answered(&server, &forced, &asked("reader")).await;
    assert_eq!(answer["arms"][0]["armId"], "many");
    let report = json!({
        "responseId": answer["responseId"],
        "requestId": "1",
        "outcomes": [{"event": "OUTCOME_EVENT_CLICKED", "queryRank": 1}],
    });
    assert_eq!(ok("/v1/outcomes:report", report.clone()).await["duplicate"], false);
    assert_eq!(ok("/v1/outcomes:report", report).await["duplicate"], true);
    assert_eq!(answered(&server, &forced, &asked("reader")).await["cache"]["status"], "CACHE_STATUS_HIT");
    for path in ["/v1/readers:invalidate", "/v1/readers:forget"] {
        assert_eq!(ok(path, reader.clone()).await, json!({}));
        assert_eq!(
            answered(&server, &forced, &asked("reader")).await["cache"]["status"],
            "CACHE_STATUS_MISS"
        );
    }
    let server_info = http::send(server.grpc, &http::text("GET", "/v1/server", &[], b"")).await.json().await;
    assert_eq!(server_info["limits"]["candidateCountMax"], 32);
}
