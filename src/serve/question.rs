//! One checked request, in our own words.
use crate::{
    decode::sampler::SamplerSettings,
    experiment::policy::{Draw, EarlyStopping, Field, Policy, Rerank, Rung},
    serve::{
        batcher::Class, experiments::enrolment::Enrolment, flights::Passenger, generation::Writer,
        rerank::Method, traces::Trace,
    },
    signals::{Stream, UserKey, UserSignals},
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// For whom.
    pub user: UserKey,
    /// Of which tenant they are a reader, if it is told.
    pub tenant: Option<String>,
    /// Of which locale they are, if it is told.
    pub locale: Option<String>,
    /// What is known of them.
    pub signals: UserSignals,
    /// How to sample and choose.
    pub options: Options,
    /// Who goes before it.
    pub class: Class,
    /// How to use the cache.
    pub cache: CacheMode,
    /// Until when an answer is of use.
    pub deadline: Option<Instant>,
    /// Whether candidates are seen while they are written. It changes nothing of the answer.
    pub sees_growth: bool,
    /// What experiments do to it.
    pub enrolment: Arc<Enrolment>,
    /// The model that answered when it was asked, and answers it to the end.
    pub writer: Arc<Writer>,
    /// How far the answer may fall short.
    pub lowest_rung: Rung,
    /// How far it does: as `options` are.
    pub rung: Rung,
    /// What is told of its way.
    pub trace: Trace,
}

impl Question {
    /// Bytes of the signals' texts: a measure of how long their prompt is going to be.
    pub fn n_bytes(&self) -> usize {
        self.signals.as_slice().iter().map(|signal| signal.text().len()).sum()
    }

    /// Bytes that are equal exactly when reader and tenant are.
    pub fn whose(&self) -> Vec<u8> {
        whose(self.tenant.as_deref(), &self.user)
    }

    /// What those who wait for the same are told of this one.
    pub fn passenger(&self) -> Passenger {
        Passenger { deadline: self.deadline, class: self.class }
    }

    /// The same on a lower rung; none where that is the same.
    pub fn at(&self, rung: Rung) -> Option<Self> {
        self.options.at(rung).map(|options| Self { options, rung, ..self.clone() })
    }

    /// Bytes that are equal exactly when options and rung are: an answer that fell short is not that of a question which asks for no more,
    /// because it is kept for another time.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = self.options.canonical();
        bytes.extend_from_slice(self.rung.word().as_bytes());
        bytes
    }
}

/// Bytes that are equal exactly when reader and tenant are: two tenants may call different people by the same key.
pub fn whose(tenant: Option<&str>, user: &UserKey) -> Vec<u8> {
    let tenant = tenant.unwrap_or_default();
    let mut bytes = (tenant.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(tenant.as_bytes());
    bytes.extend_from_slice(user.as_str().as_bytes());
    bytes
}

/// A signal of which the cleaner's verdict is told, as it came.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Where it comes from.
    pub stream: Stream,
    /// Its text.
    pub text: String,
    /// Its category, if it has one.
    pub category: Option<String>,
}

/// How a request uses the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Reads, joins, stores.
    Default,
    /// None of it.
    Bypass,
    /// Only stores.
    Refresh,
}

/// What a request gets that leaves it out, and no arm sets it.
const CANDIDATES_DEFAULT: usize = 8;
const SERVING: SamplerSettings = SamplerSettings::SERVING;

/// What a request says of its options, checked; what it leaves out is for its arms, then for the defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// N.
    pub n_candidates: Option<usize>,
    /// Most queries of the chosen list.
    pub n_queries_max: Option<usize>,
    /// Most tokens of one candidate.
    pub max_output_tokens: usize,
    /// Temperature of sampling.
    pub temperature: Option<f32>,
    /// Nucleus of sampling.
    pub top_p: Option<f32>,
    /// Tokens to sample from; 0 for all.
    pub top_k: usize,
    /// Least share of the most likely token's probability.
    pub min_p: f32,
    /// Where every row's random stream comes from.
    pub seed: Option<u64>,
    /// How the best list is found.
    pub method: Option<Method>,
    /// Whether weak candidates are ended early.
    pub early_stopping: Option<EarlyStopping>,
    /// Whether all candidates are written.
    pub draw: Option<Draw>,
    /// How far an answer may fall short.
    pub lowest_rung: Option<Rung>,
}

