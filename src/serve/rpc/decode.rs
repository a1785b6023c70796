//! A request on the wire to a question in our words: every broken field is found in one pass.
use super::{proto, status::Violations};
use crate::{
    decode::sampler::SamplerSettings,
    serve::{
        question::{CacheMode, Options, Question},
        rerank::Method,
        settings::CANDIDATES_MAX,
    },
    signals::{
        DRAFTS_MAX, SignalDraft, SignalViolation, Stream, TEXT_CHARS_MAX, UserKey, UserSignals, characters,
    },
    text::parse::{QUERIES_MAX, QUERIES_MIN},
};
use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// What a request gets that leaves it out.
const CANDIDATES_DEFAULT: u32 = 8;
const SERVING: SamplerSettings = SamplerSettings::SERVING;
/// Limits that the proto promises.
const TEMPERATURE_MAX: f32 = 2.0;
const TOP_K_MAX: u32 = 1000;
const CORRELATION_ID_BYTES_MAX: usize = 128;
/// Nanoseconds of a time or a duration on the wire stay below this. Source: google/protobuf/timestamp.proto, duration.proto.
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// What the server adds to a request.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Most tokens of one candidate, and the default.
    pub output_tokens_max: usize,
    /// Whether AUTO means the head.
    pub has_reward_head: bool,
    /// Whether there is anything to ask about signals.
    pub has_cleaner: bool,
    /// Until when the client waits.
    pub deadline: Option<Instant>,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    /// Whether every candidate is returned.
    pub return_candidates: bool,
    /// What the cleaner is asked of, in the order of the request; empty unless it is asked.
    pub judged: Vec<(Stream, String)>,
    /// Comes back in the response.
    pub correlation_id: String,
}

/// Checks a request.
///
/// # Errors
/// Every broken field.
pub fn asked(request: proto::GenerateQueriesRequest, context: Context) -> Result<Asked, Violations> {
    let mut checks = Checks::default();
    let user = checks.user(request.user.as_ref());
    let options = request.options.unwrap_or_default();
    let judged = if options.return_signal_verdicts && context.has_cleaner {
        judged(&request.signals)
    } else {
        Vec::new()
    };
    let signals = checks.signals(request.signals);
    let return_candidates = options.return_candidates;
    let options = checks.options(&options, context);
    let cache = checks.cache(request.cache);
    let got = request.correlation_id.len();
    if got > CORRELATION_ID_BYTES_MAX {
        let description = format!("must have at most {CORRELATION_ID_BYTES_MAX} bytes, has {got}");
        checks.refuse("correlation_id", description);
    }
    match (user, signals) {
        (Some(user), Some(signals)) if checks.violations.is_empty() => Ok(Asked {
            question: Question { user, signals, options, cache, deadline: context.deadline },
            return_candidates,
            judged,
            correlation_id: request.correlation_id,
        }),
        _ => Err(checks.violations),
    }
}

/// Streams and texts of signals as the cleaner would see them; as many as a request may have.
fn judged(signals: &[proto::Signal]) -> Vec<(Stream, String)> {
    let text = |signal: &proto::Signal| {
        let stream = match proto::Stream::try_from(signal.stream) {
            Ok(proto::Stream::Page) => Stream::Page,
            Ok(proto::Stream::Click) => Stream::Click,
            Ok(proto::Stream::Search | proto::Stream::Unspecified) | Err(_) => Stream::Search,
        };
        (stream, characters::clean(&signal.text, TEXT_CHARS_MAX))
    };
    signals.iter().take(DRAFTS_MAX).map(text).collect()
}

#[derive(Default)]
struct Checks {
    violations: Violations,
}

impl Checks {
    fn refuse(&mut self, field: &str, description: String) {
        self.violations.add(field, description);
    }

    fn user(&mut self, user: Option<&proto::UserRef>) -> Option<UserKey> {
        let key = user.map_or("", |user| user.key.as_str());
        UserKey::new(key).map_err(|violation| self.refuse("user.key", description(&violation))).ok()
    }

    fn signals(&mut self, signals: Vec<proto::Signal>) -> Option<UserSignals> {
        // Before any is looked at: a message has room for a million empty ones.
        if let Err(violation) = UserSignals::check_count(signals.len()) {
            self.refuse(violation.field(), description(&violation));
            return None;
        }
        let drafts = signals.into_iter().enumerate().map(|(idx, signal)| self.draft(idx, signal)).collect();
        match UserSignals::new(drafts) {
            Ok(signals) => Some(signals),
            Err(violations) => {
                for violation in violations {
                    // Our words call the field `time`; the proto follows the convention of ending in `_time`.
                    let field = violation.field().replace("].time", "].event_time");
                    self.refuse(&field, description(&violation));
                }
                None
            }
        }
    }

