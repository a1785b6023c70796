//! Settings of the ways in beside gRPC.
use crate::settings::Reader;

/// `[doors]`: all of them are on the port of gRPC, with its TLS, tokens and limits, because `http_addr` is for operators and has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorSettings {
    /// `json`: whether JSON over HTTP is answered, as /v1/openapi.json describes it. Default true: it lets nobody in whom gRPC does not.
    pub json: bool,
    /// `grpc_web`: whether browsers are answered that speak gRPC-Web. Default false: who calls from a page sends the reader's signals from
    /// her own machine, and few platforms mean that.
    pub grpc_web: bool,
    /// `web_origins`: places such as `https://news.example` whose pages may call by `json` or `grpc_web`. Default none: a browser lets no page call.
    pub web_origins: Vec<String>,
    /// `playground`: whether /playground is a page that asks for queries and shows how they come about; it needs `json`. Default false, and true
    /// for the demo: a server for programs has no need of pages.
    pub playground: bool,
}

impl DoorSettings {
    pub(super) fn demo() -> Self {
        Self { json: true, grpc_web: false, web_origins: Vec::new(), playground: false }
    }
}

pub(super) fn read(reader: &mut Reader, default: DoorSettings) -> DoorSettings {
    let expected = "a list of origins such as \"https://news.example\"";
    let doors = DoorSettings {
        json: reader.switch("doors.json", default.json),
        grpc_web: reader.switch("doors.grpc_web", default.grpc_web),
        web_origins: reader.texts("doors.web_origins", expected, origin),
        playground: reader.switch("doors.playground", default.playground),
    };
    reader.require(doors.json || !doors.playground, "doors.json is needed where doors.playground is on");
    reader.require(
        doors.web_origins.is_empty() || doors.json || doors.grpc_web,
        "doors.web_origins are of no use where neither doors.json nor doors.grpc_web is on",
    );
    doors
}

/// Scheme, host and port, as a browser tells them. Source: RFC 6454, section 6.2.
fn origin(text: &str) -> Option<String> {
    let host = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme))?;
    let is_of_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    (!host.is_empty() && host.chars().all(is_of_host)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::ServeSettings;

    #[test]
    fn pages_are_told_by_their_origin_and_nothing_else() {
        let read = |text: &str| ServeSettings::read(&format!("[doors]\n{text}"), "a", &[]);
        let origins = ["https://news.example", "http://127.0.0.1:8080", "http://[::1]:8080"];
        let doors = read(&format!("web_origins = {origins:?}")).unwrap().doors;
        assert_eq!(doors.web_origins, origins);
        for wrong in
            ["*", "news.example", "https://", "https://news.example/", "https://News.example", "null"]
        {
            assert_eq!(read(&format!("web_origins = [{wrong:?}]")).unwrap_err().mistakes.len(), 1, "{wrong}");
        }
        assert!(read("web_origins = \"https://news.example\"").is_err(), "a list");
        assert!(read("json = false\nweb_origins = [\"https://news.example\"]").is_err(), "for nobody");
        assert!(read("json = \"yes\"").is_err());
    }
}
