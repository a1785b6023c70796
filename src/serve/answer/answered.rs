//! An answer, where it came from, and what it costs the request.
use super::Degradation;
use crate::serve::{candidate::Answer, cost::Saving};
use std::{sync::Arc, time::Duration};

/// A request's answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Arc<Answer>,
    /// Where it came from.
    pub origin: Origin,
    /// What the request pays, in billionths of the currency's unit: all that the answer cost, if nobody was answered with it before.
    pub paid_nanos: u64,
    /// How far it falls short of what was asked, if it does.
    pub degradation: Option<Degradation>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was stored that long.
    Hit(Duration),
    /// It was stored that long, which is too long, and a newer one is being generated.
    Stale(Duration),
    /// It was generated for this request.
    Miss,
    /// Another request had started to generate it.
    Coalesced,
    /// It was generated, and the cache was left alone.
    Bypass,
    /// It is the list of the reader's locale.
    Cohort,
}

impl Origin {
    /// Its word in metrics and records, and the age of a stored answer.
    pub fn status(self) -> (&'static str, Option<Duration>) {
        match self {
            Self::Hit(age) => ("hit", Some(age)),
            Self::Stale(age) => ("stale", Some(age)),
            Self::Miss => ("miss", None),
            Self::Coalesced => ("coalesced", None),
            Self::Bypass => ("bypass", None),
            Self::Cohort => ("cohort", None),
        }
    }

    /// Why a request pays nothing for an answer that another one has paid for.
    pub fn saving(self) -> Saving {
        match self {
            Self::Hit(_) | Self::Stale(_) | Self::Cohort => Saving::Cache,
            Self::Miss | Self::Coalesced | Self::Bypass => Saving::Coalesce,
        }
    }
}
