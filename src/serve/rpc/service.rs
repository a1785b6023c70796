//! The service: decode, check, answer, encode; every call is counted once.
use super::{
    decode::{self, Asked, Context},
    encode::{self, ModelFacts},
    proto::{self, generate_queries_event::Event, query_generation_service_server::QueryGenerationService},
    status,
};
use crate::serve::{
    answer::{Answerer, ServeError},
    candidate::Candidate,
    health::{Health, InFlight},
    metrics::{Metrics, Outcome},
    rerank::Method,
    settings::{CANDIDATES_MAX, ServeSettings},
};
use crate::telemetry::Chain;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use tracing::warn;

/// How much earlier than the client's deadline we answer, so that the reason still reaches it.
const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(50);

/// What the service knows.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    answerer: Arc<Answerer>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    model: ModelFacts,
    limits: proto::Limits,
    started: Instant,
    /// Response ids: random per process, then counted.
    process: u64,
    n_responses: AtomicU64,
}

impl Service {
    /// The service of one server. `prompt_tokens_max` and `output_tokens_max`: what the model and the settings allow.
    pub fn new(
        answerer: Arc<Answerer>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        model: ModelFacts,
        settings: &ServeSettings,
    ) -> Self {
        let limits = proto::Limits {
            candidate_count_max: encode::count(CANDIDATES_MAX),
            max_output_tokens: encode::count(settings.generation.output_tokens_max),
            prompt_tokens_max: encode::count(settings.generation.prompt_tokens_max),
            request_bytes_max: encode::count(settings.connections.message_bytes_max),
            queue_requests_max: encode::count(settings.engine.queue_requests_max),
        };
        let (started, process, n_responses) = (Instant::now(), rand::random(), AtomicU64::new(0));
        let shared = Shared { answerer, health, metrics, model, limits, started, process, n_responses };
        Self { shared: Arc::new(shared) }
    }
}

impl Shared {
    fn response_id(&self) -> String {
        format!("{:016x}-{}", self.process, self.n_responses.fetch_add(1, Ordering::Relaxed))
    }

    /// Refuses or decodes a request.
    fn asked(&self, request: Request<proto::GenerateQueriesRequest>) -> Result<Asked, Status> {
        let refuse = |error: &ServeError| {
            self.metrics.outcome(Outcome::Shed);
            status::status(error)
        };
        if !self.health.is_accepting() {
            return Err(refuse(&ServeError::Draining));
        }
        let context = Context {
            output_tokens_max: self.limits.max_output_tokens as usize,
            has_reward_head: self.model.has_reward_head,
            has_cleaner: self.model.has_cleaner,
            deadline: deadline(request.metadata()),
        };
        let rejected = |status: Status| {
            self.metrics.outcome(Outcome::Rejected);
            status
        };
        let asked = decode::asked(request.into_inner(), context)
            .map_err(|violations| rejected(status::invalid(&violations)))?;
        if asked.question.options.method == Method::RewardHead && !self.model.has_reward_head {
            return Err(rejected(status::status(&ServeError::NoRewardHead)));
        }
        Ok(asked)
    }

    /// Answers; `watch` sees every candidate as it ends. The response lacks `candidates`.
    async fn answer(
        &self,
        asked: Asked,
        response_id: String,
        watch: impl FnMut(&Arc<Candidate>),
    ) -> Result<proto::GenerateQueriesResponse, Status> {
        let started = Instant::now();
        let (question, correlation_id) = (asked.question, asked.correlation_id);
        let answered = self.answerer.answer(question, watch).await;
        let (answer, origin) = answered.map_err(|error| status::status(&error))?;
        let verdicts = match asked.judged.is_empty() {
            true => Vec::new(),
            // They are extra: an answer that is there is not lost with them.
            false => self.answerer.verdicts(asked.judged).await.unwrap_or_else(|error| {
                warn!(error = %Chain(&error), "signals have no verdicts");
                Vec::new()
            }),
        };
        let signal_verdicts = encode::verdicts(&verdicts);
        let response = encode::response(&answer, origin, started.elapsed());
        let candidates = if asked.return_candidates { encode::candidates(&answer) } else { Vec::new() };
        let model = Some(self.model.encode());
        Ok(proto::GenerateQueriesResponse {
            response_id,
            model,
            candidates,
            correlation_id,
            signal_verdicts,
            ..response
        })
    }
}

#[tonic::async_trait]
impl QueryGenerationService for Service {
    async fn generate_queries(
        &self,
        request: Request<proto::GenerateQueriesRequest>,
    ) -> Result<Response<proto::GenerateQueriesResponse>, Status> {
        let mut call = Call::new(&self.shared, "GenerateQueries");
        let answered = match self.shared.asked(request) {
            Ok(asked) => self.shared.answer(asked, self.shared.response_id(), |_| {}).await,
            Err(status) => Err(status),
        };
        call.code = answered.as_ref().err().map_or(Code::Ok, Status::code);
        answered.map(Response::new)
    }

    type StreamGenerateQueriesStream = EventStream;

