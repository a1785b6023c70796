//! Memory of the host for what a network says, kept from step to step, so that large outputs need no fresh memory each time.
#[cfg(feature = "cuda")]
use super::cuda::{outline::Laid, staging::Staging};

/// Room for outputs.
#[derive(Debug, Default)]
pub struct Room {
    pub(super) numbers: Vec<f32>,
    #[cfg(feature = "cuda")]
    pub(super) staging: Staging,
    #[cfg(feature = "cuda")]
    pub(super) classes: Option<Laid>,
}

impl Room {
    /// Room for so many numbers, which hold what was there before.
    pub(super) fn numbers(&mut self, n_numbers: usize) -> &mut [f32] {
        self.numbers.resize(self.numbers.len().max(n_numbers), 0.0);
        &mut self.numbers[..n_numbers]
    }
}
