//! Errors on the wire: a code, and google.rpc details that a program can read.
use super::proto;
use crate::{
    experiment::assign::ForceError,
    serve::{
        answer::ServeError,
        ledger::LedgerError,
        models::{ModelsError, workshop::LoadError},
    },
    telemetry::Chain,
};
use prost::Message;
use std::{collections::HashMap, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt, pb};

/// The domain of every reason.
pub const DOMAIN: &str = "newshound.v1";

/// One broken field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `signals[3].text`.
    pub field: String,
    /// What it must be, and for numbers what it was. Never a text: that may be personal.
    pub description: String,
}

/// When to try again elsewhere: long enough for a client to hear that this server goes away and to connect to another.
const DRAINING_RETRY_AFTER: Duration = Duration::from_millis(100);

/// When to ask again for a reader to be forgotten: Redis is tried every second or so.
const SHARED_CACHE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// By how much longer a client is told to wait than is needed: all who are refused at one moment would else come back at one.
const RETRY_SPREAD: std::ops::Range<f64> = 1.0..1.5;

/// Most violations that are kept: more than `VIOLATION_BYTES_MAX` lets through. What follows is counted.
const VIOLATIONS_MAX: usize = 128;

/// The broken fields of a request: the first ones, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    first: Vec<Violation>,
    n_found: usize,
}

impl Violations {
    /// Adds one.
    pub fn add(&mut self, field: &str, description: String) {
        self.n_found += 1;
        if self.first.len() < VIOLATIONS_MAX {
            self.first.push(Violation { field: field.to_owned(), description });
        }
    }

    /// Whether nothing is broken.
    pub fn is_empty(&self) -> bool {
        self.n_found == 0
    }
}

/// The status of an error.
pub fn status(error: &ServeError) -> Status {
    let message = error.to_string();
    let plain = |code, reason| with_details(code, &message, reason, &[]);
    match error {
        ServeError::QueueFull { retry_after, .. } => busy(&message, "QUEUE_FULL", *retry_after),
        ServeError::TokenBacklog { retry_after, .. } => busy(&message, "TOKEN_BACKLOG", *retry_after),
        ServeError::QueueSlow { retry_after, .. } => busy(&message, "QUEUE_SLOW", *retry_after),
        ServeError::QueueAge { retry_after, .. } => busy(&message, "QUEUE_AGE", *retry_after),
        ServeError::TenantLimit { tenant, tokens_per_minute, retry_after } => {
            let facts = HashMap::from([("tokens_per_minute".to_owned(), tokens_per_minute.to_string())]);
            let mut details = ErrorDetails::with_error_info("TENANT_RATE_LIMIT", DOMAIN, facts);
            details.add_quota_failure_violation(format!("tenant:{tenant}"), &message);
            later((Code::ResourceExhausted, &message), details, Some(*retry_after))
        }
        ServeError::DeadlineUnreachable { takes, left, retry_after } => {
            let facts = [("estimated_ms", *takes), ("remaining_ms", *left)];
            let facts = facts.map(|(name, time)| (name.to_owned(), milliseconds(time).to_string()));
            let info = ErrorDetails::with_error_info("DEADLINE_UNREACHABLE", DOMAIN, HashMap::from(facts));
            later((Code::DeadlineExceeded, &message), info, *retry_after)
        }
        ServeError::ForgetBusy { retry_after } => busy(&message, "FORGET_BUSY", *retry_after),
        ServeError::ForgetLate => plain(Code::DeadlineExceeded, "FORGET_UNFINISHED"),
        ServeError::DeadlineHit => plain(Code::DeadlineExceeded, "DEADLINE_HIT"),
        ServeError::Draining => unavailable(&message, "DRAINING", DRAINING_RETRY_AFTER),
        ServeError::SharedCacheSilent => {
            unavailable(&message, "SHARED_CACHE_UNAVAILABLE", SHARED_CACHE_RETRY_AFTER)
        }
        ServeError::EngineGone => plain(Code::Unavailable, "ENGINE_GONE"),
        ServeError::NoRewardHead => plain(Code::FailedPrecondition, "NO_REWARD_HEAD"),
        ServeError::OnlyPersonalData => plain(Code::FailedPrecondition, "ONLY_PERSONAL_DATA"),
        ServeError::OnlySensitiveTopics => plain(Code::FailedPrecondition, "ONLY_SENSITIVE_TOPICS"),
        ServeError::NoSignals => {
            let mut violations = Violations::default();
            let sentence = "must have 1 item or more, as there is no list for everybody of the locale that the request allows";
            violations.add("signals", sentence.to_owned());
            invalid(&violations)
        }
        ServeError::Arm(ForceError::Unknown) => plain(Code::NotFound, "ARM_UNKNOWN"),
        ServeError::Arm(ForceError::NotAllowed { .. }) => {
            plain(Code::FailedPrecondition, "ARM_NOT_CHOOSABLE")
        }
        ServeError::NoValidList { n_candidates } => {
            let facts = [("candidates", n_candidates.to_string())];
            with_details(Code::NotFound, &message, "NO_VALID_LIST", &facts)
        }
        // What went wrong inside is logged where it happened; a client can do nothing with it.
        ServeError::Engine(_) | ServeError::Step(_) | ServeError::Cleaner(_) | ServeError::Panicked => {
            plain(Code::Internal, "ENGINE_FAULT")
        }
    }
}

