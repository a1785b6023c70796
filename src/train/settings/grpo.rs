//! Options of the teacher's algorithm. As they stand in [`GrpoSettings::plain`] it is Dr.GRPO as it was published.
use crate::train::error::TrainError;
use serde::{Deserialize, Serialize};

/// Most times that groups of one step are drawn anew: each costs as much as the sampling of the step itself.
const REFILLS_MAX: usize = 8;
/// Most updates of one rollout: what was sampled is by then what another policy would say.
const UPDATES_MAX: u64 = 16;
/// Widths of the clip: clip-higher, arXiv 2503.14476.
const CLIP_LOW: f64 = 0.2;
const CLIP_HIGH: f64 = 0.28;

/// What may be other than in plain Dr.GRPO.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "GrpoSettings::plain")]
pub struct GrpoSettings {
    /// How the rewards of a list become what it is worth beside the others of its group. `sum`: no other way has been shown to
    /// find more.
    pub advantage: Advantage,
    /// Lists of which the best one counts: a list is worth what it adds to the best of so many. 1: itself. More keep the lists of a reader apart,
    /// and pay where several are sampled and the best is served. With all lists of a prompt only the best of them is taught anything, and not what
    /// makes a text a list: fewer are better.
    pub best_of: usize,
    /// How much of a query's own advantage its tokens get on top of the list's, from 0. 0: a list is worth one number.
    pub query_credit: f64,
    /// How often, in one step, groups whose lists are all worth the same are replaced by those of other readers. 0: they stay,
    /// teach nothing and count in the divisor.
    pub refills: usize,
    /// Largest importance weight of a token that another engine sampled; it becomes the limit above it. 0: none, since lists are
    /// sampled by the network that learns. 2 is usual where they are not.
    pub importance_max: f64,
    /// Updates that learn from the same lists, so that sampling is paid once for all of them. 1: every step samples anew, and no ratio leaves 1.
    #[serde(skip_serializing_if = "is_once")]
    pub updates_per_rollout: u64,
    /// How far below 1 the ratio of a token's probability to that of its sampling may fall before it teaches nothing more. 0.2: usual.
    #[serde(skip_serializing_if = "is_clip_low")]
    pub clip_low: f64,
    /// How far above 1. 0.28: more than below, so that a rare token can become likely.
    #[serde(skip_serializing_if = "is_clip_high")]
    pub clip_high: f64,
    /// How much the mean entropy of a token, nats, counts beside the rewards. 0: not at all.
    #[serde(skip_serializing_if = "is_zero")]
    pub entropy_coef: f64,
}

// What stands at its default is not written: settings from before these options read and look the same.
fn is_once(updates: &u64) -> bool {
    *updates == 1
}

fn is_clip_low(width: &f64) -> bool {
    *width == CLIP_LOW
}

fn is_clip_high(width: &f64) -> bool {
    *width == CLIP_HIGH
}

fn is_zero(coefficient: &f64) -> bool {
    *coefficient == 0.0
}

/// How rewards become advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// The weighted sum of the rewards, less its mean in the group.
    Sum,
    /// Each reward is centred and divided within its group first. Source: GDPO, arXiv 2601.05242.
    Decoupled,
    /// The mean of alignment and coverage where the other three rewards reach their floors, else 0; less its mean in the group.
    Gated,
}

impl GrpoSettings {
    /// Dr.GRPO.
    pub fn plain() -> Self {
        Self {
            advantage: Advantage::Sum,
            best_of: 1,
            query_credit: 0.0,
            refills: 0,
            importance_max: 0.0,
            updates_per_rollout: 1,
            clip_low: CLIP_LOW,
            clip_high: CLIP_HIGH,
            entropy_coef: 0.0,
        }
    }

    /// Looks for numbers that mean nothing where `n_lists` are sampled per prompt and a checkpoint is written every so many steps.
    /// # Errors
    /// If there is one.
    pub fn check(&self, n_lists: usize, checkpoint_every: u64) -> Result<(), TrainError> {
        self.check_updates(checkpoint_every)?;
        let wrong = |reason: String| Err(TrainError::Settings { reason });
        if !(1..=n_lists).contains(&self.best_of) {
            return wrong(format!(
                "grpo.best_of is {}, expected 1 to {n_lists}, the lists of a prompt",
                self.best_of
            ));
        }
        if self.best_of > 1 && self.advantage == Advantage::Decoupled {
            let reason = "grpo.advantage is decoupled, and grpo.best_of needs one worth of a list: set it to 1, or the advantage to sum or gated";
            return wrong(reason.to_owned());
        }
        let (credit, importance) = (self.query_credit, self.importance_max);
        if !(credit.is_finite() && credit >= 0.0) {
            return wrong(format!("grpo.query_credit is {credit}, expected 0 or more"));
        }
        // Below 1 the weight of a token that both engines find equally likely would be cut.
        if !(importance == 0.0 || importance.is_finite() && importance >= 1.0) {
            return wrong(format!("grpo.importance_max is {importance}, expected 0 or at least 1"));
        }
        if self.refills > REFILLS_MAX {
            return wrong(format!("grpo.refills is {}, expected at most {REFILLS_MAX}", self.refills));
        }
        Ok(())
    }

    fn check_updates(&self, checkpoint_every: u64) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Settings { reason });
        let Self { updates_per_rollout, clip_low, clip_high, entropy_coef, .. } = *self;
        if !(1..=UPDATES_MAX).contains(&updates_per_rollout) {
            return wrong(format!(
                "grpo.updates_per_rollout is {updates_per_rollout}, expected 1 to {UPDATES_MAX}"
            ));
        }
        // A checkpoint holds no lists: a run goes on where the next ones are sampled.
        if !checkpoint_every.max(1).is_multiple_of(updates_per_rollout) {
            return wrong(format!(
                "fit.checkpoint_every is {checkpoint_every}, expected a multiple of grpo.updates_per_rollout, {updates_per_rollout}"
            ));
        }
        if !(clip_low > 0.0 && clip_low < 1.0) {
            return wrong(format!("grpo.clip_low is {clip_low}, expected above 0 and below 1"));
        }
        if !(clip_high > 0.0 && clip_high.is_finite()) {
            return wrong(format!("grpo.clip_high is {clip_high}, expected above 0"));
        }
        if !(entropy_coef.is_finite() && entropy_coef >= 0.0) {
            return wrong(format!("grpo.entropy_coef is {entropy_coef}, expected 0 or more"));
        }
        Ok(())
    }
}
