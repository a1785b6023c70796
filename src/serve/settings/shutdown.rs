//! `[shutdown]`: how the server ends.
use super::milliseconds;
use crate::settings::Reader;
use std::time::Duration;

/// `[shutdown]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// `drain_deadline_ms`: after the signal, running requests may finish until then. Default 25,000: below the 30 s after which
    /// orchestrators kill.
    pub drain_deadline: Duration,
    /// `idle_grace_ms`: once no request runs, how long clients may take to close. Default 1,000: a client that stays silent would
    /// otherwise hold the process until the deadline.
    pub idle_grace: Duration,
}

impl ShutdownSettings {
    pub(super) fn demo() -> Self {
        Self { drain_deadline: Duration::from_secs(25), idle_grace: Duration::from_secs(1) }
    }
}

pub(super) fn read(reader: &mut Reader, default: ShutdownSettings) -> ShutdownSettings {
    ShutdownSettings {
        drain_deadline: milliseconds(reader, "shutdown.drain_deadline_ms", 3_600_000, default.drain_deadline),
        idle_grace: milliseconds(reader, "shutdown.idle_grace_ms", 60_000, default.idle_grace),
    }
}