/// The status of an error of the request that has this id: of what went wrong inside, the id is told too, by which it is found in the log.
pub fn of_request(error: &ServeError, request_id: &str) -> Status {
    let status = status(error);
    if status.code() != Code::Internal {
        return status;
    }
    let mut details = status.get_error_details();
    details.set_request_info(request_id, "");
    Status::with_error_details(status.code(), status.message(), details)
}

/// The status of one request among others.
pub fn of_item(status: &Status) -> proto::Status {
    let details = pb::Status::decode(status.details()).unwrap_or_default().details;
    proto::Status { code: status.code().into(), message: status.message().to_owned(), details }
}

/// When to come back with a report: the writer of the log takes a batch in less.
const RECORDS_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status of a report that is not taken.
pub fn feedback(error: LedgerError) -> Status {
    match error {
        LedgerError::Off => with_details(Code::FailedPrecondition, &error.to_string(), "FEEDBACK_OFF", &[]),
        LedgerError::Full => busy(&error.to_string(), "RECORDS_FULL", RECORDS_RETRY_AFTER),
    }
}

/// The status of a model that is not changed. Operators are told everything that is known.
pub fn models(error: &ModelsError) -> Status {
    let message = Chain(error).to_string();
    let plain = |code, reason| with_details(code, &message, reason, &[]);
    let precondition = |reason| plain(Code::FailedPrecondition, reason);
    match error {
        ModelsError::Off => precondition("MODELS_OFF"),
        ModelsError::FolderName => plain(Code::InvalidArgument, "FIELD_INVALID"),
        ModelsError::FolderUnknown { .. } => plain(Code::NotFound, "FOLDER_UNKNOWN"),
        ModelsError::Mismatch { current, .. } => {
            let facts = [("current_generation", current.to_string())];
            with_details(Code::Aborted, &message, "GENERATION_MISMATCH", &facts)
        }
        ModelsError::ResidentUnknown { .. } => plain(Code::NotFound, "RESIDENT_UNKNOWN"),
        ModelsError::Unknown { .. } => plain(Code::NotFound, "MODEL_UNKNOWN"),
        ModelsError::Full { models_max, .. } => {
            let facts = [("models_max", models_max.to_string())];
            with_details(Code::FailedPrecondition, &message, "MODELS_FULL", &facts)
        }
        ModelsError::HeadNeeded(_) => precondition("HEAD_NEEDED"),
        ModelsError::NoPrevious => precondition("NO_PREVIOUS_MODEL"),
        ModelsError::Load(LoadError::Thread(_) | LoadError::Panicked) => plain(Code::Internal, "LOAD_FAILED"),
        ModelsError::Load(
            LoadError::Bundle(_) | LoadError::Another { .. } | LoadError::Positions(_) | LoadError::Warm(_),
        ) => precondition("BUNDLE_REFUSED"),
        ModelsError::Stopping => plain(Code::Unavailable, "DRAINING"),
    }
}

