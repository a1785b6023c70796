//! gRPC-Web by hand, and pages of other sites.
use super::http::{Answer, post, send, text};
use super::json::asked;
use super::server::{Plan, Server, request};
use base64::{Engine, prelude::BASE64_STANDARD};
use newshound::serve::rpc::proto;
use prost::Message;

pub const GENERATE: &str = "/newshound.v1.QueryGenerationService/GenerateQueries";
const STREAM: &str = "/newshound.v1.QueryGenerationService/StreamGenerateQueries";
pub const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
const OURS: &str = "https://news.example";

pub async fn open() -> Server {
    let plan = Plan::new().with(|settings| {
        settings.doors.grpc_web = true;
        settings.doors.web_origins = vec![OURS.to_owned()];
    });
    plan.start().await
}

/// A message in its frame: no compression, and its length. Source: gRPC over HTTP/2, "Length-Prefixed-Message".
pub fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

async fn call(server: &Server, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let headers = [("content-type", content_type), ("accept", content_type), ("x-grpc-web", "1")];
    send(server.grpc, &text("POST", path, &headers, body)).await
}

/// Messages of a body and the trailers in its last frame.
fn frames(mut body: &[u8]) -> (Vec<&[u8]>, String) {
    let mut messages = Vec::new();
    loop {
        let (head, rest) = body.split_at(5);
        let (frame, rest) = rest.split_at(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize);
        body = rest;
        if head[0] == 0x80 {
            assert!(body.is_empty(), "trailers come last");
            return (messages, String::from_utf8(frame.to_vec()).unwrap());
        }
        assert_eq!(head[0], 0);
        messages.push(frame);
    }
}

fn has_status(trailers: &str, code: u32) -> bool {
    trailers.lines().any(|line| line.replace(' ', "") == format!("grpc-status:{code}"))
}

#[tokio::test]
async fn a_browser_gets_the_message_and_the_trailers_in_one_body() {
    let server = open().await;
    let answer = call(&server, GENERATE, BINARY, &framed(&request("reader"))).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(BINARY)));
    let body = answer.body().await;
    let (messages, trailers) = frames(&body);
    let response = proto::GenerateQueriesResponse::decode(messages[0]).unwrap();
    assert!(response.best.unwrap().valid && messages.len() == 1 && has_status(&trailers, 0), "{trailers}");

    let answer = call(&server, STREAM, BINARY, &framed(&request("reader"))).await;
    let body = answer.body().await;
    let (messages, trailers) = frames(&body);
    assert!(messages.len() == 1 + 4 + 1 && has_status(&trailers, 0), "{trailers}");
}

#[tokio::test]
async fn a_browser_that_reads_text_only_gets_the_same_in_base64() {
    let server = open().await;
    let body = BASE64_STANDARD.encode(framed(&request("reader")));
    let answer = call(&server, GENERATE, TEXT, body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    let body = answer.body().await;
    // Frames are encoded one by one, so padding may stand between them.
    let groups = body.chunks(4).flat_map(|group| BASE64_STANDARD.decode(group).unwrap());
    let decoded: Vec<u8> = groups.collect();
    let (messages, trailers) = frames(&decoded);
    assert!(messages.len() == 1 && has_status(&trailers, 0), "{trailers}");
}

#[tokio::test]
async fn a_refusal_has_its_code_where_scripts_read_it() {
    let server = open().await;
    let answer = call(&server, GENERATE, BINARY, &framed(&request(""))).await;
    let in_head = answer.header("grpc-status") == Some("3");
    let body = answer.body().await;
    assert!(in_head || has_status(&frames(&body).1, 3));
}

#[tokio::test]
async fn pages_of_listed_origins_may_call_and_no_others() {
    let server = open().await;
    let allowed = async |origin: &str, path: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,x-grpc-web,authorization"),
        ];
        let answer = send(server.grpc, &text("OPTIONS", path, &headers, b"")).await;
        let sent = answer.header("access-control-allow-headers").unwrap_or_default();
        for header in ["authorization", "content-type", "x-grpc-web", "x-request-id", "x-user-key"] {
            assert!(sent.split(',').any(|name| name == header), "{header} is not among {sent}");
        }
        assert!(!sent.contains("tenant"), "{sent}");
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    for path in [GENERATE, "/v1/queries:generate"] {
        assert_eq!(allowed(OURS, path).await.as_deref(), Some(OURS));
        assert_eq!(allowed("https://elsewhere.example", path).await, None);
    }
    let answer =
        post(server.grpc, "/v1/queries:generate", &[("origin", OURS)], &asked("reader").to_string()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(OURS)));
    let read = answer.header("access-control-expose-headers").unwrap();
    for header in ["grpc-status", "x-request-id", "x-newshound-arm", "x-newshound-model-generation"] {
        assert!(read.split(',').any(|name| name == header), "{header} is not among {read}");
    }
}

#[tokio::test]
async fn without_the_setting_nothing_is_translated_and_no_page_is_let_in() {
    let server = Plan::new().start().await;
    let answer = call(&server, GENERATE, BINARY, &framed(&request("reader"))).await;
    assert_ne!(answer.header("content-type"), Some(BINARY));
    let answer =
        post(server.grpc, "/v1/queries:generate", &[("origin", OURS)], &asked("reader").to_string()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
}
