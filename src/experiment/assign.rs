//! Which arm a reader gets in each experiment, and why: a pure function of the file, the reader and what the request asks for.
use super::{
    flags::{Arm, Experiment, Experiments},
    policy::Policy,
    targeting::{Split, Subject, Verdict},
};
use std::sync::Arc;
use thiserror::Error;

/// Why a reader has an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// By her key: these readers can be compared.
    Hash,
    /// A rule names the arm, or draws it by something that readers share.
    Rule,
    /// No rule speaks of her.
    Default,
    /// The request asked for it.
    Forced,
}

impl By {
    /// Its word in metrics, logs and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Rule => "rule",
            Self::Default => "default",
            Self::Forced => "forced",
        }
    }
}

/// One reader's arm in one experiment.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The experiment.
    pub experiment: Arc<Experiment>,
    /// Position of the arm.
    pub arm_idx: usize,
    /// Why this one.
    pub by: By,
    /// The weights of the draw that gave it; none unless it was by hash.
    pub split: Option<Split>,
}

impl Assignment {
    /// The arm.
    pub fn arm(&self) -> &Arm {
        &self.experiment.arms[self.arm_idx]
    }

    /// The arms of the draw that gave it, each with its chance; none unless it was by hash.
    pub fn chances(&self) -> impl Iterator<Item = (&Arm, f64)> {
        let split = self.split.as_deref().unwrap_or_default();
        let total: f64 = split.iter().map(|&(_, weight)| f64::from(weight)).sum();
        split
            .iter()
            .map(move |&(arm_idx, weight)| (&self.experiment.arms[arm_idx], f64::from(weight) / total))
    }
}

/// What becomes of a reader in one experiment.
#[derive(Clone, Debug)]
pub enum Decision {
    /// She has an arm.
    Assigned(Assignment),
    /// The experiment is off.
    Disabled(Arc<Experiment>),
    /// No rule speaks of her, and there is no default.
    NotTargeted(Arc<Experiment>),
}

/// An arm that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced<'a> {
    /// Id of the experiment.
    pub experiment: &'a str,
    /// Id of the arm.
    pub arm: &'a str,
}

/// Why a request cannot have the arm it asks for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ForceError {
    /// There is none of that name.
    #[error("there is no such experiment or arm")]
    Unknown,
    /// The file does not allow it.
    #[error("experiment {experiment} lets nobody choose an arm")]
    NotAllowed {
        /// Id of the experiment.
        experiment: String,
    },
}

/// Decides every experiment for one reader. An arm that is asked for wins over targeting, where the file allows it, and never over
/// the kill switch.
///
/// # Errors
/// If an arm is asked for that does not exist or may not be chosen.
pub fn decide(
    experiments: &Experiments,
    subject: &Subject<'_>,
    forced: &[Forced<'_>],
) -> Result<Vec<Decision>, ForceError> {
    let known = |id: &str| experiments.experiments.iter().any(|experiment| experiment.id == id);
    if !forced.iter().all(|forced| known(forced.experiment)) {
        return Err(ForceError::Unknown);
    }
    let decided = experiments.experiments.iter().map(|experiment| {
        let forced = forced.iter().find(|forced| forced.experiment == experiment.id);
        match forced {
            Some(forced) => force(experiment, forced.arm),
            None => Ok(draw(experiment, subject)),
        }
    });
    decided.collect()
}

/// The assignments among decisions.
pub fn assigned(decisions: Vec<Decision>) -> Vec<Assignment> {
    let assigned = decisions.into_iter().filter_map(|decision| match decision {
        Decision::Assigned(assignment) => Some(assignment),
        Decision::Disabled(_) | Decision::NotTargeted(_) => None,
    });
    assigned.collect()
}

/// What all arms of a reader set together.
pub fn policy(assignments: &[Assignment]) -> Policy {
    assignments
        .iter()
        .fold(Policy::default(), |policy, assignment| policy.and(assignment.arm().policy.clone()))
}

fn force(experiment: &Arc<Experiment>, arm: &str) -> Result<Decision, ForceError> {
    let arm_idx = experiment.arms.iter().position(|known| known.id == arm).ok_or(ForceError::Unknown)?;
    if !experiment.enabled {
        return Ok(Decision::Disabled(Arc::clone(experiment)));
    }
    if !experiment.allows_forced_arm {
        return Err(ForceError::NotAllowed { experiment: experiment.id.clone() });
    }
    let (experiment, by, split) = (Arc::clone(experiment), By::Forced, None);
    Ok(Decision::Assigned(Assignment { experiment, arm_idx, by, split }))
}

fn draw(experiment: &Arc<Experiment>, subject: &Subject<'_>) -> Decision {
    if !experiment.enabled {
        return Decision::Disabled(Arc::clone(experiment));
    }
    let names: Vec<&str> = experiment.arms.iter().map(|arm| arm.id.as_str()).collect();
    let (arm_idx, by, split) = match experiment.targeting.verdict(subject, &experiment.spread, &names) {
        Verdict::Spread(arm_idx, split) => (Some(arm_idx), By::Hash, Some(split)),
        Verdict::Arm(arm_idx) => (Some(arm_idx), By::Rule, None),
        Verdict::Absent => (experiment.default_arm, By::Default, None),
    };
    let experiment = Arc::clone(experiment);
    match arm_idx {
        Some(arm_idx) => Decision::Assigned(Assignment { experiment, arm_idx, by, split }),
        None => Decision::NotTargeted(experiment),
    }
}
