//! The feedback service: checks a report and hands it to the ledger.
use super::{
    call::Call,
    encode,
    proto::{self, feedback_service_server::FeedbackService},
    service::Rooms,
    status::{self, Violations},
};
use crate::{
    experiment::record::{Event, EventKind, Outcomes},
    queries::QUERIES_MAX,
    serve::experiments::log::now_unix_ms,
    signals::TIME_UNIX_S_MAX,
};
use prost_types::Timestamp;
use tonic::{Code, Request, Response, Status};

/// Limits that the proto promises.
const ID_BYTES_MAX: usize = 64;
const OUTCOMES_MAX: usize = 64;
const DWELL_S_MAX: f64 = 86_400.0;

/// Takes reports.
#[derive(Debug)]
pub struct Feedback {
    rooms: Rooms,
}

impl Feedback {
    /// The service of one server.
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms }
    }

    async fn report(
        &self,
        request: proto::ReportOutcomeRequest,
    ) -> Result<proto::ReportOutcomeResponse, Status> {
        let outcomes = outcomes(request).map_err(|violations| status::invalid(&violations))?;
        let reported = self.rooms.ledger.report(outcomes).await.map_err(status::feedback)?;
        Ok(proto::ReportOutcomeResponse {
            arms: reported.enrolment.map(|enrolment| encode::arms(&enrolment)).unwrap_or_default(),
            duplicate: reported.is_duplicate,
        })
    }
}

#[tonic::async_trait]
impl FeedbackService for Feedback {
    async fn report_outcome(
        &self,
        request: Request<proto::ReportOutcomeRequest>,
    ) -> Result<Response<proto::ReportOutcomeResponse>, Status> {
        let mut call = Call::new(&self.rooms.metrics, &self.rooms.health, "ReportOutcome");
        let reported = self.report(request.into_inner()).await;
        call.code = reported.as_ref().err().map_or(Code::Ok, Status::code);
        reported.map(|message| call.reply(message))
    }
}

/// Checks a report.
fn outcomes(request: proto::ReportOutcomeRequest) -> Result<Outcomes, Violations> {
    let mut violations = Violations::default();
    let (response_id, request_id) = (request.response_id, request.request_id);
    // Both are written to the log, which holds no text of clients: there is no place for one in these letters.
    let is_of_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    for (field, id) in [("response_id", &response_id), ("request_id", &request_id)] {
        if !(1..=ID_BYTES_MAX).contains(&id.len()) || !id.chars().all(is_of_id) {
            violations.add(field, format!("must be 1 to {ID_BYTES_MAX} hex digits and dashes"));
        }
    }
    let got = request.outcomes.len();
    let mut events = Vec::new();
    if (1..=OUTCOMES_MAX).contains(&got) {
        let read = request.outcomes.into_iter().enumerate();
        events.extend(read.filter_map(|(idx, outcome)| event(idx, &outcome, &mut violations)));
    } else {
        violations.add("outcomes", format!("must have 1 to {OUTCOMES_MAX} items, has {got}"));
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(Outcomes { time_unix_ms: now_unix_ms(), response_id, request_id, events })
}

fn event(idx: usize, outcome: &proto::Outcome, violations: &mut Violations) -> Option<Event> {
    let mut refuse = |name: &str, description: &str| {
        violations.add(&format!("outcomes[{idx}].{name}"), description.to_owned())
    };
    let what = match outcome.event() {
        proto::OutcomeEvent::Retrieved => Some(EventKind::Retrieved),
        proto::OutcomeEvent::Shown => Some(EventKind::Shown),
        proto::OutcomeEvent::Clicked => Some(EventKind::Clicked),
        proto::OutcomeEvent::Dwell => Some(EventKind::Dwell),
        proto::OutcomeEvent::Dismissed => Some(EventKind::Dismissed),
        // A number that is no event reads as this one.
        proto::OutcomeEvent::Unspecified => {
            refuse("event", "must be RETRIEVED, SHOWN, CLICKED, DWELL or DISMISSED");
            None
        }
    };
    let ranks = 1..=encode::count(QUERIES_MAX);
    if outcome.query_rank.is_some_and(|rank| !ranks.contains(&rank)) {
        refuse("query_rank", &format!("must be from 1 to {QUERIES_MAX}"));
    }
    match (what, outcome.value) {
        (Some(EventKind::Dwell), Some(seconds)) if (0.0..=DWELL_S_MAX).contains(&seconds) => {}
        (Some(EventKind::Dwell), _) => refuse("value", &format!("must be from 0 to {DWELL_S_MAX} seconds")),
        (Some(_), Some(_)) => refuse("value", "is only for DWELL"),
        (Some(_) | None, _) => {}
    }
    let time_unix_ms = outcome.event_time.map(unix_ms);
    if time_unix_ms == Some(None) {
        refuse("event_time", "must be from 1970 through 2199");
    }
    Some(Event {
        what: what?,
        query_rank: outcome.query_rank,
        value: outcome.value,
        time_unix_ms: time_unix_ms.flatten(),
    })
}

/// Milliseconds since 1970; none for a time that no report can have.
fn unix_ms(time: Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok().filter(|_| time.seconds < TIME_UNIX_S_MAX)?;
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(seconds * 1000 + nanos / 1_000_000)
}
