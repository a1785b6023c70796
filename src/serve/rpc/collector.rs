//! The client of a collector of traces: OTLP over gRPC, without TLS, which is for a collector on the same machine or a proxy.
use axum::http::Uri;
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    transform::{
        common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use std::{fmt, time::Duration};
use thiserror::Error;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// How long the collector may take for one message; what it has not taken by then is given up.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// The collector has not taken a message.
#[derive(Debug, Error)]
#[error("collector refused spans or cannot be reached")]
pub struct CollectorError(#[source] Status);

/// A collector.
pub struct Collector {
    client: TraceServiceClient<Channel>,
    resource: ResourceAttributesWithSchema,
}

impl fmt::Debug for Collector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector at an address, which is connected to with the first message, and again after every loss. `resource`: who sends.
    pub fn new(address: Uri, resource: &Resource) -> Self {
        let endpoint = Endpoint::from(address).timeout(EXPORT_MAX).connect_timeout(CONNECT_MAX);
        Self { client: TraceServiceClient::new(endpoint.connect_lazy()), resource: resource.into() }
    }

    /// Sends spans once; returns how many of them the collector did not want.
    ///
    /// # Errors
    /// If it took none.
    pub async fn export(&mut self, spans: Vec<SpanData>) -> Result<u64, CollectorError> {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let exported = self.client.export(ExportTraceServiceRequest { resource_spans }).await;
        let partly = exported.map_err(CollectorError)?.into_inner().partial_success;
        Ok(partly.map_or(0, |partly| u64::try_from(partly.rejected_spans).unwrap_or(0)))
    }
}
