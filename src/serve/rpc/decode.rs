//! A request on the wire to a question in our words: every broken field is found in one pass.
mod options;

use super::{proto, status::Violations};
use crate::{
    experiment::flags::{EXPERIMENTS_MAX, NAME_BYTES_MAX},
    serve::{
        batcher::Class,
        experiments::enrolment::Entrant,
        question::{CacheMode, Judged, Wanted},
    },
    signals::{
        DRAFTS_MAX, SignalDraft, SignalViolation, Stream, TEXT_CHARS_MAX, UserKey, UserSignals, characters,
    },
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

pub use options::TEMPERATURE_MAX;

/// Limits that the proto promises.
const CORRELATION_ID_BYTES_MAX: usize = 128;
const LOCALE_BYTES_MAX: usize = 35;
const TIER_BYTES_MAX: usize = 64;
const TENANT_BYTES_MAX: usize = 64;
/// Nanoseconds of a time or a duration on the wire stay below this. Source: google/protobuf/timestamp.proto, duration.proto.
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// Names of metadata that experiments read.
pub const TENANT_HEADER: &str = "x-newshound-tenant";
/// See `TENANT_HEADER`.
pub const ARM_HEADER: &str = "x-newshound-arm";

/// Metadata that experiments read.
#[derive(Clone, Debug, Default)]
pub struct Headers<'a> {
    /// `x-newshound-tenant`.
    pub tenant: Option<&'a [u8]>,
    /// How often it is there: a second one may be the client's own, past the proxy that authenticates.
    pub n_tenants: usize,
    /// `x-newshound-arm`, each time that it is there.
    pub arms: Vec<&'a [u8]>,
}

/// What the server adds to a request.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// Most tokens of one candidate, and the default.
    pub output_tokens_max: usize,
    /// What else came with it.
    pub headers: Headers<'a>,
    /// Until when the client waits.
    pub deadline: Option<Instant>,
}

/// A checked request: a question, but for what arms of experiments do to it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// For whom.
    pub user: UserKey,
    /// What is known of them.
    pub signals: UserSignals,
    /// What the request says of its options.
    pub wanted: Wanted,
    /// Who goes before it.
    pub class: Class,
    /// How to use the cache.
    pub cache: CacheMode,
    /// Until when an answer is of use.
    pub deadline: Option<Instant>,
    /// What experiments may know.
    pub entrant: Entrant,
    /// Whether every candidate is returned.
    pub return_candidates: bool,
    /// Whether candidates are shown while they are written.
    pub stream_queries: bool,
    /// What the cleaner is asked of, in the order of the request; empty unless it is asked.
    pub judged: Vec<Judged>,
    /// Comes back in the response.
    pub correlation_id: String,
}

/// Checks a request.
///
/// # Errors
/// Every broken field.
pub fn asked(request: proto::GenerateQueriesRequest, context: Context<'_>) -> Result<Asked, Violations> {
    let mut checks = Checks::default();
    let user = checks.user(request.user.as_ref());
    let options = request.options.unwrap_or_default();
    let judged = if options.return_signal_verdicts { judged(&request.signals) } else { Vec::new() };
    let signals = checks.signals(request.signals);
    let (return_candidates, stream_queries) = (options.return_candidates, options.stream_queries);
    let wanted = checks.options(&options, context.output_tokens_max);
    let (cache, class) = (checks.cache(request.cache), checks.class(request.priority));
    let entrant = checks.entrant(request.experiment, context.headers);
    let got = request.correlation_id.len();
    if got > CORRELATION_ID_BYTES_MAX {
        let description = format!("must have at most {CORRELATION_ID_BYTES_MAX} bytes, has {got}");
        checks.refuse("correlation_id", description);
    }
    match (user, signals) {
        (Some(user), Some(signals)) if checks.violations.is_empty() => Ok(Asked {
            user,
            signals,
            wanted,
            class,
            cache,
            deadline: context.deadline,
            entrant,
            return_candidates,
            stream_queries,
            judged,
            correlation_id: request.correlation_id,
        }),
        _ => Err(checks.violations),
    }
}

/// Checks a request for an explanation.
///
/// # Errors
/// Every broken field.
pub fn explained(
    request: proto::ExplainAssignmentRequest,
    headers: Headers<'_>,
) -> Result<(UserKey, Entrant), Violations> {
    let mut checks = Checks::default();
    let user = checks.user(request.user.as_ref());
    let entrant = checks.entrant(request.experiment, headers);
    user.filter(|_| checks.violations.is_empty()).map(|user| (user, entrant)).ok_or(checks.violations)
}

