//! What stands on an answer for those who do not open it: the request's id, arms, and the model.
use super::{
    experiments::{flags, forcing, open, serving},
    http::post,
    json::asked,
    server::{Plan, Server, refusal, request, within},
};
use newshound::serve::rpc::proto;
use tonic::{Code, Request, metadata::MetadataMap};

fn with_id(message: proto::GenerateQueriesRequest) -> Request<proto::GenerateQueriesRequest> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", "0a-1".parse().unwrap());
    request
}

/// Request id, arms and generation, as far as they are there.
fn labels(metadata: &MetadataMap) -> [Option<&str>; 3] {
    ["x-request-id", "x-newshound-arm", "x-newshound-model-generation"]
        .map(|name| metadata.get(name).map(|value| value.to_str().unwrap()))
}

#[tokio::test]
async fn an_answer_is_labelled_with_its_requests_id_its_arms_and_its_model() {
    let (_dir, server) = serving(&flags()).await;
    let mut client = server.client().await;
    let answer = within(client.generate_queries(with_id(forcing("few", open("reader"))))).await.unwrap();
    let generation = answer.get_ref().model.as_ref().unwrap().generation.to_string();
    assert_eq!(labels(answer.metadata()), [Some("0a-1"), Some("x=few"), Some(generation.as_str())]);
    let events = within(client.stream_generate_queries(with_id(forcing("many", open("reader"))))).await;
    let labelled = [Some("0a-1"), Some("x=many"), Some(generation.as_str())];
    assert_eq!(labels(events.unwrap().metadata()), labelled, "before its first event");
    let info = within(client.get_server_info(proto::GetServerInfoRequest {})).await.unwrap();
    assert_eq!(labels(info.metadata()), [None; 3], "who sends no id gets none");
}

#[tokio::test]
async fn without_experiments_there_is_no_arm_and_a_refusal_has_the_requests_id_too() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let answer = within(client.generate_queries(with_id(request("reader")))).await.unwrap();
    assert_eq!(labels(answer.metadata())[1], None);
    let status = within(client.generate_queries(with_id(request("")))).await.unwrap_err();
    refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(labels(status.metadata()), [Some("0a-1"), None, None]);
}

#[tokio::test]
async fn json_has_the_same_as_headers() {
    let (_dir, server) = serving(&flags()).await;
    let labelled = async |server: &Server, path: &str, arm: &str| {
        let headers = [("x-request-id", "0a-1"), ("x-newshound-arm", arm)];
        let answer = post(server.grpc, path, &headers, &asked("reader").to_string()).await;
        let header = |name| answer.header(name).map(str::to_owned);
        let id = header("x-request-id");
        (
            answer.status,
            id.as_deref() == Some("0a-1"),
            header("x-newshound-arm"),
            header("x-newshound-model-generation").is_some(),
        )
    };
    for path in ["/v1/queries:generate", "/v1/queries:stream"] {
        let many = Some("x=many".to_owned());
        assert_eq!(labelled(&server, path, "x=many").await, (200, true, many, true), "{path}");
        assert_eq!(labelled(&server, path, "x=none").await, (404, true, None, false), "{path}");
    }
    assert_eq!(labelled(&server, "/v1/nothing", "x=many").await, (404, true, None, false));
}
