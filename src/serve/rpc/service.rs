//! The service: decode, check, answer, encode; every call is counted once.
use super::{
    batch::{self, Batch},
    call::{Call, deadline},
    decode::{self, ARM_HEADER, Asked, Context, Headers, TENANT_HEADER},
    encode,
    labels::labels,
    proto::{self, generate_queries_event::Event, query_generation_service_server::QueryGenerationService},
    replies::{Replies, Sender, Sent},
    status,
};
use crate::{
    experiment::{
        assign::{assigned, policy},
        policy::Rung,
    },
    queries::QUERIES_MAX,
    serve::{
        answer::{Answerer, Asker, ServeError},
        batcher::Class,
        candidate::Seen,
        experiments::{InForce, enrolment::Enrolment},
        health::Health,
        ledger::Ledger,
        metrics::{Metrics, outcome::Outcome},
        models::Models,
        question::{Judged, Question},
        rerank::Method,
        settings::{CANDIDATES_MAX, ServeSettings},
        traces::{Trace, Traces},
    },
    telemetry::Chain,
};
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc::error::TrySendError;
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};
use tracing::{Instrument, warn};

/// What the service asks.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// Answers.
    pub answerer: Arc<Answerer>,
    /// Which model answers.
    pub models: Arc<Models>,
    /// The experiments.
    pub experiments: Arc<InForce>,
    /// Where answers under arms are noted.
    pub ledger: Arc<Ledger>,
    /// Whether work is accepted.
    pub health: Arc<Health>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Where traces begin.
    pub traces: Traces,
}

/// What the service knows.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
}

/// What calls share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) rooms: Rooms,
    limits: proto::Limits,
    /// How far an answer may fall short unless somebody says otherwise.
    lowest_rung: Rung,
    started: Instant,
}

impl Service {
    /// The service of one server, with the limits of its settings; the model may set a narrower one to prompts.
    pub fn new(rooms: Rooms, settings: &ServeSettings) -> Self {
        let limits = proto::Limits {
            candidate_count_max: encode::count(CANDIDATES_MAX),
            max_output_tokens: encode::count(settings.generation.output_tokens_max),
            prompt_tokens_max: encode::count(settings.generation.prompt_tokens_max),
            request_bytes_max: encode::count(settings.connections.message_bytes_max),
            queue_requests_max: encode::count(settings.engine.queue_requests_max),
            batch_requests_max: encode::count(batch::REQUESTS_MAX),
        };
        let lowest_rung = settings.degradation.lowest_rung;
        let shared = Shared { rooms, limits, lowest_rung, started: Instant::now() };
        Self { shared: Arc::new(shared) }
    }
}

