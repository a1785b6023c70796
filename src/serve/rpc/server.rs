//! The callers' port: gRPC and what is spoken beside it, HTTP/2 limits, and an end that no client can put off.
use super::{
    arrival,
    auth::Auth,
    connections::Doorstep,
    feedback::Feedback,
    json, labels,
    lives::Port,
    proto::{
        self, feedback_service_server::FeedbackServiceServer,
        query_generation_service_server::QueryGenerationServiceServer,
        reader_service_server::ReaderServiceServer,
    },
    reader::Reader,
    service::Service,
    web,
};
use crate::serve::{
    demo::Shelf,
    door::Door,
    health::Health,
    metrics::Metrics,
    playground,
    settings::{ConnectionSettings, DoorSettings, ShutdownSettings},
};
use axum::Router;
use std::{future::Future, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService,
    service::{Routes, interceptor::InterceptedService},
    transport::Server,
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};
use tower::util::MapRequestLayer;
use tower_http::request_id::PropagateRequestIdLayer;
use tracing::{info, warn};

/// HTTP/2 limits. The library's own are made for trusted peers; see the reasons beside each.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Streams reset by the peer before we accepted them (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams reset by us because of the peer's mistakes.
const LOCAL_RESETS_MAX: usize = 256;
/// Requests carry a handful of headers.
const HEADER_LIST_BYTES_MAX: u32 = 8 << 10;
/// Requests are kilobytes.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// A peer that does not answer a ping is gone, and its requests with it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server could not serve.
#[derive(Debug, Error)]
pub enum RpcError {
    /// The descriptors that we compiled in are broken.
    #[error("reflection could not be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Names of the services in health checks.
pub const SERVICE_NAMES: [&str; 3] = [
    <QueryGenerationServiceServer<Service> as NamedService>::NAME,
    <FeedbackServiceServer<Feedback> as NamedService>::NAME,
    <ReaderServiceServer<Reader> as NamedService>::NAME,
];

/// Everything the server needs.
#[derive(Debug)]
pub struct Rpc {
    /// The service.
    pub service: Service,
    /// The service that takes reports of outcomes.
    pub feedback: Feedback,
    /// The service that ends the use of what is kept of readers.
    pub reader: Reader,
    /// Answers health checks.
    pub health_service: HealthService,
    /// Knows what is under way.
    pub health: Arc<Health>,
    /// Where connections are counted.
    pub metrics: Arc<Metrics>,
    /// Who may come in. Health checks and reflection need no token.
    pub door: Door,
    /// What is spoken beside gRPC.
    pub doors: DoorSettings,
    /// What the playground shows beside what is pasted.
    pub shelf: Option<Arc<Shelf>>,
    /// Limits of connections.
    pub connections: ConnectionSettings,
    /// Limits of the end.
    pub shutdown: ShutdownSettings,
}

impl Rpc {
    /// Serves until `stop` resolves, then drains. Returns within the drain deadline whatever clients do.
    ///
    /// # Errors
    /// If the server cannot be built.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<(), RpcError> {
        let doorstep = Doorstep {
            settings: self.connections,
            certificates: self.door.certificates,
            open: self.metrics.connections_open(),
            metrics: Arc::clone(&self.metrics),
        };
        let services = Services {
            service: self.service,
            feedback: self.feedback,
            reader: self.reader,
            health: self.health_service,
            auth: Auth::new(self.door.readers, self.metrics),
            shelf: self.shelf,
        };
        let speaks_http1 = self.doors.json || self.doors.grpc_web;
        let routes = services.routes(&self.doors, self.connections.message_bytes_max)?;
        let draining = CancellationToken::new();
        let serving = Port { listener, doorstep, routes, speaks_http1 }.serve(draining.clone());
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => return Ok(()),
            () = stop => {}
        }
        self.health.draining().await;
        info!("draining");
        draining.cancel();
        tokio::select! {
            () = &mut serving => {}
            () = self.health.idle_for(self.shutdown.idle_grace) => info!("silent connections are cut"),
            () = tokio::time::sleep(self.shutdown.drain_deadline) => warn!("drain deadline passed, requests are cut"),
        }
        Ok(())
    }
}

/// What answers on the port.
struct Services {
    service: Service,
    feedback: Feedback,
    reader: Reader,
    health: HealthService,
    auth: Auth,
    shelf: Option<Arc<Shelf>>,
}

impl Services {
    /// Where what is answered, by whatever door.
    fn routes(self, doors: &DoorSettings, message_bytes_max: usize) -> Result<Router, RpcError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let service =
            QueryGenerationServiceServer::new(self.service).max_decoding_message_size(message_bytes_max);
        let feedback = FeedbackServiceServer::new(self.feedback).max_decoding_message_size(message_bytes_max);
        let reader = ReaderServiceServer::new(self.reader).max_decoding_message_size(message_bytes_max);
        let grpc = Routes::new(InterceptedService::new(service, self.auth.clone()))
            .add_service(InterceptedService::new(feedback, self.auth.clone()))
            .add_service(InterceptedService::new(reader, self.auth.clone()))
            .add_service(HealthServer::new(self.health))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let mut routes = grpc.clone().into_axum_router();
        if doors.grpc_web {
            routes = web::translating(routes, grpc.clone());
        }
        routes = routes.layer(MapRequestLayer::new(arrival::bounded));
        if doors.json {
            let json = json::routes(&grpc, &self.auth, message_bytes_max);
            routes = routes.merge(json).fallback(json::unknown_path);
        }
        if doors.playground {
            routes = routes.merge(playground::routes(self.shelf));
        }
        if !doors.web_origins.is_empty() {
            routes = routes.layer(web::letting(&doors.web_origins));
        }
        let routes = routes.layer(PropagateRequestIdLayer::x_request_id());
        Ok(routes.layer(MapRequestLayer::new(labels::with_short_id)))
    }
}

/// A server with our limits.
pub(super) fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}
