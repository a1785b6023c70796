//! What stands on an answer for those who do not open it: the request's id, arms, and the model.
use super::{
    access::tokens,
    experiments::{flags, forcing, open, serving},
    http::{post, send, text},
    json::asked,
    server::{Plan, refusal, request, within},
    web::{self, BINARY, GENERATE, framed},
};
use newshound::serve::{door::bearers, rpc::proto};
use tonic::{Code, Request, metadata::MetadataMap};

fn with_id(id: &str, message: proto::GenerateQueriesRequest) -> Request<proto::GenerateQueriesRequest> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request
}

/// Request id, arms and generation, as far as they are there.
pub fn labels(metadata: &MetadataMap) -> [Option<&str>; 3] {
    ["x-request-id", "x-newshound-arm", "x-newshound-model-generation"]
        .map(|name| metadata.get(name).map(|value| value.to_str().unwrap()))
}

#[tokio::test]
async fn an_answer_is_labelled_with_its_requests_id_its_arms_and_its_model() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    let answer =
        within(client.generate_queries(with_id("0a-1", forcing("few", open("reader"))))).await.unwrap();
    let generation = answer.get_ref().model.as_ref().unwrap().generation.to_string();
    assert_eq!(labels(answer.metadata()), [Some("0a-1"), Some("x=few"), Some(generation.as_str())]);
    let events =
        within(client.stream_generate_queries(with_id("0a-1", forcing("many", open("reader"))))).await;
    let labelled = [Some("0a-1"), Some("x=many"), Some(generation.as_str())];
    assert_eq!(labels(events.unwrap().metadata()), labelled, "before its first event");
    let info = within(client.get_server_info(proto::GetServerInfoRequest {})).await.unwrap();
    assert_eq!(labels(info.metadata()), [None; 3], "who sends no id gets none");
}

#[tokio::test]
async fn without_experiments_there_is_no_arm_and_a_refusal_has_the_requests_id_alone() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let answer = within(client.generate_queries(with_id("0a-1", request("reader")))).await.unwrap();
    assert_eq!(labels(answer.metadata()), [Some("0a-1"), None, Some("1")]);
    let mut refused = async |id: &str| {
        let status = within(client.generate_queries(with_id(id, request("")))).await.unwrap_err();
        refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
        labels(status.metadata()).map(|label| label.map(str::to_owned))
    };
    assert_eq!(refused("0a-1").await, [Some("0a-1".to_owned()), None, None]);
    assert_eq!(refused(&"0".repeat(128)).await[0], Some("0".repeat(128)));
    assert_eq!(refused(&"0".repeat(129)).await[0], None, "it would take the room of the reasons");
}

#[tokio::test]
async fn a_refusal_at_the_door_has_the_requests_id() {
    let dir = tempfile::tempdir().unwrap();
    let known = tokens(&dir, "tokens", &[&bearers::issue("daily").unwrap()]);
    let server = Plan::new().with(|settings| settings.access.tokens = Some(known)).start().await;
    let mut client = server.client().await;
    let status = within(client.generate_queries(with_id("0a-1", request("reader")))).await.unwrap_err();
    refusal(&status, Code::Unauthenticated, "TOKEN_MISSING");
    assert_eq!(labels(status.metadata()), [Some("0a-1"), None, None]);
}

#[tokio::test]
async fn json_and_grpc_web_have_the_same_as_headers() {
    let (_dir, server) = serving(&flags()).await;
    let labelled = async |path: &str, arm: &str| {
        let headers = [("x-request-id", "0a-1"), ("x-newshound-arm", arm)];
        let answer = post(server.grpc, path, &headers, &asked("reader").to_string()).await;
        assert_eq!(answer.header("x-request-id"), Some("0a-1"), "{path}");
        let header = |name| answer.header(name).map(str::to_owned);
        (answer.status, header("x-newshound-arm"), header("x-newshound-model-generation"))
    };
    for path in ["/v1/queries:generate", "/v1/queries:stream"] {
        let labels = (200, Some("x=many".to_owned()), Some("1".to_owned()));
        assert_eq!(labelled(path, "x=many").await, labels, "{path}");
        assert_eq!(labelled(path, "x=none").await, (404, None, None), "{path}");
    }
    assert_eq!(labelled("/v1/nothing", "x=many").await, (404, None, None));
    let server = web::open().await;
    for (user, generation) in [("reader", Some("1")), ("", None)] {
        let headers = [("content-type", BINARY), ("x-grpc-web", "1"), ("x-request-id", "0a-1")];
        let answer = send(server.grpc, &text("POST", GENERATE, &headers, &framed(&request(user)))).await;
        assert_eq!(answer.header("x-request-id"), Some("0a-1"));
        assert_eq!(answer.header("x-newshound-model-generation"), generation);
    }
}