/// A new id. It cannot be guessed: whoever has one reports what came of an answer, and hears of its arms.
pub(super) fn response_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Shared {
    fn call(&self, method: &'static str) -> Call {
        Call::new(&self.rooms.metrics, &self.rooms.health, method)
    }

    /// Refuses a request, or decodes it and gives its reader her arms.
    pub(super) fn asked(
        &self,
        message: proto::GenerateQueriesRequest,
        metadata: &MetadataMap,
        deadline: Option<Instant>,
        trace: &Trace,
    ) -> Result<Ask, Status> {
        let refuse = |outcome, status: Status| {
            self.rooms.metrics.outcome(outcome);
            status
        };
        if !self.rooms.health.is_accepting() {
            return Err(refuse(Outcome::Shed, status::status(&ServeError::Draining)));
        }
        let context = Context {
            output_tokens_max: self.limits.max_output_tokens as usize,
            headers: headers(metadata),
            deadline,
        };
        let asked = decode::asked(message, context)
            .map_err(|violations| refuse(Outcome::Rejected, status::invalid(&violations)))?;
        self.enrol(asked, trace.clone()).map_err(|error| refuse(Outcome::Rejected, status::status(&error)))
    }

    /// Decides experiments for a request, and with them which model answers and what the request leaves open.
    fn enrol(&self, asked: Asked, trace: Trace) -> Result<Ask, ServeError> {
        let experiments = self.rooms.experiments.now();
        let assignments = assigned(asked.entrant.decide(&asked.user, &experiments)?);
        let (config, explicit) = (experiments.digest.clone(), asked.wanted.explicit());
        let of_arms = policy(&assignments);
        let resident = of_arms.bundle.as_deref().map(|name| self.rooms.models.resident(name));
        let is_bundle_absent = matches!(resident, Some(None));
        let writer = resident.flatten().unwrap_or_else(|| self.rooms.models.serving());
        let enrolment = Arc::new(Enrolment { config, assignments, explicit, is_bundle_absent });
        let has_head = writer.facts.has_reward_head;
        let auto = if has_head { Method::RewardHead } else { Method::Consensus };
        // Of whom nothing is known can have nothing better, so only she herself or her arm can forbid it.
        let lowest_rung = match asked.class {
            _ if asked.signals.as_slice().is_empty() => Rung::Cohort,
            // Nobody waits for it, so a wait is no reason to answer with less.
            Class::Bulk => Rung::Full,
            Class::Interactive | Class::Default => self.lowest_rung,
        };
        let lowest_rung = asked.wanted.lowest_rung.or(of_arms.lowest_rung).unwrap_or(lowest_rung);
        let options = asked.wanted.with(&of_arms, auto);
        if options.method == Method::RewardHead && !has_head {
            return Err(ServeError::NoRewardHead);
        }
        let Asked {
            user,
            signals,
            class,
            cache,
            deadline,
            return_candidates,
            stream_queries,
            judged,
            correlation_id,
            ..
        } = asked;
        let (tenant, locale) = (asked.entrant.tenant, asked.entrant.locale);
        let rung = Rung::Full;
        let question = Question {
            user,
            tenant,
            locale,
            signals,
            options,
            class,
            cache,
            deadline,
            sees_growth: stream_queries,
            enrolment,
            writer,
            lowest_rung,
            rung,
            trace,
        };
        Ok(Ask { question, return_candidates, judged, correlation_id })
    }

    fn explained(
        &self,
        request: Request<proto::ExplainAssignmentRequest>,
    ) -> Result<proto::ExplainAssignmentResponse, Status> {
        let (metadata, _, message) = request.into_parts();
        let (user, entrant) = decode::explained(message, headers(&metadata))
            .map_err(|violations| status::invalid(&violations))?;
        let experiments = self.rooms.experiments.now();
        let decided = entrant.decide(&user, &experiments);
        let decided = decided.map_err(|error| status::status(&error.into()))?;
        let arms = encode::decisions(&decided);
        Ok(proto::ExplainAssignmentResponse {
            arms,
            policy: Some(encode::policy(&policy(&assigned(decided)))),
            config_digest: experiments.digest.clone(),
            config_version: experiments.version.clone().unwrap_or_default(),
        })
    }

    /// Answers; `watch` sees every candidate as it ends, and before that what the request wants to see. The response lacks `candidates`.
    pub(super) async fn answer(
        &self,
        asked: Ask,
        response_id: String,
        watch: impl FnMut(&Seen),
    ) -> Result<proto::GenerateQueriesResponse, Status> {
        let started = Instant::now();
        let (question, correlation_id) = (asked.question, asked.correlation_id);
        let user = question.user.clone();
        let asker = Asker { tenant: question.tenant.clone(), deadline: question.deadline };
        let enrolment = Arc::clone(&question.enrolment);
        let writer = Arc::clone(&question.writer);
        question.trace.asked(&question, &response_id);
        let lines = question.trace.log_span();
        let answered = self.rooms.answerer.answer(question, watch).instrument(lines.clone()).await;
        let answered = answered.map_err(|error| {
            let status = status::of_request(&error, &response_id);
            if status.code() == Code::Internal {
                lines.in_scope(|| warn!(response_id, error = %Chain(&error), "request failed"));
            }
            status
        })?;
        let reader = (asker.tenant.as_deref(), &user);
        self.rooms.ledger.expose(reader, &response_id, &enrolment, &answered).await;
        let verdicts = self.rooms.answerer.judge(&asker, &writer, asked.judged).await;
        let signal_verdicts = encode::verdicts(&verdicts);
        let response = encode::response(&answered.answer, answered.origin, started.elapsed());
        let candidates =
            if asked.return_candidates { encode::candidates(&answered.answer) } else { Vec::new() };
        let cost = encode::cost(&answered, self.rooms.metrics.price());
        Ok(proto::GenerateQueriesResponse {
            response_id,
            arms: encode::arms(&enrolment),
            candidates,
            correlation_id,
            signal_verdicts,
            cost,
            degradation: answered.degradation.map(encode::degradation),
            ..response
        })
    }
}

/// What of a request's metadata experiments read.
pub(super) fn headers(metadata: &MetadataMap) -> Headers<'_> {
    let all = |name| metadata.get_all(name).iter().map(|value| value.as_bytes());
    let (tenant, n_tenants) = (all(TENANT_HEADER).next(), all(TENANT_HEADER).count());
    Headers { tenant, n_tenants, arms: all(ARM_HEADER).collect() }
}

/// A request that can be answered.
pub(super) struct Ask {
    question: Question,
    return_candidates: bool,
    judged: Vec<Judged>,
    correlation_id: String,
}

impl Ask {
    /// The same where nothing is shown before the answer.
    pub(super) fn unseen(self) -> Self {
        Self { question: Question { sees_growth: false, ..self.question }, ..self }
    }
}

