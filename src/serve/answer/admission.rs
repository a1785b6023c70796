//! The door: what is done for a question of which no fresh answer is stored, before anything is computed for it.
use crate::{
    experiment::policy::Rung,
    serve::{
        answer::ServeError,
        engine::{Deadline, EngineError, Ticket, Work},
        flights::Flight,
        ladder::{self, Decision, Offer, Refusal, Situation, Step, Why},
        metrics::Metrics,
        question::{Options, Question},
        settings::DegradationSettings,
        tenants::{Budgets, Charge, Exhausted},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How far an answer fell short of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degradation {
    /// How far; never `Rung::Full`.
    pub rung: Rung,
    /// Why.
    pub why: Why,
}

impl Degradation {
    /// That of a step, if it falls short.
    pub(super) fn of(step: &Step) -> Option<Self> {
        step.why.map(|why| Self { rung: step.rung, why })
    }
}

/// Decides what is done for a question, and records how long that is expected to take.
pub(super) fn decide(settings: &DegradationSettings, question: &Question, metrics: &Metrics) -> Decision {
    let engine = &question.writer.engine;
    let offer = |rung, options: &Options| {
        let work = work(question, options);
        let (wait, has_place) = (engine.wait(&work, question.class), engine.has_place(&work, question.class));
        Offer { rung, wait, work: engine.takes(&work).unwrap_or_default(), has_place }
    };
    let less = |rung| Some(offer(rung, &question.options.at(rung)?));
    let offers = [Some(offer(Rung::Full, &question.options)), less(Rung::Fewer), less(Rung::Greedy)];
    let offers: Vec<Offer> = offers.into_iter().flatten().collect();
    let wait_max = engine.wait_max(question.class);
    let situation = Situation {
        offers: &offers,
        wait: engine.wait(&work(question, &question.options), question.class),
        wait_max,
        left: question.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
        lowest: question.lowest_rung,
    };
    // In a short queue every wait counts for as much more.
    let waits = settings.waits.shortened(wait_max.div_duration_f64(engine.usual_wait_max()));
    let decision = ladder::decide(&waits, &situation);
    if matches!(decision.otherwise, Err(Refusal::Wait { .. })) {
        engine.overflowed(question.class);
    }
    if let Ok(step) = decision.otherwise {
        metrics.expected(step.takes);
    }
    decision
}

/// Charges a question's tenant with the most that it can take of the model.
pub(super) fn charge(budgets: &Arc<Budgets>, question: &Question) -> Result<Charge, Exhausted> {
    let Work { prompt_tokens, rows, row_tokens_max } = work(question, &question.options);
    let tokens = prompt_tokens.saturating_add(rows.saturating_mul(row_tokens_max));
    budgets.charge(question.tenant.as_deref(), tokens, Instant::now())
}

/// What a question is told whose tenant's budget is used up.
pub(super) fn exhausted(exhausted: Exhausted, question: &Question, metrics: &Metrics) -> ServeError {
    let Exhausted { tokens_per_minute, retry_after } = exhausted;
    metrics.admission(question.class, "refused");
    metrics.tenant_limited(retry_after);
    let tenant = question.tenant.clone().unwrap_or_default();
    ServeError::TenantLimit { tenant, tokens_per_minute, retry_after }
}

/// Takes a place in the queue for those who wait for the answer to a question.
pub(super) fn place(question: &Question, flight: &Flight) -> Result<Ticket, EngineError> {
    let (work, precedence) = (work(question, &question.options), Arc::clone(&flight.precedence));
    question.writer.engine.admit(&work, precedence)
}

/// The same at the door.
pub(super) fn ticket(question: &Question, flight: &Flight, metrics: &Metrics) -> Result<Ticket, EngineError> {
    let ticket = place(question, flight);
    metrics.admission(question.class, if ticket.is_ok() { "admitted" } else { "refused" });
    if ticket.is_err() {
        metrics.degraded("refused", Why::Pressure);
    }
    ticket
}

/// How long a question can wait for another server, at most `most`: whoever waits for it must still have time for its generation here,
/// which is half of the time where nobody knows how long it takes.
pub(super) fn patience(question: &Question, deadline: &Deadline, most: Duration) -> Duration {
    let Some(left) = deadline.left(Instant::now()) else { return most };
    let takes = question.writer.engine.takes(&work(question, &question.options)).unwrap_or(left / 2);
    most.min(left.saturating_sub(takes))
}

/// What a question is told that nothing is generated for.
pub(super) fn refused(refusal: Refusal, question: &Question, metrics: &Metrics) -> ServeError {
    let retry_after = question.writer.engine.retry_after();
    match refusal {
        Refusal::Wait { wait_max } => {
            metrics.refused("wait", retry_after);
            ServeError::QueueSlow { wait_max, retry_after }
        }
        Refusal::Deadline { takes, cause } => {
            metrics.deadline_missed("door", 1);
            let left = question.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let retry_after = (cause == Why::Pressure).then_some(retry_after);
            ServeError::DeadlineUnreachable { takes, left: left.unwrap_or(Duration::ZERO), retry_after }
        }
    }
}

/// What a question asks of the model, by the length of its signals: they are neither cleaned nor cut into tokens yet.
fn work(question: &Question, options: &Options) -> Work {
    let writer = &question.writer;
    Work {
        prompt_tokens: writer.engine.prompt_tokens(question.n_bytes(), writer.prompt_tokens_max),
        rows: options.n_candidates,
        row_tokens_max: options.max_output_tokens,
    }
}
