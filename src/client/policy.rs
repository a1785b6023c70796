//! How calls behave that are not answered at once. The numbers of repetitions are those of deploy/clients/python/newshound_client/retry.json.
use std::{error::Error, time::Duration};
use tonic::{Code, Status, TimeoutExpired, metadata::MetadataMap};
use tonic_types::StatusExt;

/// Before the first repetition.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// From one to the next.
pub const BACKOFF_FACTOR: u32 = 2;
/// Longest a call may take: a day, as good as no limit, and far below what clocks and gRPC's headers can hold.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Where a server says when to come again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// What the transport says, as INTERNAL, where an answer ends within its message.
const CUT: &str = "Unexpected EOF decoding stream.";

/// Deadline, repetitions and copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a call may take, its repetitions included; at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
    /// How often a call is sent at most: 1 repeats nothing.
    pub attempts_max: u32,
    /// After how long without an answer `generate` sends a copy of the call, without the reader's key, so that proxies may choose another
    /// server. The first answer counts. A copy takes a model as long again.
    pub hedge_after: Option<Duration>,
}

impl Policy {
    /// Five seconds, longer than nearly every answer takes; three repetitions; no copies.
    pub const STANDARD: Self = Self { timeout: Duration::from_secs(5), attempts_max: 4, hedge_after: None };
    /// What the server says, and nothing else.
    pub const ONCE: Self = Self { attempts_max: 1, ..Self::STANDARD };

    /// How long to wait before a call that failed is sent again; none if it is not to be.
    ///
    /// `n_sent`: how often it was. `jitter`: 0.8 to 1.2, so that callers do not come again all at once. Source: gRFC A6.
    pub(super) fn pause(&self, status: &Status, n_sent: u32, jitter: f64) -> Option<Duration> {
        if n_sent >= self.attempts_max || !is_lost(status) {
            return None;
        }
        if let Some(pushback) = pushback(status.metadata()) {
            return pushback;
        }
        let backoff = BACKOFF_FIRST.saturating_mul(BACKOFF_FACTOR.saturating_pow(n_sent.saturating_sub(1)));
        Some(retry_delay(status).unwrap_or_else(|| backoff.min(BACKOFF_MAX).mul_f64(jitter)))
    }
}

/// Whether a call reached no server or lost it, so that another may answer it.
pub(super) fn is_lost(status: &Status) -> bool {
    matches!(code(status), Code::Unavailable | Code::Cancelled)
}

/// The code of a status. The transport keeps the deadline too and calls it CANCELLED, and has no code for a connection that broke, nor for an
/// answer that a proxy ended whose server it lost: servers never say UNKNOWN.
pub(super) fn code(status: &Status) -> Code {
    let mut causes = std::iter::successors(status.source(), |&cause| cause.source());
    if causes.any(|cause| cause.is::<TimeoutExpired>()) {
        return Code::DeadlineExceeded;
    }
    match (status.code(), status.message()) {
        (Code::Unknown, _) | (Code::Internal, CUT) => Code::Unavailable,
        (code, _) => code,
    }
}

/// When the server wants the call again, whatever way it says so.
pub(super) fn retry_after(status: &Status) -> Option<Duration> {
    pushback(status.metadata()).flatten().or_else(|| retry_delay(status))
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

/// What the server says to gRPC libraries: nothing, never again (any value that is no number of milliseconds), or when.
fn pushback(metadata: &MetadataMap) -> Option<Option<Duration>> {
    let said = metadata.get(PUSHBACK)?;
    Some(said.to_str().ok().and_then(|said| said.parse().ok()).map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    const POLICY: Policy = Policy::STANDARD;

    fn check(status: &Status, n_sent: u32, expected_ms: Option<u64>) {
        let expected = expected_ms.map(Duration::from_millis);
        assert_eq!(POLICY.pause(status, n_sent, 1.0), expected, "{status:?} after {n_sent}");
    }

    fn pushed(said: &'static str) -> Status {
        let mut status = Status::unavailable("");
        status.metadata_mut().insert(PUSHBACK, said.parse().unwrap());
        status
    }

    #[test]
    fn pauses_grow_to_a_limit_and_end_with_the_last_attempt() {
        for (n_sent, expected) in [(1, Some(50)), (2, Some(100)), (3, Some(200)), (4, None)] {
            check(&Status::unavailable(""), n_sent, expected);
        }
        let patient = Policy { attempts_max: u32::MAX, ..POLICY };
        for n_sent in [5, 1000] {
            assert_eq!(patient.pause(&Status::cancelled(""), n_sent, 1.0), Some(BACKOFF_MAX));
        }
        assert_eq!(POLICY.pause(&Status::unavailable(""), 1, 0.8), Some(Duration::from_millis(40)));
        assert_eq!(Policy::ONCE.pause(&Status::unavailable(""), 1, 1.0), None);
    }

    #[test]
    fn only_what_reached_no_server_is_sent_again() {
        check(&Status::cancelled(""), 1, Some(50));
        let refused =
            [Code::ResourceExhausted, Code::InvalidArgument, Code::DeadlineExceeded, Code::Internal];
        for code in refused {
            check(&Status::new(code, ""), 1, None);
        }
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!((broken.code(), code(&broken)), (Code::Unknown, Code::Unavailable));
        check(&broken, 1, Some(50));
    }

    #[test]
    fn a_server_says_when_to_come_again() {
        check(&pushed("1500"), 3, Some(1500));
        check(&pushed("0"), 1, Some(0));
        check(&pushed("-1"), 1, None);
        check(&pushed("soon"), 1, None);
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(700)));
        let draining = Status::with_error_details(Code::Unavailable, "", details);
        check(&draining, 2, Some(700));
        assert_eq!(retry_after(&draining), Some(Duration::from_millis(700)));
        assert_eq!(retry_after(&pushed("1500")), Some(Duration::from_millis(1500)));
        assert_eq!((retry_after(&pushed("-1")), retry_after(&Status::unavailable(""))), (None, None));
    }
}