#[tonic::async_trait]
impl QueryGenerationService for Service {
    async fn generate_queries(
        &self,
        request: Request<proto::GenerateQueriesRequest>,
    ) -> Result<Response<proto::GenerateQueriesResponse>, Status> {
        let mut call = Call::traced(&self.shared.rooms, "GenerateQueries", request.metadata());
        let (metadata, _, message) = request.into_parts();
        let answered = match self.shared.asked(message, &metadata, deadline(&metadata), &call.trace) {
            Ok(asked) => self.shared.answer(asked.unseen(), response_id(), |_| {}).await,
            Err(status) => Err(status),
        };
        call.code = answered.as_ref().err().map_or(Code::Ok, Status::code);
        answered.map(|message| {
            let labels = labels(&message.arms, message.model.as_ref());
            let mut response = call.reply(message);
            *response.metadata_mut() = labels;
            response
        })
    }

    type StreamGenerateQueriesStream = Replies<proto::GenerateQueriesEvent>;

    async fn stream_generate_queries(
        &self,
        request: Request<proto::GenerateQueriesRequest>,
    ) -> Result<Response<Self::StreamGenerateQueriesStream>, Status> {
        let mut call = Call::traced(&self.shared.rooms, "StreamGenerateQueries", request.metadata());
        let (metadata, _, message) = request.into_parts();
        let asked = self.shared.asked(message, &metadata, deadline(&metadata), &call.trace);
        let asked = asked.inspect_err(|status| call.code = status.code())?;
        let response_id = response_id();
        let accepted = proto::Accepted {
            response_id: response_id.clone(),
            model: Some(encode::model(&asked.question.writer.facts)),
            arms: encode::arms(&asked.question.enrolment),
        };
        let labels = labels(&accepted.arms, accepted.model.as_ref());
        // Room for every event of the request, so that a slow reader holds nobody up.
        let (events, replies) = Replies::new(call, n_events_max(&asked.question));
        send(&events, Ok(Sent::More(Event::Accepted(accepted))));
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let watch = |seen: &Seen| send(&events, Ok(Sent::More(encode::seen(seen))));
            // The candidates were all sent one by one.
            let asked = Ask { return_candidates: false, ..asked };
            tokio::select! {
                answered = shared.answer(asked, response_id, watch) => {
                    send(&events, answered.map(|response| Sent::Last(Event::Done(response))));
                }
                () = events.closed() => {}
            }
        });
        Ok(Response::from_parts(labels, replies, Extensions::default()))
    }

    type BatchGenerateQueriesStream = Replies<proto::BatchGenerateQueriesItem>;

    async fn batch_generate_queries(
        &self,
        request: Request<proto::BatchGenerateQueriesRequest>,
    ) -> Result<Response<Self::BatchGenerateQueriesStream>, Status> {
        let mut call = self.shared.call("BatchGenerateQueries");
        let (metadata, _, message) = request.into_parts();
        let deadline = deadline(&metadata);
        let batch = Batch::new(message, metadata, deadline);
        let batch = batch.inspect_err(|status| call.code = status.code())?;
        let width = batch::width(self.shared.limits.queue_requests_max as usize);
        let (items, replies) = Replies::new(call, width);
        tokio::spawn(batch.run(Arc::clone(&self.shared), width, items));
        Ok(Response::new(replies))
    }

    async fn explain_assignment(
        &self,
        request: Request<proto::ExplainAssignmentRequest>,
    ) -> Result<Response<proto::ExplainAssignmentResponse>, Status> {
        let mut call = self.shared.call("ExplainAssignment");
        let explained = self.shared.explained(request);
        call.code = explained.as_ref().err().map_or(Code::Ok, Status::code);
        explained.map(|message| call.reply(message))
    }

    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        let mut call = self.shared.call("GetServerInfo");
        call.code = Code::Ok;
        let writer = self.shared.rooms.models.serving();
        let prompt_tokens_max = encode::count(writer.prompt_tokens_max);
        Ok(call.reply(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: Some(encode::model(&writer.facts)),
            limits: Some(proto::Limits { prompt_tokens_max, ..self.shared.limits }),
            uptime: encode::duration(self.shared.started.elapsed()),
        }))
    }
}

/// How many events answer a question: each candidate ends, and where that is seen grows with each of its queries before, in two generations if the first
/// is another's and ends before any has; and the answer begins and is done.
fn n_events_max(question: &Question) -> usize {
    let of_candidate = if question.sees_growth { 2 * QUERIES_MAX + 1 } else { 1 };
    question.options.n_candidates * of_candidate + 2
}

/// The channel has room for every event, so only a reader that is gone is not reached.
fn send(events: &Sender<proto::GenerateQueriesEvent>, event: Result<Sent<Event>, Status>) {
    let event = event.map(|event| event.map(|event| proto::GenerateQueriesEvent { event: Some(event) }));
    let sent = events.try_send(event);
    debug_assert!(!matches!(sent, Err(TrySendError::Full(_))), "a stream has more events than it may");
}
