//! Every setting of the server: meaning, unit, default, and why that default.
//!
//! Each can also be given by the environment, as `NEWSHOUND__GRPC_ADDR` or `NEWSHOUND__ENGINE__ROWS_MAX`: two underscores after
//! the prefix and between section and key.
pub mod access;
mod connections;
mod cost;
mod degradation;
mod doors;
pub mod effective;
mod engine;
mod models;
pub mod sharing;
mod shutdown;
mod telemetry;
mod tenants;
mod topics;

use crate::{
    model::{
        device::{CHOICES, DeviceChoice},
        precision::{PRECISIONS, Precision},
    },
    settings::{Given, Mistakes, Override, Reader},
};
use access::{AccessSettings, AdminSettings};
pub use connections::ConnectionSettings;
pub use cost::CostSettings;
pub use degradation::DegradationSettings;
pub use doors::DoorSettings;
pub use engine::EngineSettings;
pub use models::ModelSettings;
use sharing::RedisSettings;
pub use shutdown::ShutdownSettings;
use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};
pub use telemetry::TelemetrySettings;
pub use tenants::TenantSettings;
pub use topics::{Gates, TopicSettings};

/// Most candidates a request may ask for; the proto promises this number.
pub const CANDIDATES_MAX: usize = 32;
/// Longest time for which an answer may be kept: older ones are no news.
pub const CACHE_TTL_MS_MAX: u64 = 86_400_000;
/// Longest time for which a failure may be remembered: whoever waits longer has lost a reader to it.
const FAILURE_TTL_MS_MAX: u64 = 60_000;
/// Shortest salt of readers' digests: below it, the digests could be undone by trying salts.
const SALT_BYTES_MIN: usize = 16;

/// Everything the server can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeSettings {
    /// `grpc_addr`: where gRPC is served. Default 127.0.0.1:50051: nothing is open to others unless somebody says so.
    pub grpc_addr: SocketAddr,
    /// `http_addr`: where /metrics and /healthz are served, apart from users' traffic. Default 127.0.0.1:9464.
    pub http_addr: SocketAddr,
    /// `device`: where the network computes, auto, cpu or cuda. Default auto: the first GPU where this is a build with CUDA and the
    /// driver gives one, else the CPU.
    pub device: DeviceChoice,
    /// `precision`: how the network's numbers are held, f32, bf16, f16 or int8. Default f32: what the bundle's figures were measured
    /// with. int8 is for CPUs, bf16 and f16 are for GPUs.
    pub precision: Precision,
    /// The model thread and its queue.
    pub engine: EngineSettings,
    /// What one request may consume.
    pub generation: GenerationSettings,
    /// Stored answers.
    pub cache: CacheSettings,
    /// Answers that servers share; none where they do not.
    pub redis: Option<RedisSettings>,
    /// How answers fall short.
    pub degradation: DegradationSettings,
    /// What the device costs.
    pub cost: CostSettings,
    /// Experiments, and the log of what came of them.
    pub experiments: ExperimentSettings,
    /// Bundles that answer beside the default one.
    pub models: ModelSettings,
    /// How models are changed while the server runs.
    pub admin: AdminSettings,
    /// Who may come in.
    pub access: AccessSettings,
    /// Ways in beside gRPC.
    pub doors: DoorSettings,
    /// Connections and messages.
    pub connections: ConnectionSettings,
    /// The end.
    pub shutdown: ShutdownSettings,
    /// Where traces go.
    pub telemetry: TelemetrySettings,
    /// What tenants may take.
    pub tenants: TenantSettings,
    /// What is sensitive.
    pub topics: TopicSettings,
}

/// `[generation]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationSettings {
    /// `prompt_tokens_max`: prompts are cut to this, or to what the bundle was trained on if that is less, by
    /// leaving out the oldest signals. Default 768: some forty signals.
    pub prompt_tokens_max: usize,
    /// `output_tokens_max`: most tokens of one candidate, and the default of a request. Default 96: eight queries of twelve tokens.
    pub output_tokens_max: usize,
}

/// `[cache]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// `bytes_max`: approximate memory of stored answers. Default 67,108,864: some ten thousand answers.
    pub bytes_max: u64,
    /// `ttl_ms`: how long an answer is used. Default 300,000: news of five minutes ago are still news.
    pub ttl: Duration,
    /// `stale_ms`: how long an answer is used after that, while a newer one is generated. Default 0: none is used that is too old.
    pub stale: Duration,
    /// `renew_ahead_ms`: within the last so much of its time, at most the last half and at a moment of its own, the use of an answer has a
    /// newer one generated, so that readers who come back do not wait. Default 30,000, a tenth. 0: none is.
    pub renew_ahead: Duration,
    /// `failure_ttl_ms`: how long, up to twice this, a question that had no answer gets the same error without being tried again.
    /// Default 1,000: a client that repeats in a loop costs a generation in a second or two. 0: it is tried each time.
    pub failure_ttl: Duration,
}

