//! Settings of the ways in beside gRPC.
use crate::settings::Reader;

/// `[doors]`: all of them are on the port of gRPC, with its TLS, tokens and limits, because `http_addr` is for operators and has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorSettings {
    /// `json`: whether JSON over HTTP is answered, as /v1/openapi.json describes it. Default true: it lets nobody in whom gRPC does not.
    pub json: bool,
}

impl DoorSettings {
    pub(super) fn demo() -> Self {
        Self { json: true }
    }
}

pub(super) fn read(reader: &mut Reader, default: DoorSettings) -> DoorSettings {
    DoorSettings { json: reader.switch("doors.json", default.json) }
}
