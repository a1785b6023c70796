//! Learning rate over steps: linear warm-up, then half a cosine down to a floor.

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate, reached at the end of the warm-up.
    pub peak: f64,
    /// The last step's rate as a share of the highest.
    pub final_ratio: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// All steps, warm-up included.
    pub n_steps: u64,
}

impl Schedule {
    /// Returns the rate of a step, counted from 0; steps beyond the last keep the last rate.
    ///
    /// Source: SGDR without restarts, arXiv 1608.03983, with a linear warm-up before it.
    #[allow(clippy::cast_precision_loss, reason = "step counts stay far below 2^52")]
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let floor = self.peak * self.final_ratio;
        let decay_steps = self.n_steps.saturating_sub(self.warmup_steps + 1);
        if decay_steps == 0 {
            return self.peak;
        }
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        floor + (self.peak - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}
