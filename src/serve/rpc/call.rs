//! One call, whatever it asks: counted once, and answered before its client stops waiting.
use super::{service::Rooms, status};
use crate::{
    client::refusal::code_word,
    serve::{
        health::{Health, InFlight},
        metrics::Metrics,
        traces::{Caller, Trace},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Code, Response, metadata::MetadataMap};

/// A call under way: counted when it ends, as cancelled if nothing else is known.
#[derive(Debug)]
pub(super) struct Call {
    method: &'static str,
    /// How it ended, or will if nothing else is known.
    pub(super) code: Code,
    started: Instant,
    /// What is told of its way; nothing of most calls.
    pub(super) trace: Trace,
    metrics: Arc<Metrics>,
    /// Absent where the end of the server does not wait for the call.
    in_flight: Option<InFlight>,
}

impl Call {
    /// Begins a call.
    pub(super) fn new(metrics: &Arc<Metrics>, health: &Arc<Health>, method: &'static str) -> Self {
        let mut call = Self::apart(metrics, method);
        call.in_flight = Some(health.enter());
        call
    }

    /// Begins a call whose way is traced.
    pub(super) fn traced(rooms: &Rooms, method: &'static str, metadata: &MetadataMap) -> Self {
        let mut call = Self::new(&rooms.metrics, &rooms.health, method);
        call.trace = trace(rooms, method, metadata);
        call
    }

    /// An answer to it, which is under way until all of its bytes are handed over: what is made is not yet sent.
    pub(super) fn reply<T>(&mut self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Some(in_flight) = self.in_flight.take() {
            response.extensions_mut().insert(Arc::new(in_flight));
        }
        response
    }

    /// Begins a call that the end of the server does not wait for.
    pub(super) fn apart(metrics: &Arc<Metrics>, method: &'static str) -> Self {
        metrics.rpc_in_flight(method).increment(1.0);
        let (metrics, started) = (Arc::clone(metrics), Instant::now());
        let (code, trace) = (Code::Cancelled, Trace::default());
        Self { method, code, started, trace, metrics, in_flight: None }
    }
}

/// Begins the trace of a call, or of a part of one that is a request of its own.
pub(super) fn trace(rooms: &Rooms, method: &'static str, metadata: &MetadataMap) -> Trace {
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
    rooms.traces.begin(method, Caller { parent: text("traceparent"), state: text("tracestate") })
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.rpc_in_flight(self.method).decrement(1.0);
        self.metrics.rpc_ended(self.method, code_word(self.code), self.started.elapsed());
        self.trace.end(code_word(self.code), status::is_fault(self.code));
    }
}

/// How much earlier than the client's deadline we answer, so that the reason still reaches it.
const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(50);

/// Until when the client waits, less a margin; none if it did not say.
pub(super) fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = (timeout / 10).min(DEADLINE_MARGIN_MAX);
    Instant::now().checked_add(timeout - margin)
}

/// Reads `grpc-timeout`: at most eight digits and a unit. Source: gRPC over HTTP/2, "Timeout".
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let check = |text: &str, expected: Option<Duration>| assert_eq!(timeout(text), expected, "{text}");
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("4m", Some(Duration::from_millis(4)));
        check("5u", Some(Duration::from_micros(5)));
        check("6n", Some(Duration::from_nanos(6)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "m", "1", "1x", "-1S", "+1S", "1.5S", "100000000S", "1ü"] {
            check(wrong, None);
        }
    }
}
