//! Health, reflection, GetServerInfo: what others learn about the server without asking for queries.
use super::{
    queue::{filled, one_at_a_time},
    server::{Plan, refusal, request, within},
};
use newshound::serve::rpc::proto;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn health_answers_for_the_server_and_for_the_service() {
    let server = Plan::new().start().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "newshound.v1.QueryGenerationService", "newshound.v1.FeedbackService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = within(health.check(request)).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "other".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_server_that_refuses_for_want_of_room_is_well() {
    let server = Plan::new().gated().with(one_at_a_time).start().await;
    let calls = filled(&server).await;
    server.until("newshound_prompt_tokens_count", 2.0).await;
    let status = within(server.client().await.generate_queries(request("third"))).await.unwrap_err();
    refusal(&status, tonic::Code::ResourceExhausted, "QUEUE_FULL");
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "newshound.v1.QueryGenerationService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = within(health.check(request)).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(server.get("/healthz").await, (200, "ok\n".to_owned()));
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn reflection_lists_and_describes_the_service() {
    let server = Plan::new().start().await;
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let ask = |message_request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("newshound.v1.QueryGenerationService".to_owned())),
    ]);
    let mut responses = within(reflection.server_reflection_info(requests)).await.unwrap().into_inner();
    let mut next = async || within(responses.message()).await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = next().await else { panic!("no list") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in
        ["newshound.v1.QueryGenerationService", "newshound.v1.FeedbackService", "grpc.health.v1.Health"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    let MessageResponse::FileDescriptorResponse(files) = next().await else { panic!("no file") };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn server_info_names_the_model_and_the_limits() {
    let server = Plan::new().with_head().start().await;
    let info = within(server.client().await.get_server_info(proto::GetServerInfoRequest {}))
        .await
        .unwrap()
        .into_inner();
    let model = info.model.unwrap();
    assert_eq!((model.name.as_str(), model.has_reward_head), ("scripted", true));
    let limits = info.limits.unwrap();
    assert_eq!((limits.candidate_count_max, limits.max_output_tokens), (32, 96));
    assert_eq!((limits.request_bytes_max, limits.queue_requests_max), (256 << 10, 256));
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn the_prompt_limit_follows_what_the_model_was_trained_on() {
    let server = Plan::new().with(|settings| settings.generation.prompt_tokens_max = 9999).start().await;
    let info = within(server.client().await.get_server_info(proto::GetServerInfoRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.limits.unwrap().prompt_tokens_max, 1024);
}

#[tokio::test]
async fn healthz_says_ok_while_work_is_accepted() {
    let server = Plan::new().start().await;
    server.client().await;
    assert_eq!(server.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(server.get("/nothing").await.0, 404);
}