/// `[experiments]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperimentSettings {
    /// `file`: experiments in flagd's format; see the documentation of `experiment` and deploy/experiments.json. Default empty: none.
    pub file: Option<PathBuf>,
    /// `check_interval_ms`: how often the file is looked at. Default 1,000: a kill switch works within a second.
    pub check_interval: Duration,
    /// `log_dir` and what belongs to it; none where it is empty, which is the default.
    pub log: Option<LogSettings>,
}

/// The log of exposures and outcomes in `[experiments]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `log_dir`: the folder that the files go to, one for each server.
    pub dir: PathBuf,
    /// `log_queue_max`: records that may wait for the disk; further ones are dropped and counted. Default 8,192: a few seconds of
    /// the most that a server answers, some four megabytes.
    pub queue_max: usize,
    /// `log_file_bytes_max`: size at which a file is followed by another. Default 67,108,864.
    pub file_bytes_max: u64,
    /// `log_files_max`: files that are kept; the oldest are deleted. Default 64: with the size, 4 GiB.
    pub files_max: usize,
    /// `reader_salt`: a secret of 16 bytes or more, hashed with a reader's key into what the log calls the reader. The same for all
    /// servers whose logs are read together. There is no default: a digest without a secret can be undone by trying keys.
    pub reader_salt: Salt,
}

/// A secret that no log line shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(pub String);

impl fmt::Debug for Salt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Salt(..)")
    }
}

impl ServeSettings {
    /// The defaults: what the demo runs with.
    pub fn demo() -> Self {
        Self {
            grpc_addr: SocketAddr::from(([127, 0, 0, 1], 50051)),
            http_addr: SocketAddr::from(([127, 0, 0, 1], 9464)),
            device: DeviceChoice::Auto,
            precision: Precision::F32,
            engine: EngineSettings::demo(),
            generation: GenerationSettings { prompt_tokens_max: 768, output_tokens_max: 96 },
            cache: CacheSettings {
                bytes_max: 64 << 20,
                ttl: Duration::from_secs(300),
                stale: Duration::ZERO,
                renew_ahead: Duration::from_secs(30),
                failure_ttl: Duration::from_secs(1),
            },
            redis: None,
            degradation: DegradationSettings::demo(),
            cost: CostSettings::demo(),
            experiments: ExperimentSettings { file: None, check_interval: Duration::from_secs(1), log: None },
            models: ModelSettings { residents: BTreeMap::new() },
            admin: AdminSettings { addr: None, models_dir: None },
            access: AccessSettings {
                tokens: None,
                admin_tokens: None,
                tls: None,
                check_interval: Duration::from_secs(1),
            },
            doors: DoorSettings::demo(),
            connections: ConnectionSettings::demo(),
            shutdown: ShutdownSettings::demo(),
            telemetry: TelemetrySettings::demo(),
            tenants: TenantSettings::demo(),
            topics: TopicSettings::demo(),
        }
    }

    /// Reads a settings file; keys that are absent keep the defaults.
    ///
    /// # Errors
    /// Every mistake and every unknown key at once.
    pub fn read(text: &str, file: &str, overrides: &[Override]) -> Result<Self, Mistakes> {
        Self::read_told(text, file, overrides).map(|(settings, _)| settings)
    }