    async fn stream_generate_queries(
        &self,
        request: Request<proto::GenerateQueriesRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let mut call = Call::new(&self.shared, "StreamGenerateQueries");
        let asked = self.shared.asked(request).inspect_err(|status| call.code = status.code())?;
        let response_id = self.shared.response_id();
        let accepted =
            proto::Accepted { response_id: response_id.clone(), model: Some(self.shared.model.encode()) };
        // Room for every event of the request, so that a slow reader holds nobody up.
        let (events, receiver) = mpsc::channel(asked.question.options.n_candidates + 2);
        send(&events, Ok(event(Event::Accepted(accepted))));
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let watch = |candidate: &Arc<Candidate>| {
                let list = Some(encode::list(candidate, usize::MAX));
                let candidate = proto::Candidate { list, best_so_far: candidate.best_so_far };
                send(&events, Ok(event(Event::Candidate(candidate))));
            };
            // The candidates were all sent one by one.
            let asked = Asked { return_candidates: false, ..asked };
            tokio::select! {
                answered = shared.answer(asked, response_id, watch) => {
                    let done = |response| event(Event::Done(response));
                    send(&events, answered.map(done));
                }
                () = events.closed() => {}
            }
        });
        Ok(Response::new(EventStream { events: receiver, call }))
    }

    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        let mut call = Call::new(&self.shared, "GetServerInfo");
        call.code = Code::Ok;
        Ok(Response::new(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: Some(self.shared.model.encode()),
            limits: Some(self.shared.limits),
            uptime: encode::duration(self.shared.started.elapsed()),
        }))
    }
}

/// The events of one streaming call: the last one is `done` or an error, whatever becomes of the task that sends them.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Result<proto::GenerateQueriesEvent, Status>>,
    call: Call,
}

impl Stream for EventStream {
    type Item = Result<proto::GenerateQueriesEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.events.poll_recv(context);
        match &polled {
            Poll::Ready(Some(Err(status))) => self.call.code = status.code(),
            Poll::Ready(Some(Ok(event))) if matches!(event.event, Some(Event::Done(_))) => {
                self.call.code = Code::Ok;
            }
            // The task ended without a last word, so it panicked.
            Poll::Ready(None) if self.call.code == Code::Cancelled => {
                let status = status::status(&ServeError::Panicked);
                self.call.code = status.code();
                return Poll::Ready(Some(Err(status)));
            }
            Poll::Ready(_) | Poll::Pending => {}
        }
        polled
    }
}

fn event(event: proto::generate_queries_event::Event) -> proto::GenerateQueriesEvent {
    proto::GenerateQueriesEvent { event: Some(event) }
}

/// The channel has room for every event, so only a reader that is gone is not reached.
fn send(
    events: &mpsc::Sender<Result<proto::GenerateQueriesEvent, Status>>,
    event: Result<proto::GenerateQueriesEvent, Status>,
) {
    let _ = events.try_send(event);
}

/// A call under way: counted when it ends, as cancelled if nothing else is known.
#[derive(Debug)]
struct Call {
    method: &'static str,
    code: Code,
    started: Instant,
    metrics: Arc<Metrics>,
    _in_flight: InFlight,
}

impl Call {
    fn new(shared: &Arc<Shared>, method: &'static str) -> Self {
        shared.metrics.rpc_in_flight(method).increment(1.0);
        let (metrics, in_flight) = (Arc::clone(&shared.metrics), shared.health.enter());
        Self { method, code: Code::Cancelled, started: Instant::now(), metrics, _in_flight: in_flight }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.rpc_in_flight(self.method).decrement(1.0);
        self.metrics.rpc_ended(self.method, status::code_word(self.code), self.started.elapsed());
    }
}

/// Until when the client waits, less a margin; none if it did not say.
fn deadline(metadata: &MetadataMap) -> Option<Instant> {
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
    use tokio_stream::StreamExt;
    use tonic_health::server::HealthReporter;

    /// What a client sees of a task that sends these events and ends.
    async fn seen(sent: Vec<Event>) -> Vec<Result<proto::GenerateQueriesEvent, Code>> {
        let metrics = Arc::new(Metrics::new(1).unwrap());
        let health = Health::new(HealthReporter::new(), Vec::new(), Arc::clone(&metrics)).await;
        let (sender, events) = mpsc::channel(sent.len());
        sent.into_iter().for_each(|sent| send(&sender, Ok(event(sent))));
        drop(sender);
        let (code, started, in_flight) = (Code::Cancelled, Instant::now(), health.enter());
        let call = Call { method: "StreamGenerateQueries", code, started, metrics, _in_flight: in_flight };
        let stream = EventStream { events, call };
        stream.map(|item| item.map_err(|status| status.code())).collect().await
    }

    #[tokio::test]
    async fn a_stream_whose_task_ends_without_a_last_word_ends_with_one_error() {
        let accepted = Event::Accepted(proto::Accepted::default());
        let expected = vec![Ok(event(accepted.clone())), Err(Code::Internal)];
        assert_eq!(seen(vec![accepted]).await, expected);
    }

    #[tokio::test]
    async fn a_stream_that_is_done_ends_without_an_error() {
        let done = Event::Done(proto::GenerateQueriesResponse::default());
        assert_eq!(seen(vec![done.clone()]).await, vec![Ok(event(done))]);
    }

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
