//! Traces: what each request went through, for a collector that speaks OpenTelemetry's protocol (OTLP).
//!
//! Only this room and `rpc::collector` name OpenTelemetry. What others may say is closed: stages, numbers, and the facts that `facts`
//! reads. There is no way from here to a span for what a reader did, was told, or is called.
mod facts;
mod queue;

use crate::serve::{metrics::Metrics, settings::TelemetrySettings};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{
        Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};
pub use queue::Sending;
use std::{sync::Arc, time::SystemTime};

/// Who says so, in spans.
const SCOPE: &str = "newshound";

/// Begins traces; none are made where no collector is named.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    tracer: Option<SdkTracer>,
}

/// What a caller says of its own trace. Source: W3C Trace Context, sections 3.2 and 3.3.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// `traceparent`.
    pub parent: Option<&'a str>,
    /// `tracestate`.
    pub state: Option<&'a str>,
}

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.parent,
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Traces {
    /// Traces for the collector of the settings, and what sends them there; neither where none is named.
    pub fn open(settings: &TelemetrySettings, metrics: &Arc<Metrics>) -> (Self, Option<Sending>) {
        let Some(collector) = &settings.otlp_endpoint else { return (Self::default(), None) };
        // Made here and not found in the environment, which only binaries read.
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "newshound-server"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{:032x}", rand::random::<u128>())),
        ]);
        let resource = resource.build();
        let (queue, sending) = queue::open(collector, &resource, metrics);
        let of_roots = Sampler::TraceIdRatioBased(settings.trace_ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Sampler::ParentBased(Box::new(of_roots)))
            .with_resource(resource)
            .build();
        (Self { tracer: Some(provider.tracer(SCOPE)) }, Some(sending))
    }

    /// Begins the trace of a call, or goes on with that of its caller, who has decided then whether it is told to the collector.
    pub fn begin(&self, method: &'static str, caller: Caller<'_>) -> Trace {
        let above = match caller.parent {
            Some(_) => TraceContextPropagator::new().extract_with_context(&Context::new(), &caller),
            None => Context::new(),
        };
        let Some(tracer) = &self.tracer else {
            let is_traced = above.span().span_context().is_valid();
            return Trace(is_traced.then(|| Arc::new(Traced { tracer: None, context: above })));
        };
        let span = tracer.span_builder(method).with_kind(SpanKind::Server);
        let span = tracer.build_with_context(span, &above);
        let trace = Traced { tracer: Some(tracer.clone()), context: above.with_span(span) };
        trace.context.span().set_attributes(facts::call(method));
        Trace(Some(Arc::new(trace)))
    }
}

/// The trace of one call: cheap to clone, and nothing where there is none.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Traced>>);

#[derive(Debug)]
struct Traced {
    /// Absent where the caller has a trace, and we have no collector.
    tracer: Option<SdkTracer>,
    context: Context,
}

/// A part of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// An answer was found in the cache.
    Cache,
    /// It waits for what another request has begun.
    Coalesced,
    /// Signals are judged.
    Clean,
    /// The prompt is built.
    Tokenize,
    /// It waits for the model.
    Queue,
    /// The prompt goes through the model.
    Prefill,
    /// Lists are written.
    Decode,
    /// Lists that ended are parsed and scored.
    Rerank,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Coalesced => "coalesced",
            Self::Clean => "clean",
            Self::Tokenize => "tokenize",
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Rerank => "rerank",
        }
    }
}

/// A stage that has not ended; it ends when this is dropped.
#[derive(Debug)]
pub struct Open(Option<Span>);

impl Open {
    /// Adds a number.
    #[must_use]
    pub fn with(mut self, name: &'static str, number: usize) -> Self {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, facts::number(number)));
        }
        self
    }

    /// Ends it at a time.
    pub fn until(self, end: SystemTime) {
        if let Some(mut span) = self.0 {
            span.end_with_timestamp(end);
        }
    }
}

impl Trace {
    /// Begins a stage at a time.
    pub fn stage(&self, stage: Stage, from: SystemTime) -> Open {
        self.linked(stage, from, None)
    }

    /// Begins to wait for the work of another call, whose trace says what became of it.
    pub fn coalesced(&self, with: &Self) -> Open {
        self.linked(Stage::Coalesced, SystemTime::now(), with.span_context())
    }

    fn linked(&self, stage: Stage, from: SystemTime, other: Option<SpanContext>) -> Open {
        let Some(Traced { tracer: Some(tracer), context }) = self.0.as_deref() else { return Open(None) };
        let links = other.map(|other| Link::new(other, Vec::new(), 0)).into_iter().collect();
        let span = tracer.span_builder(stage.word()).with_start_time(from).with_links(links);
        Open(Some(tracer.build_with_context(span, context)))
    }

    /// Ends the call. `code`: the name of its gRPC code. `is_fault`: whether the server is at fault, as far as a code can tell.
    pub fn end(&self, code: &'static str, is_fault: bool) {
        let Some(traced) = &self.0 else { return };
        let span = traced.context.span();
        span.set_attributes(facts::ended(code));
        if is_fault {
            span.set_status(Status::error(code));
        }
        span.end();
    }

    /// What log lines of the call stand in: its trace id, where there is one. Of the highest level, so that no filter of levels loses it.
    pub fn log_span(&self) -> tracing::Span {
        match self.span_context() {
            Some(context) => tracing::error_span!("request", trace_id = %context.trace_id()),
            None => tracing::Span::none(),
        }
    }

    fn span_context(&self) -> Option<SpanContext> {
        Some(self.0.as_ref()?.context.span().span_context().clone()).filter(SpanContext::is_valid)
    }

    /// Adds what `facts` says, which is asked only if anybody wants to know.
    fn tell(&self, facts: impl FnOnce() -> Vec<KeyValue>) {
        let Some(traced) = &self.0 else { return };
        let span = traced.context.span();
        if span.is_recording() {
            span.set_attributes(facts());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn without_a_collector_a_callers_trace_is_known_and_nobody_elses() {
        let begun = |parent: Option<&str>| Traces::default().begin("m", Caller { parent, state: None });
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let trace = begun(Some(&parent));
        assert_eq!(trace.span_context().unwrap().trace_id().to_string(), TRACE);
        assert!(trace.stage(Stage::Queue, SystemTime::now()).0.is_none());
        for wrong in [None, Some(""), Some("00-0-0-01"), Some("no parent"), Some(&parent[..40])] {
            assert!(begun(wrong).span_context().is_none(), "{wrong:?}");
        }
    }
}