    /// As `read`, with what was given and by whom.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_told(text: &str, file: &str, overrides: &[Override]) -> Result<(Self, Given), Mistakes> {
        let defaults = Self::demo();
        let mut reader = Reader::new(text, file, overrides);
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let settings = Self {
            grpc_addr: reader.text(
                "grpc_addr",
                "an address such as 127.0.0.1:50051",
                address,
                defaults.grpc_addr,
            ),
            http_addr: reader.text(
                "http_addr",
                "an address such as 127.0.0.1:9464",
                address,
                defaults.http_addr,
            ),
            device: reader.text("device", CHOICES, |word| word.parse().ok(), defaults.device),
            precision: reader.text("precision", PRECISIONS, |word| word.parse().ok(), defaults.precision),
            engine: engine::read(&mut reader, defaults.engine),
            generation: generation(&mut reader, defaults.generation),
            cache: cache(&mut reader, defaults.cache),
            redis: sharing::read(&mut reader),
            degradation: degradation::read(&mut reader, defaults.degradation),
            cost: cost::read(&mut reader, defaults.cost),
            experiments: experiments(&mut reader, defaults.experiments),
            models: models::read(&mut reader),
            admin: access::admin(&mut reader),
            access: access::access(&mut reader, defaults.access),
            doors: doors::read(&mut reader, defaults.doors),
            connections: connections::read(&mut reader, defaults.connections),
            shutdown: shutdown::read(&mut reader, defaults.shutdown),
            telemetry: telemetry::read(&mut reader, defaults.telemetry),
            tenants: tenants::read(&mut reader, defaults.tenants),
            topics: topics::read(&mut reader, defaults.topics),
        };
        let largest =
            settings.generation.prompt_tokens_max + CANDIDATES_MAX * settings.generation.output_tokens_max;
        reader.require(
            settings.engine.rows_max == 0 || settings.engine.rows_max >= CANDIDATES_MAX,
            "engine.rows_max should be no less than 32, the candidates of the largest request, or 0",
        );
        reader.require(
            settings.engine.interactive_share <= settings.engine.above_bulk_share,
            "engine.above_bulk_share should be no less than engine.interactive_share",
        );
        for (key, tokens_max) in [
            ("tokens_max", settings.engine.tokens_max),
            ("queue_tokens_max", settings.engine.queue_tokens_max),
        ] {
            let sentence = format!(
                "engine.{key} should be at least {largest}, the largest request that [generation] allows"
            );
            reader.require(largest <= tokens_max, &sentence);
        }
        access::require(&mut reader, &settings);
        reader.finish_told(settings)
    }
}

fn milliseconds(reader: &mut Reader, key: &str, most: u64, default: Duration) -> Duration {
    let default = u64::try_from(default.as_millis()).unwrap_or(most);
    Duration::from_millis(reader.whole(key, 1..=most, default))
}

/// As `milliseconds`, for what can be switched off by 0.
fn from_zero(reader: &mut Reader, key: &str, most: u64, default: Duration) -> Duration {
    let default = u64::try_from(default.as_millis()).unwrap_or(most);
    Duration::from_millis(reader.whole(key, 0..=most, default))
}

fn generation(reader: &mut Reader, default: GenerationSettings) -> GenerationSettings {
    GenerationSettings {
        prompt_tokens_max: reader.count(
            "generation.prompt_tokens_max",
            64..=32_768,
            default.prompt_tokens_max,
        ),
        output_tokens_max: reader.count("generation.output_tokens_max", 8..=4096, default.output_tokens_max),
    }
}

fn cache(reader: &mut Reader, default: CacheSettings) -> CacheSettings {
    CacheSettings {
        bytes_max: reader.whole("cache.bytes_max", 0..=1 << 40, default.bytes_max),
        ttl: milliseconds(reader, "cache.ttl_ms", CACHE_TTL_MS_MAX, default.ttl),
        stale: from_zero(reader, "cache.stale_ms", CACHE_TTL_MS_MAX, default.stale),
        renew_ahead: from_zero(reader, "cache.renew_ahead_ms", CACHE_TTL_MS_MAX, default.renew_ahead),
        failure_ttl: from_zero(reader, "cache.failure_ttl_ms", FAILURE_TTL_MS_MAX, default.failure_ttl),
    }
}