    /// Takes a signal as it is; what only the wire can break is refused here, the rest by `UserSignals`.
    fn draft(&mut self, idx: usize, signal: proto::Signal) -> SignalDraft {
        let path = |name: &str| format!("signals[{idx}].{name}");
        let stream = match proto::Stream::try_from(signal.stream) {
            Ok(proto::Stream::Search) => Stream::Search,
            Ok(proto::Stream::Page) => Stream::Page,
            Ok(proto::Stream::Click) => Stream::Click,
            Ok(proto::Stream::Unspecified) | Err(_) => {
                self.refuse(&path("stream"), "must be SEARCH, PAGE or CLICK".to_owned());
                Stream::Search
            }
        };
        let time_unix_s = match signal.event_time {
            Some(time) if (0..NANOS_PER_SECOND).contains(&time.nanos) => time.seconds,
            Some(_) => {
                self.refuse(&path("event_time"), "must have nanos from 0 to 999999999".to_owned());
                0
            }
            None => {
                self.refuse(&path("event_time"), "is required".to_owned());
                0
            }
        };
        // Its seconds and nanos are both positive, or it is no time that somebody stayed.
        let dwell_ms = signal.dwell.and_then(|dwell| {
            let dwell =
                Duration::try_from(dwell).ok().filter(|_| (0..NANOS_PER_SECOND).contains(&dwell.nanos))?;
            u32::try_from(dwell.as_millis()).ok()
        });
        if signal.dwell.is_some() && dwell_ms.is_none() {
            self.refuse(&path("dwell"), "must be from 0 to 49 days".to_owned());
        }
        let (text, category, source, weight) = (signal.text, signal.category, signal.source, signal.weight);
        SignalDraft { stream, text, time_unix_s, category, source, dwell_ms, weight }
    }

    fn options(&mut self, options: &proto::GenerationOptions, context: Context) -> Options {
        let limit = u32::try_from(context.output_tokens_max).unwrap_or(u32::MAX);
        let candidates = self.whole(
            "options.candidate_count",
            options.candidate_count.unwrap_or(CANDIDATES_DEFAULT),
            1..=CANDIDATES_MAX,
        );
        let queries = options
            .query_count
            .map(|count| self.whole("options.query_count", count, QUERIES_MIN..=QUERIES_MAX));
        let output_tokens = self.whole(
            "options.max_output_tokens",
            options.max_output_tokens.unwrap_or(limit),
            1..=context.output_tokens_max,
        );
        let top_k = self.whole("options.top_k", options.top_k.unwrap_or(0), 0..=TOP_K_MAX as usize);
        let temperature = options.temperature.unwrap_or(SERVING.temperature);
        let temperature = self.number("options.temperature", temperature, 0.0..=TEMPERATURE_MAX);
        let min_p = self.number("options.min_p", options.min_p.unwrap_or(0.0), 0.0..=1.0);
        let top_p =
            self.number("options.top_p", options.top_p.unwrap_or(SERVING.top_p), f32::MIN_POSITIVE..=1.0);
        Options {
            n_candidates: candidates,
            n_queries_max: queries,
            max_output_tokens: output_tokens,
            sampler: SamplerSettings { temperature, top_k, top_p, min_p, ..SERVING },
            seed: options.seed,
            method: self.method(options.rerank, context.has_reward_head),
        }
    }

    fn method(&mut self, rerank: i32, has_reward_head: bool) -> Method {
        match proto::RerankMethod::try_from(rerank) {
            Ok(proto::RerankMethod::Unspecified | proto::RerankMethod::Auto) if has_reward_head => {
                Method::RewardHead
            }
            Ok(
                proto::RerankMethod::Unspecified | proto::RerankMethod::Auto | proto::RerankMethod::Consensus,
            ) => Method::Consensus,
            Ok(proto::RerankMethod::Logprob) => Method::LogProb,
            Ok(proto::RerankMethod::RewardHead) => Method::RewardHead,
            Ok(proto::RerankMethod::None) => Method::None,
            Err(_) => {
                self.refuse("options.rerank", "must be a RerankMethod".to_owned());
                Method::None
            }
        }
    }

    fn cache(&mut self, policy: Option<proto::CachePolicy>) -> CacheMode {
        let mode = policy.map_or(0, |policy| policy.mode);
        match proto::CacheMode::try_from(mode) {
            Ok(proto::CacheMode::Unspecified | proto::CacheMode::Default) => CacheMode::Default,
            Ok(proto::CacheMode::Bypass) => CacheMode::Bypass,
            Ok(proto::CacheMode::Refresh) => CacheMode::Refresh,
            Err(_) => {
                self.refuse("cache.mode", "must be a CacheMode".to_owned());
                CacheMode::Default
            }
        }
    }

    fn whole(&mut self, field: &str, value: u32, range: RangeInclusive<usize>) -> usize {
        let value = usize::try_from(value).unwrap_or(usize::MAX);
        if !range.contains(&value) {
            self.refuse(field, format!("must be from {} to {}, is {value}", range.start(), range.end()));
        }
        value
    }

    /// NaN is in no range.
    fn number(&mut self, field: &str, value: f32, range: RangeInclusive<f32>) -> f32 {
        if !range.contains(&value) {
            let start = if *range.start() > 0.0 { "above 0".to_owned() } else { "from 0".to_owned() };
            self.refuse(field, format!("must be {start} to {}, is {value}", range.end()));
        }
        value
    }
}

/// A violation without its path, which stands in a field of its own.
fn description(violation: &SignalViolation) -> String {
    let sentence = violation.to_string();
    sentence.strip_prefix(violation.field()).map_or(sentence.clone(), |rest| rest.trim_start().to_owned())
}
