//! `[cache.redis]`: the cache that servers share.
use super::{access::path, milliseconds};
use crate::{serve::shared::link::opener::Address, settings::Reader};
use std::{path::PathBuf, time::Duration};

/// Longest budget of an operation: whoever waits longer would rather have the answer generated.
const BUDGET_MS_MAX: u64 = 1000;
/// Longest lease: as long as a request may wait for the model with the default settings.
const LEASE_MS_MAX: u64 = 60_000;
/// Longest prefix of keys.
const PREFIX_BYTES_MAX: usize = 64;

/// `[cache.redis]`, where `url` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// `url`: a Redis 6.2 or newer that is no cluster, as `redis://:password@host:6379/0`; `rediss` for TLS. Default empty: servers share no answers.
    pub address: Address,
    /// `key_prefix`: what every key begins with. Default newshound. Fleets that share no answers need different ones.
    pub key_prefix: String,
    /// `budget_ms`: how long an operation may take; after that the answer is generated as if there were no Redis. Default 20: a hundred
    /// times what it takes in one data centre, and less than readers notice.
    pub budget: Duration,
    /// `connect_ms`: how long connecting may take, which no request waits for. Default 1,000.
    pub connect_max: Duration,
    /// `lease_ms`: how long the others wait for the server that generates an answer before they do so themselves. Default 2,000: longer
    /// than a generation takes where its reader still waits.
    pub lease: Duration,
    /// `failures_max`: failures in a row after which Redis is left alone. Default 5: a tenth of a second at most.
    pub failures_max: u32,
    /// `pause_ms`: for how long, a half more or less; then one connection tries it for all. Default 1,000: a Redis that is back is used
    /// within two seconds.
    pub pause: Duration,
    /// `secret_file`: 64 hex digits by which answers are encrypted and names hidden, the same for all servers; read at the start only.
    /// Default empty: they are not.
    pub secret_file: Option<PathBuf>,
    /// `ca_file`: authorities one of which must have signed Redis' certificate, in PEM, where the URL says TLS. Default empty: the
    /// system's, of which the images have none.
    pub ca_file: Option<PathBuf>,
}

pub(super) fn read(reader: &mut Reader) -> Option<RedisSettings> {
    let address = |text: &str| match text {
        "" => Some(None),
        url => Address::parse(url).map(Some),
    };
    // A password may stand in it.
    let address = reader.secret("cache.redis.url", "a URL such as redis://127.0.0.1:6379/0", address, None);
    let is_prefix = |text: &&str| {
        (1..=PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let prefix = |text: &str| Some(text).filter(is_prefix).map(str::to_owned);
    let expected = format!("1 to {PREFIX_BYTES_MAX} visible ASCII characters");
    let seconds = Duration::from_secs;
    let key_prefix = reader.text("cache.redis.key_prefix", &expected, prefix, "newshound".to_owned());
    let budget = milliseconds(reader, "cache.redis.budget_ms", BUDGET_MS_MAX, Duration::from_millis(20));
    let connect_max = milliseconds(reader, "cache.redis.connect_ms", 60_000, seconds(1));
    let lease = milliseconds(reader, "cache.redis.lease_ms", LEASE_MS_MAX, seconds(2));
    let failures_max = reader.whole("cache.redis.failures_max", 1..=1000, 5);
    let failures_max = u32::try_from(failures_max).unwrap_or(u32::MAX);
    let pause = milliseconds(reader, "cache.redis.pause_ms", 600_000, seconds(1));
    let [secret_file, ca_file] =
        ["secret_file", "ca_file"].map(|name| path(reader, &format!("cache.redis.{name}")));
    Some(RedisSettings {
        address: address?,
        key_prefix,
        budget,
        connect_max,
        lease,
        failures_max,
        pause,
        secret_file,
        ca_file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serve::settings::ServeSettings, settings::Override};

    fn settings(text: &str) -> Option<RedisSettings> {
        ServeSettings::read(&format!("[cache.redis]\n{text}"), "a", &[]).unwrap().redis
    }

    #[test]
    fn without_an_address_servers_share_nothing() {
        assert_eq!(settings("url = \"\"\nbudget_ms = 5"), None);
        let redis = settings("url = \"redis://cache:6379/2\"").unwrap();
        assert_eq!((redis.budget, redis.key_prefix.as_str()), (Duration::from_millis(20), "newshound"));
        let key = "cache.redis.url".to_owned();
        let overriding =
            Override { key, value: "rediss://cache".to_owned(), origin: "the environment".to_owned() };
        assert!(ServeSettings::read("", "a", &[overriding]).unwrap().redis.is_some());
    }

    #[test]
    fn no_message_shows_a_password() {
        let redis = settings("url = \"rediss://reader:opensesame@cache:6379/0\"").unwrap();
        assert_eq!(redis.address.to_string(), "rediss://..@cache:6379/0");
        assert!(!format!("{redis:?}").contains("opensesame"), "{redis:?}");
        let socket = settings("url = \"unix:///run/redis.sock?pass=opensesame\"").unwrap();
        assert_eq!(socket.address.to_string(), "unix:///run/redis.sock?..");
        let wrong =
            "[cache.redis]\nurl = \"http://:opensesame@cache\"\nkey_prefix = \"two words\"\nbudget_ms = 0";
        let error = ServeSettings::read(wrong, "a", &[]).unwrap_err();
        assert_eq!(error.mistakes.len(), 3, "{error}");
        assert!(!error.to_string().contains("opensesame"), "{error}");
    }
}
