//! One checked request, in our own words.
use crate::{
    decode::sampler::SamplerSettings,
    serve::rerank::Method,
    signals::{UserKey, UserSignals},
};
use std::time::Instant;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// For whom.
    pub user: UserKey,
    /// What is known of them.
    pub signals: UserSignals,
    /// How to sample and choose.
    pub options: Options,
    /// How to use the cache.
    pub cache: CacheMode,
    /// Until when an answer is of use.
    pub deadline: Option<Instant>,
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
}

impl Options {
    /// Bytes that are equal exactly when the options are.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let mut put = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
        put(self.n_candidates as u64);
        put(self.n_queries_max.map_or(u64::MAX, |n| n as u64));
        put(self.max_output_tokens as u64);
        let SamplerSettings { temperature, top_k, top_p, min_p, repetition_penalty, distinct_queries } =
            self.sampler;
        put(top_k as u64);
        put(u64::from(distinct_queries));
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
            distinct_queries: true,
        };
        let (n_queries_max, seed, method) = (None, None, Method::LogProb);
        Options { n_candidates: 8, n_queries_max, max_output_tokens: 64, sampler, seed, method }
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
            Options { sampler: SamplerSettings { temperature: 0.9, ..sampler }, ..same },
            Options { sampler: SamplerSettings { top_k: 1, ..sampler }, ..same },
            Options { sampler: SamplerSettings { top_p: 0.8, ..sampler }, ..same },
            Options { sampler: SamplerSettings { min_p: 0.1, ..sampler }, ..same },
            Options { sampler: SamplerSettings { distinct_queries: false, ..sampler }, ..same },
        ];
        let bytes: std::collections::HashSet<_> = others.iter().map(Options::canonical).collect();
        assert_eq!(bytes.len(), others.len(), "two of the others share their bytes");
        assert!(!bytes.contains(&same.canonical()));
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
