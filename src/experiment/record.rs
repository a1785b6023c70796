//! A line of the log: who was answered under which arms, and what came of it. One JSON object a line.
//!
//! Nothing here says what a reader did, asked or was told: of her there is a digest, of her lists the id of the response.
use super::{assign::Assignment, policy::Field};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Record {
    /// A reader was answered while she had arms.
    #[serde(rename = "exposure.v1")]
    Exposure(Exposure),
    /// A platform reported what came of an answer.
    #[serde(rename = "outcomes.v1")]
    Outcomes(Outcomes),
}

/// An answer under arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// When, in milliseconds since 1970 (UTC).
    pub time_unix_ms: u64,
    /// Id of the response.
    pub response_id: String,
    /// Salted digest of the reader's key and tenant.
    pub reader: String,
    /// Digest of the experiments file.
    pub config: String,
    /// Digest of the bundle that wrote the answer; empty in lines of versions that did not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bundle: String,
    /// Where the answer came from: `hit`, `stale`, `miss`, `coalesced`, `bypass` or `cohort`.
    pub served: String,
    /// How far it fell short of what was asked: `fewer`, `greedy`, `stale` or `cohort`; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// What the reader's request cost; absent where the server had no price, or was of a version that told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostRecord>,
    /// One per experiment that the reader takes part in.
    pub arms: Vec<ArmRecord>,
}

/// The cost of an answer: nothing for one that another request has paid for, as most that were stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostRecord {
    /// Billionths of the currency's unit.
    pub nanos: u64,
    /// Code of ISO 4217.
    pub currency: String,
    /// What the operator calls the price.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub price_version: String,
}

/// One arm of an exposure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmRecord {
    /// Id of the experiment.
    pub experiment: String,
    /// Phase of the experiment.
    pub phase: String,
    /// Id of the arm.
    pub arm: String,
    /// Why this one: `hash`, `rule`, `default` or `forced`.
    pub by: String,
    /// How readers are hashed.
    pub hash_version: u32,
    /// Weights of the draw, by arm; empty unless it was by hash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub split: BTreeMap<String, u32>,
    /// What the experiment would have set and the request set itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overridden: Vec<String>,
    /// Name of the bundle that the arm sets, where it was not resident and the default one answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_bundle: Option<String>,
}

impl ArmRecord {
    /// What is kept of an assignment. `explicit`: what the request set itself.
    pub fn new(assignment: &Assignment, explicit: &BTreeSet<Field>) -> Self {
        let experiment = &assignment.experiment;
        let shares = assignment.split.iter().flat_map(|split| split.iter());
        Self {
            experiment: experiment.id.clone(),
            phase: experiment.spread.phase.clone(),
            arm: assignment.arm().id.clone(),
            by: assignment.by.word().to_owned(),
            hash_version: experiment.spread.version.number(),
            split: shares.map(|&(arm_idx, weight)| (experiment.arms[arm_idx].id.clone(), weight)).collect(),
            overridden: experiment.overridden(explicit).map(|field| field.word().to_owned()).collect(),
            absent_bundle: None,
        }
    }
}

/// What came of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// When it was reported, in milliseconds since 1970 (UTC).
    pub time_unix_ms: u64,
    /// Id of the response.
    pub response_id: String,
    /// Id of the report: one that comes twice counts once.
    pub request_id: String,
    /// What happened.
    pub events: Vec<Event>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub what: EventKind,
    /// Rank of the query that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<u32>,
    /// How much: seconds of a dwell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// When, in milliseconds since 1970 (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_unix_ms: Option<u64>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A query found an article.
    Retrieved,
    /// An article that a query found was shown.
    Shown,
    /// It was opened.
    Clicked,
    /// It was read for a while.
    Dwell,
    /// The reader does not want to see it.
    Dismissed,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Retrieved, Self::Shown, Self::Clicked, Self::Dwell, Self::Dismissed];

    /// Its word in records and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Retrieved => "retrieved",
            Self::Shown => "shown",
            Self::Clicked => "clicked",
            Self::Dwell => "dwell",
            Self::Dismissed => "dismissed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let arm = ArmRecord {
            experiment: "best-of".to_owned(),
            phase: "1".to_owned(),
            arm: "sixteen".to_owned(),
            by: "hash".to_owned(),
            hash_version: 2,
            split: BTreeMap::from([("eight".to_owned(), 50), ("sixteen".to_owned(), 50)]),
            overridden: Vec::new(),
            absent_bundle: Some("student-2".to_owned()),
        };
        let exposure = Record::Exposure(Exposure {
            time_unix_ms: 1,
            response_id: "00-1".to_owned(),
            reader: "ab".to_owned(),
            config: "cd".to_owned(),
            bundle: "ef".to_owned(),
            served: "hit".to_owned(),
            degraded: Some("fewer".to_owned()),
            cost: Some(CostRecord { nanos: 7, currency: "EUR".to_owned(), price_version: String::new() }),
            arms: vec![arm],
        });
        let events = EventKind::ALL.map(|what| {
            let line = serde_json::to_string(&what).unwrap();
            assert_eq!(line, format!("\"{}\"", what.word()));
            Event { what, query_rank: Some(1), value: None, time_unix_ms: None }
        });
        let outcomes = Record::Outcomes(Outcomes {
            time_unix_ms: 2,
            response_id: "00-1".to_owned(),
            request_id: "r1".to_owned(),
            events: events.to_vec(),
        });
        for record in [exposure, outcomes] {
            let line = serde_json::to_string(&record).unwrap();
            assert!(!line.contains('\n') && !line.contains("null"), "{line}");
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        }
    }
}
