//! The operators' port: /metrics for Prometheus, /healthz for probes.
use crate::serve::{
    health::Health,
    metrics::Metrics,
    rpc::{connections::Doorstep, lives::Port},
    settings::ConnectionSettings,
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics::Gauge;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

/// Serves until the future is dropped, with places of its own: however many clients there are, this port can be reached.
pub async fn serve(
    listener: TcpListener,
    settings: ConnectionSettings,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
) {
    // Who scrapes would count itself.
    let open = Gauge::noop();
    let doorstep = Doorstep { settings, certificates: None, open, metrics: Arc::clone(&metrics) };
    let routes = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthz))
        .with_state(Shared { metrics, health });
    Port { listener, doorstep, routes, speaks_http1: true }.serve(CancellationToken::new()).await;
}

async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    // The system's files on the process are read for it, one for each connection.
    match tokio::task::spawn_blocking(move || shared.metrics.render()).await {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// 200 while work is accepted, 503 while draining.
async fn healthz(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.health.is_accepting() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    }
}