impl Wanted {
    /// The fields of a policy that the request sets itself, and no arm changes.
    pub fn explicit(&self) -> BTreeSet<Field> {
        let set = [
            (Field::CandidateCount, self.n_candidates.is_some()),
            (Field::QueryCount, self.n_queries_max.is_some()),
            (Field::Temperature, self.temperature.is_some()),
            (Field::TopP, self.top_p.is_some()),
            (Field::Rerank, self.method.is_some()),
            (Field::EarlyStopping, self.early_stopping.is_some()),
            (Field::Draw, self.draw.is_some()),
            (Field::LowestRung, self.lowest_rung.is_some()),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect()
    }

    /// What the request gets: its own word, else its arms', else the default, which for the choice of the best list is `auto`.
    pub fn with(self, policy: &Policy, auto: Method) -> Options {
        let method = policy.rerank.map(|rerank| match rerank {
            Rerank::RewardHead => Method::RewardHead,
            Rerank::Consensus => Method::Consensus,
            Rerank::LogProb => Method::LogProb,
            Rerank::None => Method::None,
            Rerank::Stitch => Method::Stitch,
        });
        Options {
            n_candidates: self.n_candidates.or(policy.candidate_count).unwrap_or(CANDIDATES_DEFAULT),
            n_queries_max: self.n_queries_max.or(policy.query_count),
            max_output_tokens: self.max_output_tokens,
            sampler: SamplerSettings {
                temperature: self.temperature.or(policy.temperature).unwrap_or(SERVING.temperature),
                top_p: self.top_p.or(policy.top_p).unwrap_or(SERVING.top_p),
                top_k: self.top_k,
                min_p: self.min_p,
                ..SERVING
            },
            seed: self.seed,
            method: self.method.or(method).unwrap_or(auto),
            early_stopping: self.early_stopping.or(policy.early_stopping).unwrap_or(EarlyStopping::Off),
            draw: self.draw.or(policy.draw).unwrap_or(Draw::All),
        }
    }
}

/// What one request may ask of the model, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// N, at least 1.
    pub n_candidates: usize,
    /// Most queries of the chosen list.
    pub n_queries_max: Option<usize>,
    /// Most tokens of one candidate.
    pub max_output_tokens: usize,
    /// How tokens are drawn.
    pub sampler: SamplerSettings,
    /// Where every row's random stream comes from; none asks for a fresh one.
    pub seed: Option<u64>,
    /// How the best list is found.
    pub method: Method,
    /// Whether weak candidates are ended early.
    pub early_stopping: EarlyStopping,
    /// Whether all candidates are written.
    pub draw: Draw,
}

impl Options {
    /// What is asked of the model on a rung; none where it is no less work.
    pub fn at(&self, rung: Rung) -> Option<Self> {
        let less = match rung {
            Rung::Full | Rung::Stale | Rung::Cohort => return None,
            Rung::Fewer => Self { n_candidates: self.n_candidates.div_ceil(2), ..*self },
            Rung::Greedy => {
                let sampler =
                    SamplerSettings { temperature: SamplerSettings::GREEDY.temperature, ..self.sampler };
                Self { n_candidates: 1, sampler, ..*self }
            }
        };
        (less.n_candidates < self.n_candidates).then_some(less)
    }

