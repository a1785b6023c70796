//! Errors as google.rpc.Status in JSON, with the status of HTTP that stands for their code.
use super::{JSON, messages};
use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt, pb};

/// The field of an item of a batch that has no response, and of the last line of a stream that fails.
const ERROR: &str = "error";

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    http: StatusCode,
    status: Status,
}

impl Refusal {
    /// Where HTTP has a better word than the code of gRPC.
    pub(super) fn new(http: StatusCode, status: Status) -> Self {
        Self { http, status }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { http: http_status(status.code()), status }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, "no-store")];
        let mut response = (self.http, headers, body(&self.status)).into_response();
        if let Some(seconds) = retry_after_s(&self.status) {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.http == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The last line of a stream that fails.
pub(super) fn line(status: &Status) -> Vec<u8> {
    [format!("{{\"{ERROR}\":").as_bytes(), &body(status), b"}"].concat()
}

/// Names fields as JSON does where the error of one item of a batch tells of them.
pub(super) fn rename(item: &mut DynamicMessage) {
    // A field that is asked for is made up if it is not there.
    if !item.has_field_by_name(ERROR) {
        return;
    }
    if let Some(Value::Message(error)) = item.get_field_by_name_mut(ERROR) {
        let Ok(pb::Status { code, message, details }) = error.transcode_to() else { return };
        let bytes = pb::Status { code, message: message.clone(), details }.encode_to_vec();
        let renamed = named(&Status::with_details(Code::from(code), message, bytes.into()));
        // Both are google.rpc.Status, field for field.
        if let Ok(renamed) = DynamicMessage::decode(error.descriptor(), renamed.details()) {
            *error = renamed;
        }
    }
}

/// The status with its details in JSON.
fn body(status: &Status) -> Vec<u8> {
    let message = DynamicMessage::decode(messages::error(), named(status).details());
    let json = message.ok().and_then(|message| messages::write(&message).ok());
    json.expect("details that we encoded are messages of google.rpc")
}

/// The same status, its details with the names that JSON gives to fields.
fn named(status: &Status) -> Status {
    let mut details = status.get_error_details();
    if let Some(broken) = details.bad_request() {
        let violations = &broken.field_violations;
        let named =
            violations.iter().map(|broken| FieldViolation::new(camel(&broken.field), &broken.description));
        let named: Vec<_> = named.collect();
        details.set_bad_request(named);
    }
    Status::with_error_details(status.code(), status.message(), details)
}

/// When to come back, in whole seconds; no sooner than the details say.
fn retry_after_s(status: &Status) -> Option<u64> {
    let delay = status.get_error_details().retry_info()?.retry_delay?;
    Some(delay.as_secs() + u64::from(delay.subsec_nanos() > 0))
}

/// A path of fields in JSON's names: `signals[0].event_time` is `signals[0].eventTime`.
fn camel(path: &str) -> String {
    let mut camel = String::with_capacity(path.len());
    let mut after_underscore = false;
    for c in path.chars() {
        match c {
            '_' => after_underscore = true,
            c => {
                camel.push(if after_underscore { c.to_ascii_uppercase() } else { c });
                after_underscore = false;
            }
        }
    }
    camel
}

/// The status of HTTP for a code. Source: google/rpc/code.proto.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // HTTP has no word for it, and this is what proxies write into their logs.
        Code::Cancelled => StatusCode::from_u16(499).expect("from 100 to 999"),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::DataLoss | Code::Unknown | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::status;
    use super::*;
    use crate::serve::answer::ServeError;
    use std::time::Duration;

    #[test]
    fn paths_have_the_names_of_json() {
        let check = |path: &str, expected: &str| assert_eq!(camel(path), expected);
        check("signals[0].event_time", "signals[0].eventTime");
        check("options.candidate_count", "options.candidateCount");
        check("user.key", "user.key");
        check("x-newshound-tenant", "x-newshound-tenant");
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        for retry_after_ms in [1, 600, 1000, 1001] {
            let retry_after = Duration::from_millis(retry_after_ms);
            let status = status::status(&ServeError::QueueFull { queued: 3, retry_after });
            let told = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
            let response = Refusal::from(status).into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            let header: u64 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
            let header = Duration::from_secs(header);
            assert!(header >= told && header < told + Duration::from_secs(1), "{header:?} for {told:?}");
        }
    }

    #[test]
    fn an_error_without_details_is_one_too() {
        let json: serde_json::Value = serde_json::from_slice(&body(&Status::internal("broken"))).unwrap();
        assert_eq!(json, serde_json::json!({"code": 13, "message": "broken", "details": []}));
    }
}
