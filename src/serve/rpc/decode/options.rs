//! What a request says of its options.
use super::{Checks, proto};
use crate::{
    experiment::policy::{Draw, EarlyStopping, Rung},
    queries::{QUERIES_MAX, QUERIES_MIN},
    serve::{question::Wanted, rerank::Method, settings::CANDIDATES_MAX},
};
use std::ops::RangeInclusive;

/// Limits that the proto promises.
pub const TEMPERATURE_MAX: f32 = 2.0;
const TOP_K_MAX: u32 = 1000;

impl Checks {
    pub(super) fn options(&mut self, options: &proto::GenerationOptions, output_tokens_max: usize) -> Wanted {
        let n_candidates = options
            .candidate_count
            .map(|count| self.whole("options.candidate_count", count, 1..=CANDIDATES_MAX));
        let n_queries_max = options
            .query_count
            .map(|count| self.whole("options.query_count", count, QUERIES_MIN..=QUERIES_MAX));
        let max_output_tokens = options.max_output_tokens.map_or(output_tokens_max, |tokens| {
            self.whole("options.max_output_tokens", tokens, 1..=output_tokens_max)
        });
        let top_k = self.whole("options.top_k", options.top_k.unwrap_or(0), 0..=TOP_K_MAX as usize);
        let temperature = options.temperature;
        let temperature =
            temperature.map(|value| self.number("options.temperature", value, 0.0..=TEMPERATURE_MAX));
        let min_p = self.number("options.min_p", options.min_p.unwrap_or(0.0), 0.0..=1.0);
        let top_p = options.top_p.map(|value| self.number("options.top_p", value, f32::MIN_POSITIVE..=1.0));
        let (seed, method) = (options.seed, self.method(options.rerank));
        let early_stopping = self.early_stopping(options.early_stopping);
        let draw = self.draw(options.draw);
        let lowest_rung = self.rung(options.lowest_rung);
        Wanted {
            n_candidates,
            n_queries_max,
            max_output_tokens,
            temperature,
            top_p,
            top_k,
            min_p,
            seed,
            method,
            early_stopping,
            draw,
            lowest_rung,
        }
    }

    fn method(&mut self, rerank: i32) -> Option<Method> {
        match proto::RerankMethod::try_from(rerank) {
            Ok(proto::RerankMethod::Unspecified | proto::RerankMethod::Auto) => None,
            Ok(proto::RerankMethod::Consensus) => Some(Method::Consensus),
            Ok(proto::RerankMethod::Logprob) => Some(Method::LogProb),
            Ok(proto::RerankMethod::RewardHead) => Some(Method::RewardHead),
            Ok(proto::RerankMethod::None) => Some(Method::None),
            Ok(proto::RerankMethod::Stitch) => Some(Method::Stitch),
            Err(_) => {
                self.refuse("options.rerank", "must be a RerankMethod".to_owned());
                None
            }
        }
    }

    fn early_stopping(&mut self, mode: i32) -> Option<EarlyStopping> {
        match proto::EarlyStopping::try_from(mode) {
            Ok(proto::EarlyStopping::Unspecified) => None,
            Ok(proto::EarlyStopping::Off) => Some(EarlyStopping::Off),
            Ok(proto::EarlyStopping::Safe) => Some(EarlyStopping::Safe),
            Ok(proto::EarlyStopping::Aggressive) => Some(EarlyStopping::Aggressive),
            Err(_) => {
                self.refuse("options.early_stopping", "must be an EarlyStopping".to_owned());
                None
            }
        }
    }

    fn draw(&mut self, draw: i32) -> Option<Draw> {
        match proto::Draw::try_from(draw) {
            Ok(proto::Draw::Unspecified) => None,
            Ok(proto::Draw::All) => Some(Draw::All),
            Ok(proto::Draw::AsNeeded) => Some(Draw::AsNeeded),
            Err(_) => {
                self.refuse("options.draw", "must be a Draw".to_owned());
                None
            }
        }
    }

    fn rung(&mut self, rung: i32) -> Option<Rung> {
        match proto::Rung::try_from(rung) {
            Ok(proto::Rung::Unspecified) => None,
            Ok(proto::Rung::Full) => Some(Rung::Full),
            Ok(proto::Rung::Fewer) => Some(Rung::Fewer),
            Ok(proto::Rung::Greedy) => Some(Rung::Greedy),
            Ok(proto::Rung::Stale) => Some(Rung::Stale),
            Ok(proto::Rung::Cohort) => Some(Rung::Cohort),
            Err(_) => {
                self.refuse("options.lowest_rung", "must be a Rung".to_owned());
                None
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