fn experiments(reader: &mut Reader, default: ExperimentSettings) -> ExperimentSettings {
    let any = |text: &str| Some(text.to_owned());
    let file = reader.text("experiments.file", "a path", any, String::new());
    let dir = reader.text("experiments.log_dir", "a path", any, String::new());
    let salt = |text: &str| any(text).filter(|text| text.is_empty() || text.len() >= SALT_BYTES_MIN);
    let expected = format!("a secret of {SALT_BYTES_MIN} bytes or more");
    let reader_salt = reader.secret("experiments.reader_salt", &expected, salt, String::new());
    let log = LogSettings {
        dir: PathBuf::from(&dir),
        queue_max: reader.count("experiments.log_queue_max", 1..=1_048_576, 8192),
        file_bytes_max: reader.whole("experiments.log_file_bytes_max", 4096..=1 << 40, 64 << 20),
        files_max: reader.count("experiments.log_files_max", 1..=100_000, 64),
        reader_salt: Salt(reader_salt),
    };
    reader.require(
        dir.is_empty() || !log.reader_salt.0.is_empty(),
        "experiments.reader_salt is needed where experiments.log_dir is set",
    );
    ExperimentSettings {
        file: (!file.is_empty()).then(|| PathBuf::from(file)),
        check_interval: milliseconds(
            reader,
            "experiments.check_interval_ms",
            600_000,
            default.check_interval,
        ),
        log: (!dir.is_empty()).then_some(log),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_demo() {
        assert_eq!(ServeSettings::read("", "server.toml", &[]), Ok(ServeSettings::demo()));
    }

    #[test]
    fn the_sample_file_spells_out_the_defaults() {
        let sample = include_str!("../../deploy/server.toml");
        assert_eq!(ServeSettings::read(sample, "deploy/server.toml", &[]), Ok(ServeSettings::demo()));
        let keys = sample.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count();
        assert_eq!(keys, 79, "the sample shows every setting");
    }

    #[test]
    fn every_key_of_the_sample_file_has_a_comment_of_its_own_right_above_it() {
        let lines: Vec<_> = include_str!("../../deploy/server.toml").lines().collect();
        let bare = lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#'));
        let bare: Vec<_> = bare.filter(|pair| !pair[0].starts_with("# ")).map(|pair| pair[1]).collect();
        assert!(bare.is_empty(), "{bare:?}");
    }

    #[test]
    fn the_largest_request_must_fit_the_batch() {
        let text = |tokens_max| format!("[engine]\ntokens_max = {tokens_max}");
        let largest = 768 + 32 * 96;
        assert!(ServeSettings::read(&text(largest), "a", &[]).is_ok());
        let error = ServeSettings::read(&text(largest - 1), "a", &[]).unwrap_err();
        assert_eq!(error.mistakes.len(), 1, "{error}");
    }

    #[test]
    fn bulk_leaves_no_less_than_all_others_do() {
        let read = |text: &str| ServeSettings::read(&format!("[engine]\n{text}"), "a", &[]);
        assert!(read("interactive_share = 0.5").is_ok());
        for wrong in ["interactive_share = 0.6", "above_bulk_share = -0.1", "above_bulk_share = 0.91"] {
            assert_eq!(read(wrong).unwrap_err().mistakes.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn rungs_are_named_and_their_waits_never_fall() {
        let read = |text: &str| ServeSettings::read(&format!("[degradation]\n{text}"), "a", &[]);
        let full = read("lowest_rung = \"full\"").unwrap();
        assert_eq!(full.degradation.lowest_rung, crate::experiment::policy::Rung::Full);
        assert!(read("fewer_wait_ms = 1500").is_ok());
        for wrong in [
            "fewer_wait_ms = 1501",
            "stale_wait_ms = 1499",
            "lowest_rung = \"cohort\"",
            "lowest_rung = \"none\"",
        ] {
            assert_eq!(read(wrong).unwrap_err().mistakes.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn a_log_needs_a_secret_that_no_message_shows() {
        let text = |salt: &str| format!("[experiments]\nlog_dir = \"/data\"\nreader_salt = \"{salt}\"");
        let read = ServeSettings::read(&text("0123456789abcdef"), "a", &[]).unwrap();
        assert_eq!(read.experiments.log.as_ref().unwrap().dir, PathBuf::from("/data"));
        assert!(!format!("{read:?}").contains("0123456789"), "{read:?}");
        let error = ServeSettings::read(&text("0123456789abcde"), "a", &[]).unwrap_err();
        assert!(
            !error.to_string().contains("0123456789") && error.to_string().contains("reader_salt"),
            "{error}"
        );
        assert_eq!(ServeSettings::read(&text(""), "a", &[]).unwrap_err().mistakes.len(), 1);
    }

    #[test]
    fn a_price_is_kept_in_billionths_and_a_wrong_one_is_named() {
        let text = "[cost]\ndevice_hour_price = 2.49\ncurrency = \"EUR\"\nprice_version = \"2026-11\"";
        let price = ServeSettings::read(text, "a", &[]).unwrap().cost.price;
        assert_eq!(
            (price.nanos_per_hour, &*price.currency, &*price.version),
            (2_490_000_000, "EUR", "2026-11")
        );
        let free = ServeSettings::read("[cost]\ndevice_hour_price = 0", "a", &[]).unwrap();
        assert!(!free.cost.price.is_told());
        let wrong = "[cost]\ndevice_hour_price = -1\ncurrency = \"euro\"\nprice_version = \"a b\"";
        assert_eq!(ServeSettings::read(wrong, "a", &[]).unwrap_err().mistakes.len(), 3);
    }

    #[test]
    fn a_bad_address_names_its_key() {
        let error = ServeSettings::read("grpc_addr = \"localhost\"", "a", &[]).unwrap_err();
        assert!(error.mistakes[0].starts_with("grpc_addr"), "{error}");
    }
}