/// Most bytes of violations in one status. Details travel in trailers, of which clients accept 8 KiB or less; a status beyond
/// that reaches nobody.
const VIOLATION_BYTES_MAX: usize = 4096;

/// The status of a request with broken fields: all of them at once, or as many as trailers can carry, and their number.
pub fn invalid(violations: &Violations) -> Status {
    let facts = HashMap::from([("violations".to_owned(), violations.n_found.to_string())]);
    let mut details = ErrorDetails::with_error_info("FIELD_INVALID", DOMAIN, facts);
    let mut n_bytes = 0;
    for violation in &violations.first {
        // The numbers and lengths of the encoding take a few bytes more than the words.
        n_bytes += violation.field.len() + violation.description.len() + 8;
        if n_bytes > VIOLATION_BYTES_MAX {
            break;
        }
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    let message = format!("{} field(s) are invalid", violations.n_found);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The status of a caller whom nobody knows.
pub fn unauthenticated(reason: &str, message: &str) -> Status {
    plain(Code::Unauthenticated, reason, message)
}

const MALFORMED: &str = "MESSAGE_MALFORMED";

/// The status of bytes that are no message.
pub fn malformed() -> Status {
    plain(Code::InvalidArgument, MALFORMED, "message could not be decoded")
}

/// The status of a text that is no message, and where; `field` is empty where it is none of JSON.
pub fn unreadable(field: &str, description: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(MALFORMED, DOMAIN, HashMap::new());
    details.add_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, "message could not be read", details)
}

/// A status with its reason, about which there is nothing more to say.
pub fn plain(code: Code, reason: &str, message: &str) -> Status {
    with_details(code, message, reason, &[])
}

fn unavailable(message: &str, reason: &str, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(spread(retry_after)));
    Status::with_error_details(Code::Unavailable, message, details)
}

fn busy(message: &str, reason: &str, retry_after: Duration) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    later((Code::ResourceExhausted, message), details, Some(retry_after))
}

/// What a client hears that is to come back, after `retry_after` or somewhat later where that is known; without it, nothing says that coming back is
/// of use.
fn later((code, message): (Code, &str), mut details: ErrorDetails, retry_after: Option<Duration>) -> Status {
    let retry_after = retry_after.map(spread);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    let mut status = Status::with_error_details(code, message, details);
    if let Some(retry_after) = retry_after {
        // What gRPC libraries with a retry policy obey by themselves; RetryInfo is for applications.
        status.metadata_mut().insert("grpc-retry-pushback-ms", milliseconds(retry_after).into());
    }
    status
}

fn spread(delay: Duration) -> Duration {
    Duration::try_from_secs_f64(delay.as_secs_f64() * rand::random_range(RETRY_SPREAD)).unwrap_or(delay)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn with_details(code: Code, message: &str, reason: &str, facts: &[(&str, String)]) -> Status {
    let facts: HashMap<String, String> =
        facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, facts))
}

