//! One generation's bill: opened with its job, filled in by the model thread, settled once, by whoever knows what came of it.
use crate::serve::{
    cost::{Cost, Saving, Spending, Used},
    experiments::enrolment::Enrolment,
    metrics::Metrics,
    tenants::Charge,
};
use std::sync::Arc;

/// What a generation has used so far. One that is dropped was for nobody, and is counted as cancelled.
#[derive(Debug)]
pub struct Bill {
    metrics: Arc<Metrics>,
    enrolment: Arc<Enrolment>,
    /// What the tenant was charged before, corrected when the bill is gone.
    charge: Charge,
    /// What the model thread adds to.
    pub used: Used,
}

impl Bill {
    /// An empty bill of a generation under these arms.
    pub fn open(metrics: &Arc<Metrics>, enrolment: &Arc<Enrolment>, charge: Charge) -> Self {
        let (metrics, enrolment) = (Arc::clone(metrics), Arc::clone(enrolment));
        Self { metrics, enrolment, charge, used: Used::default() }
    }

    /// Counts everything that was used, and returns what it cost.
    pub fn settle(mut self, on: Spending) -> Cost {
        self.count(on)
    }

    /// Counts what was used and forgets it, so that nothing is counted twice.
    fn count(&mut self, on: Spending) -> Cost {
        let used = std::mem::take(&mut self.used);
        let device_time = used.total();
        if device_time.is_zero() {
            return Cost::default();
        }
        self.charge.used(used.tokens());
        let pruned = if on == Spending::Useful { used.pruned() } else { Default::default() };
        let nanos =
            self.metrics.spent(on, device_time - pruned) + self.metrics.spent(Spending::Pruned, pruned);
        if on == Spending::Useful {
            self.metrics.saved(Saving::Pruning, used.spared());
        }
        for assignment in &self.enrolment.assignments {
            self.metrics.arm_cost((&assignment.experiment.id, &assignment.arm().id), nanos);
        }
        Cost { device_time, nanos }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.count(Spending::Cancelled);
    }
}
