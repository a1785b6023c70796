//! Browsers that speak gRPC: gRPC-Web in front of the gRPC services, and which pages may call at all.
use super::{
    decode::ARM_HEADER,
    json::TIMEOUT_HEADER,
    labels::{GENERATION_HEADER, REQUEST_ID_HEADER},
};
use crate::client::USER_KEY;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, Method,
        header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
    },
    middleware::{self, Next},
    response::Response,
};
use std::time::Duration;
use tonic::service::Routes;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;

/// How a request of gRPC-Web is told, in text or not. Source: PROTOCOL-WEB.md of gRPC.
const GRPC_WEB: &[u8] = b"application/grpc-web";

/// What pages may send beside what browsers send by themselves. Not the tenant: that is told by a proxy or by a token.
const SENT: [HeaderName; 9] = [
    AUTHORIZATION,
    CONTENT_TYPE,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static(TIMEOUT_HEADER),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static(ARM_HEADER),
    HeaderName::from_static(REQUEST_ID_HEADER),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static(USER_KEY),
];

/// What scripts of pages may read of an answer.
const READ: [HeaderName; 7] = [
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-status-details-bin"),
    RETRY_AFTER,
    HeaderName::from_static(ARM_HEADER),
    HeaderName::from_static(GENERATION_HEADER),
    HeaderName::from_static(REQUEST_ID_HEADER),
];

/// How long a browser need not ask again whether it may call: the longest that one of them keeps to.
const ASKED_AGAIN: Duration = Duration::from_secs(7200);

/// Routes of the same services which answer what comes as gRPC-Web too.
pub(super) fn translating(routes: Router, grpc: Routes) -> Router {
    let translated = GrpcWebLayer::new().layer(grpc);
    routes.layer(middleware::from_fn_with_state(translated, translate))
}

async fn translate(
    State(translated): State<GrpcWebService<Routes>>,
    request: Request,
    next: Next,
) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !content_type.is_some_and(|content_type| content_type.starts_with(GRPC_WEB)) {
        return next.run(request).await;
    }
    let Ok(answered) = translated.oneshot(request).await;
    answered.map(Body::new)
}

/// Lets scripts of pages from these places call, and read what they get.
pub(super) fn letting(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(SENT)
        .expose_headers(READ)
        .max_age(ASKED_AGAIN)
}
