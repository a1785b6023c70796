//! JSON over HTTP: a translation in front of the gRPC services, so that neither door knows a request, a limit or a refusal that the other
//! does not.
//!
//! The JSON of a request becomes the message that gRPC would have brought, and goes the whole way of a gRPC call: token, tenant, checks,
//! admission, answer, counts. Messages are in proto3's JSON mapping (<https://protobuf.dev/programming-guides/json>): names in
//! lowerCamelCase, enums by name, times as in RFC 3339, durations as `"1.5s"`, 64-bit integers as strings; unknown fields are refused. Answers
//! have every field that is not optional, also where it is zero. A stream has an event a line, and an error as the last line.
mod codec;
mod messages;
mod openapi;
mod refusal;

use super::{
    arrival::{self, ARRIVAL_MAX},
    auth::Auth,
    labels::LABELS,
    status,
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
        uri::PathAndQuery,
    },
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on},
};
use codec::Codec;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use refusal::Refusal;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_stream::StreamExt;
use tonic::{
    Code, Extensions, Status, Streaming,
    client::Grpc,
    metadata::MetadataMap,
    service::{Interceptor, Routes},
};

/// A method of gRPC at a path of HTTP.
#[derive(Clone, Copy, Debug)]
struct Exposed {
    path: &'static str,
    /// GET where nothing is asked but for the answer.
    verb: Verb,
    /// Full name of the service.
    service: &'static str,
    method: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
}

const QUERIES: &str = "newshound.v1.QueryGenerationService";
const FEEDBACK: &str = "newshound.v1.FeedbackService";
const READERS: &str = "newshound.v1.ReaderService";

const fn post(path: &'static str, service: &'static str, method: &'static str) -> Exposed {
    Exposed { path, verb: Verb::Post, service, method }
}

/// Every method of the callers' port. Paths have the form of <https://google.aip.dev/136>.
const EXPOSED: [Exposed; 8] = [
    post("/v1/queries:generate", QUERIES, "GenerateQueries"),
    post("/v1/queries:stream", QUERIES, "StreamGenerateQueries"),
    post("/v1/queries:batch", QUERIES, "BatchGenerateQueries"),
    post("/v1/assignments:explain", QUERIES, "ExplainAssignment"),
    post("/v1/outcomes:report", FEEDBACK, "ReportOutcome"),
    post("/v1/readers:invalidate", READERS, "InvalidateUser"),
    post("/v1/readers:forget", READERS, "ForgetUser"),
    Exposed { path: "/v1/server", verb: Verb::Get, service: QUERIES, method: "GetServerInfo" },
];

/// Where the description of all of this is.
const OPENAPI_PATH: &str = "/v1/openapi.json";

/// How long a caller waits, in seconds such as `2.5`: what `grpc-timeout` is to gRPC.
pub(super) const TIMEOUT_HEADER: &str = "x-request-timeout";
/// Longest time that a caller may wait; nobody does, and what cannot be added to a clock is below it.
const TIMEOUT_S_MAX: f64 = 86_400.0;
const JSON: &str = "application/json";
/// A JSON text a line. Source: <https://github.com/ndjson/ndjson-spec>.
const JSON_LINES: &str = "application/x-ndjson";

/// Headers that are metadata of the call beside those that begin with `x-`: the token, and the trace of the caller.
const CARRIED: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// The paths of JSON in front of the gRPC services, for whom `auth` lets in, with bodies of at most `message_bytes_max`.
pub(super) fn routes(grpc: &Routes, auth: &Auth, message_bytes_max: usize) -> Router {
    let mut router = Router::new();
    for exposed in EXPOSED {
        let (method, grpc, auth) = (messages::method(exposed), grpc.clone(), auth.clone());
        let door = Arc::new(JsonDoor { exposed, method, grpc, auth });
        let filter = match exposed.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
        };
        let answer = move |request: Request| {
            let door = Arc::clone(&door);
            async move { door.answer(request).await.unwrap_or_else(IntoResponse::into_response) }
        };
        router = router.route(exposed.path, on(filter, answer));
    }
    router
        .route(OPENAPI_PATH, get(openapi))
        .method_not_allowed_fallback(other_verb)
        .layer(DefaultBodyLimit::max(message_bytes_max))
}

/// Answers what is at no path: as gRPC where that is spoken, else as HTTP.
pub(super) async fn unknown_path(request: Request) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type.is_some_and(|content_type| content_type.starts_with(b"application/grpc")) {
        return Status::unimplemented("no such method").into_http();
    }
    let message = format!("nothing is here; {OPENAPI_PATH} says what is where");
    Refusal::from(status::plain(Code::NotFound, "PATH_UNKNOWN", &message)).into_response()
}

