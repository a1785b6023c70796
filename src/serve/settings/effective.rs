//! The settings in force, as people are shown them.
use crate::settings::Given;

/// Every setting with its default. A test holds it to what `ServeSettings::demo` says.
pub const SAMPLE: &str = include_str!("../../../deploy/server.toml");

/// Every setting as it is in force, in the order of deploy/server.toml, each with where it comes from. It is TOML, and a settings file if no secret
/// was given: those are not shown.
pub fn effective(given: &Given) -> String {
    let (mut text, mut section) = (String::new(), String::new());
    for line in SAMPLE.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
            text.push_str(&format!("\n{line}\n"));
        } else if let Some((key, default)) = line.split_once(" = ") {
            let given = given.of(&format!("{section}{key}"));
            let (value, origin) = given.as_ref().map_or((default, "default"), |(value, by)| (value, by));
            text.push_str(&format!("{key} = {value} # {origin}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serve::settings::ServeSettings, settings::Override};

    #[test]
    fn every_setting_is_shown_with_its_source_and_what_is_shown_can_be_read() {
        let text = "[engine]\nrows_max = 64\n[tenants.limits]\ndaily = 7\n[models.residents]\nnext = \"/b\"\n[doors]\nweb_origins = [\"https://a\"]";
        let by_flag = Override::by_flag("grpc_addr", "--grpc-addr", "0.0.0.0:1");
        let (key, value) = ("cache.ttl_ms".to_owned(), "9".to_owned());
        let by_variable = Override { key, value, origin: "NEWSHOUND__CACHE__TTL_MS".to_owned() };
        let (settings, given) = ServeSettings::read_told(text, "my.toml", &[by_variable, by_flag]).unwrap();
        let shown = effective(&given);
        for line in [
            "grpc_addr = \"0.0.0.0:1\" # --grpc-addr",
            "http_addr = \"127.0.0.1:9464\" # default",
            "rows_max = 64 # my.toml",
            "ttl_ms = 9 # NEWSHOUND__CACHE__TTL_MS",
            "limits = { daily = 7 } # my.toml",
            "residents = { next = \"/b\" } # my.toml",
            "web_origins = [\"https://a\"] # my.toml",
        ] {
            assert!(shown.lines().any(|other| other == line), "{line} is not in\n{shown}");
        }
        let n_settings = SAMPLE.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count();
        assert_eq!(shown.lines().filter(|line| line.contains(" = ")).count(), n_settings);
        assert_eq!(ServeSettings::read(&shown, "shown", &[]), Ok(settings));
    }

    #[test]
    fn secrets_are_not_shown_and_that_there_is_none_is() {
        let text = "[experiments]\nlog_dir = \"/data\"\nreader_salt = \"0123456789abcdef\"\n[cache.redis]\nurl = \"redis://:word@host:6379/0\"";
        let shown = effective(&ServeSettings::read_told(text, "my.toml", &[]).unwrap().1);
        for secret in ["0123456789abcdef", "word@"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("reader_salt = \"(secret)\" # my.toml"), "{shown}");
        assert!(shown.contains("url = \"(secret)\" # my.toml"), "{shown}");
        let shown = effective(&ServeSettings::read_told("", "my.toml", &[]).unwrap().1);
        assert!(shown.contains("reader_salt = \"\" # default"), "{shown}");
    }
}