    /// Bytes that are equal exactly when the options are.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let mut put = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
        put(self.n_candidates as u64);
        put(self.n_queries_max.map_or(u64::MAX, |n| n as u64));
        put(self.max_output_tokens as u64);
        let SamplerSettings { temperature, top_k, top_p, min_p, repetition_penalty, constrained } =
            self.sampler;
        put(top_k as u64);
        put(u64::from(constrained));
        for float in [temperature, top_p, min_p, repetition_penalty] {
            // Adding zero turns -0 into 0.
            put(u64::from((float + 0.0).to_bits()));
        }
        put(u64::from(self.seed.is_some()));
        put(self.seed.unwrap_or(0));
        put(match self.method {
            Method::RewardHead => 1,
            Method::LogProb => 2,
            Method::None => 3,
            Method::Consensus => 4,
            Method::Stitch => 5,
        });
        put(match self.early_stopping {
            EarlyStopping::Off => 1,
            EarlyStopping::Safe => 2,
            EarlyStopping::Aggressive => 3,
        });
        put(match self.draw {
            Draw::All => 1,
            Draw::AsNeeded => 2,
        });
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let sampler = SamplerSettings {
            temperature: 0.8,
            top_k: 0,
            top_p: 0.9,
            min_p: 0.0,
            repetition_penalty: 1.0,
            constrained: true,
        };
        let (n_queries_max, seed, method) = (None, None, Method::LogProb);
        let early_stopping = EarlyStopping::Off;
        Options {
            n_candidates: 8,
            n_queries_max,
            max_output_tokens: 64,
            sampler,
            seed,
            method,
            early_stopping,
            draw: Draw::All,
        }
    }

    #[test]
    fn every_option_counts_in_the_canonical_bytes() {
        let same = options();
        let sampler = same.sampler;
        let others = [
            Options { n_candidates: 7, ..same },
            Options { n_queries_max: Some(3), ..same },
            Options { max_output_tokens: 65, ..same },
            Options { seed: Some(0), ..same },
            Options { method: Method::None, ..same },
            Options { early_stopping: EarlyStopping::Safe, ..same },
            Options { early_stopping: EarlyStopping::Aggressive, ..same },
            Options { draw: Draw::AsNeeded, ..same },
            Options { sampler: SamplerSettings { temperature: 0.9, ..sampler }, ..same },
            Options { sampler: SamplerSettings { top_k: 1, ..sampler }, ..same },
            Options { sampler: SamplerSettings { top_p: 0.8, ..sampler }, ..same },
            Options { sampler: SamplerSettings { min_p: 0.1, ..sampler }, ..same },
            Options { sampler: SamplerSettings { constrained: false, ..sampler }, ..same },
        ];
        let bytes: std::collections::HashSet<_> = others.iter().map(Options::canonical).collect();
        assert_eq!(bytes.len(), others.len(), "two of the others share their bytes");
        assert!(!bytes.contains(&same.canonical()));
    }

    const NOTHING: Wanted = Wanted {
        n_candidates: None,
        n_queries_max: None,
        max_output_tokens: 64,
        temperature: None,
        top_p: None,
        top_k: 0,
        min_p: 0.0,
        seed: None,
        method: None,
        early_stopping: None,
        draw: None,
        lowest_rung: None,
    };

    fn policy() -> Policy {
        Policy {
            bundle: None,
            candidate_count: Some(16),
            query_count: Some(5),
            temperature: Some(0.5),
            top_p: Some(0.7),
            rerank: Some(Rerank::None),
            cache_ttl: None,
            cache_stale: None,
            early_stopping: Some(EarlyStopping::Aggressive),
            draw: Some(Draw::AsNeeded),
            lowest_rung: Some(Rung::Fewer),
        }
    }

    #[test]
    fn arms_set_what_a_request_leaves_out() {
        let options = NOTHING.with(&policy(), Method::Consensus);
        assert_eq!((options.n_candidates, options.n_queries_max), (16, Some(5)));
        assert_eq!((options.sampler.temperature, options.sampler.top_p), (0.5, 0.7));
        assert_eq!((options.method, options.early_stopping), (Method::None, EarlyStopping::Aggressive));
        assert_eq!(options.draw, Draw::AsNeeded);
        assert!(NOTHING.explicit().is_empty());
        let defaults = NOTHING.with(&Policy::default(), Method::Consensus);
        assert_eq!((defaults.n_candidates, defaults.n_queries_max), (CANDIDATES_DEFAULT, None));
        assert_eq!((defaults.sampler, defaults.method), (SERVING, Method::Consensus));
    }

    #[test]
    fn what_a_request_sets_no_arm_changes() {
        let wanted = Wanted {
            n_candidates: Some(1),
            n_queries_max: Some(3),
            temperature: Some(0.0),
            top_p: Some(1.0),
            method: Some(Method::LogProb),
            early_stopping: Some(EarlyStopping::Off),
            draw: Some(Draw::All),
            lowest_rung: Some(Rung::Full),
            ..NOTHING
        };
        assert_eq!(
            wanted.with(&policy(), Method::Consensus),
            wanted.with(&Policy::default(), Method::Consensus)
        );
        assert_eq!(wanted.explicit(), policy().fields().collect());
    }

    #[test]
    fn rungs_ask_for_less_until_nothing_is_left_to_leave_out() {
        let rows = |n_candidates, rung| {
            let less = Options { n_candidates, ..options() }.at(rung)?;
            Some((less.n_candidates, less.sampler.temperature))
        };
        for (n_candidates, fewer) in
            [(8, Some((4, 0.8))), (3, Some((2, 0.8))), (2, Some((1, 0.8))), (1, None)]
        {
            assert_eq!(rows(n_candidates, Rung::Fewer), fewer, "{n_candidates}");
            let greedy = (n_candidates > 1).then_some((1, 0.0));
            assert_eq!(rows(n_candidates, Rung::Greedy), greedy, "{n_candidates}");
            assert_eq!((rows(n_candidates, Rung::Full), rows(n_candidates, Rung::Stale)), (None, None));
        }
    }

    #[test]
    fn minus_zero_is_zero() {
        let zero = |temperature| Options {
            sampler: SamplerSettings { temperature, ..options().sampler },
            ..options()
        };
        assert_eq!(zero(0.0).canonical(), zero(-0.0).canonical());
    }
}
