//! The arms of one request: who asks, what the arms set, and what the request set itself.
use crate::{
    experiment::{
        assign::{self, Assignment, Decision, ForceError, Forced},
        flags::{Arm, Experiments},
        policy::{Field, Policy},
        record::ArmRecord,
        targeting::Subject,
    },
    signals::UserKey,
};
use std::{collections::BTreeSet, fmt};

/// What experiments may know of a request beside the reader's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrant {
    /// Locale, if it is told.
    pub locale: Option<String>,
    /// Tier, if it is told.
    pub tier: Option<String>,
    /// Tenant, if it is told.
    pub tenant: Option<String>,
    /// Experiments and the arms that the request chooses, at most one of each experiment.
    pub forced: Vec<(String, String)>,
}

impl Entrant {
    /// What becomes of a reader in every experiment.
    ///
    /// # Errors
    /// If the request chooses an arm that it cannot have.
    pub fn decide(&self, user: &UserKey, experiments: &Experiments) -> Result<Vec<Decision>, ForceError> {
        let subject = Subject {
            key: user.as_str(),
            locale: self.locale.as_deref(),
            tier: self.tier.as_deref(),
            tenant: self.tenant.as_deref(),
        };
        let forced: Vec<_> = self.forced.iter().map(|(experiment, arm)| Forced { experiment, arm }).collect();
        assign::decide(experiments, &subject, &forced)
    }
}

/// What experiments do to one request.
#[derive(Clone, Debug, Default)]
pub struct Enrolment {
    /// Digest of the experiments file.
    pub config: String,
    /// One per experiment that the reader takes part in.
    pub assignments: Vec<Assignment>,
    /// What the request set itself, which no arm changes.
    pub explicit: BTreeSet<Field>,
    /// Whether the bundle that an arm sets was not resident, so that the default one answers.
    pub is_bundle_absent: bool,
}

impl Enrolment {
    /// What the arms set together.
    pub fn policy(&self) -> Policy {
        assign::policy(&self.assignments)
    }

    /// Experiments and arms, by their ids.
    pub fn arms(&self) -> impl Iterator<Item = (&str, &str)> {
        self.assignments.iter().map(|assignment| (&*assignment.experiment.id, &*assignment.arm().id))
    }

    /// Bytes that are equal exactly when the arms are: two arms share no stored answer and no generation, even where both set
    /// the same.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for assignment in &self.assignments {
            let experiment = &assignment.experiment;
            for part in [&experiment.id, &experiment.spread.phase, &assignment.arm().id] {
                bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
                bytes.extend_from_slice(part.as_bytes());
            }
            // Nobody gets an answer that is older than her arm allows, also when a new file has just said so.
            let policy = &assignment.arm().policy;
            for time in [policy.cache_ttl, policy.cache_stale] {
                let time_ms = time.map_or(u128::MAX, |time| time.as_millis());
                bytes.extend_from_slice(&time_ms.to_le_bytes());
            }
        }
        bytes
    }

    /// The bundle that an arm sets, where it was not resident.
    pub fn absent_bundle(&self, arm: &Arm) -> Option<String> {
        arm.policy.bundle.as_deref().filter(|_| self.is_bundle_absent).map(str::to_owned)
    }

    /// What is written down of the arms.
    pub fn records(&self) -> Vec<ArmRecord> {
        let record = |assignment: &Assignment| ArmRecord {
            absent_bundle: self.absent_bundle(assignment.arm()),
            ..ArmRecord::new(assignment, &self.explicit)
        };
        self.assignments.iter().map(record).collect()
    }
}

/// `experiment=arm` pairs with commas between, for log lines.
impl fmt::Display for Enrolment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, assignment) in self.assignments.iter().enumerate() {
            let comma = if idx > 0 { "," } else { "" };
            write!(out, "{comma}{}={}", assignment.experiment.id, assignment.arm().id)?;
        }
        Ok(())
    }
}
