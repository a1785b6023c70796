//! Why a call was not answered.
use super::{policy, proto};
use prost::Message;
use std::{fmt, time::Duration};
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

/// An error of gRPC, as far as a program can read it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Its code. UNAVAILABLE and CANCELLED are those that were sent again in vain.
    pub code: Code,
    /// The reason of its ErrorInfo, such as QUEUE_FULL: see `query_generation.proto`. Empty where it has none.
    pub reason: String,
    /// What the server says to people.
    pub message: String,
    /// When to come again, where the server says so.
    pub retry_after: Option<Duration>,
    /// Fields that are wrong, each with what it must be.
    pub violations: Vec<(String, String)>,
}

impl Refusal {
    /// One that says no more than its code.
    pub fn new(code: Code, message: &str) -> Self {
        let (reason, message) = (String::new(), message.to_owned());
        Self { code, reason, message, retry_after: None, violations: Vec::new() }
    }

    /// What a status says.
    pub(crate) fn of(status: &Status) -> Self {
        let found = status.get_error_details();
        let violations = found.bad_request().into_iter().flat_map(|bad| &bad.field_violations);
        Self {
            code: policy::code(status),
            reason: found.error_info().map_or_else(String::new, |info| info.reason.clone()),
            message: status.message().to_owned(),
            retry_after: policy::retry_after(status),
            violations: violations.map(|bad| (bad.field.clone(), bad.description.clone())).collect(),
        }
    }

    pub(super) fn late() -> Self {
        Self::new(Code::DeadlineExceeded, "the time for the call is over")
    }

    /// Its code and reason, such as `RESOURCE_EXHAUSTED QUEUE_FULL`.
    pub fn kind(&self) -> String {
        format!("{} {}", code_word(self.code), self.reason).trim_end().to_owned()
    }
}

/// What became of one request of a batch.
impl From<proto::Status> for Refusal {
    fn from(status: proto::Status) -> Self {
        let proto::Status { code, message, details } = status;
        let encoded = pb::Status { code, message: message.clone(), details }.encode_to_vec();
        Self::of(&Status::with_details(Code::from(code), message, encoded.into()))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", code_word(self.code), self.message)?;
        if !self.reason.is_empty() {
            write!(out, " ({})", self.reason)?;
        }
        self.violations.iter().try_for_each(|(field, must)| write!(out, "\n  {field} {must}"))
    }
}

/// The name of a code in the specification of gRPC.
pub fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