/// Whether a code says that the server is at fault. Source: OpenTelemetry's semantic conventions for gRPC, status of server spans.
pub fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &ServeError, code: Code, reason: &str) -> Status {
        let status = status(error);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN));
        status
    }

    fn delay_of(status: &Status) -> Option<Duration> {
        status.get_error_details().retry_info().and_then(|info| info.retry_delay)
    }

    #[test]
    fn those_who_are_refused_together_are_not_told_to_come_back_together() {
        let retry_after = Duration::from_millis(1000);
        let told = |_| delay_of(&status(&ServeError::QueueFull { queued: 3, retry_after })).unwrap();
        let delays: std::collections::HashSet<Duration> = (0..32).map(told).collect();
        assert!(delays.len() > 16, "{delays:?}");
        assert!(
            delays.iter().all(|&delay| delay >= retry_after && delay < retry_after * 3 / 2),
            "{delays:?}"
        );
        assert_eq!(spread(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn every_error_has_a_code_and_a_reason() {
        let retry_after = Duration::from_millis(250);
        let full =
            check(&ServeError::QueueFull { queued: 3, retry_after }, Code::ResourceExhausted, "QUEUE_FULL");
        let told = delay_of(&full).unwrap();
        let pushback = full.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().to_owned();
        assert_eq!(pushback, told.as_millis().to_string());
        let aged = ServeError::QueueAge { waited_ms: 9, retry_after };
        check(&aged, Code::ResourceExhausted, "QUEUE_AGE");
        let backlog = ServeError::TokenBacklog { tokens: 1000, retry_after };
        check(&backlog, Code::ResourceExhausted, "TOKEN_BACKLOG");
        let slow = ServeError::QueueSlow { wait_max: retry_after, retry_after };
        check(&slow, Code::ResourceExhausted, "QUEUE_SLOW");
        let (takes, left) = (Duration::from_millis(900), Duration::from_millis(300));
        for retry_after in [None, Some(retry_after)] {
            let late = ServeError::DeadlineUnreachable { takes, left, retry_after };
            let late = check(&late, Code::DeadlineExceeded, "DEADLINE_UNREACHABLE");
            assert_eq!(late.metadata().contains_key("grpc-retry-pushback-ms"), retry_after.is_some());
            assert_eq!(delay_of(&late).is_some(), retry_after.is_some());
            let details = late.get_error_details();
            let facts = &details.error_info().unwrap().metadata;
            assert_eq!((facts["estimated_ms"].as_str(), facts["remaining_ms"].as_str()), ("900", "300"));
        }
        check(&ServeError::DeadlineHit, Code::DeadlineExceeded, "DEADLINE_HIT");
        let draining = check(&ServeError::Draining, Code::Unavailable, "DRAINING");
        assert!(delay_of(&draining).unwrap() >= DRAINING_RETRY_AFTER);
        let silent = check(&ServeError::SharedCacheSilent, Code::Unavailable, "SHARED_CACHE_UNAVAILABLE");
        assert!(delay_of(&silent).unwrap() >= SHARED_CACHE_RETRY_AFTER);
        check(&ServeError::EngineGone, Code::Unavailable, "ENGINE_GONE");
        check(&ServeError::NoRewardHead, Code::FailedPrecondition, "NO_REWARD_HEAD");
        check(&ServeError::NoValidList { n_candidates: 8 }, Code::NotFound, "NO_VALID_LIST");
        check(&ServeError::Arm(ForceError::Unknown), Code::NotFound, "ARM_UNKNOWN");
        let not_allowed = ForceError::NotAllowed { experiment: "x".to_owned() };
        check(&ServeError::Arm(not_allowed), Code::FailedPrecondition, "ARM_NOT_CHOOSABLE");
        check(&ServeError::Panicked, Code::Internal, "ENGINE_FAULT");
    }

    fn required(fields: impl Iterator<Item = String>) -> Violations {
        let mut violations = Violations::default();
        fields.for_each(|field| violations.add(&field, "is required".to_owned()));
        violations
    }

    #[test]
    fn all_broken_fields_are_told_at_once() {
        let fields = ["user.key", "signals[0].text"];
        let status = invalid(&required(fields.iter().map(|field| (*field).to_owned())));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let told: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(told, fields);
    }

    #[test]
    fn more_broken_fields_than_trailers_carry_are_counted() {
        let violations = required((0..1000).map(|idx| format!("signals[{idx}].text")));
        assert_eq!(violations.first.len(), VIOLATIONS_MAX);
        let status = invalid(&violations);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["violations"], "1000");
        let n_told = details.bad_request().unwrap().field_violations.len();
        assert!((50..VIOLATIONS_MAX).contains(&n_told), "{n_told}");
        assert!(status.details().len() < 6000, "{}", status.details().len());
    }
}
