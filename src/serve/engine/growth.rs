//! Whether lists are watched while they are written.
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all who wait for the same: rows are shown as they grow where any of them looks.
#[derive(Debug)]
pub struct Growth(AtomicBool);

impl Growth {
    /// That of one who waits, and looks or not.
    pub fn new(looks: bool) -> Self {
        Self(AtomicBool::new(looks))
    }

    /// One more waits; one who does not look changes nothing.
    pub fn join(&self, looks: bool) {
        self.0.fetch_or(looks, Ordering::Relaxed);
    }

    /// Whether anybody looks.
    pub fn is_watched(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_looks_is_enough() {
        let growth = Growth::new(false);
        for (looks, expected) in [(false, false), (true, true), (false, true)] {
            growth.join(looks);
            assert_eq!(growth.is_watched(), expected);
        }
    }
}