async fn other_verb(verb: Method) -> Response {
    let message = format!("{verb} is not what this path takes; {OPENAPI_PATH} says what is");
    let refused = status::plain(Code::Unimplemented, "VERB_UNKNOWN", &message);
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, refused).into_response()
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, JSON)], openapi::DOCUMENT.as_str())
}

/// One method, and the services that answer.
#[derive(Debug)]
struct JsonDoor {
    exposed: Exposed,
    method: MethodDescriptor,
    grpc: Routes,
    auth: Auth,
}

impl JsonDoor {
    async fn answer(&self, request: Request) -> Result<Response, Refusal> {
        // Before the body is read, as in gRPC. The service asks again, and gets the same answer.
        let known = self.auth.clone().call(tonic::Request::from_parts(
            metadata(request.headers()),
            Extensions::default(),
            (),
        ))?;
        let timeout = timeout(request.headers())?;
        let message = self.message(request).await?;
        let mut call = known.map(|()| message);
        if let Some(timeout) = timeout {
            call.set_timeout(timeout);
        }
        let mut grpc = Grpc::new(self.grpc.clone());
        let Ok(()) = grpc.ready().await;
        let path = format!("/{}/{}", self.exposed.service, self.exposed.method);
        let path = PathAndQuery::try_from(path).expect("names of services and methods are letters and dots");
        let codec = Codec::new(self.method.output());
        if self.method.is_server_streaming() {
            let answered = grpc.server_streaming(call, path, codec).await?;
            return Ok((labels(answered.metadata()), lines(answered.into_inner())).into_response());
        }
        let answered = grpc.unary(call, path, codec).await?;
        let json = messages::write(answered.get_ref())?;
        let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, "no-store")];
        Ok((labels(answered.metadata()), headers, json).into_response())
    }

    /// Reads the message of a request.
    async fn message(&self, request: Request) -> Result<DynamicMessage, Refusal> {
        if self.exposed.verb == Verb::Get {
            return Ok(DynamicMessage::new(self.method.input()));
        }
        // A page of another site can send a form or plain text without asking whether it may, but not this.
        if !is_json(request.headers()) {
            let message = format!("content-type must be {JSON}");
            let refused = status::plain(Code::InvalidArgument, "CONTENT_TYPE_UNKNOWN", &message);
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, refused));
        }
        let arrives = tokio::time::timeout(ARRIVAL_MAX, Bytes::from_request(request, &()));
        let body = arrives.await.map_err(|_| {
            let late = arrival::late();
            Refusal::new(StatusCode::REQUEST_TIMEOUT, late)
        })?;
        let body = body.map_err(|refused| match refused.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let large = status::plain(Code::OutOfRange, "MESSAGE_TOO_LARGE", "body is over the limit");
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, large)
            }
            _ => Refusal::from(status::malformed()),
        })?;
        Ok(messages::read(self.method.input(), &body)?)
    }
}

/// Whether a body says that it is JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(content_type)) = headers.get(CONTENT_TYPE).map(HeaderValue::to_str) else { return false };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(JSON)
}

/// How long the caller waits, if it says so.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let refuse = |header: &str, description: String| {
        let mut violations = status::Violations::default();
        violations.add(header, description);
        status::invalid(&violations)
    };
    if headers.contains_key("grpc-timeout") {
        // The transport would end the call by it, in gRPC's way.
        return Err(refuse("grpc-timeout", format!("is for gRPC; here it is {TIMEOUT_HEADER}, in seconds")));
    }
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.parse::<f64>().ok());
    match seconds.filter(|seconds| *seconds > 0.0 && *seconds <= TIMEOUT_S_MAX) {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => {
            Err(refuse(TIMEOUT_HEADER, format!("must be seconds above 0, to {TIMEOUT_S_MAX}, such as 2.5")))
        }
    }
}

/// What of the headers belongs to the call and not to its HTTP message.
fn metadata(headers: &HeaderMap) -> MetadataMap {
    let carried =
        headers.iter().filter(|(name, _)| name.as_str().starts_with("x-") || CARRIED.contains(name));
    MetadataMap::from_headers(carried.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Labels of an answer, as headers.
fn labels(metadata: &MetadataMap) -> HeaderMap {
    let mut headers = metadata.clone().into_headers();
    let label = |name| headers.remove(name).map(|value| (HeaderName::from_static(name), value));
    LABELS.into_iter().filter_map(label).collect()
}

/// A stream as lines. What is late here is late for a reader, so proxies are asked not to collect it.
fn lines(events: Streaming<DynamicMessage>) -> Response {
    let line = |event: Result<DynamicMessage, Status>| {
        let json = event.and_then(|mut event| {
            refusal::rename(&mut event);
            messages::write(&event)
        });
        let mut line = json.unwrap_or_else(|status| refusal::line(&status));
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    };
    let headers = [
        (CONTENT_TYPE, JSON_LINES),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events.map(line))).into_response()
}