/// Signals as the cleaner would see them; as many as a request may have.
fn judged(signals: &[proto::Signal]) -> Vec<Judged> {
    let text = |signal: &proto::Signal| {
        let stream = match proto::Stream::try_from(signal.stream) {
            Ok(proto::Stream::Page) => Stream::Page,
            Ok(proto::Stream::Click) => Stream::Click,
            Ok(proto::Stream::Search | proto::Stream::Unspecified) | Err(_) => Stream::Search,
        };
        let text = characters::clean(&signal.text, TEXT_CHARS_MAX);
        Judged { stream, text, category: signal.category.clone() }
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
        if signals.is_empty() {
            return Some(UserSignals::none());
        }
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

    fn class(&mut self, priority: i32) -> Class {
        match proto::Priority::try_from(priority) {
            Ok(proto::Priority::Unspecified | proto::Priority::Default) => Class::Default,
            Ok(proto::Priority::Interactive) => Class::Interactive,
            Ok(proto::Priority::Bulk) => Class::Bulk,
            Err(_) => {
                self.refuse("priority", "must be a Priority".to_owned());
                Class::Default
            }
        }
    }

    fn entrant(&mut self, context: Option<proto::ExperimentContext>, headers: Headers<'_>) -> Entrant {
        let context = context.unwrap_or_default();
        let tenant = headers.tenant.map(|tenant| String::from_utf8_lossy(tenant).into_owned());
        let entrant = Entrant {
            locale: self.label("experiment.locale", context.locale, LOCALE_BYTES_MAX),
            tier: self.label("experiment.tier", context.tier, TIER_BYTES_MAX),
            tenant: self.label(TENANT_HEADER, tenant.unwrap_or_default(), TENANT_BYTES_MAX),
            forced: self.forced(context.forced_arms),
        };
        if headers.n_tenants > 1 {
            self.refuse(TENANT_HEADER, "must be there once".to_owned());
        }
        let of_header = match headers.arms[..] {
            [] => Vec::new(),
            // Metadata that is there several times is as if it stood there once with commas between. Source: RFC 9110, section 5.3.
            [..] => self.forced_by_header(&headers.arms.join(&b","[..])),
        };
        let named = |id: &str| entrant.forced.iter().any(|(experiment, _)| experiment == id);
        let others: Vec<_> = of_header.into_iter().filter(|(experiment, _)| !named(experiment)).collect();
        let forced: Vec<_> = entrant.forced.into_iter().chain(others).collect();
        if forced.len() > EXPERIMENTS_MAX {
            self.refuse(
                ARM_HEADER,
                format!("must make at most {EXPERIMENTS_MAX} arms with experiment.forced_arms"),
            );
        }
        Entrant { forced, ..entrant }
    }

    /// A short printable text; none where it is empty.
    fn label(&mut self, field: &str, text: String, bytes_max: usize) -> Option<String> {
        if text.len() > bytes_max {
            self.refuse(field, format!("must have at most {bytes_max} bytes, has {}", text.len()));
        }
        if text.chars().any(|c| c.is_control() || characters::is_invisible(c) || c == '\u{fffd}') {
            self.refuse(field, "must be printable".to_owned());
        }
        (!text.is_empty()).then_some(text)
    }

    fn forced(&mut self, arms: Vec<proto::ForcedArm>) -> Vec<(String, String)> {
        let field = "experiment.forced_arms";
        if arms.len() > EXPERIMENTS_MAX {
            self.refuse(field, format!("must have at most {EXPERIMENTS_MAX} items, has {}", arms.len()));
            return Vec::new();
        }
        let pairs = arms.into_iter().map(|arm| (arm.experiment_id, arm.arm_id)).collect();
        self.pairs(field, pairs)
    }

    fn forced_by_header(&mut self, pairs: &[u8]) -> Vec<(String, String)> {
        let text = String::from_utf8_lossy(pairs);
        let split = |pair: &str| {
            let (experiment, arm) = pair.trim().split_once('=')?;
            Some((experiment.to_owned(), arm.to_owned()))
        };
        // One pair more than there may be is enough to see that there are too many.
        let pairs: Option<Vec<_>> = text.split(',').take(EXPERIMENTS_MAX + 1).map(split).collect();
        match pairs.filter(|pairs| pairs.len() <= EXPERIMENTS_MAX) {
            Some(pairs) => self.pairs(ARM_HEADER, pairs),
            None => {
                let most = EXPERIMENTS_MAX;
                self.refuse(
                    ARM_HEADER,
                    format!("must be at most {most} pairs as in experiment=arm,experiment=arm"),
                );
                Vec::new()
            }
        }
    }

    fn pairs(&mut self, field: &str, pairs: Vec<(String, String)>) -> Vec<(String, String)> {
        let is_name = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
        if !pairs.iter().all(|(experiment, arm)| is_name(experiment) && is_name(arm)) {
            self.refuse(field, format!("must name experiments and arms in 1 to {NAME_BYTES_MAX} bytes"));
        }
        let experiments: BTreeSet<_> = pairs.iter().map(|(experiment, _)| experiment).collect();
        if experiments.len() < pairs.len() {
            self.refuse(field, "must name each experiment once".to_owned());
        }
        pairs
    }
}

/// A violation without its path, which stands in a field of its own.
fn description(violation: &SignalViolation) -> String {
    let sentence = violation.to_string();
    sentence.strip_prefix(violation.field()).map_or(sentence.clone(), |rest| rest.trim_start().to_owned())
}
