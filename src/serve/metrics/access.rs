//! Metrics of connections, and of who may come in.
use super::Metrics;
use metrics::Gauge;

impl Metrics {
    pub(super) fn show_access_from_the_start(&self) {
        for reason in ["total", "per_peer", "handshake", "tls"] {
            self.counter("newshound_connections_refused_total", &[("reason", reason)]).increment(0);
        }
        for reason in ["missing", "unknown"] {
            self.counter("newshound_access_refused_total", &[("reason", reason)]).increment(0);
        }
        for file in ["tokens", "certificates"] {
            self.gauge("newshound_access_files_refused", &[("file", file)]).set(0.0);
            for result in ["loaded", "refused"] {
                let labels = [("file", file), ("result", result)];
                self.counter("newshound_access_reads_total", &labels).increment(0);
            }
        }
    }

    /// Open connections.
    pub fn connections_open(&self) -> Gauge {
        self.gauge("newshound_connections_open", &[])
    }

    /// Counts a connection closed before a call: `total`, `per_peer`, `handshake` or `tls`.
    pub fn connection_refused(&self, reason: &'static str) {
        self.counter("newshound_connections_refused_total", &[("reason", reason)]).increment(1);
    }

    /// Counts a connection that was closed because nobody called on it.
    pub fn connection_idled(&self) {
        self.counter("newshound_connections_idled_total", &[]).increment(1);
    }

    /// Counts a call without a token (`missing`), or with one that nobody has (`unknown`).
    pub fn access_refused(&self, reason: &'static str) {
        self.counter("newshound_access_refused_total", &[("reason", reason)]).increment(1);
    }

    /// Counts a change of a file: `tokens` or `certificates`, `loaded` or `refused`.
    pub fn access_read(&self, file: &'static str, result: &'static str) {
        self.access_refused_file(file, result == "refused");
        self.counter("newshound_access_reads_total", &[("file", file), ("result", result)]).increment(1);
    }

    /// Shows whether something stands in a file that is not in force.
    pub fn access_refused_file(&self, file: &'static str, is_refused: bool) {
        self.gauge("newshound_access_files_refused", &[("file", file)]).set(f64::from(u8::from(is_refused)));
    }
}
