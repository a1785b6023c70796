//! `[telemetry]`: where traces go.
use crate::settings::Reader;
use axum::http::Uri;

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetrySettings {
    /// `otlp_endpoint`: the collector of traces, as `http://127.0.0.1:4317`: OTLP over gRPC, without TLS. Default empty: none are made.
    pub otlp_endpoint: Option<Uri>,
    /// `trace_ratio`: share of the requests without a caller's trace that are traced; a caller who has one decides itself. Default 1, as
    /// OpenTelemetry's own: whoever has many requests a second needs fewer of them.
    pub trace_ratio: f64,
}

impl TelemetrySettings {
    pub(super) fn demo() -> Self {
        Self { otlp_endpoint: None, trace_ratio: 1.0 }
    }
}

pub(super) fn read(reader: &mut Reader, default: TelemetrySettings) -> TelemetrySettings {
    let expected = "an address such as http://127.0.0.1:4317";
    TelemetrySettings {
        otlp_endpoint: reader.text("telemetry.otlp_endpoint", expected, endpoint, default.otlp_endpoint),
        trace_ratio: reader.number("telemetry.trace_ratio", 0.0..=1.0, default.trace_ratio),
    }
}

/// An address without a path, which gRPC has its own for; none for empty text; nothing for what is neither.
fn endpoint(text: &str) -> Option<Option<Uri>> {
    if text.is_empty() {
        return Some(None);
    }
    let uri: Uri = text.parse().ok()?;
    let is_plain = uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path() == "/";
    is_plain.then_some(Some(uri))
}

#[cfg(test)]
mod tests {
    use crate::serve::settings::ServeSettings;

    #[test]
    fn a_collector_is_an_address_without_tls_and_without_a_path() {
        let read = |endpoint: &str| {
            ServeSettings::read(&format!("[telemetry]\notlp_endpoint = {endpoint:?}"), "a", &[])
        };
        assert_eq!(read("").unwrap().telemetry.otlp_endpoint, None);
        let uri = read("http://collector:4317").unwrap().telemetry.otlp_endpoint.unwrap();
        assert_eq!(uri, "http://collector:4317/");
        for wrong in
            ["https://collector:4317", "collector:4317", "http://collector:4317/v1/traces", "http://"]
        {
            assert_eq!(read(wrong).unwrap_err().mistakes.len(), 1, "{wrong}");
        }
        for wrong in ["-0.1", "1.1"] {
            assert!(ServeSettings::read(&format!("[telemetry]\ntrace_ratio = {wrong}"), "a", &[]).is_err());
        }
    }
}
