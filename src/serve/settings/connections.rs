//! `[connections]`: connections and messages.
use super::milliseconds;
use crate::settings::Reader;
use std::time::Duration;

/// `[connections]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// `total_max`: open connections; where one more comes, the oldest that has said nothing yet is closed, or else that one. Default 4,096: far below the usual limit of descriptors.
    pub total_max: usize,
    /// `per_peer_max`: open connections of one IP address. Default 256: one client cannot take all places.
    pub per_peer_max: usize,
    /// `handshake_timeout_ms`: until when a new connection must have sent its HTTP/2 preface, or the head of its first request of HTTP/1.1. Default 5,000: who says nothing takes no
    /// place for long.
    pub handshake_timeout: Duration,
    /// `message_bytes_max`: largest request. Default 262,144: a full set of signals is a tenth of it.
    pub message_bytes_max: usize,
    /// `age_max_s`: after which a connection is told to reconnect, so that load balances again; a tenth more or less, each by a share of its own. Default
    /// 600: nobody reconnects often, and a server that is new has its share within minutes.
    pub age_max: Duration,
    /// `age_grace_s`: for how long it may still finish its calls; then it is cut. Default 300: longer than anybody waits for an answer. What lasts
    /// longer, as health watches and large batches do, is begun again on another connection.
    pub age_grace: Duration,
    /// `idle_timeout_s`: for how long a connection may be open without a call. Default 300: whoever asks once in five minutes keeps it, and what a
    /// client has left behind does not take a place for ever. A call that lasts keeps it open.
    pub idle_timeout: Duration,
}

impl ConnectionSettings {
    pub(super) fn demo() -> Self {
        Self {
            total_max: 4096,
            per_peer_max: 256,
            handshake_timeout: Duration::from_secs(5),
            message_bytes_max: 256 << 10,
            age_max: Duration::from_secs(600),
            age_grace: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

pub(super) fn read(reader: &mut Reader, default: ConnectionSettings) -> ConnectionSettings {
    let age_s = reader.whole("connections.age_max_s", 1..=86_400, default.age_max.as_secs());
    let grace_s = reader.whole("connections.age_grace_s", 1..=86_400, default.age_grace.as_secs());
    let idle_s = reader.whole("connections.idle_timeout_s", 1..=86_400, default.idle_timeout.as_secs());
    ConnectionSettings {
        total_max: reader.count("connections.total_max", 1..=1_000_000, default.total_max),
        per_peer_max: reader.count("connections.per_peer_max", 1..=1_000_000, default.per_peer_max),
        handshake_timeout: milliseconds(
            reader,
            "connections.handshake_timeout_ms",
            60_000,
            default.handshake_timeout,
        ),
        message_bytes_max: reader.count(
            "connections.message_bytes_max",
            1024..=16_777_216,
            default.message_bytes_max,
        ),
        age_max: Duration::from_secs(age_s),
        age_grace: Duration::from_secs(grace_s),
        idle_timeout: Duration::from_secs(idle_s),
    }
}
