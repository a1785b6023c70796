//! The way of spans to the collector: a bounded queue that nobody waits for, and a task that sends what is in it.
use crate::{
    serve::{metrics::Metrics, rpc::collector::Collector},
    telemetry::Chain,
};
use axum::http::Uri;
use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Spans that may wait: what some hundreds of requests have, a few megabytes. Further ones are dropped and counted.
const SPANS_WAITING_MAX: usize = 4096;
/// Spans of one message, and how long they are gathered for it: few messages where there are many spans.
const SPANS_PER_MESSAGE_MAX: usize = 512;
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// How long the end of the server waits for the collector.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Where spans that ended are put.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

/// The task that sends spans.
#[derive(Debug)]
pub struct Sending {
    task: JoinHandle<()>,
    closing: CancellationToken,
}

/// A queue, and the task that empties it.
pub(super) fn open(collector: &Uri, resource: &Resource, metrics: &Arc<Metrics>) -> (Queue, Sending) {
    let (spans, waiting) = mpsc::channel(SPANS_WAITING_MAX);
    let closing = CancellationToken::new();
    let collector = Collector::new(collector.clone(), resource);
    let sender = Sender { waiting, collector, metrics: Arc::clone(metrics), is_failing: false };
    let task = tokio::spawn(sender.run(closing.clone()));
    (Queue { spans, metrics: Arc::clone(metrics) }, Sending { task, closing })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        match self.spans.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.metrics.spans("dropped", 1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        // What is queued is sent by the task, and what cannot be is counted.
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        // `Sending` ends the task, and waits for it.
        Ok(())
    }
}

impl Sending {
    /// Sends what waits, and ends; within two seconds, whatever the collector does.
    pub async fn close(self) {
        self.closing.cancel();
        let ending = self.task.abort_handle();
        if tokio::time::timeout(CLOSE_MAX, self.task).await.is_err() {
            ending.abort();
            warn!("spans that waited for the collector are lost");
        }
    }
}

struct Sender {
    waiting: mpsc::Receiver<SpanData>,
    collector: Collector,
    metrics: Arc<Metrics>,
    is_failing: bool,
}

impl Sender {
    /// Sends spans until it is told to close; then those that are left.
    async fn run(mut self, closing: CancellationToken) {
        loop {
            let mut gathered = Vec::new();
            tokio::select! {
                n_spans = self.waiting.recv_many(&mut gathered, SPANS_PER_MESSAGE_MAX) => if n_spans == 0 { return },
                () = closing.cancelled(), if !self.waiting.is_closed() => {
                    self.waiting.close();
                    continue;
                }
            }
            let until = Instant::now() + GATHERED_FOR;
            while gathered.len() < SPANS_PER_MESSAGE_MAX && !self.waiting.is_closed() {
                let room = SPANS_PER_MESSAGE_MAX - gathered.len();
                tokio::select! {
                    n_spans = self.waiting.recv_many(&mut gathered, room) => if n_spans == 0 { break },
                    () = closing.cancelled() => self.waiting.close(),
                    () = tokio::time::sleep_until(until) => break,
                }
            }
            self.send(gathered).await;
        }
    }

    async fn send(&mut self, spans: Vec<SpanData>) {
        let n_spans = spans.len() as u64;
        match self.collector.export(spans).await {
            Ok(n_rejected) => {
                self.metrics.spans("exported", n_spans.saturating_sub(n_rejected));
                self.metrics.spans("failed", n_rejected.min(n_spans));
                if std::mem::take(&mut self.is_failing) {
                    info!("collector takes spans again");
                }
            }
            Err(error) => {
                self.metrics.spans("failed", n_spans);
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!(error = %Chain(&error), "collector takes no spans; serving goes on");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{Span as _, Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    #[test]
    fn spans_beyond_the_queue_are_dropped_and_counted() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (spans, mut waiting) = mpsc::channel(2);
        let queue = Queue { spans, metrics: Arc::clone(&metrics) };
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        (0..3).for_each(|_| tracer.start("span").end());
        assert!(metrics.render().contains("newshound_trace_spans_total{result=\"dropped\"} 1"));
        assert_eq!((waiting.try_recv().is_ok(), waiting.try_recv().is_ok()), (true, true));
        waiting.close();
        tracer.start("span").end();
        assert!(metrics.render().contains("newshound_trace_spans_total{result=\"dropped\"} 2"));
    }
}
